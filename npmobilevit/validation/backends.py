"""A check of a backend that can be run, not only of what it dumped once.

It is given operator probes, single layers on recorded tensors, and whole pictures of several sizes, each twice. What
it raises, or gives in place of tensors, is a finding and no end of the check.
"""

from __future__ import annotations

import dataclasses
import functools
import html
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.metadata import version
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from npmobilevit.config import MobileViTConfig
from npmobilevit.errors import BundleError, ConfigError, ShapeError
from npmobilevit.models import PreTrainedModel
from npmobilevit.ops.arrays import Array
from npmobilevit.pipeline import Pipeline, load
from npmobilevit.scope import Scope
from npmobilevit.validation import probes, texts
from npmobilevit.validation.bundles import weights_sha256
from npmobilevit.validation.candidates import read_candidate
from npmobilevit.validation.checking import Model, check
from npmobilevit.validation.probes import PROBES, Probe
from npmobilevit.validation.profiles import profile_named
from npmobilevit.validation.replay import tap_names
from npmobilevit.validation.report import Finding, Judgement, Report, Verdict, plain, save

Tensors: TypeAlias = dict[str, NDArray[Any]]
Status: TypeAlias = Literal["pass", "screened", "fail", "not run"]

SCHEMA = "npmobilevit.check-backend/1"

# Blocks that a backend can run alone, each with one tensor in and one out. Those that hold others are judged by
# themselves: a layer within must not begin on a recorded tensor there.
LEAVES = ("conv_layer", "linear_layer", "layer_norm")
NESTS = ("self_attention", "inverted_residual", "aspp_pooling")

# Elements that differ between two runs before a pattern among them means something, and the least size of what
# dropout takes away, over the root mean square.
FEWEST, LEAST = 8, 1e-3

# Taps with a dropout of the training network just before them: there it may leave no pattern.
_AFTER_DROPOUT = (
    "attention.attention",
    "attention.output",
    "layernorm_after",
    "output",
    "aspp",
    "classifier",
    "logits",
)


class Backend(Protocol):
    """What is checked: an object with the method `run`, and perhaps with two more.

    ``region(name, inputs)`` runs one module of the network, named as its tap, such as
    "mobilevit.encoder.layer.2.fusion", on a list with the one array that its forward method gets, and returns what it
    puts out. ``op(name, arrays, attributes)`` runs one operator of :mod:`npmobilevit.ops`: `arrays` maps the names of
    its arguments to float32 arrays ("x", "weight", ...; for multi_head_attention "query.weight" and so on), and
    `attributes` those of the others to numbers. Each may raise NotImplementedError for what the backend does not
    have, `run` for a size that it cannot take: this is reported as not run.
    """

    def run(self, pixel_values: NDArray[np.float32], /) -> Mapping[str, Any]:
        """Tensors by the names of taps, for a (N, num_channels, H, W) array in 0..1."""
        ...


@dataclasses.dataclass(frozen=True)
class Part:
    """One thing that was tried.

    Attributes
    ----------
    name : str
        "probe:" and the name of an operator probe; "regions"; "input:" and the name of an input; "first-input-again".
    findings : tuple of Finding
        With those of the reports.
    judgements : tuple of Judgement
        Of a probe.
    reports : tuple of Report
        Of an input one; of regions one for the layers and one for those that hold layers.
    not_run : tuple of str
        What the backend does not have.
    """

    name: str
    findings: tuple[Finding, ...] = ()
    judgements: tuple[Judgement, ...] = ()
    reports: tuple[Report, ...] = ()
    not_run: tuple[str, ...] = ()

    @property
    def failures(self) -> tuple[Finding, ...]:
        """The findings that decide."""
        return tuple(finding for finding in self.findings if finding.severity == "fail")

    @property
    def status(self) -> Status:
        """ "not run" if there was nothing to judge."""
        if self.failures:
            return "fail"
        if not self.judgements and not self.reports:
            return "not run" if self.not_run else "pass"
        if self.name == "regions":  # of the network there are gaps between them
            screened = any(judgement.test == "screened" for report in self.reports for judgement in report.judgements)
            return "screened" if screened else "pass"
        return "pass" if all(report.verdict == "pass" for report in self.reports) else "screened"


