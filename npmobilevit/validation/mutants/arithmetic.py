"""Mistakes in the arithmetic: the rows NUM."""

from npmobilevit.validation.mutants.mutant import Mutant

MUTANTS: tuple[Mutant, ...] = ()
