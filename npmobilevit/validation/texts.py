"""A report in words: what a terminal shows, and the sentences that the page shares with it.

Names and messages come from the port and may hold anything; `printable` makes one harmless line of each.
"""

from __future__ import annotations

import dataclasses
import math
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from npmobilevit.validation.report import Finding, Judgement, Report

WIDTH = 100  # columns
MOST_SHOWN = 20  # findings or layers; of longer lists the rest is counted
MOST_NAMES = 8
NAME_LENGTH, MESSAGE_LENGTH = 160, 1000  # characters
DIGEST_LENGTH = 16
DECADES = 3  # of the bar, on either side of the tolerance

_INDENT = "      "
_CELLS = """\
X wrong, ? unusual; error and smallest error that would have been caught, both over the rms
  test     10^-3 1  10^3 err/tol err/rms  caught  tap"""


def to_text(report: Report, *, every_layer: bool) -> str:
    """Text of a report, see `npmobilevit.validation.Report.to_text`."""
    sections = (
        _head(report),
        _causes(report),
        *(_findings(report, severity, title) for severity, title in _SEVERITIES),
        _layers(report, every_layer=every_layer),
        _unchecked(report),
    )
    return "\n\n".join("\n".join(lines) for lines in sections if lines)


# words


def printable(text: str, most: int = NAME_LENGTH) -> str:
    """One line of about `most` characters at most; whatever could steer a terminal, or is no character, is escaped."""
    head = text if len(text) <= most else text[: most - 3] + "..."
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in head)


def number(value: float, digits: int = 3) -> str:
    """A number for people.

    Parameters
    ----------
    value : float
    digits : int
        Significant ones.

    Returns
    -------
    str
    """
    return f"{value:.0f}" if 10**digits <= abs(value) < 1e5 else f"{value:.{digits}g}"


def count(many: int, noun: str) -> str:
    """A number and its noun.

    Parameters
    ----------
    many : int
    noun : str
        In the singular.

    Returns
    -------
    str
    """
    return f"{many} {noun}" if many == 1 else f"{many} {noun}s"


def some(names: Sequence[str]) -> str:
    """The first few names, and the number of the others."""
    shown = ", ".join(printable(name) for name in names[:MOST_NAMES])
    return shown + (f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else "")


def relative(value: float, judgement: Judgement, digits: int = 3) -> str:
    """`value` in units of the layer's rms; a dash where all that was expected is zero.

    Parameters
    ----------
    value : float
    judgement : Judgement
    digits : int
        Significant ones.

    Returns
    -------
    str
    """
    return number(value / judgement.scale, digits) if judgement.scale > 0 else "-"


def reason(report: Report) -> str:
    """Why the verdict is what it is, without a full stop."""
    return {"fail": _reason_to_fail, "pass": _reason_to_pass, "screened": _reason_to_screen}[report.verdict](report)


def _reason_to_fail(report: Report) -> str:
    wrong = list(dict.fromkeys(finding.tap for finding in report.failures))
    taps = {judgement.tap for judgement in report.judgements}.union(wrong)
    verb = "is" if len(wrong) == 1 else "are"
    seen = report.behaves_as not in (None, report.profile)
    explained = f"; {printable(str(report.behaves_as))} would explain all of it: is that its profile?" if seen else ""
    first = report.failures[0]
    named = "" if first.diagnosis is None else f": {printable(first.diagnosis.description)}"
    return f"{len(wrong)} of {count(len(taps), 'tap')} {verb} wrong; first: {printable(wrong[0])}{named}{explained}"


def _reason_to_pass(report: Report) -> str:
    unusual = sum(judgement.status == "unusual" for judgement in report.judgements)
    remark = f", though {unusual} of them {'is' if unusual == 1 else 'are'} unusual" if unusual else ""
    return (
        f"from input to output all is what its own inputs should have become; {count(len(report.judgements), 'tap')} "
        f"judged{remark}"
    )


def _reason_to_screen(report: Report) -> str:
    if not report.judgements:
        return "nothing wrong was seen, but no tap could be judged"
    screened = sum(judgement.test == "screened" for judgement in report.judgements)
    reasons = [f"{screened} of {count(len(report.judgements), 'tap')} could only be screened"] if screened else []
    reasons += [] if report.complete else ["not every region from input to output was judged"]
    return f"nothing wrong was seen, but {' and '.join(reasons)}"


def facts(report: Report) -> Iterator[tuple[str, str]]:
    """What was checked, and against what: pairs of a word and its meaning."""
    digest = report.model.get("sha256")
    weights = f"weights sha256 {digest[:DIGEST_LENGTH]}" if isinstance(digest, str) else None
    parts = [report.model.get("name"), report.model.get("class"), weights]
    yield "model", ", ".join(printable(str(part)) for part in parts if part)
    made = (f"{printable(key)} {printable(value)}" for key, value in report.producer.items())
    yield "port", ", ".join(made) or "does not say what it is"
    yield "profile", profile(report)


def profile(report: Report) -> str:
    """The declared arithmetic, and the one that is seen if that is another."""
    declared = printable(report.profile)
    if report.behaves_as in (None, report.profile):
        return declared
    return f"declared {declared}, behaves as {printable(str(report.behaves_as))}"


