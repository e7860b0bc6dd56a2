"""Checkpoints of other libraries, brought to the names of transformers at the door.

The same network is published by four libraries, each with names of its own: transformers itself (PyTorch), timm,
ml-cvnets of Apple, and the TensorFlow classes that transformers had up to version 4. Behind this module only
transformers' names exist. It also stands in for files that the other libraries do not have: a config (from the
shapes of the weights) and processor settings (the published ones, or those of timm's own config.json).
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from npmobilevit.checkpoints.files import shown
from npmobilevit.checkpoints.labels import labels_for
from npmobilevit.config import (
    MOBILENET_DEPTHS,
    TRANSFORMER_DEPTHS,
    Head,
    MobileViTConfig,
    Shapes,
    expected_parameters,
    make_divisible,
)
from npmobilevit.errors import ConfigError, WeightsError

Family: TypeAlias = Literal["transformers", "timm", "ml-cvnets", "tensorflow"]
Tensors: TypeAlias = Mapping[str, NDArray[Any]]

# What a name of each family begins with. None of the other families' names do.
_MARKS: Mapping[Family, str] = {
    "transformers": r"mobilevit\.|segmentation_head\.|(encoder\.layer|conv_stem)\.",
    "timm": r"stem\.conv\.|stages\.\d\.\d\.conv",
    "ml-cvnets": r"(encoder\.)?(conv_1|layer_[1-5])\.",
    "tensorflow": r"tf_mobile_vi_t_\w+/",
}

# The tables below are lists of (pattern, replacement). Every row is applied to every name, from top to bottom; what
# then is no name of transformers was not understood. The rows for query, key and value come after the fused
# projection of the two PyTorch libraries has been cut in three (see `_cut_in_three`).
_Table: TypeAlias = tuple[tuple[str, str], ...]

_TIMM: _Table = (
    # A convolution is alone in one place; everywhere else it is `conv`, followed by its normalisation `bn`.
    (r"\.conv_1x1\.weight$", ".conv_1x1.convolution.weight"),
    (r"\.conv\.weight$", ".convolution.weight"),
    (r"\.bn\.", ".normalization."),
    # Where the layers stand. Stages 2 to 4 are pairs: the downsampling, and the MobileViT block proper.
    (r"^stem\.", "mobilevit.conv_stem."),
    (r"^stages\.([01])\.(\d)\.", r"mobilevit.encoder.layer.\1.layer.\2."),
    (r"^stages\.(\d)\.0\.", r"mobilevit.encoder.layer.\1.downsampling_layer."),
    (r"^stages\.(\d)\.1\.transformer\.", r"mobilevit.encoder.layer.\1.transformer.layer."),
    (r"^stages\.(\d)\.1\.norm\.", r"mobilevit.encoder.layer.\1.layernorm."),
    (r"^stages\.(\d)\.1\.", r"mobilevit.encoder.layer.\1."),
    (r"^final_conv\.", "mobilevit.conv_1x1_exp."),
    (r"^head\.fc\.", "classifier."),
    # Inside an inverted residual.
    (r"\.conv1_1x1\.", ".expand_1x1."),
    (r"\.conv2_kxk\.", ".conv_3x3."),
    (r"\.conv3_1x1\.", ".reduce_1x1."),
    # Inside a MobileViT block.
    (r"\.conv_proj\.", ".conv_projection."),
    (r"\.conv_fusion\.", ".fusion."),
    # Inside a transformer layer.
    (r"\.norm1\.", ".layernorm_before."),
    (r"\.attn\.(query|key|value)\.", r".attention.attention.\1."),
    (r"\.attn\.proj\.", ".attention.output.dense."),
    (r"\.norm2\.", ".layernorm_after."),
    (r"\.mlp\.fc1\.", ".intermediate.dense."),
    (r"\.mlp\.fc2\.", ".output.dense."),
)

_ML_CVNETS: _Table = (
    # Segmentation networks hold the classification network, less its last layers, as their encoder.
    (r"^encoder\.", ""),
    # Some files have this doubled, as transformers' conversion script knows.
    (r"(^|\.)classifier\.classifier\.", r"\1classifier."),
    # A convolution is `block.conv`, its normalisation `block.norm`; an inverted residual is a `block` too.
    (r"\.block\.conv\.", ".convolution."),
    (r"\.block\.norm\.", ".normalization."),
    (r"\.block\.exp_1x1\.", ".expand_1x1."),
    (r"\.block\.conv_3x3\.", ".conv_3x3."),
    (r"\.block\.red_1x1\.", ".reduce_1x1."),
    # Where the layers stand; their numbers begin with 1.
    (r"^conv_1\.", "mobilevit.conv_stem."),
    *((rf"^layer_{i + 1}\.(\d)\.", rf"mobilevit.encoder.layer.{i}.layer.\1.") for i in range(len(MOBILENET_DEPTHS))),
    # A MobileViT layer is a pair: the downsampling, and the block. Its last normalisation is the last entry of
    # `global_rep`, after its transformer layers.
    *(
        row
        for i, depth in enumerate(TRANSFORMER_DEPTHS, start=len(MOBILENET_DEPTHS))
        for row in (
            (rf"^layer_{i + 1}\.0\.", f"mobilevit.encoder.layer.{i}.downsampling_layer."),
            (rf"^layer_{i + 1}\.1\.global_rep\.{depth}\.", f"mobilevit.encoder.layer.{i}.layernorm."),
            (rf"^layer_{i + 1}\.1\.", f"mobilevit.encoder.layer.{i}."),
        )
    ),
    (r"^conv_1x1_exp\.", "mobilevit.conv_1x1_exp."),
    (r"^classifier\.fc\.", "classifier."),
    # Inside a MobileViT block.
    (r"\.local_rep\.conv_3x3\.", ".conv_kxk."),
    (r"\.local_rep\.conv_1x1\.", ".conv_1x1."),
    (r"\.conv_proj\.", ".conv_projection."),
    (r"\.global_rep\.", ".transformer.layer."),
    # Inside a transformer layer: two sequences of modules without names. 2, 3 and 5 of them are dropouts and the like.
    (r"\.pre_norm_mha\.0\.", ".layernorm_before."),
    (r"\.pre_norm_mha\.1\.(query|key|value)_proj\.", r".attention.attention.\1."),
    (r"\.pre_norm_mha\.1\.out_proj\.", ".attention.output.dense."),
    (r"\.pre_norm_ffn\.0\.", ".layernorm_after."),
    (r"\.pre_norm_ffn\.1\.", ".intermediate.dense."),
    (r"\.pre_norm_ffn\.4\.", ".output.dense."),
    # The DeepLabV3 head.
    (r"^seg_head\.", "segmentation_head."),
    (r"\.aspp\.aspp_layer\.", ".aspp."),
    (r"\.aspp_pool\.", "."),
)

_TENSORFLOW: _Table = (
    (r"^tf_mobile_vi_t_\w+/", ""),  # the scope of the class, numbered when a process made several models
    (r":0$", ""),  # the number of an operation's output
    (r"/", "."),
    (r"\.kernel$", ".weight"),
    (r"\.gamma$", ".weight"),
    (r"\.beta$", ".bias"),
    (r"\.moving_mean$", ".running_mean"),
    (r"\.moving_variance$", ".running_var"),
)

_TABLES: Mapping[Family, _Table] = {"timm": _TIMM, "ml-cvnets": _ML_CVNETS, "tensorflow": _TENSORFLOW}

_FUSED = re.compile(r"(?<=\.attn\.)qkv(?=\.)|(?<=\.pre_norm_mha\.1\.)qkv(?=_proj\.)")
_DETECTION = re.compile(r"(ssd_heads|extra_layers|fpn|mask_rcnn\w*)\.")
_AUXILIARY = re.compile(r"seg_head\.aux_head\.")
_COUNTER = "num_batches_tracked"

# ml-cvnets from version 0.2 on: config/segmentation/pascal_voc/deeplabv3_mobilevit.yaml of apple/ml-cvnets. Up to
# then, and in transformers, the width was 256.
_SECOND_DEEPLAB_WIDTH = 512
_SECOND_DEEPLAB = {"output_stride": 8, "atrous_rates": (12, 24, 36)}

_TIMM_FILTERS = {"nearest": 0, "lanczos": 1, "bilinear": 2, "bicubic": 3, "box": 4, "hamming": 5}  # Pillow's numbers
_TIMM_DEFAULTS = {"input_size": (3, 256, 256), "crop_pct": 0.9, "interpolation": "bicubic", "crop_mode": "center"}


def family(names: Iterable[str]) -> Family:
    """Tell the library that a checkpoint comes from by the names of its tensors.

    Parameters
    ----------
    names : iterable of str

    Returns
    -------
    {"transformers", "timm", "ml-cvnets", "tensorflow"}
        The first of these that any name belongs to.

    Raises
    ------
    WeightsError
        ``weights-family``, if there is none.
    """
    names = list(names)
    for known, mark in _MARKS.items():
        if any(re.match(mark, name) for name in names):
            return known
    raise WeightsError(
        f"the weights are of no MobileViT (v1) of {', '.join(_MARKS)}: they hold {shown(names) or 'nothing'}",
        "weights-family",
    )


def to_transformers(tensors: Tensors) -> dict[str, NDArray[Any]]:
    """Give the tensors of a checkpoint of any family the names and layouts that transformers has in PyTorch.

    Parameters
    ----------
    tensors : mapping of str to ndarray
        Of a whole checkpoint. The counters ``num_batches_tracked`` may be among them and are kept.

    Returns
    -------
    dict of str to ndarray
        The values and dtypes are the same, bit by bit, and may share memory with `tensors`. Those of transformers
        are returned as they are; whether they are complete is the model's to check.

    Raises
    ------
    WeightsError
        ``weights-family``, see `family`; ``weights-other-task``, for a detection network or a head that only training
        uses; ``weights-unknown-names``, for tensors that are no part of a MobileViT; ``weights-collision``, if two
        tensors get one name; ``weights-layout``, if one has not as many axes or rows as its name says.
    """
    found = family(tensors)
    if found == "transformers":
        return dict(tensors)
    _refuse_other_tasks(tensors)
    pieces = _pytorch_layouts(tensors) if found == "tensorflow" else _cut_in_three(tensors)
    renamed: dict[str, NDArray[Any]] = {}
    sources: dict[str, str] = {}
    for name, values in pieces:
        new = _translated(name, _TABLES[found])
        if new in sources:
            raise WeightsError(f"{shown([sources[new], name])} are both {new!r} in transformers", "weights-collision")
        renamed[new], sources[new] = values, name
    unknown = [sources[new] for new in renamed if new not in _transformers_names()]
    if unknown:
        raise WeightsError(
            f"{len(unknown)} tensors of this {found} checkpoint are no part of a MobileViT (v1): {shown(unknown)}",
            "weights-unknown-names",
        )
    return renamed


def _translated(name: str, table: _Table) -> str:
    for pattern, replacement in table:
        name = re.sub(pattern, replacement, name)
    return name


@functools.cache
def _transformers_names() -> frozenset[str]:
    """Every name in a state dict of either head; the names do not depend on the config."""
    config = MobileViTConfig()
    names = {name for head in ("classification", "segmentation") for name in expected_parameters(config, head=head)}
    return frozenset(names | {name.replace("running_var", _COUNTER) for name in names})


def _refuse_other_tasks(names: Iterable[str]) -> None:
    detection, auxiliary = ([name for name in names if mark.match(name)] for mark in (_DETECTION, _AUXILIARY))
    if detection:
        raise WeightsError(
            f"this is a detection network, and only classification and segmentation are here: {shown(detection)}",
            "weights-other-task",
        )
    if auxiliary:
        raise WeightsError(
            f"the weights hold an auxiliary head, which only training uses: remove {shown(auxiliary)} from the file",
            "weights-other-task",
        )


def _cut_in_three(tensors: Tensors) -> Iterator[tuple[str, NDArray[Any]]]:
    """Cut (3d, d) and (3d,) of the fused projection into query, key and value, d rows each."""
    for name, values in tensors.items():
        fused = _FUSED.search(name)
        if fused is None:
            yield name, values
            continue
        if np.ndim(values) == 0 or len(values) % 3:
            raise WeightsError(
                f"{shown([name])} holds query, key and value, but its shape {np.shape(values)} has no rows for three",
                "weights-layout",
            )
        start, end = fused.span()
        for part, rows in zip(("query", "key", "value"), np.split(values, 3), strict=True):
            yield name[:start] + part + name[end:], rows


def _pytorch_layouts(tensors: Tensors) -> Iterator[tuple[str, NDArray[Any]]]:
    """Turn TensorFlow's kernels (h, w, in, out) into (out, in, h, w), and (in, out) into (out, in)."""
    axes = {4: (3, 2, 0, 1), 2: (1, 0)}
    for name, values in tensors.items():
        if not name.endswith("/kernel:0"):
            yield name, values
        elif np.ndim(values) in axes:
            yield name, np.transpose(values, axes[np.ndim(values)])
        else:
            raise WeightsError(f"{shown([name])} must have 2 or 4 axes, found {np.shape(values)}", "weights-layout")


