# %% [markdown]
# # 1. Pixels, and how a picture becomes `pixel_values`
#
# A network such as MobileViT ([paper](https://arxiv.org/abs/2110.02178)) computes with an array of numbers, and a
# picture is a file. What lies between is a few lines of code, and it is easy to get them wrong: a mistake there raises
# no error, and often the answer still looks reasonable. This lesson takes the steps one by one. They are those of
# `MobileViTImageProcessor` of transformers. A **checkpoint**, the files of a trained network, brings its settings
# along.
#
# You need to know what an array with several axes is.

# %%
import numpy as np
from lesson import IMAGES, figure

from npmobilevit import MobileViTForImageClassification, MobileViTImageProcessor, ops
from npmobilevit.images import to_rgb
from npmobilevit.visual import drawing

# %% [markdown]
# ## From a file to bytes
#
# A picture on a screen is a grid of pixels, and a pixel is three numbers from 0 to 255, a byte each: how much red,
# green and blue light it gives. So a decoded file is an array (height, width, 3), rows from the top, red first.

# %%
photo = to_rgb(IMAGES / "chelsea.png")
print(photo.shape, photo.dtype)  # -> (300, 451, 3) uint8
print(photo[150, 200])  # -> [125  64  35]

# %% [markdown]
# That pixel of the cat's face is mostly red, as orange fur is.
#
# The settings of what follows are in a file `preprocessor_config.json` beside the **weights**, the numbers that the
# network has learned. The network of this lesson is small: it tells ten kinds of things apart, in pictures of 64 x 64
# pixels. The published classifiers have 288 for the resize and 256 for the crop.

# %%
processor = MobileViTImageProcessor.from_pretrained("cifar10-xx-small")
print(processor.size, processor.crop_size)  # -> {'shortest_edge': 64} {'height': 64, 'width': 64}

# %% [markdown]
# ## Resize and crop
#
# Photos come in all sizes, and a network has learned how large things are in pixels. So the shorter side is brought to
# a fixed length and the longer one in proportion, which keeps a cat as wide as it is. Then the middle is cut out. Here
# the photo loses three columns first, to make the arithmetic interesting:
#
# $$ \text{longer side} = \left\lfloor 64 \cdot \tfrac{448}{300} \right\rfloor = \lfloor 95.57 \rfloor = 95, \qquad
# \text{first column of the crop} = \left\lfloor \tfrac{95 - 64}{2} \right\rfloor = \lfloor 15.5 \rfloor = 15 $$

# %%
cat = photo[:, :448]
print(processor.geometry(*cat.shape[:2]))  # -> Geometry(resized=(64, 95), origin=(0, 15), network=(64, 64))

# %% [markdown]
# Both fractions are cut off, and both are a convention. A **port**, a program that computes the same network in another
# language or on another device, must keep to it. One that rounds the longer side to 96
# ([PRE-08](../mistakes.md#pre-08)), or the crop's 15.5 up, begins the crop at column 16, one pixel further to the
# right.
#
# How does the resize make one pixel of several? The filter is called bilinear: a new pixel is a weighted mean of the
# old ones around it, and the weights fall off in straight lines to both sides. Halve a row of eight pixels with a
# single bright one:

# %%
rows = np.zeros((2, 8, 3), np.uint8)  # two equal rows
rows[:, 4] = 240
halved = processor(rows, size=(2, 4), do_center_crop=False, do_rescale=False)["pixel_values"]  # (1, 3, 2, 4)
print(halved[0, 0, 0])  # -> [ 0 30 90  0]

# %% [markdown]
# The bright pixel counts 1/8 in one new pixel and 3/8 in the other. Some libraries mean another thing by bilinear: a
# weighted mean of the *two* nearest pixels (in a picture, of four), however many fall into a new one. Of a picture that
# is made much smaller, most pixels are then never looked at ([PRE-07](../mistakes.md#pre-07)). Inside the network,
# where maps change their size by little, MobileViT itself uses that kind:

# %%
planes = np.moveaxis(rows, -1, 0)[np.newaxis].astype(np.float32)  # (1, 3, 2, 8)
print(ops.resize_bilinear(planes, (2, 4))[0, 0, 0])  # -> [  0.   0. 120.   0.]

# %% [markdown]
# ## Bytes to numbers, channels to planes
#
# Three things remain. Each is a setting of the processor, so each can be switched off to look at what comes before it.
#
# - **Rescale**: bytes 0..255 become float32 in 0..1. There is no more to it: no mean is subtracted and nothing is
#   divided by a standard deviation, as other networks have it ([PRE-02](../mistakes.md#pre-02)).
# - **Order of the axes**: all red values in one plane, then all green, then all blue, (3, H, W), because a convolution
#   works on planes (lesson 2). With an axis in front for several pictures, this order is called **NCHW**: number,
#   channels, height, width.
# - **Order of the channels**: blue first, then green, then red (**BGR**).

# %%
steps = {"do_rescale": False, "do_flip_channel_order": False}
before = processor(photo, **steps)["pixel_values"]
pixels = processor(photo)["pixel_values"]
print(before.shape, before.dtype, before[0, :, 32, 32])  # -> (1, 3, 64, 64) uint8 [189 148 119]
print(pixels.shape, pixels.dtype)  # -> (1, 3, 64, 64) float32
print(np.array_equal(pixels, before[:, ::-1] / np.float32(255)))  # -> True

