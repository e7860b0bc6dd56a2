"""Bundles: what a network put out at its taps, frozen in one file that anyone can read.

The file is described in reference/bundles.md, for readers who have none of our code.
"""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import json
import math
import os
import platform
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from npmobilevit.checkpoints import StoredTensors, find_checkpoint, read_stored, safetensors_bytes, shown
from npmobilevit.errors import BundleError, CheckpointError, ConfigError, WeightsError
from npmobilevit.files import file_sha256, write_atomically
from npmobilevit.models import PreTrainedModel
from npmobilevit.scope import is_extra

if TYPE_CHECKING:
    from npmobilevit.pipeline import Pipeline

FORMAT = "npmobilevit-bundle/1"  # later versions of the format only add keys
PIXELS = "pixel_values"
FINGERPRINT_VALUES = 64

Array: TypeAlias = NDArray[Any]

# Selections of taps, as patterns of their names without "mobilevit.".
_STAGE = r"pixel_values|conv_stem|encoder\.layer\.\d|conv_1x1_exp|segmentation_head\.aspp|logits"
_OF_MOBILEVIT_BLOCK = r"downsampling_layer|conv_kxk|conv_1x1|transformer\.layer\.\d|layernorm|conv_projection|fusion"
_BLOCK = (
    rf"{_STAGE}|encoder\.layer\.\d\.(layer\.\d|{_OF_MOBILEVIT_BLOCK})"
    r"|(segmentation_head\.)?classifier|segmentation_head\.aspp\.(convs\.\d|project)"
)
SELECTIONS: Mapping[str, re.Pattern[str]] = MappingProxyType(
    {"blocks": re.compile(_BLOCK), "stages": re.compile(_STAGE)}
)

# Parts of a transformer layer in the order in which transformers makes them.
_PARTS_OF_LAYER = ("attention", "intermediate", "output", "layernorm_before", "layernorm_after")

# Entries of the metadata that are JSON, with what they hold.
_STRUCTURED: Mapping[str, type] = MappingProxyType(
    {"taps": list, "extra_taps": list}
    | dict.fromkeys(("versions", "config", "sha256", "aliases", "fingerprints", "bounds"), dict)
)
_OPTIONAL = ("extra_taps", "bounds", "model", "checkpoint_sha256", "precision")
_TEXTS = ("format", "producer", "model", "class", "weights_sha256", "checkpoint_sha256", "input_sha256", "dtype",
          "precision")  # fmt: skip


class Fingerprint(NamedTuple):
    """What is left of a tap that was too big to keep.

    Attributes
    ----------
    shape : tuple of int
    dtype : str
    sha256 : str
        See `tensor_sha256`.
    minimum, maximum, mean, rms : float
        Over all elements; `rms` is the root of the mean square.
    values : ndarray
        Those at `fingerprint_indices`.
    """

    shape: tuple[int, ...]
    dtype: str
    sha256: str
    minimum: float
    maximum: float
    mean: float
    rms: float
    values: Array


class Bound(NamedTuple):
    """What the rounding errors of a tap are made of; see `npmobilevit.validation.bounds.Terms`."""

    n: int
    S: NDArray[np.float32]
    L: NDArray[np.float32]


