"""Mistakes in multi-head attention: the rows ATT."""

from collections.abc import Iterable

from npmobilevit.validation.mutants.changes import Change
from npmobilevit.validation.mutants.mutant import Mutant, Site
from npmobilevit.validation.mutants.places import ATTENTION


def other_numbers_of_heads(site: Site) -> Iterable[int]:
    """All divisors of the width but the right one."""
    width = site.found.shape[-1]
    return [h for h in range(1, width + 1) if width % h == 0 and h != site.config.num_attention_heads]


MUTANTS: tuple[Mutant, ...] = (
    Mutant(
        "ATT-01",
        "{value} heads; expected num_attention_heads of config.json, 4 in all released checkpoints",
        consequence="All shapes agree, but every score mixes other channels: accuracy drops without an error.",
        fix="Read num_attention_heads from config.json; the paper does not give it.",
        make=lambda heads: (Change("split_heads", ATTENTION, lambda s, own, x, _heads: own(x, heads)),),
        values=other_numbers_of_heads,
        examples=(1, 2, 8),
    ),
)
