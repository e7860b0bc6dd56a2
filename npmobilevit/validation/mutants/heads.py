"""Mistakes in the fusion of a MobileViT block and in the heads: the rows FUS, HED and SEG of the network."""

from npmobilevit.validation.mutants.changes import Change
from npmobilevit.validation.mutants.mutant import Mutant, changes
from npmobilevit.validation.mutants.places import BLOCK

MUTANTS: tuple[Mutant, ...] = (
    Mutant(
        "FUS-01",
        "input channels [projected, residual]; expected [residual, projected]",
        consequence="The fusion sees each kind of map with the weights of the other: labels are mostly wrong.",
        fix="Concatenate the block's input first and the output of conv_projection second, along channels.",
        make=changes(Change("concat_channels", BLOCK, lambda s, own, maps: own(maps[::-1]))),
    ),
)
