# %% [markdown]
# # Answers to lesson 5, SiLU

# %%
import math

import numpy as np

from npmobilevit import ops

rng = np.random.default_rng(55)

# %% [markdown]
# ## 1. Half a table
#
# $\sigma(x) + \sigma(-x) = 1$, because $\frac{1}{1 + e^{-x}} + \frac{1}{1 + e^{x}}$ is
# $\frac{e^x}{e^x + 1} + \frac{1}{1 + e^x}$. So $x \sigma(x) - (-x) \sigma(-x) = x (\sigma(x) + \sigma(-x)) = x$.
#
# A table for $x \le 0$ is enough: for a positive $x$ take the entry of $-x$ and add $x$.

# %%
x = np.linspace(0, 20, 2001)
assert np.allclose(ops.silu(x) - ops.silu(-x), x, rtol=1e-14, atol=1e-14)

points = np.linspace(-8, 0, 129)
half = ops.silu(points)
values = rng.uniform(-8, 8, 5000)
from_half = np.interp(-np.abs(values), points, half) + np.maximum(values, 0)
whole = np.linspace(-8, 8, 257)
assert np.allclose(from_half, np.interp(values, whole, ops.silu(whole)), rtol=0, atol=1e-12)

# %% [markdown]
# ## 2. The minimum
#
# The derivative of $\sigma$ is $\sigma (1 - \sigma)$, so that of $x \sigma$ is $\sigma + x \sigma (1 - \sigma)$, or
# $\sigma \cdot (1 + x (1 - \sigma))$. It is zero where $x (1 - \sigma) = -1$, that is, where $x - x \sigma = -1$: the
# value there, $x \sigma$, is $x + 1$. Halving an interval finds the place.

# %%


def slope(x):
    """The factor of the derivative that changes its sign."""
    return 1 + x * (1 - 1 / (1 + math.exp(-x)))


left, right = -3.0, 0.0
assert slope(left) < 0 < slope(right)
for _ in range(50):
    middle = (left + right) / 2
    left, right = (middle, right) if slope(middle) < 0 else (left, middle)
assert round(left, 8) == -1.27846454

place = np.array([left])
assert np.allclose(ops.silu(place), place + 1, rtol=0, atol=1e-12)
around = ops.silu(left + np.array([-0.1, -0.01, 0.01, 0.1]))
assert (around > ops.silu(place)).all()

# %% [markdown]
# ## 3. Which activation was it?
#
# An activation sees each value by itself, so every pair of input and output is a point of its curve: run all functions
# on the input and keep those that agree within rounding. Here the inputs are float32, whose rounding is below $10^{-7}$
# for each of the few operations; a tolerance of $10^{-6}$ relative to the input does.

# %%


def named(entering, leaving):
    """The names of all activations that make of the input what was found."""
    tolerance = 1e-6 * (1 + np.abs(entering))
    return {name for name, f in ops.ACTIVATIONS.items() if (np.abs(f(entering) - leaving) <= tolerance).all()}


everywhere = np.linspace(-30, 30, 6001, dtype=np.float32)
groups = {frozenset(named(everywhere, f(everywhere))) for f in ops.ACTIVATIONS.values()}
assert {group for group in groups if len(group) > 1} == {
    frozenset({"silu", "swish"}),
    frozenset({"gelu", "gelu_python"}),
    frozenset({"gelu_new", "gelu_accurate", "gelu_python_tanh", "gelu_pytorch_tanh", "gelu_fast"}),
}

# %% [markdown]
# So all that stays together are names of one function (`gelu_fast` has a constant with fewer digits, which the
# tolerance does not see). With inputs between -0.3 and -0.1, `relu`, `relu2` and `relu6` are all zero, and nobody sees
# where `gelu_10` is cut off. A comparison is worth as much as the inputs that it is made with.

# %%
narrow = np.linspace(-0.3, -0.1, 2001, dtype=np.float32)
groups = {frozenset(named(narrow, f(narrow))) for f in ops.ACTIVATIONS.values()}
assert {group for group in groups if len(group) > 1} == {
    frozenset({"silu", "swish"}),
    frozenset({"gelu", "gelu_python", "gelu_10"}),
    frozenset({"gelu_new", "gelu_accurate", "gelu_python_tanh", "gelu_pytorch_tanh", "gelu_fast"}),
    frozenset({"relu", "relu2", "relu6"}),
}
