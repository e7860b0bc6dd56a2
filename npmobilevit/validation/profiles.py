"""Profiles: the arithmetic that a port says it uses, as the sizes of its roundings.

A rounding to nearest changes a number by at most `u` times its size, u = 2**-p for p significant bits: 2**-24 in
float32, 2**-11 in float16 and TF32, 2**-8 in bfloat16. A conversion that cuts off the digits instead changes it by
up to twice as much.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType

from npmobilevit.errors import ConfigError

FLOAT32, FLOAT16, BFLOAT16 = 2.0**-24, 2.0**-11, 2.0**-8


@dataclasses.dataclass(frozen=True)
class Profile:
    """The roundings of an arithmetic, each relative to what is rounded.

    Attributes
    ----------
    name : str
    operand : float
        Of either factor of an inner product before it is used. At least `store`: whoever fuses two layers uses
        a value before it is rounded to what the tap shows.
    accumulate : float
        Of every product and sum, and inside of functions.
    store : float
        Of every result.
    smallest : float
        Largest change of a result that is too small to be held with full precision.
    quantized : bool
        Factors of inner products with weights are rounded to 8-bit integers, with scales found at run time.
    stated : bool
        Results are rounded to multiples of the scales that the port states.
    """

    name: str
    operand: float
    accumulate: float
    store: float
    smallest: float
    quantized: bool = False
    stated: bool = False


def _half(name: str, unit: float, accumulate: float, smallest: float) -> Profile:
    return Profile(name, operand=unit, accumulate=accumulate, store=unit, smallest=smallest)


# Denormal float32 numbers may be flushed to zero, those of float16 not. Tensor cores cut off digits in their sums:
# 2**-23 (Fasi et al. 2021, PeerJ Computer Science 7:e330), and TF32 may cut off those of its operands.
_ALL = (
    Profile("fp32", operand=FLOAT32, accumulate=FLOAT32, store=FLOAT32, smallest=2.0**-126),
    Profile("tf32", operand=2.0**-10, accumulate=2.0**-23, store=FLOAT32, smallest=2.0**-126),
    _half("fp16", FLOAT16, accumulate=2.0**-23, smallest=2.0**-25),
    _half("fp16-acc16", FLOAT16, accumulate=FLOAT16, smallest=2.0**-25),
    _half("bf16", BFLOAT16, accumulate=2.0**-23, smallest=2.0**-126),
    Profile("int8-dynamic", FLOAT32, FLOAT32, FLOAT32, smallest=2.0**-126, quantized=True),
    Profile("fixed", operand=FLOAT32, accumulate=FLOAT32, store=0.0, smallest=0.0, stated=True),
)

PROFILES: Mapping[str, Profile] = MappingProxyType({profile.name: profile for profile in _ALL})


def profile_named(name: str) -> Profile:
    """The profile of this name.

    Raises
    ------
    ConfigError
        If there is none.
    """
    if not isinstance(name, str) or name not in PROFILES:
        raise ConfigError(f"profile must be one of {', '.join(PROFILES)}, found {name!r}", "profile")
    return PROFILES[name]
