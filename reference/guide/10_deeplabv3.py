# %% [markdown]
# # 10. DeepLabV3: a label for every pixel
#
# A classifier gives one label to a picture. Segmentation gives one to every pixel: this is road, this is sky. The
# layers at the end of a network, which make the answer, are called its **head**, and for this MobileViT takes one that
# was made for other networks, DeepLabV3 ([MobileViT](https://arxiv.org/abs/2110.02178), section 4.2;
# [DeepLabV3](https://arxiv.org/abs/1706.05587)). This lesson follows a street from the last map of the network to its
# mask, the array of labels.
#
# You need lessons 2 (convolution) and 9 (the whole network).

# %%
import dataclasses

import numpy as np
from lesson import IMAGES, figure

import npmobilevit as nm
from npmobilevit import ops
from npmobilevit.config import DOWNSAMPLING_DILATIONS, DOWNSAMPLING_STRIDES
from npmobilevit.ops.resize import blend, sources_at
from npmobilevit.validation.mutants import mutant_named
from npmobilevit.validation.replay import run_changed
from npmobilevit.visual import drawing, overlay, palettes

pipeline = nm.load("camvid-deeplabv3-xx-small")
pixel_values = pipeline.pixel_values(IMAGES / "street.png")
taps = pipeline.network.taps(pixel_values)
print(pixel_values.shape)  # -> (1, 3, 360, 480)

# %% [markdown]
# ## How large the last map is
#
# The classifier of lesson 9 averages the last map over its pixels, and then multiplies by a matrix. Without the
# average, the same product answers for each pixel of the map: a matrix that is applied to every pixel is a 1 x 1
# convolution.
#
# But the last map is small. Its **output stride** is the side of the picture over the side of the map. At 32, all that
# a square of 32 x 32 pixels shows gets one answer. DeepLabV3 (section 3.1) drops the strides of the last layers: they
# are set to 1, and the map stays larger. Here are the strides of encoder layers 2, 3 and 4 for each output stride, and
# what comes out, with the same weights:


# %%
def logits_shape(output_stride):
    """The shape of what a segmenter with these weights makes of a picture of 128 x 128."""
    config = dataclasses.replace(pipeline.config, output_stride=output_stride)
    network = nm.MobileViTForSemanticSegmentation(config, pipeline.network.state_dict())
    return network(np.zeros((1, 3, 128, 128), np.float32)).logits.shape


print(32, DOWNSAMPLING_STRIDES[32], logits_shape(32))  # -> 32 (2, 2, 2) (1, 11, 4, 4)
print(16, DOWNSAMPLING_STRIDES[16], logits_shape(16))  # -> 16 (2, 2, 1) (1, 11, 8, 8)
print(8, DOWNSAMPLING_STRIDES[8], logits_shape(8))  # -> 8 (2, 1, 1) (1, 11, 16, 16)

# %% [markdown]
# The published segmenters have output stride 16, and so has ours. Ports that keep the strides of the classifier get
# masks of half the resolution: [SEG-06](../mistakes.md#seg-06).
#
# ## Why a dropped stride asks for dilation
#
# Suppose that a layer has stride 2 and the next one a 3 x 3 kernel. Without the stride, neighbours of the second layer
# lie only half as far apart in the picture as before. With dilation 2 the kernel takes every second pixel, and sees the
# same again. At every second pixel, nothing has changed at all:

# %%
rng = np.random.default_rng(10)
x = rng.normal(size=(1, 4, 12, 16))
first, second = rng.normal(size=(2, 4, 4, 3, 3))
with_stride = ops.conv2d(ops.conv2d(x, weight=first, stride=2, padding=1), weight=second, padding=1)
dilated = ops.conv2d(ops.conv2d(x, weight=first, padding=1), weight=second, padding=2, dilation=2)
print(with_stride.shape, dilated.shape)  # -> (1, 4, 6, 8) (1, 4, 12, 16)
print(np.allclose(dilated[:, :, ::2, ::2], with_stride, rtol=1e-10))  # -> True

# %% [markdown]
# The other three quarters of the values are new: the same question, asked at the pixels in between.
#
# MobileViT dilates in one place only. At output stride 8 the stride of layer 3 is dropped, and the downsampling block
# of layer 4, behind it, gets dilation 2. ([SEG-07](../mistakes.md#seg-07) is dilation one block too early.)

# %%
print(DOWNSAMPLING_DILATIONS[16], DOWNSAMPLING_DILATIONS[8])  # -> (1, 1, 1) (1, 1, 2)

# %% [markdown]
# The other 3 x 3 convolutions behind a dropped stride, `conv_kxk` and `fusion`, are never dilated. So, unlike the two
# layers above, the network with another output stride is another function, and has to be trained with it.
#
# ## What a dilated kernel sees
#
# DeepLabV3 writes dilation as a rate $r$ (section 3.1, equation 1; the word there is *atrous*, "with holes"):
#
# $$y[i] = \sum_k x[i + r k] \, w[k]$$
#
# A 3 x 3 kernel of rate $r$ still has nine weights, but the corners lie $2r$ apart: it spans $2r + 1$ pixels.

