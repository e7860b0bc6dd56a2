# %% [markdown]
# # 7. Unfold and fold, patch by patch
#
# Attention (lesson 6) takes sequences of tokens; convolutions make maps. Between them stand two rearrangements that
# compute nothing: **unfold** makes sequences of a map, **fold** makes a map of sequences
# ([paper](https://arxiv.org/abs/2110.02178), section 3.1, figure 1b). Most mistakes that can be made here have the
# right shapes. This lesson shows where every value goes, with a trick that finds all of them: let every pixel hold its
# own **address**.
#
# You need to know reshape and transpose.

# %%
import numpy as np
from lesson import IMAGES, figure
from PIL import ImageDraw

import npmobilevit as nm
from npmobilevit import ops
from npmobilevit.validation.mutants import mutant_named
from npmobilevit.validation.replay import run_changed
from npmobilevit.visual import drawing
from npmobilevit.visual.lettering import draw_text, font_of_size

# %% [markdown]
# ## A map of addresses
#
# A map of 6 x 4 pixels with one channel. The pixel in row $r$ and column $c$ holds the number $4 r + c$, so a value
# says where it came from, wherever it turns up later.

# %%
height, width, patch = 6, 4, 2
addresses = np.arange(24.0).reshape(1, 1, height, width)  # (N, D, H, W)
print(addresses[0, 0, 1])  # -> [4. 5. 6. 7.]

# %% [markdown]
# Cut it into patches of 2 x 2 pixels. There are $L = 6$ patches (the paper calls this number N), and a patch has
# $P = 4$ pixels. Unfold makes $P$ sequences of $L$ tokens:

# %%
sequences = ops.unfold_patches(addresses, patch)
print(sequences.shape)  # -> (4, 6, 1)
for sequence in sequences[..., 0].astype(int):
    print(sequence)

# %% [markdown]
#     [ 0  2  8 10 16 18]      the top left pixel of each patch
#     [ 1  3  9 11 17 19]      the top right
#     [ 4  6 12 14 20 22]      the bottom left
#     [ 5  7 13 15 21 23]      the bottom right
#
# So a sequence holds **the same pixel of every patch**, patches in reading order. Sequence $2 p_y + p_x$ is the pixel
# in row $p_y$ and column $p_x$ of its patch; token $2 i_y + i_x$ is the patch in row $i_y$ and column $i_x$, of which
# there are two in a row here:

# %%
py, px, iy, ix = np.ogrid[:2, :2, :3, :2]
by_the_rule = addresses[0, 0, 2 * iy + py, 2 * ix + px]  # (2, 2, 3, 2)
print(np.array_equal(sequences[2 * py + px, 2 * iy + ix, 0], by_the_rule))  # -> True

# %% [markdown]
# In the network a pixel is not one number but D channels, which stay together as the token's vector. This is the
# paper's $X_U \in \mathbb{R}^{P \times N \times d}$; several pictures lie behind each other, (N * P, L, D).

# %%
x = np.random.default_rng(7).normal(size=(2, 64, 32, 32)).astype(np.float32)  # two maps of 64 channels
print(ops.unfold_patches(x, 2).shape)  # -> (8, 256, 64)
print(np.array_equal(ops.unfold_patches(x, 2)[4 + 3, 17], x[1, :, 3, 3]))  # -> True

# %% [markdown]
# That was token 17 of sequence 3 of the second picture: row 1 and column 1 of the 16 x 16 patches, and there the bottom
# right pixel. Fold is the inverse and nothing else:

# %%
folded = ops.fold_patches(sequences, patch, height, width)
print(folded.shape, np.array_equal(folded, addresses))  # -> (1, 1, 6, 4) True

# %% [markdown]
# ## The mistake that has the right shape
#
# From (N, D, H, W) to (N * P, L, D) the number of values stays the same, so a plain reshape does it, too. Here the
# channels are moved to the end first, and then the pixels are cut into P sequences as they come
# ([UNF-01](../mistakes.md#unf-01)). A reshape brings them back, without a loss:


# %%
def cut(x, patch_size):
    """Pixels in reading order, cut into P sequences: the mistake."""
    return x.transpose(0, 2, 3, 1).reshape(x.shape[0] * patch_size**2, -1, x.shape[1])  # (N*P, L, D)


