"""One port before one network: walks through the network on the port's tensors, and what they find.

The first walk judges every tap. Further ones look again at what it found: coarse tolerances are calibrated, failures
compared with what is proven, right taps with what is usual, and other profiles are tried.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from npmobilevit.engine.folding import batch_norm_factor
from npmobilevit.errors import BundleError, ShapeError
from npmobilevit.models import PreTrainedModel
from npmobilevit.ops.arrays import Array
from npmobilevit.scope import is_extra
from npmobilevit.validation.bounds import Arithmetic, Bounded, Deferred, Tier
from npmobilevit.validation.candidates import Candidate
from npmobilevit.validation.comparing import compare, root_mean_square, unmeasured
from npmobilevit.validation.lazy import forced
from npmobilevit.validation.mutants.changes import Change, enclosing
from npmobilevit.validation.profiles import BFLOAT16, PROFILES, Profile
from npmobilevit.validation.replay import Meet, replay, tap_names
from npmobilevit.validation.report import Finding, Judgement, Test
from npmobilevit.validation.structure import anomalies, layout, misnamed, reinterpreted

# What a candidate may hold besides taps, and what judges it (npmobilevit.validation.surroundings).
PICTURE_STEPS = ("picture", "resized", "center_cropped", "rescaled")
RESULTS = ("probabilities", "labels", "mask")

# A tolerance whose median is beyond this share of the layer's root mean square says too little: of one layer, whose
# tolerance is what its arithmetic gives, and of a region with taps missing, where it is the carrying that widens.
COARSE, COARSE_REGION = 1.0, 0.05

# Differences above this multiple of the usual are worth a look.
UNUSUAL = 4.0

# Simulated runs for a calibrated tolerance, and its multiple of their standard deviation. That is taken over a
# channel where it is larger there: twelve runs alone are too few for a single element.
# Roundings of weights are shared by all pixels, and cut-off digits all point one way: hence so many deviations.
RUNS, DEVIATIONS = 12, 16.0

# Wrong taps for which another place in the dump is looked for: each is compared with all others of its shape.
LOOKED_UP = 20

# From the tightest to the widest, as far as a port can be of a profile that it does not declare.
BEHAVIOURS = ("fp32", "tf32", "fp16", "bf16", "fp16-acc16", "int8-dynamic")


# Told of a tap, its expected value, still to be computed, and the port's.
Visit: TypeAlias = Callable[[str, Any, Array], None]


class _TooFar(Exception):
    """A profile does not explain a tap, and the rest need not be looked at."""


@dataclasses.dataclass(frozen=True)
class Coarse:
    """A tap whose certified tolerance says too little: what the calibrated test needs."""

    position: int
    expected: Array
    found: Array
    tolerance: Array


class Trial:
    """One candidate before one network: the walks through the network, and what they found.

    Parameters
    ----------
    model : PreTrainedModel
        In float64.
    candidate : Candidate
    profile : Profile
        As declared.
    injected : mapping of str to array or None
    """

    def __init__(
        self,
        model: PreTrainedModel,
        candidate: Candidate,
        profile: Profile,
        injected: Mapping[str, NDArray[Any]] | None = None,
    ) -> None:
        self.model = model
        self.candidate = candidate
        self.profile = profile
        self.injected = injected
        self.order = tap_names(model)
        twice = [name for name in candidate.tensors if name.removeprefix("mobilevit.") in candidate.tensors]
        twice = [name for name in twice if name.startswith("mobilevit.")]
        if twice:
            raise BundleError(
                f"the candidate has {twice[0]} twice, with and without its prefix", "bundle-duplicate-name"
            )
        self.judgements: list[Judgement] = []
        self.findings: list[Finding] = []
        self.unchecked: list[str] = []
        self._reached_end = self._gap = False
        self._last: Array = np.empty(0)
        self._used: set[str] = set()
        self._start_judgements: list[Judgement] = []
        self._start_findings: list[Finding] = []
        self._dumped_amiss = self._misplaced = False
        self._keeps_shapes = True
        self._looked_up = 0
        # taps whose own values the next layer did not work on, and those it did (None: the expected ones)
        self._instead: dict[str, Array | None] = {}
        self._coarse: dict[str, Coarse] = {}
        self._steps = self._stated_steps() if profile.stated else {}
        self.parameter_errors = _parameter_errors(model.parameters(), candidate.parameter_scales)
        self._step = 0.0
        self._made_by: dict[str, frozenset[int]] = {}

    # --- the candidate's tensors

    def given(self, name: str) -> NDArray[Any] | None:
        """The candidate's tensor of a tap, under its name with or without the prefix."""
        found = _found_under(name, self.candidate.tensors)
        if found is None:
            return None
        self._used.add(found)
        return self.candidate.tensors[found]

    def strangers(self) -> list[Finding]:
        """Findings for the candidate's names that mean nothing here. Inert dropouts come with every set of hooks."""
        known = self._used | {"pixel_values", *PICTURE_STEPS, *RESULTS}
        unknown = [name for name in self.candidate.tensors if name not in known and not _is_dropout(name)]
        return [
            Finding(name, "unusual", "extra", f"is no tap of this network; {self._advice(name)}") for name in unknown
        ]

    def _advice(self, name: str) -> str:
        near = difflib.get_close_matches(
            f"mobilevit.{name.removeprefix('mobilevit.')}"[:200], self.order, n=1, cutoff=0.8
        )
        return f"did you mean {near[0]}?" if near else "`npmobilevit taps` lists them"

    def pixel_values(self, otherwise: NDArray[Any] | None) -> Array:
        """What the port started from."""
        injected = (self.injected or {}).get("pixel_values")
        own = self.candidate.tensors.get("pixel_values") if injected is None else injected
        if own is None and otherwise is None:
            raise BundleError(
                "the candidate has no pixel_values, and neither pixel_values nor image is given: nothing to start from",
                "bundle-no-input",
            )
        if own is None:
            return self.model.check_pixel_values(otherwise)
        try:
            return self.model.check_pixel_values(np.asarray(own, np.float64))
        except ShapeError as error:
            advice = _advice_on_shape(own.shape, self.model.config.num_channels)
            if otherwise is None:
                raise BundleError(f"the candidate's {error}{advice}", "bundle-pixel-values") from error
            self._start_findings.append(Finding("pixel_values", "fail", "shape", f"{error}{advice}"))
            return self.model.check_pixel_values(otherwise)

    def judge_start(self, expected: Array) -> None:
        """Compare the candidate's pixel values with those that it was to work on: x / 255 is not x * (1 / 255)."""
        own = self.candidate.tensors.get("pixel_values")
        if own is None or self._start_findings:
            return
        value = np.asarray(expected, np.float64)
        error = 2 * np.abs(value) * max(self.profile.store, PROFILES["fp32"].store)
        self._judge("pixel_values", Bounded(value, error), own)
        self._start_judgements, self._start_findings = list(self.judgements), list(self.findings)

    def _stated_steps(self) -> dict[str, float]:
        """For each tap the step of its fixed-point numbers: its own, or that of the next tap with one."""
        steps: dict[str, float] = {}
        step = 0.0
        for name in reversed(self.order):
            stated = _found_under(name, self.candidate.scales)
            steps[name] = step = step if stated is None else self.candidate.scales[stated]
        return steps

    def _step_after(self, name: str) -> float:
        """The step of what is computed after a tap."""
        following = self.order[self.order.index(name) + 1 :] if name in self._steps else []
        return self._steps[following[0]] if following else self._step

    @property
    def complete(self) -> bool:
        """Whether the regions that were judged reach from the input to the output."""
        return self._reached_end and not self._gap

    @property
    def judges_usual(self) -> bool:
        """Whether there is a usual error to hold taps against."""
        return not self.profile.quantized and not self.profile.stated

    # --- walks

    def run(self, pixel_values: Array) -> None:
        """Judge all taps; fills `judgements`, `findings`, `unchecked` and `complete`."""
        try:
            wrong = self._judge_all(pixel_values, dumped_amiss=False)
        except ValueError:  # the port's tensors do not fit together: of wrong shapes, none is worked on
            self._keeps_shapes = False
            wrong = self._judge_all(pixel_values, dumped_amiss=False)
        # Values at another place may be a mistake of the dump or of the port: of the two, that which blames fewer.
        if self._misplaced and self._judge_all(pixel_values, dumped_amiss=True) >= wrong:
            self._judge_all(pixel_values, dumped_amiss=False)
        if self._coarse:
            self._calibrate(pixel_values)
        if any(finding.kind == "error" for finding in self.findings):
            self._prove(pixel_values)
        self._look_closer(pixel_values)

    def _judge_all(self, pixel_values: Array, *, dumped_amiss: bool) -> int:
        """The first walk; the number of taps that are wrong.

        Where a tap's values stand in another order or under another name, the next layer works on those that belong
        there if `dumped_amiss`, and else on those that are there.
        """
        self.judgements, self.findings, self.unchecked = list(self._start_judgements), list(self._start_findings), []
        self._instead, self._coarse, self._made_by = {}, {}, {}
        self._dumped_amiss, self._misplaced, self._gap, self._looked_up = dumped_amiss, False, False, 0

        def meet(name: str, x: Any) -> Bounded | Deferred:
            expected, given = forced(x), self.given(name)
            if given is None:
                return self._missing(name, expected)
            return self._judge(name, _whole(expected), given)

        self._walk(pixel_values, self.profile, "fail", meet)
        self._excuse_followers()
        return sum(finding.severity == "fail" for finding in self.findings)

    def _walk(
        self,
        pixel_values: Array,
        profile: Profile,
        tier: Tier,
        meet: Meet,
        seed: int | None = None,
        changes: Sequence[Change] = (),
        known: Callable[[str], Any] = lambda name: None,
    ) -> None:
        generator = None if seed is None else np.random.default_rng(seed)
        table = Arithmetic(profile, tier, generator, step=lambda: self._step).table()
        errors = self.parameter_errors if profile.stated else {}

        def step_on(name: str, x: Any) -> Any:
            answer = meet(name, x)
            self._step = self._step_after(name)
            return answer

        self._step = self._step_after("pixel_values")
        start = Bounded(np.asarray(pixel_values, np.float64))
        replay(self.model, start, table, step_on, errors, changes, known)

    def walk_again(
        self,
        pixel_values: Array,
        profile: Profile,
        tier: Tier,
        visit: Visit,
        *,
        only: Collection[str] | None = None,
        seed: int | None = None,
        changes: Sequence[Change] = (),
    ) -> None:
        """Walk as before, over the same tensors of the port, and visit the taps that it gave, or some of them.

        `visit` is told the tap, the lazy expected value, see :meth:`settled`, and the port's. Blocks without a tap to
        visit are passed over.
        """
        inside = None if only is None else {outer for tap in only for outer in enclosing(tap)}

        def go_on(name: str, found: Array) -> Bounded:
            self._last = found
            return self._resumed(name, found)

        def meet(name: str, expected: Any) -> Any:
            given = self.given(name)
            if given is None or not name:
                return self._resumed(name, forced(expected).value) if self._is_injected(name) else expected
            found = np.asarray(given, np.float64)
            if only is None or name in only:
                visit(name, expected, found)
            if name not in self._instead:
                return go_on(name, found)
            instead = self._instead[name]
            if instead is None or changes:
                value = _whole(forced(expected)).value
                # what does not belong there may be just what a mistake makes
                made = bool(changes) and value.shape == found.shape and bool(np.isfinite(found).all())
                instead = found if made else value if instead is None else instead
            return self._resumed(name, instead)

        def known(name: str) -> Bounded | None:
            if inside is None or name in inside or (changes and name in self._instead):
                return None
            found = self._instead.get(name, self.given(name))
            if found is None:
                return None
            self._step = self._step_after(name)
            return go_on(name, np.asarray(found, np.float64))

        self._walk(pixel_values, profile, tier, meet, seed, changes, known)

    def settled(self, expected: Any, found: Array) -> Bounded | None:
        """The value that `walk_again` tells of; None if it rests on a tap that could not be used."""
        value = _whole(forced(expected))
        return None if value.tainted else self._own_copy(value, found)

    def _is_injected(self, name: str) -> bool:
        return self.injected is not None and _found_under(name, self.injected) is not None

    def _injected(self, name: str, shape: tuple[int, ...]) -> Array | None:
        recorded = None if self.injected is None else _found_under(name, self.injected)
        if self.injected is None or recorded is None:
            return None
        value = np.asarray(self.injected[recorded], np.float64)
        if value.shape != shape:
            raise BundleError(
                f"inputs: {name} has the shape {value.shape}, but {shape} belongs to these pixel_values; record the "
                "inputs from the same picture",
                "bundle-inputs",
            )
        if not np.isfinite(value).all():
            raise BundleError(f"inputs: {name} holds NaN or infinity; record it again", "bundle-inputs")
        return value

    def _resumed(self, name: str, value: Array, *, tainted: bool = False) -> Bounded:
        """What the next layer works on after a tap of this value: that, or what was injected in its place, which the
        port may have rounded."""
        injected = self._injected(name, value.shape)
        if injected is None:
            return Bounded(value, tainted=tainted)
        return Bounded(injected, max(self.profile.operand, self.profile.store) * np.abs(injected))

    def _missing(self, name: str, x: Bounded | Deferred) -> Bounded | Deferred:
        """Go on without a tap: the bound is carried on, and the next judgement spans it. But a layer that ran on a
        recorded tensor begins there."""
        if not name or isinstance(x, Deferred):
            return x
        if not is_extra(name):
            self.unchecked.append(name)
            self._reached_end = x.error is None and not x.tainted  # the last tap decides
        if self._injected(name, x.shape) is None:
            return dataclasses.replace(x, spans=(*x.spans, name))
        self._gap |= x.error is not None
        return self._resumed(name, x.value)

    # --- judging one tap

    def _own_copy(self, expected: Bounded, found: Array) -> Bounded:
        """With injection, a tap that only repeats the one before may show what the layer made or what was injected."""
        repeats = self.injected is not None and not expected.made_by and np.array_equal(found, self._last)
        return Bounded(self._last) if repeats else expected

    def _judge(self, name: str, expected: Bounded, given: NDArray[Any]) -> Bounded:
        found = np.asarray(given, np.float64)
        expected = self._own_copy(expected, found)
        self._reached_end = True
        tolerance = np.zeros(expected.shape) if expected.error is None else expected.error
        if found.shape != expected.shape and expected.tainted:  # another shape may come of another shape
            self.unchecked.append(name)
            self._instead[name] = None
            return expected
        if found.shape != expected.shape:
            return self._misshapen(name, expected, found, tolerance)
        finite = np.isfinite(found)
        if not finite.all():
            seen = reinterpreted(given, expected.value, tolerance)
            if seen is None:
                return self._not_finite(name, expected, found, finite)
            message = f"the values are right, but {seen.description}"
            self._add(_unmeasured(name, expected, found.shape), Finding(name, "fail", "layout", message))
            self._instead[name] = seen.restored
            return self._resumed(name, seen.restored)
        self._made_by[name] = expected.made_by
        self._last = found
        judgement = compared(name, expected, found, tolerance)
        if judgement.status == "wrong":
            if expected.tainted:  # its input could not be known
                self.unchecked.append(name)
                return self._resumed(name, found)
            self._looked_up += 1
            looks = self._looked_up <= LOOKED_UP
            other = self._explained(name, expected, given, tolerance) if looks else None
            self._misplaced |= other is not None
            if other is not None and self._dumped_amiss:
                self._add(judgement, other[0])
                self._instead[name] = other[1]
                return self._resumed(name, other[1])
            message = _sentence(judgement) + self._about_integers(name, given)
            self._add(judgement, Finding(name, "fail", "error", message))
        else:
            if judgement.test == "local" and coarse(tolerance, expected):
                self._coarse[name] = Coarse(len(self.judgements), expected.value, found, tolerance)
            self._add(judgement)
        return self._resumed(name, found)

    def _about_integers(self, name: str, given: NDArray[Any]) -> str:
        """What may be the reason for wrong integers."""
        stated = _found_under(name, self.candidate.ranges)
        if stated is None:
            return f"; it holds {given.dtype} without a scale" if given.dtype.kind in "iu" else ""
        low, high = self.candidate.ranges[stated]
        at_the_ends = int(np.count_nonzero((given <= low) | (given >= high)))
        return f"; {at_the_ends} elements are at the ends of what it can hold" if at_the_ends else ""

    def _add(self, judgement: Judgement, *findings: Finding) -> None:
        self.judgements.append(judgement)
        self.findings.extend(findings)

    def _explained(
        self, name: str, expected: Bounded, given: NDArray[Any], tolerance: Array
    ) -> tuple[Finding, Array] | None:
        """What may be a mistake of the dump and not of the port, axes or bytes in another order or the values of
        another tap, and the values that belong here."""
        seen = reinterpreted(given, expected.value, tolerance) or layout(
            np.asarray(given, np.float64), expected.value, tolerance
        )
        if seen is not None:
            message = f"the values are right, but {seen.description}: the dump is laid out in another way"
            return Finding(name, "fail", "layout", message), seen.restored
        own = _found_under(name, self.candidate.tensors)
        tensors = self.candidate.tensors  # perhaps read one by one: not all of them at once; its own does not fit
        holder = misnamed(expected.value, tolerance, tensors)
        if holder is None:
            return None
        twin = next((other for other in tensors if other != own and np.array_equal(tensors[other], given)), None)
        same = f"holds the same as {twin[:200]}, and " if twin is not None else ""
        message = f"{same}what belongs here was dumped as {holder[:200]}"
        return Finding(name, "fail", "misnamed", message), np.asarray(self.candidate.tensors[holder], np.float64)

    def _misshapen(self, name: str, expected: Bounded, found: Array, tolerance: Array) -> Bounded:
        seen = layout(found, expected.value, tolerance)
        if seen is not None:
            text = f"the values are right, but {seen.description}: found shape {found.shape} for {expected.shape}"
            finding = Finding(name, "fail", "layout", text)
            instead: Array | None = seen.restored
        else:
            text = f"expected shape {expected.shape}, found {found.shape}"
            finding = Finding(name, "fail", "shape", text)
            instead = found if self._keeps_shapes and self._is_usable(found, expected.value) else None
        self._instead[name] = instead
        self._add(_unmeasured(name, expected, found.shape), finding)
        return self._resumed(name, expected.value if instead is None else instead, tainted=instead is None)

    def _is_usable(self, found: Array, expected: Array) -> bool:
        """Whether the next layer can work on a tensor of another shape: maps of another size, more or fewer tokens."""
        channel = {4: 1, 3: 2}.get(expected.ndim)
        alike = channel is not None and found.ndim == expected.ndim and found.shape[channel] == expected.shape[channel]
        return alike and found.size > 0 and bool(np.isfinite(found).all()) and self.injected is None

    def _not_finite(self, name: str, expected: Bounded, found: Array, finite: NDArray[np.bool_]) -> Bounded:
        mended = np.where(finite, found, expected.value)
        self._instead[name] = mended
        if expected.tainted:
            self.unchecked.append(name)
            return self._resumed(name, mended, tainted=True)
        index = tuple(int(i) for i in np.argwhere(~finite)[0])
        text = (
            f"{np.count_nonzero(~finite)} of {found.size} elements are NaN or infinite; the first is {found[index]} at "
            f"index {index}, where {expected.value[index]:.6g} is expected"
        )
        finding = Finding(name, "fail", "non-finite", text)
        self._add(_unmeasured(name, expected, found.shape, index, found[index]), finding)
        return self._resumed(name, mended, tainted=True)

    def _excuse_followers(self) -> None:
        """Of several wrong taps that rest on one value without a tap, and with nothing right beside them that rests
        on it, blame the first: the mistake is in that value."""
        wrong = {finding.tap for finding in self.findings if finding.kind == "error"}
        users: dict[int, list[str]] = {}
        for name, operations in self._made_by.items():
            for operation in operations:
                users.setdefault(operation, []).append(name)
        for names in users.values():
            first, *followers = names
            if wrong.issuperset(names):
                for name in followers:
                    self._excuse(name, first)

    def _excuse(self, name: str, first: str) -> None:
        text = (
            f"is wrong too, but rests on a value without a tap that it shares with {first}: "
            "mend that first, and check again"
        )
        self.findings = [f for f in self.findings if f.tap != name]
        self.findings.append(Finding(name, "note", "shared", text))

    # --- more about what was judged

    def _calibrate(self, pixel_values: Array) -> None:
        """Judge the taps with coarse tolerances by what simulated roundings do to them."""
        sums = {name: np.zeros_like(coarse.expected) for name, coarse in self._coarse.items()}

        def visit(name: str, x: Any, found: Array) -> None:
            if (value := self.settled(x, found)) is not None:
                sums[name] += np.square(value.value - self._coarse[name].expected)

        for seed in range(RUNS):
            self.walk_again(pixel_values, self.profile, "sample", visit, only=sums, seed=seed)
        for name, coarse in self._coarse.items():
            variance = sums[name] / RUNS
            axes = tuple(range(2, variance.ndim)) if variance.ndim == 4 else tuple(range(variance.ndim - 1))
            variance = np.maximum(variance, variance.mean(axes, keepdims=True))
            tolerance = np.minimum(DEVIATIONS * np.sqrt(variance), coarse.tolerance)
            before = self.judgements[coarse.position]
            expected = Bounded(coarse.expected, coarse.tolerance, spans=before.region)
            judgement = compared(name, expected, coarse.found, tolerance)
            self.judgements[coarse.position] = dataclasses.replace(judgement, test="screened")
            if judgement.status == "wrong":
                self.findings.append(Finding(name, "fail", "error", _sentence(judgement)))
        self._sort_findings()

    def _prove(self, pixel_values: Array) -> None:
        """Mark the failures that no order of roundings explains."""
        wrong = {f.tap for f in self.findings if f.kind == "error"}
        proven: set[str] = set()

        def visit(name: str, x: Any, found: Array) -> None:
            if (expected := self.settled(x, found)) is not None:
                tolerance = 0.0 if expected.error is None else expected.error
                if not (np.abs(found - expected.value) <= tolerance).all():
                    proven.add(name)

        self.walk_again(pixel_values, self.profile, "proof", visit, only=wrong)
        self.judgements = [
            dataclasses.replace(judgement, proof=judgement.tap in proven) for judgement in self.judgements
        ]

    def _look_closer(self, pixel_values: Array) -> None:
        """Compare with the usual errors, and look for structure below the tolerance."""
        positions = {judgement.tap: i for i, judgement in enumerate(self.judgements)}
        systematic = self.profile.store or PROFILES["fp32"].store

        def visit(name: str, x: Any, found: Array) -> None:
            i = positions.get(name)
            if i is None or name in self._coarse or name in self._instead:
                return
            expected = self.settled(x, found)
            if expected is None or expected.error is None:
                return
            judgement = self.judgements[i]
            with np.errstate(divide="ignore"):
                shares = np.abs(found - expected.value) / np.maximum(expected.error, np.finfo(np.float64).tiny)
            largest = float(shares.max(initial=0))
            judgement = dataclasses.replace(judgement, screen=largest)
            if judgement.status == "right":
                odd = [
                    Finding(name, "unusual", "structure", anomaly.message)
                    for anomaly in anomalies(found, expected.value, expected.error, systematic)
                ]
                if largest > UNUSUAL:
                    text = f"right, but {largest:.1f} times as far off as sound arithmetic usually is"
                    odd.insert(0, Finding(name, "unusual", "screen", text))
                if odd:
                    judgement = dataclasses.replace(judgement, status="unusual")
                    self.findings.extend(odd)
            self.judgements[i] = judgement

        if self.judges_usual:
            self.walk_again(pixel_values, self.profile, "usual", visit)
        self._sort_findings()

    def _sort_findings(self) -> None:
        place = {name: i for i, name in enumerate(["pixel_values", *self.order])}
        self.findings.sort(key=lambda finding: place.get(finding.tap, len(place)))

    # --- which arithmetic it is

    def behaviour(self, pixel_values: Array) -> str | None:
        """The tightest profile that explains all taps; None if there is none."""
        wrong = [finding for finding in self.findings if finding.severity == "fail"]
        if any(finding.kind != "error" for finding in wrong):
            return None
        for name in (self.profile.name,) if self.profile.stated else BEHAVIOURS:
            declared = name == self.profile.name
            if not wrong if declared else self._explains(PROFILES[name], pixel_values):
                return name
        return None

    def _explains(self, profile: Profile, pixel_values: Array) -> bool:
        def visit(name: str, x: Any, found: Array) -> None:
            expected = self.settled(x, found)
            if expected is None:
                return
            tolerance = np.zeros(expected.shape) if expected.error is None else expected.error
            if not (np.abs(found - expected.value) <= tolerance).all():
                raise _TooFar
            if profile != self.profile and coarse(tolerance, expected):
                raise _TooFar  # so wide a tolerance would explain anything
            if profile.store > PROFILES["fp32"].store and not representable(found, profile.store):
                raise _TooFar

        try:
            self.walk_again(pixel_values, profile, "fail", visit)
        except _TooFar:
            return False
        return True


