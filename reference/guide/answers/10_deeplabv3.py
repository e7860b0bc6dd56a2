# %% [markdown]
# # Answers to lesson 10, DeepLabV3

# %%
import numpy as np

import npmobilevit as nm
from npmobilevit import MobileViTConfig, ops
from npmobilevit.config import expected_parameters

rng = np.random.default_rng(1010)
pipeline = nm.load("camvid-deeplabv3-xx-small")

# %% [markdown]
# ## 1. Sizes
#
# 512 / 16 = 32: the logits are 32 x 32 for each class. The outer columns lie 2 * 18 = 36 pixels of the map apart, which
# are 36 * 16 = 576 pixels of the picture: more than there are. The rate has no weights of its own. Both branches have
# 256 * 160 * 3 * 3 = 368,640.

# %%
logits = pipeline.network(np.zeros((1, 3, 512, 512), np.float32)).logits
assert logits.shape == (1, 11, 32, 32)

impulse = np.zeros((1, 1, 1, 99))
impulse[..., 49] = 1
answer = ops.conv2d(impulse, weight=np.ones((1, 1, 3, 3)), padding=18, dilation=18)[0, 0, 0]  # (99,)
reached = np.flatnonzero(answer)
assert (reached[-1] - reached[0]) * pipeline.config.output_stride == 576

small = MobileViTConfig(output_stride=16, num_labels=21)  # the defaults are those of MobileViT-small
shapes = expected_parameters(small, head="segmentation")
for branch in (1, 3):
    assert np.prod(shapes[f"segmentation_head.aspp.convs.{branch}.convolution.weight"]) == 368_640

# %% [markdown]
# ## 2. The fifth branch as a bias
#
# A convolution of channels laid side by side is the sum of the convolutions of each part with its own columns of the
# weights. The part of the fifth branch is the same at all pixels: it adds one number to each of the 256 channels, as a
# bias does.
#
# But a bias is the same for all pictures, and this one is made from the picture. It tells every pixel what the picture
# as a whole is like.

# %%
project = "segmentation_head.aspp.project.convolution"
weight = pipeline.network.parameters()[f"{project}.weight"]  # (256, 1280, 1, 1)


def as_bias(pixel_values):
    """What the fifth branch adds to each channel of `project`, (256,), and the other four and the result."""
    taps = pipeline.network.taps(pixel_values)
    others = np.concatenate([taps[f"segmentation_head.aspp.convs.{i}"] for i in range(4)], axis=1)  # (1, 1024, h, w)
    pooled = taps["segmentation_head.aspp.convs.4.conv_1x1"][0, :, 0, 0]  # (256,)
    return weight[:, 1024:, 0, 0] @ pooled, others, taps[project]


dark, bright = (rng.uniform(low, low + 0.5, (1, 3, 96, 128)).astype(np.float32) for low in (0, 0.5))
bias, others, expected = as_bias(dark)
found = ops.conv2d(others, weight=weight[:, :1024], bias=bias)
assert np.allclose(found, expected, rtol=1e-4, atol=1e-4)
assert not np.allclose(ops.conv2d(others, weight=weight[:, :1024]), expected, rtol=1e-4, atol=1e-4)
assert np.abs(as_bias(bright)[0] - bias).max() > 0.1

# %% [markdown]
# ## 3. Dilation by four small convolutions
#
# A kernel of dilation 2 at row i sees the rows i - 2, i and i + 2: all even or all odd, and so the columns. Cut the map
# into four, by even and odd rows and columns. In each of them the kernel's pixels are neighbours, and the padding of 2
# is one of 1. Convolve, and put the results back in their places. (TensorFlow long did it so, as "space to batch".)

# %%
x = rng.normal(size=(1, 5, 11, 14))
weight = rng.normal(size=(3, 5, 3, 3))
y = np.empty((1, 3, 11, 14))
for row in range(2):
    for column in range(2):
        y[:, :, row::2, column::2] = ops.conv2d(x[:, :, row::2, column::2], weight=weight, padding=1)
assert np.allclose(y, ops.conv2d(x, weight=weight, padding=2, dilation=2), rtol=1e-10, atol=1e-12)