@dataclasses.dataclass(frozen=True)
class BackendReport:
    """The verdict on a backend.

    Attributes
    ----------
    model : mapping
        As in :class:`Report`.
    profile : str
    parts : tuple of Part
        In the order in which they were tried.
    """

    model: Mapping[str, Any]
    profile: str
    parts: tuple[Part, ...]

    @property
    def failures(self) -> tuple[Finding, ...]:
        """The findings that decide, part by part."""
        return tuple(finding for part in self.parts for finding in part.failures)

    @property
    def verdict(self) -> Verdict:
        """ "pass": whole pictures were run, and every region from input to output is right; "fail"; "screened"."""
        if self.failures:
            return "fail"
        inputs = [part.status for part in self.parts if part.name.startswith("input:") and part.status != "not run"]
        return "pass" if inputs and set(inputs) == {"pass"} else "screened"

    @property
    def passed(self) -> bool:
        """Whether nothing wrong was seen."""
        return self.verdict != "fail"

    @property
    def probes(self) -> tuple[Part, ...]:
        """The operator probes."""
        return tuple(part for part in self.parts if part.name.startswith("probe:"))

    @property
    def reports(self) -> dict[str, Report]:
        """The report on each input, by its name."""
        return {
            part.name.removeprefix("input:"): part.reports[0]
            for part in self.parts
            if part.name.startswith("input:") and part.reports
        }

    def to_text(self) -> str:
        """The report for a terminal; the first line is the verdict and its reason."""
        return "\n".join(_lines(self))

    __str__ = to_text

    def to_json(self) -> str:
        """One JSON document in ASCII; numbers as in :meth:`Report.to_json`."""
        parts = [plain(part) | {"status": part.status} for part in self.parts]
        document = {
            "schema": SCHEMA,
            "version": version("npmobilevit"),
            "verdict": self.verdict,
            "model": plain(self.model),
            "profile": self.profile,
            "parts": parts,
        }
        return json.dumps(document, indent=2, allow_nan=False)

    def to_html(self) -> str:
        """The text as a page."""
        text = html.escape(self.to_text())
        return f'<!doctype html>\n<meta charset="utf-8">\n<title>npmobilevit: {self.verdict}</title>\n<pre>{text}</pre>'

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the report to a file, whole or not at all; see :meth:`Report.save`.

        Raises
        ------
        ConfigError, BundleError
        """
        save(self, path)


def check_backend(
    backend: Backend,
    model: Model,
    *,
    profile: str = "fp32",
    pixel_values: Mapping[str, NDArray[Any]] | None = None,
) -> BackendReport:
    """Judge a backend that can be run.

    Parameters
    ----------
    backend : Backend
    model : Pipeline, model or name
        What was ported, with the weights that the backend has.
    profile : str
        The arithmetic that the backend declares; see :func:`check`.
    pixel_values : mapping of str to (N, C, H, W) array, optional
        Inputs by name; those of :func:`default_inputs` when None.

    Returns
    -------
    BackendReport

    Raises
    ------
    ConfigError
        If `backend` has no method `run`, there is no input, or as :func:`check` does.
    ShapeError
        If an input does not fit the model.
    CheckpointError, WeightsError
        If the model cannot be had.
    """
    trial = BackendTrial(backend, model, profile=profile, pixel_values=pixel_values)
    return trial.report(work() for work in trial.tasks().values())


def default_inputs(config: MobileViTConfig) -> dict[str, NDArray[np.float32]]:
    """Small inputs that meet the conditions of the catalogue, by name.

    Parameters
    ----------
    config : MobileViTConfig

    Returns
    -------
    dict of str to array
        "picture": shapes and flat areas, in steps of 1/255, with whole patches at every stage. "odd-grid": 96x96,
        whose last map has 3x3 pixels; as with 224x224, and its 7x7, only that one is resized to whole patches.
        "odd": 75x107, resized at every stage, and odd at those before, too. "batch": two pictures, and where the
        network's widths allow it as many tokens as each head has channels, so that keys fit transposed or not.
    """
    channels = config.num_channels
    random = np.random.default_rng(0)
    head_width = config.hidden_sizes[0] // config.num_attention_heads
    width = 4 * head_width if head_width % 4 == 0 else 64  # of 64 rows, a sixteenth of the pixels are tokens
    return {
        "picture": _picture(channels, 64, 128),
        "odd-grid": random.random((1, channels, 96, 96), np.float32),
        "odd": random.random((1, channels, 75, 107), np.float32),
        "batch": random.random((2, channels, 64, width), np.float32),
    }


def _picture(channels: int, height: int, width: int) -> NDArray[np.float32]:
    """A disc and a chessboard before a slope that ends in black."""
    y, x = np.mgrid[:height, :width]
    c = np.arange(channels)[:, np.newaxis, np.newaxis]
    slope = np.maximum(x * 230 // width - 40 + 20 * c, 0)
    board = (x // 8 + y // 8) % 2 * (40 + 30 * c)
    disc = (x - width * 0.6) ** 2 + (y - height * 0.5) ** 2 < (height * 0.3) ** 2
    values = np.where(disc, 200 - 50 * c + y % 5, np.where(y > height * 0.7, board, slope))
    return np.asarray(np.clip(values, 0, 255) / 255, np.float32)[np.newaxis]


class BackendTrial:
    """One backend before one network, part by part.

    Parameters
    ----------
    backend, model, profile, pixel_values
        See :func:`check_backend`.
    """

    def __init__(
        self,
        backend: Backend,
        model: Model,
        *,
        profile: str = "fp32",
        pixel_values: Mapping[str, NDArray[Any]] | None = None,
    ) -> None:
        self.profile = profile_named(profile)
        if not callable(getattr(backend, "run", None)):
            raise ConfigError(
                "backend needs a method run(pixel_values) that returns tensors by the names of taps; "
                f"{type(backend).__name__} has none",
                "backend",
            )
        self.backend: Any = backend
        self.model = model if isinstance(model, PreTrainedModel | Pipeline) else load(model)
        self.network = self.model if isinstance(self.model, PreTrainedModel) else self.model.network
        given = default_inputs(self.network.config) if pixel_values is None else pixel_values
        if not isinstance(given, Mapping) or not given:
            raise ConfigError("pixel_values must be a mapping of names to arrays, with at least one", "backend-inputs")
        self.inputs = {str(name): np.array(self.network.check_pixel_values(x), np.float32) for name, x in given.items()}
        self.order = ["pixel_values", *tap_names(self.network)]
        self._first: Tensors | None = None  # what the first input gave at first
        self._is_steady = True

    def tasks(self) -> dict[str, Callable[[], Part]]:
        """What is to be tried, by the names of the parts and in their order."""
        tasks = {f"probe:{probe.name}": functools.partial(self.probe, probe) for probe in PROBES}
        inputs = {f"input:{name}": functools.partial(self.run_input, name) for name in self.inputs}
        return {**tasks, "regions": self.regions, **inputs, "first-input-again": self.again}

    def report(self, parts: Iterable[Part]) -> BackendReport:
        """The parts that were tried, together."""
        name = self.model.name if isinstance(self.model, Pipeline) else None
        model = {"name": name, "class": type(self.network).__name__, "sha256": weights_sha256(self.network)}
        return BackendReport(model, self.profile.name, tuple(parts))

    # --- operators

    def probe(self, probe: Probe) -> Part:
        """One operator on one probe."""
        name = f"probe:{probe.name}"
        if not callable(getattr(self.backend, "op", None)):
            return Part(name, not_run=(f"{probe.op}: the backend has no op(name, arrays, attributes)",))
        if not probes.can_judge(self.profile):
            return Part(
                name, not_run=(f"{probe.op}: an operator states no step, so {self.profile.name} has no tolerance",)
            )
        try:
            result = self.backend.op(probe.op, probe.arrays, dict(probe.attributes))
        except NotImplementedError:
            return Part(name, not_run=(f"{probe.op}: the backend does not have it",))
        except Exception as error:  # whatever a backend raises
            return Part(name, (_raised(probe.name, f"op({probe.op!r}, ...)", error),))
        judgement, finding = probes.judge(probe, result, self.profile)
        return Part(name, () if finding is None else (finding,), (judgement,))

    # --- layers

    def regions(self) -> Part:
        """Every layer alone, on the tensors that our network has there."""
        if not callable(getattr(self.backend, "region", None)):
            return Part("regions", not_run=("layers: the backend has no region(name, inputs)",))
        recorded, calls = _walk(self.network, next(iter(self.inputs.values())))
        findings: list[Finding] = []
        reports: list[Report] = []
        not_run: list[str] = []
        for level in (LEAVES, NESTS):
            chosen = {name: x for name, (block, x) in calls.items() if block in level}
            results: Tensors = {}
            for name, x in chosen.items():
                result, finding = self._region(name, x)
                findings += [] if finding is None else [finding]
                not_run += [name] if result is None and finding is None else []
                results |= {} if result is None else {name: result}
            if results:
                inside = tuple(f"{name}." for name in results)
                before = {name: x for name, x in recorded.items() if not name.startswith(inside)}
                reports.append(check(results, self.model, profile=self.profile.name, inputs=before))
        findings += [finding for report in reports for finding in report.findings]
        return Part("regions", tuple(findings), reports=tuple(reports), not_run=tuple(not_run))

    def _region(self, name: str, x: NDArray[np.float32]) -> tuple[NDArray[Any] | None, Finding | None]:
        """What the backend makes of a layer, or what is wrong; neither if it does not have it."""
        try:
            result = self.backend.region(name, [x.copy()])
        except NotImplementedError:
            return None, None
        except Exception as error:  # whatever a backend raises
            return None, _raised(name, "region(...)", error)
        try:
            return _snapshot({name: result})[name], None
        except BundleError as error:
            return None, Finding(name, "fail", "result", f"region(...) gives what is no array: {error}")

    # --- whole pictures

    def run_input(self, name: str) -> Part:
        """One input twice: judged, and compared."""
        x, part = self.inputs[name], f"input:{name}"
        is_first = name == next(iter(self.inputs))
        try:
            tensors, findings = self._run(x)
            if tensors is None:
                return Part(part, tuple(findings))
            if is_first:
                self._first = tensors
            report = check(tensors, self.model, pixel_values=x, profile=self.profile.name)
            again, more = self._run(x)
        except NotImplementedError:
            return Part(part, not_run=(f"{name}: the backend does not take {x.shape}",))
        except (BundleError, ShapeError) as error:
            return Part(part, (*findings, Finding("run", "fail", "result", f"cannot be judged: {error}")))
        findings += [finding for finding in more if finding not in findings]
        varies = [] if again is None else self._compared(tensors, again)
        self._is_steady &= not varies
        findings += [self._unsteady(tap, tensors, again or {}, report) for tap in varies[:1]]
        return Part(part, (*findings, *report.findings), reports=(report,))

    def again(self) -> Part:
        """The first input once more, after those of other sizes."""
        name = next(iter(self.inputs))
        if self._first is None:
            return Part("first-input-again", not_run=(f"there is no result of the input {name!r} to compare with",))
        if not self._is_steady:
            return Part("first-input-again", not_run=("results vary from run to run, whatever comes before",))
        if len(self.inputs) == 1:
            return Part("first-input-again", not_run=("there is one input only",))
        try:
            tensors, findings = self._run(self.inputs[name])
        except NotImplementedError as error:
            return Part("first-input-again", (_raised("run", "run(...), at the second time,", error),))
        differs = [] if tensors is None else self._compared(self._first, tensors)
        text = (
            f"the input {name!r} gives other values here after inputs of other sizes than before them: something "
            "that depends on the size is kept from run to run"
        )
        findings += [Finding(tap, "fail", "state", text, cause="SYS-03") for tap in differs[:1]]
        return Part("first-input-again", tuple(findings))

    def _run(self, x: NDArray[np.float32]) -> tuple[Tensors | None, list[Finding]]:
        """What the backend dumps, or why it cannot be used; NotImplementedError is the caller's."""
        given = x.copy()
        try:
            dump = self.backend.run(given)
        except NotImplementedError:
            raise
        except Exception as error:  # whatever a backend raises
            return None, [_raised("run", f"run(...) of an input of shape {x.shape}", error)]
        text = "the backend changes the array that it is given; let it work on a copy"
        findings = [] if np.array_equal(given, x) else [Finding("pixel_values", "fail", "in-place", text)]
        if not isinstance(dump, Mapping):
            text = f"run(...) must return tensors by the names of taps, not {type(dump).__name__}"
            return None, [*findings, Finding("run", "fail", "result", text)]
        try:
            return _snapshot(dump), findings
        except BundleError as error:
            return None, [*findings, Finding("run", "fail", "result", f"cannot be read: {error}")]

    def _compared(self, one: Tensors, other: Tensors) -> list[str]:
        """Taps that are not the same, in forward order."""
        place = {_short(tap): i for i, tap in enumerate(self.order)}
        names = sorted({**one, **other}, key=lambda name: place.get(_short(name), len(place)))
        return [name for name in names if not _same(one.get(name), other.get(name))]

    def _unsteady(self, tap: str, one: Tensors, other: Tensors, report: Report) -> Finding:
        """What to say of the first tap that differs between two runs of one input."""
        a, b = one.get(tap), other.get(tap)
        if a is None or b is None:
            return Finding(tap, "fail", "unsteady", "is given in one of two runs of the same input only")
        if a.shape != b.shape:
            return Finding(tap, "fail", "unsteady", f"has shape {a.shape} in one run, and {b.shape} in the next")
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        differs = int(np.count_nonzero(a != b))
        text = f"two runs of the same input part here, in {differs} of {a.size} elements"
        if any(_is_dropout(a, b, before) for before in self._before(tap, one, other)):
            return Finding(tap, "fail", "unsteady", f"{text}; dropout is active: switch to evaluation mode", "SYS-06")
        judgement = next((j for j in report.judgements if _short(j.tap) == _short(tap)), None)
        if judgement is None or (judgement.status == "wrong" and (judgement.region or tap.endswith(_AFTER_DROPOUT))):
            text = f"{text}, and they are wrong: dropout may be active, or a sum is torn by a race"
            return Finding(tap, "fail", "unsteady", text)
        advice = "look for a race between threads or for sums whose order varies"
        return Finding(tap, "fail", "unsteady", f"{text}; {advice}", "SYS-04")

    def _before(self, tap: str, one: Tensors, other: Tensors) -> Iterator[Array | None]:
        """None, and the values of the tap before if they are the same in both runs."""
        yield None
        names = {_short(name): name for name in one}
        order = [_short(name) for name in self.order]
        before = names.get(order[order.index(_short(tap)) - 1]) if _short(tap) in order else None
        if before is not None and _same(one[before], other.get(before)):
            yield np.asarray(one[before], np.float64)