def details(judgement: Judgement) -> list[str]:
    """Sentences with the numbers of one tap, without full stops."""
    if math.isnan(judgement.found) and math.isnan(judgement.expected):  # it could not be compared
        return []
    sentences = [_worst(judgement), _sizes(judgement)]
    if judgement.status != "wrong":
        sentences.append(_power(judgement))
    if judgement.region:
        names = some(judgement.region)
        sentences.append(f"spans {count(len(judgement.region), 'tap')} that were not given: {names}")
    return sentences


def _worst(judgement: Judgement) -> str:
    index = ", ".join(f"{i}" for i in judgement.worst)
    found = f"at [{index}]: found {judgement.found:.9g}, expected {judgement.expected:.9g}"
    if judgement.test == "exact":
        return f"{found}; no difference is allowed"
    return f"{found}, tolerance {number(judgement.tolerance)}"


def _sizes(judgement: Judgement) -> str:
    beyond = f"{judgement.beyond} of {count(math.prod(judgement.shape), 'element')} beyond the tolerance"
    proof = ", by more than any order of roundings could give" if judgement.proof else ""
    largest = f"largest error {number(judgement.error)}, {relative(judgement.error, judgement)} of the rms"
    return f"{beyond}{proof}; {largest} {number(judgement.scale)}"


def _power(judgement: Judgement) -> str:
    if judgement.test == "exact":
        return "any difference in any element would have been caught"
    size = f"{number(judgement.resolution)} ({relative(judgement.resolution, judgement)} of the rms)"
    usual = f"{number(judgement.screen)} times the usual rounding; " if judgement.screen else ""
    return f"{usual}an error of {size} in any one element would have been caught"


# sections


_SEVERITIES = (("fail", "Wrong"), ("unusual", "Unusual"), ("note", "Notes"))


def _head(report: Report) -> list[str]:
    verdict = f"{report.verdict.upper()}: {reason(report)}"
    return [_ascii(verdict), *(line for word, text in facts(report) for line in wrapped(f"{word:9}{text}", " " * 9))]


@dataclasses.dataclass(frozen=True)
class Cause:
    """A mistake, and the taps that it explains."""

    id: str
    sentences: tuple[str, ...]
    taps: tuple[str, ...]


def causes(report: Report) -> list[Cause]:
    """The mistakes that could be named, in the order of the first tap of each."""
    taps: dict[tuple[str, ...], list[str]] = {}
    for finding in report.failures:
        if finding.diagnosis is not None:
            d = finding.diagnosis
            taps.setdefault((d.mutant, d.description, d.consequence, d.fix), []).append(finding.tap)
    return [
        Cause(mutant, (f"{description}.", f"What follows: {consequence}", f"Fix: {fix}"), tuple(names))
        for (mutant, description, consequence, fix), names in taps.items()
    ]


def causes_of(finding: Finding) -> list[str]:
    """What is known of the cause of one finding."""
    if finding.diagnosis is not None:
        also = "".join(f"; or: {other}" for other in finding.diagnosis.also)
        return [f"cause: {finding.diagnosis.mutant}, {finding.diagnosis.description}{also}"]
    if finding.cause is not None:
        return [f"cause: {finding.cause}"]
    if finding.severity != "fail" or (finding.kind not in ("error", "shape", "non-finite") and not finding.near):
        return []
    near = [
        f"{miss.mutant}, {miss.description} (leaves {miss.remaining:.0%} of the difference)" for miss in finding.near
    ]
    return [f"cause: unknown{'; nearest: ' if near else ''}{'; '.join(near)}"]


def _causes(report: Report) -> list[str]:
    found = causes(report)
    lines = [f"Causes ({len(found)})"] if found else []
    for cause in found[:MOST_SHOWN]:
        lines += wrapped(f"  {cause.id} at {count(len(cause.taps), 'tap')}: {some(cause.taps)}", _INDENT)
        for sentence in cause.sentences:
            lines += wrapped(_INDENT + printable(sentence, MESSAGE_LENGTH), _INDENT + "  ")
    return lines


def _findings(report: Report, severity: str, title: str) -> list[str]:
    findings = [finding for finding in report.findings if finding.severity == severity]
    if not findings:
        return []
    judgements = {judgement.tap: judgement for judgement in report.judgements}
    shown = [line for finding in findings[:MOST_SHOWN] for line in _finding(finding, judgements)]
    return [f"{title} ({len(findings)})", *shown, *_rest(len(findings), "the JSON has all")]


def _finding(finding: Finding, judgements: Mapping[str, Judgement]) -> list[str]:
    """A finding of its tap's status brings the numbers; those of notes would only be noise."""
    lines = [f"  {_ascii(printable(finding.tap))} ({_ascii(printable(finding.kind))})"]
    sentences = [printable(finding.message, MESSAGE_LENGTH)]
    if finding.severity != "note" and finding.tap in judgements:
        sentences += details(judgements[finding.tap])
    sentences += [printable(sentence, MESSAGE_LENGTH) for sentence in causes_of(finding)]
    return lines + [line for sentence in sentences for line in wrapped(_INDENT + sentence, _INDENT + "  ")]


