"""What a check says: one judgement a tap, the findings, and the verdict that follows from them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

Status: TypeAlias = Literal["right", "unusual", "wrong"]
Severity: TypeAlias = Literal["fail", "unusual", "note"]
Verdict: TypeAlias = Literal["pass", "fail", "screened"]
Test: TypeAlias = Literal["local", "exact", "screened"]


@dataclasses.dataclass(frozen=True)
class Finding:
    """Something to tell about one tap.

    Attributes
    ----------
    tap : str
    severity : {"fail", "unusual", "note"}
        Only "fail" decides the verdict.
    kind : str
        Stable name of what was found: "error", "shape", "layout", "misnamed", "non-finite", "extra", "screen",
        "structure", "preprocessing", "probabilities", "labels", "mask".
    message : str
        One sentence.
    cause : str or None
        Id of the mistake in the catalogue, where it could be named.
    """

    tap: str
    severity: Severity
    kind: str
    message: str
    cause: str | None = None


@dataclasses.dataclass(frozen=True)
class Judgement:
    """One tap of the port against what its own inputs should have become.

    Attributes
    ----------
    tap : str
    shape : tuple of int
    region : tuple of str
        Taps that the port did not give and that this judgement spans, in forward order.
    status : {"right", "unusual", "wrong"}
    test : {"local", "exact", "screened"}
        "local": certified tolerance; "exact": data movement, without tolerance; "screened": the certified
        tolerance is too wide to say much, and one that was calibrated by simulated roundings stands in for it.
    error : float
        Largest difference from the expected value.
    worst : tuple of int
        Index of the element that is largest in units of its tolerance, with the values `found` and `expected`
        and the `tolerance` there.
    ratio : float
        That difference over its tolerance: above 1 the tap is wrong; infinite where no difference is allowed.
    beyond : int
        Elements beyond their tolerance.
    screen : float
        Largest difference in units of the usual one: about 1 for sound arithmetic, above 4 unusual.
    resolution : float
        An error of this size in any one element would have been caught.
    scale : float
        Root mean square of the expected values, to see the others against.
    proof : bool
        Whether the difference is beyond what any order of roundings could give, not only beyond the certified
        line.
    """

    tap: str
    shape: tuple[int, ...]
    region: tuple[str, ...]
    status: Status
    test: Test
    error: float
    worst: tuple[int, ...]
    found: float
    expected: float
    tolerance: float
    ratio: float
    beyond: int
    screen: float
    resolution: float
    scale: float
    proof: bool = False


@dataclasses.dataclass(frozen=True)
class Report:
    """The verdict on a port.

    Attributes
    ----------
    model : mapping
        "name", "class", "sha256" of the weights (see `npmobilevit.validation.bundles.weights_sha256`).
    producer : mapping of str to str
        Who made the candidate's tensors, as far as they say.
    profile : str
        The arithmetic that the port declares.
    behaves_as : str or None
        The tightest profile that explains all that was found; None if none does, or a mistake forbids an answer.
    judgements : tuple of Judgement
        In forward order.
    findings : tuple of Finding
        In forward order.
    unchecked : tuple of str
        Taps that the port did not give, in forward order. Where a later tap was judged right, its region covers
        them.
    """

    model: Mapping[str, Any]
    producer: Mapping[str, str]
    profile: str
    behaves_as: str | None
    judgements: tuple[Judgement, ...]
    findings: tuple[Finding, ...]
    unchecked: tuple[str, ...]
    complete: bool

    @property
    def failures(self) -> tuple[Finding, ...]:
        """The findings that decide, in forward order."""
        return tuple(finding for finding in self.findings if finding.severity == "fail")

    @property
    def verdict(self) -> Verdict:
        """ "pass": every region from input to output was judged locally and is right; "fail"; "screened": nothing
        wrong was seen, but somewhere only a calibrated test, or none, was possible."""
        if self.failures:
            return "fail"
        local = all(judgement.test != "screened" for judgement in self.judgements)
        return "pass" if local and self.complete else "screened"

    @property
    def passed(self) -> bool:
        """Whether nothing wrong was seen."""
        return self.verdict != "fail"
