"""Mistakes in cutting maps into patches and back: the rows UNF.

The tokens are no tap. A mistake in making them shows where they are read, in the first `layernorm_before` of the
transformer; one in putting them back, in the convolution of conv_projection.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from npmobilevit.config import MobileViTConfig
from npmobilevit.ops.arrays import Array
from npmobilevit.ops.resize import sources_at
from npmobilevit.scope import Scope
from npmobilevit.validation.mutants.changes import Change, moved, raw
from npmobilevit.validation.mutants.mutant import Mutant, Site, changes
from npmobilevit.validation.mutants.places import BLOCK

Own = Callable[..., Any]
Size = tuple[int, int]

# Where along an axis the outputs of a resize lie in the input, told the lengths of the input and of the output.
Places = Callable[[int, int], Array]


# Reading a map in another order -------------------------------------------------------------------------------------


def unfolded_as(order: Callable[[Array, int], Array]) -> Change:
    """Another order of tokens: `order` makes them of a map (N, D, H, W) and the side of a patch."""
    return Change("unfold_patches", BLOCK, lambda _s, _own, x, p: moved(x, lambda a: order(a, p)))


def folded_as(order: Callable[[Array, int, int, int], Array]) -> Change:
    """Another order of pixels: `order` makes a map of tokens, the side of a patch, height and width."""
    return Change("fold_patches", BLOCK, lambda _s, _own, x, p, *size: moved(x, lambda a: order(a, p, *size)))


def to_raster(x: Array) -> Array:
    """(N, D, H, W) -> (N, H*W, D)."""
    return x.reshape(*x.shape[:2], -1).swapaxes(1, 2)


def from_raster(x: Array, height: int, width: int) -> Array:
    """Any array in the order (N, H*W, D) -> (N, D, H, W)."""
    return x.reshape(-1, height * width, x.shape[-1]).swapaxes(1, 2).reshape(-1, x.shape[-1], height, width)


def raster_cut_into_parts(x: Array, p: int) -> Array:
    return to_raster(x).reshape(len(x) * p * p, -1, x.shape[1])


def memory_cut_into_parts(x: Array, p: int) -> Array:
    return x.reshape(len(x) * p * p, -1, x.shape[1])


def neighbours_in_rows(x: Array, p: int) -> Array:
    """Patches of p*p pixels that follow each other in a row."""
    return to_raster(x).reshape(len(x), -1, p * p, x.shape[1]).swapaxes(1, 2).reshape(len(x) * p * p, -1, x.shape[1])


def from_neighbours_in_rows(x: Array, p: int, height: int, width: int) -> Array:
    return from_raster(x.reshape(-1, p * p, *x.shape[1:]).swapaxes(1, 2), height, width)


# Other sequences ----------------------------------------------------------------------------------------------------


def tokens_of_a_patch(_s: Scope, own: Own, x: Any, p: int) -> Any:
    """(N*L, P, D)"""
    images = x.shape[0]
    return moved(own(x, p), lambda a: _pixels_and_patches_exchanged(a, images))


def from_tokens_of_a_patch(_s: Scope, own: Own, x: Any, p: int, height: int, width: int) -> Any:
    images = x.shape[0] * x.shape[1] // (height * width)
    return own(moved(x, lambda a: _pixels_and_patches_exchanged(a, images)), p, height, width)


def _pixels_and_patches_exchanged(x: Array, images: int) -> Array:
    """(N*P, L, D) -> (N*L, P, D), and back."""
    return x.reshape(images, -1, *x.shape[1:]).swapaxes(1, 2).reshape(-1, x.shape[0] // images, x.shape[2])


def joined_sequences(_s: Scope, own: Own, x: Any, p: int) -> Any:
    """One sequence of all tokens of an image, pixel of the patch by pixel of the patch."""
    images = x.shape[0]
    return moved(own(x, p), lambda a: a.reshape(images, -1, a.shape[2]))


def from_joined_sequences(_s: Scope, own: Own, x: Any, p: int, height: int, width: int) -> Any:
    return own(moved(x, lambda a: a.reshape(len(a) * p * p, -1, a.shape[2])), p, height, width)


# Folding that is not the inverse ------------------------------------------------------------------------------------


def folded_from(order: Callable[[Array], Array]) -> Change:
    """Fold with the axes (N, p, p, rows, columns, D) of the tokens read in another order."""

    def fold(_s: Scope, own: Own, x: Any, p: int, height: int, width: int) -> Any:
        def move(a: Array) -> Array:
            axes = a.reshape(-1, p, p, height // p, width // p, a.shape[2])
            return order(axes).reshape(a.shape)

        return own(moved(x, move), p, height, width)

    return Change("fold_patches", BLOCK, fold)


def pixels_exchanged(x: Array) -> Array:
    return x.swapaxes(1, 2)


def grid_exchanged(x: Array) -> Array:
    """Tokens read column by column."""
    n, p, _, rows, columns, d = x.shape
    return x.reshape(n, p, p, columns, rows, d).swapaxes(3, 4)


def images_last(x: Array) -> Array:
    """Sequences read as (P, N), not as (N, P)."""
    n, p, _, *rest = x.shape
    return x.reshape(p, p, n, *rest).transpose(2, 0, 1, 3, 4, 5)


def as_quarters(x: Array, p: int, height: int, width: int) -> Array:
    """Pixels of one place in their patch put side by side: p*p small maps."""
    tokens = x.reshape(-1, p, p, height // p, width // p, x.shape[2])
    return tokens.transpose(0, 5, 1, 3, 2, 4).reshape(-1, x.shape[2], height, width)


# Resizing -----------------------------------------------------------------------------------------------------------


def resized_by(into: Callable[..., Any] | None = None, back: Callable[..., Any] | None = None) -> Change:
    """Other functions ``(s, x, size)`` for the resize to whole patches and for that back."""

    def resize(s: Scope, own: Own, x: Any, size: Size) -> Any:
        instead = into if size[0] >= x.shape[2] and size[1] >= x.shape[3] else back
        return own(x, size) if instead is None else instead(s, x, size)

    return Change("resize_bilinear", BLOCK, resize)


def bilinear(places: Places) -> Callable[[Scope, Any, Size], Any]:
    """A bilinear resize with another rule for the source of a pixel: two products with matrices."""

    def resize(s: Scope, x: Any, size: Size) -> Any:
        dtype = raw(x).dtype
        for length_in, length in ((x.shape[3], size[1]), (x.shape[2], size[0])):  # the columns, then the rows
            x = s.ops.linear(x, weight=_shares(places(length_in, length), length_in, dtype))
            x = moved(x, lambda a: a.swapaxes(2, 3))
        return x

    return resize


def _shares(places: Array, length: int, dtype: Any) -> Array:
    """How much each output, (out, in), has of each input."""
    at = sources_at(places, length, dtype)
    shares = np.zeros((len(places), length), dtype)
    np.add.at(shares, (np.arange(len(places)), at.first), 1 - at.weight)
    np.add.at(shares, (np.arange(len(places)), at.second), at.weight)
    return shares


def corners_aligned(length_in: int, length: int) -> Array:
    return np.arange(length) * ((length_in - 1) / max(length - 1, 1))


def corners_of_pixels(length_in: int, length: int) -> Array:
    """Coordinates that count from the corner of a pixel, not from its centre."""
    return np.arange(length) * (length_in / length)


def nearest(offset: float) -> Callable[[Scope, Any, Size], Any]:
    """The pixel in which a pixel's corner (offset 0) or its centre (0.5) lies."""

    def resize(_s: Scope, x: Any, size: Size) -> Any:
        rows, columns = (
            ((np.arange(length) + offset) * (length_in / length)).astype(np.intp)
            for length_in, length in zip(x.shape[2:], size, strict=True)
        )
        return x[:, :, rows[:, np.newaxis], columns]

    return resize