def _layers(report: Report, *, every_layer: bool) -> list[str]:
    """Totals, and a line for each layer that is not right, or for every one."""
    if not report.judgements:
        return []
    rows = [judgement for judgement in report.judgements if every_layer or judgement.status != "right"]
    shown = rows if every_layer else rows[:MOST_SHOWN]
    table = [
        _CELLS,
        *map(_row, shown),
        *_rest(len(rows), "--every-layer or to_text(every_layer=True) shows all", len(shown)),
    ]
    return [f"Layers: {totals(report)}", *wrapped(power(report), ""), *(table if rows else [])]


def totals(report: Report) -> str:
    """How many taps were judged, how, and with which outcome."""
    states = [judgement.status for judgement in report.judgements]
    tests = [judgement.test for judgement in report.judgements]
    outcomes = tally(states, ("right", "unusual", "wrong")), tally(tests, ("local", "exact", "screened"))
    return f"{count(len(states), 'tap')} judged: {'; '.join(outcomes)}"


def tally(values: Sequence[str], names: Iterable[str]) -> str:
    """How often each name occurs, of those that do."""
    return ", ".join(f"{values.count(name)} {name}" for name in names if name in values)


def power(report: Report) -> str:
    """How small an error every layer's check would have caught; empty where no layer has a scale."""
    sizes = [
        (judgement.resolution / judgement.scale, judgement.tap)
        for judgement in report.judgements
        if judgement.scale > 0
    ]
    sizes.sort(key=lambda entry: math.inf if math.isnan(entry[0]) else entry[0])
    if not sizes:
        return ""
    (largest, tap), (median, _) = sizes[-1], sizes[len(sizes) // 2]
    return (
        f"In any one element, an error of {number(median)} of the layer's rms would have been caught in the median "
        f"layer, and one of {number(largest)} in each; the layer with the widest tolerance is {printable(tap)}."
    )


def _row(judgement: Judgement) -> str:
    mark = {"right": " ", "unusual": "?", "wrong": "X"}[judgement.status]
    error, caught = (relative(size, judgement, 2) for size in (judgement.error, judgement.resolution))
    numbers = f"{number(judgement.ratio, 2):>7} {error:>7} {caught:>7}"
    return f"{mark} {judgement.test:8} {bar(judgement.ratio)} {numbers}  {_ascii(printable(judgement.tap))}"


def bar(ratio: float) -> str:
    """A ratio on a log scale of half a decade a sign; what is above 1, or is no number, is beyond the line."""
    if ratio <= 0:
        filled = 0
    elif math.isfinite(ratio):
        filled = min(max(math.ceil(2 * math.log10(ratio)) + 2 * DECADES, 0), 4 * DECADES)
    else:
        filled = 4 * DECADES
    signs = ("#" * filled).ljust(4 * DECADES)
    return f"{signs[: 2 * DECADES]}|{signs[2 * DECADES :]}"


def coverage(report: Report) -> list[tuple[str, list[str]]]:
    """The taps that were not given, by what is known of them all the same.

    Returns
    -------
    list of (str, list of str)
        Where the taps lie and their names, in forward order; no group is empty, and a tap in several regions counts
        where most is known of it.
    """
    groups: dict[str, list[str]] = {place: [] for place in (*_PLACES.values(), _NOWHERE)}
    places = _places(report.judgements)
    for tap in report.unchecked:
        groups[places.get(tap, _NOWHERE)].append(tap)
    return [(place, taps) for place, taps in groups.items() if taps]


_NOWHERE = "in no region that was judged"
_PLACES = {
    "right": "within regions judged right",
    "screened": "within regions that were only screened",
    "unusual": "within regions judged unusual",
    "wrong": "within regions judged wrong",
}


def _places(judgements: Iterable[Judgement]) -> dict[str, str]:
    """Place of every tap that some region spans."""
    places: dict[str, str] = {}
    for outcome, place in reversed(_PLACES.items()):  # the best comes last, and stays
        for judgement in judgements:
            if _outcome(judgement) == outcome:
                places.update(dict.fromkeys(judgement.region, place))
    return places


def _outcome(judgement: Judgement) -> str:
    return "screened" if judgement.status == "right" and judgement.test == "screened" else judgement.status


def _unchecked(report: Report) -> list[str]:
    groups = coverage(report)
    if not groups:
        return []
    lines = [f"Not checked: {count(len(report.unchecked), 'tap')}, and of these"]
    for place, taps in groups:
        names = "" if place == _PLACES["right"] else f": {some(taps)}"
        lines += wrapped(f"  {len(taps)} {place}{names}", _INDENT)
    return lines


def _rest(many: int, where: str, shown: int = MOST_SHOWN) -> list[str]:
    return [f"  and {many - shown} more; {where}"] if many > shown else []


def wrapped(text: str, indent: str) -> list[str]:
    """Lines; what has no blank is not broken, so that names can be searched for."""
    return textwrap.wrap(_ascii(text), WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def _ascii(text: str) -> str:
    return text.encode("ascii", "backslashreplace").decode("ascii")
