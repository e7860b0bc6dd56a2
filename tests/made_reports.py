"""Reports made up by hand, of every kind that a check can end in."""

import math
from typing import Any

import numpy as np

from npmobilevit.validation.report import Diagnosis, Finding, Judgement, NearMiss, Report

MODEL = {"name": "a/model", "class": "MobileViTModel", "sha256": "0123456789abcdef" * 4}

# Names that a port may choose: markup, scripts, directions of writing, control characters, what is no character.
HOSTILE = [
    "</script><script>alert(1)</script>",
    "\"'><img src=https://example.org/x onerror=alert(1)>",
    "<!--",
    "$reason ${style} {name}",
    "a\nb\x00\x1b[31mc",
    "\N{RIGHT-TO-LEFT OVERRIDE}txet",
    "\N{GRINNING FACE}",
    "&lt;&amp;",
    "\ud800",
    "long" * 1000,
    "",
]


def judgement(tap: str, **changes: Any) -> Judgement:
    """A layer that is right, but for the changes."""
    values: dict[str, Any] = {
        "shape": (1, 2, 3), "region": (), "status": "right", "test": "local", "error": 1e-6, "worst": (0, 1, 2),
        "found": 1.000001, "expected": 1.0, "tolerance": 1e-5, "ratio": 0.1, "beyond": 0, "screen": 1.25,
        "resolution": 4e-5, "scale": 2.0,
    }  # fmt: skip
    return Judgement(tap=tap, **(values | changes))


def wrong(tap: str, **changes: Any) -> Judgement:
    values = {"status": "wrong", "error": 0.25, "found": 1.25, "ratio": 25_000.0, "beyond": 3, "screen": 1e5}
    return judgement(tap, **(values | changes))


def failure(tap: str, message: str = "It is not what it should be.", **changes: Any) -> Finding:
    return Finding(**({"tap": tap, "severity": "fail", "kind": "error", "message": message} | changes))


def report(judgements: Any = (), findings: Any = (), **changes: Any) -> Report:
    values: dict[str, Any] = {
        "model": MODEL, "producer": {"framework": "made up"}, "profile": "fp32", "behaves_as": "fp32",
        "unchecked": (), "complete": True,
    }  # fmt: skip
    return Report(judgements=tuple(judgements), findings=tuple(findings), **(values | changes))


EXACT = {"test": "exact", "tolerance": 0.0, "error": 0.0, "ratio": 0.0, "screen": 0.0, "resolution": 0.0}


def mixed() -> Report:
    """Two mistakes, one of them in a region; something unusual; exact tests; and taps that were not given."""
    return report(
        [
            judgement("stem"),
            wrong("attention", region=("query", "key"), proof=True),
            judgement("unfolded", **EXACT),
            wrong("folded", **(EXACT | {"error": 0.5, "ratio": math.inf, "screen": math.inf})),
            judgement("norm", status="unusual", ratio=0.5, screen=7.5),
            judgement("dense", region=("value",), ratio=0.02),
            judgement("logits", test="screened", region=("pool",)),
        ],
        [
            failure("attention", cause="head-count"),
            failure("folded", kind="error"),
            Finding("norm", "unusual", "screen", "Its error is 7.5 times the usual one."),
            Finding("stem", "note", "layout", "It was given as NHWC."),
        ],
        behaves_as="tf32",
        unchecked=("query", "key", "value", "pool", "mask"),
        complete=False,
    )


SWAPPED = Diagnosis(
    "ATT-05-order",
    "key and query are swapped; expected the order query, key, value",
    consequence="Tokens look for something else than they should.",
    fix="Pack query, key and value in the order in which they are cut apart.",
    remaining=2.5e-5,
)
WRONG_EPS = Diagnosis(
    "NRM-05",
    "eps 1e-06; expected 1e-05",
    consequence="Flat tokens are too large.",
    fix="Use layer_norm_eps of config.json.",
    remaining=0.25,
    also=("eps added behind the root; expected under it", "no eps; expected 1e-05"),
)


