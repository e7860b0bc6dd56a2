"""Run a model of export_tflite.py in TensorFlow Lite and dump its outputs.

    python3.11 -m venv ENV
    ENV/bin/pip install tensorflow-cpu==2.19.1 tf-keras==2.19.0 transformers==4.57.6 torch==2.13.0 safetensors
    ENV/bin/python run_tflite.py --checkpoint FOLDER --model FILE.tflite --pixels A.npy --out FOLDER

The kernels are those of XNNPACK, the delegate that TensorFlow Lite takes by itself.
"""

from __future__ import annotations

import json
from collections.abc import Callable

import tensorflow as tf
import tf_network
from runner import Pixels, Request, Taps, serve


def prepare(request: Request) -> Callable[[Pixels], Taps]:
    interpreter = tf.lite.Interpreter(str(request.model), num_threads=2)
    interpreter.allocate_tensors()
    (pixels,) = interpreter.get_input_details()
    names = json.loads(request.model.with_suffix(".json").read_text(encoding="utf-8"))
    outputs = {name: details["index"] for name, details in zip(names, interpreter.get_output_details(), strict=True)}

    def run(pixel_values: Pixels) -> Taps:
        interpreter.set_tensor(pixels["index"], pixel_values)
        interpreter.invoke()
        return {name: tf_network.to_torch(name, interpreter.get_tensor(index)) for name, index in outputs.items()}

    return run


if __name__ == "__main__":
    serve(prepare, tf_network.PACKAGES)