# %%
rates = pipeline.config.atrous_rates
print(rates, [2 * rate + 1 for rate in rates])  # -> (6, 12, 18) [13, 25, 37]
last = taps["mobilevit.encoder.layer.4"]
print(last.shape)  # -> (1, 80, 23, 30)

# %% [markdown]
# The last map has 23 x 30 pixels, and a kernel of rate 18 is 37 wide. How many of its nine weights meet a pixel and not
# the zeros around the map? Count them, by a kernel of ones on a map of ones:

# %%
ones, kernel = np.ones((1, 1, 23, 30), np.float32), np.ones((1, 1, 3, 3), np.float32)
met = {rate: ops.conv2d(ones, weight=kernel, padding=rate, dilation=rate) for rate in rates}  # each (1, 1, 23, 30)
print([int(counts.max()) for counts in met.values()])  # -> [9, 6, 4]
print([round(float(counts.mean()), 1) for counts in met.values()])  # -> [6.4, 4.3, 2.6]

# %% [markdown]
# With a high rate the kernel is hardly more than its middle weight, a 1 x 1 convolution (DeepLabV3, section 3.3 and
# figure 4). The rate cannot grow until the kernel sees the whole picture. So the head has another branch for that.
#
# ## Five ways to look at a map
#
# *Atrous spatial pyramid pooling*, ASPP, looks at the last map in five ways at once (section 3.3, figure 5): a 1 x 1
# convolution, three 3 x 3 convolutions of different rates, and the average of the whole map, through a 1 x 1
# convolution. Each has 256 channels, with batch normalisation and ReLU. The padding equals the rate, so that all maps
# keep their size ([SEG-02](../mistakes.md#seg-02)). The rates are those of config.json. (DeepLabV3 doubles them at
# output stride 8, MobileViT does not: [SEG-03](../mistakes.md#seg-03).)

# %%
aspp = "segmentation_head.aspp"
branches = [taps[f"{aspp}.convs.{i}"] for i in range(5)]
print({branch.shape for branch in branches})  # -> {(1, 256, 23, 30)}
print(taps[f"{aspp}.convs.4.global_pool"].shape)  # -> (1, 80, 1, 1)
one_value = taps[f"{aspp}.convs.4.conv_1x1"]
print(one_value.shape)  # -> (1, 256, 1, 1)
print(np.allclose(branches[4], one_value, rtol=1e-6))  # -> True

# %% [markdown]
# The fifth branch has one value for each channel. It is resized bilinearly to the size of the others, which repeats it.
#
# The branches are laid side by side as channels, and `project`, a 1 x 1 convolution, makes 256 of the 1280. Its weights
# belong to branches by their place. The shape says nothing about the order, so a wrong one runs
# ([SEG-05](../mistakes.md#seg-05)):

# %%
weight = pipeline.network.parameters()[f"{aspp}.project.convolution.weight"]
print(weight.shape)  # -> (256, 1280, 1, 1)
in_order = ops.conv2d(np.concatenate(branches, axis=1), weight=weight)  # (1, 1280, 23, 30) -> (1, 256, 23, 30)
pooled_first = ops.conv2d(np.concatenate([branches[4], *branches[:4]], axis=1), weight=weight)
expected = taps[f"{aspp}.project.convolution"]
print(np.allclose(in_order, expected, rtol=1e-4, atol=1e-4))  # -> True
print(np.allclose(pooled_first, expected, rtol=1e-4, atol=1e-4))  # -> False

# %% [markdown]
# Behind `project` come normalisation, ReLU, and `classifier`: a 1 x 1 convolution to as many channels as there are
# classes, without normalisation and with a bias. It is the only convolution of the network that has one
# ([SEG-13](../mistakes.md#seg-13)).
#
# ## ReLU, whatever the config says
#
# `hidden_act` of config.json names the activation of the network, SiLU. The head does not obey it: its activation is
# ReLU, which the values show, as SiLU lets small negative numbers through. A port that builds the head from the
# network's own layer function gets this wrong ([SEG-01](../mistakes.md#seg-01)). The package can run its network with a
# mistake of the catalogue in it. This is the street with SiLU in the head:

# %%
print(pipeline.config.hidden_act, bool(last.min() < 0))  # -> silu True
print([float(branch.min()) for branch in branches])  # -> [0.0, 0.0, 0.0, 0.0, 0.0]
with_silu = run_changed(pipeline.network, pixel_values, mutant_named("SEG-01").make("silu"))
labels, labels_with_silu = taps["logits"][0].argmax(axis=0), with_silu["logits"][0].argmax(axis=0)  # (23, 30)
print(labels.shape, bool((labels_with_silu != labels).any()))  # -> (23, 30) True
print(f"{np.mean(labels_with_silu != labels):.1%} of the labels differ")