# %% [markdown]
# Why BGR? The weights of the first layer are learned, and what they learned was blue first: MobileViT was trained with
# the library ml-cvnets, which at that time read its pictures with OpenCV, and OpenCV gives blue first. Nothing but that
# history speaks for it. The weights that timm offers want RGB, and a bicubic resize.
#
# What if a port gets one of these steps wrong?
#
# - RGB in place of BGR ([PRE-01](../mistakes.md#pre-01)): the orange cat is blue to the network;
# - mean and standard deviation applied, those of the photos of ImageNet, because many networks want it;
# - (H, W, 3) renamed to (3, H, W) by `reshape`, which leaves every number where it is in memory, so that each plane has
#   stripes of red, green and blue ([PRE-13](../mistakes.md#pre-13)).
#
# All three have the right shape and dtype. The network gives ten numbers (**logits**), one for each class; `softmax`
# makes shares of them that add up to one (lesson 6), and the largest is the answer.

# %%
model = MobileViTForImageClassification.from_pretrained("cifar10-xx-small")


def answer(pixel_values):
    """The name of the largest share, and the share in percent."""
    shares = ops.softmax(model(pixel_values).logits)[0]  # (10,)
    best = int(np.argmax(shares))
    return f"{model.config.id2label[best]} {100 * shares[best]:.0f} %"


# ImageNet's, blue first
mean, deviation = (np.array(x, np.float32).reshape(3, 1, 1) for x in ((0.406, 0.456, 0.485), (0.225, 0.224, 0.229)))
prepared = {
    "as trained": pixels,
    "RGB": pixels[:, ::-1],
    "mean and deviation": (pixels - mean) / deviation,
    "reshaped": np.moveaxis(pixels, 1, -1).reshape(1, 3, 64, 64),  # (1, 64, 64, 3) -> (1, 3, 64, 64)
}
answers = {name: answer(values) for name, values in prepared.items()}
print(answers["as trained"])  # -> cat 77 %
print(answers["RGB"])  # -> airplane 29 %
print(answers["mean and deviation"])  # -> frog 53 %
print(answers["reshaped"])  # -> bird 55 %

# %% [markdown]
# A grey picture cannot show the first of these mistakes: its three planes are equal, so their order does not matter.
# Test a port with colourful pictures.

# %%
grey = np.repeat(photo.mean(axis=2, keepdims=True).astype(np.uint8), 3, axis=2)  # (300, 451, 3)
flipped = [processor(grey, do_flip_channel_order=flip)["pixel_values"] for flip in (True, False)]
print(np.array_equal(*flipped))  # -> True

# %% [markdown]
# ## One pixel
#
# And the crop that begins one column too far to the right? Every pixel value is another one, and the logits move, but
# the cat remains a cat:

# %%
whole = processor(cat, do_center_crop=False)["pixel_values"]  # (1, 3, 64, 95)
right, shifted = (np.ascontiguousarray(whole[..., left : left + 64]) for left in (15, 16))
print(np.array_equal(right, processor(cat)["pixel_values"]))  # -> True
print(answer(right), answer(shifted))  # -> cat 83 % cat 79 %
print(round(float(np.abs(model(right).logits - model(shifted).logits).max()), 1))  # -> 0.4

# %% [markdown]
# Such a port passes every test that asks for the label, and fails every comparison of numbers: rounding changes the
# largest logit, here about 3, by about a millionth (lesson 11), and not by 0.4.
#
# Does the share change smoothly as the crop moves? The figure shows that it does not. One reason: five layers of the
# network put out every second pixel of their map only (lesson 2, stride), and with each step of the crop they put out
# others.

# %%
shares = [
    float(ops.softmax(model(np.ascontiguousarray(whole[..., left : left + 64])).logits)[0, 3]) for left in range(32)
]
framed = np.moveaxis(processor(cat, do_center_crop=False, **steps)["pixel_values"][0], 0, -1).copy()  # (64, 95, 3)
framed[:, [14, 79]] = (255, 255, 0)


def shown(pixel_values):
    """BGR planes as a picture for people; what lies outside of 0..1 is clipped."""
    return drawing.picture(np.clip(np.moveaxis(pixel_values[0, ::-1], 0, -1), 0, 1), cell=3)


in_grey = [
    (drawing.heatmap(plane, colours="grey", low=0, high=1, cell=3), f"plane {i}: {colour}")
    for i, (plane, colour) in enumerate(zip(pixels[0], ("blue", "green", "red"), strict=True))
]
curve = drawing.curves({"cat": (range(32), shares)}, width=300, height=192, x_label="first column of the crop")
parts = [
    (drawing.picture(framed, cell=3), "resized to 64 x 95, and the crop"),
    *in_grey,
    (curve, "share of the answer cat"),
    *((shown(values), f"{name}: {answers[name]}") for name, values in list(prepared.items())[1:]),
]
figure("01_pixels", drawing.arranged(parts, columns=4))

# %% [markdown]
# ![The cat's photo with the frame of the crop; its blue, green and red planes; the share of the answer cat, which rises
# from 38 to 92 percent as the crop moves, with many ups and downs; and what the network sees after three mistakes: a
# bluish picture, one of garish red and black, and a weave of coloured stripes](figures/01_pixels.png)
#
# ## Exercises
#
# The answers, with the code that checks them, are in [answers/01_pixels.py](answers/01_pixels.py).
#
# 1. A photo has 480 rows and 640 columns, and the settings are those of the published classifiers: resize 288, crop
#    256. Where does the crop begin, and which share of the photo does the network see?
# 2. "My port gives the same label as yours on twelve scanned pages, so its preprocessing is right." Name two mistakes
#    that those pages cannot show, and what pictures would.
# 3. A camera delivers RGB planes, and reversing their order for each picture costs time. Change *one* tensor of the
#    model so that it takes RGB, and show that its logits are what they were. Why is one tensor enough?
