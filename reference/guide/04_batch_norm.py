# %% [markdown]
# # 4. Batch normalisation, a scale and a shift
#
# Behind nearly every convolution of MobileViT stands a batch normalisation. It has made deep networks much easier to
# train. In a trained one little is left of it: two numbers for each channel, which can be hidden in the weights of the
# convolution. This lesson shows what is left, how it is hidden, and why that cannot be done with the other
# normalisation of MobileViT, layer norm.
#
# You need lesson 2, and what mean and variance are.

# %%
import numpy as np
from lesson import IMAGES, figure

from npmobilevit import MobileViTForImageClassification, MobileViTImageProcessor, ops
from npmobilevit.engine import folding
from npmobilevit.validation.mutants import mutant_named
from npmobilevit.validation.replay import run_changed
from npmobilevit.visual import drawing

model = MobileViTForImageClassification.from_pretrained("cifar10-xx-small")
weights = model.parameters()
pictures = [IMAGES / "chelsea.png", IMAGES / "coffee.png"]
pixels = MobileViTImageProcessor.from_pretrained("cifar10-xx-small")(pictures)["pixel_values"]
print(pixels.shape)  # -> (2, 3, 64, 64)

# %% [markdown]
# ## What it is for, and what is left of it
#
# Training changes all layers at once, a little each time, and what a layer is given grows or shrinks meanwhile. So,
# while a network is trained, each channel is brought to mean 0 and variance 1 over all pixels of a **batch**, the
# pictures that are computed at once; then two learned numbers $\gamma$ and $\beta$ give it the spread and the middle
# that are best ([Ioffe and Szegedy](https://arxiv.org/abs/1502.03167), algorithm 1).
#
# When the network is used, there may be one picture alone, and its answer must not depend on others. So training also
# keeps averages of the means and variances, the **running statistics** $\mu$ and $\sigma^2$, and the trained network
# uses these (algorithm 2):
#
# $$y = \gamma \, \frac{x - \mu}{\sqrt{\sigma^2 + \varepsilon}} + \beta$$
#
# The small number $\varepsilon = 10^{-5}$ is there so that nobody divides by zero. Four numbers for each channel:

# %%
norm = "mobilevit.conv_stem.normalization"
stem = {leaf: weights[f"{norm}.{leaf}"] for leaf in ("weight", "bias", "running_mean", "running_var")}
print(*(values.shape for values in stem.values()))  # -> (16,) (16,) (16,) (16,)

# %% [markdown]
# ($\gamma$ is called `weight`, $\beta$ `bias`.) All four are constants now, so all that happens to a value is a
# multiplication and an addition, $y = a x + b$, with
#
# $$a = \frac{\gamma}{\sqrt{\sigma^2 + \varepsilon}}, \qquad b = \beta - \mu a$$

# %%
taps = model.taps(pixels)  # what every layer puts out, by name
x, y = taps["mobilevit.conv_stem.convolution"], taps[norm]
print(x.shape, y.shape)  # -> (2, 16, 32, 32) (2, 16, 32, 32)

a = stem["weight"] / np.sqrt(stem["running_var"] + np.float32(1e-5))  # (16,)
b = stem["bias"] - stem["running_mean"] * a  # (16,)
print(np.allclose(y, a[:, np.newaxis, np.newaxis] * x + b[:, np.newaxis, np.newaxis], atol=1e-5))  # -> True

# %% [markdown]
# Without $\gamma$ and $\beta$, has each channel mean 0 and variance 1 now? Not for these two pictures, and it should
# not: the statistics are those of the training pictures. Four of the 16 channels, their means and their variances:

# %%
standard = (y - stem["bias"][:, np.newaxis, np.newaxis]) / stem["weight"][:, np.newaxis, np.newaxis]
print(standard.mean(axis=(0, 2, 3)).round(1)[:4], standard.var(axis=(0, 2, 3)).round(1)[:4])

# %% [markdown]
# ## Two ways to get it wrong
#
# **Statistics of this batch** ([NRM-11](../mistakes.md#nrm-11)): the program normalises as in training. Then the answer
# for the cat depends on what else is in the batch:

# %%


def share_of_cat(logits):
    """What softmax gives to the cat, in percent."""
    return f"{100 * ops.softmax(logits)[0, 3]:.0f} %"


