"""Validation of other implementations: every layer of a port judged on its own input.

``check(candidate, model)`` gives a :class:`Report`; ``record(model, pixel_values)`` a :class:`Bundle` of what the port
should have given. ``check_backend(backend, model)`` runs the port itself.
"""

from npmobilevit.validation.backends import Backend, BackendReport, check_backend
from npmobilevit.validation.bundles import Bundle, record
from npmobilevit.validation.candidates import Candidate, read_candidate
from npmobilevit.validation.checking import check
from npmobilevit.validation.exports import export
from npmobilevit.validation.report import Finding, Judgement, Report

__all__ = [
    "Backend",
    "BackendReport",
    "Bundle",
    "Candidate",
    "Finding",
    "Judgement",
    "Report",
    "check",
    "check_backend",
    "export",
    "read_candidate",
    "record",
]
