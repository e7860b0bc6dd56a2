# %% [markdown]
# # Answers to lesson 8, the MobileViT block

# %%
import math

import numpy as np

import npmobilevit as nm
from npmobilevit.config import expected_parameters
from npmobilevit.scope import Scope

rng = np.random.default_rng(88)
model = nm.MobileViTForImageClassification.from_pretrained("cifar10-xx-small", precision="float64")
block = "mobilevit.encoder.layer.2"
pixels = rng.uniform(size=(1, 3, 96, 96))  # the block's map is 12 x 12

# %% [markdown]
# ## 1. Parameters
#
# | part | parameters | |
# |---|---|---|
# | `conv_kxk` | 9 * 48 * 48 + 2 * 48 | 20,832 |
# | `conv_1x1` | 48 * 64 | 3,072 |
# | a transformer layer | 4 * (64 * 64 + 64) + 2 * 64 * 128 + 128 + 64 + 2 * 2 * 64 | 33,472 |
# | `layernorm` | 2 * 64 | 128 |
# | `conv_projection` | 64 * 48 + 2 * 48 | 3,168 |
# | `fusion` | 9 * 96 * 48 + 2 * 48 | 41,568 |
#
# The transformer has 2 * 33,472 = 66,944 of 135,712, and the convolutions have 68,640, a little more. A 3 x 3
# convolution is not cheap: the fusion alone has more than a transformer layer.

# %%
shapes = expected_parameters(model.config, head="classification")
sizes = {
    name.removeprefix(f"{block}."): math.prod(shape)
    for name, shape in shapes.items()
    if name.startswith(block) and not name.endswith(("running_mean", "running_var"))
}


def parameters(part):
    return sum(size for name, size in sizes.items() if name.startswith(f"{part}."))


assert parameters("conv_kxk") == 9 * 48 * 48 + 2 * 48 == 20_832
assert parameters("conv_1x1") == 48 * 64 == 3_072
assert parameters("transformer") == 2 * 33_472
assert parameters("layernorm") == 128
assert parameters("conv_projection") == 64 * 48 + 2 * 48 == 3_168
assert parameters("fusion") == 9 * 96 * 48 + 2 * 48 == 41_568
assert sum(sizes.values()) - parameters("downsampling_layer") == 135_712

# %% [markdown]
# ## 2. The same number in all channels
#
# A transformer layer sees a token only through a layer normalisation, which subtracts the mean of the channels: the
# number is gone. But it adds what it computes to the token itself, where the number still is. So the number goes
# unchanged through all layers, beside everything else, until the last normalisation takes it away.


# %%
def values(node, change, weights=None):
    """All values of the network, with a change of the pixel in row 5 and column 8 at a node of the block."""

    class Nudged(Scope):
        def out(self, x):
            if self.name == f"{block}.{node}":
                x = x.copy()
                x[:, :, 5, 8] += change
            return super().out(x)

    found = {}
    model.forward(Nudged(model.parameters() if weights is None else weights, tap=found.__setitem__), pixels)
    return {name.removeprefix(f"{block}."): value for name, value in found.items()}


unchanged = values("conv_1x1", 0)
same = values("conv_1x1", 1)
assert np.abs(same["transformer"] - unchanged["transformer"]).max() > 0.99
assert np.abs(same["layernorm"] - unchanged["layernorm"]).max() < 1e-12
difference = same["transformer"] - unchanged["transformer"]  # (4, 36, 64)
# Row 5, column 8 is the bottom left pixel (sequence 2) of the patch in row 2 and column 4 of 6.
assert np.allclose(difference[2, 2 * 6 + 4], 1, rtol=0, atol=1e-12)
# Other numbers in different channels do change it.
other = values("conv_1x1", rng.normal(size=64))
assert np.abs(other["layernorm"] - unchanged["layernorm"]).max() > 0.01

# %% [markdown]
# ## 3. Queries of zero
#
# All scores are zero, so softmax gives each of the L tokens the weight 1 / L: attention computes the plain mean of the
# values, the same for all tokens of a sequence. Each pixel is in a mean, so it still reaches all others. What is lost
# is the choice: all tokens get the same.

# %%
weights = dict(model.parameters())
for name in weights:
    if ".attention.query." in name:
        weights[name] = np.zeros_like(weights[name])

plain = values("nowhere", 0, weights)
inside = "transformer.layer.0.attention.attention"
assert np.allclose(plain[f"{inside}.probs"], 1 / 36, rtol=1e-12)
means = plain[f"{inside}.value"].mean(axis=1, keepdims=True)  # (4, 1, 64)
assert np.allclose(plain[inside], means, rtol=0, atol=1e-12)

change = np.zeros(48)
change[0] = 1
nudged = values("downsampling_layer", change, weights)
assert (np.abs(nudged["fusion"] - plain["fusion"]).max(axis=(0, 1)) > 1e-9).all()
