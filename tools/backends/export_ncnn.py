"""A checkpoint as a network of ncnn for one shape of the pixel values, through TorchScript and pnnx.

    python export_ncnn.py --checkpoint FOLDER --shape N C H W --out FILE.param --variant taps|half

The weights go into FILE.bin. `taps` names the outputs after the taps; `half` has the logits alone, so that pnnx folds
the normalizations into the convolutions, and weights in float16, which is what pnnx makes if it is not told otherwise.

    pip install torch==2.13.0 transformers==5.23.0 pnnx==20261020
"""

from __future__ import annotations

import subprocess
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path

import pnnx
import torch
from exporter import serve
from torch_network import Plain, Tapped, load, tap_names


def export(checkpoint: Path, shape: tuple[int, ...], out: Path, variant: str) -> None:
    model = load(checkpoint)
    names = tap_names(model, shape) if variant == "taps" else ["logits"]
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tracing warns of each baked-in size
        script = Path(folder, "network.pt")
        trace(Tapped(model) if variant == "taps" else Plain(model), shape).save(script)
        size = "[" + ",".join(map(str, shape)) + "]"
        subprocess.run(
            [pnnx.EXEC_PATH, script.name, f"inputshape={size}", f"fp16={int(variant == 'half')}"],
            cwd=folder, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        out.with_suffix(".bin").write_bytes(Path(folder, "network.ncnn.bin").read_bytes())
        out.write_text(rename_outputs(Path(folder, "network.ncnn.param").read_text(), names))


def trace(module: torch.nn.Module, shape: tuple[int, ...]) -> torch.jit.ScriptModule:
    """TorchScript with constant sizes: a trace of the modules computes them, and pnnx loses some of those sums."""
    x = torch.zeros(shape)
    return torch.jit.trace(torch.export.export(module, (x,)).module(), x, check_trace=False)


def rename_outputs(param: str, names: Sequence[str]) -> str:
    """The text of a network whose blobs out0, out1, ... are called as given."""
    blobs = {f"out{i}": name for i, name in enumerate(names)}
    head, *layers = param.splitlines()
    words = (layer.split(" ") for layer in layers)
    return "\n".join([head, *(" ".join(blobs.get(word, word) for word in layer) for layer in words), ""])


if __name__ == "__main__":
    serve(export, ("taps", "half"))
