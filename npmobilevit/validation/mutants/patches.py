"""Mistakes in cutting maps into patches and back: the rows UNF."""

from npmobilevit.validation.mutants.mutant import Mutant

MUTANTS: tuple[Mutant, ...] = ()
