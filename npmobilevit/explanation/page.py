"""The page: evidence in pictures, and in plain words what each picture is and what it is not.

Words and elements are in ``page.html`` and ``sections/``. What comes from outside, such as the names of classes, goes
through `_text`; the script finds numbers alone.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from npmobilevit.explanation import pictures
from npmobilevit.explanation.attention import LEVELS, BlockAttention
from npmobilevit.explanation.evidence import ClassMap, Evidence, Occlusion, Stage
from npmobilevit.results import Prediction, Segmentation, SegmentedClass
from npmobilevit.visual import palettes
from npmobilevit.visual.lettering import shown_text
from npmobilevit.visual.standalone import escaped, filled_page, page_template

SECTIONS = Path(__file__).with_name("sections")
MAX_TEXT = 120  # characters of a name
COARSE = 128  # pixels: a smaller picture is enlarged in squares
LONGEST_RATIO = 6  # of the sides of a picture as it is shown
LOOKED_AT = (
    "As that takes long, it was done once: these are the times of the pass whose values are shown above, without the "
    "time of looking at them, and may be some percent too large."
)


def to_html(evidence: Evidence) -> str:
    """The page of the evidence, in ASCII."""
    sections = list(_sections(evidence))
    return filled_page(
        Path(__file__),
        images=True,
        title=_title(evidence),
        backdrop=pictures.backdrop(evidence.seen),
        ratio=_ratio(evidence.seen),
        lead=_lead(evidence),
        contents="".join(f'<li><a href="#{name}">{title}</a></li>' for name, title, _ in sections),
        sections="\n".join(_section(*section) for section in sections),
        model=_text(evidence.model),
        labels=evidence.num_labels,
        precision=evidence.precision,
        data=json.dumps(attention_data(evidence.attention), separators=(",", ":")),
    )


def _ratio(rgb: NDArray[np.uint8]) -> str:
    """Width over height of the picture (H, W, 3) as it is shown."""
    height, width = rgb.shape[:2]
    return f"{min(width, LONGEST_RATIO * height)} / {min(height, LONGEST_RATIO * width)}"


def _is_squeezed(rgb: NDArray[np.uint8]) -> bool:
    height, width = rgb.shape[:2]
    return bool(max(height, width) > LONGEST_RATIO * min(height, width))


def attention_data(blocks: Iterable[BlockAttention]) -> dict[str, Any]:
    """What the script draws: numbers and base64 alone."""
    return {"colours": pictures.attention_colours(), "blocks": [_block_data(block) for block in blocks]}


def _block_data(block: BlockAttention) -> dict[str, Any]:
    return {
        "rows": block.patches[0],
        "columns": block.patches[1],
        "queryStep": block.query_step,
        "keyStep": block.key_step,
        "offsets": block.offsets,
        "heads": block.levels.shape[2],
        "layers": [
            {"peaks": _base64(peaks.astype("<u2").tobytes()), "levels": _base64(packed(levels))}
            for peaks, levels in zip(block.peaks, block.levels, strict=True)
        ],
    }


def packed(levels: NDArray[np.uint8]) -> bytes:
    """Levels below 16, two a byte, the first in the low half."""
    flat = levels.ravel()
    even = np.pad(flat, (0, len(flat) % 2))
    return (even[::2] | even[1::2] << 4).astype(np.uint8).tobytes()


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _sections(evidence: Evidence) -> Iterator[tuple[str, str, str]]:
    """Identifier, title and contents of each section."""
    yield "answer", "Picture and answer", _answer(evidence)
    if evidence.segmentation is not None:
        yield "probabilities", "Each class by itself", _probabilities(evidence.class_maps, evidence.segmentation)
    yield "attention", "What each patch attends to", _attention(evidence.attention)
    if evidence.occlusion is not None and evidence.predictions:
        body = _occlusion(evidence.occlusion, evidence.predictions[0], evidence.seen.shape[:2])
        yield "occlusion", "What matters for the answer", body
    yield "features", "Feature maps", _features(evidence.stages)
    yield "time", "Where the time went", _time(evidence)


def _section(name: str, title: str, body: str) -> str:
    heading = f'<h2 id="{name}-title">{title}</h2>'
    return f'<section id="{name}" aria-labelledby="{name}-title">{heading}\n{body}\n</section>'


def _filled(section: str, **values: object) -> str:
    return page_template(SECTIONS / f"{section}.html").substitute(values)


# words


def _text(text: str) -> str:
    """One line that is text wherever it stands in HTML, in ASCII."""
    return escaped(shown_text(text, MAX_TEXT))


def _percent(share: float) -> str:
    """A share in 0..1; one that is there does not vanish."""
    return "&lt; 0.1%" if 0 < share < 0.0005 else f"{share:.1%}"


def _size(height: int, width: int) -> str:
    return f"{height} &#215; {width}"


def _title(evidence: Evidence) -> str:
    picture = "a picture" if evidence.picture_name is None else _text(evidence.picture_name)
    return f"What {_text(evidence.model)} makes of {picture}"


def _lead(evidence: Evidence) -> str:
    if evidence.predictions:
        best = evidence.predictions[0]
        return f"Its answer is <strong>{_text(best.label)}</strong>, with a probability of {_percent(best.score)}."
    assert evidence.segmentation is not None
    largest = evidence.segmentation.classes[0]
    name = f"<strong>{_text(largest.name)}</strong>"
    share = _percent(largest.share)
    return f"It names a class for every pixel; the largest share of the picture, {share}, is {name}."


# picture and answer


def _answer(evidence: Evidence) -> str:
    photo = _photo(evidence)
    if evidence.segmentation is None:
        rows = "".join(map(_prediction, evidence.predictions or ()))
        return _filled("predictions", photo=photo, rows=rows)
    colours = palettes.class_colours(evidence.segmentation.labels)
    rows = "".join(_present(found, colours) for found in evidence.segmentation.classes)
    return _filled("mask", photo=photo, overlay=pictures.overlay(evidence.segmentation), rows=rows)


def _photo(evidence: Evidence) -> str:
    height, width = evidence.seen.shape[:2]
    how = "shown pixel by pixel"
    if not pictures.is_exact(evidence.seen):
        how = "shown as JPEG, so that its pixels are not exact"
    if _is_squeezed(evidence.seen):
        how += f"; squeezed, on this page, to {LONGEST_RATIO} times as long as wide"
    return _filled(
        "photo",
        picture=pictures.photo(evidence.seen),
        width=width,
        height=height,
        kind="frame coarse" if max(height, width) <= COARSE else "frame",
        size=_size(height, width),
        preparation=_preparation(evidence),
        how=how,
    )


def _preparation(evidence: Evidence) -> str:
    """What became of the picture before the network saw it."""
    before, geometry = evidence.picture_size, evidence.geometry
    if before == geometry.resized == geometry.network:
        return "the picture in its own size"
    resized = f"the picture of {_size(*before)} (height &#215; width)"
    if geometry.resized != before:
        resized += f", resized to {_size(*geometry.resized)}"
    return resized if geometry.network == geometry.resized else f"the middle of {resized}"


def _prediction(found: Prediction) -> str:
    percent = f'<td class="n">{_percent(found.score)}</td>'
    return f'<tr><th scope="row">{_text(found.label)}</th>{_bar((found.score,))}{percent}</tr>'


def _present(found: SegmentedClass, colours: Mapping[int, palettes.Colour]) -> str:
    numbers = f'<td class="n">{_percent(found.share)}</td><td class="n">{found.probability:.2f}</td>'
    return f'<tr><th scope="row">{_named(found, colours)}</th>{_bar((found.share,))}{numbers}</tr>'


def _named(found: SegmentedClass, colours: Mapping[int, palettes.Colour]) -> str:
    """The name of a class behind its colour."""
    swatch = f'<i class="key swatch" style="background: rgb{colours[found.id]}"></i>'
    return f'<span class="named">{swatch}{_text(found.name)}</span>'


def _bar(shares: Iterable[float]) -> str:
    parts = "".join(f'<i style="width: {100 * min(1.0, max(0.0, share)):.2f}%"></i>' for share in shares)
    return f'<td class="bar"><span aria-hidden="true">{parts}</span></td>'


def _probabilities(class_maps: Sequence[ClassMap], segmentation: Segmentation) -> str:
    colours = palettes.class_colours(segmentation.labels)
    left_out = len(segmentation.classes) - len(class_maps)
    return _filled(
        "probabilities",
        left_out=f" The {left_out} classes with the smallest shares are left out." if left_out else "",
        scale=_scale("0", "1"),
        cards="".join(_card(one, colours) for one in class_maps),
    )


def _card(one: ClassMap, colours: Mapping[int, palettes.Colour]) -> str:
    alternative = f"Where the network sees {_text(one.found.name)}"
    return (
        f'<figure><img class="coarse" src="{pictures.probability_map(one.probability)}" alt="{alternative}">'
        f"<figcaption>{_named(one.found, colours)}{_percent(one.found.share)} of the picture</figcaption></figure>"
    )


def _scale(low: str, high: str) -> str:
    """A strip of the colours of a map, between the words at its ends."""
    colours = ", ".join(f"rgb({r},{g},{b})" for r, g, b in pictures.attention_colours())
    strip = f'<i style="background: linear-gradient(90deg, {colours})"></i>'
    return f'<p class="scale soft"><span>{low}</span>{strip}<span>{high}</span></p>'


# attention


def _attention(blocks: Sequence[BlockAttention]) -> str:
    block = blocks[0]
    return _filled(
        "attention",
        side=block.patch_size,
        positions=block.patch_size**2,
        blocks="".join(f'<option value="{i}">{_block_title(block)}</option>' for i, block in enumerate(blocks)),
        scale=_scale("0%", '<span id="most"></span>'),
        across=math.isqrt(len(block.offsets)),
        radios="".join(_radio(i, offset) for i, offset in enumerate(block.offsets)),
        sheets="".join(_attention_sheet(block) for block in blocks),
        notes="".join(f"<li>{note}</li>" for note in _attention_notes(blocks)),
    )


def _block_name(block: BlockAttention) -> str:
    return f"encoder layer {block.name.rpartition('.')[2]}"


def _block_title(block: BlockAttention) -> str:
    patches = "patches" if math.prod(block.patches) > 1 else "patch, which attends to itself"
    return f"{_block_name(block)}: {_size(*block.patches)} {patches}"


def _radio(i: int, offset: tuple[int, int]) -> str:
    """A pixel position to choose, with its map."""
    checked = " checked" if i == 0 else ""
    canvas = f'<canvas class="position" data-position="{i}" aria-hidden="true"></canvas>'
    return (
        f'<label><input type="radio" name="position" value="{i}"{checked}><span>{offset}</span>'
        f'<span class="stage">{canvas}</span></label>'
    )


def _attention_sheet(block: BlockAttention) -> str:
    """What there is to see of a block without the script."""
    title, (_, positions, heads) = _block_title(block), block.levels.shape[:3]
    words = f"First transformer layer: a column for each of {heads} heads, a row for each of {positions} positions"
    return (
        f'<figure><img class="coarse" src="{pictures.attention_sheet(block)}" alt="Attention maps of {title}">'
        f"<figcaption>{title}. {words}.</figcaption></figure>"
    )


def _attention_notes(blocks: Sequence[BlockAttention]) -> Iterator[str]:
    yield (
        f"Each map has its own scale, from 0 to its largest value, by the square root, in {LEVELS + 1} steps. Rows and "
        "columns of patches count from 1, positions in a patch from 0."
    )
    for block in blocks:
        if max(block.query_step, block.key_step) > 1:
            yield (
                f"To keep this file small, {_group(block.query_step)} of {_block_name(block)} are shown together, as "
                f"they attend to {_group(block.key_step)}: in colours the mean of a patch, in words the sum."
            )
    positions, shown = blocks[0].patch_size ** 2, len(blocks[0].offsets)
    if shown < positions:
        yield f"Of {positions} positions in a patch, {shown} are shown."


def _group(step: int) -> str:
    return f"groups of up to {_size(step, step)} patches" if step > 1 else "single patches"


# occlusion, features and time


def _occlusion(occlusion: Occlusion, best: Prediction, size: tuple[int, ...]) -> str:
    fall, stride = occlusion.fall, occlusion.stride
    row, column = np.unravel_index(int(fall.argmax()), fall.shape)
    lowest = best.score - float(fall[row, column])
    falls = (
        f"It falls most, from {_percent(best.score)} to {_percent(lowest)}, at row {row + 1}, column {column + 1} of "
        f"{_size(*fall.shape)} places."
    )
    height, width = (f"{100 * n * stride / pixels:.3f}%" for n, pixels in zip(fall.shape, size, strict=True))
    return _filled(
        "occlusion",
        tint=pictures.tint(fall),
        width=width,
        height=height,
        name=_text(best.label),
        side=occlusion.side,
        stride=stride,
        count=fall.size,
        strongest=f"{100 * float(np.abs(fall).max()):.1f}",
        effect=falls if lowest < best.score else "Nowhere does covering make it smaller.",
    )


def _features(stages: Iterable[Stage]) -> str:
    return _filled("features", sheets="".join(_feature_sheet(stage) for stage in stages if stage.shape is not None))


def _feature_sheet(stage: Stage) -> str:
    assert stage.shape is not None
    (channels, *size), shown = stage.shape, len(stage.channels)
    which = f"the {shown} that vary most over the picture" if shown < channels else "all of them"
    return (
        f'<figure><h3>{stage.title}</h3><img class="coarse" src="{pictures.feature_sheet(stage.maps)}" '
        f'alt="{shown} feature maps"><figcaption>{channels} channels of {_size(*size)}; {which}</figcaption></figure>'
    )


def _time(evidence: Evidence) -> str:
    stages, passes = evidence.stages, evidence.timed_passes
    seconds, macs = sum(stage.seconds for stage in stages), sum(stage.macs for stage in stages)
    return _filled(
        "time",
        milliseconds=f"{1e3 * seconds:.0f}",
        macs=f"{macs / 1e6:,.0f}",
        fastest=f", the fastest of {passes}," if passes > 1 else "",
        how="" if evidence.timed_apart else f" {LOOKED_AT}",
        rows="".join(_stage_row(stage, seconds, macs) for stage in stages),
    )


def _stage_row(stage: Stage, seconds: float, macs: int) -> str:
    within = stage.transformer_seconds / seconds
    shares = "".join(f'<td class="n">{_percent(x)}</td>' for x in (stage.seconds / seconds, stage.macs / macs))
    return (
        f'<tr><th scope="row">{stage.title}</th>{_bar((stage.seconds / seconds - within, within))}'
        f'<td class="n wide">{1e3 * stage.seconds:.1f}</td>{shares}</tr>'
    )
