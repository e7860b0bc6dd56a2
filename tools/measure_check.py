"""Measure what a check costs: time, over that of one forward pass, and memory. NumPy only.

    python tools/measure_check.py

Each case runs in an interpreter of its own, with two threads: a port that is right, given with all its taps, and one
with a mistake in every normalisation, which is looked at more often.
"""

from __future__ import annotations

import os
import subprocess
import sys

CASES = (("xx-small", 256), ("small", 256), ("small", 512))

CHECK = """
import time
import numpy as np, npmobilevit as nm
from npmobilevit.config import expected_parameters
from npmobilevit.validation import check

def memory(name):
    return int(open("/proc/self/status").read().split(name + ":")[1].split()[0]) / 1024

xx_small = dict(hidden_sizes=[64, 80, 96], neck_hidden_sizes=[16, 16, 24, 48, 64, 80, 320], expand_ratio=2.0)
config = nm.MobileViTConfig(**({"xx-small": xx_small, "small": {}}[VARIANT]), num_labels=1000)
rng = np.random.default_rng(0)

def values(name, shape):
    r = rng.standard_normal(shape, np.float32)
    if len(shape) > 1:
        return r * np.float32((1.6 / np.prod(shape[1:])) ** 0.5)
    positive = name.endswith("running_var") or (name.endswith("weight") and len(shape) == 1)
    return 1 + np.float32(0.2) * np.abs(r) if positive else np.float32(0.1) * r

shapes = expected_parameters(config, head="classification")
network = nm.MobileViTForImageClassification(config, {name: values(name, shape) for name, shape in shapes.items()})
pixels = rng.random((1, 3, SIZE, SIZE), np.float32)
taps = network.taps(pixels)
start = time.perf_counter()
network(pixels)
forward = time.perf_counter() - start
dump = sum({id(value): value.nbytes for value in taps.values()}.values()) / 2**20
before = memory("VmRSS")
start = time.perf_counter()
report = check(taps, network)
right = time.perf_counter() - start
assert report.verdict == "pass"
beside = memory("VmHWM") - before
wrong = {name: value * np.float32(1.01) if name.endswith("normalization") else value for name, value in taps.items()}
start = time.perf_counter()
assert check(wrong, network).verdict == "fail"
failing = time.perf_counter() - start
print(f"{VARIANT} {SIZE}: {len(taps)} taps; right port {right:.1f} s ({right / forward:.0f} forward passes), "
      f"wrong port {failing:.1f} s; the dump {dump:.0f} MiB, beside it {beside:.0f} MiB")
"""


def main() -> None:
    threads = os.environ | {"OPENBLAS_NUM_THREADS": "2"}
    for variant, size in CASES:
        code = f"VARIANT, SIZE = {variant!r}, {size}\n{CHECK}"
        subprocess.run([sys.executable, "-c", code], env=threads, check=True)


if __name__ == "__main__":
    main()
