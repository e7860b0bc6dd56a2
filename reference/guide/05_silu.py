# %% [markdown]
# # 5. SiLU and friends
#
# Between the convolutions and matrices of MobileViT stands a function of one number, applied to every value by itself:
# the **activation**. MobileViT has SiLU, also called Swish ([paper](https://arxiv.org/abs/2110.02178), section 3.1).
# This lesson is about what it does, how a computer makes NaN of it, and how near another function may come to it.
#
# You need the exponential function, and that float32 numbers have about seven decimal digits.

# %%
import dataclasses

import numpy as np
from lesson import IMAGES, figure

from npmobilevit import (
    MobileViTForImageClassification,
    MobileViTForSemanticSegmentation,
    MobileViTImageProcessor,
    ops,
)
from npmobilevit.scope import OpTable
from npmobilevit.validation.mutants import mutant_named
from npmobilevit.validation.replay import run_changed
from npmobilevit.visual import drawing

# %% [markdown]
# ## Why there has to be one
#
# Two linear layers, one behind the other, are one linear layer: $B (A x) = (B A) x$. A hundred of them are one, too. A
# network is more than a single matrix only because something that is *not* linear stands in between.

# %%
rng = np.random.default_rng(5)
first, second, values = rng.normal(size=(6, 4)), rng.normal(size=(3, 6)), rng.normal(size=(4, 10))
print(np.allclose(second @ (first @ values), (second @ first) @ values))  # -> True
print(np.allclose(second @ ops.silu(first @ values), ops.silu(second @ first @ values)))  # -> False

# %% [markdown]
# ## SiLU
#
# $$\sigma(x) = \frac{1}{1 + e^{-x}}, \qquad \mathrm{silu}(x) = x \, \sigma(x)$$
#
# The sigmoid $\sigma$ goes from 0 to 1. So SiLU multiplies a large value by nearly 1, and a very negative one by nearly
# 0: a soft switch, which the value itself turns on. (It came up in 2016 and 2017 under several names: [Hendrycks and
# Gimpel](https://arxiv.org/abs/1606.08415), [Elfwing and others](https://arxiv.org/abs/1702.03118).)

# %%
x = np.array([-20, -5, -1.28, 0, 1, 5, 20], np.float32)
print(ops.silu(x).round(3))  # -> [-0.    -0.033 -0.278  0.     0.731  4.967 20.   ]

# %% [markdown]
# Its neighbours:
#
# - **ReLU** is the hard switch, $\max(x, 0)$;
# - **GELU** is $x \, \Phi(x)$, with the distribution function $\Phi$ of the normal distribution in place of the
#   sigmoid; many transformers have it;
# - **hard-swish** is made of straight lines and one parabola, for processors that have no exponential function.
#
# They look alike, and that is the trouble with them. This is how far they are from SiLU, at most:

# %%
grid = np.linspace(-8, 8, 16001)
silu = ops.silu(grid)
for name in ("relu", "gelu", "hardswish"):
    print(f"{name:9} {np.abs(ops.ACTIVATIONS[name](grid) - silu).max():.2f}")

# %% [markdown]
# ## What a computer makes of it
#
# The largest float32 is about $3.4 \cdot 10^{38}$, so $e^x$ overflows above $x = 88.7$, and becomes infinite:

# %%
print(round(float(np.log(np.finfo(np.float32).max)), 1))  # -> 88.7
low = np.array([-100], np.float32)
try:
    with np.errstate(over="raise"):
        1 / (1 + np.exp(-low))
except FloatingPointError as error:
    print(error)  # -> overflow encountered in exp

# %% [markdown]
# By default NumPy warns and goes on. The result is right all the same: $1 / (1 + \infty) = 0$, and
# $\sigma(-100) \approx 4 \cdot 10^{-44}$ is as good as zero. So the package computes $x / (1 + e^{-x})$, in place of a
# product with the sigmoid, and silences this one warning. `sigmoid` and `silu` never warn, whatever they are given:

# %%
with np.errstate(all="raise"):
    print(ops.sigmoid(low), ops.silu(low))  # -> [0.] [-0.]

# %% [markdown]
# Other ways to write the same function are not harmless. $x \, e^x / (1 + e^x)$ is equal on paper; for a large $x$ it
# is $\infty / \infty$, which is not a number. And in float16, which many devices compute in, large begins at 11:

# %%
print(round(float(np.log(np.finfo(np.float16).max)), 1))  # -> 11.1
model = MobileViTForImageClassification.from_pretrained("cifar10-xx-small")
pixels = MobileViTImageProcessor.from_pretrained("cifar10-xx-small")(IMAGES / "chelsea.png")["pixel_values"]
taps = model.taps(pixels)  # what every layer puts out, by name
inside = taps["mobilevit.encoder.layer.1.layer.0.expand_1x1.normalization"]
print(inside.shape, round(float(inside.max()), 1))  # -> (1, 32, 32, 32) 20.2

half = inside.astype(np.float16)
with np.errstate(over="ignore", invalid="ignore"):
    good, bad = half / (1 + np.exp(-half)), half * (np.exp(half) / (1 + np.exp(half)))
print(int(np.isnan(good).sum()), np.isnan(bad).any())  # -> 0 True

# %% [markdown]
# Those NaN arise in the second of five layers, for an ordinary picture of a cat. One NaN spoils every sum that it is
# part of, so in the end all logits are NaN.
#
# ## Which one stands where
#
# `hidden_act` of the file config.json names the activation, and it is SiLU in all published MobileViTs. But not
# everywhere:
#
# - nowhere behind the projection of an inverted residual (lesson 3), `conv_1x1` of a MobileViT block, or a classifier;
# - in ASPP, the end of the networks that segment (lesson 10), it is **ReLU**, whatever `hidden_act` says: that part
#   comes from another network, [DeepLabV3](https://arxiv.org/abs/1706.05587). SiLU there is
#   [SEG-01](../mistakes.md#seg-01).

# %%
segmenter = MobileViTForSemanticSegmentation.from_pretrained("camvid-deeplabv3-xx-small")
settings = MobileViTImageProcessor.from_pretrained("camvid-deeplabv3-xx-small")
street = settings(IMAGES / "street.png", size=96, do_center_crop=False)["pixel_values"]  # small, to be quick
print(street.shape)  # -> (1, 3, 96, 128)

ends = segmenter.taps(street, ["mobilevit.encoder.layer.4.fusion", "segmentation_head.aspp"])
print([values.shape for values in ends.values()])  # -> [(1, 80, 6, 8), (1, 256, 6, 8)]
print([bool(values.min() < 0) for values in ends.values()])  # -> [True, False]

# %% [markdown]
# And GELU in the transformer, because many transformers have it ([TRF-05](../mistakes.md#trf-05))? The cat remains a
# cat, but a logit is off by a sixth of the largest. Only a comparison of numbers finds such a mistake:

# %%
gelu = run_changed(model, pixels, mutant_named("TRF-05").make(None))["logits"]
print(model.config.id2label[int(gelu.argmax())])  # -> cat
print(round(float(np.abs(gelu - taps["logits"]).max()), 1), round(float(np.abs(taps["logits"]).max()), 1))  # -> 0.5 3.1

# %% [markdown]
# What a wrong activation computes is easy to see, as it has no weights and looks at no neighbours. Take what goes in
# and what comes out at one place of the network, and draw one against the other: the points lie on the curve of the
# function that was computed (exercise 3). But look at what goes in first: some layers have inputs at which many
# functions agree.

# %%
dense = taps["mobilevit.encoder.layer.2.transformer.layer.1.intermediate.dense"]
print(dense.shape, round(float(dense.min()), 1), round(float(dense.max()), 1))  # -> (4, 16, 128) -0.3 -0.1