class Bundle(Mapping[str, Array]):
    """A recording: arrays by tap, in the order of the forward pass. :func:`record` and :meth:`load` make it.

    Attributes
    ----------
    facts : mapping
        The metadata of the file; see reference/bundles.md.
    fingerprints : mapping of str to Fingerprint
        The taps that were too big to keep, in the order of the forward pass.
    bounds : mapping of str to Bound
        Where they were recorded.
    """

    def __init__(
        self,
        tensors: Mapping[str, Array],
        facts: Mapping[str, Any],
        fingerprints: Mapping[str, Fingerprint],
        bounds: Mapping[str, Bound],
    ) -> None:
        self._tensors = tensors
        self.facts = MappingProxyType(facts)
        self.fingerprints = MappingProxyType(fingerprints)
        self.bounds = MappingProxyType(bounds)

    __eq__ = object.__eq__  # arrays are not to be compared by chance
    __hash__ = object.__hash__

    def __getitem__(self, name: str) -> Array:
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def __repr__(self) -> str:
        return f"<Bundle of {self.facts['class']}: {len(self)} taps, {self.facts['dtype']}>"

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the bundle to a safetensors file, which is replaced whole or not at all.

        The same recording gives the same bytes.

        Raises
        ------
        BundleError
            If it cannot be written.
        """
        stored = {name: array for name, array in self._tensors.items() if name not in self.facts["aliases"]}
        stored |= {f"fingerprint.{name}": found.values for name, found in self.fingerprints.items()}
        stored |= {f"bounds.{name}.S": bound.S for name, bound in self.bounds.items()}
        stored |= {f"bounds.{name}.L": bound.L for name, bound in self.bounds.items()}
        metadata = {k: _compact(v) if k in _STRUCTURED else v for k, v in self.facts.items()}
        try:
            write_atomically(path_of(path), safetensors_bytes(stored, metadata))
        except (OSError, ValueError) as error:
            if isinstance(error, BundleError):
                raise
            raise BundleError(f"{path} cannot be written: {error}", "bundle-unwritable") from error

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read a bundle.

        Raises
        ------
        BundleError
            If the file cannot be read, is damaged, or is no bundle.
        """
        stored = read_tensors(path)
        if not cls.is_one(stored):
            raise BundleError(f"{path} is no bundle: its metadata lack format {FORMAT}", "bundle-format")
        return cls.from_stored(stored, path)

    @staticmethod
    def is_one(stored: StoredTensors) -> bool:
        """Whether a safetensors file says that it is a bundle."""
        return stored.metadata.get("format") == FORMAT

    @classmethod
    def from_stored(cls, stored: StoredTensors, path: str | os.PathLike[str]) -> Self:
        """Make the bundle of a safetensors file.

        Parameters
        ----------
        stored : StoredTensors
        path : path
            For messages.

        Returns
        -------
        Bundle

        Raises
        ------
        BundleError
            If metadata and tensors do not belong together.
        """
        try:
            facts = _parsed_facts(stored.metadata)
            tensors = _kept(stored, facts)
            fingerprints = {n: _read_fingerprint(stored, n, facts) for n in facts["taps"] if n in facts["fingerprints"]}
            bounds = {n: _read_bound(stored, n, facts) for n in facts["taps"] if n in facts.get("bounds", {})}
            _refuse_strangers(stored, tensors, facts)
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            reason = f"lacks {error}" if isinstance(error, KeyError) else str(error)[:300]
            raise BundleError(f"{path} is a damaged bundle: {reason}; record it again", "bundle-damaged") from error
        return cls(tensors, facts, fingerprints, bounds)


def producer(bundle: Bundle) -> dict[str, str]:
    """Who made a bundle, and with what versions."""
    return {"producer": bundle.facts["producer"], **bundle.facts["versions"]}


# Files -------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def as_bundle_errors() -> Iterator[None]:
    """Turn errors of the readers of checkpoints, which candidates share, into BundleError."""
    try:
        yield
    except (WeightsError, CheckpointError, ConfigError) as error:
        code = error.code.removeprefix("weights-").removeprefix("checkpoint-")
        raise BundleError(str(error), f"bundle-{code}") from error


def path_of(source: str | os.PathLike[str]) -> Path:
    """The path with ~ expanded; raise BundleError if it is none."""
    try:
        return Path(source).expanduser()
    except (TypeError, RuntimeError) as error:  # ~ of a user that does not exist
        raise BundleError(f"a path is needed, not {repr(source)[:80]}", "bundle-path") from error


def read_tensors(path: str | os.PathLike[str]) -> StoredTensors:
    """The tensors of a safetensors file, of any type and value.

    Raises
    ------
    BundleError
    """
    with as_bundle_errors():
        return read_stored(path_of(path), advice="write it again")


def _compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), allow_nan=False)


def _parsed_facts(metadata: Mapping[str, str]) -> dict[str, Any]:
    """The metadata with their JSON parsed; raise ValueError or KeyError if they are not those of a bundle."""

    def refuse(constant: str) -> NoReturn:
        raise ValueError(f"{constant} is no JSON")

    facts: dict[str, Any] = dict(metadata)
    for key, kind in _STRUCTURED.items():
        if key not in metadata and key in _OPTIONAL:
            continue
        facts[key] = json.loads(metadata[key], parse_constant=refuse)
        if not isinstance(facts[key], kind):
            raise ValueError(f"{key} has to be a JSON {kind.__name__}")
    missing = [key for key in _TEXTS if key not in facts and key not in _OPTIONAL]
    if missing:
        raise ValueError(f"it lacks {shown(missing)}")
    _check_texts([*facts["taps"], *facts.get("extra_taps", [])], "taps")
    for key in ("versions", "sha256", "aliases"):
        _check_texts(facts[key].values(), key)
    if len(set(facts["taps"])) < len(facts["taps"]) or PIXELS not in facts["taps"]:
        raise ValueError(f"taps have to be different names, {PIXELS} among them")
    if any(type(n) is not int or n < 0 for n in facts.get("bounds", {}).values()):
        raise ValueError("bounds have to be integers from 0")
    return facts