def fitted_to(_s: Scope, x: Any, size: Size) -> Any:
    """Zeros behind, or what is too much cut off."""
    rows, columns = (max(length - length_in, 0) for length_in, length in zip(x.shape[2:], size, strict=True))
    return moved(x, lambda a: np.pad(a[:, :, : size[0], : size[1]], [(0, 0), (0, 0), (0, rows), (0, columns)]))


def stretched(s: Scope, x: Any, size: Size) -> Any:
    return s.ops.resize_bilinear(x, size)


def not_at_all(_s: Scope, x: Any, _size: Size) -> Any:
    return x


def to_exchanged_size(s: Scope, x: Any, size: Size) -> Any:
    """(W, H) pixels, in memory that is read as (H, W)."""
    return moved(s.ops.resize_bilinear(x, size[::-1]), lambda a: a.reshape(*a.shape[:2], *size))


def joined_after(resize: Callable[[Scope, Any, Size], Any]) -> Change:
    """The second map brought to the size of the first when they are joined."""

    def concat(s: Scope, own: Own, maps: Any) -> Any:
        x, y = maps
        return own([x, y] if x.shape[2:] == y.shape[2:] else [x, resize(s, y, x.shape[2:])])

    return Change("concat_channels", BLOCK, concat)


def whole_patches_only(
    into: Callable[[Scope, Any, Size], Any], back: Callable[[Scope, Any, Size], Any]
) -> tuple[Change, ...]:
    """Sides rounded down to whole patches: `into` makes such a map, `back` one of the right size of it.

    The map is folded when its right size is known: until then its tokens pass as (N, p, p, L, D).
    """

    def unfold(s: Scope, own: Own, x: Any, p: int) -> Any:
        size = (x.shape[2] // p * p, x.shape[3] // p * p)
        return own(x if size == x.shape[2:] else into(s, x, size), p)

    def fold(_s: Scope, own: Own, x: Any, p: int, height: int, width: int) -> Any:
        if x.shape[1] * p * p == height * width:
            return own(x, p, height, width)
        return moved(x, lambda a: a.reshape(-1, p, p, *a.shape[1:]))

    def resize(s: Scope, own: Own, x: Any, size: Size) -> Any:
        if len(x.shape) == 4:  # on the way in, or back from as many patches as there should be
            return x if size[0] >= x.shape[2] and size[1] >= x.shape[3] else own(x, size)
        p = x.shape[1]
        tokens = moved(x, lambda a: a.reshape(-1, *a.shape[3:]))
        return back(s, s.ops.fold_patches(tokens, p, *(side // p * p for side in size)), size)

    return (
        Change("resize_bilinear", BLOCK, resize),
        Change("unfold_patches", BLOCK, unfold),
        Change("fold_patches", BLOCK, fold),
    )


# The side of a patch ------------------------------------------------------------------------------------------------


def patches_of(side: int) -> tuple[Change, ...]:
    """Patches of another side."""

    def block(s: Scope, own: Own, x: Any, config: MobileViTConfig, **options: Any) -> Any:
        return own(s, x, dataclasses.replace(config, patch_size=side), **options)

    return (Change("mobilevit_block", BLOCK, block),)


def other_sides(site: Site) -> Iterable[int]:
    usual = (site.config.patch_size**2, 4, 8, 3)
    return [side for side in dict.fromkeys(usual) if side != site.config.patch_size]


MIXED_UP = "All shapes agree, but attention sees other pixels together: labels are mostly wrong."
MISPLACED = "All shapes agree, but pixels come back to other places: labels are mostly wrong."
ONLY_UNEVEN = "Maps with an odd side come out different; sizes that give whole patches everywhere do not show it."
FIX_UNFOLD = "Cut the map as transformers' unfolding does: sequence py*2 + px holds the pixel (py, px) of every patch."
FIX_FOLD = "Let folding be the exact inverse of unfolding: rows, py, columns, px in this order make the map."
FIX_RESIZE = "Resize as torch's interpolate does with mode bilinear and align_corners False, there and back."

MUTANTS: tuple[Mutant, ...] = (
    Mutant(
        "UNF-01",
        "the map in raster order cut into P sequences; expected one sequence for each pixel of a patch",
        consequence=MIXED_UP,
        fix=FIX_UNFOLD,
        make=changes(unfolded_as(raster_cut_into_parts), folded_as(lambda x, p, *size: from_raster(x, *size))),
    ),
    Mutant(
        "UNF-01",
        "the memory (N, D, H, W) of the map read as tokens; expected one sequence for each pixel of a patch",
        variant="memory",
        consequence="All shapes agree, but tokens are made of pixels of one channel: labels are mostly wrong.",
        fix=FIX_UNFOLD,
        make=changes(
            unfolded_as(memory_cut_into_parts),
            folded_as(lambda x, p, *size: x.reshape(-1, x.shape[2], *size)),
        ),
    ),
    Mutant(
        "UNF-01",
        "patches of pixels that follow each other in a row; expected square patches",
        variant="rows",
        consequence=MIXED_UP,
        fix=FIX_UNFOLD,
        make=changes(unfolded_as(neighbours_in_rows), folded_as(from_neighbours_in_rows)),
    ),
    Mutant(
        "UNF-02",
        "sequences of the pixels of a patch; expected sequences of one pixel from every patch",
        consequence="Attention sees four pixels and never the whole picture: labels are mostly wrong.",
        fix="Exchange pixels and patches: the sequences are (N*P, L, D), with L patches as tokens.",
        make=changes(
            Change("unfold_patches", BLOCK, tokens_of_a_patch),
            Change("fold_patches", BLOCK, from_tokens_of_a_patch),
        ),
    ),
    Mutant(
        "UNF-03",
        "one sequence of all pixels in raster order; expected one sequence for each pixel of a patch",
        consequence="Attention mixes pixels that it was trained to keep apart: labels are mostly wrong.",
        fix=FIX_UNFOLD,
        make=changes(unfolded_as(lambda x, _p: to_raster(x)), folded_as(lambda x, _p, *size: from_raster(x, *size))),
    ),
    Mutant(
        "UNF-03",
        "one sequence of all pixels, patch by patch; expected one sequence for each pixel of a patch",
        variant="patches",
        consequence="Attention mixes pixels that it was trained to keep apart: labels are mostly wrong.",
        fix=FIX_UNFOLD,
        make=changes(
            Change("unfold_patches", BLOCK, joined_sequences), Change("fold_patches", BLOCK, from_joined_sequences)
        ),
    ),
    Mutant(
        "UNF-04",
        "rows and columns inside of the patches exchanged in folding; expected the inverse of unfolding",
        consequence=MISPLACED,
        fix=FIX_FOLD,
        make=changes(folded_from(pixels_exchanged)),
    ),
    Mutant(
        "UNF-04",
        "rows and columns of patches exchanged in folding; expected the inverse of unfolding",
        variant="grid",
        consequence=MISPLACED,
        fix=FIX_FOLD,
        make=changes(folded_from(grid_exchanged)),
    ),
    Mutant(
        "UNF-04",
        "rows and columns, of patches and inside of them, exchanged in folding; expected the inverse of unfolding",
        variant="map",
        consequence=MISPLACED,
        fix=FIX_FOLD,
        make=changes(folded_from(lambda x: grid_exchanged(pixels_exchanged(x)))),
    ),
    Mutant(
        "UNF-04",
        "each sequence folded to a small map of its own, side by side; expected the inverse of unfolding",
        variant="quarters",
        consequence=MISPLACED,
        fix=FIX_FOLD,
        make=changes(folded_as(as_quarters)),
    ),
    Mutant(
        "UNF-04",
        "sequences of several pictures read as (P, N) in folding; expected (N, P)",
        variant="pictures",
        consequence="Pictures of one batch are mixed up; a picture alone does not show it.",
        fix=FIX_FOLD,
        make=changes(folded_from(images_last)),
    ),
    Mutant(
        "UNF-06",
        "the last row and column of an odd map dropped; expected the map resized to whole patches",
        consequence=ONLY_UNEVEN,
        fix="Round the number of patches up, and resize the map to that.",
        make=lambda back: whole_patches_only(fitted_to, back),
        values=lambda _site: (stretched, fitted_to),
        examples=(stretched, fitted_to),
    ),
    Mutant(
        "UNF-06",
        "an odd map made smaller to whole patches; expected it to be made larger",
        variant="resized",
        consequence=ONLY_UNEVEN,
        fix="Round the number of patches up, and resize the map to that.",
        make=lambda _: whole_patches_only(stretched, stretched),
    ),
    Mutant(
        "UNF-08",
        "the last row and column cut off after folding; expected the map resized to its own size",
        consequence=ONLY_UNEVEN,
        fix=FIX_RESIZE,
        make=changes(resized_by(back=fitted_to)),
    ),
    Mutant(
        "UNF-08",
        "resized to (width, height) after folding; expected (height, width)",
        variant="exchanged",
        consequence="Maps that are neither square nor made of whole patches are scrambled.",
        fix="Pass the size as (height, width).",
        make=changes(resized_by(back=to_exchanged_size)),
    ),
    Mutant(
        "UNF-09",
        "corners aligned in resizing; expected align_corners False",
        consequence=ONLY_UNEVEN,
        fix=FIX_RESIZE,
        make=changes(resized_by(bilinear(corners_aligned), bilinear(corners_aligned))),
    ),
    Mutant(
        "UNF-10",
        "nearest pixel in resizing; expected bilinear",
        consequence=ONLY_UNEVEN,
        fix=FIX_RESIZE,
        make=changes(resized_by(nearest(0), nearest(0))),
    ),
    Mutant(
        "UNF-10",
        "pixel with the nearest centre in resizing; expected bilinear",
        variant="centres",
        consequence=ONLY_UNEVEN,
        fix=FIX_RESIZE,
        make=changes(resized_by(nearest(0.5), nearest(0.5))),
    ),
    Mutant(
        "UNF-10",
        "coordinates counted from the corners of pixels in resizing; expected from their centres",
        variant="corners",
        consequence=ONLY_UNEVEN,
        fix=FIX_RESIZE,
        make=changes(resized_by(bilinear(corners_of_pixels), bilinear(corners_of_pixels))),
    ),
    Mutant(
        "UNF-10",
        "zeros added to make whole patches; expected the map resized",
        variant="zeros",
        consequence=ONLY_UNEVEN,
        fix=FIX_RESIZE,
        make=changes(resized_by(fitted_to, fitted_to)),
    ),
    Mutant(
        "UNF-11",
        "patches of {value}x{value} pixels; expected patch_size of config.json, which is the side of a patch",
        consequence="Attention sees other pixels together: labels are mostly wrong.",
        fix="Use patches of 2x2 pixels: 4 is their number.",
        make=patches_of,
        values=other_sides,
        examples=(4,),
    ),
    Mutant(
        "UNF-12",
        "still of the size of whole patches; expected the map resized to its own size before conv_projection",
        consequence=ONLY_UNEVEN,
        fix="Resize right after folding.",
        make=changes(resized_by(back=not_at_all), joined_after(stretched)),
    ),
)