# The config from the shapes


def infer_head(names: Iterable[str]) -> Head | None:
    """Tell which head weights with transformers' `names` have; None for a base model alone."""
    names = list(names)
    if any(name.startswith("segmentation_head.") for name in names):
        return "segmentation"
    return "classification" if any(name.startswith("mobilevit.") for name in names) else None


def infer_config(tensors: Tensors, **settings: Any) -> MobileViTConfig:
    """Make the config of weights that come without one.

    Parameters
    ----------
    tensors : mapping of str to ndarray
        All tensors, under transformers' names; only their shapes are looked at.
    **settings
        Fields of :class:`MobileViTConfig` that take precedence.

    Returns
    -------
    MobileViTConfig
        Sizes, kernel, ratios, number of classes and whether query, key and value have biases are as the shapes say.
        What shapes do not tell is as published: 4 attention heads, patches of 2 pixels, SiLU, 1e-5; for
        segmentation output stride 16 and rates 6, 12, 18, or, with the 512 channels that ml-cvnets has in its head
        from version 0.2 on, 8 and 12, 24, 36. 1000 classes are named after ImageNet-1k, 21 of a segmentation network
        after PASCAL VOC.

    Raises
    ------
    WeightsError
        ``weights-config``, if the weights are not whole, or their shapes contradict one another.
    ConfigError
        If a width is outside the range of a config, or one of `settings` does not fit.
    """
    shapes = {name: np.shape(values) for name, values in tensors.items() if not name.endswith(_COUNTER)}
    head = infer_head(shapes)
    prefix = "" if head is None else "mobilevit."
    fields = {**_backbone_fields(shapes, prefix), **_head_fields(shapes, head)}
    config = MobileViTConfig(**{**fields, **settings})
    expanded = f"{prefix}conv_1x1_exp.convolution.weight" in shapes
    _refuse_contradictions(shapes, expected_parameters(config, head=head, expand_output=expanded))
    return config


