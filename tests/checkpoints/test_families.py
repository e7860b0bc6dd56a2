"""Checkpoints of every family against names written by hand, and configs against the shapes they give."""

import math
import re
import time

import networks
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import VARIANTS, counters, random_weights, tiny

from npmobilevit import MobileViTForImageClassification, MobileViTForSemanticSegmentation
from npmobilevit.checkpoints.families import (
    family,
    infer_config,
    infer_head,
    is_timm_config,
    processor_settings,
    timm_labels,
    timm_processor_settings,
    to_transformers,
)
from npmobilevit.checkpoints.labels import VOC_LABELS, imagenet_labels
from npmobilevit.config import MobileViTConfig, expected_parameters, make_divisible
from npmobilevit.errors import ConfigError, WeightsError
from npmobilevit.image_processing import MobileViTImageProcessor

# The names of the other libraries, built from their modules layer by layer: independent of the tables under test.

RESIDUAL_PARTS = (
    ("expand_1x1", "conv1_1x1", "block.exp_1x1"),
    ("conv_3x3", "conv2_kxk", "block.conv_3x3"),
    ("reduce_1x1", "conv3_1x1", "block.red_1x1"),
)
BLOCK_PARTS = (
    ("conv_kxk", "conv_kxk", "local_rep.conv_3x3"),
    ("conv_projection", "conv_proj", "conv_proj"),
    ("fusion", "conv_fusion", "fusion"),
)
TRANSFORMER_PARTS = (
    ("layernorm_before", "norm1", "pre_norm_mha.0"),
    ("attention.output.dense", "attn.proj", "pre_norm_mha.1.out_proj"),
    ("layernorm_after", "norm2", "pre_norm_ffn.0"),
    ("intermediate.dense", "mlp.fc1", "pre_norm_ffn.1"),
    ("output.dense", "mlp.fc2", "pre_norm_ffn.4"),
)


def residuals():
    """(transformers, timm, ml-cvnets) of each inverted residual."""
    yield "encoder.layer.0.layer.0", "stages.0.0", "layer_1.0"
    for i in range(3):
        yield f"encoder.layer.1.layer.{i}", f"stages.1.{i}", f"layer_2.{i}"
    for i in (2, 3, 4):
        yield f"encoder.layer.{i}.downsampling_layer", f"stages.{i}.0", f"layer_{i + 1}.0"


def conv_layers():
    """The same of each convolution with a normalisation, without those of the segmentation head."""
    yield "conv_stem", "stem", "conv_1"
    for ours, timm, cvnets in residuals():
        for part in RESIDUAL_PARTS:
            yield f"{ours}.{part[0]}", f"{timm}.{part[1]}", f"{cvnets}.{part[2]}"
    for i in (2, 3, 4):
        for part in BLOCK_PARTS:
            yield f"encoder.layer.{i}.{part[0]}", f"stages.{i}.1.{part[1]}", f"layer_{i + 1}.1.{part[2]}"
    yield "conv_1x1_exp", "final_conv", "conv_1x1_exp"


def plain_layers():
    """The same of each linear layer and layer normalisation but query, key and value."""
    for i, depth in ((2, 2), (3, 4), (4, 3)):
        for j in range(depth):
            ours, timm = f"encoder.layer.{i}.transformer.layer.{j}", f"stages.{i}.1.transformer.{j}"
            for part in TRANSFORMER_PARTS:
                yield f"{ours}.{part[0]}", f"{timm}.{part[1]}", f"layer_{i + 1}.1.global_rep.{j}.{part[2]}"
        yield f"encoder.layer.{i}.layernorm", f"stages.{i}.1.norm", f"layer_{i + 1}.1.global_rep.{depth}"


def fused_layers():
    """The same of each attention."""
    for i, depth in ((2, 2), (3, 4), (4, 3)):
        for j in range(depth):
            ours = f"encoder.layer.{i}.transformer.layer.{j}.attention.attention"
            yield (
                ours,
                f"stages.{i}.1.transformer.{j}.attn.qkv",
                f"layer_{i + 1}.1.global_rep.{j}.pre_norm_mha.1.qkv_proj",
            )