# %% [markdown]
# ## Approximations
#
# An exponential function is expensive in hardware. The usual replacement is a table: the values at $n + 1$ points, and
# straight lines between them. How wrong is that? Between two points at a distance $h$, a curve leaves its chord by at
# most $h^2 / 8$ times its largest second derivative, and that of SiLU is 1/2, at 0. (Outside of the table it is
# replaced by 0 or $x$, which is off by less than 0.003.)

# %%


def table(intervals):
    """SiLU by straight lines between points of -8 to 8, and by 0 or x outside."""
    points = np.linspace(-8, 8, intervals + 1)

    def function(values):
        inside = np.interp(values, points, ops.silu(points))
        return np.where(abs(values) <= 8, inside, np.maximum(values, 0)).astype(values.dtype)

    return function


for intervals in (16, 64, 256):
    error, bound = np.abs(table(intervals)(grid) - silu).max(), (16 / intervals) ** 2 / 16
    print(intervals, f"{error:.5f} {bound:.5f}", bool(error <= bound))

# %% [markdown]
# Four times as many points, a sixteenth of the error. Which of them is good enough is a question to the network, not to
# the curve. Layers reach their operators through a table of their own, in which another SiLU can stand:

# %%
worst = {}
for name, function in {"hardswish": ops.hardswish, "64 lines": table(64), "256 lines": table(256)}.items():
    scope = dataclasses.replace(model.scope(), ops=OpTable(activations={"silu": function}))
    logits, _ = model.forward(scope, pixels)
    worst[name] = float(np.abs(logits - taps["logits"]).max())
    print(f"{name:9} changes a logit by up to {worst[name]:.4f}")
print(worst["256 lines"] < worst["64 lines"] < worst["hardswish"])  # -> True

# %% [markdown]
# A check that knows nothing of tables calls each of them a mistake ([NUM-03](../mistakes.md#num-03)); lesson 12 shows
# how a port says what it computes with. For comparison, the figure also has what rounding to float16 alone does.

# %%
wide = (grid >= -5) & (grid <= 3)
names = ("silu", "relu", "gelu", "hardswish")
shapes = {name: (grid[wide], ops.ACTIVATIONS[name](grid[wide])) for name in names}
others = {"silu, rounded to float16": lambda values: ops.silu(values).astype(np.float16)}
others |= {name: ops.ACTIVATIONS[name] for name in names[1:]} | {"64 lines": table(64), "256 lines": table(256)}
quarters = np.arange(-8, 8, 0.25)  # the largest distance in each
errors = {
    name: (quarters, np.abs(function(grid) - silu)[:-1].reshape(64, 250).max(axis=1))
    for name, function in others.items()
}
parts = [
    (drawing.curves(shapes, width=400, height=320, x_label="x"), "the functions"),
    (drawing.curves(errors, width=460, height=320, x_label="x", log_y=True), "their distance from SiLU"),
]
figure("05_silu", drawing.arranged(parts))

# %% [markdown]
# ![Left: SiLU, a curve that dips to -0.28 and then rises like x, between ReLU with its corner, GELU, which dips less,
# and hard-swish. Right: their distance from SiLU, up to some tenths for the three, some thousandths for a table of 64
# lines and some ten-thousandths for one of 256, beside the rounding to float16, which grows with
# x](figures/05_silu.png)
#
# ## Exercises
#
# The answers, with the code that checks them, are in [answers/05_silu.py](answers/05_silu.py).
#
# 1. Show that $\mathrm{silu}(x) - \mathrm{silu}(-x) = x$. How does this halve a table?
# 2. Where has SiLU its minimum? Find the place to eight digits, and show that the value there is the place plus one.
# 3. Write a function that tells from the input and the output of an activation which one it was, of all in
#    `ops.ACTIVATIONS`. Which of them does no input in float32 tell apart? Which do inputs between -0.3 and -0.1 not
#    tell apart?
