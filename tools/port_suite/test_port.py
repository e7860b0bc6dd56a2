"""The port's own tests: one line each."""

import numpy as np
from adapter import Backend, checkpoint_folder


def test_every_layer_of_the_port_is_right(npmobilevit_check):
    pixel_values = np.random.default_rng(0).random((1, 3, 96, 128), np.float32)
    npmobilevit_check(Backend().run(pixel_values), checkpoint_folder())