SEGMENTATION_LAYERS = {
    **{f"segmentation_head.aspp.convs.{i}": f"seg_head.aspp.aspp_layer.convs.{i}" for i in range(4)},
    "segmentation_head.aspp.convs.4.conv_1x1": "seg_head.aspp.aspp_layer.convs.4.aspp_pool.conv_1x1",
    "segmentation_head.aspp.project": "seg_head.aspp.aspp_layer.project",
}
NORMALIZATION = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def foreign(weights, library):
    """Tensors of transformers under the names of "timm" or "ml-cvnets"; every one of them must be used."""
    rest = dict(weights)
    which = {"timm": 1, "ml-cvnets": 2}[library]
    conv, norm = {"timm": ("conv", "bn"), "ml-cvnets": ("block.conv", "block.norm")}[library]
    segmentation = any(name.startswith("segmentation_head.") for name in weights)
    start = "encoder." if segmentation else ""
    out = {}
    rows = [(f"mobilevit.{row[0]}", start + row[which]) for row in conv_layers()]
    rows += SEGMENTATION_LAYERS.items()
    for ours, theirs in rows:
        if f"{ours}.convolution.weight" not in rest:
            continue  # of the other head
        out[f"{theirs}.{conv}.weight"] = rest.pop(f"{ours}.convolution.weight")
        for leaf in NORMALIZATION:
            if f"{ours}.normalization.{leaf}" in rest:
                out[f"{theirs}.{norm}.{leaf}"] = rest.pop(f"{ours}.normalization.{leaf}")
    for i in (2, 3, 4):
        theirs = {"timm": f"stages.{i}.1.conv_1x1", "ml-cvnets": f"layer_{i + 1}.1.local_rep.conv_1x1.block.conv"}
        out[f"{start}{theirs[library]}.weight"] = rest.pop(f"mobilevit.encoder.layer.{i}.conv_1x1.convolution.weight")
    for row in plain_layers():
        for leaf in ("weight", "bias"):
            out[f"{start}{row[which]}.{leaf}"] = rest.pop(f"mobilevit.{row[0]}.{leaf}")
    for row in fused_layers():
        for leaf in ("weight", "bias"):
            parts = [rest.pop(f"mobilevit.{row[0]}.{part}.{leaf}") for part in ("query", "key", "value")]
            out[f"{start}{row[which]}.{leaf}"] = np.concatenate(parts)
    heads = {"timm": ("classifier", "head.fc"), "ml-cvnets": ("classifier", "classifier.fc")}
    if segmentation:
        heads[library] = ("segmentation_head.classifier.convolution", "seg_head.classifier.block.conv")
    for leaf in ("weight", "bias"):
        out[f"{heads[library][1]}.{leaf}"] = rest.pop(f"{heads[library][0]}.{leaf}")
    assert rest == {}
    return out


TENSORFLOW_LEAVES = {
    "normalization/weight": "normalization/gamma",
    "normalization/bias": "normalization/beta",
    "normalization/running_mean": "normalization/moving_mean",
    "normalization/running_var": "normalization/moving_variance",
    "layernorm/weight": "layernorm/gamma",
    "layernorm/bias": "layernorm/beta",
    "layernorm_before/weight": "layernorm_before/gamma",
    "layernorm_before/bias": "layernorm_before/beta",
    "layernorm_after/weight": "layernorm_after/gamma",
    "layernorm_after/bias": "layernorm_after/beta",
}


def as_tensorflow(weights, scope="tf_mobile_vi_t_for_image_classification"):
    """Tensors of transformers as variables of its TensorFlow classes, which have no counters."""
    out = {}
    for name, values in weights.items():
        if name.endswith("num_batches_tracked"):
            continue
        *path, layer, leaf = re.sub(r"\.(?!\d)", "/", name).split("/")  # dots stay before numbers
        end = TENSORFLOW_LEAVES.get(f"{layer}/{leaf}", f"{layer}/{leaf.replace('weight', 'kernel')}")
        if values.ndim > 1:
            values = np.ascontiguousarray(values.transpose({4: (2, 3, 1, 0), 2: (1, 0)}[values.ndim]))
        out["/".join([scope, *path, end]) + ":0"] = values
    return out


def with_counters(head, **changes):
    """Weights and config of the tiny network, the counters among the weights."""
    config = tiny(**changes)
    weights = random_weights(config, head, dtype=np.float32)
    return config, weights | counters(weights, 7)


def assert_same_tensors(found, expected):
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values, strict=True)


def refused(action, code):
    with pytest.raises((WeightsError, ConfigError)) as caught:
        action()
    assert caught.value.code == code
    return str(caught.value)


