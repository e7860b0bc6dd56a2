"""Time the readable network against PyTorch eager, side by side, and measure the memory of a whole prediction.

    python tools/benchmark.py

Both run in this process, in turn, on the same seeded weights and pixels, float32, batch 1, with the same number of
threads. The result is the ratio of a round's two times, and its median over the rounds; absolute times say more
about the machine than about the code. Needs torch and transformers.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

VARIANTS = {
    "xx-small": {
        "hidden_sizes": [64, 80, 96],
        "neck_hidden_sizes": [16, 16, 24, 48, 64, 80, 320],
        "expand_ratio": 2.0,
    },
    "x-small": {"hidden_sizes": [96, 120, 144], "neck_hidden_sizes": [16, 32, 48, 64, 80, 96, 384]},
    "small": {},
}
PAUSE = 0.02  # seconds between two measurements: the other library's threads stop spinning

# One prediction in a fresh interpreter, with a network as large as the published one (Linux: memory from /proc).
PREDICT_ONE = """
import numpy as np, npmobilevit as nm
from npmobilevit.config import expected_parameters
config = nm.MobileViTConfig(**{variant!r}, num_labels=1000)
rng = np.random.default_rng(0)
weights = {{n: rng.random(s, np.float32) * 0.01 for n, s in expected_parameters(config, head="classification").items()}}
processor = nm.MobileViTImageProcessor(size=288, crop_size=256, resample=2)
network = nm.MobileViTForImageClassification(config, weights)
del weights
nm.Pipeline("benchmark", network, processor).predict({picture!r})
status = open("/proc/self/status").read()  # ru_maxrss would count what this process's parent had, too
print(int(status.split("VmHWM:")[1].split()[0]) / 1024)
"""


def seconds(call: Callable[[], object]) -> float:
    """The faster of two calls."""
    times = []
    for _ in range(2):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


def ratios(variant: dict, size: int, rounds: int) -> tuple[list[float], float]:
    """Ratio npmobilevit / torch of every round, and the largest relative difference of the logits."""
    import numpy as np
    import torch
    import transformers

    import npmobilevit as nm

    torch.manual_seed(0)
    theirs = transformers.MobileViTForImageClassification(transformers.MobileViTConfig(**variant, num_labels=1000))
    for module in theirs.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.ones_(module.weight)  # transformers draws them near zero: every activation would vanish
    theirs.eval()
    ours = nm.MobileViTForImageClassification(
        nm.MobileViTConfig(**variant, num_labels=1000), {name: t.numpy() for name, t in theirs.state_dict().items()}
    )
    pixels = np.random.default_rng(0).random((1, 3, size, size), np.float32)
    tensor = torch.from_numpy(pixels)
    found = []
    with torch.no_grad():
        expected = theirs(tensor).logits.numpy()
        error = float(np.abs(ours(pixels).logits - expected).max() / np.abs(expected).max())
        for _ in range(rounds):
            mine = seconds(lambda: ours(pixels))
            time.sleep(PAUSE)
            reference = seconds(lambda: theirs(tensor))
            time.sleep(PAUSE)
            found.append(mine / reference)
    return found, error


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--picture", default="reference/images/chelsea.png")
    arguments = parser.parse_args()
    if os.environ.get("OPENBLAS_NUM_THREADS") != str(arguments.threads):  # read when NumPy is imported
        environment = os.environ | {"OPENBLAS_NUM_THREADS": str(arguments.threads)}
        raise SystemExit(subprocess.call([sys.executable, *sys.argv], env=environment))

    import torch

    torch.set_num_threads(arguments.threads)
    print(f"{arguments.size}x{arguments.size}, batch 1, {arguments.threads} threads, {arguments.rounds} rounds")
    print("variant   npmobilevit / torch eager: median (lowest to highest)   logits differ by   peak memory")
    for name, variant in VARIANTS.items():
        found, error = ratios(variant, arguments.size, arguments.rounds)
        script = PREDICT_ONE.format(variant=variant, picture=arguments.picture)
        memory = float(subprocess.check_output([sys.executable, "-c", script]))
        median = statistics.median(found)
        print(
            f"{name:9} {median:.2f} ({min(found):.2f} to {max(found):.2f})   {error:.1e}   {memory:.0f} MiB", flush=True
        )


if __name__ == "__main__":
    main()
