"""What studies keep of a report."""

from __future__ import annotations

import sys

from resumable import Json

from npmobilevit.validation.report import Report


def digest(report: Report) -> Json:
    """The verdict and what it stands on, as numbers and strings."""
    ratios = [judgement.ratio for judgement in report.judgements]
    return {
        "verdict": report.verdict,
        "behaves_as": report.behaves_as,
        "alarms": [f"{finding.tap}: {finding.message}" for finding in report.failures],
        "unusual": [finding.tap for finding in report.findings if finding.severity == "unusual"],
        "judgements": len(ratios),
        "largest_ratio": min(max(ratios), sys.float_info.max),  # infinite where no difference is allowed
    }