# Names


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("stem.bn.running_var", "mobilevit.conv_stem.normalization.running_var"),
        ("stages.0.0.conv1_1x1.conv.weight", "mobilevit.encoder.layer.0.layer.0.expand_1x1.convolution.weight"),
        ("stages.1.2.conv2_kxk.bn.bias", "mobilevit.encoder.layer.1.layer.2.conv_3x3.normalization.bias"),
        (
            "stages.4.0.conv3_1x1.bn.num_batches_tracked",
            "mobilevit.encoder.layer.4.downsampling_layer.reduce_1x1.normalization.num_batches_tracked",
        ),
        ("stages.2.1.conv_kxk.conv.weight", "mobilevit.encoder.layer.2.conv_kxk.convolution.weight"),
        ("stages.3.1.conv_1x1.weight", "mobilevit.encoder.layer.3.conv_1x1.convolution.weight"),
        (
            "stages.3.1.transformer.3.attn.proj.bias",
            "mobilevit.encoder.layer.3.transformer.layer.3.attention.output.dense.bias",
        ),
        (
            "stages.2.1.transformer.0.norm2.weight",
            "mobilevit.encoder.layer.2.transformer.layer.0.layernorm_after.weight",
        ),
        (
            "stages.2.1.transformer.0.mlp.fc1.bias",
            "mobilevit.encoder.layer.2.transformer.layer.0.intermediate.dense.bias",
        ),
        ("stages.2.1.norm.weight", "mobilevit.encoder.layer.2.layernorm.weight"),
        ("stages.2.1.conv_fusion.bn.weight", "mobilevit.encoder.layer.2.fusion.normalization.weight"),
        ("final_conv.conv.weight", "mobilevit.conv_1x1_exp.convolution.weight"),
        ("head.fc.bias", "classifier.bias"),
        ("conv_1.block.norm.running_mean", "mobilevit.conv_stem.normalization.running_mean"),
        (
            "layer_1.0.block.exp_1x1.block.conv.weight",
            "mobilevit.encoder.layer.0.layer.0.expand_1x1.convolution.weight",
        ),
        ("layer_2.2.block.red_1x1.block.norm.bias", "mobilevit.encoder.layer.1.layer.2.reduce_1x1.normalization.bias"),
        (
            "layer_3.0.block.conv_3x3.block.conv.weight",
            "mobilevit.encoder.layer.2.downsampling_layer.conv_3x3.convolution.weight",
        ),
        ("layer_4.1.local_rep.conv_1x1.block.conv.weight", "mobilevit.encoder.layer.3.conv_1x1.convolution.weight"),
        (
            "layer_5.1.global_rep.2.pre_norm_ffn.4.bias",
            "mobilevit.encoder.layer.4.transformer.layer.2.output.dense.bias",
        ),
        ("layer_3.1.global_rep.2.weight", "mobilevit.encoder.layer.2.layernorm.weight"),
        ("layer_4.1.global_rep.4.bias", "mobilevit.encoder.layer.3.layernorm.bias"),
        ("layer_5.1.global_rep.3.weight", "mobilevit.encoder.layer.4.layernorm.weight"),
        ("classifier.fc.weight", "classifier.weight"),
        ("classifier.classifier.fc.weight", "classifier.weight"),
        ("encoder.layer_5.1.fusion.block.norm.weight", "mobilevit.encoder.layer.4.fusion.normalization.weight"),
        (
            "seg_head.aspp.aspp_layer.convs.4.aspp_pool.conv_1x1.block.conv.weight",
            "segmentation_head.aspp.convs.4.conv_1x1.convolution.weight",
        ),
        ("seg_head.aspp.aspp_layer.convs.0.block.norm.bias", "segmentation_head.aspp.convs.0.normalization.bias"),
        ("seg_head.classifier.block.conv.bias", "segmentation_head.classifier.convolution.bias"),
        ("seg_head.classifier.classifier.block.conv.bias", "segmentation_head.classifier.convolution.bias"),
    ],
)
def test_names_of_timm_and_ml_cvnets(theirs, ours):
    mark = "stem.conv.weight" if theirs.startswith(("st", "final", "head")) else "conv_1.block.conv.weight"
    values = np.arange(3.0)
    renamed = to_transformers({mark: np.zeros((1, 1, 1, 1)), theirs: values})
    assert set(renamed) == {"mobilevit.conv_stem.convolution.weight", ours}
    assert renamed[ours] is values


@pytest.mark.parametrize("library", ["timm", "ml-cvnets"])
@pytest.mark.parametrize("leaf", ["weight", "bias"])
def test_fused_rows_are_query_then_key_then_value(library, leaf):
    name = {
        "timm": "stages.2.1.transformer.1.attn.qkv",
        "ml-cvnets": "layer_3.1.global_rep.1.pre_norm_mha.1.qkv_proj",
    }[library]
    mark = {"timm": "stem.conv.weight", "ml-cvnets": "conv_1.block.conv.weight"}[library]
    fused = np.arange(12.0).reshape((6, 2) if leaf == "weight" else 12)
    renamed = to_transformers({mark: np.zeros((1, 1, 1, 1)), f"{name}.{leaf}": fused})
    start = "mobilevit.encoder.layer.2.transformer.layer.1.attention.attention"
    rows = len(fused) // 3
    for i, part in enumerate(("query", "key", "value")):
        np.testing.assert_array_equal(renamed[f"{start}.{part}.{leaf}"], fused[i * rows : (i + 1) * rows], strict=True)
    assert len(renamed) == 4


