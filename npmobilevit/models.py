"""The three models with transformers' signatures: a config, its weights and an arithmetic, ready to be called."""

from __future__ import annotations

import dataclasses
import difflib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Self, Unpack

import numpy as np
from numpy.typing import NDArray

from npmobilevit import network, ops
from npmobilevit.arithmetic import PRECISIONS
from npmobilevit.config import Head, MobileViTConfig, Shapes, expected_parameters
from npmobilevit.engine import HIDDEN_STATES, WORKERS, Engine, PlanReport, Workers, why_not, why_not_size
from npmobilevit.errors import ConfigError, ShapeError, WeightsError
from npmobilevit.ops.arrays import Array, check_positive
from npmobilevit.outputs import (
    BaseModelOutputWithPoolingAndNoAttention,
    ImageClassifierOutputWithNoAttention,
    SemanticSegmenterOutput,
)
from npmobilevit.scope import Scope, Tap, ignore, is_extra

if TYPE_CHECKING:
    from npmobilevit.checkpoints import HubArguments

ENGINES = ("reference", "fast")
LISTED_PROBLEMS = 10  # of each kind, in an error about weights


class PreTrainedModel:
    """What the three models share: loading, saving, and looking inside.

    Parameters
    ----------
    config : MobileViTConfig
    weights : mapping of str to array
        All parameters under transformers' names (:func:`npmobilevit.config.expected_parameters`), in any float
        dtype. They are copied. ``num_batches_tracked`` counters may be among them.
    precision : {"float32", "float64", "bitexact"}
        Arithmetic of the network. Of "bitexact", all values and logits are float64 with the same bits on every machine
        with IEEE 754 arithmetic, at some five times the time of "float32"; losses, and scores made of the logits, are
        computed as in "float64". It has the activations SiLU, ReLU and GELU.
    engine : {"reference", "fast"}
        The readable network, or the same as a prepared plan (:mod:`npmobilevit.engine`), in "float32" alone. Where the
        plan does not reach, the readable network runs: :meth:`plan` says which and why. Both agree within rounding; the
        last bits of the plan's results also depend on who shares the work, and of a picture in a batch on the batch.
    workers : {"threads", "processes"}
        Who shares the work of the fast engine: threads, or processes on shared memory, which take less time for
        repeated calls and are ended by :meth:`close`, or when this is left as a context. Threads take their place where
        there can be no processes: both need NumPy's OpenBLAS, whose products use one thread in the whole process while
        the engine works. The processes keep what memory this one held when they were made, at the first call of a size.
        The readable network has no use for it.

    Raises
    ------
    WeightsError
        Listing every missing, unexpected and wrongly shaped name, or naming values that cannot be weights.
    ConfigError
        If `precision`, `engine` or `workers` is unknown, or the precision has not the config's activation or engine.
    """

    head: ClassVar[Head | None] = None

    def __init__(
        self,
        config: MobileViTConfig,
        weights: Mapping[str, NDArray[Any]],
        *,
        precision: str = "float32",
        engine: str = "reference",
        workers: Workers = "threads",
    ) -> None:
        if not isinstance(precision, str) or precision not in PRECISIONS:
            raise ConfigError(f"precision must be one of {', '.join(PRECISIONS)}, found {precision!r}", "precision")
        if engine not in ENGINES:
            raise ConfigError(f"engine must be one of {', '.join(ENGINES)}, found {engine!r}", "engine")
        if workers not in WORKERS:
            raise ConfigError(f"workers must be one of {', '.join(WORKERS)}, found {workers!r}", "workers")
        if engine == "fast" and precision != "float32":
            raise ConfigError(f"the fast engine computes in float32, found precision {precision!r}", "engine-precision")
        if not isinstance(config, MobileViTConfig):
            raise ConfigError(f"config must be a MobileViTConfig, found {type(config).__name__}", "config-value")
        if not isinstance(weights, Mapping) or not all(isinstance(name, str) for name in weights):
            raise WeightsError("weights must be a mapping of names to arrays", "weights-type")
        activations = PRECISIONS[precision].ops.activations
        if config.hidden_act not in activations:
            raise ConfigError(
                f"precision {precision!r} has the activations {', '.join(activations)}, found hidden_act "
                f"{config.hidden_act!r}; use float64",
                "precision-activation",
            )
        self.config = config
        self.precision = precision
        expected = self._expected_parameters()
        # how many batches each normalisation was trained on: in every file of transformers, and without effect
        counters: Shapes = {
            f"{name.removesuffix('running_var')}num_batches_tracked": () for name in expected if name.endswith("_var")
        }
        tensors = self._own(weights)
        check_names_and_shapes(expected, tensors, optional=counters)
        self._weights = {name: _parameter(name, tensors[name], self.dtype) for name in expected}
        self._counters = {name: _counter(name, tensors.get(name, 0)) for name in counters}
        self._engine_name = engine
        self._workers = workers
        self._engine = self._make_engine()

    def _make_engine(self) -> Engine | None:
        """The prepared network, if it is asked for and the config allows it."""
        if self.engine != "fast" or why_not(self.config) is not None:
            return None
        return Engine(
            self.config, self._weights, head=self.head, expand_output=self._expands_output(), workers=self._workers
        )

    @property
    def engine(self) -> str:
        """The engine that was asked for; :meth:`plan` says what runs."""
        return self._engine_name

    @property
    def workers(self) -> Workers:
        """Who was to share the work of the fast engine."""
        return self._workers

    def _expands_output(self) -> bool:
        """Whether the base model has its widening 1x1 convolution."""
        return self.head == "classification"

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_engine"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._engine = self._make_engine()

    def close(self) -> None:
        """End the threads or processes of the fast engine and free its plans; the next call makes them again."""
        if self._engine is not None:
            self._engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of parameters, values and results."""
        return PRECISIONS[self.precision].dtype

    def _expected_parameters(self) -> Shapes:
        return expected_parameters(self.config, head=self.head)

    def _own(self, weights: Mapping[str, NDArray[Any]]) -> Mapping[str, NDArray[Any]]:
        """The weights that are this model's, under its names."""
        return weights

    @classmethod
    def from_pretrained(
        cls,
        name_or_folder: str | os.PathLike[str],
        *,
        precision: str = "float32",
        engine: str = "reference",
        workers: Workers = "threads",
        **arguments: Unpack[HubArguments],
    ) -> Self:
        """Make the model of a checkpoint.

        Parameters
        ----------
        name_or_folder : str or path
            See :func:`npmobilevit.load`.
        precision, engine, workers
            See :class:`PreTrainedModel`.
        revision, cache_dir, local_files_only, token, force_download : optional
            See :func:`npmobilevit.load`.

        Raises
        ------
        CheckpointError
            If there is no such checkpoint, or it cannot be reached.
        ConfigError, WeightsError
            If its files are damaged or do not belong together.
        """
        config, weights = _read_checkpoint(name_or_folder, arguments)
        return cls(config, weights, precision=precision, engine=engine, workers=workers)

    def parameters(self) -> Mapping[str, Array]:
        """The parameters that the network reads, by name, in its precision. They cannot be exchanged."""
        return MappingProxyType(self._weights)

    def state_dict(self) -> dict[str, NDArray[Any]]:
        """All tensors of transformers' state dict, by name; the parameters in the model's precision.

        The arrays are the model's own: copy them before changing them.
        """
        state: dict[str, NDArray[Any]] = {}
        for name, value in self._weights.items():
            state[name] = value
            if name.endswith(".running_var"):
                counter = name.removesuffix("running_var") + "num_batches_tracked"
                state[counter] = self._counters[counter]
        return state

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Write config.json and model.safetensors into `folder`; transformers' ``from_pretrained`` reads them.

        Raises
        ------
        CheckpointError
            If a file cannot be written.
        """
        from npmobilevit.checkpoints import write_safetensors

        settings = self.config.to_dict() | {"architectures": [type(self).__name__], "dtype": self.dtype.name}
        MobileViTConfig.from_dict(settings).save_pretrained(folder)
        write_safetensors(Path(folder) / "model.safetensors", self.state_dict())

    def taps(self, pixel_values: Array, names: Iterable[str] | None = None) -> dict[str, Array]:
        """Run the network and return what its modules put out.

        Parameters
        ----------
        pixel_values : (N, num_channels, H, W) array
        names : str or iterable of str, optional
            The taps wanted; None for all but the extras. Names are those of transformers' ``named_modules()``,
            for modules that return a tensor, or the first of several; dropouts are left out. "pixel_values" and
            "logits" are added. The extras ".scores", ".probs", ".unfolded" and ".folded" hang below the names of
            the self-attentions and of the MobileViT blocks.

        Returns
        -------
        dict of str to array
            In the order of the forward pass.

        Raises
        ------
        ConfigError
            If there is no tap of a name.
        """
        values: dict[str, Array] = {}
        seen: list[str] = []
        wanted = None if names is None else {names} if isinstance(names, str) else set(names)

        def wants(name: str) -> bool:
            return name in wanted if wanted is not None else bool(name) and not is_extra(name)

        def record(name: str, x: Array) -> None:
            seen.append(name)
            if wants(name):
                values[name] = x

        x = self.check_pixel_values(pixel_values)
        record("pixel_values", x)
        self.forward(dataclasses.replace(self.scope(record), wants=wants), x)
        unknown = sorted((wanted or set()) - values.keys())
        if unknown:
            near = difflib.get_close_matches(unknown[0], seen, n=3)
            advice = f"did you mean {' or '.join(map(repr, near))}?" if near else "see `npmobilevit taps`"
            raise ConfigError(f"the network has no tap {', '.join(map(repr, unknown[:5]))}; {advice}", "tap-unknown")
        return values

    def plan(self, height: int | None = None, width: int | None = None) -> PlanReport:
        """Say what runs when the model is called with a picture of a size, and why; it is prepared if it is not yet.

        Parameters
        ----------
        height, width : int, optional
            By default those of ``config.image_size``.

        Returns
        -------
        PlanReport
            ``str()`` of it is a sentence.

        Raises
        ------
        ShapeError
            If a size is not a positive integer.
        """
        image_size = self.config.image_size
        default = (image_size, image_size) if isinstance(image_size, int) else image_size
        sizes = zip(("height", "width"), (height, width), default, strict=True)
        rows, columns = (check_positive(name, size if given is None else given) for name, given, size in sizes)
        reason = self._why_readable(rows, columns)
        if reason is not None or self._engine is None:
            return PlanReport("reference", reason, (rows, columns))
        return self._engine.describe(rows, columns)

    def _why_readable(self, height: int, width: int) -> str | None:
        """Why the readable network runs pictures of a size; None where the fast engine does."""
        if self.engine != "fast":
            return "the model was made with engine 'reference'"
        return why_not(self.config) or why_not_size(height, width)

    def _prepared(self, x: Array) -> Engine | None:
        """The fast engine if it can run these pixels."""
        return None if self._why_readable(x.shape[2], x.shape[3]) else self._engine

    def engine_taps(self, pixel_values: Array) -> dict[str, Array]:
        """Run the fast engine and return what its blocks put out, for :func:`npmobilevit.validation.check`.

        (:meth:`taps` are those of the readable network, whatever the engine.)

        Parameters
        ----------
        pixel_values : (N, num_channels, H, W) array

        Returns
        -------
        dict of str to array
            Some of the taps of :meth:`taps`, in the same order, under the same names.

        Raises
        ------
        ConfigError
            If the engine does not run this model; the message says why.
        ShapeError
            If it does not run pictures of this size, or `pixel_values` do not fit.
        """
        x = self.check_pixel_values(pixel_values)
        engine = self._prepared(x)
        if engine is None:
            reason = self._why_readable(x.shape[2], x.shape[3])
            kind = ConfigError if self._engine is None else ShapeError
            raise kind(f"the fast engine does not run here: {reason}", "engine-not-in-use")
        values = engine.run(x, taps=None)
        prefix = "" if self.head is None else "mobilevit."
        taps: dict[str, Array] = {"pixel_values": x}
        taps |= {prefix + name: value for name, value in values.taps.items()}
        return taps if values.logits is None else taps | {"logits": values.logits}

    def scope(self, tap: Tap = ignore) -> Scope:
        """The root of the network, with its parameters, its operators and this listener."""
        return Scope(self._weights, tap=tap, ops=PRECISIONS[self.precision].ops)

    def forward(self, scope: Scope, x: Array) -> Any:
        """Run the network in a scope of your own.

        Parameters
        ----------
        scope : Scope
            Brings parameters, operators and listener; see :meth:`scope`.
        x : (N, num_channels, H, W) array
            From :meth:`check_pixel_values`.

        Returns
        -------
        tuple
            What the function of :mod:`npmobilevit.network` returns.
        """
        raise NotImplementedError

    def __call__(self, pixel_values: Array | None = None) -> Any:
        raise NotImplementedError

    def check_pixel_values(self, pixel_values: Array | None) -> Array:
        """Return the pixels in the model's precision, or raise ShapeError."""
        if pixel_values is None:
            raise ShapeError("pixel_values is missing: pass an array (N, C, H, W)", "pixel-values")
        x = _as_array("pixel_values", pixel_values, ShapeError)
        channels = self.config.num_channels
        if x.dtype.kind != "f":
            raise ShapeError(
                f"pixel_values must be floats in 0..1, found {x.dtype}; MobileViTImageProcessor makes them",
                "pixel-values",
            )
        if x.ndim != 4 or x.shape[1] != channels or 0 in x.shape:
            raise ShapeError(f"pixel_values must have shape (N, {channels}, H, W), found {x.shape}", "pixel-values")
        with np.errstate(over="ignore"):  # becomes inf, which is refused
            converted = x.astype(self.dtype, copy=False)
        if not np.isfinite(converted).all():
            where = tuple(int(i) for i in np.argwhere(~np.isfinite(converted))[0])
            beyond = f", beyond {self.dtype}" if np.isfinite(x[where]) else ""
            raise ShapeError(f"pixel_values must be finite, found {x[where]} at index {where}{beyond}", "pixel-values")
        return converted

    def _logits(self, x: Array, output_hidden_states: bool) -> tuple[Array, tuple[Array, ...]]:
        """Logits of a task model, and hidden states if they are wanted, of the engine that runs here."""
        engine = self._prepared(x)
        if engine is None:
            logits, hidden_states = self.forward(self.scope(), x)
            return logits, hidden_states
        wanted = HIDDEN_STATES if output_hidden_states else ()
        values = engine.run(x, wanted)
        logits = values.pooled if values.logits is None else values.logits
        assert logits is not None  # a head without labels pools
        return logits, tuple(values.taps[name] for name in wanted)

    def _wants(self, output_hidden_states: bool | None, return_dict: bool | None) -> tuple[bool, bool]:
        """The two arguments, or what the config says where they are None."""
        return (
            self.config.output_hidden_states if output_hidden_states is None else output_hidden_states,
            self.config.return_dict if return_dict is None else return_dict,
        )


