"""A report as one page of HTML, which an engineer attaches to a bug report, and as a fragment for notebooks.

The page is ASCII and holds all it needs; it may load nothing, and run no script but its own, whose hash it names.
Names and messages come from the port and may hold anything: every one goes through `_text`, and none into the script.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from npmobilevit.validation import texts
from npmobilevit.visual.standalone import escaped, filled_page

if TYPE_CHECKING:
    from npmobilevit.validation.report import Finding, Judgement, Report

MOST_CARDS = 60
MOST_LINES = 5  # of the fragment
DECADES_SHOWN = (-8, 8)  # at most; what is beyond lies on the border
MOST_LABELS = 6

SEVERITIES = {"fail": ("wrong", "Wrong"), "unusual": ("unusual", "Unusual"), "note": ("note", "Notes")}
SIGNS = {"right": "&#10003; right", "unusual": "&#9650; unusual", "wrong": "&#10005; wrong"}
COLOURS = {"pass": "#1a7f37", "screened": "#9a6700", "fail": "#cf222e"}  # each readable below white

# Shapes that stand at the end of a bar, around their own origin, so that no state is told by colour alone.
SHAPES = """\
<svg class="defs" aria-hidden="true"><defs>
<circle id="end-right" class="end" cx="0" cy="9" r="4"/>
<path id="end-unusual" class="end" d="M-5 14h10l-5-10z"/>
<path id="end-wrong" class="end" d="M-5 4l10 10m0-10l-10 10" stroke-width="3"/>
<path id="caught" class="caught" d="M0 3l5 6-5 6-5-6z"/>
$grid</defs></svg>"""

LEGEND = """\
<p class="legend">
<span>Bar: largest error in units of its tolerance, log scale.</span>
<span><svg aria-hidden="true"><line class="limit" x1="9" x2="9" y1="0" y2="18"/></svg>
the tolerance: beyond it a tap is wrong</span>
<span><svg aria-hidden="true"><line class="usual" x1="9" x2="9" y1="1" y2="17"/></svg> usual rounding</span>
<span><svg aria-hidden="true"><svg x="9"><use href="#caught"/></svg></svg>
an error of this size would have been caught in any element</span>
<span class="right"><svg aria-hidden="true"><svg x="9"><use href="#end-right"/></svg></svg> right</span>
<span class="unusual"><svg aria-hidden="true"><svg x="9"><use href="#end-unusual"/></svg></svg> unusual</span>
<span class="wrong"><svg aria-hidden="true"><svg x="9"><use href="#end-wrong"/></svg></svg> wrong</span>
</p>"""

# Of the table: a class and a heading, left and right of the bars.
COLUMNS = (("tap", "tap"), ("state", "state"), ("test", "test"))
NUMBERS = (("n", "error / tolerance"), ("n", "error / rms"), ("n", "caught / rms"))

TOOLS = """\
<div class="tools" id="tools" hidden>
<label>Order <select id="order"><option value="forward">forward</option>\
<option value="worst">worst first</option></select></label>
<label>Names with <input id="filter" type="search" placeholder="attention"></label>
<output class="soft" id="shown"></output>
</div>"""


def to_html(report: Report) -> str:
    """Page of a report, see `npmobilevit.validation.Report.to_html`."""
    name = report.model.get("name") or report.model.get("class") or "a model"
    return filled_page(
        Path(__file__),
        title=f"{report.verdict.upper()}: a port of {_text(str(name))}",
        verdict=report.verdict,
        word=report.verdict.upper(),
        reason=_long(texts.reason(report)),
        facts="".join(f"<dt>{word}</dt><dd>{_long(text)}</dd>" for word, text in texts.facts(report)),
        sections="\n".join(_sections(report)),
    )


def fragment(report: Report) -> str:
    """The verdict and the first failures, with styles inline and no script.

    Text has the colour of the page around it, as in `npmobilevit.visual.notebook`.
    """
    colour = COLOURS[report.verdict]
    first = "".join(
        f"<li><code>{_text(finding.tap)}</code>: {_long('; '.join([finding.message, *texts.causes_of(finding)]))}</li>"
        for finding in report.failures[:MOST_LINES]
    )
    rest = len(report.failures) - MOST_LINES
    more = f"<p>and {rest} more</p>" if rest > 0 else ""
    reason = _long(texts.reason(report))
    return (
        f'<div style="border-left:5px solid {colour};padding-left:0.8em">'
        f'<p><b style="background:{colour};color:#fff;padding:0.1em 0.5em">{report.verdict.upper()}</b> {reason}</p>'
        f"<p>{'; '.join(f'{word}: {_long(text)}' for word, text in texts.facts(report))}</p>"
        f"{f'<ul>{first}</ul>' if first else ''}{more}</div>"
    )


# parts


def _text(text: str, most: int = texts.NAME_LENGTH) -> str:
    """One line that is text wherever it stands in HTML, in ASCII."""
    return escaped(texts.printable(text, most))


def _long(text: str) -> str:
    return _text(text, texts.MESSAGE_LENGTH)


def _sections(report: Report) -> Iterable[str]:
    rows = {judgement.tap: i for i, judgement in enumerate(report.judgements)}
    causes = texts.causes(report)
    if causes:
        yield f"<section><h2>Causes ({len(causes)})</h2>{''.join(map(_cause, causes))}</section>"
    for severity, (state, title) in SEVERITIES.items():
        findings = [finding for finding in report.findings if finding.severity == severity]
        if findings:
            cards = _cards(findings, state, report.judgements, rows)
            yield f"<section><h2>{title} ({len(findings)})</h2>{cards}</section>"
    if report.judgements:
        yield f"<section><h2>Layers</h2>{_layers(report)}</section>"
    groups = texts.coverage(report)
    if groups:
        items = "".join(_group(place, taps) for place, taps in groups)
        given = texts.count(len(report.unchecked), "tap")
        yield f"<section><h2>Not checked ({given})</h2><ul>{items}</ul></section>"


def _group(place: str, taps: Sequence[str]) -> str:
    names = ", ".join(f"<code>{_text(tap)}</code>" for tap in taps[: texts.MOST_NAMES])
    rest = f" and {len(taps) - texts.MOST_NAMES} more" if len(taps) > texts.MOST_NAMES else ""
    return f"<li>{len(taps)} {place}: {names}{rest}</li>"


def _cards(findings: Sequence[Finding], state: str, judgements: Sequence[Judgement], rows: Mapping[str, int]) -> str:
    shown = "".join(_card(finding, state, judgements, rows) for finding in findings[:MOST_CARDS])
    rest = len(findings) - MOST_CARDS
    return shown + (f"<p>and {rest} more; the JSON has all</p>" if rest > 0 else "")


def _cause(cause: texts.Cause) -> str:
    """A mistake that could be named."""
    sentences = "".join(f"<p>{_long(sentence)}</p>" for sentence in cause.sentences)
    places = f"at {texts.count(len(cause.taps), 'tap')}: {_long(texts.some(cause.taps))}"
    return f'<article class="card wrong"><h3>{_text(cause.id)}</h3>{sentences}<p class="soft">{places}</p></article>'


def _card(finding: Finding, state: str, judgements: Sequence[Judgement], rows: Mapping[str, int]) -> str:
    """A finding; if its tap was judged, with a link to its row and, but for notes, its numbers."""
    row = rows.get(finding.tap)
    name = f"<code>{_text(finding.tap)}</code>"
    title = name if row is None else f'<a href="#t{row}">{name}</a>'
    sentences = [] if row is None or finding.severity == "note" else texts.details(judgements[row])
    numbers = "".join(f"<li>{_long(sentence)}</li>" for sentence in sentences)
    cause = "".join(f"<p>{_long(sentence[:1].upper() + sentence[1:])}</p>" for sentence in texts.causes_of(finding))
    return (
        f'<article class="card {state}"><h3>{title}<span class="kind">{_text(finding.kind)}</span></h3>'
        f"<p>{_long(finding.message)}</p>{cause}{f'<ul>{numbers}</ul>' if numbers else ''}</article>"
    )


# layers


@dataclasses.dataclass(frozen=True)
class _Axis:
    """A log scale from 10**low to 10**high, that is, from 0 % to 100 % of a bar's width."""

    low: int
    high: int

    def at(self, value: float) -> str:
        """Place of a value that is at least 0; what is too large or no number is on the right border."""
        if value == 0:
            return "0%"
        place = (math.log10(value) - self.low) / (self.high - self.low) if math.isfinite(value) else 1.0
        return f"{100 * min(max(place, 0.0), 1.0):.1f}%"

    def decades(self) -> range:
        return range(self.low, self.high + 1)