alone = pixels[:1]  # (1, 3, 64, 64)
print(share_of_cat(model(alone).logits), share_of_cat(model(pixels).logits))  # -> 77 % 77 %
batch_statistics = mutant_named("NRM-11").make(None)
wrong = [run_changed(model, batch, batch_statistics)["logits"] for batch in (alone, pixels)]
print(share_of_cat(wrong[0]), share_of_cat(wrong[1]))  # -> 13 % 8 %

# %% [markdown]
# **Another $\varepsilon$** ([NRM-01](../mistakes.md#nrm-01)): Keras takes $10^{-3}$ unless it is told otherwise. That
# is nothing beside a variance of 1. But some channels vary little, most of them behind depthwise convolutions (exercise
# 2). This is the smallest variance of the network, and the factor by which $10^{-3}$ makes its channel smaller:

# %%
variances = np.concatenate([values for name, values in weights.items() if name.endswith("running_var")])
smallest = float(variances.min())
print(f"{smallest:.6f}")  # -> 0.000233
print(round(((smallest + 1e-5) / (smallest + 1e-3)) ** 0.5, 2))  # -> 0.44
print(share_of_cat(run_changed(model, alone, mutant_named("NRM-01").make(1e-3))["logits"]))  # -> 89 %

# %% [markdown]
# The cat is even more of a cat to the wrong network, which shows how little one answer proves.
#
# ## Folding
#
# A convolution without a bias is a sum of weights times values. Multiplying the sum by $a$ is the same as multiplying
# every weight by $a$, and the shift $b$ is a bias:
#
# $$a_o \sum_{c,u,v} w_{o,c,u,v} \, x_{c,i+u,j+v} + b_o = \sum_{c,u,v} (a_o w_{o,c,u,v}) \, x_{c,i+u,j+v} + b_o$$
#
# So both layers are one convolution with other weights, and the normalisation costs nothing any more. Programs that
# have to be fast do this once, when the network is loaded; the fast engine of this package does.

# %%
folded = folding.convolution(weights, "mobilevit.conv_stem")  # computed in float64
print(folded.weight.shape, folded.bias.shape)  # -> (16, 3, 3, 3) (16,)

kernels, shift = folded.weight.astype(np.float32), folded.bias.astype(np.float32)
at_once = ops.conv2d(pixels, weight=kernels, bias=shift, stride=2, padding=1)
print(at_once.shape)  # -> (2, 16, 32, 32)

# %% [markdown]
# Is it equal? Not to the last bit, because float32 rounds the results of all operations, each by a factor of at most
# $1 \pm 6 \cdot 10^{-8}$, and the operations are others now. On either way, at most 32 of them lie between a product
# and the result. So the two may differ by 64 times that, relative to the sum of the products *without their signs*.
# This is a tolerance that nobody has to guess; lesson 11 makes a method of it.

# %%
size = ops.conv2d(
    pixels, weight=abs(kernels), bias=abs(stem["bias"]) + abs(stem["running_mean"] * a), stride=2, padding=1
)
difference = abs(at_once - y)
print(bool((difference <= 64 * 6e-8 * size).all()))  # -> True
print(bool(difference.max() > 0), bool(difference.max() < 1e-5))  # -> True True

# %% [markdown]
# The factor $a_o$ belongs to the *output* channel: kernels are (O, C, 3, 3), and it goes along the first axis. Along
# the second, all shapes fit wherever there are as many inputs as outputs, and the network is another one
# ([NRM-12](../mistakes.md#nrm-12)).
#
# ## Where it does not work
#
# - **An activation in between**: the fold needs that nothing but sums and products lies between the two. In MobileViT
#   each normalisation stands directly behind its convolution, so all of them fold.
# - **A convolution behind the normalisation**, if it pads: exercise 3.
# - **Layer norm**, the normalisation of the transformer ([Ba, Kiros and Hinton](https://arxiv.org/abs/1607.06450)). It
#   takes its mean $m$ and variance $v$ from the very values that it normalises: from the $D$ channels of one token
#   (lesson 6; read: of one pixel). Nothing is stored but $\gamma$ and $\beta$.
#
# $$m = \frac{1}{D} \sum_d x_d, \qquad v = \frac{1}{D} \sum_d (x_d - m)^2, \qquad
# y_d = \gamma_d \, \frac{x_d - m}{\sqrt{v + \varepsilon}} + \beta_d$$