class MobileViTModel(PreTrainedModel):
    """The network without a head (transformers ``MobileViTModel``).

    A checkpoint of a task model will do as well: the prefix of its names is dropped, and its head ignored.

    Parameters
    ----------
    config, weights, precision, engine, workers
        See :class:`PreTrainedModel`.
    expand_output : bool
        Whether to widen the last map by ``conv_1x1_exp`` and to pool it. Segmentation checkpoints have no
        such convolution.

    Attributes
    ----------
    ignored_parameters : tuple of str
        Names in `weights` that belong to a head.
    """

    def __init__(
        self,
        config: MobileViTConfig,
        weights: Mapping[str, NDArray[Any]],
        *,
        precision: str = "float32",
        engine: str = "reference",
        workers: Workers = "threads",
        expand_output: bool = True,
    ) -> None:
        self.expand_output = expand_output
        self.ignored_parameters: tuple[str, ...] = ()
        super().__init__(config, weights, precision=precision, engine=engine, workers=workers)

    def _expands_output(self) -> bool:
        return self.expand_output

    @classmethod
    def from_pretrained(
        cls,
        name_or_folder: str | os.PathLike[str],
        *,
        precision: str = "float32",
        engine: str = "reference",
        workers: Workers = "threads",
        expand_output: bool = True,
        **arguments: Unpack[HubArguments],
    ) -> Self:
        """Make the model of a checkpoint; see :meth:`PreTrainedModel.from_pretrained`."""
        config, weights = _read_checkpoint(name_or_folder, arguments)
        return cls(config, weights, precision=precision, engine=engine, workers=workers, expand_output=expand_output)

    def _expected_parameters(self) -> Shapes:
        return expected_parameters(self.config, expand_output=self.expand_output)

    def _own(self, weights: Mapping[str, NDArray[Any]]) -> Mapping[str, NDArray[Any]]:
        prefix = "mobilevit."
        if any(name.startswith(prefix) for name in weights):
            heads = ("classifier.", "segmentation_head.")
            self.ignored_parameters = tuple(name for name in weights if name.startswith(heads))
            weights = {n.removeprefix(prefix): v for n, v in weights.items() if not n.startswith(heads)}
        if not self.expand_output:  # a classification checkpoint has this convolution, and it is not used
            expanding = tuple(name for name in weights if name.startswith("conv_1x1_exp."))
            self.ignored_parameters += expanding
            weights = {name: value for name, value in weights.items() if name not in expanding}
        return weights

    def forward(self, scope: Scope, x: Array) -> network.Features:
        return network.base_model(scope, x, self.config, expand_output=self.expand_output)

    def __call__(
        self,
        pixel_values: Array | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> Any:
        """Run the network.

        Parameters
        ----------
        pixel_values : (N, num_channels, H, W) float array
            BGR in 0..1, as :class:`npmobilevit.MobileViTImageProcessor` makes it. Any height and width.
        output_hidden_states, return_dict : bool, optional
            The config's values when None.

        Returns
        -------
        BaseModelOutputWithPoolingAndNoAttention
            Or, with ``return_dict=False``, the tuple of its fields that are not None.

        Raises
        ------
        ShapeError
            If `pixel_values` is missing, has another shape, is not float or not finite.
        """
        output_hidden_states, return_dict = self._wants(output_hidden_states, return_dict)
        x = self.check_pixel_values(pixel_values)
        engine = self._prepared(x)
        if engine is None:
            features = self.forward(self.scope(), x)
        else:
            last = "conv_1x1_exp" if self.expand_output else HIDDEN_STATES[-1]
            wanted = HIDDEN_STATES if output_hidden_states else ()
            values = engine.run(x, {last, *wanted})
            features = network.Features(values.taps[last], values.pooled, tuple(values.taps[n] for n in wanted))
        output = BaseModelOutputWithPoolingAndNoAttention(
            last_hidden_state=features.last_hidden_state,
            pooler_output=features.pooled,
            hidden_states=features.hidden_states if output_hidden_states else None,
        )
        return output if return_dict else output.to_tuple()


class MobileViTForImageClassification(PreTrainedModel):
    """The network with a linear classifier (transformers ``MobileViTForImageClassification``).

    Parameters
    ----------
    config, weights, precision, engine, workers
        See :class:`PreTrainedModel`.
    """

    head = "classification"

    def forward(self, scope: Scope, x: Array) -> tuple[Array, tuple[Array, ...]]:
        return network.image_classification(scope, x, self.config)

    def __call__(
        self,
        pixel_values: Array | None = None,
        labels: NDArray[Any] | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> Any:
        """Run the network.

        Parameters
        ----------
        pixel_values : (N, num_channels, H, W) float array
            BGR in 0..1. Any height and width.
        labels : array, optional
            Adds the loss. Integers (N,) for classes (-100: left out), floats (N, num_labels) for several
            independent classes, floats (N,) with one label for regression; ``config.problem_type`` decides, or,
            if that is None, the number of labels and the dtype.
        output_hidden_states, return_dict : bool, optional
            The config's values when None.

        Returns
        -------
        ImageClassifierOutputWithNoAttention
            Or, with ``return_dict=False``, the tuple of its fields that are not None.

        Raises
        ------
        ShapeError
            If `pixel_values` or `labels` do not fit.
        """
        output_hidden_states, return_dict = self._wants(output_hidden_states, return_dict)
        logits, hidden_states = self._logits(self.check_pixel_values(pixel_values), output_hidden_states)
        output = ImageClassifierOutputWithNoAttention(
            loss=None if labels is None else classification_loss(logits, labels, self.config),
            logits=logits,
            hidden_states=hidden_states if output_hidden_states else None,
        )
        return output if return_dict else output.to_tuple()


class MobileViTForSemanticSegmentation(PreTrainedModel):
    """The network with a DeepLabV3 head (transformers ``MobileViTForSemanticSegmentation``).

    Parameters
    ----------
    config, weights, precision, engine, workers
        See :class:`PreTrainedModel`.
    """

    head = "segmentation"

    def _expected_parameters(self) -> Shapes:
        if not self.config.num_labels:
            raise ConfigError("config: num_labels must be at least 1 for segmentation, found 0", "config-value")
        return super()._expected_parameters()

    def forward(self, scope: Scope, x: Array) -> tuple[Array, tuple[Array, ...]]:
        return network.semantic_segmentation(scope, x, self.config)

    def __call__(
        self,
        pixel_values: Array | None = None,
        labels: NDArray[Any] | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> Any:
        """Run the network.

        Parameters
        ----------
        pixel_values : (N, num_channels, H, W) float array
            BGR in 0..1. Any height and width.
        labels : (N, H', W') integer array, optional
            Adds the loss: the logits are resized to H' x W'. Pixels labelled
            ``config.semantic_loss_ignore_index`` do not count.
        output_hidden_states, return_dict : bool, optional
            The config's values when None.

        Returns
        -------
        SemanticSegmenterOutput
            Or, with ``return_dict=False``, the tuple of its fields that are not None.

        Raises
        ------
        ShapeError
            If `pixel_values` or `labels` do not fit.
        ConfigError
            If labels are given to a network with one label.
        """
        output_hidden_states, return_dict = self._wants(output_hidden_states, return_dict)
        if labels is not None and self.config.num_labels == 1:
            raise ConfigError("the segmentation loss needs num_labels above 1, found 1", "config-value")
        logits, hidden_states = self._logits(self.check_pixel_values(pixel_values), output_hidden_states)
        output = SemanticSegmenterOutput(
            loss=None if labels is None else segmentation_loss(logits, labels, self.config),
            logits=logits,
            hidden_states=hidden_states if output_hidden_states else None,
        )
        return output if return_dict else output.to_tuple()


def _read_checkpoint(
    name_or_folder: str | os.PathLike[str], arguments: HubArguments
) -> tuple[MobileViTConfig, dict[str, NDArray[Any]]]:
    from npmobilevit.checkpoints import read_model  # not needed to run a network

    contents = read_model(name_or_folder, **arguments)
    return contents.config, contents.weights


def classification_loss(logits: Array, labels: NDArray[Any], config: MobileViTConfig) -> float:
    """Loss of the config's problem type (transformers ``ForSequenceClassificationLoss``)."""
    labels = np.asarray(labels)
    problem_type = config.problem_type
    if problem_type is None:
        integers = labels.dtype.kind in "iu"
        single = "single_label_classification" if integers and config.num_labels > 1 else "multi_label_classification"
        problem_type = "regression" if config.num_labels == 1 else single
    if problem_type == "regression":
        if config.num_labels == 1:
            return ops.mean_squared_error(logits.squeeze(), labels.squeeze())
        return ops.mean_squared_error(logits, labels)
    if problem_type == "single_label_classification":
        return ops.cross_entropy(logits, labels.reshape(-1))
    return ops.binary_cross_entropy_with_logits(logits, labels)


def segmentation_loss(logits: Array, labels: NDArray[Any], config: MobileViTConfig) -> float:
    """Cross entropy of the logits resized to the label maps (N, H', W')."""
    labels = np.asarray(labels)
    if labels.ndim != 3:
        raise ShapeError(f"labels must have shape (N, H, W), found {labels.shape}", "labels-shape")
    resized = ops.resize_bilinear(logits, (labels.shape[1], labels.shape[2]))
    return ops.cross_entropy(resized, labels, ignore_index=config.semantic_loss_ignore_index)


def check_names_and_shapes(expected: Shapes, tensors: Mapping[str, NDArray[Any]], *, optional: Shapes) -> None:
    """Raise WeightsError listing all missing, unexpected and wrongly shaped tensors, before any arithmetic."""
    known = expected | optional
    missing = [name for name in expected if name not in tensors]
    unexpected = [repr(name)[1:-1][:120] for name in tensors if name not in known]
    misshaped = [
        f"{name}: expected {shape}, found {np.shape(tensors[name])}"
        for name, shape in known.items()
        if name in tensors and np.shape(tensors[name]) != shape
    ]
    kinds = {"missing": missing, "unexpected": unexpected, "wrongly shaped": misshaped}
    if not any(kinds.values()):
        return
    lines = [f"the weights do not belong to the config, which asks for {len(expected)} tensors"]
    for kind, problems in kinds.items():
        if problems:
            more = f" and {len(problems) - LISTED_PROBLEMS} more" if len(problems) > LISTED_PROBLEMS else ""
            lines.append(f"{len(problems)} {kind}: {'; '.join(problems[:LISTED_PROBLEMS])}{more}")
    lines.append("check that config and weights are of the same checkpoint, variant and task")
    raise WeightsError(". ".join(lines), "weights-names")


def _as_array(name: str, value: Any, error: type[ShapeError | WeightsError]) -> NDArray[Any]:
    if isinstance(value, np.ma.MaskedArray):
        raise error(f"{name} is a masked array, and the mask would be lost; use .filled(value)", "array-type")
    try:
        return np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as cause:  # ragged lists; tensors of a framework that do not convert
        raise error(f"{name} cannot be read as an array: {cause}", "array-type") from cause


def _counter(name: str, value: Any) -> NDArray[np.int64]:
    value = np.asarray(value)
    if value.dtype.kind not in "iu":
        raise WeightsError(f"{name} must be an integer, found {value.dtype}", "weights-dtype")
    return np.array(value, np.int64)


def _parameter(name: str, value: NDArray[Any], dtype: np.dtype[Any]) -> Array:
    """Return a contiguous copy in the model's dtype, or raise WeightsError for values that cannot be weights."""
    value = _as_array(name, value, WeightsError)
    if value.dtype.kind != "f":
        raise WeightsError(f"{name} must hold floats, found {value.dtype}", "weights-dtype")
    with np.errstate(over="ignore"):  # becomes inf, which is refused below
        converted = np.array(value, dtype, order="C")
    if not np.isfinite(converted).all():
        raise WeightsError(f"{name} holds NaN, infinity or values beyond {dtype}", "weights-not-finite")
    if name.endswith(".running_var") and (converted < 0).any():
        raise WeightsError(f"{name} is a variance and holds {converted.min()}, below zero", "weights-negative-variance")
    return converted
