"""Which backends are judged, and the environments that they run in. The standard library only."""

from __future__ import annotations

from typing import NamedTuple

BOTH = ("classification", "segmentation")

TORCH = ("torch==2.13.0", "transformers==5.23.0", "safetensors==0.8.0")
TIMM = ("torch==2.13.0", "numpy", "safetensors==0.8.0", "huggingface_hub", "pyyaml", "pillow", "-n timm==1.0.31")
ONNX = ("onnx==1.23.2", "safetensors==0.8.0")
TENSORFLOW = (
    "torch==2.13.0",
    "tensorflow-cpu==2.19.1",
    "tf-keras==2.19.0",
    "transformers==4.57.6",
    "safetensors==0.8.0",
)
EXECUTORCH = (*TORCH, "flatbuffers", "ruamel.yaml", "tabulate", "pandas", "-n executorch==1.5.1", "-n torchao==0.18.0")

# What pip installs, one requirement after another: torch first, so that nothing pulls another build of it. "-n" before
# a requirement leaves out what it asks for.
ENVIRONMENTS: dict[str, tuple[str, ...]] = {
    "torch": TORCH,
    "timm": TIMM,
    "export-onnx": (*TORCH, "onnx==1.23.2"),
    "onnx": ONNX,
    "onnxruntime": (*ONNX, "onnxruntime==1.32.0"),
    "openvino": ("openvino==2026.4.1", "safetensors==0.8.0"),
    "tensorflow": TENSORFLOW,
    "export-ncnn": (*TORCH, "pnnx==20261020"),
    "ncnn": ("ncnn==1.0.20261020", "numpy", "safetensors==0.8.0"),
    "mnn": (*ONNX, "MNN==3.6.1"),
    "executorch": EXECUTORCH,
    "tract": (*ONNX, "tract==0.23.9"),
    "tinygrad": (*ONNX, "tinygrad==0.14.0"),
}


class Export(NamedTuple):
    """How a checkpoint becomes a file that a backend loads, for one shape of the pixel values."""

    environment: str
    script: str
    variant: str
    suffix: str


ONNX_TAPS = Export("export-onnx", "export_onnx.py", "taps", ".onnx")
ONNX_FUSED = Export("export-onnx", "export_onnx.py", "fused", ".onnx")
TFLITE = Export("tensorflow", "export_tflite.py", "plain", ".tflite")
TFLITE_DEFAULT = Export("tensorflow", "export_tflite.py", "default", ".tflite")
NCNN = Export("export-ncnn", "export_ncnn.py", "taps", ".param")
NCNN_HALF = Export("export-ncnn", "export_ncnn.py", "half", ".param")
EXECUTORCH_TAPS = Export("executorch", "export_executorch.py", "taps", ".pte")
EXECUTORCH_FUSED = Export("executorch", "export_executorch.py", "fused", ".pte")


class Finding(NamedTuple):
    """A defect of a backend that reference/backends.md describes."""

    name: str
    taps: str  # where it makes the backend wrong, a regular expression


class Backend(NamedTuple):
    """A real program that runs the network.

    Attributes
    ----------
    id : str
    profile : str
        The arithmetic that it declares.
    description : str
        The way it goes, and what it lets out.
    packages : tuple of str
        Distributions whose versions stand for it in the table.
    environment, runner : str
    variant : str
    export : Export, optional
    tasks : tuple of str
        The kinds of checkpoints that it can run.
    is_slow : bool
        Whether it, or the check of what it gives, takes so long that one size must do.
    finding : Finding, optional
        What makes it fail; without one it is to pass.
    """

    id: str
    profile: str
    description: str
    packages: tuple[str, ...]
    environment: str
    runner: str
    variant: str = ""
    export: Export | None = None
    tasks: tuple[str, ...] = BOTH
    is_slow: bool = False
    finding: Finding | None = None


SATURATES = Finding("MatMulInteger saturates", r"transformer|classifier|logits")
LARGE_TILES = Finding("Winograd tiles too large", r"(conv_kxk|fusion)")