def _backbone_fields(shapes: Shapes, prefix: str) -> dict[str, Any]:
    encoder = f"{prefix}encoder.layer"
    blocks = range(len(MOBILENET_DEPTHS), 5)

    def convolution(name: str) -> tuple[int, ...]:
        return _shape(shapes, f"{name}.convolution.weight", 4)

    residuals = [f"{encoder}.{i}.layer.0" for i in range(2)] + [f"{encoder}.{i}.downsampling_layer" for i in blocks]
    stem = convolution(f"{prefix}conv_stem")
    necks = [stem[0], *(convolution(f"{name}.reduce_1x1")[0] for name in residuals)]
    widths = [convolution(f"{encoder}.{i}.conv_1x1")[0] for i in blocks]
    layers = [f"{encoder}.{i}.transformer.layer.0" for i in blocks]
    inner = [_shape(shapes, f"{name}.intermediate.dense.weight", 2)[0] for name in layers]
    last = f"{prefix}conv_1x1_exp"
    # Segmentation networks lack the last convolution; in the published ones it has four times the channels before it.
    necks.append(convolution(last)[0] if f"{last}.convolution.weight" in shapes else 4 * necks[-1])
    expanded = [convolution(f"{name}.expand_1x1")[0] for name in residuals]
    return {
        "num_channels": stem[1],
        "hidden_sizes": widths,
        "neck_hidden_sizes": necks,
        "expand_ratio": _expand_ratio(necks[: len(residuals)], expanded),
        "mlp_ratio": _mlp_ratio(widths, inner),
        "conv_kernel_size": convolution(f"{encoder}.2.conv_kxk")[2],
        "qkv_bias": f"{layers[0]}.attention.attention.query.bias" in shapes,
    }


