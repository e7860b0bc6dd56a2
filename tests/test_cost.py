"""The cost table: against what torch counts in transformers' models, published figures, and our own network."""

import itertools
import json
import tracemalloc
from pathlib import Path

import networks
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from npmobilevit import cost, ops
from npmobilevit.config import MobileViTConfig, expected_parameters
from npmobilevit.cost import block_of, cost_table
from npmobilevit.errors import ShapeError
from npmobilevit.scope import EXTRA_TAPS

MEASURED = Path(__file__).parents[1] / "reference" / "measured" / "cost.json"  # by tools/count_macs.py
WITNESS = json.loads(MEASURED.read_text(encoding="utf-8"))

KINDS = {
    **dict.fromkeys(ops.ACTIVATIONS, "activation"),
    **{"conv2d": "convolution", "attention_scores": "attention", "attend": "attention", "concat_channels": "concat"},
    **{"resize_bilinear": "resize", "global_avg_pool": "mean"},
    "linear": "linear",  # the operator; there is an activation of that name
}


def table_of(case):
    n, _, *size = case["input_shape"]
    return cost_table(MobileViTConfig(**case["config"]), size, head=case["head"], batch=n)


def module_of(row):
    """The module of transformers in which the operation is."""
    module, _, last = row.name.rpartition(".")
    return module if last in (*EXTRA_TAPS, row.operation) else row.name


def counted(table):
    """What the tool counts, of our rows: shape, parameters, buffers and operations of each module.

    Unfolding and folding are left out: in torch they are changes of the view.
    """
    shown = [row for row in table.rows if row.operation not in ("unfold_patches", "fold_patches")]
    modules = {}
    for module, rows in itertools.groupby(sorted(shown, key=module_of), module_of):
        rows = list(rows)
        shape = next((list(row.shape) for row in rows if row.name == module), None)
        operations = [[KINDS.get(row.operation, row.operation), row.macs, row.activation_bytes] for row in rows]
        modules[module] = [shape, sum(row.parameters for row in rows), sum(row.buffers for row in rows), operations]
    return {module: modules[module] for module in map(module_of, shown)}


@pytest.mark.parametrize("name", WITNESS["counted"])
def test_every_row_is_what_torch_counts(name):
    case = WITNESS["counted"][name]
    table = table_of(case)
    found = counted(table)
    names = WITNESS["names"][case["names"]]
    assert list(found) == names  # in the order of the forward pass
    for module, (shape, *expected) in zip(names, case["modules"], strict=True):
        assert found[module][1:] == expected, module
        # an operation that a module does on the way has another shape than what the module puts out
        assert found[module][0] in (shape, None), module
    assert sum(row[0] is not None for row in found.values()) > 0.9 * len(found)
    assert table.total().macs == case["macs"]


def test_the_counted_networks_have_what_can_differ():
    cases = WITNESS["counted"].values()
    assert {case["head"] for case in cases} == {None, "classification", "segmentation"}
    assert {case["config"].get("output_stride", 32) for case in cases} == {8, 16, 32}
    assert {case["input_shape"][0] for case in cases} == {1, 2}
    kinds = {kind for case in cases for *_, operations in case["modules"] for kind, _, _ in operations}
    assert kinds >= {*KINDS.values(), "add", "batch_norm", "layer_norm", "linear", "softmax"}


@pytest.mark.parametrize("name", WITNESS["receptive_fields"])
def test_receptive_fields_are_those_measured_by_differentiation(name):
    case = WITNESS["receptive_fields"][name]
    whole = case["input_shape"][2:]
    rows = {row.name: list(row.receptive_field) for row in table_of(case).rows if module_of(row) == row.name}
    assert {name: field for name, field in rows.items() if field != whole} == {
        name: field for name, field in case["fields"].items() if name in rows
    }
    assert len(rows) > 150
    assert case["whole"] > 150


def test_receptive_fields_grow_by_the_kernel_and_the_strides_before_it():
    """In the middle of a large picture, up to the first attention: r + (k - 1) * product of strides."""
    config = MobileViTConfig(conv_kernel_size=5)
    rows = cost_table(config, (256, 512), head="classification").rows
    before = list(itertools.takewhile(lambda row: row.operation != "attention_scores", rows))
    fields = {row.receptive_field for row in before}
    downsampled = 3 + 2 * 2 + 2 * 2 + 4 * 2 + 4 * 2 + 4 * 2  # stem, layer 0, layer 1, and the strided of layer 2
    assert {(3, 3), (7, 7), (11, 11), (19, 19), (27, 27), (35, 35)} < fields
    assert max(fields) == (downsampled + 4 * 8,) * 2
    assert {row.receptive_field for row in rows[len(before) :]} == {(256, 512)}