def _is_dropout(a: Array, b: Array, before: Array | None) -> bool:
    """Whether two runs differ as dropout makes them: what is zero in one is not in the other; or, of something that
    was added to it, all of one share is gone, when the values `before` it are known."""
    at = a != b
    if np.count_nonzero(at) < FEWEST or (before is not None and before.shape != a.shape):
        return False
    if before is None:
        left = np.abs(a[at]) + np.abs(b[at])
        is_gone = (a[at] == 0) | (b[at] == 0)
        return bool(is_gone.all() and np.median(left) > LEAST * np.sqrt(np.square(a).mean()))
    with np.errstate(divide="ignore", invalid="ignore"):
        shares = np.abs(a - b)[at] / np.abs(before[at])
    middle = float(np.median(shares))
    return bool(middle >= 1 and np.median(np.abs(shares / middle - 1)) < LEAST)


def _same(one: NDArray[Any] | None, other: NDArray[Any] | None) -> bool:
    if one is None or other is None or one.shape != other.shape:
        return False
    return bool(np.array_equal(one, other, equal_nan=one.dtype.kind == other.dtype.kind == "f"))


def _snapshot(dump: Mapping[str, Any]) -> Tensors:
    """Copies of what a backend gave: it may use its buffers again."""
    return {name: np.array(x) for name, x in read_candidate(dump).tensors.items()}


