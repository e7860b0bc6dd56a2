"""A bundle as plain files for ports without a safetensors reader: .npy, raw bytes or hexadecimal text."""

from __future__ import annotations

import io
import json
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from npmobilevit.checkpoints import bfloat16_bits
from npmobilevit.errors import BundleError, ConfigError
from npmobilevit.files import write_atomically
from npmobilevit.validation.bundles import Bundle, path_of, producer
from npmobilevit.validation.candidates import MANIFEST

Form: TypeAlias = Literal["npy", "raw", "hex", "mem"]
Layout: TypeAlias = Literal["NCHW", "NHWC"]
Dtype: TypeAlias = Literal["float64", "float32", "float16", "bfloat16"]

Array: TypeAlias = NDArray[Any]

# Channels last is for maps N, C, H, W and for kernels O, I, H, W.
_OF_KERNELS: Mapping[Layout, str] = MappingProxyType({"NCHW": "OIHW", "NHWC": "OHWI"})


def export(
    bundle: Bundle,
    folder: str | os.PathLike[str],
    *,
    form: Form = "npy",
    layout: Layout = "NCHW",
    dtype: Dtype | None = None,
    force: bool = False,
    scales: Mapping[str, float] = MappingProxyType({}),
    parameters: Mapping[str, Array] = MappingProxyType({}),
) -> list[Path]:
    """Write each tap of a bundle into a file, and a manifest.json that describes them.

    Parameters
    ----------
    bundle : Bundle
    folder : path
        Made if need be. Each file is named as its tap, and written whole or not at all; the manifest comes last.
    form : {"npy", "raw", "hex", "mem"}
        Raw files hold little-endian numbers in C order. Hexadecimal ones hold a word a line, most significant digit
        first; with the suffix .mem they are what `$readmemh` of Verilog is used to.
    layout : {"NCHW", "NHWC"}
        Of values with four axes; of kernels, "OIHW" or "OHWI".
    dtype : {"float64", "float32", "float16", "bfloat16"}, optional
        Rounded to, to nearest and halves to even; None: as recorded. An .npy file holds the bits of a bfloat16 number
        as uint16. Integers stay as they are.
    force : bool
        Write into a folder that is not empty.
    scales : mapping of str to float
        What the words of integer taps and parameters are multiples of. (:mod:`npmobilevit.fixed_point` makes such
        words.)
    parameters : mapping of str to integer array
        Weights to write beside the taps; each has a scale.

    Returns
    -------
    list of Path
        The files, the manifest last.

    Raises
    ------
    ConfigError
        If an option is none of the above.
    BundleError
        If a value is beyond `dtype`, a parameter lacks its scale, or a file cannot be written.
    """
    for name, value, allowed in (("form", form, Form), ("layout", layout, Layout), ("dtype", dtype, Dtype)):
        if value not in get_args(allowed) and not (name == "dtype" and value is None):
            raise ConfigError(f"{name} must be one of {', '.join(get_args(allowed))}, found {value!r}", name)
    target = path_of(folder)
    require_empty(target, force=force)
    try:
        return _write(bundle, parameters, target, form, layout, dtype, scales)
    except (OSError, ValueError) as error:  # BundleError is a ValueError
        if isinstance(error, BundleError):
            raise
        raise BundleError(f"{target} cannot be written: {error}", "bundle-unwritable") from error


def require_empty(folder: Path, *, force: bool) -> None:
    """Raise BundleError if files are not to be written into a folder: it holds some already, or is none."""
    try:
        full = folder.exists() and any(folder.iterdir())
    except (OSError, ValueError) as error:
        raise BundleError(f"{folder} cannot be written: {error}", "bundle-unwritable") from error
    if full and not force:
        raise BundleError(f"{folder} is not empty; name another folder, or allow it with force", "bundle-exists")


def _write(
    bundle: Bundle,
    parameters: Mapping[str, Array],
    target: Path,
    form: Form,
    layout: Layout,
    dtype: Dtype | None,
    scales: Mapping[str, float],
) -> list[Path]:
    odd = [name for name in (*bundle, *parameters) if not re.fullmatch(r"[\w-][\w.-]*", name)]
    if odd:
        raise BundleError(f"the tap {odd[0]!r} has no name that a file can have", "bundle-name")
    lacking = [name for name in parameters if name not in scales]
    if lacking:
        raise BundleError(f"the parameter {lacking[0]} is without a scale", "bundle-scale")

    def write(name: str, array: Array, axes: str) -> dict[str, Any]:
        """Write one file; its entry in the manifest."""
        stored_as = dtype if dtype is not None and array.dtype.kind == "f" else array.dtype.name
        stored = _rounded(_laid_out(array, layout), stored_as, name)
        write_atomically(target / f"{name}.{form}", _ENCODERS[form](stored))
        entry = {"file": f"{name}.{form}", "dtype": stored_as, "shape": list(stored.shape)}
        entry |= {"layout": axes} if stored.ndim == 4 else {}
        return entry | ({"scale": scales[name]} if name in scales else {})

    taps = {name: write(name, array, layout) for name, array in bundle.items()}
    weights = {name: write(name, array, _OF_KERNELS[layout]) for name, array in parameters.items()}
    manifest = {"producer": producer(bundle), "taps": taps} | ({"parameters": weights} if weights else {})
    write_atomically(target / MANIFEST, f"{json.dumps(manifest, indent=1)}\n".encode())
    return [target / f"{name}.{form}" for name in (*taps, *weights)] + [target / MANIFEST]


def _laid_out(array: Array, layout: Layout) -> Array:
    return array.transpose(0, 2, 3, 1) if layout == "NHWC" and array.ndim == 4 else array


def _rounded(array: Array, dtype: str, name: str) -> Array:
    """Little-endian and in C order; bfloat16 as its bits."""
    with np.errstate(over="ignore"):  # becomes infinity, which is refused
        rounded = bfloat16_bits(array) if dtype == "bfloat16" else array.astype(dtype)
    finite = (rounded & 0x7F80) != 0x7F80 if dtype == "bfloat16" else np.isfinite(rounded)
    if not finite.all():
        raise BundleError(f"{name} holds values beyond {dtype}; choose another dtype", "bundle-dtype")
    return np.asarray(rounded, rounded.dtype.newbyteorder("<"), order="C")


def _npy(array: Array) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, array, allow_pickle=False)
    return file.getvalue()


def _hex(array: Array) -> bytes:
    big_endian = array.astype(array.dtype.newbyteorder(">")).tobytes()
    return f"{big_endian.hex(chr(10), array.itemsize).upper()}\n".encode()


_ENCODERS: Mapping[str, Callable[[Array], bytes]] = MappingProxyType(
    {"npy": _npy, "raw": lambda array: array.tobytes(), "hex": _hex, "mem": _hex}
)