# %%
block = "mobilevit.encoder.layer.2"
tokens = model.taps(alone, f"{block}.unfolded")[f"{block}.unfolded"]
print(tokens.shape)  # -> (4, 16, 64)

name = f"{block}.transformer.layer.0.layernorm_before"
gamma, beta = weights[f"{name}.weight"], weights[f"{name}.bias"]
normal = ops.layer_norm(tokens, weight=gamma, bias=beta)
print(np.allclose(normal, model.taps(alone, name)[name], atol=1e-4))  # -> True

plain = ops.layer_norm(tokens, weight=np.ones_like(gamma), bias=np.zeros_like(beta))
print(np.allclose(plain.mean(axis=-1), 0, atol=1e-5), np.allclose(plain.var(axis=-1), 1, atol=1e-3))  # -> True True

# %% [markdown]
# A token that is ten times as large comes out the same (up to $\varepsilon$), as its deviation is ten times as large,
# too. A scale and a shift by constants cannot do that, so the division stays. Only $\gamma$ and $\beta$ can move, into
# the linear layer behind (`folding.after_layer_norm`).

# %%
larger = ops.layer_norm(10 * tokens, weight=gamma, bias=beta)
print(np.allclose(larger, normal, atol=1e-3))  # -> True

# %% [markdown]
# Three details to get right:
#
# - the variance is **biased**: divided by $D$ and not by $D - 1$, which for 64 channels would make all values 0.8 %
#   smaller;
# - $\varepsilon$ is $10^{-5}$ here, too, not $10^{-6}$ ([NRM-05](../mistakes.md#nrm-05)), nor the $10^{-3}$ of Keras
#   ([NRM-06](../mistakes.md#nrm-06));
# - the axis is that of the channels, not that of the tokens ([NRM-07](../mistakes.md#nrm-07)).

# %%
print(round((63 / 64) ** 0.5, 3))  # -> 0.992

# %% [markdown]
# ## What to remember
#
# A batch normalisation gives each map another contrast and another brightness, and changes nothing in the picture that
# it shows. The figure has all 16 maps of the first layer before and after, each time on one scale.

# %%


def side_by_side(maps, limit):
    """All maps (16, 32, 32) of a picture on one scale, in four rows."""
    framed = np.pad(maps, ((0, 0), (0, 1), (0, 1)))  # (16, 33, 33): a white line between maps
    tiles = framed.reshape(4, 4, 33, 33).transpose(0, 2, 1, 3)  # (4, 33, 4, 33)
    return drawing.heatmap(tiles.reshape(132, 132), low=-limit, high=limit, colours="diverging", cell=2)


exponents = np.linspace(-5, 1, 121)
factor = {
    name: (exponents, np.sqrt((10**exponents + 1e-5) / (10**exponents + eps)))
    for name, eps in (("eps 1e-5", 1e-5), ("eps 1e-3", 1e-3))
}
parts = [
    (side_by_side(x[0], 0.5), "behind the convolution: -0.5 to 0.5"),
    (side_by_side(y[0], 5), "a scale and a shift later: -5 to 5"),
    (
        drawing.curves(factor, width=330, height=264, x_label="log10 of the variance"),
        "scale of a channel, relative to eps 1e-5",
    ),
]
figure("04_batch_norm", drawing.arranged(parts))

# %% [markdown]
# ![The 16 maps behind the first convolution, some of them nearly all dark blue or dark red and others pale, and the
# same maps behind the normalisation, all of about the same strength; a curve that falls from 1 for a variance of 1 to
# below 0.2 for one of 0.00001 with the wrong epsilon](figures/04_batch_norm.png)
#
# ## Exercises
#
# The answers, with the code that checks them, are in [answers/04_batch_norm.py](answers/04_batch_norm.py).
#
# 1. The convolutions of MobileViT that have a batch normalisation behind them have no bias. Why would one be useless?
# 2. Below which variance does $\varepsilon = 10^{-3}$ in place of $10^{-5}$ make a channel smaller by more than 1 %?
#    How many channels of the network of this lesson are that?
# 3. A batch normalisation stands *before* a 3 x 3 convolution with padding 1. Fold it into that convolution. Where is
#    the result wrong, and what would have to be padded in place of zeros to make it right?
