"""Which mistake it is: what lies before a failing tap is run again under every mistake of the catalogue.

A mistake explains a tap if with it the network makes of the port's own tensors what the port has, within the same
tolerance as the truth is allowed, and if it leaves no more than a part of the difference. The smallest failing tap is
tried under the whole catalogue; what explains it is tried on all others before the next is looked at. Where nothing
explains a tap the answer is "unknown", with the mistakes that come nearest and with what can be seen of the difference.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from npmobilevit.ops.arrays import Array
from npmobilevit.validation.bounds import Bounded, Tier
from npmobilevit.validation.lazy import Lazy
from npmobilevit.validation.mutants import CATALOGUE, Change, Mutant, Site, mutant_named
from npmobilevit.validation.profiles import PROFILES
from npmobilevit.validation.report import Diagnosis, Finding, NearMiss
from npmobilevit.validation.structure import anomalies, differences
from npmobilevit.validation.trial import UNUSUAL, Trial, coarse

# Kinds of findings that a mistake of the catalogue may explain.
SUSPECT = ("error", "shape", "non-finite")
MOVED = ("layout", "misnamed")  # of the dump, most likely
BELOW = ("structure", "screen")  # right taps with something odd about them

# Of the difference, what an explanation may leave: rounding is part of a difference that is just beyond its tolerance.
# A number that can be chosen has to leave less.
LEFT, LEFT_CHOSEN, LEFT_COARSE, LEFT_BELOW = 0.5, 0.2, 0.1, 0.8
SOUND = 3.0  # z up to which nothing odd is left

NEAR = 0.6  # of the difference, left by what is called near
MOST_NEAR = 3
MOST_ALSO = 3
MOST_UNKNOWN = 2  # taps of one kind that are tried under the whole catalogue without success
MOST_IN_PAIRS = 10  # mistakes that are tried two at a time
LARGE = 150  # operations in a region, from which on no numbers are searched for, nothing fitted and no pairs tried
SEARCHES = 24  # steps of the search for a number
VALUES = 24  # values of one mistake tried at a tap


# What a mistake raises where it cannot be made, as shapes do not fit.
IMPOSSIBLE = (ValueError, TypeError, IndexError, ArithmeticError)

Parts: TypeAlias = tuple[tuple[Mutant, Any], ...]  # mistakes and their values


class Attempt(NamedTuple):
    """One mistake, or several, tried on a tap.

    `remaining` is the root mean square of what it leaves over that of the difference; infinite if it makes a tensor of
    another shape, or none.
    """

    parts: Parts
    explains: bool
    remaining: float

    @property
    def changes(self) -> tuple[Change, ...]:
        return tuple(change for mutant, value in self.parts for change in mutant.make(value))

    @property
    def name(self) -> str:
        return " + ".join(mutant.name for mutant, _ in self.parts)

    @property
    def description(self) -> str:
        return "; and ".join(mutant.sentence(value) for mutant, value in self.parts)

    @property
    def freedom(self) -> int:
        """How little it takes to explain something in this way."""
        return max(2 * mutant.by_shape + mutant.fitted for mutant, _ in self.parts)


class _Enough(Exception):
    """All taps of interest were visited."""


def diagnosed(trial: Trial, pixel_values: Array, catalogue: Sequence[Mutant] = CATALOGUE) -> list[Finding]:
    """The findings of a trial with their causes.

    Parameters
    ----------
    trial : Trial
        After its run.
    pixel_values : array
        What it ran on.
    catalogue : sequence of Mutant

    Returns
    -------
    list of Finding
        In the same order. A tap that is right, but odd in a way that one mistake explains away, becomes a failure.
    """
    ward = _Ward(trial, pixel_values, catalogue)
    suspects = {f.tap for f in trial.findings if f.kind in SUSPECT and f.severity == "fail"}
    moved = [f.tap for f in trial.findings if f.kind in MOVED]
    causes = ward.explained(suspects.union(moved), "fail", briefly=moved[1:])
    # where factors are narrower than sums, digits that are cut off look like many a mistake
    if trial.judges_usual and trial.profile.operand <= trial.profile.accumulate:
        odd = {f.tap for f in trial.findings if f.kind in BELOW}
        causes |= ward.explained(odd, "usual")
    findings: list[Finding] = []
    below: set[str] = set()  # taps whose oddities are explained together
    for finding in trial.findings:
        answer = causes.get(finding.tap)
        if finding.kind in BELOW and answer is not None and answer.attempt is not None:
            if finding.tap in below:
                continue
            below.add(finding.tap)
        findings.append(_with_cause(finding, answer))
    return findings


class _Ward:
    """The taps of one trial that want an explanation."""

    def __init__(self, trial: Trial, pixel_values: Array, catalogue: Sequence[Mutant]) -> None:
        self.trial = trial
        self.pixel_values = pixel_values
        self.catalogue = catalogue
        self.sizes = {judgement.tap: math.prod(judgement.shape) for judgement in trial.judgements}
        self.misshapen: set[str] = set()

    def explained(self, taps: set[str], tier: Tier, briefly: Sequence[str] = ()) -> dict[str, _Answer]:
        """What is found out about each tap; of some `briefly`, whether it is what others turned out to be."""
        differences = self._differences(taps)
        # first what has another shape, in forward order, for what follows may come of it; then the cheapest
        waiting = sorted(differences, key=lambda tap: 0 if math.isnan(differences[tap]) else self.sizes.get(tap, 0))
        answers: dict[str, _Answer] = {}
        unknown: Counter[str] = Counter()
        known: dict[str, Mutant] = {}  # of taps before
        while whole := [tap for tap in waiting if tap not in briefly]:
            tap = whole[0]
            if unknown[_kind(tap)]:  # a smaller one is unknown: what is fitted wants many elements
                tap = [other for other in whole if _kind(other) == _kind(tap)][-1]
            waiting.remove(tap)
            if unknown[_kind(tap)] >= MOST_UNKNOWN:
                continue
            bench = _Bench(self, tap, differences, tier)
            answers[tap] = answer = bench.answer(waiting, known.values())
            if answer.attempt is None:
                unknown[_kind(tap)] += 1
                continue
            known |= {mutant.name: mutant for mutant, _ in answer.attempt.parts}
            explained = bench.tried(answer.attempt.parts, waiting)
            for tap, attempt in explained.items():
                if attempt.explains:
                    answers[tap] = answer._replace(attempt=attempt)
            waiting = [tap for tap in waiting if tap not in answers]
        return answers

    def _differences(self, taps: set[str]) -> dict[str, float]:
        """Root mean square of the port's difference at each tap; of the port's own values where that has no meaning."""
        found: dict[str, float] = {}

        def visit(tap: str, expected: Any, given: Array) -> None:
            value = self.trial.settled(expected, given)
            if value is not None:
                if given.shape != value.shape:
                    self.misshapen.add(tap)
                comparable = tap not in self.misshapen and bool(np.isfinite(given).all())
                found[tap] = _rms(given - value.value) if comparable else math.nan

        self.visit(taps, visit, "fail", ())
        return found

    def visit(self, taps: Iterable[str], visit: Any, tier: Tier, changes: Sequence[Change]) -> None:
        """Walk with changes, and visit some taps."""
        left = set(taps)

        def meet(tap: str, expected: Any, found: Array) -> None:
            left.discard(tap)
            visit(tap, expected, found)
            if not left:
                raise _Enough

        try:
            with np.errstate(all="ignore"):
                profile = self.trial.profile
                self.trial.walk_again(self.pixel_values, profile, tier, meet, only=left.copy(), changes=changes)
        except (_Enough, *IMPOSSIBLE):
            pass


class _Answer(NamedTuple):
    """What is found out about a tap."""

    attempt: Attempt | None
    also: tuple[str, ...] = ()
    near: tuple[NearMiss, ...] = ()
    seen: str = ""


class _Bench:
    """One tap, and the catalogue tried on it."""

    def __init__(self, ward: _Ward, tap: str, differences: Mapping[str, float], tier: Tier) -> None:
        self.ward = ward
        self.tap = tap
        self.differences = differences
        self.tier = tier
        self.bounded: Bounded | None = None
        self.site: Site | None = None

        def visit(tap: str, expected: Any, found: Array) -> None:
            lazy = expected if isinstance(expected, Lazy) else Lazy(lambda x: x, (expected,))
            self.bounded = ward.trial.settled(lazy, found)
            if self.bounded is not None:
                self.site = Site(tap, self.bounded.value, found, lazy, ward.trial.model.config)

        ward.visit([tap], visit, tier, ())

    def answer(self, others: Sequence[str], known: Iterable[Mutant]) -> _Answer:
        """What explains the tap: of mistakes that explained others before, or of all."""
        if self.site is None or self.bounded is None:
            return _Answer(None)
        for catalogue in (known, self.ward.catalogue):
            attempts = [attempt for mutant in self._applicable(catalogue) for attempt in self._attempts(mutant)]
            explaining = [attempt for attempt in attempts if attempt.explains]
            if explaining:
                break
        if not explaining and self.looks_closer:
            explaining = list(self._pairs(attempts))
        if explaining:
            best = self._best(explaining, others)
            also = dict.fromkeys(a.description for a in explaining if a.name != best.name and a.freedom == best.freedom)
            return _Answer(best, tuple(also)[:MOST_ALSO])
        nearest = sorted((a for a in attempts if a.remaining < NEAR), key=lambda a: a.remaining)
        names: dict[str, NearMiss] = {}
        for a in nearest:
            names.setdefault(a.name, NearMiss(a.name, a.description, a.remaining))
        tolerance = np.zeros(self.bounded.shape) if self.bounded.error is None else self.bounded.error
        seen = differences(self.site.found, self.site.expected, tolerance) if self.tier == "fail" else ""
        return _Answer(None, near=tuple(names.values())[:MOST_NEAR], seen=seen)

    @property
    def looks_closer(self) -> bool:
        """Whether numbers are searched for, and pairs tried."""
        assert self.site is not None
        return self.tier == "fail" and sum(1 for _ in self.site.result.calls()) < LARGE

    def _applicable(self, catalogue: Iterable[Mutant]) -> Iterator[Mutant]:
        assert self.site is not None
        for mutant in catalogue:
            try:
                free = mutant.fitted and not self.looks_closer  # anything would explain what is hardly there
                with np.errstate(all="ignore"):
                    if not free and mutant.applies_to(self.site):
                        yield mutant
            except IMPOSSIBLE:
                continue

    def _attempts(self, mutant: Mutant) -> list[Attempt]:
        """The mistake with each of its values, or with the number that is nearest."""
        assert self.site is not None
        attempts = []
        for value in itertools.islice(self._values(mutant), VALUES):
            if self.tier == "usual" and mutant.continuous and value != float(f"{value:.0e}"):
                continue  # a free number explains a slope, whatever it comes from
            attempts.append(self._try(((mutant, value),)))
            if attempts[-1].explains and mutant.fitted:
                return attempts
        if self.looks_closer and mutant.continuous and attempts and not any(attempt.explains for attempt in attempts):
            attempts += self._search(mutant, attempts)
        return attempts

    def _values(self, mutant: Mutant) -> Iterator[Any]:
        assert self.site is not None
        try:
            with np.errstate(all="ignore"):
                yield from mutant.values(self.site)
        except IMPOSSIBLE:
            return

    def _search(self, mutant: Mutant, attempts: Sequence[Attempt]) -> Iterator[Attempt]:
        """Golden section for the number that leaves least, and the roundest number near it that explains."""
        positive = [attempt for attempt in attempts if attempt.parts[0][1] > 0 and math.isfinite(attempt.remaining)]
        if not positive:
            return
        start = math.log10(min(positive, key=lambda attempt: attempt.remaining).parts[0][1])
        low, high = start - 1.5, start + 1.5
        golden = (math.sqrt(5) - 1) / 2
        inner = [high - golden * (high - low), low + golden * (high - low)]
        left = [self._try(((mutant, 10**x),)).remaining for x in inner]
        for _ in range(SEARCHES):
            if left[0] <= left[1]:
                high, inner = inner[1], [inner[1] - golden * (inner[1] - low), inner[0]]
                left = [self._try(((mutant, 10 ** inner[0]),)).remaining, left[0]]
            else:
                low, inner = inner[0], [inner[1], inner[0] + golden * (high - inner[0])]
                left = [left[1], self._try(((mutant, 10 ** inner[1]),)).remaining]
        best = 10 ** ((low + high) / 2)
        for digits in range(1, 8):
            attempt = self._try(((mutant, float(f"{best:.{digits - 1}e}")),))
            if attempt.explains or digits == 7:
                yield attempt
                return

    def _pairs(self, attempts: Sequence[Attempt]) -> Iterator[Attempt]:
        """Two mistakes at once: those that are nearest by themselves."""
        # what changes nothing here leaves all
        usable = [a for a in attempts if math.isfinite(a.remaining) and abs(a.remaining - 1) > 1e-6 and not a.freedom]
        nearest: dict[str, Attempt] = {}
        for a in sorted(usable, key=lambda a: a.remaining):
            nearest.setdefault(a.name, a)
        chosen = list(nearest.values())[:MOST_IN_PAIRS]
        for one, other in itertools.combinations(chosen, 2):
            if one.parts[0][0].id == other.parts[0][0].id:
                continue  # two forms of one mistake are no two mistakes
            attempt = self._try((*one.parts, *other.parts))
            if attempt.explains:
                yield attempt

    def _best(self, explaining: Sequence[Attempt], others: Sequence[str]) -> Attempt:
        """That which explains most other taps; of equals, the one that leaves least."""
        least = min(attempt.freedom for attempt in explaining)
        usual = [attempt for attempt in explaining if attempt.freedom == least]
        if len({attempt.name for attempt in usual}) == 1:
            return min(usual, key=lambda attempt: attempt.remaining)

        def reach(attempt: Attempt) -> int:
            return sum(other.explains for other in self.tried(attempt.parts, others).values())

        def size(attempt: Attempt) -> int:  # in steps of a factor of about three
            return round(2 * math.log10(attempt.remaining + 1e-12))

        return max(usual, key=lambda attempt: (reach(attempt), -size(attempt)))

    def _try(self, parts: Parts) -> Attempt:
        """Mistakes tried on this tap; what is far off is not looked at twice."""
        nothing = Attempt(parts, False, math.inf)
        if self.tier == "fail":
            glance = self.tried(parts, [self.tap], "value").get(self.tap, nothing)
            if glance.remaining > LEFT and not glance.explains:
                return glance
        return self.tried(parts, [self.tap]).get(self.tap, nothing)

    def tried(self, parts: Parts, taps: Sequence[str], tier: Tier | None = None) -> dict[str, Attempt]:
        """Mistakes tried on several taps; in the tier "value" without a word on whether they explain them."""
        trial = self.ward.trial
        found: dict[str, Attempt] = {}

        def visit(tap: str, expected: Any, given: Array) -> None:
            value = trial.settled(expected, given)
            if value is None or value.shape != given.shape:
                return
            whole = self.differences[tap]
            if math.isnan(whole):  # the truth has another shape, or the port no number
                whole = _rms(given)
            remaining = _rms(given - value.value) / (whole or math.inf)
            by_shape = tap in self.ward.misshapen and any(mutant.by_shape for mutant, _ in parts)
            allowed = LEFT_CHOSEN if any(mutant.continuous for mutant, _ in parts) else LEFT
            explains = by_shape or (tier != "value" and self._within(value, given, remaining, allowed))
            found[tap] = Attempt(parts, explains, remaining)

        self.ward.visit(taps, visit, tier or self.tier, Attempt(parts, False, math.inf).changes)
        return found

    def _within(self, value: Bounded, found: Array, remaining: float, allowed: float) -> bool:
        tolerance = np.zeros(value.shape) if value.error is None else value.error
        difference = np.abs(found - value.value)
        if self.tier == "fail":
            allowed = LEFT_COARSE if coarse(tolerance, value) else allowed
            both_nan = np.isnan(found) & np.isnan(value.value)
            return remaining <= allowed and bool(((difference <= tolerance) | both_nan).all())
        systematic = self.ward.trial.profile.store or PROFILES["fp32"].store
        return (
            remaining <= LEFT_BELOW
            and bool((difference <= UNUSUAL * tolerance).all())
            and not anomalies(found, value.value, tolerance, systematic, SOUND)
        )


def _kind(tap: str) -> str:
    """What a tap has in common with those of other layers."""
    return re.sub(r"\d+", "*", tap)


def _rms(x: Array) -> float:
    """Root mean square of the finite values."""
    x = x[np.isfinite(x)]
    return float(np.sqrt(np.square(x).mean())) if x.size else 0.0


def _with_cause(finding: Finding, answer: _Answer | None) -> Finding:
    attempt = None if answer is None else answer.attempt
    if answer is not None and attempt is not None and finding.kind in (*SUSPECT, *MOVED, *BELOW):
        mutants = [mutant for mutant, _ in attempt.parts]
        diagnosis = Diagnosis(
            attempt.name,
            attempt.description,
            " ".join(mutant.consequence for mutant in mutants),
            " ".join(mutant.fix for mutant in mutants),
            attempt.remaining,
            answer.also,
        )
        return dataclasses.replace(finding, severity="fail", cause=mutants[0].id, diagnosis=diagnosis)
    if finding.kind in MOVED:
        mutant = mutant_named("SYS-05")
        diagnosis = Diagnosis(mutant.name, mutant.description, mutant.consequence, mutant.fix)
        return dataclasses.replace(finding, cause=mutant.id, diagnosis=diagnosis)
    if answer is None or finding.kind not in SUSPECT:
        return finding
    message = f"{finding.message}; {answer.seen}" if answer.seen else finding.message
    return dataclasses.replace(finding, message=message, near=answer.near)