def glued(x, patch_size, height, width):
    return x.reshape(-1, height, width, x.shape[-1]).transpose(0, 3, 1, 2)  # (N, D, H, W)


wrong = cut(addresses, patch)
print(wrong.shape == sequences.shape)  # -> True
print(np.array_equal(glued(wrong, patch, height, width), addresses))  # -> True

# %% [markdown]
# Shapes agree, and so does the way there and back. Only the addresses tell: the first sequence is the first row of the
# map and half of the second, with pixels of all four kinds, and nothing from below.

# %%
print(wrong[0, :, 0], sequences[0, :, 0])  # -> [0. 1. 2. 3. 4. 5.] [ 0.  2.  8. 10. 16. 18.]

# %% [markdown]
# In a network, attention then mixes pixels that it never saw together when it was trained. It is no use to look at the
# label. With this mistake of the catalogue the shipped network sees the cat even a little more clearly:

# %%
model = nm.MobileViTForImageClassification.from_pretrained("cifar10-xx-small")
pixels = nm.load("cifar10-xx-small").pixel_values(IMAGES / "chelsea.png")  # (1, 3, 64, 64)


def cat(pixels, *mistake):
    """Probability of "cat" (class 3), with a mistake in the network."""
    return f"{ops.softmax(run_changed(model, pixels, mistake)['logits'])[0, 3]:.0%}"


print(cat(pixels), cat(pixels, *mutant_named("UNF-01").make(None)))  # -> 77% 79%

# %% [markdown]
# ## Not the patches of ViT
#
# The Vision Transformer cuts a picture into patches, too ([ViT](https://arxiv.org/abs/2010.11929), section 3.1), but
# there a whole patch is **one** token: its pixels are written one after the other into a vector. In MobileViT every
# pixel is a token. The vectors of ViT are the columns of our sequences:

# %%
print(sequences[:, 0, 0], sequences[:, 5, 0])  # -> [0. 1. 4. 5.] [18. 19. 22. 23.]

# %% [markdown]
# Here is all of it in colours. The hue says which of the four pixels of its patch a value was, the shade which patch it
# was in, and the number is its address.

# %%
HUES = np.array([[0, 114, 178], [230, 159, 0], [0, 158, 115], [204, 121, 167]]) / 255


