"""The configuration of a MobileViT network, and the parameters that follow from it."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, Unpack, get_args

from npmobilevit.errors import ConfigError

if TYPE_CHECKING:
    from npmobilevit.checkpoints import HubArguments

Head: TypeAlias = Literal["classification", "segmentation"]

PROBLEM_TYPES = ("regression", "single_label_classification", "multi_label_classification")
OUTPUT_STRIDES = (8, 16, 32)
TRANSFORMER_DEPTHS = (2, 4, 3)  # of encoder layers 2, 3 and 4: fixed, not configurable (spec of HF MobileViTEncoder)
MOBILENET_DEPTHS = (1, 3)  # inverted residuals of encoder layers 0 and 1
# Of the downsampling blocks of encoder layers 2, 3 and 4, by output stride. Where a smaller one asks for a larger map,
# a stride is dropped, and the layer after a dropped stride dilates its depthwise convolution in its place.
DOWNSAMPLING_STRIDES = MappingProxyType({32: (2, 2, 2), 16: (2, 2, 1), 8: (2, 1, 1)})
DOWNSAMPLING_DILATIONS = MappingProxyType({32: (1, 1, 1), 16: (1, 1, 1), 8: (1, 1, 2)})

# The keys of ops.ACTIVATIONS; a test holds the two lists together, so that the config needs no arithmetic.
HIDDEN_ACTS = (
    *("gelu", "gelu_10", "gelu_accurate", "gelu_fast", "gelu_new", "gelu_python", "gelu_python_tanh"),
    *("gelu_pytorch_tanh", "hardswish", "laplace", "leaky_relu", "linear", "mish", "quick_gelu", "relu", "relu2"),
    *("relu6", "sigmoid", "silu", "sqrtsoftplus", "swish", "tanh"),
)

MAX_SIZE = 2**16  # of any width, kernel or label count: a wrong file must not ask for terabytes
# No weight's shape bears these out, and a small picture is enlarged to a whole patch or padded by the rate.
MAX_PATCH_SIZE = 64
MAX_RATE = 256

Shapes: TypeAlias = dict[str, tuple[int, ...]]


@dataclasses.dataclass(frozen=True)
class MobileViTConfig:
    """Configuration of a MobileViT network (transformers ``MobileViTConfig``: same fields, same defaults).

    The defaults are those of MobileViT-small. Every value is checked here, before any weight is read.

    Parameters
    ----------
    num_channels : int
        Channels of the input image.
    image_size : int or (int, int)
        Size that the checkpoint was trained at. The network does not use it: any height and width will do.
    patch_size : int
        Height and width of a patch of the MobileViT blocks, in pixels.
    hidden_sizes : sequence of 3 int
        Widths of the transformers of encoder layers 2, 3 and 4.
    neck_hidden_sizes : sequence of 7 int
        Channels after the stem, the five encoder layers and the last 1x1 convolution.
    num_attention_heads : int
        Must divide all of `hidden_sizes`.
    mlp_ratio : float
        Width of the feed-forward layer over the transformer's, rounded down.
    expand_ratio : float
        Width inside an inverted residual over the width of its input, rounded to a multiple of 8.
    hidden_act : str
        Activation of convolutions and feed-forward layers; one of ``npmobilevit.ops.ACTIVATIONS``.
    conv_kernel_size : int
        Odd kernel size of the ``conv_kxk`` and ``fusion`` convolutions.
    output_stride : {8, 16, 32}
        Input size over the size of the last map. 8 and 16 keep the resolution in the last layers.
    hidden_dropout_prob, attention_probs_dropout_prob, classifier_dropout_prob, aspp_dropout_prob : float
        Used in training only; kept so that a file survives a round trip.
    initializer_range : float
        Used in training only.
    layer_norm_eps : float
        Of the layer normalisations. Batch normalisation always uses 1e-5.
    qkv_bias : bool
        Whether query, key and value have biases.
    aspp_out_channels : int
        Width of the segmentation head.
    atrous_rates : sequence of 3 int
        Dilations of the segmentation head.
    semantic_loss_ignore_index : int
        Label of pixels that the segmentation loss leaves out.
    num_labels : int, optional
        Number of classes; the length of `id2label` if that is given, else 2. With 0 the classifier is left out.
    id2label, label2id : mapping, optional
        Names of the classes. Keys of `id2label` may be strings of digits, as in JSON.
    problem_type : str, optional
        "regression", "single_label_classification" or "multi_label_classification". If None, each call with
        labels chooses by their dtype. (transformers writes the choice back into the config; we do not.)
    output_hidden_states, return_dict : bool
        Defaults of the arguments of the same name in a model call.
    extra : mapping, optional
        Keys of a file that are not fields. They are kept and have no effect.

    Raises
    ------
    ConfigError
        Naming the field, what was found and what is allowed.

    Examples
    --------
    >>> config = MobileViTConfig(num_labels=10, output_stride=16)
    >>> config.hidden_sizes
    (144, 192, 240)
    """

    num_channels: int = 3
    image_size: int | Sequence[int] = 256
    patch_size: int = 2
    hidden_sizes: Sequence[int] = (144, 192, 240)
    neck_hidden_sizes: Sequence[int] = (16, 32, 64, 96, 128, 160, 640)
    num_attention_heads: int = 4
    mlp_ratio: float = 2.0
    expand_ratio: float = 4.0
    hidden_act: str = "silu"
    conv_kernel_size: int = 3
    output_stride: int = 32
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.0
    classifier_dropout_prob: float = 0.1
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-5
    qkv_bias: bool = True
    aspp_out_channels: int = 256
    atrous_rates: Sequence[int] = (6, 12, 18)
    aspp_dropout_prob: float = 0.1
    semantic_loss_ignore_index: int = 255
    num_labels: int = None  # type: ignore[assignment]  # an int after construction
    id2label: Mapping[int, str] = None  # type: ignore[assignment]  # a dict after construction
    label2id: Mapping[str, int] = None  # type: ignore[assignment]  # a dict after construction
    problem_type: str | None = None
    output_hidden_states: bool = False
    return_dict: bool = True
    extra: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, count in (("hidden_sizes", 3), ("neck_hidden_sizes", 7), ("atrous_rates", 3)):
            object.__setattr__(self, name, _integers(name, getattr(self, name), count))
        if isinstance(self.image_size, list | tuple):
            object.__setattr__(self, "image_size", _integers("image_size", self.image_size, 2))
        _check_integer("patch_size", self.patch_size, maximum=MAX_PATCH_SIZE)
        for index, rate in enumerate(self.atrous_rates):
            _check_integer(f"atrous_rates[{index}]", rate, maximum=MAX_RATE)
        for name in (
            *("num_channels", "num_attention_heads", "aspp_out_channels", "conv_kernel_size"),
            *([] if isinstance(self.image_size, tuple) else ["image_size"]),
        ):
            _check_integer(name, getattr(self, name))
        if self.conv_kernel_size % 2 == 0:
            _refuse("conv_kernel_size", self.conv_kernel_size, "an odd integer")
        _check_member("output_stride", self.output_stride, OUTPUT_STRIDES)
        _check_member("hidden_act", self.hidden_act, HIDDEN_ACTS)
        _check_member("problem_type", self.problem_type, (None, *PROBLEM_TYPES))
        for name in ("mlp_ratio", "expand_ratio"):
            object.__setattr__(self, name, _number(name, getattr(self, name), 0, 64, above=True))
        object.__setattr__(self, "layer_norm_eps", _number("layer_norm_eps", self.layer_norm_eps, 0, 1, above=True))
        for name in (f.name for f in dataclasses.fields(self) if f.name.endswith(("_prob", "_range"))):
            object.__setattr__(self, name, _number(name, getattr(self, name), 0, 1))
        for name in ("qkv_bias", "output_hidden_states", "return_dict"):
            _check_member(name, getattr(self, name), (True, False))
        ignored = self.semantic_loss_ignore_index
        if not _is_int(ignored) or not -(2**31) <= ignored < 2**31:  # label maps hold it
            _refuse("semantic_loss_ignore_index", ignored, "an integer of 32 bits")
        for index, width in enumerate(self.hidden_sizes):
            if width % self.num_attention_heads:
                _refuse(
                    f"hidden_sizes[{index}]", width, f"a multiple of num_attention_heads={self.num_attention_heads}"
                )
            if int(width * self.mlp_ratio) < 1:
                _refuse("mlp_ratio", self.mlp_ratio, f"at least 1/{width}, so that the feed-forward layer has a width")
        if not isinstance(self.extra, Mapping) or not _is_json(self.extra):
            _refuse("extra", self.extra, "an object of JSON values")
        object.__setattr__(self, "extra", dict(self.extra))
        self._set_labels()

    def _set_labels(self) -> None:
        """Bring num_labels, id2label and label2id together."""
        if self.id2label is None:
            count = 2 if self.num_labels is None else self.num_labels
            _check_integer("num_labels", count, minimum=0)
            names = {index: f"LABEL_{index}" for index in range(count)}
        else:
            names = _label_names(self.id2label)
        if self.num_labels is not None and self.num_labels != len(names):
            _refuse("num_labels", self.num_labels, f"{len(names)}, the number of names in id2label (or leave it out)")
        label2id = self.label2id
        if label2id is None:
            label2id = {name: index for index, name in names.items()}
        if not isinstance(label2id, Mapping) or not all(
            isinstance(name, str) and _is_int(index) for name, index in label2id.items()
        ):
            _refuse("label2id", label2id, "an object of name: integer")
        object.__setattr__(self, "num_labels", len(names))
        object.__setattr__(self, "id2label", names)
        object.__setattr__(self, "label2id", dict(label2id))

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any]) -> MobileViTConfig:
        """Make a config from the object in a config.json; keys that are no fields go to `extra`.

        Raises
        ------
        ConfigError
            If a value is out of its range, or ``model_type`` is not "mobilevit".
        """
        if not isinstance(settings, Mapping):
            raise ConfigError(f"a config must be an object, found {type(settings).__name__}", "config-value")
        model_type = settings.get("model_type", "mobilevit")
        if model_type != "mobilevit":
            _refuse("model_type", model_type, "'mobilevit' (MobileViTV2 is another network)")
        names = {field.name for field in dataclasses.fields(cls)} - {"extra"}
        known = {name: value for name, value in settings.items() if name in names}
        # null means "not set" for these in files; for any other field it is refused as a wrong value
        for name in ("id2label", "label2id", "num_labels"):
            if known.get(name, ...) is None:
                del known[name]
        extra = {name: value for name, value in settings.items() if name not in names and name != "model_type"}
        return cls(**known, extra=extra)

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON object of a config.json that transformers reads too."""
        settings = dict(self.extra)
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name not in ("extra", "num_labels"):
                settings[field.name] = list(value) if isinstance(value, tuple) else value
        settings["id2label"] = {str(index): name for index, name in self.id2label.items()}
        settings["label2id"] = dict(self.label2id)
        settings["model_type"] = "mobilevit"
        return settings

    @classmethod
    def from_pretrained(
        cls, name_or_folder: str | os.PathLike[str], **arguments: Unpack[HubArguments]
    ) -> MobileViTConfig:
        """Read the config.json of a checkpoint.

        Parameters
        ----------
        name_or_folder : str or path
        revision, cache_dir, local_files_only, token, force_download : optional
            See :func:`npmobilevit.load`.

        Raises
        ------
        CheckpointError
            If there is no such checkpoint, or it cannot be reached.
        ConfigError
            If a value is out of its range.
        """
        from npmobilevit.checkpoints import load_config_settings  # stands above this module

        return cls.from_dict(load_config_settings(name_or_folder, **arguments))

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Write ``config.json`` into `folder`, which is made if it does not exist.

        Raises
        ------
        CheckpointError
            If the file cannot be written.
        """
        from npmobilevit.checkpoints import CONFIG, write_json_object  # stands above this module

        write_json_object(Path(folder) / CONFIG, self.to_dict())


def _refuse(name: str, value: object, allowed: str) -> None:
    try:
        found = repr(value)
    except ValueError:  # Python does not print integers of thousands of digits
        found = f"a {type(value).__name__} too long to print"
    found = found if len(found) <= 80 else found[:77] + "..."
    raise ConfigError(f"config: {name} must be {allowed}, found {found}", "config-value")


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_json(value: Mapping[str, Any]) -> bool:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return False
    return all(isinstance(key, str) for key in value)


def _check_integer(name: str, value: Any, *, minimum: int = 1, maximum: int = MAX_SIZE) -> None:
    if not _is_int(value) or not minimum <= value <= maximum:
        _refuse(name, value, f"an integer in {minimum}..{maximum}")


def _integers(name: str, values: Any, count: int) -> tuple[int, ...]:
    if not isinstance(values, list | tuple) or len(values) != count:
        _refuse(name, values, f"a list of {count} integers")
    for index, value in enumerate(values):
        _check_integer(f"{name}[{index}]", value)
    return tuple(values)


def _number(name: str, value: Any, low: float, high: float, *, above: bool = False) -> float:
    valid = isinstance(value, int | float) and not isinstance(value, bool)
    if not valid or not low <= value <= high or (above and value == low):
        _refuse(name, value, f"a number {'above' if above else 'from'} {low} and at most {high}")
    return float(value)  # transformers refuses integers in these fields of a file


def _check_member(name: str, value: Any, allowed: Sequence[object]) -> None:
    # 1 == True and 16.0 == 16 in Python, so the type is compared too
    if not any(value == choice and type(value) is type(choice) for choice in allowed):
        _refuse(name, value, "one of " + ", ".join(map(repr, allowed)))


def _label_names(id2label: Any) -> dict[int, str]:
    """Return id2label with int keys 0..n-1 in order."""
    if not isinstance(id2label, Mapping) or len(id2label) > MAX_SIZE:
        _refuse("id2label", id2label, f"an object of at most {MAX_SIZE} names")
    names: dict[int, str] = {}
    for key, name in id2label.items():
        is_index = _is_int(key) or (isinstance(key, str) and key.isascii() and key.isdigit() and len(key) < 8)
        if not is_index or not isinstance(name, str):
            _refuse("id2label", {key: name}, "an object with names under integer keys")
        names[int(key)] = name
    if sorted(names) != list(range(len(id2label))):
        _refuse("id2label", sorted(names), f"numbered 0..{len(id2label) - 1} without gaps")
    return {index: names[index] for index in sorted(names)}


def make_divisible(value: float, divisor: int = 8) -> int:
    """Round to a multiple of `divisor`, at least that and at least 90 % of `value` (transformers ``make_divisible``).

    >>> [make_divisible(v) for v in (11, 20, 28, 90, 100)]
    [16, 24, 32, 88, 104]
    """
    rounded = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * value else rounded


def expected_parameters(config: MobileViTConfig, *, head: Head | None = None, expand_output: bool = True) -> Shapes:
    """Return the name and shape of every float tensor of a checkpoint, named as in transformers' state dict.

    Parameters
    ----------
    config : MobileViTConfig
    head : {"classification", "segmentation"}, optional
        The task model; its base model has the prefix "mobilevit.". None is the base model alone, without prefix.
    expand_output : bool
        Whether a base model alone has ``conv_1x1_exp``; the heads decide for themselves.

    Returns
    -------
    dict of str to tuple of int
        In the order of the forward pass. The counters ``num_batches_tracked`` are left out.

    Raises
    ------
    ConfigError
        If `head` is none of these.
    """
    _check_member("head", head, (None, *get_args(Head)))
    if head is None:
        return dict(_base_model(config, expand_output))
    shapes = {f"mobilevit.{name}": shape for name, shape in _base_model(config, head == "classification")}
    if head == "classification":
        if config.num_labels:
            shapes |= _linear("classifier", config.neck_hidden_sizes[-1], config.num_labels)
        return shapes
    return shapes | dict(_segmentation_head(config))


def _base_model(config: MobileViTConfig, expand_output: bool) -> Iterator[tuple[str, tuple[int, ...]]]:
    necks = config.neck_hidden_sizes
    yield from _conv_layer("conv_stem", config.num_channels, necks[0], 3).items()
    for layer, depth in enumerate(MOBILENET_DEPTHS):
        for i in range(depth):
            name = f"encoder.layer.{layer}.layer.{i}"
            c_in = necks[layer] if i == 0 else necks[layer + 1]
            yield from _inverted_residual(name, c_in, necks[layer + 1], config).items()
    for layer, (depth, width) in enumerate(zip(TRANSFORMER_DEPTHS, config.hidden_sizes, strict=True), start=2):
        name = f"encoder.layer.{layer}"
        yield from _mobilevit_layer(name, necks[layer], necks[layer + 1], width, depth, config).items()
    if expand_output:
        yield from _conv_layer("conv_1x1_exp", necks[5], necks[6], 1).items()


def _segmentation_head(config: MobileViTConfig) -> Iterator[tuple[str, tuple[int, ...]]]:
    c_in, width = config.neck_hidden_sizes[5], config.aspp_out_channels
    aspp = "segmentation_head.aspp"
    for index, kernel in enumerate((1, 3, 3, 3)):
        yield from _conv_layer(f"{aspp}.convs.{index}", c_in, width, kernel).items()
    yield from _conv_layer(f"{aspp}.convs.4.conv_1x1", c_in, width, 1).items()
    yield from _conv_layer(f"{aspp}.project", 5 * width, width, 1).items()
    yield "segmentation_head.classifier.convolution.weight", (config.num_labels, width, 1, 1)
    yield "segmentation_head.classifier.convolution.bias", (config.num_labels,)


def _conv_layer(name: str, c_in: int, c_out: int, kernel: int, *, normalize: bool = True) -> Shapes:
    shapes: Shapes = {f"{name}.convolution.weight": (c_out, c_in, kernel, kernel)}
    if normalize:
        for leaf in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{name}.normalization.{leaf}"] = (c_out,)
    return shapes


def _linear(name: str, d_in: int, d_out: int, *, bias: bool = True) -> Shapes:
    shapes: Shapes = {f"{name}.weight": (d_out, d_in)}
    return shapes | {f"{name}.bias": (d_out,)} if bias else shapes


def _layer_norm(name: str, width: int) -> Shapes:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def _inverted_residual(name: str, c_in: int, c_out: int, config: MobileViTConfig) -> Shapes:
    expanded = make_divisible(round(c_in * config.expand_ratio))
    return (
        _conv_layer(f"{name}.expand_1x1", c_in, expanded, 1)
        | _conv_layer(f"{name}.conv_3x3", 1, expanded, 3)  # depthwise: one input channel a group
        | _conv_layer(f"{name}.reduce_1x1", expanded, c_out, 1)
    )


def _mobilevit_layer(name: str, c_in: int, c_out: int, width: int, depth: int, config: MobileViTConfig) -> Shapes:
    kernel = config.conv_kernel_size
    shapes = _inverted_residual(f"{name}.downsampling_layer", c_in, c_out, config)
    shapes |= _conv_layer(f"{name}.conv_kxk", c_out, c_out, kernel)
    shapes |= _conv_layer(f"{name}.conv_1x1", c_out, width, 1, normalize=False)
    for i in range(depth):
        shapes |= _transformer_layer(f"{name}.transformer.layer.{i}", width, config)
    shapes |= _layer_norm(f"{name}.layernorm", width)
    shapes |= _conv_layer(f"{name}.conv_projection", width, c_out, 1)
    return shapes | _conv_layer(f"{name}.fusion", 2 * c_out, c_out, kernel)


def _transformer_layer(name: str, width: int, config: MobileViTConfig) -> Shapes:
    shapes = _layer_norm(f"{name}.layernorm_before", width)
    for projection in ("query", "key", "value"):
        shapes |= _linear(f"{name}.attention.attention.{projection}", width, width, bias=config.qkv_bias)
    shapes |= _linear(f"{name}.attention.output.dense", width, width)
    shapes |= _layer_norm(f"{name}.layernorm_after", width)
    inner = int(width * config.mlp_ratio)
    return shapes | _linear(f"{name}.intermediate.dense", width, inner) | _linear(f"{name}.output.dense", inner, width)
