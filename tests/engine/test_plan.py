"""A plan computes what the readable network computes, block by block, for any size and number of workers."""

import numpy as np
import planned
import pytest
from networks import pixels, random_weights, tiny
from planned import HEADS, ORDERS, assert_agree, readable, run_plan

from npmobilevit.engine import HIDDEN_STATES, blocks, kernels
from npmobilevit.engine.folded import fold
from npmobilevit.engine.plan import Tap, make_plan
from npmobilevit.engine.program import Scratch

# Height and width: even and odd; whole patches and parts of them at every layer; maps of one row; maps that are flat.
SIZES = [(32, 32), (33, 65), (47, 64), (65, 47), (96, 33), (64, 96), (32, 300)]


@pytest.fixture(autouse=True)
def working_memory_holds_nan(monkeypatch):
    """What a stage reads before it has written it would show."""
    monkeypatch.setattr(blocks, "Scratch", lambda allocate: Scratch(lambda size: np.full(size, np.nan, np.float32)))


@pytest.mark.parametrize("output_stride", [8, 16, 32])
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("size", SIZES)
def test_every_block_agrees_with_the_readable_network(size, head, output_stride):
    expected = readable(head, *size, output_stride=output_stride)
    for workers in (1, 1 + SIZES.index(size) % 4):
        plan = planned.planned(head, *size, workers, output_stride=output_stride)
        assert all(len(stage.programs) == workers for stage in plan.stages)
        assert_agree(run_plan(plan), expected)


@pytest.mark.parametrize("workers", [2, 3, 4])
@pytest.mark.parametrize("head", HEADS)
def test_workers_of_a_stage_do_not_wait_for_one_another(head, workers):
    """None reads what another writes, nor writes what another needs, whoever comes first."""
    plan = planned.planned(head, 65, 47, workers, output_stride=8)
    first, *others = (run_plan(plan, order) for order in ORDERS)
    for other in others:
        for name, value in first.items():
            assert np.array_equal(other[name], value), name


@pytest.mark.parametrize("head", HEADS)
def test_a_picture_leaves_nothing_behind_for_the_next(head):
    plan = planned.planned(head, 47, 65, 2)
    before = run_plan(plan)
    kept = plan.pixels.copy()
    plan.pixels[...] = 1e4
    run_plan(plan)
    plan.pixels[...] = np.nan
    run_plan(plan)
    plan.pixels[...] = kept
    for name, value in run_plan(plan).items():
        assert np.array_equal(value, before[name]), name


@pytest.mark.parametrize("values", [1, 700])
@pytest.mark.parametrize("head", HEADS)
def test_bands_of_single_rows(head, values, monkeypatch):
    monkeypatch.setattr(blocks, "BAND_VALUES", values)
    for size, output_stride, workers in (((33, 65), 32, 1), ((64, 47), 8, 2), ((96, 32), 16, 3)):
        plan = planned.planned(head, *size, workers, output_stride=output_stride)
        assert_agree(run_plan(plan), readable(head, *size, output_stride=output_stride))


@pytest.mark.parametrize("head", ["classification", "segmentation"])
def test_attention_in_blocks_of_few_tokens(head, monkeypatch):
    for name, value in {"FEW_TOKENS": 3, "KEYS": 5, "QUERIES": 2}.items():
        monkeypatch.setattr(kernels, name, value)
    for size in ((64, 96), (65, 47)):
        assert_agree(run_plan(planned.planned(head, *size, 2, output_stride=8)), readable(head, *size, output_stride=8))


def test_smaller_bands_are_more_calls(monkeypatch):
    """The test above is about bands."""
    whole = planned.planned("segmentation", 64, 64)
    monkeypatch.setattr(blocks, "BAND_VALUES", 1)
    cut = planned.planned("segmentation", 64, 64)
    for name in ("conv_stem", "encoder.layer.0.layer.0", "encoder.layer.4.downsampling_layer", "segmentation_head"):
        calls = [sum(len(s.programs[0]) for s in plan.stages if s.name == name) for plan in (whole, cut)]
        rows = {"conv_stem": 32, "encoder.layer.0.layer.0": 32}.get(name, 2)
        assert calls[1] > rows * calls[0] / 2


