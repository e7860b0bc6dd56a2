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

Form: TypeAlias = Literal["npy", "raw", "hex"]
Layout: TypeAlias = Literal["NCHW", "NHWC"]
Dtype: TypeAlias = Literal["float64", "float32", "float16", "bfloat16"]

Array: TypeAlias = NDArray[Any]


def export(
    bundle: Bundle,
    folder: str | os.PathLike[str],
    *,
    form: Form = "npy",
    layout: Layout = "NCHW",
    dtype: Dtype | None = None,
    force: bool = False,
) -> list[Path]:
    """Write each tap of a bundle into a file, and a manifest.json that describes them.

    Parameters
    ----------
    bundle : Bundle
    folder : path
        Made if need be. Each file is named as its tap, and written whole or not at all; the manifest comes last.
    form : {"npy", "raw", "hex"}
        Raw files hold little-endian numbers in C order. Hexadecimal ones hold a word a line, most significant digit
        first.
    layout : {"NCHW", "NHWC"}
        Of values with four axes.
    dtype : {"float64", "float32", "float16", "bfloat16"}, optional
        Rounded to, to nearest and halves to even; None: as recorded. An .npy file holds the bits of a bfloat16 number
        as uint16.
    force : bool
        Write into a folder that is not empty.

    Returns
    -------
    list of Path
        The files, the manifest last.

    Raises
    ------
    ConfigError
        If an option is none of the above.
    BundleError
        If a value is beyond `dtype`, or a file cannot be written.
    """
    for name, value, allowed in (("form", form, Form), ("layout", layout, Layout), ("dtype", dtype, Dtype)):
        if value not in get_args(allowed) and not (name == "dtype" and value is None):
            raise ConfigError(f"{name} must be one of {', '.join(get_args(allowed))}, found {value!r}", name)
    target = path_of(folder)
    try:
        if target.exists() and any(target.iterdir()) and not force:
            raise BundleError(f"{target} is not empty; name another folder, or allow it with force", "bundle-exists")
        return _write(bundle, target, form, layout, dtype)
    except (OSError, ValueError) as error:  # BundleError is a ValueError
        if isinstance(error, BundleError):
            raise
        raise BundleError(f"{target} cannot be written: {error}", "bundle-unwritable") from error


def _write(bundle: Bundle, target: Path, form: Form, layout: Layout, dtype: Dtype | None) -> list[Path]:
    odd = [name for name in bundle if not re.fullmatch(r"[\w-][\w.-]*", name)]
    if odd:
        raise BundleError(f"the tap {odd[0]!r} has no name that a file can have", "bundle-name")
    entries = {}
    for name, array in bundle.items():
        stored_as = dtype or array.dtype.name
        stored = _rounded(_laid_out(array, layout), stored_as, name)
        entry = {"file": f"{name}.{form}", "dtype": stored_as, "shape": list(stored.shape)}
        entries[name] = entry | ({"layout": layout} if stored.ndim == 4 else {})
        write_atomically(target / f"{name}.{form}", _ENCODERS[form](stored))
    manifest = {"producer": producer(bundle), "taps": entries}
    write_atomically(target / MANIFEST, f"{json.dumps(manifest, indent=1)}\n".encode())
    return [target / f"{name}.{form}" for name in entries] + [target / MANIFEST]


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
    {"npy": _npy, "raw": lambda array: array.tobytes(), "hex": _hex}
)
