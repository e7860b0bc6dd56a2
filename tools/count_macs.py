"""Count what transformers' MobileViT costs: the second source of every number of npmobilevit.cost.

    pip install torch==2.13.0 transformers==5.23.0    # group `framework` of pyproject.toml
    python tools/count_macs.py                        # reference/measured/cost.json

Nothing here comes from npmobilevit. Shapes are those of the tensors that forward hooks see, bytes those of the tensors
that each operation of torch makes, multiply-accumulates half the FLOPs of torch's own formulas
(``torch.utils.flop_counter``). A receptive field is measured: by forward-mode differentiation in float64, which gives
zero where an output element does not depend on a row of the input, for every row and column of pixels.
"""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers
from benchmarks.cases import VARIANTS
from scaled_weights import scale_weights
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, flop_registry
from transformers import MobileViTConfig, MobileViTForImageClassification, MobileViTForSemanticSegmentation
from transformers import MobileViTModel as MobileViTBase

ROOT = Path(__file__).resolve().parents[1]
MEASURED = ROOT / "reference" / "measured" / "cost.json"

HEADS: dict[str | None, type[nn.Module]] = {
    None: MobileViTBase,
    "classification": MobileViTForImageClassification,
    "segmentation": MobileViTForSemanticSegmentation,
}
aten = torch.ops.aten
KINDS = {
    aten.convolution: "convolution",
    aten.native_batch_norm: "batch_norm",
    aten._native_batch_norm_legit_no_training: "batch_norm",
    aten.native_layer_norm: "layer_norm",
    aten.addmm: "linear",
    aten.mm: "linear",  # of a layer without bias
    aten.bmm: "attention",  # scores, then the weighted mean
    aten._softmax: "softmax",
    aten.silu: "activation",
    aten.relu: "activation",
    aten.add: "add",
    aten.cat: "concat",
    aten.upsample_bilinear2d: "resize",
    aten.mean: "mean",
    aten._adaptive_avg_pool2d: "mean",
}
# What only looks at memory in another way or copies it, and the scale of the scores.
OTHERS = {
    *(aten.view, aten._unsafe_view, aten.t, aten.transpose, aten.permute, aten.expand, aten.clone, aten.copy_),
    *(aten.detach, aten.unsqueeze, aten.squeeze, aten.alias, aten.div, aten.empty, aten.empty_like),
}


class Case(NamedTuple):
    """A network, and the size of its input."""

    config: dict[str, Any]
    head: str | None
    height: int
    width: int
    batch: int = 1

    def model(self) -> nn.Module:
        """With weights that keep values near one; transformers' own would let them vanish."""
        torch.manual_seed(0)  # of the pictures that it is shown
        model = HEADS[self.head](MobileViTConfig(**self.config)).eval()
        scale_weights(model)
        return model

    def pixel_values(self, batch: int) -> Tensor:
        return torch.rand(batch, self.config.get("num_channels", 3), self.height, self.width)


XX_SMALL = VARIANTS["xx-small"]
UNUSUAL = {
    **{"hidden_sizes": [8, 12, 16], "neck_hidden_sizes": [4, 6, 8, 10, 12, 14, 20], "num_channels": 1},
    **{"patch_size": 3, "conv_kernel_size": 5, "num_attention_heads": 2, "mlp_ratio": 1.3, "qkv_bias": False},
    **{"expand_ratio": 1.5, "hidden_act": "relu", "output_stride": 16},
}
SEGMENTER = {"num_labels": 21, "output_stride": 16}

COUNTED = {
    **{
        f"{v}/classification/256": Case({**VARIANTS[v], "num_labels": 1000}, "classification", 256, 256)
        for v in VARIANTS
    },
    **{f"{v}/segmentation/512": Case({**VARIANTS[v], **SEGMENTER}, "segmentation", 512, 512) for v in VARIANTS},
    "output stride 8": Case({**XX_SMALL, **SEGMENTER, "output_stride": 8}, "segmentation", 256, 256),
    "output stride 32": Case({**XX_SMALL, **SEGMENTER, "output_stride": 32}, "segmentation", 256, 256),
    "odd size, two pictures": Case({**XX_SMALL, "num_labels": 10}, "classification", 250, 231, 2),
    "unusual settings, no head": Case(UNUSUAL, None, 95, 70),
}
# Small pictures, as each pixel row and column is a forward pass; all layers up to the first attention fit into them.
DIFFERENTIATED = {
    "xx-small": Case({**XX_SMALL, "num_labels": 10}, "classification", 64, 80),
    "odd size": Case({**XX_SMALL, "num_labels": 10}, "classification", 67, 50),
    "output stride 8": Case({**XX_SMALL, **SEGMENTER, "output_stride": 8}, "segmentation", 56, 64),
    "unusual settings, no head": Case(UNUSUAL, None, 95, 70),
}


# Counting


