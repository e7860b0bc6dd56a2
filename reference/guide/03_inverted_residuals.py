# %% [markdown]
# # 3. Depthwise convolution and inverted residuals
#
# MobileViT begins with blocks of another network, MobileNetV2 ([paper](https://arxiv.org/abs/1801.04381)), and each of
# its own blocks stands behind one of them. The MobileViT paper calls them MV2 (figure 1b); their inventors call them
# **inverted residuals**. They answer the question how a small processor can afford convolutions.
#
# You need lesson 2. Batch normalisation and the activation SiLU, which stand behind the convolutions here, have lessons
# of their own (4 and 5): read them as "a scale and a shift for each channel" and "negative values become almost zero".

# %%
import numpy as np
from lesson import IMAGES, figure

from npmobilevit import MobileViTForImageClassification, MobileViTImageProcessor, ops
from npmobilevit.validation.mutants import mutant_named
from npmobilevit.validation.replay import run_changed
from npmobilevit.visual import drawing

model = MobileViTForImageClassification.from_pretrained("cifar10-xx-small")
pixels = MobileViTImageProcessor.from_pretrained("cifar10-xx-small")(IMAGES / "chelsea.png")["pixel_values"]
taps = model.taps(pixels)  # what every layer puts out, by name

# %% [markdown]
# ## Two jobs at once
#
# A 3 x 3 convolution from $C$ to $O$ channels multiplies $9 \cdot C \cdot O$ times for each pixel of its result. That
# is much because it does two jobs in one sum: it looks at the nine places around a pixel, *and* it mixes all channels.
# Done one after the other, the jobs are cheap:
#
# - a **depthwise** convolution looks around: each channel has one 3 x 3 kernel of its own and sees no other channel,
#   $9 \cdot C$ multiplications;
# - a **pointwise** one mixes: 1 x 1, $C \cdot O$ multiplications.
#
# Both together cost $C \cdot (9 + O)$ (MobileNetV2, section 3.1, equation 1 with $k = 3$).

# %%
channels = np.array([24, 48, 256])
full, separate = 9 * channels * channels, channels * (9 + channels)
print(full, separate)  # -> [  5184  20736 589824] [  792  2736 67840]
print((full / separate).round(1))  # -> [6.5 7.6 8.7]

# %% [markdown]
# For 48 channels that is 20,736 against 2,736, a factor of 7.6, and for many channels the factor comes near 9. Of
# course the two are not the same function: exercise 3 shows which full convolutions the pair can replace.
#
# ## Depthwise, in three ways
#
# A convolution in `groups` deals its channels out: a group of outputs sees a group of inputs alone. With as many groups
# as channels it is depthwise. Its weight is (C, 1, 3, 3): the 1 says that a kernel sees one channel.

# %%
block = "mobilevit.encoder.layer.1.layer.1"
x = taps[f"{block}.expand_1x1"]
weight = model.parameters()[f"{block}.conv_3x3.convolution.weight"]
print(x.shape, weight.shape)  # -> (1, 48, 16, 16) (48, 1, 3, 3)

depthwise = ops.conv2d(x, weight=weight, padding=1, groups=48)
print(np.allclose(depthwise, taps[f"{block}.conv_3x3.convolution"], atol=1e-5))  # -> True

# %% [markdown]
# The same, channel by channel: 48 convolutions of one channel each. And once more as an ordinary convolution, whose
# kernels are zero wherever they would look at another channel, at 48 times the cost. (A value is a sum of nine
# products, which without their signs come to 4 at most, and float32 rounds each operation by less than a ten-millionth
# of its result. So two right results differ by less than 1e-5.)

# %%
one_by_one = [ops.conv2d(x[:, [c]], weight=weight[[c]], padding=1) for c in range(48)]
print(np.allclose(depthwise, np.concatenate(one_by_one, axis=1), atol=1e-5))  # -> True

full = np.zeros((48, 48, 3, 3), np.float32)
full[range(48), range(48)] = weight[:, 0]
print(np.allclose(depthwise, ops.conv2d(x, weight=full, padding=1), atol=1e-5))  # -> True

# %% [markdown]
# A port that has no groups, or forgets them, lets every kernel see the sum of all channels, or the first one alone
# ([CNV-02](../mistakes.md#cnv-02)). All shapes are right.
#
# ## The block
#
# A depthwise convolution cannot mix channels, so it should have many to choose from. But many channels make the
# pointwise convolutions before and behind it expensive, and the maps large. The inverted residual has many channels in
# its middle and few at its ends (MobileNetV2, section 3.3 and figure 3):
#
# 1. **expand**, 1 x 1: twice as many channels (in the larger MobileViTs, four times), normalisation, SiLU;
# 2. **filter**, 3 x 3 depthwise, normalisation, SiLU;
# 3. **project**, 1 x 1: few channels again, normalisation, *no* SiLU;
# 4. **add** the input.

# %%
steps = ("expand_1x1", "conv_3x3", "reduce_1x1")
begin = taps["mobilevit.encoder.layer.1.layer.0"]  # what the block before put out
wide, filtered, narrow = (taps[f"{block}.{step}"] for step in steps)
end = taps[block]
print(begin.shape)  # -> (1, 24, 16, 16)
print(wide.shape, filtered.shape)  # -> (1, 48, 16, 16) (1, 48, 16, 16)
print(narrow.shape, end.shape)  # -> (1, 24, 16, 16) (1, 24, 16, 16)
print(np.array_equal(end, begin + narrow))  # -> True