def test_where_a_patch_is_the_whole_map_only_the_mean_joins_what_is_far_apart():
    *_, last, mean, _ = cost_table(MobileViTConfig(patch_size=64), (512, 512), head="classification").rows
    assert max(last.receptive_field) < 512
    assert (mean.operation, mean.receptive_field) == ("global_avg_pool", (512, 512))


@given(st.integers(1, 24), st.sampled_from([1, 3, 5]), st.integers(1, 3), st.integers(1, 12))
def test_the_reach_of_a_convolution_is_that_of_impulses(size, kernel, stride, dilation):
    padding = (kernel - 1) // 2 * dilation
    x = np.eye(size).reshape(size, 1, size, 1)  # an impulse at each position
    options = {"stride": (stride, 1), "padding": (padding, 0), "dilation": (dilation, 1)}
    y = ops.conv2d(x, weight=np.ones((1, 1, kernel, 1)), **options)[:, 0, :, 0]  # (size, H')
    assert_reach(y, cost.convolved(cost.each_pixel(size), kernel, stride, padding, dilation))


@given(st.integers(1, 24), st.integers(1, 24))
def test_the_reach_of_a_resize_is_that_of_impulses(size, resized):
    x = np.eye(size).reshape(size, 1, size, 1)
    y = ops.resize_bilinear(x, (resized, 1))[:, 0, :, 0]  # (size, resized)
    assert_reach(np.where(y > 1e-12, y, 0), cost.resized(cost.each_pixel(size), resized))


def assert_reach(y, reach):
    """Each column of y, (size, H'), is nonzero from the first to the last row that is told."""
    found = [(int(np.flatnonzero(column)[0]), int(np.flatnonzero(column)[-1])) for column in y.T]
    np.testing.assert_array_equal(reach, found)


def test_a_dilation_beyond_the_map_sees_the_pixel_alone():
    reach = cost.each_pixel(8)
    np.testing.assert_array_equal(cost.convolved(reach, 3, 1, 18, 18), reach)


# Published: the model cards of Apple round these to 1.3, 2.3 and 5.6 million; with DeepLabV3 to 1.9, 2.9 and 6.4


PUBLISHED = {  # classification with 1000 labels, base model with conv_1x1_exp, segmentation with 21 labels
    "xxs": (1_272_024, 951_024, 1_854_853),
    "xs": (2_317_848, 1_932_848, 2_944_069),
    "s": (5_578_632, 4_937_632, 6_357_941),
}
BUFFERS = {"xxs": 4_144, "xs": 8_480, "s": 12_288}  # with one counter a normalisation, of which there are 32


@pytest.mark.parametrize("variant", PUBLISHED)
def test_parameters_are_those_published(variant):
    settings = networks.VARIANTS[variant]
    classifier = cost_table(MobileViTConfig(**settings, num_labels=1000), head="classification").total()
    base = cost_table(MobileViTConfig(**settings)).total()
    segmenter = cost_table(MobileViTConfig(**settings, num_labels=21, output_stride=16), head="segmentation").total()
    assert (classifier.parameters, base.parameters, segmenter.parameters) == PUBLISHED[variant]
    assert classifier.buffers + 32 == BUFFERS[variant]
    assert classifier.weight_bytes == 4 * (classifier.parameters + classifier.buffers)


@pytest.mark.parametrize(("variant", "gmacs"), [("xxs", 0.4), ("xs", 1.0), ("s", 2.0)])
def test_gmacs_of_the_model_cards(variant, gmacs):
    """timm's cards say 0.4, 1.1 and 2.0; reference/cost.md has what is known of the 1.1."""
    config = MobileViTConfig(**networks.VARIANTS[variant], num_labels=1000)
    assert round(cost_table(config, head="classification").total().macs / 1e9, 1) == gmacs


# Our own network


