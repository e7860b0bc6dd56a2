"""Mistakes in state, batches and dumps: the rows SYS."""

from npmobilevit.validation.mutants.mutant import Mutant

MUTANTS: tuple[Mutant, ...] = ()