def _head_fields(shapes: Shapes, head: Head | None) -> dict[str, Any]:
    if head is None:
        return {}
    if head == "segmentation":
        count = _shape(shapes, "segmentation_head.classifier.convolution.weight", 4)[0]
        width = _shape(shapes, "segmentation_head.aspp.project.convolution.weight", 4)[0]
        fields: dict[str, Any] = {"image_size": 512, "output_stride": 16, "aspp_out_channels": width}
        fields |= _SECOND_DEEPLAB if width == _SECOND_DEEPLAB_WIDTH else {}
    else:  # a classifier may be left out
        count = _shape(shapes, "classifier.weight", 2)[0] if "classifier.weight" in shapes else 0
        fields = {}
    return {**fields, "num_labels": count, "id2label": labels_for(count, head)}


def _shape(shapes: Shapes, name: str, axes: int) -> tuple[int, ...]:
    """Shape of the tensor `name`, which a config cannot be made without."""
    shape = shapes.get(name)
    if shape is None or len(shape) != axes or 0 in shape:
        found = "it is missing" if shape is None else f"its shape is {shape}"
        raise WeightsError(
            f"the weights are of no MobileViT (v1): {name!r} needs {axes} axes, {found}", "weights-config"
        )
    return shape


def _expand_ratio(widths: Sequence[int], expanded: Sequence[int]) -> float:
    """The ratio from which all the widths inside the inverted residuals follow."""
    pairs = list(zip(widths, expanded, strict=True))
    lows, highs = [0.0], [math.inf]
    for width, inner in pairs:
        # Every whole number that is rounded to this multiple of 8; they lie next to one another.
        fitting = [n for n in range(max(inner - 8, 0), inner + 5) if make_divisible(n) == inner]
        lows += [(n - 0.5) / width for n in fitting[:1]]
        highs += [(n + 0.5) / width for n in fitting[-1:]]
    return _shortest_decimal(
        "expand_ratio",
        pairs,
        max(lows),
        min(highs),
        lambda ratio: all(make_divisible(round(width * ratio)) == inner for width, inner in pairs),
    )