@pytest.mark.parametrize(
    ("name", "shape", "expected", "their_axes"),
    [
        ("conv_stem/convolution/kernel", (5, 2, 3, 4), "conv_stem.convolution.weight", (3, 2, 0, 1)),
        (
            "encoder/layer.3/transformer/layer.1/attention/attention/query/kernel",
            (2, 3),
            "encoder.layer.3.transformer.layer.1.attention.attention.query.weight",
            (1, 0),
        ),
        (
            "encoder/layer.1/layer.2/conv_3x3/normalization/moving_variance",
            (3,),
            "encoder.layer.1.layer.2.conv_3x3.normalization.running_var",
            (0,),
        ),
        ("encoder/layer.2/layernorm/gamma", (3,), "encoder.layer.2.layernorm.weight", (0,)),
        ("encoder/layer.2/layernorm/beta", (3,), "encoder.layer.2.layernorm.bias", (0,)),
    ],
)
@pytest.mark.parametrize("scope", ["for_image_classification", "for_semantic_segmentation_2", "model"])
def test_names_and_layouts_of_tensorflow(name, shape, expected, their_axes, scope):
    values = np.arange(math.prod(shape), dtype=np.float32).reshape(shape)
    renamed = to_transformers({f"tf_mobile_vi_t_{scope}/mobilevit/{name}:0": values})
    assert list(renamed) == [f"mobilevit.{expected}"]
    np.testing.assert_array_equal(renamed[f"mobilevit.{expected}"], values.transpose(their_axes), strict=True)


@pytest.mark.parametrize(("library", "head"), [("timm", "classification"), ("ml-cvnets", "classification")])
@pytest.mark.parametrize("variant", VARIANTS)
def test_classification_checkpoints_have_311_tensors_and_become_347(library, head, variant):
    config = MobileViTConfig(**VARIANTS[variant], num_labels=3)
    weights = {n: np.broadcast_to(np.float32(0), s) for n, s in expected_parameters(config, head=head).items()}
    weights |= counters(weights)
    theirs = foreign(weights, library)
    assert (len(theirs), len(weights)) == (311, 347)
    assert family(theirs) == library
    renamed = to_transformers(theirs)
    assert {n: v.shape for n, v in renamed.items()} == {n: v.shape for n, v in weights.items()}


@pytest.mark.parametrize(
    ("library", "head"),
    [("timm", "classification"), ("ml-cvnets", "classification"), ("ml-cvnets", "segmentation")],
)
def test_every_tensor_arrives_bit_by_bit_and_so_do_the_logits(library, head):
    config, weights = with_counters(head)
    theirs = foreign(weights, library)
    assert family(theirs) == library
    renamed = to_transformers(theirs)
    assert_same_tensors(renamed, weights)
    assert len(renamed) == (347 if head == "classification" else 377)
    kind = {"classification": MobileViTForImageClassification, "segmentation": MobileViTForSemanticSegmentation}[head]
    pixels = networks.pixels(dtype=np.float32)
    expected = kind(config, weights)(pixels).logits
    np.testing.assert_array_equal(kind(config, renamed)(pixels).logits, expected, strict=True)


@pytest.mark.parametrize(("head", "count"), [("classification", 315), ("segmentation", 340)])
def test_tensorflow_variables_arrive_bit_by_bit(head, count):
    weights = random_weights(tiny(), head, dtype=np.float32)
    theirs = as_tensorflow(weights)
    assert (family(theirs), len(theirs)) == ("tensorflow", count)
    assert_same_tensors(to_transformers(theirs), weights)


def test_weights_of_transformers_are_left_alone():
    for head in (None, "classification", "segmentation"):
        _, weights = with_counters(head)
        assert family(weights) == "transformers"
        renamed = to_transformers({**weights, "of nothing": np.zeros(1)})
        assert all(renamed[name] is values for name, values in weights.items())
        assert "of nothing" in renamed  # the model lists it with whatever else is wrong


def test_tensors_without_counters_and_without_a_classifier_are_renamed_too():
    weights = random_weights(tiny(), "classification")
    theirs = foreign(weights, "timm")
    del theirs["head.fc.weight"], theirs["head.fc.bias"]  # timm.create_model(..., num_classes=0)
    renamed = to_transformers(theirs)
    assert renamed.keys() == weights.keys() - {"classifier.weight", "classifier.bias"}
    assert infer_config(renamed).num_labels == 0


# Names that are refused


@pytest.mark.parametrize(
    "names",
    [
        [],
        ["fc.weight", "layer1.0.conv1.weight", "conv1.weight"],
        ["mobilevitv2.conv_stem.convolution.weight"],
        ["cls_token", "../../etc/passwd", "\0", ""],
        ["x" * 10**6],
    ],
)
def test_weights_of_no_family_are_refused_with_some_of_their_names(names):
    message = refused(lambda: family(names), "weights-family")
    assert (repr(names[0])[1:-1][:70] if names else "nothing") in message
    assert len(message) < 400


