# %% [markdown]
# # Answers to lesson 1, pixels

# %%
import numpy as np

from npmobilevit import MobileViTForImageClassification, MobileViTImageProcessor

rng = np.random.default_rng(1)
processor = MobileViTImageProcessor.from_pretrained("cifar10-xx-small")
model = MobileViTForImageClassification.from_pretrained("cifar10-xx-small")
photo = rng.integers(0, 256, (90, 120, 3), dtype=np.uint8)

# %% [markdown]
# ## 1. Where the crop begins
#
# The shorter side, 480, becomes 288; the longer one 288 * 640 / 480 = 384 exactly. The crop begins at row (288 - 256) /
# 2 = 16 and column (384 - 256) / 2 = 64. The network sees 256 * 256 of 288 * 384 pixels: 16 / 27 of the photo, or 59 %.

# %%
published = MobileViTImageProcessor(size=288, crop_size=256, resample=2)
geometry = published.geometry(480, 640)
assert geometry.resized == (288, 384)
assert geometry.origin == (16, 64)
assert 27 * np.prod(geometry.network) == 16 * np.prod(geometry.resized)

# %% [markdown]
# ## 2. What scanned pages cannot show
#
# - The order of the channels: a page is grey, so its three planes are equal and every order of them is the same. A
#   colourful picture shows it.
# - A crop or a resize that is off by a pixel, if the label stays the same: only a comparison of numbers shows it, and
#   only on a picture whose sides leave a fraction.
#
# (Pages that are all upright do not show whether the orientation that a camera notes in its files is heeded, either.)

# %%


def differs(picture, **setting):
    """Whether a setting changes any pixel value."""
    return not np.array_equal(*(processor(picture, **more)["pixel_values"] for more in ({}, setting)))


page = np.repeat(photo[..., :1], 3, axis=2)  # grey, (90, 120, 3)
assert not differs(page, do_flip_channel_order=False)
assert differs(photo, do_flip_channel_order=False)

# 64 * 120 / 90 = 85.3: rounding and cutting off agree; 64 * 118 / 90 = 83.9: they do not.
for columns, shows in ((120, False), (118, True)):
    rounded = (64, round(64 * columns / 90))
    assert differs(page[:, :columns], size=rounded) == shows

# %% [markdown]
# ## 3. A network that takes RGB
#
# The first convolution adds up over the channels, each with weights of its own: weight (16, 3, 3, 3), where the second
# axis is the channel. Reversing this axis as well as the channels of the picture reorders the terms of the sum and
# changes nothing else. Behind the first layer there are no colours any more, only its 16 channels, so all other weights
# stay.
#
# The sums are the same terms in another order, so they may differ in the last digits: float64 shows that nothing else
# does.

# %%
name = "mobilevit.conv_stem.convolution.weight"
weights = model.state_dict()
bgr, rgb = (
    MobileViTForImageClassification(model.config, weights | {name: kernels}, precision="float64")
    for kernels in (weights[name], weights[name][:, ::-1])
)
pixels = processor(photo)["pixel_values"]
assert np.allclose(rgb(pixels[:, ::-1]).logits, bgr(pixels).logits, rtol=1e-10, atol=1e-10)
assert not np.allclose(rgb(pixels).logits, bgr(pixels).logits, rtol=1e-2)