def _check_texts(values: Iterable[object], key: str) -> None:
    if not all(isinstance(value, str) for value in values):
        raise ValueError(f"{key} has to hold text")


def _kept(stored: StoredTensors, facts: Mapping[str, Any]) -> dict[str, Array]:
    """The taps that are not fingerprints, of the bits that their hashes tell."""
    kept = [name for name in facts["taps"] if name not in facts["fingerprints"]]
    sources = {name: facts["aliases"].get(name, name) for name in kept}
    arrays = {source: stored[source] for source in dict.fromkeys(sources.values())}
    hashes = {source: tensor_sha256(array) for source, array in arrays.items()}
    changed = [name for name in kept if hashes[sources[name]] != facts["sha256"][name]]
    if changed:
        raise ValueError(f"{shown(changed)} are not what their sha256 say")
    return {name: arrays[source] for name, source in sources.items()}


def _read_fingerprint(stored: StoredTensors, name: str, facts: Mapping[str, Any]) -> Fingerprint:
    entry, values = facts["fingerprints"][name], stored[f"fingerprint.{name}"]
    shape, dtype = entry["shape"], entry["dtype"]
    minimum, maximum, mean, rms = (float(entry[key]) for key in ("minimum", "maximum", "mean", "rms"))
    good = isinstance(shape, list) and all(type(n) is int and 0 < n < 2**40 for n in shape) and len(shape) <= 32
    if not good or values.dtype.name != dtype or values.shape != fingerprint_indices(math.prod(shape)).shape:
        raise ValueError(f"the fingerprint of {shown([name])}")
    return Fingerprint(tuple(shape), dtype, str(entry["sha256"]), minimum, maximum, mean, rms, values)


def _read_bound(stored: StoredTensors, name: str, facts: Mapping[str, Any]) -> Bound:
    bound = Bound(facts["bounds"][name], stored[f"bounds.{name}.S"], stored[f"bounds.{name}.L"])
    if not bound.S.dtype == bound.L.dtype == np.float32:
        raise ValueError(f"the bounds of {shown([name])} have to be float32")
    return bound


def _refuse_strangers(stored: StoredTensors, tensors: Mapping[str, Array], facts: Mapping[str, Any]) -> None:
    known = {*tensors, *(f"fingerprint.{name}" for name in facts["fingerprints"])}
    known |= {f"bounds.{name}.{letter}" for name in facts.get("bounds", {}) for letter in "SL"}
    strangers = [name for name in stored if name not in known]
    if strangers:
        raise ValueError(f"it holds {shown(strangers)}, which taps does not name")


# Hashes ------------------------------------------------------------------------------------------------------------


def tensor_sha256(array: Array) -> str:
    """SHA-256 of an array's little-endian bytes in C order; floats of any width are converted to float64 first."""
    dtype = np.dtype(np.float64) if array.dtype.kind == "f" else array.dtype
    flat = np.ascontiguousarray(array).reshape(-1)
    digest = hashlib.sha256()
    for start in range(0, flat.size, 2**20):  # no second copy of a large array
        digest.update(flat[start : start + 2**20].astype(dtype.newbyteorder("<"), copy=False).tobytes())
    return digest.hexdigest()


def weights_sha256(model: PreTrainedModel) -> str:
    """SHA-256 of the hexadecimal hashes of all parameters, one behind the other, as transformers' state dict has them.

    The same that the golden files state.
    """
    parameters = model.parameters()
    hashes = (tensor_sha256(parameters[name]) for name in in_transformers_order(parameters))
    return hashlib.sha256("".join(hashes).encode()).hexdigest()