@pytest.mark.parametrize("name", ["ssd_heads.0.loc_cls_layer.block.conv.weight", "extra_layers.os_64.x", "fpn.proj.x"])
def test_detection_networks_are_refused_by_name(name):
    _, weights = with_counters("segmentation")
    theirs = foreign(weights, "ml-cvnets") | {name: np.zeros(3)}
    message = refused(lambda: to_transformers(theirs), "weights-other-task")
    assert "detection" in message
    assert name in message


def test_auxiliary_heads_are_refused_by_name():
    _, weights = with_counters("segmentation")
    theirs = foreign(weights, "ml-cvnets") | {"seg_head.aux_head.0.block.conv.weight": np.zeros((3, 3, 3, 3))}
    message = refused(lambda: to_transformers(theirs), "weights-other-task")
    assert "seg_head.aux_head.0.block.conv.weight" in message
    assert "remove" in message


@pytest.mark.parametrize(
    ("library", "name"),
    [
        ("timm", "stages.2.1.attn.se.conv.weight"),
        ("timm", "stages.2.1.transformer.2.norm1.weight"),  # this stage has two
        ("timm", "stages.5.0.conv1_1x1.conv.weight"),
        ("timm", "head.fc.weight "),
        ("ml-cvnets", "layer_2.3.block.exp_1x1.block.conv.weight"),
        ("ml-cvnets", "layer_3.1.local_rep.conv_5x5.block.conv.weight"),
        ("ml-cvnets", "layer_3.1.global_rep.0.pre_norm_ffn.3.weight"),
        ("tensorflow", "tf_mobile_vi_t_model/mobilevit/conv_stem/convolution/bias:0"),
        ("tensorflow", "Variable:0"),
    ],
)
def test_a_tensor_that_is_no_part_of_the_network_is_named(library, name):
    _, weights = with_counters("classification")
    theirs = as_tensorflow(weights) if library == "tensorflow" else foreign(weights, library)
    message = refused(lambda: to_transformers({**theirs, name: np.zeros(3)}), "weights-unknown-names")
    assert f"1 tensors of this {library} checkpoint" in message
    assert repr(name) in message


def test_two_tensors_with_one_meaning_are_both_named():
    _, weights = with_counters("classification")
    theirs = foreign(weights, "ml-cvnets") | {"classifier.classifier.fc.bias": np.zeros(5)}
    message = refused(lambda: to_transformers(theirs), "weights-collision")
    assert "'classifier.fc.bias', 'classifier.classifier.fc.bias' are both 'classifier.bias'" in message


@pytest.mark.parametrize("values", [np.zeros(()), np.zeros(4), np.zeros((8, 3))])
def test_a_fused_tensor_without_rows_for_three_is_refused(values):
    name = "stages.2.1.transformer.0.attn.qkv.weight"
    message = refused(lambda: to_transformers({"stem.conv.weight": np.zeros(1), name: values}), "weights-layout")
    assert name in message
    assert str(values.shape) in message


@pytest.mark.parametrize("shape", [(), (3,), (3, 3, 3)])
def test_a_kernel_of_tensorflow_with_other_axes_is_refused(shape):
    name = "tf_mobile_vi_t_model/mobilevit/conv_stem/convolution/kernel:0"
    assert name in refused(lambda: to_transformers({name: np.zeros(shape)}), "weights-layout")


@pytest.mark.case(
    "83", "200 000 tensors under the names of another library", "WeightsError in seconds, ten of them named"
)
def test_names_without_end_are_refused_soon():
    names = {f"layer_1.{i}.block.exp_1x1.block.conv.weight{'.block' * 20}": np.zeros(1) for i in range(10_000)}
    start = time.perf_counter()
    message = refused(lambda: to_transformers(names), "weights-unknown-names")
    assert time.perf_counter() - start < 20  # 0.7 s on a slow machine
    assert "and 9990 more" in message


# Configs


def zeros(config, head, *, expand_output=True):
    """Weights that take no memory: only their shapes matter."""
    shapes = expected_parameters(config, head=head, expand_output=expand_output)
    return {name: np.broadcast_to(np.float32(0), shape) for name, shape in shapes.items()}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("head", ["classification", "segmentation"])
def test_the_configs_of_the_published_checkpoints_are_inferred(variant, head):
    published = {
        "classification": {"id2label": dict(enumerate(imagenet_labels()))},
        "segmentation": {"id2label": dict(enumerate(VOC_LABELS)), "image_size": 512, "output_stride": 16},
    }[head]
    expected = MobileViTConfig(**VARIANTS[variant], **published)
    weights = zeros(expected, head)
    assert infer_head(weights) == head
    assert infer_config(weights | counters(weights)) == expected


