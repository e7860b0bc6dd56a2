# %% [markdown]
# # 8. The MobileViT block
#
# Convolutions see the surroundings of a pixel, attention sees the whole map. The MobileViT block is made of both
# ([paper](https://arxiv.org/abs/2110.02178), section 3.1 and figure 1b): a local part, a global part, and a fusion of
# what came in with what was made of it. It takes and gives a map, so that it can stand wherever a convolution can; the
# paper calls it "transformers as convolutions".
#
# You need lessons 2 (convolution), 6 (attention) and 7 (unfold and fold).

# %%
import numpy as np
from lesson import IMAGES, figure
from PIL import Image

import npmobilevit as nm
from npmobilevit import ops
from npmobilevit.scope import Scope
from npmobilevit.validation.mutants import mutant_named
from npmobilevit.validation.replay import run_changed
from npmobilevit.visual import drawing

model = nm.MobileViTForImageClassification.from_pretrained("cifar10-xx-small", precision="float64")
picture = Image.open(IMAGES / "chelsea.png").convert("RGB").resize((216, 144)).crop((36, 0, 180, 144))
rgb = np.asarray(picture)  # (144, 144, 3), larger than the pictures it was trained on: more to see
pixels = rgb[..., ::-1].transpose(2, 0, 1)[np.newaxis] / 255  # (1, 3, 144, 144), B, G, R in 0..1

# %% [markdown]
# ## All steps
#
# The network has three of these blocks, as encoder layers 2, 3 and 4, each behind an inverted residual that halves the
# map (`downsampling_layer`, lesson 3). Here are the values inside the first, in the order of the computation:

# %%
block = "mobilevit.encoder.layer.2"
steps = ["downsampling_layer", "conv_kxk", "conv_1x1", "unfolded", "transformer", "layernorm", "folded",
         "conv_projection", "fusion.convolution", "fusion"]  # fmt: skip
values = model.taps(pixels, [f"{block}.{step}" for step in steps])
taps = {step: values[f"{block}.{step}"] for step in steps}
for step in steps:
    print(f"{step:20}", taps[step].shape)

# %% [markdown]
# | tap | paper | shape | what it is |
# |---|---|---|---|
# | `downsampling_layer` | $X$ | (1, 48, 18, 18) | what comes in: C = 48 channels |
# | `conv_kxk` | | (1, 48, 18, 18) | 3 x 3 convolution, normalised, SiLU |
# | `conv_1x1` | $X_L$ | (1, 64, 18, 18) | the tokens: d = 64 channels |
# | `unfolded` | $X_U$ | (4, 81, 64) | 4 sequences of 9 x 9 patches |
# | `transformer` | | (4, 81, 64) | two transformer layers |
# | `layernorm` | $X_G$ | (4, 81, 64) | each token normalised |
# | `folded` | $X_F$ | (1, 64, 18, 18) | a map again |
# | `conv_projection` | | (1, 48, 18, 18) | 1 x 1 convolution back to C, normalised, SiLU |
# | `fusion` | | (1, 48, 18, 18) | 3 x 3 convolution of both, normalised, SiLU |
#
# ## The local part
#
# A 3 x 3 convolution collects the surroundings, and a 1 x 1 convolution brings them to the width of tokens. The second
# is **bare**: no normalisation, no activation, as the transformer begins with a normalisation of its own and wants
# negative values, too. An activation there is a mistake of ports ([CNV-11](../mistakes.md#cnv-11)). The layer has one
# parameter, not even a bias:

# %%
weights = model.parameters()
tokens = ops.conv2d(taps["conv_kxk"], weight=weights[f"{block}.conv_1x1.convolution.weight"])
print(np.allclose(tokens, taps["conv_1x1"], rtol=0, atol=1e-12))  # -> True
parameters = [name.removeprefix(f"{block}.") for name in weights if name.startswith(f"{block}.")]
print([name for name in parameters if name.startswith("conv_1x1.")])  # -> ['conv_1x1.convolution.weight']
print(taps["conv_kxk"].min() > -0.28, taps["conv_1x1"].min() < -1)  # -> True True

# %% [markdown]
# (SiLU is never below -0.2785, lesson 5.)
#
# ## The global part
#
# Unfold, two to four transformer layers, fold. Between the last transformer layer and fold stands one more layer
# normalisation, which the paper's figure leaves out ([TRF-02](../mistakes.md#trf-02)). It is needed: each transformer
# layer adds to the tokens, and their spread has grown to five times what it was.

# %%
print([round(taps[step].std() / taps["unfolded"].std()) for step in ("transformer", "layernorm")])  # -> [5, 1]

# %% [markdown]
# ## Fusion
#
# The result is projected back to C channels and laid beside what came in, **input first**, 2 C channels in all. For
# each of its channels, a last 3 x 3 convolution decides how much of each to take. As it is linear, it is the sum of two
# convolutions, with the two halves of its weights:

# %%
x, y = taps["downsampling_layer"], taps["conv_projection"]
kernel = weights[f"{block}.fusion.convolution.weight"]
print(kernel.shape)  # -> (48, 96, 3, 3)
fused = ops.conv2d(x, weight=kernel[:, :48], padding=1) + ops.conv2d(y, weight=kernel[:, 48:], padding=1)
print(np.allclose(fused, taps["fusion.convolution"], rtol=0, atol=1e-12))  # -> True

# %% [markdown]
# Both halves have the same shape. A port that lays the maps side by side in the other order sees no error, only worse
# results ([FUS-01](../mistakes.md#fus-01)). With the picture prepared as the network is used to:


