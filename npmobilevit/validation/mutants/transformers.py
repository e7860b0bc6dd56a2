"""Mistakes in the transformer: the rows TRF."""

from npmobilevit.validation.mutants.mutant import Mutant

MUTANTS: tuple[Mutant, ...] = ()