def explained() -> Report:
    """One mistake at two taps, another with rivals; two taps that nothing explains, one of them nearly."""
    near = (
        NearMiss("TRF-06", "activation gelu_pytorch_tanh; expected silu", 0.125),
        NearMiss("TRF-05", "activation gelu; expected silu", 0.5),
    )
    return report(
        [wrong("query"), wrong("key"), wrong("norm", ratio=0.5), wrong("act"), wrong("dense")],
        [
            failure("query", cause="ATT-05", diagnosis=SWAPPED),
            failure("key", cause="ATT-05", diagnosis=SWAPPED),
            failure("norm", kind="structure", cause="NRM-05", diagnosis=WRONG_EPS),
            failure("act", near=near),
            failure("dense"),
        ],
        behaves_as=None,
    )


def explained_by_anything() -> Report:
    """Descriptions of mistakes hold values, and these what the port gives: nothing of it may be markup."""
    diagnoses = [Diagnosis("WGT-02", name, name, name, math.inf, (name, name)) for name in HOSTILE]
    misses = [NearMiss("WGT-02", name, math.nan) for name in HOSTILE]
    return report(
        findings=[
            *(failure(f"tap{i}", cause=d.mutant, diagnosis=d) for i, d in enumerate(diagnoses)),
            *(failure(f"near{i}", near=(miss, miss)) for i, miss in enumerate(misses)),
        ]
    )


def hostile() -> Report:
    return report(
        [wrong(name, region=tuple(HOSTILE)) for name in HOSTILE],
        [failure(name, name, kind=name, cause=name) for name in HOSTILE],
        model={"name": HOSTILE[0], "class": HOSTILE[1], "sha256": None},
        producer={name: name for name in HOSTILE},
        behaves_as=HOSTILE[0],
        unchecked=tuple(HOSTILE),
    )


def crowded() -> Report:
    """Thousands of findings, and every one of 310 layers wrong."""
    names = [f"mobilevit.encoder.layer.4.transformer.layer.1.attention.attention.query{i}" for i in range(3000)]
    return report(map(wrong, names[:310]), map(failure, names), unchecked=tuple(f"missing{i}" for i in range(2000)))


def not_finite() -> Report:
    """Every number that may be none."""
    odd = [math.nan, math.inf, -math.inf]
    layers = [wrong(f"odd{i}", found=value, error=math.inf, ratio=math.inf) for i, value in enumerate(odd)]
    layers.append(
        wrong("none", **dict.fromkeys(("error", "found", "ratio", "screen", "resolution", "scale"), math.nan))
    )
    layers.append(wrong("all", **dict.fromkeys(("error", "tolerance", "ratio", "screen", "resolution"), math.inf)))
    layers.append(judgement("zero", error=0.0, ratio=0.0, screen=0.0, scale=0.0, shape=(), worst=()))
    return report(layers, [failure("odd0", kind="non-finite")])


def numpy_numbers() -> Report:
    """What NumPy's functions give, in place of Python's numbers."""
    index = tuple(np.argwhere(np.ones((1, 1, 1)))[0])
    return report([judgement("stem", worst=index, error=np.float32(0.25), beyond=np.int64(0), proof=np.bool_(False))])


KINDS = {
    "mixed": mixed,
    "explained": explained,
    "explained by anything": explained_by_anything,
    "hostile": hostile,
    "crowded": crowded,
    "not finite": not_finite,
    "NumPy": numpy_numbers,
    "pass": lambda: report([judgement("stem"), judgement("logits", **EXACT)]),
    "screened": lambda: report([judgement("logits", test="screened")], producer={}, behaves_as=None),
    "nothing": lambda: report(complete=False, model={"name": None, "class": "MobileViTModel", "sha256": "0" * 64}),
    "findings alone": lambda: report((), [failure("pixel_values", kind="preprocessing")], complete=False),
}
