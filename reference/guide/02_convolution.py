# %% [markdown]
# # 2. Convolution, from the definition to a matrix product
#
# MobileViT begins with a convolution, its **stem**, and about half of its multiplications are in convolutions: in the
# inverted residuals (lesson 3), and in four layers of each MobileViT block ([paper](https://arxiv.org/abs/2110.02178),
# figure 1b and section 3.1). This lesson begins with the sum that defines a convolution and ends with the one matrix
# product that computes it.
#
# You need to know what an array with several axes is, and a product of matrices.

# %%
import numpy as np
from lesson import IMAGES, figure
from PIL import Image

from npmobilevit import ops
from npmobilevit.images import to_rgb
from npmobilevit.ops.conv import convolve
from npmobilevit.visual import drawing

# %% [markdown]
# ## The definition
#
# A map is an array (N, C, H, W): pictures, channels, rows, columns. A picture has three channels, its colours; inside
# the network a layer makes as many as it has kernels. A kernel of size 3 looks at the 3 x 3 surroundings of a pixel in
# all channels, multiplies each value by a weight, and adds up the products:
#
# $$y_{n,o,i,j} = \sum_{c,u,v} w_{o,c,u,v} \; x_{n,c,i+u,j+v}$$
#
# Each output channel $o$ has a kernel of its own. (What mathematicians call convolution turns the kernel around first;
# networks do not.)
#
# Here is a map of 4 x 5 pixels, dark on the left and bright on the right, and a kernel that subtracts the left
# neighbour from the right one.

# %%
x = np.zeros((1, 1, 4, 5), np.float32)
x[..., 2:] = 9
weight = np.zeros((1, 1, 3, 3), np.float32)  # (O, C, 3, 3)
weight[0, 0, 1] = [-1, 0, 1]

y = ops.conv2d(x, weight=weight)
print(y.shape)  # -> (1, 1, 2, 3)
print(y[0, 0, 0])  # -> [9. 9. 0.]

# %% [markdown]
# It answers where the brightness changes, and nowhere else. One value by hand:

# %%
i, j = 0, 1
by_hand = sum(weight[0, 0, u, v] * x[0, 0, i + u, j + v] for u in range(3) for v in range(3))
print(by_hand, y[0, 0, i, j])  # -> 9.0 9.0

# %% [markdown]
# ## Padding, stride, dilation
#
# The kernel has to fit into the map, so the output is 2 smaller in height and width. Three settings change what fits:
#
# - **padding** $p$ puts zeros around the map. With $p = 1$ a 3 x 3 kernel keeps the size;
# - **stride** $s$ moves the kernel by $s$ pixels at a time. With $s = 2$ the output has half the size;
# - **dilation** $d$ spreads the kernel's values, $d$ pixels apart, so that it sees further at the same cost.
#
# A kernel of size $k$ makes of $H$ rows (and likewise of the columns)
#
# $$H' = \left\lfloor \frac{H + 2p - d(k-1) - 1}{s} \right\rfloor + 1$$

# %%
zeros = np.zeros((1, 1, 256, 256), np.float32)
print(ops.conv2d(zeros, weight=weight, padding=1).shape)  # -> (1, 1, 256, 256)
print(ops.conv2d(zeros, weight=weight, padding=1, stride=2).shape)  # -> (1, 1, 128, 128)
print(ops.conv2d(zeros, weight=weight, padding=6, dilation=6).shape)  # -> (1, 1, 256, 256)

# %% [markdown]
# With stride 2 and an even side, the kernel reaches the zeros at the top and on the left, and never those at the bottom
# and on the right. "SAME" of TensorFlow has it the other way round: zeros at the bottom and on the right alone, which
# moves every map by a pixel. It is among the most frequent mistakes of ports, [CNV-01](../mistakes.md#cnv-01):

# %%
ramp = np.arange(6, dtype=np.float32).reshape(1, 1, 1, 6)
pick = np.array([1, 0, 0], np.float32).reshape(1, 1, 1, 3)  # takes the left of three pixels
ours = ops.conv2d(ramp, weight=pick, stride=2, padding=(0, 1))
same = ops.conv2d(np.pad(ramp, ((0, 0), (0, 0), (0, 0), (0, 1))), weight=pick, stride=2)
print(ours.ravel())  # -> [0. 1. 3.]
print(same.ravel())  # -> [0. 2. 4.]

