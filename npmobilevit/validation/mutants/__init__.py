"""The catalogue of mistakes that ports of MobileViT make, each as a small change of the network.

To add one, write a :class:`Mutant` beside its kin and add it to the tuple `MUTANTS` of its module::

    Mutant(
        "FUS-01",
        "input channels [projected, residual]; expected [residual, projected]",
        consequence="The fusion sees each kind of map with the weights of the other: labels are mostly wrong.",
        fix="Concatenate the block's input first and the output of conv_projection second, along channels.",
        make=changes(Change("concat_channels", BLOCK, lambda s, own, maps: own(maps[::-1]))),
    )

The targets of a :class:`Change` are described in :mod:`npmobilevit.validation.mutants.changes`. The tests inject every
mutant and fail if a check does not find it, or gives it another name.
"""

from npmobilevit.validation.mutants import (
    arithmetic,
    attention,
    convolutions,
    heads,
    normalisations,
    patches,
    system,
    transformers,
    weights,
)
from npmobilevit.validation.mutants.changes import Change
from npmobilevit.validation.mutants.mutant import MODES, Mutant, Site, changes

__all__ = ["CATALOGUE", "MODES", "Change", "Mutant", "Site", "changes", "mutant_named"]

# In this order a mistake is preferred to those after it that explain as much.
CATALOGUE: tuple[Mutant, ...] = (
    *convolutions.MUTANTS,
    *normalisations.MUTANTS,
    *patches.MUTANTS,
    *attention.MUTANTS,
    *transformers.MUTANTS,
    *heads.MUTANTS,
    *weights.MUTANTS,
    *arithmetic.MUTANTS,
    *system.MUTANTS,
)


def mutant_named(name: str) -> Mutant:
    """The mutant of this name; KeyError if there is none."""
    return {mutant.name: mutant for mutant in CATALOGUE}[name]
