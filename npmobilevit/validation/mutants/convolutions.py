"""Mistakes in convolutions and inverted residuals: the rows CNV and MV2."""

from npmobilevit.validation.mutants.mutant import Mutant

MUTANTS: tuple[Mutant, ...] = ()