def _mlp_ratio(widths: Sequence[int], inner: Sequence[int]) -> float:
    """The ratio from which the widths of all feed-forward layers follow."""
    pairs = list(zip(widths, inner, strict=True))
    return _shortest_decimal(
        "mlp_ratio",
        pairs,
        max(above / width for width, above in pairs),
        min((above + 1) / width for width, above in pairs),
        lambda ratio: all(int(width * ratio) == above for width, above in pairs),
    )


def _shortest_decimal(
    name: str, pairs: Sequence[tuple[int, int]], low: float, high: float, fits: Callable[[float], bool]
) -> float:
    """The decimal number of the fewest digits in low..high that fits: the ratio that someone may have written."""
    for digits in range(17 if low <= high else 0):
        scale = float(10**digits)
        first = math.ceil(low * scale)
        for value in (first / scale, (first + 1) / scale):  # low itself may be rounded the other way
            if 0 < value <= high and fits(value):
                return value
    raise WeightsError(
        f"no {name} makes the widths {', '.join(f'{above} of {width}' for width, above in pairs)}, so these shapes are "
        "of no MobileViT (v1)",
        "weights-config",
    )


def _refuse_contradictions(shapes: Shapes, expected: Shapes) -> None:
    differing = [
        f"{name}: {shapes.get(name, 'missing')}, not {expected.get(name, 'there at all')}"
        for name in sorted(shapes.keys() | expected.keys())
        if shapes.get(name) != expected.get(name)
    ]
    if differing:
        raise WeightsError(
            f"the shapes of the weights contradict one another in {len(differing)} tensors: {shown(differing)}",
            "weights-config",
        )


# The processor's settings, and timm's config.json


def processor_settings(family: Family, head: Head | None, config: MobileViTConfig) -> dict[str, Any]:
    """Settings of the image processor for weights that come without any: those of the published checkpoints.

    Parameters
    ----------
    family : {"transformers", "timm", "ml-cvnets", "tensorflow"}
        Where the weights come from. timm was given RGB pictures, enlarged by a bicubic filter; the others BGR and
        bilinear, as OpenCV and Apple's checkpoints have it.
    head : {"classification", "segmentation"} or None
        256 pixels out of 288, or 512 out of 544.
    config : MobileViTConfig
        Tells the second generation of ml-cvnets' segmentation networks (512 channels in the head) from the first: it
        read its pictures with Pillow, in RGB.

    Returns
    -------
    dict
        As in a preprocessor_config.json; what is left out has the default of MobileViTImageProcessor.
    """
    if family == "timm":
        return timm_processor_settings({})
    crop = 512 if head == "segmentation" else 256
    second = family == "ml-cvnets" and head == "segmentation" and config.aspp_out_channels == _SECOND_DEEPLAB_WIDTH
    return _settings(crop + 32, crop, _TIMM_FILTERS["bilinear"], flip=not second)


