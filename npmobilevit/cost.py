"""What a forward pass costs, layer by layer: shapes, parameters, multiply-accumulates, bytes and receptive fields.

The layer functions are the package's own, in a scope of another kind: its operators take and give values of which only
the shape and the reach are known, and each writes a row of the table. So the network is written once, a config will do
in the place of weights, and a table takes little time and memory whatever the size of the picture.

What is counted
---------------
multiply-accumulates (`macs`)
    One for each product that is added to a sum: for each output element of a convolution or linear layer as many as it
    has weights, for each score of an attention the width of a head, for each element of its output one a key. Products
    with the zeros of the padding count, as other counters have it. Biases, normalisations, activations, softmax, sums,
    means and resizes have none. (What is called FLOPs is this number, or twice as many.)
`parameters`
    Weights and biases, those of normalisations too: what is learned, and what publications count.
`buffers`
    Running means and variances of the batch normalisations: they are not learned, but have to be stored.
`weight_bytes`
    Of parameters and buffers.
`activation_bytes`
    Of the output: what the operation writes if nothing is fused. The scores of an attention are counted as a whole.
`receptive_field`
    Height and width, in input pixels, of the smallest rectangle that holds all pixels that an output element depends
    on, whatever the weights are; the largest among the elements. Pixels outside the picture do not count, and those
    that a dilation leaves out within the rectangle do. Attention joins what lies at the same offset of all patches, so
    that behind the first one it is nearly always the whole picture.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType, SimpleNamespace
from typing import Any, NamedTuple, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from npmobilevit import network
from npmobilevit.config import HIDDEN_ACTS, MAX_SIZE, Head, MobileViTConfig, expected_parameters
from npmobilevit.errors import ShapeError
from npmobilevit.ops.arrays import check_positive, pair
from npmobilevit.scope import OpTable, Scope

__all__ = ["CostTable", "Row", "block_of", "cost_table", "summed"]

# The first and the last input row (or column) that each position depends on: (H, 2) of a map, and of tokens
# (patches, patch_size, 2), the rows of patches and the offset inside of them.
Reach: TypeAlias = NDArray[np.intp]


class Row(NamedTuple):
    """An operation of the forward pass, or the sum of several."""

    name: str  # of the tap that shows the output; of operations without one, that of their module and the operator
    operation: str  # the operator of npmobilevit.ops, or the activation; "sum" of several
    shape: tuple[int, ...]  # of the output
    parameters: int
    buffers: int
    macs: int
    weight_bytes: int
    activation_bytes: int
    receptive_field: tuple[int, int]  # height and width


@dataclasses.dataclass(frozen=True)
class CostTable:
    """The cost of a forward pass.

    Parameters
    ----------
    input_shape : (N, C, H, W)
    rows : tuple of Row
        Every operation that computes or moves values, in the order of the forward pass. Splitting and merging heads
        is left out: it is a change of the view.
    """

    input_shape: tuple[int, int, int, int]
    rows: tuple[Row, ...]

    def blocks(self) -> list[Row]:
        """The rows summed by the block that they belong to: the stem, the encoder layers, and what comes after."""
        grouped = itertools.groupby(self.rows, lambda row: block_of(row.name))
        return [summed(block, tuple(rows)) for block, rows in grouped]

    def total(self) -> Row:
        """The sum of all rows, with the shape and the receptive field of the last."""
        return summed("total", self.rows)


def summed(name: str, rows: Sequence[Row]) -> Row:
    """Add up rows.

    Parameters
    ----------
    name : str
        Of the sum.
    rows : sequence of Row
        At least one.

    Returns
    -------
    Row
        With the operation "sum", and the shape and the receptive field of the last row.
    """
    counts = ("parameters", "buffers", "macs", "weight_bytes", "activation_bytes")
    sums = {count: sum(getattr(row, count) for row in rows) for count in counts}
    return rows[-1]._replace(name=name, operation="sum", **sums)


def block_of(name: str) -> str:
    """The block of the network that a tap or parameter belongs to: stem, an encoder layer, or what comes after."""
    path = name.removeprefix("mobilevit.").split(".")
    return ".".join(path[:3]) if path[0] == "encoder" else path[0]


def cost_table(
    config: MobileViTConfig,
    size: tuple[int, int] | None = None,
    *,
    head: Head | None = None,
    expand_output: bool = True,
    batch: int = 1,
    itemsize: int = 4,
) -> CostTable:
    """Tell what a forward pass costs, layer by layer.

    Parameters
    ----------
    config : MobileViTConfig
    size : (height, width), optional
        Of the input, up to 65536; by default ``config.image_size``.
    head : {"classification", "segmentation"}, optional
        None is the base model alone.
    expand_output : bool
        Whether a base model alone has ``conv_1x1_exp``; the heads decide for themselves.
    batch : int
        Pictures.
    itemsize : int
        Bytes of a number: 4 in float32.

    Returns
    -------
    CostTable

    Raises
    ------
    ShapeError
        If a size, `batch` or `itemsize` is not a positive integer, or a size is beyond 65536.
    ConfigError
        If `head` is none of these.

    Notes
    -----
    Its numbers are compared with those that torch counts in transformers' models (``tools/count_macs.py``).

    Examples
    --------
    >>> table = cost_table(MobileViTConfig(num_labels=1000), head="classification")
    >>> total = table.total()
    >>> total.parameters, total.macs
    (5578632, 2000831488)
    >>> table.rows[0].name, table.rows[0].shape, table.rows[0].macs, table.rows[0].receptive_field
    ('mobilevit.conv_stem.convolution', (1, 16, 128, 128), 7077888, (3, 3))
    """
    height, width = _checked_size(config.image_size if size is None else size)
    batch, itemsize = check_positive("batch", batch), check_positive("itemsize", itemsize)
    shapes = expected_parameters(config, head=head, expand_output=expand_output)
    weights: Any = {name: SimpleNamespace(shape=shape) for name, shape in shapes.items()}
    shape = (batch, config.num_channels, height, width)
    scope = _CostScope(weights, itemsize=itemsize).of_node("")
    pixels: Any = _Value(shape, each_pixel(height), each_pixel(width))
    if head == "classification":
        network.image_classification(scope, pixels, config)
    elif head == "segmentation":
        network.semantic_segmentation(scope, pixels, config)
    else:
        network.base_model(scope, pixels, config, expand_output=expand_output)
    return CostTable(shape, tuple(scope.rows))


def _checked_size(size: Any) -> tuple[int, int]:
    height, width = pair("size", size)
    if max(height, width) > MAX_SIZE:
        raise ShapeError(f"a size must be at most {MAX_SIZE}, found {height} x {width}", "argument-range")
    return height, width


@dataclasses.dataclass(frozen=True)
class _Value:
    """A value of the network, of which only this is known.

    Parameters
    ----------
    shape : tuple of int
    rows, columns : Reach
    index : int, optional
        Of the table's row about it, as long as no layer has reported it.
    """

    shape: tuple[int, ...]
    rows: Reach
    columns: Reach
    index: int | None = None

    def __getitem__(self, axes: tuple[slice | None, ...]) -> _Value:
        """Add axes of size 1; nothing else is done to a value by indexing."""
        sizes = iter(self.shape)
        return dataclasses.replace(self, shape=tuple(1 if axis is np.newaxis else next(sizes) for axis in axes))


@dataclasses.dataclass(frozen=True)
class _CostScope(Scope):
    """A scope whose operators compute shapes and write `rows`."""

    itemsize: int = 4
    rows: list[Row] = dataclasses.field(default_factory=list)

    def of_node(self, name: str) -> Self:
        return dataclasses.replace(self, name=name, ops=_Node(name, self.rows, self.itemsize).table())

    def out(self, x: Any) -> Any:
        """Give the row of a value the name of the first node that reports it."""
        if x.index is not None:
            self.rows[x.index] = self.rows[x.index]._replace(name=self.name, shape=x.shape)
        return dataclasses.replace(x, index=None)

    def in_parts(self, attend: Callable[..., Any], query: Any, key: Any, value: Any) -> Any:
        return attend(self, query, key, value)


class _Node(NamedTuple):
    """A node of the network, with its operators: values in, a value and a row of the table out."""

    name: str
    rows: list[Row]
    itemsize: int

    def table(self) -> OpTable:
        return OpTable(
            add=self.add,
            concat_channels=self.concat_channels,
            conv2d=self.conv2d,
            batch_norm=self.batch_norm,
            layer_norm=self.layer_norm,
            linear=self.linear,
            attention_scores=self.attention_scores,
            softmax=self.softmax,
            attend=self.attend,
            split_heads=_split_heads,
            merge_heads=_merge_heads,
            unfold_patches=self.unfold_patches,
            fold_patches=self.fold_patches,
            resize_bilinear=self.resize_bilinear,
            global_avg_pool=self.global_avg_pool,
            activations={name: functools.partial(self.same_shape, name) for name in HIDDEN_ACTS},
        )

    def record(
        self,
        operation: str,
        shape: Iterable[int],
        rows: Reach,
        columns: Reach,
        *,
        macs: int = 0,
        parameters: Mapping[str, Any] = MappingProxyType({}),
    ) -> Any:
        """Write a row, and return the value that it is about."""
        shape = tuple(shape)
        sizes = {name: math.prod(value.shape) for name, value in parameters.items() if value is not None}
        buffers = sum(size for name, size in sizes.items() if name.startswith("running_"))
        row = Row(
            name=f"{self.name}.{operation}" if self.name else operation,
            operation=operation,
            shape=shape,
            parameters=sum(sizes.values()) - buffers,
            buffers=buffers,
            macs=macs,
            weight_bytes=sum(sizes.values()) * self.itemsize,
            activation_bytes=math.prod(shape) * self.itemsize,
            receptive_field=(longest(rows), longest(columns)),
        )
        self.rows.append(row)
        return _Value(shape, rows, columns, len(self.rows) - 1)

    def same_shape(self, operation: str, x: Any, parameters: Mapping[str, Any] = MappingProxyType({})) -> Any:
        return self.record(operation, x.shape, x.rows, x.columns, parameters=parameters)

    def batch_norm(self, x: Any, **parameters: Any) -> Any:
        return self.same_shape("batch_norm", x, parameters)

    def layer_norm(self, x: Any, *, eps: float, **parameters: Any) -> Any:
        return self.same_shape("layer_norm", x, parameters)

    def softmax(self, x: Any) -> Any:
        return self.same_shape("softmax", x)

    def add(self, x: Any, y: Any) -> Any:
        return self.record("add", x.shape, either(x.rows, y.rows), either(x.columns, y.columns))

    def concat_channels(self, maps: Sequence[Any]) -> Any:
        n, _, height, width = maps[0].shape
        rows, columns = (
            functools.reduce(either, reaches) for reaches in zip(*((x.rows, x.columns) for x in maps), strict=True)
        )
        return self.record("concat_channels", (n, sum(x.shape[1] for x in maps), height, width), rows, columns)

    def conv2d(
        self,
        x: Any,
        *,
        weight: Any,
        bias: Any = None,
        stride: int = 1,
        padding: int = 0,
        dilation: int = 1,
        groups: int = 1,
    ) -> Any:
        rows, columns = (
            convolved(reach, kernel, stride, padding, dilation)
            for reach, kernel in zip((x.rows, x.columns), weight.shape[2:], strict=True)
        )
        shape = (x.shape[0], weight.shape[0], len(rows), len(columns))
        macs = math.prod(shape) * math.prod(weight.shape[1:])  # weight (O, C/groups, KH, KW)
        return self.record("conv2d", shape, rows, columns, macs=macs, parameters={"weight": weight, "bias": bias})

    def linear(self, x: Any, *, weight: Any, bias: Any = None) -> Any:
        shape = (*x.shape[:-1], weight.shape[0])
        macs = math.prod(shape) * weight.shape[1]
        return self.record("linear", shape, x.rows, x.columns, macs=macs, parameters={"weight": weight, "bias": bias})

    def attention_scores(self, query: Any, key: Any) -> Any:
        shape = (*query.shape[:-1], key.shape[-2])  # (S, h, L, L)
        rows, columns = joined(query.rows), joined(query.columns)  # those of query and key are the same
        return self.record("attention_scores", shape, rows, columns, macs=math.prod(shape) * query.shape[-1])

    def attend(self, probs: Any, value: Any) -> Any:
        shape = (*probs.shape[:-1], value.shape[-1])  # (S, h, L, d)
        return self.record("attend", shape, probs.rows, probs.columns, macs=math.prod(shape) * probs.shape[-1])

    def unfold_patches(self, x: Any, patch_size: int) -> Any:
        n, d, height, width = x.shape
        shape = (n * patch_size**2, height // patch_size * (width // patch_size), d)
        rows, columns = (reach.reshape(-1, patch_size, 2) for reach in (x.rows, x.columns))
        return self.record("unfold_patches", shape, rows, columns)

    def fold_patches(self, x: Any, patch_size: int, height: int, width: int) -> Any:
        shape = (x.shape[0] // patch_size**2, x.shape[2], height, width)
        return self.record("fold_patches", shape, x.rows.reshape(-1, 2), x.columns.reshape(-1, 2))

    def resize_bilinear(self, x: Any, size: tuple[int, int]) -> Any:
        rows, columns = (resized(reach, n) for reach, n in zip((x.rows, x.columns), size, strict=True))
        return self.record("resize_bilinear", (*x.shape[:2], *size), rows, columns)

    def global_avg_pool(self, x: Any) -> Any:
        return self.record("global_avg_pool", x.shape[:2], hull(x.rows)[np.newaxis], hull(x.columns)[np.newaxis])


def _split_heads(x: Any, num_heads: int) -> Any:
    """Split the shape; the value keeps its row."""
    sequences, tokens, width = x.shape
    return dataclasses.replace(x, shape=(sequences, num_heads, tokens, width // num_heads))


def _merge_heads(x: Any) -> Any:
    """Merge the shape; the value keeps its row."""
    sequences, heads, tokens, width = x.shape
    return dataclasses.replace(x, shape=(sequences, tokens, heads * width))


# Reach, along one axis of the picture


def each_pixel(size: int) -> Reach:
    """Each pixel depends on itself. -> (size, 2)."""
    return np.repeat(np.arange(size), 2).reshape(size, 2)


def longest(reach: Reach) -> int:
    """The largest number of pixels from the first to the last."""
    return int((reach[..., 1] - reach[..., 0]).max()) + 1


def either(a: Reach, b: Reach) -> Reach:
    """From the earlier first to the later last."""
    return np.stack([np.minimum(a[..., 0], b[..., 0]), np.maximum(a[..., 1], b[..., 1])], axis=-1)


def hull(reach: Reach) -> Reach:
    """All of the first axis together. (n, ..., 2) -> (..., 2)."""
    return np.stack([reach[..., 0].min(axis=0), reach[..., 1].max(axis=0)], axis=-1)


def joined(reach: Reach) -> Reach:
    """Each offset of each patch depends on that offset of all patches. (patches, patch_size, 2) -> same."""
    return np.broadcast_to(hull(reach), reach.shape)


def convolved(reach: Reach, kernel: int, stride: int, padding: int, dilation: int) -> Reach:
    """What the taps of a kernel that lie within the map depend on together. (H, 2) -> (H', 2)."""
    size = len(reach)
    starts = np.arange((size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1) * stride - padding
    found = np.stack([np.full_like(starts, np.iinfo(np.intp).max), np.full_like(starts, -1)], axis=-1)
    # only these taps lie within the map anywhere
    for tap in range(max(0, -int(starts[-1] // dilation)), min(kernel, int(size - 1 - starts[0]) // dilation + 1)):
        at = starts + tap * dilation
        inside = (at >= 0) & (at < size)
        found[inside] = either(found[inside], reach[at[inside]])
    return found


def resized(reach: Reach, size: int) -> Reach:
    """What the neighbours of each source position depend on, if their weights are above zero. (H, 2) -> (size, 2).

    Positions ``(i + 1/2) * H / size - 1/2`` are held at the border, as :func:`npmobilevit.ops.resize_bilinear` has it.
    """
    numerators = np.maximum((2 * np.arange(size) + 1) * len(reach) - size, 0)  # of positions, over 2 * size
    first, rest = np.divmod(numerators, 2 * size)
    second = np.minimum(first + (rest > 0), len(reach) - 1)
    return either(reach[first], reach[second])
