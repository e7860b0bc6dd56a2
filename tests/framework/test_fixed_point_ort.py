"""A second witness of the sums: ONNX Runtime's ConvInteger and MatMulInteger, which count in int32."""

import numpy as np
import pytest

from npmobilevit.fixed_point import conv2d, linear

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

pytestmark = pytest.mark.framework


def run(operation, x, weight, **attributes):
    """One operator on words of 8 bits."""
    inputs = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.INT8, value.shape)
        for name, value in (("x", x), ("w", weight))
    ]
    output = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.INT32, None)
    node = onnx.helper.make_node(operation, ["x", "w"], ["y"], **attributes)
    graph = onnx.helper.make_graph([node], "one", inputs, [output])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 10)], ir_version=8)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x, "w": weight})[0]


def words(*shape, seed=0):
    return np.random.default_rng(seed).integers(-128, 127, shape, np.int8, endpoint=True)


@pytest.mark.parametrize(
    ("channels", "outputs", "kernel", "geometry"),
    [
        (3, 16, 3, {"stride": 2, "padding": 1}),  # conv_stem
        (64, 64, 3, {"stride": 1, "padding": 1, "groups": 64}),  # depthwise
        (96, 24, 1, {}),
        (160, 80, 3, {"padding": 1}),  # fusion
        (16, 8, 3, {"padding": 6, "dilation": 6}),  # ASPP
        (6, 4, (2, 3), {"stride": (2, 1), "padding": (0, 2), "groups": 2}),
    ],
)
def test_sums_of_convolutions(channels, outputs, kernel, geometry):
    pairs = {key: value if isinstance(value, tuple) else (value, value) for key, value in geometry.items()}
    kernel = kernel if isinstance(kernel, tuple) else (kernel, kernel)
    x, weight = words(2, channels, 12, 11), words(outputs, channels // geometry.get("groups", 1), *kernel, seed=1)
    attributes = {
        "strides": pairs.get("stride", (1, 1)),
        "pads": pairs.get("padding", (0, 0)) * 2,
        "dilations": pairs.get("dilation", (1, 1)),
        "group": geometry.get("groups", 1),
    }
    expected = run("ConvInteger", x, weight, **attributes)
    np.testing.assert_array_equal(conv2d(x, weight=weight, **geometry), expected, strict=True)


@pytest.mark.parametrize("shape", [(1, 640), (4, 9, 144)])
def test_sums_of_linear_layers(shape):
    x, weight = words(*shape), words(10, shape[-1], seed=1)
    expected = run("MatMulInteger", x, np.ascontiguousarray(weight.T))
    np.testing.assert_array_equal(linear(x, weight=weight), expected, strict=True)
