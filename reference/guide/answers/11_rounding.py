# %% [markdown]
# # Answers to lesson 11, rounding

# %%
import math

import numpy as np

import npmobilevit as nm

u = 2.0**-24

# %% [markdown]
# ## 1. The first whole number that is missing
#
# With 24 binary digits there are all whole numbers up to 2^24 = 16,777,216. From there to 2^25 the numbers are 2 apart,
# so 16,777,217 is missing. To add 1 to the number before it gives that number again: the sum lies half way between two
# numbers, and a tie goes to the one whose last binary digit is 0.

# %%
assert all(int(np.float32(number)) == number for number in range(2**24 - 1000, 2**24 + 1))
assert int(np.float32(2**24 + 1)) == 2**24
assert np.float32(2**24) + np.float32(1) == np.float32(2**24)
assert np.float32(2**24) + np.float32(2) == np.float32(2**24 + 2)

# %% [markdown]
# ## 2. Adding in pairs
#
# 16,384 = 2^14, so after 14 rounds one number is left. On its way into the result each number passes 14 additions, not
# 16,383, and each of them moves the partial sum by a share of u at most. The roundings of one round move the result by
# u S together, and all of them by 14 u S (Higham, section 4.2, pairwise summation). NumPy's `sum` works in a similar
# way.

# %%
rng = np.random.default_rng(1111)
terms = rng.random(2**14, dtype=np.float32)
exact = math.fsum(terms)
unit = u * exact  # u * S: all terms are positive


def in_pairs(sums):
    """Their sum, added up in pairs."""
    while len(sums) > 1:
        sums = sums[::2] + sums[1::2]
    return float(sums[0])


orders = [rng.permutation(terms) for _ in range(100)]
paired = np.abs([in_pairs(ordered) - exact for ordered in orders]) / unit
one_by_one = np.abs([float(np.cumsum(ordered)[-1]) - exact for ordered in orders]) / unit
assert paired.max() <= 14
assert one_by_one.max() > 14

# %% [markdown]
# ## 3. A layer in float16
#
# In a product w x both factors are rounded, each by a share v = 2^-11 at most: the product becomes at most (1 + v)^2 -
# 1 = 2 v + v^2 of itself larger or smaller. All of them together move the sum by (2 v + v^2) S, and the bias by less.
# Numbers below 2^-14 have fewer digits in float16, and are off by up to 2^-25 instead: that adds 2^-25 times the size
# of the other factor. The roundings of the sum in float32 add n u S, with n = 65, and with the changed terms.
#
# 2 v is 2^-10, and n u about 2^-18: what matters is that the factors were rounded. The result has some three decimal
# digits, and is far beyond the float32 tolerance.

# %%
v = 2.0**-11
pipeline = nm.load("cifar10-xx-small")
layer = "mobilevit.encoder.layer.2.transformer.layer.0"
taps = pipeline.network.taps(rng.random((1, 3, 64, 64), np.float32))
x = taps[f"{layer}.layernorm_before"]
weight, bias = (
    pipeline.network.parameters()[f"{layer}.attention.attention.query.{leaf}"] for leaf in ("weight", "bias")
)
own_weight = weight * np.float32(1.1)  # those of this checkpoint are float16 numbers already

exact = x.astype(np.float64) @ own_weight.T.astype(np.float64) + bias  # (4, 16, 64)
size = np.abs(x).astype(np.float64) @ np.abs(own_weight.T).astype(np.float64) + np.abs(bias)
narrow_x, narrow_weight = (a.astype(np.float16).astype(np.float32) for a in (x, own_weight))
error = np.abs(narrow_x @ narrow_weight.T + bias - exact)

small = 2.0**-25 * (np.abs(x).sum(axis=-1, keepdims=True) + np.abs(own_weight).sum(axis=1))  # (4, 16, 64)
changed = (2 * v + v**2) * size + small
assert (error <= changed + 65 * u * (size + changed)).all()
assert 65 * u * size.max() < changed.max() / 100
assert (error > 6.8 * math.sqrt(65) * u * size).mean() > 0.5
