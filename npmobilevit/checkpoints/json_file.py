"""config.json and preprocessor_config.json: strict JSON from files that anyone may have written."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from npmobilevit.checkpoints.files import read_at_once, regular_file_size, shown, write_atomically
from npmobilevit.errors import ConfigError

MAX_JSON_BYTES = 1_000_000
"""Largest file that is read. The published config.json with all ImageNet labels has 70 kB."""

_BYTE_ORDER_MARKS = {b"\xef\xbb\xbf": "UTF-8 with a byte order mark", b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}


def write_json_object(path: Path, value: Mapping[str, Any]) -> None:
    """Write `value` to `path` as `read_json_object` reads it, with sorted keys as transformers does.

    Raises
    ------
    CheckpointError
        ``checkpoint-unwritable``.
    """
    text = json.dumps(value, indent=2, sort_keys=True, allow_nan=False)
    write_atomically(path, f"{text}\n".encode())


def read_json_object(path: Path) -> dict[str, Any]:
    """Read the JSON object in the file at `path`.

    Stricter than `json.load`, which accepts NaN, Infinity, numbers that overflow to infinity, UTF-16, and
    repeated keys (the last one wins).

    Parameters
    ----------
    path : Path
        A regular file of at most `MAX_JSON_BYTES` bytes, in UTF-8 without a byte order mark.

    Returns
    -------
    dict
        The object, with the keys in the file's order.

    Raises
    ------
    ConfigError
        If the contents are not such an object; the message names the file.
    CheckpointError
        If the file cannot be read.
    """
    size = regular_file_size(path)
    if size > MAX_JSON_BYTES:
        raise ConfigError(f"{path}: {size} bytes, but at most {MAX_JSON_BYTES} are read", "json-too-large")
    value = _parse(_decode(read_at_once(path), path), path)
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: a JSON object {{...}} is needed, not {type(value).__name__}", "json-not-an-object")
    return value


def _decode(data: bytes, path: Path) -> str:
    for mark, encoding in _BYTE_ORDER_MARKS.items():
        if data.startswith(mark):
            raise ConfigError(f"{path}: {encoding}; save it as plain UTF-8", "json-encoding")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 (byte {error.start}); save it as UTF-8", "json-encoding") from error


def _parse(text: str, path: Path) -> Any:
    def refuse_constant(name: str) -> NoReturn:
        raise ConfigError(f"{path}: {name} is not a JSON number", "json-not-finite")

    def finite_float(digits: str) -> float:
        value = float(digits)
        if not math.isfinite(value):
            raise ConfigError(f"{path}: the number {digits[:40]} is too large", "json-not-finite")
        return value

    def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        repeated = [key for key, count in Counter(key for key, _ in pairs).items() if count > 1]
        if repeated:
            raise ConfigError(f"{path}: repeated keys {shown(repeated)}", "json-duplicate-key")
        return dict(pairs)

    try:
        return json.loads(text, parse_constant=refuse_constant, parse_float=finite_float, object_pairs_hook=unique_keys)
    except ConfigError:
        raise
    except json.JSONDecodeError as error:
        raise ConfigError(f"{path}: not JSON: {error}", "json-syntax") from error
    except RecursionError as error:
        raise ConfigError(f"{path}: nested too deeply", "json-too-deep") from error
    except ValueError as error:  # Python's limit on the digits of an integer
        raise ConfigError(f"{path}: an integer has too many digits", "json-huge-integer") from error