TORCHES = (("torch", "transformers"), "torch", "run_torch.py")
ORT = (("onnxruntime",), "onnxruntime", "run_onnxruntime.py")
OPENVINO = (("openvino",), "openvino", "run_openvino.py")
TF = (("tensorflow-cpu", "transformers"), "tensorflow")
NCNNS = (("ncnn",), "ncnn", "run_ncnn.py")
MNN = (("MNN",), "mnn", "run_mnn.py")
ET = (("executorch", "torch"), "executorch", "run_executorch.py", "")

BACKENDS: tuple[Backend, ...] = (
    Backend("torch-float32", "fp32", "PyTorch, eager", *TORCHES, "float32"),
    Backend("torch-bfloat16", "bf16", "PyTorch, eager, weights and values bfloat16", *TORCHES, "bfloat16"),
    Backend("torch-float16", "fp16", "PyTorch, eager, weights and values float16", *TORCHES, "float16"),
    Backend("torch-compile", "fp32", "torch.compile, in one graph; stages", *TORCHES, "compile", is_slow=True),
    Backend(
        "timm", "fp32", "timm's own network", ("timm", "torch"), "timm", "run_timm.py", tasks=("classification",),
    ),
    Backend("onnxruntime-float32", "fp32", "all optimisations", *ORT, "float32", ONNX_TAPS),
    Backend("onnxruntime-fused", "fp32", "as shipped: the logits alone", *ORT, "fused", ONNX_FUSED),
    Backend("onnxruntime-int8", "int8-dynamic", "dynamic quantization, uint8 weights", *ORT, "int8", ONNX_TAPS),
    Backend(
        "onnxruntime-int8-signed", "int8-dynamic", "dynamic quantization, int8 weights, the default", *ORT,
        "int8-signed", ONNX_TAPS, is_slow=True, finding=SATURATES,
    ),
    Backend(
        "onnx-reference", "fp32", "ONNX's reference evaluator", ("onnx",), "onnx", "run_onnx_reference.py",
        export=ONNX_TAPS,
    ),
    Backend("openvino-float32", "fp32", "the CPU plugin, in float32", *OPENVINO, "float32", ONNX_TAPS),
    Backend("openvino-fused", "fp32", "as shipped: the logits alone", *OPENVINO, "fused", ONNX_FUSED, is_slow=True),
    Backend("tensorflow", "fp32", "transformers' TensorFlow classes", *TF, "run_tensorflow.py"),
    Backend("tflite", "fp32", "TensorFlow Lite, plain, XNNPACK", *TF, "run_tflite.py", "", TFLITE),
    Backend(
        "tflite-default", "int8-dynamic", "TensorFlow Lite, default optimisation as shipped", *TF, "run_tflite.py",
        "", TFLITE_DEFAULT,
    ),
    Backend("ncnn-float32", "fp32", "through pnnx, half precision off", *NCNNS, "float32", NCNN),
    Backend(
        "ncnn-half", "fp16", "as pnnx makes it: float16 weights, the logits alone", *NCNNS, "default", NCNN_HALF,
        is_slow=True,
    ),
    Backend("executorch", "fp32", "portable kernels", *ET, EXECUTORCH_TAPS),
    Backend("executorch-xnnpack", "fp32", "XNNPACK, the logits alone", *ET, EXECUTORCH_FUSED, is_slow=True),
    Backend("mnn", "fp32", "high precision", *MNN, "default", ONNX_TAPS, is_slow=True, finding=LARGE_TILES),
    Backend("mnn-small-tiles", "fp32", "high precision, small tiles", *MNN, "small-tiles", ONNX_TAPS),
    Backend("tract", "fp32", "its optimised network", ("tract",), "tract", "run_tract.py", "", ONNX_TAPS),
    Backend("tinygrad", "fp32", "its ONNX front end", ("tinygrad",), "tinygrad", "run_tinygrad.py", "", ONNX_TAPS),
)  # fmt: skip