def test_the_second_generation_of_segmentation_networks_is_told_by_its_width():
    published = {"output_stride": 8, "atrous_rates": (12, 24, 36), "aspp_out_channels": 512, "image_size": 512}
    expected = MobileViTConfig(id2label=dict(enumerate(VOC_LABELS)), **published)
    weights = zeros(expected, "segmentation")
    assert infer_config(weights) == expected
    assert sum(v.size for n, v in weights.items() if "running" not in n) == 8_537_269  # 8.5 M in its model zoo


@pytest.mark.parametrize("expand_output", [True, False])
def test_a_base_model_has_a_config_too(expand_output):
    weights = zeros(tiny(), None, expand_output=expand_output)
    config = infer_config(weights)
    assert infer_head(weights) is None
    assert config.neck_hidden_sizes == (4, 6, 8, 10, 12, 14, 20 if expand_output else 56)
    assert (config.hidden_sizes, config.num_labels) == ((8, 12, 16), 2)


def test_what_shapes_do_not_tell_can_be_said():
    weights = zeros(tiny(num_labels=21, aspp_out_channels=512), "segmentation")
    said = {"num_attention_heads": 2, "output_stride": 32, "hidden_act": "relu", "atrous_rates": (1, 2, 3)}
    names = {i: f"class {i}" for i in range(21)}
    config = infer_config(weights, **said, layer_norm_eps=1e-6, image_size=99, id2label=names)
    assert {name: getattr(config, name) for name in said} == said
    assert (config.layer_norm_eps, config.image_size, config.id2label) == (1e-6, 99, names)


WIDTHS = st.integers(1, 60)


@settings(max_examples=60, deadline=None)
@given(
    head=st.sampled_from([None, "classification", "segmentation"]),
    hidden=st.lists(WIDTHS.map(lambda n: 4 * n), min_size=3, max_size=3),
    necks=st.lists(st.integers(1, 200), min_size=7, max_size=7),
    expand=st.decimals("0.3", "9", places=2).map(float),
    mlp=st.decimals("0.3", "9", places=2).map(float),
    kernel=st.sampled_from([1, 3, 5]),
    channels=st.integers(1, 5),
    labels=st.integers(1, 40),
    bias=st.booleans(),
)
def test_any_config_is_found_again_as_far_as_shapes_go(
    head, hidden, necks, expand, mlp, kernel, channels, labels, bias
):
    config = MobileViTConfig(
        hidden_sizes=hidden,
        neck_hidden_sizes=necks,
        expand_ratio=expand,
        mlp_ratio=mlp,
        conv_kernel_size=kernel,
        num_channels=channels,
        num_labels=labels,
        qkv_bias=bias,
        aspp_out_channels=labels + 1,
    )
    weights = zeros(config, head)
    found = infer_config(weights)
    assert expected_parameters(found, head=head) == expected_parameters(config, head=head)
    assert (found.hidden_sizes, found.qkv_bias) == (config.hidden_sizes, bias)
    assert found.neck_hidden_sizes[:6] == config.neck_hidden_sizes[:6]


@pytest.mark.parametrize("ratio", [0.5, 1.0, 2.0, 2.3, 4.0, 6.0])
def test_ratios_come_back_as_someone_would_write_them(ratio):
    config = MobileViTConfig(expand_ratio=ratio, mlp_ratio=ratio, num_labels=2)
    found = infer_config(zeros(config, "classification"))
    assert found.mlp_ratio == ratio
    if ratio >= 1:  # below, several widths are 8 whatever the ratio
        assert found.expand_ratio == ratio


def test_a_ratio_that_leaves_nothing_of_a_width_is_found():
    """0.3 * 1 is rounded to 0, and that to 8, while 18 channels leave no room above 0.4723."""
    config = tiny(neck_hidden_sizes=(1, 1, 1, 1, 18, 1, 1), expand_ratio=0.3)
    found = infer_config(zeros(config, "classification"))
    assert expected_parameters(found, head="classification") == expected_parameters(config, head="classification")


def test_a_ratio_just_beyond_a_half_is_found():
    """4 * 2.125 is rounded down to 8, as halves go to even numbers; 2000 channels leave no room above 2.12575."""
    config = tiny(neck_hidden_sizes=(4, 2000, 8, 10, 12, 14, 20), expand_ratio=2.1251)
    assert (make_divisible(round(4 * 2.125)), make_divisible(round(4 * 2.1251))) == (8, 16)
    assert infer_config(zeros(config, "classification")).expand_ratio == 2.1251


