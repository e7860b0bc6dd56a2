"""PyTorch itself, eager in three precisions or compiled in float32.

--variant float32|bfloat16|float16   eager; in half precision, weights and pixel values are of it as well
--variant compile                    torch.compile (inductor), in one graph that returns hidden states and logits

pip install torch==2.13.0 transformers==5.23.0 safetensors==0.8.0     and a C++ compiler for the compiled one
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection
from typing import Any

import torch
from runner import Pixels, Request, Taps, serve
from torch import Tensor, nn
from torch_network import dump, load

HIDDEN = (*(f"mobilevit.encoder.layer.{i}" for i in range(5)), "mobilevit.conv_1x1_exp")


class Hooked(nn.Module):
    """A network that returns taps, with hooks that stand before it is compiled: a graph cannot set them."""

    def __init__(self, model: nn.Module, names: Collection[str]) -> None:
        super().__init__()
        self.model = model
        self.taps: dict[str, Tensor] = {}
        for name, module in model.named_modules():
            if name in names:
                module.register_forward_hook(functools.partial(self._note, name))

    def _note(self, name: str, _module: nn.Module, _inputs: Any, output: Any) -> None:
        self.taps[name] = output if isinstance(output, Tensor) else output[0]

    def forward(self, pixel_values: Tensor) -> dict[str, Tensor]:
        self.taps.clear()
        logits = self.model(pixel_values=pixel_values).logits
        return {**self.taps, "logits": logits}


def prepare(request: Request) -> Callable[[Pixels], Taps]:
    model = load(request.checkpoint)
    if request.variant == "compile":
        network = torch.compile(Hooked(model, HIDDEN), fullgraph=True)  # a break of the graph is an error
        return lambda x: _arrays(_run(network, torch.from_numpy(x)))
    precision = getattr(torch, request.variant)
    model.to(precision)
    return lambda x: _arrays(dump(model, torch.from_numpy(x).to(precision)))


def _run(network: Callable[[Tensor], dict[str, Tensor]], x: Tensor) -> dict[str, Tensor]:
    with torch.no_grad():
        return network(x)


def _arrays(taps: dict[str, Tensor]) -> Taps:
    """In NumPy, which has no bfloat16."""
    widened = {name: value.float() if value.dtype == torch.bfloat16 else value for name, value in taps.items()}
    return {name: value.numpy() for name, value in widened.items()}


def note() -> dict[str, str]:
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    return {"processor": torch.backends.cpu.get_cpu_capability(), "compiled graphs": str(graphs)}


if __name__ == "__main__":
    serve(prepare, ["torch", "transformers"], note)