class Counter(TorchDispatchMode):
    """Notes every operation: the module that it is in, its kind, multiply-accumulates and bytes of the result."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.path = [""]
        self.operations: dict[str, list[tuple[str, int, int]]] = {}
        for name, module in model.named_modules():
            module.register_forward_pre_hook(lambda *_, name=name: self.path.append(name))
            module.register_forward_hook(self._leave)

    def _leave(self, *_: Any) -> None:
        self.path.pop()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        packet = func._overloadpacket
        if packet not in OTHERS:
            result = out if isinstance(out, Tensor) else out[0]
            formula = flop_registry.get(packet)
            macs = formula(*args, **(kwargs or {}), out_val=out) // 2 if formula else 0
            operations = self.operations.setdefault(self.path[-1], [])
            operations.append((KINDS[packet], macs, result.numel() * result.element_size()))
        return out


def on_output(model: nn.Module, keep: Callable[[str, Tensor], None]) -> None:
    """Let `keep` see the output of every module that puts out a tensor."""
    for name, module in model.named_modules():

        def hook(_module: nn.Module, _inputs: Any, output: Any, name: str = name) -> None:
            if isinstance(output, Tensor):
                keep(name, output)

        module.register_forward_hook(hook)


def counted(case: Case) -> dict[str, Any]:
    """What the modules of a network cost that do anything themselves, in the order of the forward pass."""
    model = case.model()
    shapes: dict[str, list[int]] = {}
    on_output(model, lambda name, output: shapes.update({name: list(output.shape)}))
    counter, whole = Counter(model), FlopCounterMode(display=False)
    pixels = case.pixel_values(case.batch)
    with torch.no_grad():
        with counter:
            model(pixels)
        with whole:
            model(pixels)
    modules = {}
    for name, operations in counter.operations.items():
        module = model.get_submodule(name)
        parameters = sum(p.numel() for p in module.parameters(recurse=False))
        buffers = sum(b.numel() for b in module.buffers(recurse=False) if b.ndim)  # num_batches_tracked has no axis
        modules[name] = shapes.get(name), parameters, buffers, operations
    return {**described(case), "macs": whole.get_total_flops() // 2, "modules": modules}


def described(case: Case) -> dict[str, Any]:
    return {"config": case.config, "head": case.head, "input_shape": list(case.pixel_values(case.batch).shape)}


# Receptive fields


def receptive_fields(case: Case, chunk: int = 16) -> dict[str, tuple[int, int]]:
    """Height and width of the largest receptive field of each module's output elements."""
    heights, widths = (
        {name: int((last - first).max()) + 1 for name, (first, last) in reaches(case, axis, chunk).items()}
        for axis in (2, 3)
    )
    return {name: (heights[name], widths[name]) for name in heights}


def reaches(case: Case, axis: int, chunk: int) -> dict[str, tuple[Tensor, Tensor]]:
    """The first and the last row (axis 2) or column (axis 3) of pixels that each element of an output depends on."""
    model = case.model().double()
    tangents: dict[str, Tensor] = {}
    on_output(model, lambda name, output: tangents.update({name: forward_ad.unpack_dual(output).tangent}))
    found: dict[str, tuple[Tensor, Tensor]] = {}
    picture = case.pixel_values(1).double()  # (1, C, H, W)
    size = picture.shape[axis]
    for lines in torch.arange(size).split(chunk):
        pictures = picture.repeat(len(lines), 1, 1, 1)
        directions = torch.zeros_like(pictures)  # each changes one line of its picture
        for direction, line in zip(directions, lines, strict=True):
            direction.select(axis - 1, int(line)).uniform_(0.5, 1.5)
        with torch.no_grad(), forward_ad.dual_level():
            model(forward_ad.make_dual(pictures, directions))
        for name, tangent in tangents.items():
            depends = (tangent != 0).reshape(len(lines), -1)  # (pictures, elements)
            first = torch.where(depends, lines[:, None], size).amin(0)
            last = torch.where(depends, lines[:, None], -1).amax(0)
            before = found.get(name, (first, last))
            found[name] = torch.minimum(first, before[0]), torch.maximum(last, before[1])
    return found


def differentiated(case: Case) -> dict[str, Any]:
    """The receptive fields of the modules; of those that see the whole picture, their number."""
    whole = (case.height, case.width)
    fields = receptive_fields(case)
    smaller = {name: field for name, field in fields.items() if field != whole}
    return {**described(case), "fields": smaller, "whole": len(fields) - len(smaller)}


# The file


def in_lines(value: Any, depth: int) -> str:
    """JSON with a line for each entry of objects and lists, down to a depth."""
    if isinstance(value, dict) and depth:
        return "{\n" + ",\n".join(f"{json.dumps(k)}: {in_lines(v, depth - 1)}" for k, v in value.items()) + "\n}"
    if isinstance(value, list) and depth:
        return "[\n" + ",\n".join(in_lines(entry, depth - 1) for entry in value) + "\n]"
    return json.dumps(value, separators=(",", ":"), allow_nan=False)


def with_shared_names(networks: dict[str, Any]) -> tuple[dict[str, Any], dict[str, list[str]]]:
    """The networks with lists of modules; and the names of these, under the first network that has them."""
    names: dict[str, list[str]] = {}
    listed = {}
    for network, found in networks.items():
        own = list(found["modules"])
        first = next((name for name, others in names.items() if others == own), network)
        names[first] = own
        listed[network] = {**found, "names": first, "modules": list(found["modules"].values())}
    return listed, names


def measured() -> dict[str, Any]:
    """All figures. The modules of each network are in the order of its names."""
    networks, names = with_shared_names({name: counted(case) for name, case in COUNTED.items()})
    return {
        "versions": {
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "python": platform.python_version(),
        },
        "columns": {
            "module": ["shape of the output", "parameters", "buffers", "operations"],
            "operation": ["kind", "multiply-accumulates", "bytes of the result"],
        },
        "names": names,
        "counted": networks,
        "receptive_fields": {name: differentiated(case) for name, case in DIFFERENTIATED.items()},
    }


def main() -> None:
    """Write the figures."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    found = measured()
    MEASURED.write_text(in_lines(found, 4) + "\n", encoding="utf-8")
    for name, entry in found["counted"].items():
        print(f"{name}: {entry['macs']:,} multiply-accumulates")


if __name__ == "__main__":
    main()
