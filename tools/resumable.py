"""Long studies that can be stopped: what is finished stands in a file, one JSON object a line."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any, TypeVar

Json = dict[str, Any]
T = TypeVar("T")


def read_state(path: Path, key: str) -> dict[str, Json]:
    """What was finished before, by its `key`; a last line that was cut off is not."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
    results = [json.loads(line) for line in lines if line.endswith("\n")]
    return {result[key]: result for result in results}


def perform_all(perform: Callable[[T], Json], todo: Sequence[T], workers: int, state: Path) -> Iterator[Json]:
    """Perform each in a process of its own, and append its result to the state file when it is there."""
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"))
    try:
        with state.open("a", encoding="utf-8") as file:
            for future in as_completed([pool.submit(perform, item) for item in todo]):
                result = future.result()
                file.write(json.dumps(result, allow_nan=False) + "\n")
                file.flush()
                yield result
    finally:
        pool.shutdown(cancel_futures=True)
