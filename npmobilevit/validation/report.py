"""What a check says: one judgement a tap, the findings, and the verdict that follows from them."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np

from npmobilevit.errors import BundleError, ConfigError
from npmobilevit.files import write_atomically
from npmobilevit.validation import page, texts

Status: TypeAlias = Literal["right", "unusual", "wrong"]
Severity: TypeAlias = Literal["fail", "unusual", "note"]
Verdict: TypeAlias = Literal["pass", "fail", "screened"]
Test: TypeAlias = Literal["local", "exact", "screened"]

SCHEMA = "npmobilevit.check/2"  # grows by one with every change of the JSON


@dataclasses.dataclass(frozen=True)
class Diagnosis:
    """The mistake that explains a tap: with it, the network makes what the port has.

    Attributes
    ----------
    mutant : str
        Name in the catalogue: the id of the row and, where it has several forms, which.
    description : str
        What is found and what is expected.
    consequence : str
    fix : str
    remaining : float
        Root mean square of what it leaves unexplained, over that of the whole difference.
    also : tuple of str
        Descriptions of other mistakes that explain the tap as well.
    """

    mutant: str
    description: str
    consequence: str
    fix: str
    remaining: float = 0.0
    also: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class NearMiss:
    """A mistake that explains much of a tap, but not all of it.

    Attributes
    ----------
    mutant : str
    description : str
    remaining : float
        As in :class:`Diagnosis`.
    """

    mutant: str
    description: str
    remaining: float


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
        "shared", "structure", "preprocessing", "probabilities", "labels", "mask"; of a backend besides "raised",
        "result", "in-place", "unsteady", "state".
    message : str
        One sentence.
    cause : str or None
        Id of the mistake in the catalogue, where it could be named.
    diagnosis : Diagnosis or None
        More about it.
    near : tuple of NearMiss
        Where it could not be named: the mistakes that come nearest.
    """

    tap: str
    severity: Severity
    kind: str
    message: str
    cause: str | None = None
    diagnosis: Diagnosis | None = None
    near: tuple[NearMiss, ...] = ()


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
        Largest difference in units of the usual one: about 1 for sound arithmetic, above 4 unusual. 0 where there
        is no usual one.
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
        Taps that could not be judged, in forward order: those that the port did not give, and those that rest on
        one that could not be used. Where a later tap was judged right, its region covers them.
    complete : bool
        Whether the judgements together span the network from its input to its output.
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
        return "pass" if local and self.complete and self.judgements else "screened"

    @property
    def passed(self) -> bool:
        """Whether nothing wrong was seen."""
        return self.verdict != "fail"

    def to_text(self, *, every_layer: bool = False) -> str:
        """The report for a terminal: ASCII, about 100 columns wide, but names are never broken.

        Parameters
        ----------
        every_layer : bool
            Whether the table has all layers, not only those that are not right.

        Returns
        -------
        str
            The first line is the verdict and its reason.
        """
        return texts.to_text(self, every_layer=every_layer)

    __str__ = to_text

    def to_json(self) -> str:
        """One JSON document in ASCII, as reference/schemas/check-document.json describes it.

        JSON has no infinities and no NaN: they are the strings "Infinity", "-Infinity" and "NaN", which `float` of
        Python and `Number` of JavaScript read.
        """
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        document = {"schema": SCHEMA, "version": version("npmobilevit"), "verdict": self.verdict, **fields}
        return json.dumps(plain(document), indent=2, allow_nan=False)

    def to_html(self) -> str:
        """One page that needs nothing else, in ASCII: no other file, no network, and JavaScript only to sort and to
        filter."""
        return page.to_html(self)

    def _repr_html_(self) -> str:
        """The gist, for notebooks."""
        return page.fragment(self)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the report to a file, whole or not at all. Its folder is made if need be.

        Parameters
        ----------
        path : str or path
            Ends in .json, .html, .htm or .txt, which says what is written.

        Raises
        ------
        ConfigError
            If it ends in anything else (code ``report-suffix``).
        BundleError
            If it cannot be written (code ``report-unwritable``).
        """
        save(self, path)


FORMS = {".json": "to_json", ".html": "to_html", ".htm": "to_html", ".txt": "to_text"}


def require_form(path: str | os.PathLike[str]) -> str:
    """The method that writes the form which the suffix of `path` stands for, or ConfigError."""
    suffix = Path(path).suffix.lower()
    if suffix not in FORMS:
        raise ConfigError(
            f"a report is saved under a name that ends in {', '.join(FORMS)}; found {os.fspath(path)!r}. Choose one of "
            "these.",
            code="report-suffix",
        )
    return FORMS[suffix]


def save(report: Any, path: str | os.PathLike[str]) -> None:
    """Write a report, of a port or of a backend, in the form that the suffix of `path` stands for."""
    path = Path(path)
    form: Callable[[], str] = getattr(report, require_form(path))
    data = f"{form()}\n".encode("ascii", "backslashreplace")
    try:
        write_atomically(path, data)
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        cause = getattr(error, "strerror", None) or error
        raise BundleError(
            f"cannot write the report to {str(path)!r}: {cause}. Choose a place that can be written to.",
            code="report-unwritable",
        ) from error


def plain(value: Any) -> Any:
    """What JSON can hold: our objects as dicts, numbers of NumPy as Python's, and strings for what is not finite."""
    if dataclasses.is_dataclass(value):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    value = value.item() if isinstance(value, np.generic) else value
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value
