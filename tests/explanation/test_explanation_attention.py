"""Attention as the page has it, against the probabilities themselves."""

import math

import numpy as np
import pytest
from networks import make_model, pixels, tiny

from npmobilevit.explanation.attention import (
    LEVELS,
    MOST_GROUPS,
    MOST_VALUES,
    AttentionGatherer,
    Sums,
    group_sizes,
    group_step,
    grouped,
    offsets_shown,
    within,
)

PROBS = "mobilevit.encoder.layer.{}.transformer.layer.{}.attention.attention.probs"


def gathered(model, x, **options):
    gatherer = AttentionGatherer(model.config.patch_size)
    model.forward(gatherer.scope(model.scope(), lambda name, value: None), model.check_pixel_values(x))
    return gatherer.blocks(**options)


def taps_of(model, x, block, depth):
    """Probabilities (T, P, h, L, L) of a block, by the taps of the model."""
    names = [PROBS.format(block, i) for i in range(depth)]
    return np.stack([value for name, value in model.taps(x, names).items() if name in names])


def mean_by_hand(probs, patches, step_of_queries, step_of_keys):
    """Means over groups of patches, one group after the other."""
    ids = np.arange(math.prod(patches)).reshape(patches)

    def groups(step):
        corners = ((r, c) for r in range(0, patches[0], step) for c in range(0, patches[1], step))
        return [ids[r : r + step, c : c + step].ravel() for r, c in corners]

    return np.stack(
        [
            np.stack([probs[..., q, :][..., k].mean(axis=(-2, -1)) for k in groups(step_of_keys)], axis=-1)
            for q in groups(step_of_queries)
        ],
        axis=-2,
    )


def assert_within_a_step(block, expected):
    """Square roots differ by at most half a step of the row's largest, and by half a step of that."""
    found, largest = np.sqrt(block.probabilities()), np.sqrt(expected.max(axis=-1, keepdims=True))
    assert found.shape == expected.shape
    assert np.all(np.abs(found - np.sqrt(expected)) <= largest * (0.5 / LEVELS) + 1.0 / 65535)


@pytest.mark.parametrize(
    ("size", "patch_size", "patches"),
    [
        ((64, 64), 2, [(4, 4), (2, 2), (1, 1)]),
        ((72, 40), 2, [(5, 3), (3, 2), (2, 1)]),
        ((96, 64), 3, [(4, 3), (2, 2), (1, 1)]),
    ],
)
def test_attention_is_that_of_the_taps(size, patch_size, patches):
    """A wrong order of heads, positions, queries or keys would show; so would rounding down."""
    model = make_model("classification", tiny(patch_size=patch_size))
    x = pixels(1, 3, *size)
    blocks = gathered(model, x)
    assert [block.patches for block in blocks] == patches
    for block, number, depth in zip(blocks, (2, 3, 4), (2, 4, 3), strict=True):
        assert block.name == f"mobilevit.encoder.layer.{number}"
        assert (block.query_step, block.key_step) == (1, 1)
        assert block.offsets == [(py, px) for py in range(patch_size) for px in range(patch_size)]
        probs = taps_of(model, x, number, depth)
        assert probs.shape[1:3] == (patch_size**2, 4)
        assert_within_a_step(block, probs)


def test_many_patches_are_shown_in_groups():
    model = make_model("classification")
    x = pixels(1, 3, 272, 280)  # 17 x 18 patches, 306 in all, in a last row and column of groups with one and two
    block = gathered(model, x)[0]
    assert block.patches == (17, 18)
    assert (block.query_step, block.key_step) == (2, 2)
    assert block.levels.shape == (2, 4, 4, 81, 81)
    assert_within_a_step(block, mean_by_hand(taps_of(model, x, 2, 2), (17, 18), 2, 2))


def test_a_page_that_would_be_too_large_has_coarser_groups():
    """The largest block first, and of it the patches that attend first."""
    model = make_model("classification")
    x = pixels(1, 3, 80, 96)
    whole = gathered(model, x)
    assert [block.levels.size for block in whole] == [2 * 16 * 30**2, 4 * 16 * 9**2, 3 * 16 * 4**2]
    blocks = gathered(model, x, most_values=20_000)
    assert [(block.query_step, block.key_step) for block in blocks] == [(2, 1), (1, 1), (1, 1)]
    assert_within_a_step(blocks[0], mean_by_hand(taps_of(model, x, 2, 2), (5, 6), 2, 1))
    np.testing.assert_array_equal(blocks[1].levels, whole[1].levels)
    blocks = gathered(model, x, most_values=600)
    assert sum(block.levels.size for block in blocks) <= 600
    assert all(math.prod(block.levels.shape[3:]) >= 1 for block in blocks)
    assert blocks[0].key_step > 1
    assert_within_a_step(
        blocks[0], mean_by_hand(taps_of(model, x, 2, 2), (5, 6), blocks[0].query_step, blocks[0].key_step)
    )


def test_nothing_is_joined_beyond_one_group():
    one = Sums("a", (1, 1), 1, 1, np.ones((2, 4, 4, 1, 1, 1, 1)))
    assert within([one], 1) == [one]


def test_parts_of_attention_are_reduced_one_by_one(monkeypatch):
    """The whole of a head has 25 MB here; what is there at a time has at most the limit of a part."""
    from npmobilevit import scope
    from npmobilevit.explanation import attention

    seen = []
    monkeypatch.setattr(scope, "PART_ELEMENTS", 4 * 100 * 20)
    model = make_model("classification", precision="float32")
    x = pixels(1, 3, 160, 160)
    whole = gathered(model, x)[0]

    def watching(x, axes, step):
        seen.append(x.shape)
        return grouped(x, axes, step)

    monkeypatch.setattr(attention, "grouped", watching)
    again = gathered(model, x)[0]
    assert (4, 1, 20, 10, 10) in seen  # 20 queries of one head
    np.testing.assert_array_equal(again.levels, whole.levels)
    assert_within_a_step(again, taps_of(model, x, 2, 2).astype(np.float64))


@pytest.mark.parametrize(
    ("patch_size", "shown"),
    [(1, [0]), (2, [0, 1]), (3, [0, 1, 2]), (4, [0, 1, 2, 3]), (8, [0, 2, 4, 6]), (5, [0, 1, 2, 3])],
)
def test_positions_shown(patch_size, shown):
    assert offsets_shown(patch_size) == [(py, px) for py in shown for px in shown]


def test_of_large_patches_some_positions_are_shown():
    model = make_model("classification", tiny(patch_size=5))
    x = pixels(1, 3, 96, 96)
    block = gathered(model, x)[0]
    assert block.levels.shape[1] == len(block.offsets) == 16
    sequences = [5 * py + px for py, px in block.offsets]
    assert_within_a_step(block, taps_of(model, x, 2, 2)[:, sequences])


@pytest.mark.parametrize(
    ("patches", "step"), [((16, 16), 1), ((16, 17), 2), ((32, 32), 2), ((1, 256), 1), ((1, 257), 2), ((33, 32), 3)]
)
def test_group_step(patches, step):
    assert group_step(patches) == step
    assert group_sizes(patches, step).size <= MOST_GROUPS
    assert group_sizes(patches, step).sum() == math.prod(patches)


def test_the_limit_lets_a_small_classifier_through_whole():
    """2 x 16 x 256 x 256 and what the smaller maps have: the classifier `small` at 256 x 256."""
    assert MOST_VALUES >= 16 * (2 * 256**2 + 4 * 64**2 + 3 * 16**2)