@pytest.mark.case(
    "77-80", "weights without a config, with a tensor missing, added or misshaped", "WeightsError naming it"
)
@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("mobilevit.conv_stem.convolution.weight", None),
        ("mobilevit.conv_stem.convolution.weight", (4, 3)),
        ("mobilevit.conv_stem.convolution.weight", (4, 0, 3, 3)),
        ("mobilevit.conv_stem.convolution.weight", (4, 3, 5, 5)),
        ("mobilevit.encoder.layer.1.layer.1.reduce_1x1.convolution.weight", (9, 16, 1, 1)),
        ("mobilevit.encoder.layer.2.transformer.layer.1.attention.attention.key.bias", None),
        ("mobilevit.encoder.layer.3.transformer.layer.2.intermediate.dense.bias", (23,)),
        ("mobilevit.encoder.layer.4.conv_kxk.normalization.running_var", None),
        ("mobilevit.encoder.layer.4.transformer.layer.3.layernorm_before.weight", (16,)),
        ("classifier.weight", (5,)),
        ("classifier.bias", (4,)),
        ("of nothing", (1,)),
    ],
)
def test_shapes_that_do_not_belong_together_are_named(name, shape):
    weights = zeros(tiny(), "classification")
    weights.pop(name, None)
    if shape is not None:
        weights[name] = np.broadcast_to(np.float32(0), shape)
    assert name in refused(lambda: infer_config(weights), "weights-config")


@pytest.mark.parametrize(
    ("part", "ratio", "said"),
    [
        ("downsampling_layer.expand_1x1.convolution.weight", "expand_ratio", "17 of 8"),
        ("downsampling_layer.expand_1x1.convolution.weight", "expand_ratio", "800 of 8"),
        ("transformer.layer.0.intermediate.dense.weight", "mlp_ratio", "31 of 8"),
    ],
)
def test_widths_that_no_ratio_makes_are_shown(part, ratio, said):
    weights = zeros(tiny(), "classification")
    name = f"mobilevit.encoder.layer.2.{part}"
    weights[name] = np.broadcast_to(np.float32(0), (int(said.split()[0]), *weights[name].shape[1:]))
    message = refused(lambda: infer_config(weights), "weights-config")
    assert f"no {ratio} makes the widths" in message
    assert said in message


@pytest.mark.case(
    "92", "weights without a config, of widths beyond any network", "ConfigError before anything is reserved"
)
def test_widths_out_of_range_are_refused():
    weights = zeros(tiny(), "classification")
    weights["mobilevit.encoder.layer.0.layer.0.reduce_1x1.convolution.weight"] = np.broadcast_to(
        np.float32(0), (10**9, 8, 1, 1)
    )
    with pytest.raises((ConfigError, WeightsError)):
        infer_config(weights)
    weights = zeros(tiny(), "classification")
    message = refused(lambda: infer_config(weights, num_attention_heads=3), "config-value")
    assert "num_attention_heads=3" in message


def test_settings_that_the_weights_deny_are_refused():
    weights = zeros(tiny(), "classification")
    refused(lambda: infer_config(weights, num_channels=4), "weights-config")
    refused(lambda: infer_config(weights, id2label={0: "a"}), "config-value")
    with pytest.raises(TypeError, match="hiden_act"):
        infer_config(weights, hiden_act="relu")


# Processor settings


def settings_of(processor):
    size, crop = dict(processor.size), dict(processor.crop_size)
    return size, crop, processor.resample, processor.do_flip_channel_order


@pytest.mark.parametrize(
    ("library", "head", "width", "expected"),
    [
        ("transformers", "classification", 256, (288, 256, 2, True)),
        ("transformers", None, 256, (288, 256, 2, True)),
        ("tensorflow", "segmentation", 256, (544, 512, 2, True)),
        ("ml-cvnets", "classification", 256, (288, 256, 2, True)),
        ("ml-cvnets", "segmentation", 256, (544, 512, 2, True)),
        ("ml-cvnets", "segmentation", 512, (544, 512, 2, False)),
        ("transformers", "segmentation", 512, (544, 512, 2, True)),
        ("timm", "classification", 256, (284, 256, 3, False)),
    ],
)
def test_processor_settings_are_the_published_ones(library, head, width, expected):
    config = MobileViTConfig(aspp_out_channels=width)
    processor = MobileViTImageProcessor.from_dict(processor_settings(library, head, config))
    edge, crop, resample, flip = expected
    assert settings_of(processor) == ({"shortest_edge": edge}, {"height": crop, "width": crop}, resample, flip)
    assert (processor.do_resize, processor.do_center_crop, processor.do_rescale) == (True, True, True)
    assert processor.rescale_factor == 1 / 255


# config.json of timm/mobilevit_s.cvnets_in1k, as timm writes it
TIMM_CONFIG = {
    "architecture": "mobilevit_s",
    "num_classes": 1000,
    "num_features": 640,
    "pretrained_cfg": {
        "tag": "cvnets_in1k",
        "custom_load": False,
        "input_size": [3, 256, 256],
        "fixed_input_size": False,
        "interpolation": "bicubic",
        "crop_pct": 0.9,
        "crop_mode": "center",
        "mean": [0.0, 0.0, 0.0],
        "std": [1.0, 1.0, 1.0],
        "num_classes": 1000,
        "pool_size": [8, 8],
        "first_conv": "stem.conv",
        "classifier": "head.fc",
        "license": "cvnets-license",
    },
}