def _axis(judgements: Iterable[Judgement]) -> _Axis:
    """The decades of all that is drawn, and at least three below the tolerance and one above it."""
    drawn = [value for judgement in judgements for value in (judgement.ratio, *_marks(judgement).values())]
    powers = [math.log10(value) for value in drawn if value > 0 and math.isfinite(value)]
    least, most = DECADES_SHOWN
    return _Axis(max(least, math.floor(min([-3, *powers]))), min(most, math.ceil(max([1, *powers]))))


def _marks(judgement: Judgement) -> dict[str, float]:
    """Where the usual rounding lies and what would have been caught, in units of the tolerance of the worst element."""
    if not 0 < judgement.tolerance < math.inf:
        return {}
    marks = {"usual": judgement.ratio / judgement.screen if judgement.screen > 0 else math.nan}
    marks["caught"] = judgement.resolution / judgement.tolerance
    return {name: value for name, value in marks.items() if 0 < value < math.inf}


def _layers(report: Report) -> str:
    axis = _axis(report.judgements)
    ranks = _ranks(report.judgements)
    rows = "\n".join(_row(i, judgement, ranks[i], axis) for i, judgement in enumerate(report.judgements))
    heads = "".join(
        f'<th scope="col" class="{name}">{text}</th>' for name, text in (*COLUMNS, ("bar", _scale(axis)), *NUMBERS)
    )
    return (
        f"<p>{texts.totals(report)}</p><p>{_long(texts.power(report))}</p>"
        f"{LEGEND}{TOOLS}{SHAPES.replace('$grid', _grid(axis))}"
        f'<div class="scroll"><table id="layers"><thead><tr>{heads}</tr></thead><tbody>\n{rows}\n</tbody></table></div>'
    )