def in_transformers_order(names: Iterable[str]) -> list[str]:
    """Names of parameters as transformers' state dict has them; ours follow the forward pass inside its layers, too."""
    begun: dict[str, int] = {}  # position of each transformer layer
    keys = []
    for position, name in enumerate(names):
        layer = re.match(r"(.*\btransformer\.layer\.\d+)\.(\w+)", name)
        place = (begun.setdefault(layer[1], position), _PARTS_OF_LAYER.index(layer[2])) if layer else (position, 0)
        keys.append((*place, position, name))
    return [name for *_, name in sorted(keys)]


def fingerprint_indices(size: int) -> NDArray[np.int64]:
    """Positions, in C order, of the elements that stand for an array of `size` of them: 64, or all if there are fewer.

    Evenly spaced, the first and the last among them.
    """
    count = min(FINGERPRINT_VALUES, size)
    return np.array([k * (size - 1) // max(count - 1, 1) for k in range(count)], np.int64)


def fingerprint(array: Array) -> Fingerprint:
    """What is kept of an array that is too big."""
    return Fingerprint(
        array.shape,
        array.dtype.name,
        tensor_sha256(array),
        float(array.min()),
        float(array.max()),
        float(array.mean(dtype=np.float64)),
        math.sqrt(float(np.square(array, dtype=np.float64).mean())),
        array.reshape(-1)[fingerprint_indices(array.size)],
    )


# Recording ---------------------------------------------------------------------------------------------------------


def record(
    model: Pipeline | PreTrainedModel | str | os.PathLike[str],
    pixel_values: Array,
    *,
    taps: str | Iterable[str] = "all",
    with_bounds: bool = False,
    max_bytes_per_tap: int | None = None,
) -> Bundle:
    """Run a network and record what it puts out.

    Parameters
    ----------
    model : Pipeline, model, name or path
        Values have its precision: for reference values load it with ``precision="float64"``.
    pixel_values : (N, num_channels, H, W) float array
        Always among the taps.
    taps : {"all", "blocks", "stages"} or iterable of str
        "stages" are the stem, the five encoder layers and what follows; "blocks" also the blocks that these consist
        of. See :meth:`npmobilevit.MobileViTModel.taps` for names; extras have to be named.
    with_bounds : bool
        Also record what tolerances are made of, for readers without our code.
    max_bytes_per_tap : int, optional
        Of larger taps only fingerprints are kept.

    Returns
    -------
    Bundle

    Raises
    ------
    ConfigError
        If there is no tap of a name, or an option is out of its range.
    ShapeError
        If `pixel_values` do not fit.
    BundleError
        If the network puts out NaN or infinity.
    CheckpointError, WeightsError
        If a model that is named cannot be had.
    """
    if max_bytes_per_tap is not None and (type(max_bytes_per_tap) is not int or max_bytes_per_tap < 0):
        raise ConfigError(f"max_bytes_per_tap must be an integer from 0, found {max_bytes_per_tap!r}", "max-bytes")
    network, origin = _network(model)
    pixels = network.check_pixel_values(pixel_values)
    names = taps if isinstance(taps, str) and taps in ("all", *SELECTIONS) else _names(taps)
    made = _Recorder(_wanted(names), max_bytes_per_tap)
    made.add(PIXELS, pixels)
    network.forward(network.scope(made.add), pixels)
    if not isinstance(names, str):
        _refuse_unknown(names, list(made.first))
    bounds = _bounds(network, pixels, made) if with_bounds else {}
    return Bundle(made.tensors, _facts(network, origin, made, bounds), made.fingerprints, bounds)


class _Recorder:
    """The listener of a forward pass, and what it kept."""

    def __init__(self, wanted: Callable[[str], bool], limit: int | None) -> None:
        self._wanted, self._limit = wanted, limit
        self._equal: dict[tuple[str, tuple[int, ...], str], str] = {}  # the tap with this type, shape and hash
        self.first: dict[str, str] = {}  # every tap, and the first that put out the very same array
        self._last: tuple[Array | None, str] = (None, "")
        self.tensors: dict[str, Array] = {}
        self.hashes: dict[str, str] = {}
        self.aliases: dict[str, str] = {}
        self.fingerprints: dict[str, Fingerprint] = {}

    def add(self, name: str, x: Array) -> None:
        self.first[name] = self._last[1] if x is self._last[0] else name
        self._last = (x, self.first[name])
        if name != PIXELS and not self._wanted(name):
            return
        if not np.isfinite(x).all():
            raise BundleError(
                f"{name} holds NaN or infinity: the values grow beyond {x.dtype}, or the weights are damaged. A "
                "recording has to be of a network that works",
                "bundle-not-finite",
            )
        if self._limit is not None and x.nbytes > self._limit and name != PIXELS:
            self.fingerprints[name] = fingerprint(x)
            self.hashes[name] = self.fingerprints[name].sha256
            return
        self.hashes[name] = tensor_sha256(x)
        stored = self._equal.setdefault((x.dtype.name, x.shape, self.hashes[name]), name)
        if stored != name:
            self.aliases[name] = stored
        self.tensors[name] = x if stored == name else self.tensors[stored]


def selected(names: Iterable[str], selection: str) -> list[str]:
    """The names, in their order, that belong to "all" (no extras), "blocks" or "stages"."""
    return list(filter(_wanted(selection), names))


def _wanted(taps: str | frozenset[str]) -> Callable[[str], bool]:
    if not isinstance(taps, str):
        return taps.__contains__
    if taps == "all":
        return lambda name: bool(name) and not is_extra(name)
    return lambda name: SELECTIONS[taps].fullmatch(name.removeprefix("mobilevit.")) is not None


def _names(taps: object) -> frozenset[str]:
    names = [taps] if isinstance(taps, str) else list(taps) if isinstance(taps, Iterable) else [None]
    if not all(isinstance(name, str) for name in names):
        raise ConfigError(f"taps must be all, blocks, stages or names of taps, found {repr(taps)[:200]}", "taps")
    return frozenset(names)


def _refuse_unknown(names: frozenset[str], seen: list[str]) -> None:
    unknown = sorted(names - set(seen))
    if unknown:
        near = difflib.get_close_matches(unknown[0], seen, n=3)
        advice = f"did you mean {' or '.join(map(repr, near))}?" if near else "see `npmobilevit taps`"
        raise ConfigError(f"the network has no tap {shown(unknown)}; {advice}", "tap-unknown")


def _network(model: Any) -> tuple[PreTrainedModel, dict[str, str]]:
    """The network, and what is known of where it came from."""
    from npmobilevit.pipeline import Pipeline, load  # brings Pillow

    if isinstance(model, PreTrainedModel):
        return model, {}
    pipeline = model if isinstance(model, Pipeline) else load(model)
    try:
        found = find_checkpoint(pipeline.name, revision=pipeline.revision, local_files_only=True)
        origin = {"checkpoint_sha256": file_sha256(found.weights_path)}
    except OSError:  # CheckpointError is one: it was made by hand, or its file is gone
        origin = {}
    return pipeline.network, {"model": pipeline.name, **origin}


def _bounds(network: PreTrainedModel, pixels: Array, made: _Recorder) -> dict[str, Bound]:
    """Those of the arrays that are kept, each under the name that it is stored under."""
    from npmobilevit.validation.replay import recorded_terms

    def narrow(values: Array) -> NDArray[np.float32]:
        return np.asarray(values, np.float32)

    stored_as = {made.first[name]: name for name in made.tensors if name not in made.aliases}
    terms = ((stored_as[name], found) for name, _, found in recorded_terms(network, pixels) if name in stored_as)
    return {name: Bound(int(found.n), narrow(found.S), narrow(found.L)) for name, found in terms}


def _facts(
    network: PreTrainedModel, origin: Mapping[str, str], made: _Recorder, bounds: Mapping[str, Bound]
) -> dict[str, Any]:
    names = [name for name in made.first if name in made.hashes]
    extra = list(filter(is_extra, names))
    versions = {"npmobilevit": version("npmobilevit"), "numpy": np.__version__, "python": platform.python_version()}
    facts: dict[str, Any] = {
        "format": FORMAT,
        "producer": "npmobilevit",
        "versions": versions,
        **origin,
        "class": type(network).__name__,
        "config": network.config.to_dict(),
        "dtype": network.dtype.name,
        "precision": network.precision,
        "weights_sha256": weights_sha256(network),
        "input_sha256": made.hashes[PIXELS],
        "taps": names,
        "sha256": made.hashes,
        "aliases": made.aliases,
        "fingerprints": {name: _described(found) for name, found in made.fingerprints.items()},
    }
    facts |= {"extra_taps": extra} if extra else {}
    return facts | ({"bounds": {name: bound.n for name, bound in bounds.items()}} if bounds else {})


def _described(found: Fingerprint) -> dict[str, Any]:
    return {key: value for key, value in found._asdict().items() if key != "values"} | {"shape": list(found.shape)}