def timm_config(**changes):
    return TIMM_CONFIG | {"pretrained_cfg": TIMM_CONFIG["pretrained_cfg"] | changes}


def test_the_two_kinds_of_config_are_told_apart():
    assert is_timm_config(TIMM_CONFIG)
    assert not is_timm_config(MobileViTConfig().to_dict())
    assert not is_timm_config({})
    assert not is_timm_config({"architectures": ["MobileViTModel"]})
    assert not is_timm_config({"model_type": "mobilevit", "architecture": "x"})


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (TIMM_CONFIG, (284, 256, 3)),
        ({"architecture": "mobilevit_s"}, (284, 256, 3)),
        ({"architecture": "mobilevit_s", **TIMM_CONFIG["pretrained_cfg"], "crop_pct": 1.0}, (256, 256, 3)),  # old files
        (timm_config(input_size=[3, 320, 320], crop_pct=1.0, interpolation="bilinear"), (320, 320, 2)),
        (timm_config(input_size=[3, 224, 224], crop_pct=0.875, mean=None, std=None), (256, 224, 3)),
        (timm_config(input_size=[3, 96, 96], crop_pct=1, interpolation="lanczos"), (96, 96, 1)),
    ],
)
def test_settings_follow_from_the_config_of_timm(config, expected):
    edge, crop, resample = expected
    processor = MobileViTImageProcessor.from_dict(timm_processor_settings(config))
    assert settings_of(processor) == ({"shortest_edge": edge}, {"height": crop, "width": crop}, resample, False)


@pytest.mark.case("90-92", "a config.json of timm with entries that cannot be followed", "ConfigError naming the entry")
@pytest.mark.parametrize(
    "changes",
    [
        {"mean": [0.485, 0.456, 0.406]},
        {"mean": 0.5},
        {"std": [0.5, 0.5, 0.5]},
        {"std": "1"},
        {"input_size": [3, 256, 320]},
        {"input_size": [256, 256]},
        {"input_size": 256},
        {"input_size": [3, 0, 0]},
        {"input_size": [3, 10**9, 10**9]},
        {"input_size": [3, 256.0, 256.0]},
        {"crop_pct": 0},
        {"crop_pct": 1e-9},
        {"crop_pct": "0.9"},
        {"crop_pct": True},
        {"crop_pct": 1.5},
        {"crop_mode": "border"},
        {"interpolation": "random"},
        {"interpolation": ["bicubic"]},
    ],
)
def test_entries_of_timm_that_cannot_be_followed_are_named(changes):
    (name,) = changes
    message = refused(lambda: timm_processor_settings(timm_config(**changes)), "config-value")
    assert f"timm's config: {name} must be" in message


def test_an_entry_of_timm_that_is_no_object_is_refused():
    for action in (timm_processor_settings, timm_labels):
        assert "pretrained_cfg must be an object" in refused(lambda: action({"pretrained_cfg": [1]}), "config-value")  # noqa: B023


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ({"label_names": ["a", "b"]}, {0: "a", 1: "b"}),
        ({"label_names": {"0": "a", "2": "b"}}, {0: "a", 2: "b"}),
        ({"label_names": ["n1", "n2"], "label_descriptions": {"n1": "tench"}}, {0: "tench", 1: "n2"}),
        ({"pretrained_cfg": {"label_names": ["a"]}}, {0: "a"}),
        ({"num_classes": 1000}, dict(enumerate(imagenet_labels()))),
        ({"pretrained_cfg": {"num_classes": 1000}}, dict(enumerate(imagenet_labels()))),
        ({"num_classes": 10}, None),
        ({}, None),
    ],
)
def test_names_of_classes_follow_from_the_config_of_timm(entries, expected):
    assert timm_labels({"architecture": "mobilevit_s", **entries}) == expected


@pytest.mark.parametrize(
    "entries",
    [
        {"label_names": "abc"},
        {"label_names": [1, 2]},
        {"label_names": {"a": "b"}},
        {"label_names": ["a"], "label_descriptions": ["b"]},
    ],
)
def test_names_of_another_form_are_refused(entries):
    assert "label_" in refused(lambda: timm_labels(entries), "config-value")


@pytest.mark.parametrize("key", ["9" * 5000, "01", "-1", "1.0", "\u0661", ""])
def test_numbers_of_labels_are_plain_numbers(key):
    with pytest.raises(ConfigError, match="label_names"):
        timm_labels({"architecture": "mobilevit_s", "label_names": {"1": "a", key: "b"}})