# %% [markdown]
# No error, and a mask that looks plausible. That is why layers are compared, and not masks (lesson 12).
#
# ## From logits to pixels
#
# The network ends with logits, a score for each class, at 23 x 30 pixels. For a mask they are **resized first**, to the
# size of the picture, and then the class with the largest is taken (the *argmax*). The resize is bilinear: each new
# value is a mix of the four old ones around it. Where is "around"? A pixel is a square, and its value stands at its
# centre: at $j + \frac12$ for pixel $j$. So new pixel $i$ of $n'$ looks up the old map of $n$ pixels at
#
# $$\Bigl(i + \tfrac12\Bigr) \frac{n}{n'} - \tfrac12$$
#
# counted from the centre of the first pixel. The other rule that is in use, `align_corners=True`, lays the centres of
# the first and the last pixels on each other and spreads the rest evenly between them:

# %%
two = np.array([[[[0.0, 1.0]]]], np.float32)  # (1, 1, 1, 2)
print(ops.resize_bilinear(two, (1, 4))[0, 0])  # -> [[0.   0.25 0.75 1.  ]]
corners = sources_at(np.linspace(0, 1, 4), 2, two.dtype)
print(blend(two, corners, axis=3)[0, 0].round(2))  # -> [[0.   0.33 0.67 1.  ]]

# %% [markdown]
# Here are three masks of the street: the right one, that of aligned corners ([SEG-10](../mistakes.md#seg-10)), and that
# of labels which are found first and then enlarged to the nearest ([SEG-09](../mistakes.md#seg-09)). Labels cannot be
# mixed: between class 1 and class 3 does not lie class 2. So each label fills a square of about 16 x 16 pixels.

# %%
logits = taps["logits"]
height, width = pixel_values.shape[2:]
resized = ops.resize_bilinear(logits, (height, width))  # (1, 11, 360, 480)
mask = resized[0].argmax(axis=0)
print(resized.shape, mask.shape)  # -> (1, 11, 360, 480) (360, 480)

rows, columns = (sources_at(np.linspace(0, n - 1, m), n, logits.dtype) for n, m in ((23, height), (30, width)))
mask_of_corners = blend(blend(logits, columns, axis=3), rows, axis=2)[0].argmax(axis=0)
nearest_rows, nearest_columns = np.arange(height) * 23 // height, np.arange(width) * 30 // width
mask_of_labels = labels[np.ix_(nearest_rows, nearest_columns)]
print(f"other pixels: {np.mean(mask_of_corners != mask):.1%} (SEG-10), {np.mean(mask_of_labels != mask):.1%} (SEG-09)")

result = pipeline.segment(IMAGES / "street.png")
print(np.mean(result.mask == mask) > 0.999)  # -> True

# %% [markdown]
# The last line compares with `segment`, which does all of this. (It runs the fast engine, whose logits are rounded
# otherwise; a pixel whose two largest logits are all but equal may differ. Lesson 11 is about that.)
#
# A softmax over the classes makes probabilities of the resized logits. The figure shows those of the class "car". In
# the masks, buildings are red, the sky is grey, the road is mauve, pavement is blue, and cars are dark violet.

# %%
car = next(index for index, name in pipeline.config.id2label.items() if name == "car")
probability = ops.softmax(np.moveaxis(resized[0], 0, -1))[..., car]  # (360, 480)
print(probability.shape)  # -> (360, 480)

colours = palettes.class_colours(pipeline.config.id2label)
part = np.s_[150:270, 180:340]  # (120, 160) pixels around the cars
crops = [overlay.overlay(result.image, chosen, colours, alpha=0.7)[part] for chosen in (mask, mask_of_labels)]
panels = [
    (drawing.picture(overlay.overlay(result.image, mask, colours, alpha=0.6)[::2, ::2]), "the street and its mask"),
    (drawing.heatmap(logits[0, car], colours="grey", cell=8), "logits of 'car', 23 x 30"),
    (drawing.heatmap(probability[::2, ::2], low=0, high=1, colours="grey", cell=1), "probability of 'car', 360 x 480"),
    (drawing.picture(crops[0], cell=2), "resized, then the largest"),
    (drawing.picture(crops[1], cell=2), "the largest, then resized: SEG-09"),
    (drawing.heatmap((mask != mask_of_labels)[part], colours="grey", cell=2), "where the two differ"),
]
figure("10_deeplabv3", drawing.arranged(panels, columns=3))

# %% [markdown]
# ![A street under the colours of its classes; the 23 x 30 logits of the class car, and its probability at every pixel;
# below, a car's outline that is smooth if logits are resized, and made of blocks if labels
# are](figures/10_deeplabv3.png)
#
# ## Exercises
#
# The answers, with the code that checks them, are in [answers/10_deeplabv3.py](answers/10_deeplabv3.py).
#
# 1. A picture of 512 x 512 goes into a segmenter with output stride 16. How large are the logits? How far apart, in
#    pixels of the picture, are the outer columns of the kernel of rate 18? How many weights has that branch for a map
#    of 160 channels, and how many has the branch of rate 6?
# 2. The fifth branch is the same at all pixels. Show that `project` could do without it, if its convolution had a bias.
#    Why does the network not simply have that bias?
# 3. Compute a convolution of dilation 2 with undilated convolutions only. (Which pixels does the kernel at an even row
#    and an odd column see?)
