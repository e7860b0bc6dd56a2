"""What is timed against what: the networks, the contestants, and the cases in which they meet. The standard library.

A contestant is a program of worker.py with its options. All of a case run in turn on the same weights and pixels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

VARIANTS: dict[str, dict[str, Any]] = {
    "xx-small": {
        "hidden_sizes": [64, 80, 96],
        "neck_hidden_sizes": [16, 16, 24, 48, 64, 80, 320],
        "expand_ratio": 2.0,
    },
    "x-small": {"hidden_sizes": [96, 120, 144], "neck_hidden_sizes": [16, 32, 48, 64, 80, 96, 384]},
    "small": {},
}
SEGMENTER = "deeplabv3-xx-small"
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


class Network(NamedTuple):
    """A network with seeded weights, as large as the published one."""

    task: str
    settings: Mapping[str, Any]  # of its config


NETWORKS = {name: Network("classification", {**v, "num_labels": 1000}) for name, v in VARIANTS.items()}
NETWORKS[SEGMENTER] = Network("segmentation", {**VARIANTS["xx-small"], "num_labels": 21, "output_stride": 16})


class Contestant(NamedTuple):
    """A way to run a network."""

    title: str
    program: str  # of worker.py
    options: Mapping[str, Any]
    threads: int | None  # of BLAS and OpenMP; None: those that the program takes by itself
    needs_onnx: bool = False


def engine(title: str, workers: str, expected: str, threads: int | None = None) -> Contestant:
    return Contestant(f"engine, {title}", "engine", {"workers": workers, "expected": expected}, threads)


CONTESTANTS = {
    "eager-1": Contestant("PyTorch eager, 1 thread", "torch", {"threads": 1}, 1),
    "eager-2": Contestant("PyTorch eager, 2 threads", "torch", {"threads": 2}, 2),
    "compiled-2": Contestant("torch.compile, 2 threads", "torch", {"threads": 2, "compiled": True}, 2),
    "ort-1": Contestant("ONNX Runtime, 1 thread", "onnxruntime", {"threads": 1}, 1, needs_onnx=True),
    "ort-2": Contestant("ONNX Runtime, 2 threads", "onnxruntime", {"threads": 2}, 2, needs_onnx=True),
    "evaluator": Contestant("ONNX reference evaluator", "evaluator", {}, 2, needs_onnx=True),
    "readable": Contestant("readable network, 2 threads of BLAS", "readable", {}, 2),
    "engine-1": engine("1 thread", "threads", "1 thread", 1),
    "engine-threads": engine("2 threads (default)", "threads", "2 threads"),
    "engine-processes": engine("2 processes", "processes", "2 processes"),
}
WITNESS = Contestant("PyTorch in float64", "torch", {"threads": 2, "dtype": "float64"}, 2)

MODES = ("engine-threads", "engine-processes")
ALL = ("eager-1", "eager-2", "ort-1", "ort-2", "readable", "engine-1", *MODES)


class Case(NamedTuple):
    """Contestants on a network, on pictures of a size."""

    network: str
    size: int
    batch: int
    rounds: int
    contestants: tuple[str, ...]
    suffix: str = ""

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return (self.batch, 3, self.size, self.size)

    @property
    def material(self) -> str:
        """Name of the network with its input, which cases may share."""
        return f"{self.network}/{self.size}" + (f"/batch-{self.batch}" if self.batch > 1 else "")

    @property
    def name(self) -> str:
        return f"{self.material}{self.suffix}"


def cases() -> Iterator[Case]:
    sizes = {name: 512 if name == SEGMENTER else 256 for name in NETWORKS}
    for batch, rounds in ((1, 30), (8, 7)):
        for name, size in sizes.items():
            yield Case(name, size, batch, rounds, ALL)
    for name in ("xx-small", "small"):
        yield Case(name, 1024, 1, 3, ("eager-2", "engine-1", *MODES))
    for name in VARIANTS:
        yield Case(name, 256, 1, 3, ("evaluator", "readable", *MODES), "/evaluator")
    for name, size in sizes.items():  # last, as a minute and more goes into each compilation
        yield Case(name, size, 1, 10, ("eager-2", "compiled-2", *MODES), "/compiled")


CASES = {case.name: case for case in cases()}
COLD_STARTS = {f"{name}/cold-start": name for name in ("xx-small", "small")}
INSTALL_SIZE = "install-size"
PARTS = (*CASES, *COLD_STARTS, INSTALL_SIZE)  # of a whole run, in their order
