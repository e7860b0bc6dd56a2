# %% [markdown]
# # Answers to lesson 2, convolution

# %%
import numpy as np

from npmobilevit import MobileViTConfig, ops
from npmobilevit.config import expected_parameters
from npmobilevit.ops.conv import convolve

rng = np.random.default_rng(22)

# %% [markdown]
# ## 1. The kernel that moves a map down
#
# The value at (i, j) has to come from (i - 1, j): the only 1 stands above the middle. The first row sees the padding,
# so it is zero.

# %%
down = np.zeros((1, 1, 3, 3))
down[0, 0, 0, 1] = 1
x = rng.normal(size=(1, 1, 5, 4))
y = ops.conv2d(x, weight=down, padding=1)
assert np.array_equal(y[0, 0, 1:], x[0, 0, :-1])
assert not y[0, 0, 0].any()

# %% [markdown]
# ## 2. The stem
#
# Weights: 16 * 3 * 3 * 3 = 432. The output has 128 x 128 places, and each output value takes 3 * 3 * 3 = 27
# multiplications: 128 * 128 * 16 * 27 = 7,077,888. The product is that of a (16, 27) and a (27, 16384) matrix.

# %%
config = MobileViTConfig(hidden_sizes=(64, 80, 96), neck_hidden_sizes=(16, 16, 24, 48, 64, 80, 320), expand_ratio=2.0)
shape = expected_parameters(config, head="classification")["mobilevit.conv_stem.convolution.weight"]
assert shape == (16, 3, 3, 3)
assert np.prod(shape) == 432

multiplications = 0
width = 0


def counted(kernels, columns, result):
    """Count the multiplications of a product; a large map comes in several bands of columns."""
    global multiplications, width
    assert kernels.shape == (1, 16, 27)
    assert columns.shape[1] == 27
    multiplications += 16 * columns.size
    width += columns.shape[2]
    np.matmul(kernels, columns, result)


picture, weight = np.zeros((1, 3, 256, 256), np.float32), np.zeros(shape, np.float32)
assert convolve(counted, picture, weight=weight, stride=2, padding=1).shape == (1, 16, 128, 128)
assert multiplications == 7_077_888
assert width == 16_384

# %% [markdown]
# ## 3. Two convolutions as one
#
# The second sums what the first has summed, so a single sum does it, over the offsets of both together: 0..2 and 0..2
# make 0..4, a kernel of 5 x 5. Its weight at an offset is the sum over all pairs of offsets that add up to it, which is
# what mathematicians call the convolution of the two kernels.

# %%
first, second = rng.normal(size=(2, 1, 1, 3, 3))
joined = np.zeros((1, 1, 5, 5))
for u in range(3):
    for v in range(3):
        joined[0, 0, u : u + 3, v : v + 3] += second[0, 0, u, v] * first[0, 0]
x = rng.normal(size=(1, 1, 9, 8))
assert np.allclose(ops.conv2d(ops.conv2d(x, weight=first), weight=second), ops.conv2d(x, weight=joined), rtol=1e-12)