def _advice_on_shape(shape: tuple[int, ...], channels: int) -> str:
    if len(shape) == 4 and shape[3] == channels:
        return "; these seem to be N, H, W, C: transpose them, or declare the layout in a manifest"
    if len(shape) == 3:
        return "; the axis of the pictures seems to be missing"
    return ""


def _is_dropout(name: str) -> bool:
    return name.rpartition(".")[2] == "dropout"


def _whole(x: Bounded | Deferred) -> Bounded:
    return x.whole() if isinstance(x, Deferred) else x


def _parameter_errors(parameters: Mapping[str, Array], scales: Mapping[str, float]) -> dict[str, float | Array]:
    """How far the port's parameters may be from the network's: a step of the scales that it states.

    Those of "X.weight" and "X.bias", where X is a convolution layer, are of the convolution with its normalisation
    folded in, ``gamma / s * W`` and the bias that goes with it (:func:`npmobilevit.engine.folding.convolution`): a
    step of the folded weight is s / gamma steps of W.
    """
    errors: dict[str, float | Array] = {
        name: scales[stated] for name in parameters if (stated := _found_under(name, scales)) is not None
    }
    for name in parameters:
        layer, _, leaf = name.rpartition(".convolution.")
        if leaf != "weight":
            continue
        norm = f"{layer}.normalization"
        folded = f"{norm}.weight" in parameters
        weight, bias = (_found_under(f"{layer}.{leaf}", scales) for leaf in ("weight", "bias"))
        shift = f"{norm}.bias" if folded else f"{layer}.convolution.bias"
        if weight is not None:
            errors[name] = scales[weight] / _factor(parameters, norm) if folded else scales[weight]
        if bias is not None and shift in parameters:
            errors[shift] = scales[bias]
    return errors


