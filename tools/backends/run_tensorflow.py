"""Run transformers' own TensorFlow classes, which ended with transformers 4, and dump every layer of Keras.

    python3.11 -m venv ENV
    ENV/bin/pip install tensorflow-cpu==2.19.1 tf-keras==2.19.0 transformers==4.57.6 torch==2.13.0 safetensors
    ENV/bin/python run_tensorflow.py --checkpoint FOLDER --pixels A.npy --out FOLDER

PyTorch only reads the weights.
"""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf
import tf_network
from runner import Pixels, Request, Taps, serve


def prepare(request: Request) -> Callable[[Pixels], Taps]:
    network = tf_network.tapped(tf_network.load(request.checkpoint))

    def run(pixel_values: Pixels) -> Taps:
        taps = network(tf.constant(pixel_values))
        return {name: tf_network.to_torch(name, value.numpy()) for name, value in taps.items()}

    return run


if __name__ == "__main__":
    serve(prepare, tf_network.PACKAGES)
