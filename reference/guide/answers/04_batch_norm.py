# %% [markdown]
# # Answers to lesson 4, batch normalisation

# %%
import numpy as np

from npmobilevit import MobileViTForImageClassification, ops
from npmobilevit.config import expected_parameters

rng = np.random.default_rng(44)
model = MobileViTForImageClassification.from_pretrained("cifar10-xx-small")

# %% [markdown]
# ## 1. Why there is no bias
#
# The normalisation subtracts the mean of the channel. A bias adds the same number to all values of a channel, so the
# mean grows by it, too, and the difference is what it was. Training could not learn such a bias, because nothing
# depends on it. What shifts a channel is $\beta$, behind the subtraction.

# %%
x = rng.normal(size=(3, 5, 6, 7))
bias = rng.normal(size=5)[:, np.newaxis, np.newaxis]


def normalised(maps):
    """As in training: with the statistics of this very batch."""
    mean, variance = maps.mean(axis=(0, 2, 3)), maps.var(axis=(0, 2, 3))
    return ops.batch_norm(maps, weight=np.ones(5), bias=np.zeros(5), running_mean=mean, running_var=variance)


assert np.allclose(normalised(x + bias), normalised(x), rtol=0, atol=1e-12)
assert not np.allclose(x + bias, x, atol=0.1)

names = expected_parameters(model.config, head="classification")
followed = [name.removesuffix(".normalization.weight") for name in names if name.endswith(".normalization.weight")]
assert len(followed) == 32
assert not any(f"{name}.convolution.bias" in names for name in followed)

# %% [markdown]
# ## 2. Which channels suffer from the epsilon of Keras
#
# The channels have the ratio $\sqrt{(v + 10^{-5}) / (v + 10^{-3})}$. It is 0.99 where
# $v + 10^{-5} = 0.9801 \, (v + 10^{-3})$, so $v = (0.9801 \cdot 10^{-3} - 10^{-5}) / 0.0199 = 0.0487$. It is smaller
# for 297 of the 2056 channels, and all but 19 of these are behind depthwise convolutions.

# %%
limit = (0.9801e-3 - 1e-5) / 0.0199
assert round(limit, 4) == 0.0487
assert np.isclose(np.sqrt((limit + 1e-5) / (limit + 1e-3)), 0.99, rtol=1e-12)

variances = {name: values for name, values in model.parameters().items() if name.endswith("running_var")}
small = {name: int((values < limit).sum()) for name, values in variances.items()}
assert sum(small.values()) == 297
assert sum(len(values) for values in variances.values()) == 2056
assert sum(count for name, count in small.items() if "conv_3x3" not in name) == 19

# %% [markdown]
# ## 3. A normalisation in front
#
# With $y_c = a_c x_c + b_c$, the convolution sums $w_{o,c,u,v} (a_c x_{c,i+u,j+v} + b_c)$: the weights are
# $a_c w_{o,c,u,v}$, along the *inputs*, and the bias is $\sum_{c,u,v} w_{o,c,u,v} \, b_c$.
#
# That counts $b_c$ at all nine places of the kernel. But where the kernel reaches over the border, the zeros are put
# around $y$, not around $x$: there, $b_c$ must not be counted. So the result is right inside and wrong at the border.
# It is right everywhere if what is put around $x$ becomes zero by the normalisation: $-b_c / a_c$.

# %%
channels = 4
gamma, variance = rng.uniform(0.5, 2, channels), rng.uniform(0.5, 2, channels)
beta, mean = rng.normal(size=(2, channels))
a = gamma / np.sqrt(variance + 1e-5)
b = beta - mean * a
x = rng.normal(size=(1, channels, 8, 9))
weight = rng.normal(size=(6, channels, 3, 3))

y = ops.batch_norm(x, weight=gamma, bias=beta, running_mean=mean, running_var=variance)
expected = ops.conv2d(y, weight=weight, padding=1)
kernels = weight * a[:, np.newaxis, np.newaxis]
bias = np.einsum("ocuv,c->o", weight, b)

folded = ops.conv2d(x, weight=kernels, bias=bias, padding=1)
wrong = ~np.isclose(folded, expected, rtol=1e-9, atol=1e-9)  # (1, 6, 8, 9)
assert not wrong[:, :, 1:-1, 1:-1].any()
assert wrong[:, :, [0, -1]].all()
assert wrong[:, :, :, [0, -1]].all()

around = np.broadcast_to((-b / a)[:, np.newaxis, np.newaxis], (1, channels, 10, 11)).copy()
around[:, :, 1:-1, 1:-1] = x
assert np.allclose(ops.conv2d(around, weight=kernels, bias=bias), expected, rtol=1e-9, atol=1e-9)
