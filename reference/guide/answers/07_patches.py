# %% [markdown]
# # Answers to lesson 7, unfold and fold

# %%
import dataclasses

import numpy as np

import npmobilevit as nm
from npmobilevit import ops

# %% [markdown]
# ## 1. There and back by hand
#
# There are 8 / 2 = 4 patches in a row. Token 5 = 1 * 4 + 1 is the patch in row 1 and column 1; sequence 2 = 1 * 2 + 0
# is the pixel in row 1 and column 0 of a patch. So it is the pixel in row 2 * 1 + 1 = 3 and column 2 * 1 + 0 = 2.
#
# The last pixel is the bottom right one of the last patch: sequence 3, token 11.

# %%
addresses = np.arange(48.0).reshape(1, 1, 6, 8)
sequences = ops.unfold_patches(addresses, 2)
assert sequences.shape == (4, 12, 1)
assert divmod(int(sequences[2, 5, 0]), 8) == (3, 2)
assert np.argwhere(sequences[..., 0] == addresses[0, 0, 5, 7]).tolist() == [[3, 11]]

# %% [markdown]
# ## 2. Where no shape shows it
#
# (L, P, D) is (P, L, D) where a map has as many patches as a patch has pixels: with 2 x 2 patches, a map of four
# patches, such as 4 x 4 or 2 x 8. An input of 64 x 64 has 8 x 8, 4 x 4 and 2 x 2 in encoder layers 2, 3 and 4: it is
# layer 3.
#
# For the other layers, the number of tokens is wrong. But a program that takes shapes from its own arrays does not
# care. Addresses show it in any case.

# %%
model = nm.MobileViTForImageClassification.from_pretrained("cifar10-xx-small")
names = [f"mobilevit.encoder.layer.{layer}.unfolded" for layer in (2, 3, 4)]
taps = model.taps(np.zeros((1, 3, 64, 64), np.float32), names)
same = [value.shape == value.swapaxes(0, 1).shape for value in (taps[name] for name in names)]
assert same == [False, True, False]

for shape in ((4, 4), (2, 8)):
    square = ops.unfold_patches(np.arange(16.0).reshape(1, 1, *shape), 2)
    assert square.shape == square.swapaxes(0, 1).shape
    assert not np.array_equal(square, square.swapaxes(0, 1))

# A program with this mistake in all layers runs through, and its logits are wrong.
scope = model.scope()
exchanged = scope.ops._replace(
    unfold_patches=lambda x, patch_size: ops.unfold_patches(x, patch_size).swapaxes(0, 1),
    fold_patches=lambda x, *sizes: ops.fold_patches(x.swapaxes(0, 1), *sizes),
)
picture = np.random.default_rng(77).uniform(size=(1, 3, 64, 64)).astype(np.float32)
wrong, _ = model.forward(dataclasses.replace(scope, ops=exchanged), picture)
right = model(picture).logits
assert wrong.shape == right.shape
assert np.abs(wrong - right).max() > 0.01

# %% [markdown]
# ## 3. Patch and kernel
#
# After the convolution, a pixel's mark is on a square of 3 x 3. Attention carries it to every patch, to the pixels of
# the kinds that the square covers. A 3 x 3 square has at least one pixel of each of the kinds for sides up to 3. Of the
# 16 kinds of a patch of side 4 it covers nine: 9 / 16 of 144 pixels are 81. The other way round, a pixel sees those
# nine kinds and is blind for the other seven, everywhere.


# %%
def seen(patch_size):
    """How many pixels of a 12 x 12 map the mark of one pixel reaches."""
    marks = np.zeros((1, 1, 12, 12))
    marks[0, 0, 5, 6] = 1
    marks = np.minimum(ops.conv2d(marks, weight=np.ones((1, 1, 3, 3)), padding=1), 1)
    sequences = ops.unfold_patches(marks, patch_size)
    sequences[:] = sequences.max(axis=1, keepdims=True)
    return int(ops.fold_patches(sequences, patch_size, 12, 12).sum())


assert [seen(patch_size) for patch_size in (1, 2, 3, 4)] == [144, 144, 144, 81]