@dataclasses.dataclass(frozen=True)
class _Listening(Scope):
    """A scope that tells of every block with one tensor in: the block's name, the node, and the tensor."""

    hear: Callable[[str, str, Array], object] = lambda block, name, x: None

    def enter(self, block: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if block.__name__ in (*LEAVES, *NESTS):
            self.hear(block.__name__, self.name, args[0])
        return super().enter(block, *args, **kwargs)


def _walk(model: PreTrainedModel, x: Array) -> tuple[Tensors, dict[str, tuple[str, NDArray[np.float32]]]]:
    """All taps of a forward pass, and each small region's block and input, by name; all in float32."""
    recorded: Tensors = {}
    calls: dict[str, tuple[str, NDArray[np.float32]]] = {}

    def tap(name: str, value: Array) -> None:
        if name:
            recorded[name] = np.asarray(value, np.float32)

    def hear(block: str, name: str, value: Array) -> None:
        calls[name] = block, np.asarray(value, np.float32)

    pixels = model.check_pixel_values(x)
    tap("pixel_values", pixels)
    model.forward(_Listening(model.parameters(), tap=tap, wants=lambda name: False, hear=hear), pixels)
    return recorded, calls


def _raised(tap: str, call: str, error: Exception) -> Finding:
    return Finding(tap, "fail", "raised", f"{call} raised {type(error).__name__}: {str(error)[:500]}")


def _short(tap: str) -> str:
    return tap.removeprefix("mobilevit.")


# --- in words


def headline(findings: Iterable[Finding]) -> str:
    """The first finding that decides, in one line: where, the cause if it is known, and what.

    Parameters
    ----------
    findings : iterable of Finding

    Returns
    -------
    str
        Empty if none decides.
    """
    first = next((finding for finding in findings if finding.severity == "fail"), None)
    if first is None:
        return ""
    if first.diagnosis is not None:
        what = f"{first.diagnosis.mutant}: {first.diagnosis.description}"
    else:
        what = f"{first.cause}: {first.message}" if first.cause else first.message
    return texts.printable(f"{first.tap}: {what}", texts.MESSAGE_LENGTH)


def describe(part: Part) -> str:
    """What is wrong with a part, for a terminal.

    Parameters
    ----------
    part : Part

    Returns
    -------
    str
        The first line is the headline; reports follow, and what is in none of them.
    """
    reported = {finding for report in part.reports for finding in report.findings}
    own = [finding for finding in part.failures if finding not in reported]
    lines = [headline(part.findings)]
    for finding in own[: texts.MOST_SHOWN]:
        lines += ["", f"  {texts.printable(finding.tap)} ({finding.kind})"]
        sentences = [texts.printable(finding.message, texts.MESSAGE_LENGTH)]
        sentences += [f"cause: {finding.cause}"] if finding.cause else []
        sentences += [probe.why for probe in PROBES if probe.name == finding.tap]
        lines += [line for sentence in sentences for line in texts.wrapped(" " * 6 + sentence, " " * 8)]
    more = len(own) - texts.MOST_SHOWN
    lines += ["", f"  and {more} more; the JSON has all"] if more > 0 else []
    reports = [report.to_text() for report in part.reports if not report.passed]
    return "\n".join([*lines, *(f"\n{text}" for text in reports)])


def _lines(report: BackendReport) -> Iterator[str]:
    yield f"{report.verdict.upper()}: {_reason(report)}"
    name = report.model.get("name") or report.model.get("class")
    yield f"model    {texts.printable(str(name))}"
    yield f"profile  {report.profile}"
    states = [part.status for part in report.parts]
    yield f"parts    {texts.tally(states, ('pass', 'screened', 'fail', 'not run'))}"
    skipped = [part for part in report.parts if part.not_run]
    if skipped:
        yield "\nNot run"
        yield from dict.fromkeys(f"  {_group(part)}: {texts.some(part.not_run)}" for part in skipped)
    for part in report.parts:
        if part.status == "fail":
            yield f"\n--- {part.name}: {describe(part)}"


def _group(part: Part) -> str:
    return "probes" if part.name.startswith("probe:") else part.name


def _reason(report: BackendReport) -> str:
    failing = [part for part in report.parts if part.status == "fail"]
    if failing:
        verb = "is" if len(failing) == 1 else "are"
        count = f"{len(failing)} of {texts.count(len(report.parts), 'part')} {verb} wrong"
        return f"{count}; first: {failing[0].name}: {headline(failing[0].findings)}"
    if report.verdict == "pass":
        return "from input to output all is what its own inputs should have become, whatever the size and at every run"
    return "nothing wrong was seen, but not every region from input to output was judged"
