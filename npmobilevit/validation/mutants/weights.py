"""Mistakes in the weights: the rows WGT."""

from npmobilevit.validation.mutants.mutant import Mutant

MUTANTS: tuple[Mutant, ...] = ()