def _settings(shortest_edge: int, crop: int, resample: int, *, flip: bool) -> dict[str, Any]:
    return {
        "size": {"shortest_edge": shortest_edge},
        "crop_size": {"height": crop, "width": crop},
        "resample": resample,
        "do_flip_channel_order": flip,
    }


def is_timm_config(settings: Mapping[str, Any]) -> bool:
    """Whether the contents of a config.json are timm's: it names an ``architecture``, transformers a ``model_type``."""
    return "architecture" in settings and "model_type" not in settings


def timm_processor_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of the image processor from the contents of timm's config.json.

    Parameters
    ----------
    settings : mapping
        With ``pretrained_cfg``, or with its entries beside ``architecture``, as in old files. What is missing is as
        in timm's own MobileViT: a square of 256 pixels cut out of 284, bicubic.

    Returns
    -------
    dict
        As in a preprocessor_config.json.

    Raises
    ------
    ConfigError
        ``config-value``, for an entry of the wrong kind, and for what the image processor does not do: normalise by
        a mean and deviation, crop a rectangle, or crop in another way than from the centre.
    """
    found = {**_TIMM_DEFAULTS, **_timm_entries(settings)}
    for name, neutral in (("mean", 0), ("std", 1)):
        if any(value != neutral for value in _sequence(name, found.get(name, [neutral]))):
            _refuse(name, found[name], f"all {neutral}, as MobileViT does not normalise its pictures")
    size = _sequence("input_size", found["input_size"])
    if len(size) != 3 or not all(isinstance(n, int) for n in size) or size[1] != size[2] or not 1 <= size[1] <= 2**16:
        _refuse("input_size", size, "[channels, pixels, pixels], a square")
    part = found["crop_pct"]
    if isinstance(part, bool) or not isinstance(part, int | float) or not 0.01 <= part <= 1:
        _refuse("crop_pct", part, "a number from 0.01 to 1")
    if found["crop_mode"] != "center":
        _refuse("crop_mode", found["crop_mode"], "'center'")
    if not isinstance(found["interpolation"], str) or found["interpolation"] not in _TIMM_FILTERS:
        _refuse("interpolation", found["interpolation"], f"one of {', '.join(_TIMM_FILTERS)}")
    # The weights are those of ml-cvnets for RGB pictures: timm does not flip, so neither must we.
    return _settings(math.floor(size[1] / part), size[1], _TIMM_FILTERS[found["interpolation"]], flip=False)


_NUMBER = re.compile("0|[1-9][0-9]{0,5}")


def timm_labels(settings: Mapping[str, Any]) -> dict[int, str] | None:
    """Names of the classes in timm's config.json.

    Parameters
    ----------
    settings : mapping
        With ``label_names``, a list or an object of names under their numbers, and ``label_descriptions``, which
        explains such names (for ImageNet they are numbers of WordNet).

    Returns
    -------
    dict of int to str, or None
        Without names, those of ImageNet-1k if there are 1000 classes.

    Raises
    ------
    ConfigError
        ``config-value``, if they are of another form.
    """
    entries = {**_timm_entries(settings), **settings}
    names, texts = entries.get("label_names"), entries.get("label_descriptions") or {}
    if not names:
        count = entries.get("num_classes")
        return labels_for(count, "classification") if isinstance(count, int) else None
    if not isinstance(texts, Mapping):
        _refuse("label_descriptions", texts, "an object")
    numbered = names if isinstance(names, Mapping) else dict(enumerate(_sequence("label_names", names)))
    if not all(isinstance(name, str) and _NUMBER.fullmatch(str(key)) for key, name in numbered.items()):
        _refuse("label_names", names, "a list of names, or an object of names under their numbers")
    return {int(key): str(texts.get(name, name)) for key, name in numbered.items()}


def _timm_entries(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    entries = settings.get("pretrained_cfg", settings)
    if not isinstance(entries, Mapping):
        _refuse("pretrained_cfg", entries, "an object")
    return {name: value for name, value in entries.items() if value is not None}


def _sequence(name: str, value: Any) -> Sequence[Any]:
    if not isinstance(value, list | tuple):
        _refuse(name, value, "a list")
    return value  # type: ignore[no-any-return]


def _refuse(name: str, value: object, allowed: str) -> None:
    found = repr(value)
    raise ConfigError(
        f"timm's config: {name} must be {allowed}, found {found if len(found) <= 80 else found[:77] + '...'}",
        "config-value",
    )
