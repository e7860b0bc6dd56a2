"""Mistakes in normalisations: the rows NRM."""

from npmobilevit.validation.mutants.changes import Change
from npmobilevit.validation.mutants.mutant import Mutant
from npmobilevit.validation.mutants.places import ANYWHERE

USUAL_EPS = (1e-3, 1e-6, 1e-12, 1e-8, 1e-4, 1e-2, 0.0)

MUTANTS: tuple[Mutant, ...] = (
    Mutant(
        "NRM-01",
        "eps {value}; expected 1e-05",
        consequence="Channels of small variance come out too small.",
        fix="Set eps to 1e-5 in every batch normalisation (Keras has 1e-3), or fold it with that.",
        make=lambda eps: (
            Change("batch_norm", ANYWHERE, lambda s, own, x, **parameters: own(x, **parameters | {"eps": eps})),
        ),
        values=lambda site: [eps for eps in USUAL_EPS if eps != 1e-5],
        continuous=True,
        examples=(1e-3,),
    ),
)
