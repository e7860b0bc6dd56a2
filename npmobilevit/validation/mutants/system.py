"""Mistakes in state, batches and dumps: the rows SYS."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from npmobilevit.ops.arrays import Array
from npmobilevit.validation.mutants.arithmetic import comparable, only, put
from npmobilevit.validation.mutants.changes import Change, moved, raw
from npmobilevit.validation.mutants.mutant import Mutant, Site
from npmobilevit.validation.mutants.places import ANYWHERE, ASPP, ATTENTION, BLOCK, INVERTED_RESIDUAL, TOKEN_LAYER

# SYS-01: pictures of one batch ---------------------------------------------------------------------------------------

TOKENS = rf"{BLOCK}\.(unfolded|layernorm|transformer(\..*)?)(?<!scores)(?<!probs)"  # (N*P, ...): P sequences a picture
MAPS = rf"(?!{BLOCK}\.(unfolded|layernorm|transformer)(\..*)?$).*"


def first_again(x: Any, sequences: int = 1) -> Any:
    """The first picture in place of every other."""
    return moved(x, lambda a: np.concatenate([a[:sequences]] * (len(a) // sequences)))


def added_up(x: Any) -> Any:
    """To each picture those before it."""
    return moved(x, lambda a: np.cumsum(a, axis=0, dtype=a.dtype))


def again_keys(sequences: int) -> Change:
    return Change("attention_scores", ATTENTION, lambda s, own, query, key: own(query, first_again(key, sequences)))


def again_values(sequences: int) -> Change:
    return Change("attend", ATTENTION, lambda s, own, probs, value: own(probs, first_again(value, sequences)))


def sequences_of_a_picture(site: Site) -> Iterable[int]:
    """Nothing to try where there is one picture only."""
    sequences = site.config.patch_size**2
    return [sequences] if site.expected.shape[0] > (sequences if site.expected.ndim == 3 else 1) else []


def of_state(variant: str, text: str, make: Callable[[int], tuple[Change, ...]]) -> Mutant:
    return Mutant(
        "SYS-01",
        text,
        consequence="Results depend on what else is in the batch: the first picture is right, the others are not.",
        fix="Clear or index the buffer by picture; compare a batch with the same pictures one by one.",
        variant=variant,
        values=sequences_of_a_picture,
        examples=(4,),
        make=make,
    )


# SYS-03: sizes of the example that was traced ------------------------------------------------------------------------


class Grid(NamedTuple):
    """A size that was frozen, and where."""

    height: int
    width: int
    where: str = BLOCK

    def __str__(self) -> str:
        return f"{self.height}x{self.width}"


def grids(area: int, patch_size: int, where: str) -> list[Grid]:
    """Those of so many pixels that are cut into whole patches."""
    sides = [side for side in range(patch_size, area + 1, patch_size) if area % (side * patch_size) == 0]
    return [Grid(side, area // side, where) for side in sides]


def read_as(grid: Grid | None) -> tuple[Change, ...]:
    """Maps are read and written as if they had this size; None: that with rows and columns swapped."""

    def unfold(_s: Any, own: Any, x: Any, patch_size: int) -> Any:
        height, width = (x.shape[3], x.shape[2]) if grid is None else grid[:2]
        return own(moved(x, lambda a: a.reshape(*a.shape[:2], height, width)), patch_size)

    def fold(_s: Any, own: Any, x: Any, patch_size: int, height: int, width: int) -> Any:
        y = own(x, patch_size, *((width, height) if grid is None else grid[:2]))
        return moved(y, lambda a: a.reshape(*a.shape[:2], height, width))

    where = BLOCK if grid is None else grid.where
    return (Change("unfold_patches", where, unfold), Change("fold_patches", where, fold))


def other_grids(site: Site) -> Iterable[Grid]:
    """Those of as many pixels as the map has; first that with rows and columns swapped."""
    unfold, fold = site.call("unfold_patches"), site.call("fold_patches")
    call = fold or unfold
    if call is None or not comparable(site):
        return []
    height, width = call.arguments[2:] if call is fold else call.arguments[0].shape[2:]
    found = grids(height * width, site.config.patch_size, only(call.node))
    others = [grid for grid in found if grid[:2] != (height, width)]
    return sorted(others, key=lambda grid: grid[:2] != (width, height))


def resized_to(grid: Grid) -> tuple[Change, ...]:
    """The transformer always sees a map of this size."""

    def unfold(s: Any, own: Any, x: Any, patch_size: int) -> Any:
        return own(s.ops.resize_bilinear(x, grid[:2]), patch_size)

    def fold(s: Any, own: Any, x: Any, patch_size: int, height: int, width: int) -> Any:
        return s.ops.resize_bilinear(own(x, patch_size, *grid[:2]), (height, width))

    return (Change("unfold_patches", grid.where, unfold), Change("fold_patches", grid.where, fold))


def grids_of_tokens(site: Site) -> Iterable[Grid]:
    """Those with as many tokens as were found, if that is another number."""
    call = site.call("unfold_patches")
    if call is None or site.found.ndim != 3 or site.found.shape[1] == site.expected.shape[1]:
        return []
    patch_size = site.config.patch_size
    return grids(site.found.shape[1] * patch_size**2, patch_size, only(call.node))


# Sides of the last map for usual pictures first: 256, 224, 288, 320, 384, 512, 192.
SIDES = (8, 7, 9, 10, 12, 16, 6, 14, 18, 20, 24, 32, 5, 11, 13, 15, 4, 28, 40, 48, 64)


def divided_by(side: int) -> tuple[Change, ...]:
    """The sum over a map is divided by the pixels of a square map of this side."""

    def pool(_s: Any, own: Any, x: Any) -> Any:
        share = math.prod(x.shape[2:]) / side**2
        return moved(own(x), lambda a: a * share)

    return (Change("global_avg_pool", ANYWHERE, pool),)


def other_sides(site: Site) -> Iterable[int]:
    call = site.call("global_avg_pool")
    if call is None or not comparable(site):
        return []
    area = math.prod(call.arguments[0].shape[2:])
    return [side for side in SIDES if side**2 != area]


# SYS-04, SYS-05 ------------------------------------------------------------------------------------------------------


def vary(x: Any) -> Any:
    """Noise of a thousandth. On values with bounds nothing is changed: no replay can repeat it."""
    if not isinstance(x, np.ndarray):
        return x
    noise = np.random.default_rng().standard_normal(x.shape, np.float32)  # without a seed: two runs are to differ
    return x * (1 + np.float32(1e-3) * noise)


def swap_rows_and_columns(x: Any) -> Any:
    return moved(x, lambda a: a.swapaxes(2, 3))


# SYS-06: dropout -----------------------------------------------------------------------------------------------------


class Dropped(NamedTuple):
    """What each element was multiplied by, and the share of zeros that dropout was set to."""

    factors: Array
    share: float

    def __str__(self) -> str:
        return f"{self.share:.3g}"


def dropped(s: Any, x: Any, value: Dropped | float) -> Any:
    """Elements after dropout, rounded as those of an addition are."""

    def drop(a: Array) -> Array:
        factors = value.factors if isinstance(value, Dropped) else drawn(a.shape, value)
        return np.asarray((a * factors).astype(a.dtype))

    return s.ops.add(moved(x, drop), moved(x, np.zeros_like))


def drawn(shape: tuple[int, ...], share: float) -> Array:
    return (np.random.default_rng(0).random(shape) >= share) / (1 - share)


def fitted_dropout(found: Array, part: Array, *, least: int = 3) -> Iterator[Dropped]:
    """Factors 0 and 1 / (1 - p) that turn `part` into `found`, if there are no others, and of zeros at least so many
    and about the share p."""
    clear = np.abs(part) > 1e-2 * np.sqrt(np.square(part).mean())
    ratios = found[clear] / part[clear]
    kept = ratios > 0.5
    if not kept.any() or not np.isfinite(ratios).all():
        return
    share = round(1 - 1 / float(np.median(ratios[kept])), 3)
    zeros = np.count_nonzero(~kept)
    likely = 4 * math.sqrt(ratios.size * max(share * (1 - share), 0)) + 1
    if not 0.005 <= share <= 0.9 or zeros < least or abs(zeros - share * ratios.size) > likely:
        return
    factor = 1 / (1 - share)
    if (np.abs(ratios - np.where(kept, factor, 0)) < 2e-3 * factor).all():
        yield Dropped(np.where(np.abs(found) > factor / 2 * np.abs(part), factor, 0.0), share)


class Hidden(NamedTuple):
    """Dropout of a part of what a tap shows."""

    tap: str
    part: Array
    dropped: Dropped

    def __str__(self) -> str:
        return str(self.dropped)


def drop_hidden(value: Hidden | float) -> tuple[Change, ...]:
    """Behind both projections of a transformer layer: a share of all, or what was seen of it at one tap."""
    if not isinstance(value, Hidden):
        where = rf"{TOKEN_LAYER}\.(attention\.)?output\.dense"
        return (Change("linear_layer", where, lambda s, own, x: dropped(s, own(s, x), value)),)
    change = value.part * (value.dropped.factors - 1)

    def drop(s: Any, x: Any) -> Any:
        return s.ops.add(put(x, raw(x) + change), moved(x, np.zeros_like))  # one more rounding

    return (Change("out", only(value.tap), drop),)


def hidden_dropout(site: Site) -> Iterator[Hidden]:
    """Seen at attention.output, or at the output of the layer, which has its input besides."""
    if not comparable(site):
        return
    tap = site.tap.removeprefix("mobilevit.")
    call = site.ends_with("add")
    if re.fullmatch(rf"{TOKEN_LAYER}\.attention(\.output)?", tap):
        part, other = site.expected, np.zeros(())
    elif call is not None and re.fullmatch(rf"{TOKEN_LAYER}(\.output)?", tap):
        part, other = call[0]
    else:
        return
    for found in fitted_dropout(site.found - other, part):
        yield Hidden(tap, part, found)


def drop_aspp(value: Dropped | float) -> tuple[Change, ...]:
    return (Change("out", ASPP, lambda s, x: dropped(s, x, value)),)


def aspp_dropout(site: Site) -> Iterator[Dropped]:
    if comparable(site) and site.tap == "segmentation_head.aspp":
        yield from fitted_dropout(site.found, site.expected)


def drop_pooled(value: Dropped | float) -> tuple[Change, ...]:
    return (Change("linear", "classifier", lambda s, own, x, **parameters: own(dropped(s, x, value), **parameters)),)


def pooled_dropout(site: Site) -> Iterator[Dropped]:
    """There are more labels than features, so that the features follow from the logits."""
    call = site.ends_with("linear")
    if call is None or site.tap != "classifier" or not comparable(site):
        return
    (pooled,), parameters = call
    weight = parameters["weight"]
    if weight.shape[0] < weight.shape[1] + 8:
        return
    features = np.linalg.lstsq(weight, (site.found - parameters["bias"]).T)[0].T
    yield from fitted_dropout(features, pooled)


def drop_channels(value: Dropped | float) -> tuple[Change, ...]:
    """Whole channels: dropout of two dimensions."""

    def convolve(s: Any, own: Any, x: Any, **parameters: Any) -> Any:
        channels = raw(x).shape[:2]
        factors = value.factors if isinstance(value, Dropped) else drawn(channels, value)
        share = value.share if isinstance(value, Dropped) else value
        return own(dropped(s, x, Dropped(factors[:, :, np.newaxis, np.newaxis], share)), **parameters)

    return (Change("conv2d", r"segmentation_head\.classifier", convolve),)


def channel_dropout(site: Site) -> Iterator[Dropped]:
    """One factor a channel and picture: the solution of the normal equations over all labels and pixels."""
    call = site.ends_with("conv2d")
    if call is None or not comparable(site) or not site.tap.startswith("segmentation_head.classifier"):
        return
    (x,), parameters = call
    weight = parameters["weight"][:, :, 0, 0]  # (labels, channels)
    pixels = math.prod(x.shape[2:])
    if pixels * weight.shape[0] < 2 * weight.shape[1]:
        return
    left = site.found - np.reshape(parameters.get("bias", 0.0), (-1, 1, 1))
    maps, left = x.reshape(*x.shape[:2], pixels), left.reshape(*left.shape[:2], pixels)
    alive = np.square(maps).sum(-1) > 0  # of a channel without values nothing is seen
    gram = (weight.T @ weight) * (maps @ maps.swapaxes(1, 2))  # (N, channels, channels)
    right = ((weight.T @ left) * maps).sum(-1)
    factors = np.stack([np.linalg.lstsq(g, r, rcond=1e-13)[0] for g, r in zip(gram, right, strict=True)])
    yield from fitted_dropout(factors, alive.astype(np.float64), least=1)


def of_dropout(
    variant: str,
    text: str,
    make: Callable[[Any], tuple[Change, ...]],
    values: Callable[[Site], Iterator[Any]],
) -> Mutant:
    return Mutant(
        "SYS-06",
        f"{text}, share {{value}}; expected all values, as in evaluation",
        consequence="Results differ from run to run, and confidence is lower than it should be.",
        fix="Call eval() before running or exporting, or leave dropout out.",
        variant=variant,
        values=values,
        fitted=True,
        examples=(0.1,),
        make=make,
    )


MUTANTS: tuple[Mutant, ...] = (
    of_state(
        "",
        "values of the first picture for every picture of the batch; expected those of each",
        lambda sequences: (
            Change("out", MAPS, lambda s, x: first_again(x)),
            Change("out", TOKENS, lambda s, x: first_again(x, sequences)),
        ),
    ),
    of_state(
        "residual",
        "the block's input of the first picture joined with every picture's map; expected that of each",
        lambda _sequences: (
            Change("concat_channels", BLOCK, lambda s, own, maps: own([first_again(maps[0]), *maps[1:]])),
        ),
    ),
    of_state(
        "shortcut",
        "the block's input of the first picture added to every picture; expected that of each",
        lambda sequences: (
            Change("add", INVERTED_RESIDUAL, lambda s, own, x, y: own(first_again(x), y)),
            Change("add", TOKEN_LAYER, lambda s, own, y, x: own(y, first_again(x, sequences))),
        ),
    ),
    of_state(
        "keys",
        "keys of the first picture for every picture; expected those of each",
        lambda sequences: (again_keys(sequences),),
    ),
    of_state(
        "values",
        "values (of key and value) of the first picture for every picture; expected those of each",
        lambda sequences: (again_values(sequences),),
    ),
    of_state(
        "cache",
        "keys and values of the first picture for every picture; expected those of each",
        lambda sequences: (again_keys(sequences), again_values(sequences)),
    ),
    of_state(
        "accumulated",
        "sums that go on from those of the picture before; expected sums that start from zero",
        lambda _sequences: (
            Change("conv2d", ANYWHERE, lambda s, own, x, **rest: added_up(own(x, **rest))),
            Change("global_avg_pool", ANYWHERE, lambda s, own, x: added_up(own(x))),
        ),
    ),
    Mutant(
        "SYS-03",
        "the map read and written as {value}; expected its own height and width",
        consequence="Pictures of another shape than the traced one are scrambled in every block.",
        fix="Export with dynamic height and width, or trace anew for every size.",
        values=other_grids,
        make=read_as,
    ),
    Mutant(
        "SYS-03",
        "tokens of a map resized to {value}; expected one token for each patch of the map's own size",
        consequence="Pictures of another size than the traced one lose detail, and results differ.",
        fix="Export with dynamic height and width, or trace anew for every size.",
        variant="tokens",
        values=grids_of_tokens,
        examples=(Grid(4, 6),),
        make=resized_to,
    ),
    Mutant(
        "SYS-03",
        "the sum over the map divided by the pixels of a map of side {value}; expected those of the map itself",
        consequence="Features of pictures of another size than the traced one have the wrong size.",
        fix="Divide by the number of pixels of the map at hand.",
        variant="pool",
        values=other_sides,
        examples=(8,),
        make=divided_by,
    ),
    Mutant(
        "SYS-04",
        "values that vary from run to run; expected the same",
        consequence="Nothing can be reproduced, and no comparison is certain.",
        fix="Look for a race, for memory that is not initialised, or for a random layer that is active.",
        mode="two runs",
        values=lambda site: (),
        make=lambda _value: (Change("out", ANYWHERE, lambda s, x: vary(x)),),
    ),
    Mutant(  # of the dump alone: the next layer goes on with the map turned back. The check finds it by itself.
        "SYS-05",
        "the dump has its axes in another order, or the values of another layer; expected the layer's own, in N, C, "
        "H, W",
        consequence="The network may be right; what is compared is not what the name says.",
        fix="Transpose the dump, or declare its layout in a manifest; set names straight.",
        values=lambda site: (),
        make=lambda _value: (
            Change("out", rf"{BLOCK}\.conv_kxk(\.activation)?", lambda s, x: swap_rows_and_columns(x)),
        ),
    ),
    of_dropout("", "dropout is active", drop_hidden, hidden_dropout),
    of_dropout("aspp", "dropout is active", drop_aspp, aspp_dropout),
    of_dropout("pooled", "dropout of the pooled features is active", drop_pooled, pooled_dropout),
    of_dropout("channels", "dropout of whole channels is active", drop_channels, channel_dropout),
)
