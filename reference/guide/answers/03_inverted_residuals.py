# %% [markdown]
# # Answers to lesson 3, depthwise convolution and inverted residuals

# %%
import numpy as np

from npmobilevit import MobileViTForImageClassification, ops
from npmobilevit.ops.conv import convolve

rng = np.random.default_rng(33)
model = MobileViTForImageClassification.from_pretrained("cifar10-xx-small")
block = "mobilevit.encoder.layer.1.layer.0"
kernels = {
    step: model.parameters()[f"{block}.{step}.convolution.weight"] for step in ("expand_1x1", "conv_3x3", "reduce_1x1")
}

# %% [markdown]
# ## 1. The cost of a block that halves the map
#
# - expand: 32 * 32 pixels, 16 * 32 multiplications each: 524,288;
# - filter: the result has 16 * 16 pixels, and each of 32 channels takes 9: 73,728;
# - project: 16 * 16 pixels, 32 * 24 each: 196,608.
#
# The expansion costs most, as it alone works on the large map.

# %%
costs = {}


def counted(step):
    """The product of matrices (G, O, K) and (G, K, N), and the number of its multiplications."""

    def matmul(rows, columns, result):
        costs[step] = costs.get(step, 0) + rows.size * columns.shape[2]
        np.matmul(rows, columns, result)

    return matmul


x = np.zeros((1, 16, 32, 32), np.float32)
wide = convolve(counted("expand_1x1"), x, weight=kernels["expand_1x1"])
filtered = convolve(counted("conv_3x3"), wide, weight=kernels["conv_3x3"], stride=2, padding=1, groups=32)
narrow = convolve(counted("reduce_1x1"), filtered, weight=kernels["reduce_1x1"])
assert narrow.shape == (1, 24, 16, 16)
assert costs == {"expand_1x1": 524_288, "conv_3x3": 73_728, "reduce_1x1": 196_608}

# %% [markdown]
# ## 2. The stride in the expansion
#
# A 1 x 1 kernel with stride 2 looks at every second pixel of every second row and at no other: three pixels of four are
# never seen ([MV2-07](../../mistakes.md#mv2-07)). The 3 x 3 kernel with stride 2 sees them all, because its windows
# overlap.

# %%
pixels = rng.normal(size=(1, 16, 32, 32)).astype(np.float32)
others = pixels.copy()
others[:, :, 1::2] += 1  # every second row
others[:, :, :, 1::2] += 1  # every second column
moved, left = (
    [ops.conv2d(map_, weight=kernels["expand_1x1"], stride=stride) for map_ in (pixels, others)] for stride in (2, 1)
)
assert np.array_equal(*moved)

seen = [ops.conv2d(map_, weight=kernels["conv_3x3"], stride=2, padding=1, groups=32) for map_ in left]
assert not np.isclose(*seen).any()

# %% [markdown]
# ## 3. Two convolutions as one
#
# With depthwise kernels $D_{c,u,v}$ and a pointwise matrix $P_{o,c}$, the sum over the channels $c$ takes $P_{o,c}$
# times what channel $c$ gives: the full kernel is $W_{o,c,u,v} = P_{o,c} D_{c,u,v}$.
#
# So for each input channel all outputs have the same 3 x 3 kernel, up to a factor: the matrix (O, 9) of that channel is
# a column times a row and has rank 1, or 0. If and only if this holds for every channel, the kernel can be split: the
# column is the channel's part of $P$, and the row its kernel.

# %%
depthwise = rng.normal(size=(5, 1, 3, 3))
pointwise = rng.normal(size=(7, 5, 1, 1))
full = pointwise * depthwise[:, 0]  # (7, 5, 1, 1) * (5, 3, 3) -> (7, 5, 3, 3)
x = rng.normal(size=(2, 5, 6, 8))
in_turn = ops.conv2d(ops.conv2d(x, weight=depthwise, padding=1, groups=5), weight=pointwise)
assert np.allclose(in_turn, ops.conv2d(x, weight=full, padding=1), rtol=1e-12, atol=1e-12)


def ranks(kernel):
    """The rank of the matrix (O, 9) of each input channel."""
    return [np.linalg.matrix_rank(kernel[:, c].reshape(len(kernel), 9)) for c in range(kernel.shape[1])]


assert ranks(full) == [1] * 5
assert ranks(rng.normal(size=(7, 5, 3, 3))) == [7] * 5

columns, sizes, rows = np.linalg.svd(full.transpose(1, 0, 2, 3).reshape(5, 7, 9), full_matrices=False)
split = (columns[:, :, 0] * sizes[:, :1]).T[..., np.newaxis] * rows[:, 0]  # (7, 5, 1) * (5, 9) -> (7, 5, 9)
assert np.allclose(split.reshape(full.shape), full, rtol=1e-12, atol=1e-12)