@pytest.mark.parametrize("head", [None, "classification", "segmentation"])
@pytest.mark.parametrize("size", [(32, 48), (37, 29), (1, 1)])
def test_names_and_shapes_are_those_of_the_taps(head, size):
    model = networks.make_model(head)
    taps = []
    pixels = networks.pixels(2, height=size[0], width=size[1])
    model.forward(model.scope(lambda name, x: taps.append((name, x.shape))), pixels)
    table = cost_table(model.config, size, head=head, batch=2)
    rows = [(row.name, row.shape) for row in table.rows if (row.name, row.shape) in taps]
    assert len({row.name for row in table.rows}) == len(table.rows)
    seen = dict(rows)
    left = {row.name for row in table.rows} - seen.keys()
    assert {name.rpartition(".")[2] for name in left} <= {
        *("add", "concat_channels", "resize_bilinear", "fold_patches", "global_avg_pool")
    }
    modules = {name for name, _ in taps if name.endswith(("convolution", "normalization", "activation", "dense"))}
    assert modules <= seen.keys()


@pytest.mark.parametrize("head", [None, "classification", "segmentation"])
def test_all_parameters_are_counted_once(head):
    config = networks.tiny(qkv_bias=False)
    total = cost_table(config, (32, 32), head=head).total()
    sizes = [int(np.prod(shape)) for shape in expected_parameters(config, head=head).values()]
    assert total.parameters + total.buffers == sum(sizes)


def test_costs_go_with_the_batch_and_the_size_of_a_number():
    one = cost_table(networks.tiny(), (33, 40), head="segmentation")
    many = cost_table(networks.tiny(), (33, 40), head="segmentation", batch=3, itemsize=2)
    for a, b in zip(one.rows, many.rows, strict=True):
        assert (b.name, b.macs, b.activation_bytes) == (a.name, 3 * a.macs, 3 * a.activation_bytes // 2)
        assert (b.parameters, b.weight_bytes, b.receptive_field) == (
            a.parameters,
            a.weight_bytes // 2,
            a.receptive_field,
        )


@pytest.mark.parametrize("head", [None, "classification", "segmentation"])
def test_blocks_add_up(head):
    table = cost_table(networks.tiny(), (64, 64), head=head)
    blocks, total = table.blocks(), table.total()
    names = ["conv_stem", *(f"encoder.layer.{i}" for i in range(5))]
    ends = {
        None: ["conv_1x1_exp", "global_avg_pool"],
        "classification": ["conv_1x1_exp", "global_avg_pool", "classifier"],
        "segmentation": ["segmentation_head"],
    }
    assert [block.name for block in blocks] == names + ends[head]
    for count in ("parameters", "buffers", "macs", "weight_bytes", "activation_bytes"):
        assert sum(getattr(block, count) for block in blocks) == getattr(total, count)
    assert blocks[-1].shape == total.shape == table.rows[-1].shape
    assert block_of("mobilevit.encoder.layer.4.fusion.convolution") == "encoder.layer.4"


def test_without_labels_there_is_no_classifier():
    table = cost_table(networks.tiny(num_labels=0), (64, 64), head="classification")
    assert (table.rows[-1].operation, table.rows[-1].shape) == ("global_avg_pool", (1, 20))
    base = cost_table(networks.tiny(), (64, 64), expand_output=False)
    assert base.rows[-1].name == "encoder.layer.4.fusion.activation"


def test_the_size_is_that_of_the_config_unless_it_is_given():
    assert cost_table(networks.tiny(image_size=(40, 48))).input_shape == (1, 3, 40, 48)
    assert cost_table(networks.tiny(image_size=40)).input_shape == (1, 3, 40, 40)


def test_a_large_picture_costs_no_memory():
    tracemalloc.start()
    try:
        table = cost_table(MobileViTConfig(), (65536, 65536), head="segmentation")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert table.total().activation_bytes > 8 * 10**16
    assert peak < 20 * 2**20


def test_a_config_beyond_all_weights_has_a_cost():
    largest = MobileViTConfig(conv_kernel_size=65535, neck_hidden_sizes=[65536] * 7)
    assert cost_table(largest, (32, 32)).total().macs > 2**63


@pytest.mark.parametrize(
    "arguments",
    [
        *({"size": size} for size in (0, -1, 2.5, "64", (64,), (64, 64, 64), (0, 64), (65537, 1), True, [64, "64"])),
        *({name: value} for name in ("batch", "itemsize") for value in (0, -1, 1.5, None, True)),
    ],
    ids=str,
)
def test_sizes_that_are_none_are_refused(arguments):
    with pytest.raises(ShapeError) as caught:
        cost_table(networks.tiny(), **arguments)
    assert caught.value.code == "argument-range"