# %% [markdown]
# The block before it does one thing more: it halves the map. That is the work of the depthwise convolution, with stride
# 2 ([MV2-07](../mistakes.md#mv2-07) has it elsewhere). Its result has not the shape of its input, so there is nothing
# to add. The rule is: **add if the stride is 1 and input and output have as many channels**.

# %%
before = "mobilevit.encoder.layer.1.layer.0"
print(taps["mobilevit.encoder.layer.0"].shape, taps[before].shape)  # -> (1, 16, 32, 32) (1, 24, 16, 16)
print(np.array_equal(taps[before], taps[f"{before}.reduce_1x1"]))  # -> True

# %% [markdown]
# Where the sum is made, the block computes a *difference* to its input, called **residual**. In older networks the
# residual blocks are wide at their ends and narrow in the middle; here it is the other way round, hence "inverted".
#
# ## Why the narrow end has no activation
#
# An activation makes a network more than one big matrix, so why leave it out? Because it throws information away, and a
# narrow map has none to spare (MobileNetV2, section 3.2). Take ReLU, which sets negative values to zero, and let a
# pixel hold two numbers. A matrix makes $n$ numbers of them, and ReLU keeps the positive ones. Each of those is one
# linear equation for two unknowns: the two numbers can be found again exactly where at least two equations are left.
# How often is that so, over many random matrices?

# %%
rng = np.random.default_rng(3)
angles = np.linspace(0, 2 * np.pi, 360, endpoint=False)
points = np.stack([np.cos(angles), np.sin(angles)])  # (2, 360), all around a circle
for width in (2, 4, 8, 16):
    kept = (ops.relu(rng.normal(size=(500, width, 2)) @ points) > 0).sum(axis=1)  # (500, 360): of `width` numbers
    print(width, f"{(kept >= 2).mean():.0%}")

# %% [markdown]
# With two channels three of four points are lost, with sixteen hardly one. So activations belong where the map is wide,
# and the narrow one is left linear: a **linear bottleneck**. Both signs occur there; behind SiLU nothing is below -0.28
# (lesson 5).

# %%
for name, maps in (("input", begin), ("wide", wide), ("filtered", filtered), ("narrow", narrow), ("sum", end)):
    print(f"{name:9} {maps.shape[1]} channels, {(maps < -0.3).mean():.0%} of the values below -0.3")
print(bool((wide > -0.3).all() and (filtered > -0.3).all()))  # -> True

# %% [markdown]
# What if a port is too tidy, and puts SiLU behind all three convolutions ([MV2-01](../mistakes.md#mv2-01))? Or forgets
# the sum ([MV2-04](../mistakes.md#mv2-04))? `run_changed` runs the network with a mistake of the catalogue:

# %%


def answer(logits):
    """The name of the largest logit."""
    return model.config.id2label[int(logits[0].argmax())]


print(answer(taps["logits"]))  # -> cat
print(answer(run_changed(model, pixels, mutant_named("MV2-01").make("silu"))["logits"]))  # -> deer
print(answer(run_changed(model, pixels, mutant_named("MV2-04").make(None))["logits"]))  # -> deer

# %% [markdown]
# ## What it costs
#
# With $h \cdot w$ pixels, $d$ channels at both ends and $t$ times as many in the middle, all three convolutions take
# $h \cdot w \cdot d \cdot t \cdot (d + 9 + d)$ multiplications (MobileNetV2, section 3.3, with $k = 3$). The middle,
# which does all the looking around, is the least of it.

# %%
height, width, d, t = 16, 16, 24, 2
costs = {"expand": d * t * d, "filter": 9 * d * t, "project": d * t * d}  # for each pixel
print(costs)  # -> {'expand': 1152, 'filter': 432, 'project': 1152}
print(height * width * sum(costs.values()) == height * width * d * t * (d + 9 + d))  # -> True


def side_by_side(maps):
    """All maps (1, C, 16, 16) on one scale, in eight rows."""
    framed = np.pad(maps[0], ((0, 0), (0, 1), (0, 1)))  # (C, 17, 17): a white line between maps
    tiles = framed.reshape(8, -1, 17, 17).transpose(0, 2, 1, 3)  # (8, 17, C/8, 17)
    return drawing.heatmap(tiles.reshape(8 * 17, -1), low=-4, high=4, colours="diverging", cell=2)


maps = (begin, wide, filtered, narrow, end)
captions = ("input: 24", "expanded: 48", "filtered, each by itself: 48", "projected: 24", "sum: 24")
parts = [(side_by_side(values), caption) for values, caption in zip(maps, captions, strict=True)]
figure("03_inverted_residuals", drawing.arranged(parts))

# %% [markdown]
# ![The 24 maps that enter the block, the 48 after the expansion, the 48 after the depthwise convolution, the 24 after
# the projection and the 24 of the sum. Red is positive and blue negative: the wide maps have hardly any blue, the
# narrow ones as much of it as of red](figures/03_inverted_residuals.png)
#
# Red is positive, blue negative. A filtered map shows edges and spots of the expanded one in its place; a projected one
# is a new mixture of all filtered ones.
#
# ## Exercises
#
# The answers, with the code that checks them, are in
# [answers/03_inverted_residuals.py](answers/03_inverted_residuals.py).
#
# 1. `encoder.layer.1.layer.0` goes from 16 channels of 32 x 32 pixels over 32 channels to 24 channels of 16 x 16. How
#    many multiplications does each of its three convolutions take?
# 2. Somebody moves the stride of that block from the depthwise convolution to the expansion, and is proud of the saved
#    time. All shapes are right. What does the network no longer see?
# 3. Without the activation between them, a depthwise and a pointwise convolution are together one full 3 x 3
#    convolution. Which is its kernel? How can you tell of a kernel (O, C, 3, 3) whether it can be split like that?
