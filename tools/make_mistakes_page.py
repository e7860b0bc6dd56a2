"""Write reference/mistakes.md: every mistake of the catalogue, with its forms, what follows, and what to do.

The page is made from the catalogue itself and from the operator probes. A test of the default run compares the file
with what this tool would write. NumPy only.

Run:  python tools/make_mistakes_page.py
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

from npmobilevit.validation.mutants import CATALOGUE, Mutant
from npmobilevit.validation.mutants.pictures import PICTURE_MUTANTS, PictureMutant
from npmobilevit.validation.mutants.results import RESULT_MUTANTS, ResultMutant
from npmobilevit.validation.probes import PROBES, Probe

AnyMutant: TypeAlias = Mutant | PictureMutant | ResultMutant

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "reference" / "mistakes.md"
ALL: tuple[AnyMutant, ...] = (*CATALOGUE, *PICTURE_MUTANTS, *RESULT_MUTANTS)

# The parts of the page, by what their ids begin with.
PARTS = {
    "PRE": "From the picture to pixel values",
    "CNV": "Convolutions",
    "MV2": "Inverted residuals",
    "NRM": "Normalisations",
    "UNF": "Patches and resizing",
    "ATT": "Attention",
    "TRF": "Transformer layers",
    "FUS": "Projection and fusion",
    "HED": "Head of the classifier, and results",
    "SEG": "Segmentation head, and masks",
    "WGT": "Weights",
    "NUM": "Arithmetic",
    "SYS": "State, batches and dumps",
}

# What is needed to see a mistake of each mode, in Markdown.
NEEDS = {
    "taps": "",
    "taps + picture": "the picture, `image=` or `--image`",
    "two runs": "two runs of the same input, `check_backend`",
    "adapter": "the port itself, `check_backend`",
    "quantised": "values that are multiples of a step",
}

HEAD = """\
# Mistakes that are known by name

{forms} forms of {ids} mistakes, which a check tries on whatever is wrong ([how](validation.md#which-mistake-it-is)).
Made by `python tools/make_mistakes_page.py` from the [catalogue](../npmobilevit/validation/mutants/__init__.py),
which says how to add one; a test compares.

A report gives the name of the form, a finding's `cause` is the id. What is found stands before "expected"; *value* is a
number, a name or a size that the report fills in. Where nothing else is needed, the tensors of one run are enough.

| remark | |
|---|---|
| searched | the number is searched for, between the usual ones, too |
| fitted | what it takes is fitted to what was found: any other mistake that explains as much is preferred |
| by shape | the port has other weights than the checkpoint, so the shape is all that is recognised |
| equivalent | nothing can see it |
| probes | the [inputs for one operator](#probes) that are made for it |
"""

HEAD_OF_PROBES = """\
## Probes

Inputs for one operator, which `check_backend` gives to a backend that can run it ([how](validation.md#probes)). What a
probe is made for it catches even if the rest of the network cannot run yet.

| probe | input | made for |
|---|---|---|"""


def escaped(text: str) -> str:
    """A sentence of the catalogue in Markdown."""
    return re.sub(r"([|<>*`])", r"\\\1", text).replace("{value}", "*value*")


def needs(mutant: AnyMutant) -> str:
    """What is needed to see a form, besides the tensors of one run; empty for most."""
    return f"`{mutant.result}` beside the logits" if isinstance(mutant, ResultMutant) else NEEDS[mutant.mode]


def remark(mutant: AnyMutant) -> str:
    """What else is to be known of a form; empty for most."""
    if not isinstance(mutant, Mutant):
        return ""
    marks = {"searched": mutant.continuous, "fitted": mutant.fitted, "by shape": mutant.by_shape}
    words = [word for word, is_so in marks.items() if is_so]
    if mutant.equivalent:
        words.append(f"equivalent: {escaped(mutant.equivalent)}")
    return ", ".join(words)


def said(word: str, texts: Mapping[str, str]) -> Iterator[str]:
    """A line with what is said of all forms; a line for each that differs, if they do.

    Parameters
    ----------
    word : str
        What it is about.
    texts : mapping of str to str
        By the names of the forms, in Markdown; empty if there is nothing to say.
    """
    names: dict[str, list[str]] = {}
    for name, text in texts.items():
        names.setdefault(text, []).append(name)
    if len(names) == 1:
        yield from (f"- {word}: {text}" for text in names if text)
        return
    yield f"- {word}:"
    yield from (f"  - {', '.join(which)}: {text}" for text, which in names.items() if text)


def entry(mutants: Sequence[AnyMutant], probes: Sequence[Probe] = PROBES) -> Iterator[str]:
    """The lines on one id.

    Parameters
    ----------
    mutants : sequence of mutants
        All forms of it.
    probes : sequence of Probe
    """
    number = mutants[0].id
    yield from (f"\n### {number}\n", "| form | found; expected |", "|---|---|")
    yield from (f"| {m.name} | {escaped(m.description)} |" for m in mutants)
    yield ""
    yield from said("what follows", {m.name: escaped(m.consequence) for m in mutants})
    yield from said("fix", {m.name: escaped(m.fix) for m in mutants})
    yield from said("needs", {m.name: needs(m) for m in mutants})
    yield from said("remark", {m.name: remark(m) for m in mutants})
    yield from said("probes", {number: ", ".join(probe.name for probe in probes if number in probe.catches)})


def row(probe: Probe) -> str:
    """The line on one probe."""
    return f"| {probe.name} | {escaped(probe.why)} | {', '.join(probe.catches)} |"


def page(mutants: Sequence[AnyMutant] = ALL, probes: Sequence[Probe] = PROBES) -> str:
    """The document.

    Parameters
    ----------
    mutants : sequence of mutants
    probes : sequence of Probe

    Returns
    -------
    str

    Raises
    ------
    KeyError
        If an id belongs to no part of the page.
    """
    forms: dict[str, dict[str, list[AnyMutant]]] = {part: {} for part in PARTS}
    for mutant in mutants:
        forms[mutant.id.partition("-")[0]].setdefault(mutant.id, []).append(mutant)
    lines = [HEAD.format(forms=len(mutants), ids=sum(map(len, forms.values())))]
    for part, rows in forms.items():
        lines += [f"## {PARTS[part]}"] if rows else []
        for number in sorted(rows):
            lines += entry(rows[number], probes)
        lines += [""] if rows else []
    lines += [HEAD_OF_PROBES, *map(row, probes), ""]
    return "\n".join(lines)


def main() -> None:
    """Write the page."""
    PAGE.write_text(page(), encoding="utf-8")
    print(f"{PAGE.relative_to(ROOT)}: {len(ALL)} forms")


if __name__ == "__main__":
    main()