# %% [markdown]
# ## One matrix product
#
# Written as loops, a convolution is slow in Python. But each output value is a sum of products, as in a product of
# matrices, and for these there are fast programs. So write all that a kernel sees at one place as one **column** of a
# matrix, (C * 3 * 3, H' * W'), and every kernel as one **row**, (O, C * 3 * 3): the output is their product. This
# rearrangement is called *im2col*.
#
# `conv2d` does exactly that, and `convolve` is the same function with a product of your own. This one does its work and
# remembers what it was given:

# %%
seen = {}


def watched(kernels, columns, result):
    """The product of (G, O, K) and (G, K, N) matrices, and a look at them; G is 1 until lesson 3."""
    seen.update(kernels=kernels[0].copy(), columns=columns[0].copy())
    np.matmul(kernels, columns, result)


small = np.arange(1, 13, dtype=np.float32).reshape(1, 1, 3, 4)
y = convolve(watched, small, weight=weight)
print(seen["kernels"].shape, seen["columns"].shape, y.shape)  # -> (1, 9) (9, 2) (1, 1, 1, 2)
print(seen["columns"][:, 0])  # -> [ 1.  2.  3.  5.  6.  7.  9. 10. 11.]

# %% [markdown]
# The first column holds the left 3 x 3 pixels, row by row; the second is the same one pixel to the right. Most pixels
# stand in several columns: im2col needs up to nine times the memory of the map. That is why `conv2d` does it in bands
# of rows.
#
# A 1 x 1 convolution needs no rearrangement at all. It *is* a matrix product, of every pixel's channels with the same
# matrix: the paper calls it point-wise (section 3.1), and MobileViT has more of these than of all others.

# %%
rng = np.random.default_rng(2)
maps = rng.normal(size=(1, 8, 5, 6)).astype(np.float32)  # (N, C, H, W)
kernels = rng.normal(size=(4, 8, 1, 1)).astype(np.float32)  # (O, C, 1, 1)
as_product = kernels.reshape(4, 8) @ maps.reshape(8, 30)  # (4, 8) @ (8, 30) -> (4, 30)
print(np.allclose(ops.conv2d(maps, weight=kernels).reshape(4, 30), as_product, rtol=1e-5))  # -> True

# %% [markdown]
# ## On a picture
#
# The same kernel, and its transpose, around the cat's eye: one finds what changes from left to right, the other what
# changes from top to bottom. Nobody writes such kernels for a network: it learns them.

# %%
rgb = to_rgb(IMAGES / "chelsea.png")[60:220, 120:280]  # (160, 160, 3)
grey = np.asarray(Image.fromarray(rgb).convert("L"), np.float32)[np.newaxis, np.newaxis] / 255  # (1, 1, 160, 160)
both = np.concatenate([weight, weight.transpose(0, 1, 3, 2)])  # (2, 1, 3, 3)
edges = ops.conv2d(grey, weight=both)  # (1, 2, 158, 158)
print(edges.shape)  # -> (1, 2, 158, 158)

kernel, columns = weight[0, 0], seen["columns"]
parts = [
    (drawing.heatmap(kernel, colours="diverging", cell=40, numbers=True), "a kernel"),
    (drawing.heatmap(small[0, 0], cell=40, numbers=True), "a map"),
    (drawing.heatmap(columns, cell=40, numbers=True), "its columns"),
    (drawing.heatmap(edges[0, 0], low=-0.4, high=0.4, colours="diverging", cell=2), "left to right"),
    (drawing.heatmap(edges[0, 1], low=-0.4, high=0.4, colours="diverging", cell=2), "top to bottom"),
]
figure("02_convolution", drawing.arranged(parts))

# %% [markdown]
# ![A kernel with -1 left and 1 right of its middle; a map of 3 x 4 numbers, 1 to 12; its two columns, 1 2 3 5 6 7 9 10
# 11 and the same plus one; and a cat's eye, drawn in red and blue lines, first where the brightness changes from left
# to right, then where it changes from top to bottom](figures/02_convolution.png)
#
# ## Exercises
#
# The answers, with the code that checks them, are in [answers/02_convolution.py](answers/02_convolution.py).
#
# 1. Write down the kernel, 3 x 3, that moves a map by one pixel down and changes nothing else, with padding 1. What
#    stands in the first row of the result?
# 2. The stem of MobileViT-xx-small makes 16 channels of 3, with a 3 x 3 kernel, stride 2 and padding 1, from a picture
#    of 256 x 256. How many weights has it? How many multiplications does one picture take? How large are the two
#    matrices of its product?
# 3. Two 3 x 3 convolutions with one channel each, one behind the other, without padding and with nothing between them:
#    which single convolution does the same, and of what size is its kernel?