# %%
usual = nm.load("cifar10-xx-small").pixel_values(IMAGES / "chelsea.png").astype(np.float64)  # (1, 3, 64, 64)


def cat(*mistake):
    """Probability of "cat" (class 3), with a mistake in the network."""
    return f"{ops.softmax(run_changed(model, usual, mistake)['logits'])[0, 3]:.0%}"


print(cat(), cat(*mutant_named("FUS-01").make(None)), cat(*mutant_named("TRF-02").make(None)))  # -> 77% 49% 9%

# %% [markdown]
# ## Looking at it
#
# Nine channels at each step. The unfolded one is a single channel in its four sequences, each laid out as 9 x 9
# patches: four small pictures, each made of every second pixel.


# %%
def nine(step):
    return drawing.sheet(taps[step][0, :9], columns=3, cell=3)


parts = [
    (picture, "picture"),
    (nine("downsampling_layer"), "input, 9 of 48 channels"),
    (nine("conv_kxk"), "conv_kxk"),
    (nine("conv_1x1"), "conv_1x1, 9 of 64"),
    (drawing.sheet(taps["unfolded"][..., 3].reshape(4, 9, 9), columns=2, cell=9), "unfolded, channel 3"),
    (nine("folded"), "folded, 9 of 64"),
    (nine("conv_projection"), "conv_projection, 9 of 48"),
    (nine("fusion"), "fusion, 9 of 48"),
]
figure("08_mobilevit_block", drawing.arranged(parts, columns=4))

# %% [markdown]
# ![A cat's face and its maps at eight steps of the block; in the unfolded step the same map four times, at half the
# size](figures/08_mobilevit_block.png)
#
# ## What each part can see
#
# Change a map in one place and look which places of later maps change. A **scope** is the object through which the
# network reports the value of each node (a layer, or a block of them); the network goes on with what the scope gives
# back. This one adds 1 to one value of one node:


# %%
def with_a_change(node):
    """All values of the network, with channel 0 of the pixel in row 7 and column 12 changed at a node of the block."""

    class Nudged(Scope):
        def out(self, x):
            if self.name == f"{block}.{node}":
                x = x.copy()
                x[:, 0, 7, 12] += 1
            return super().out(x)

    found = {}
    model.forward(Nudged(weights, tap=found.__setitem__), pixels)
    return found


changed = {node: with_a_change(node) for node in ("downsampling_layer", "conv_1x1", "folded")}


def change(node, step):
    """How much the pixels at a step change: (18, 18), the largest of all channels."""
    return np.abs(changed[node][f"{block}.{step}"] - taps[step]).max(axis=(0, 1))


def reached(node, *steps):
    return [int((change(node, step) > 1e-9).sum()) for step in steps]


print(reached("downsampling_layer", "conv_kxk", "conv_1x1", "folded", "fusion"))  # -> [9, 9, 324, 324]
print(reached("conv_1x1", "folded", "conv_projection", "fusion"))  # -> [81, 81, 324]
print(reached("folded", "conv_projection", "fusion"))  # -> [1, 9]

# %% [markdown]
# (Rounding in float64 is far below $10^{-9}$, and the true changes are far above.) From the last line to the first:
#
# - behind the transformer, a pixel reaches nine pixels, by the fusion's 3 x 3 kernel;
# - between `conv_1x1` and fold it reaches the 81 pixels that stand at the same place of their patch, a quarter of the
#   map;
# - from the input on it reaches all 324, since the convolution hands it to neighbours of all four kinds first.
#
# Read the other way round: a pixel of the result depends on all pixels of the input. The paper puts it so: the
# effective receptive field of the block is H x W. But it does not see all of them equally well: the next figure shows
# the changes in powers of ten, from 0.00001 or less (dark violet) to 1 (yellow).


# %%
def powers(node, step):
    return drawing.heatmap(np.log10(change(node, step) + 1e-9), low=-5, high=0, cell=9)


parts = [
    (powers("downsampling_layer", "conv_kxk"), "input changed: conv_kxk"),
    (powers("downsampling_layer", "folded"), "input changed: folded"),
    (powers("downsampling_layer", "fusion"), "input changed: fusion"),
    (powers("conv_1x1", "conv_1x1"), "conv_1x1 changed: conv_1x1"),
    (powers("conv_1x1", "folded"), "conv_1x1 changed: folded"),
    (powers("conv_1x1", "fusion"), "conv_1x1 changed: fusion"),
]
figure("08_mobilevit_block_reach", drawing.arranged(parts, columns=3))

# %% [markdown]
# ![A change of one input pixel: nine pixels behind the convolution, all behind the transformer, brightest around the
# place and in a grid, and all behind the fusion; below, a change of one token: one pixel, then a grid, then all
# pixels](figures/08_mobilevit_block_reach.png)
#
# ## Exercises
#
# The answers, with the code that checks them, are in [answers/08_mobilevit_block.py](answers/08_mobilevit_block.py).
#
# 1. Count the parameters of the block by hand, with C = 48, d = 64, two transformer layers whose feed-forward part is
#    twice as wide, and a scale and a shift for each channel of a normalisation. Which part has most: the transformer,
#    or the convolutions around it? (The inverted residual before it does not count.)
# 2. Add the same number to **all** 64 channels of a token behind `conv_1x1`. Nothing behind `layernorm` changes. Why?
# 3. Set the weights and biases of all queries to zero. Which weights does a token give to the others then, and what
#    does attention compute? Does a pixel still reach all others?