def coloured(values):
    """A matrix of addresses, each in the colour of the place that it names."""
    row, column = np.divmod(values.astype(int), width)
    hue = HUES[row % 2 * 2 + column % 2]  # (H, W, 3)
    shade = 0.3 + 0.7 * (row // 2 * 2 + column // 2) / 5
    image = drawing.picture(1 - (1 - hue) * shade[..., np.newaxis], cell=36)
    for (i, j), value in np.ndenumerate(values):
        draw_text(ImageDraw.Draw(image), (36 * j + 10, 36 * i + 11), f"{value:2.0f}", font_of_size(13), (0, 0, 0))
    return image


parts = [
    (coloured(addresses[0, 0]), "map: 6 x 4 pixels, 6 patches"),
    (coloured(sequences[..., 0]), "unfolded: 4 sequences, 6 tokens"),
    (coloured(folded[0, 0]), "folded: the map again"),
    (coloured(wrong[..., 0]), "plain reshape: also 4 x 6"),
    (coloured(sequences[..., 0].T), "ViT: 6 tokens, each a patch"),
]
figure("07_patches", drawing.arranged(parts, columns=3))

# %% [markdown]
# ![A map in four hues, two by two; unfolded, each row has one hue, from light to dark; after a plain reshape the hues
# alternate in the rows; the tokens of ViT have all four hues in each row](figures/07_patches.png)
#
# To take the pixels of a patch for a sequence is the mistake [UNF-02](../mistakes.md#unf-02). The transformer runs on
# each sequence by itself, with the same weights for all (equation 1):
#
# $$X_G(p) = \mathrm{Transformer}(X_U(p)), \qquad 1 \le p \le P$$
#
# One sequence of all pixels would have $(P L)^2$ scores; P sequences of L tokens have $P L^2$, for 2 x 2 patches a
# quarter.
#
# ## Why every pixel still sees every pixel
#
# A top left pixel meets top left pixels alone. Is the rest of the map hidden from it? Mark one pixel, and let a mark go
# to all tokens of a sequence in which there is one: that is what attention can reach.


# %%
def attended(marks):
    """Marks after attention: everywhere in the sequences in which there was one."""
    unfolded = ops.unfold_patches(marks, 2)  # (P, L, 1)
    everywhere = np.broadcast_to(unfolded.max(axis=1, keepdims=True), unfolded.shape)
    return ops.fold_patches(everywhere, 2, *marks.shape[2:])


def neighbours(marks):
    """Marks after a 3 x 3 convolution."""
    return np.minimum(ops.conv2d(marks, weight=np.ones((1, 1, 3, 3)), padding=1), 1)


marks = np.zeros((1, 1, 8, 8))
marks[0, 0, 2, 5] = 1
print(int(attended(marks).sum()), int(neighbours(marks).sum()), int(attended(neighbours(marks)).sum()))  # -> 16 9 64

# %% [markdown]
# Attention alone reaches a quarter of the map. But in the MobileViT block a 3 x 3 convolution comes first, so that each
# pixel knows its neighbours, and these are of all four kinds. Both together reach all 64 pixels. This is figure 4 of
# the paper: the red pixel sees the blue ones by attention, and each blue one has seen its surroundings by convolution.

# %%
steps = {
    "a pixel": marks,
    "after attention": attended(marks),
    "after 3 x 3 convolution": neighbours(marks),
    "after convolution and attention": attended(neighbours(marks)),
}
parts = [(drawing.heatmap(marked[0, 0], low=0, high=1, cell=22), name) for name, marked in steps.items()]
figure("07_patches_reach", drawing.arranged(parts))

# %% [markdown]
# ![One bright pixel of 64; then every second one in every second row; then a block of nine; then all of
# them](figures/07_patches_reach.png)
#
# ## Maps that have no whole patches
#
# An odd map cannot be cut into 2 x 2 patches. MobileViT then **resizes** it, bilinearly, to the next whole number of
# patches, and after folding back to its own size. For a row of seven pixels:

# %%
row = np.arange(7.0).reshape(1, 1, 1, 7)
larger = ops.resize_bilinear(row, (1, 8))
print(larger.ravel().round(2).tolist())  # -> [0.0, 0.81, 1.69, 2.56, 3.44, 4.31, 5.19, 6.0]
print(ops.resize_bilinear(larger, (1, 7)).ravel().round(2).tolist())  # -> [0.06, 1.0, 2.0, 3.0, 4.0, 5.0, 5.94]

# %% [markdown]
# There and back is not quite the same, as each value becomes a mean of its neighbours. Nor is it the same as to add a
# column of zeros and cut it off afterwards ([UNF-10](../mistakes.md#unf-10)): these zeros become tokens, to which all
# others attend. The networks take pictures of any size, and 64 x 56 gives 8 x 7 here:


# %%
narrow = pixels[..., 4:60]  # (1, 3, 64, 56)
names = [f"mobilevit.encoder.layer.2.{name}" for name in ("conv_1x1", "unfolded", "folded")]
print([value.shape for value in model.taps(narrow, names).values()])  # -> [(1, 64, 8, 7), (4, 16, 64), (1, 64, 8, 7)]
padded = mutant_named("UNF-10-zeros").make(None)
print(cat(narrow), cat(narrow, *padded))  # -> 60% 78%
print(cat(pixels), cat(pixels, *padded))  # -> 77% 77%

# %% [markdown]
# With whole patches the mistake does nothing: tests with pictures of 256 x 256 never see it.
#
# ## Exercises
#
# The answers, with the code that checks them, are in [answers/07_patches.py](answers/07_patches.py).
#
# 1. A map has 6 rows and 8 columns, and patches of 2 x 2. Which pixel is token 5 of sequence 2? And where does the last
#    pixel, bottom right, go?
# 2. A port takes the columns for the sequences: L sequences of P tokens (UNF-02). For which maps does not even the
#    shape show it? Where does that happen in a network whose input is 64 x 64?
# 3. The paper asks that a patch be no larger than the kernel of the convolution before it, in height and width. Find
#    out how many of the pixels of a 12 x 12 map one pixel sees, for patches of side 1, 2, 3, 4 and a 3 x 3 kernel. Why
#    does side 4 leave pixels out?