@pytest.mark.parametrize("head", HEADS)
def test_taps_have_the_names_and_the_order_of_the_readable_network(head):
    names = list(planned.planned(head, 32, 32).taps)
    expected = [name for name in readable(head, 32, 32) if name in names]
    assert names == expected
    assert set(HIDDEN_STATES) < set(names)
    assert "conv_stem" in names
    assert ("conv_1x1_exp" in names) == (head != "segmentation")
    assert sum("downsampling_layer" in name for name in names) == 3


def test_a_base_model_without_its_last_convolution():
    config, x = tiny(), pixels(1, 3, 33, 64)
    weights = random_weights(config, expand_output=False)
    plan = make_plan(fold(config, weights, None, expand_output=False), (3, 33, 64), 2, planned.zeros)
    plan.pixels[...] = x[0]
    assert (plan.pooled, plan.logits) == (None, None)
    found = run_plan(plan)
    assert list(found)[-1] == "encoder.layer.4"
    model = planned.MODELS[None](config, weights, precision="float64", expand_output=False)
    assert_agree(found, {name: value[0] for name, value in model.taps(x).items()})


def test_a_classifier_without_labels_pools():
    plan = planned.planned("classification", 32, 64, num_labels=0)
    assert plan.logits is None
    assert_agree(run_plan(plan), readable("classification", 32, 64, num_labels=0))


@pytest.mark.parametrize(
    "changes",
    [
        {"num_channels": 1},
        {"num_channels": 4},
        {"qkv_bias": False},
        {"layer_norm_eps": 1e-3},
        {"num_attention_heads": 1},
        {"num_attention_heads": 2, "mlp_ratio": 3.0},
        {"hidden_act": "swish"},
        {"expand_ratio": 1.0},
        {"aspp_out_channels": 5, "atrous_rates": [6, 12, 18], "output_stride": 16},  # taps beyond the map
        {"num_labels": 1},
    ],
    ids=str,
)
def test_other_settings_of_a_network(changes):
    for head in ("classification", "segmentation"):
        config = tiny(**changes)
        channels = config.num_channels
        weights = random_weights(config, head, dtype=np.float32)
        plan = make_plan(fold(config, weights, head, expand_output=True), (channels, 48, 65), 2, planned.zeros)
        x = pixels(1, channels, 48, 65)
        plan.pixels[...] = x[0]
        model = planned.MODELS[head](config, random_weights(config, head), precision="float64")
        assert_agree(run_plan(plan), {n.removeprefix("mobilevit."): v[0] for n, v in model.taps(x).items()})


@pytest.mark.parametrize("scale", [1.0, -1.5])
def test_a_tap_gives_a_copy_of_the_value_itself(scale):
    stored = np.arange(4, dtype=np.float32)
    value = Tap(stored * np.float32(scale), scale).value()
    assert np.array_equal(value, stored)
    assert value.dtype == np.float32
    assert not np.shares_memory(value, stored)


def test_scores_beyond_the_exponential_are_those_of_the_readable_network(monkeypatch):
    """Queries many times as large: softmax chooses one token, and exponentials overflow."""
    careful, averages = [], kernels.averages

    def seen(*arguments, stable):
        careful.append(stable)
        averages(*arguments, stable=stable)

    monkeypatch.setattr(kernels, "averages", seen)
    config, x = tiny(), pixels(1, 3, 64, 64)
    weights = random_weights(config, "classification", dtype=np.float32)
    for name in weights:
        if name.endswith("attention.query.weight"):
            weights[name] *= 64
    plan = make_plan(fold(config, weights, "classification", expand_output=True), (3, 64, 64), 2, planned.zeros)
    plan.pixels[...] = x[0]
    model = planned.MODELS["classification"](config, weights, precision="float64")
    expected = {n.removeprefix("mobilevit."): v[0] for n, v in model.taps(x).items()}
    found = run_plan(plan)
    assert any(careful)
    for name in ("encoder.layer.2", "encoder.layer.4", "logits"):  # scores near 1000 bear 1e-4 of rounding
        assert np.abs(found[name] - expected[name]).max() < 1e-4 * np.abs(expected[name]).max()