def _factor(parameters: Mapping[str, Array], norm: str) -> Array:
    """What a normalisation multiplies each channel by, (O, 1, 1, 1); not quite 0 where it switches one off."""
    factor = np.maximum(np.abs(batch_norm_factor(parameters, norm)), 1e-100)
    return np.asarray(factor[:, np.newaxis, np.newaxis, np.newaxis])


def _found_under(name: str, entries: Mapping[str, Any]) -> str | None:
    """The spelling of a tap's name, with or without the prefix, under which there is an entry."""
    spellings = (name, name.removeprefix("mobilevit."), f"mobilevit.{name}")
    return next((spelling for spelling in spellings if spelling in entries), None)


def representable(x: Array, unit: float) -> bool:
    """Whether all values are float16 (unit 2**-11) or bfloat16 (2**-8) numbers."""
    if unit == BFLOAT16:
        return bool((x.astype(np.float32).view(np.uint32) & 0xFFFF == 0).all())
    with np.errstate(over="ignore"):
        return bool((x.astype(np.float16) == x).all())


def compared(name: str, expected: Bounded, found: Array, tolerance: Array) -> Judgement:
    """The judgement of a finite tap of the right shape."""
    test: Test = "exact" if expected.error is None else "local"
    return compare(name, found, expected.value, tolerance, region=expected.spans, test=test)


def _unmeasured(
    name: str, expected: Bounded, shape: tuple[int, ...], worst: tuple[int, ...] = (), found: float = math.nan
) -> Judgement:
    """The judgement of a tap that cannot be compared."""
    return unmeasured(
        name,
        shape,
        region=expected.spans,
        test="exact" if expected.error is None else "local",
        worst=worst,
        found=float(found),
        expected=float(expected.value[worst]) if worst else math.nan,
        scale=root_mean_square(expected.value),
    )


def coarse(tolerance: Array, expected: Bounded) -> bool:
    """Whether a tolerance is too wide for its tap to say much."""
    limit = COARSE_REGION if any(not is_extra(name) for name in expected.spans) else COARSE
    return bool(tolerance.size) and not float(np.median(tolerance)) <= limit * root_mean_square(expected.value)


def _sentence(judgement: Judgement) -> str:
    """What is wrong with a tap."""
    if math.isinf(judgement.ratio):
        return "is not what its own input gives, and no difference is allowed there"
    return f"is not what its own input gives, by {judgement.ratio:.3g} times its tolerance"