def _ranks(judgements: Sequence[Judgement]) -> list[int]:
    """Place of each in the order from the worst to the best."""
    severity = {"wrong": 0, "unusual": 1, "right": 2}

    def key(i: int) -> tuple[int, float]:
        ratio = judgements[i].ratio
        return severity[judgements[i].status], -math.inf if math.isnan(ratio) else -ratio

    order = sorted(range(len(judgements)), key=key)
    return [rank for _, rank in sorted(zip(order, range(len(order)), strict=True))]


def _grid(axis: _Axis) -> str:
    lines = "".join(_line("limit" if power == 0 else "grid", axis.at(10.0**power), 0, 18) for power in axis.decades())
    return f'<g id="grid">{lines}</g>'


def _scale(axis: _Axis) -> str:
    """Labels of the decades, or of some where there are many; the tolerance has one always."""
    step = math.ceil(len(axis.decades()) / MOST_LABELS)
    labels = "".join(
        f'<text x="{axis.at(10.0**power)}" y="13">{_label(power)}</text>'
        for power in axis.decades()
        if power % step == 0
    )
    return f"error / tolerance<svg>{labels}</svg>"


def _label(power: int) -> str:
    return f"{10.0**power:g}" if abs(power) <= 3 else f"1e{power}"


def _row(i: int, judgement: Judgement, rank: int, axis: _Axis) -> str:
    sentences = "".join(f"<span>{_long(sentence)}</span>" for sentence in texts.details(judgement))
    shape = " &#215; ".join(str(n) for n in judgement.shape)
    name = _text(judgement.tap)
    cells = (
        SIGNS[judgement.status],
        judgement.test,
        _bar(judgement, axis),
        texts.number(judgement.ratio),
        texts.relative(judgement.error, judgement),
        texts.relative(judgement.resolution, judgement),
    )
    return (
        f'<tr id="t{i}" class="{judgement.status}" data-rank="{rank}" tabindex="0">'
        f'<th scope="row"><code>{name.replace(".", ".<wbr>")}</code>'  # so that it is broken at its dots
        f'<div class="numbers"><b><code>{name}</code> {shape}</b>{sentences}</div></th>'
        f"{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"
    )


def _bar(judgement: Judgement, axis: _Axis) -> str:
    end, marks = axis.at(judgement.ratio), _marks(judgement)
    usual = _line("usual", axis.at(marks["usual"]), 1, 17) if "usual" in marks else ""
    caught = _shape("caught", axis.at(marks["caught"])) if "caught" in marks else ""
    extent = f'<rect class="extent" y="5" height="8" width="{end}"/>'
    shape = _shape(f"end-{judgement.status}", end)
    return f'<svg aria-hidden="true">{extent}<use href="#grid"/>{usual}{caught}{shape}</svg>'


def _line(name: str, place: str, top: int, bottom: int) -> str:
    return f'<line class="{name}" x1="{place}" x2="{place}" y1="{top}" y2="{bottom}"/>'


def _shape(shape: str, place: str) -> str:
    return f'<svg x="{place}"><use href="#{shape}"/></svg>'
