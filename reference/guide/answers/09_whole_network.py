# %% [markdown]
# # Answers to lesson 9, the whole network

# %%
import numpy as np

import npmobilevit as nm
from npmobilevit import ops
from npmobilevit.cost import cost_table
from npmobilevit.scope import Scope

rng = np.random.default_rng(99)
model = nm.MobileViTForImageClassification.from_pretrained("cifar10-xx-small")
weights = model.parameters()

# %% [markdown]
# ## 1. Fewer classes
#
# Only the classifier knows how many classes there are. It has a weight for each of 320 channels and a bias, 321
# parameters a class: 990 * 321 = 317,790 fewer, a quarter of all.

# %%
learned = sum(
    value.size for name, value in weights.items() if not name.endswith(("running_mean", "running_var"))
)  # of the shipped checkpoint, which has ten classes
assert 1_272_024 - learned == 990 * 321 == 317_790
assert round(317_790 / 1_272_024, 2) == 0.25

# %% [markdown]
# ## 2. A picture of 200 x 232
#
# Each halving rounds up: 100 x 116 behind the stem and layer 0, 50 x 58 behind layer 1, 25 x 29, 13 x 15 and 7 x 8
# behind layers 2, 3 and 4. All three maps have an odd side, and are resized to 26 x 30, 14 x 16 and 8 x 8: that is 13 *
# 15 = 195, 7 * 8 = 56 and 4 * 4 = 16 patches of 2 x 2, and as many tokens in a sequence.

# %%
maps = [part.shape[2:] for part in cost_table(model.config, (200, 232), head="classification").blocks()[:6]]
assert maps == [(100, 116), (100, 116), (50, 58), (25, 29), (13, 15), (7, 8)]

resized = []


class Watched(Scope):
    """A scope that notes the sequences."""

    def out(self, x):
        if self.name.endswith(".unfolded"):
            resized.append(x.shape[:2])
        return super().out(x)


picture = rng.uniform(size=(1, 3, 200, 232)).astype(np.float32)
model.forward(Watched(weights), picture)
assert resized == [(4, 195), (4, 56), (4, 16)]

# %% [markdown]
# ## 3. The classifier before the mean
#
# Mean and classifier are both linear (the bias adds the same to every pixel, and so to their mean), so their order does
# not matter. The largest value is not linear: the largest of a sum is not the sum of the largest.
#
# The map of logits says which places speak for "cat", the mean of them is what the network says. Such a picture is
# called a class activation map ([Zhou et al.](https://arxiv.org/abs/1512.04150)). It is coarse, one value for 32 x 32
# pixels of the picture, and each of them has seen everything.

# %%
taps = model.taps(picture, ["mobilevit.conv_1x1_exp", "logits"])
last = taps["mobilevit.conv_1x1_exp"]  # (1, 320, 7, 8)
tokens = last.transpose(0, 2, 3, 1)  # (1, 7, 8, 320)
classifier = {leaf: weights[f"classifier.{leaf}"] for leaf in ("weight", "bias")}
logits = ops.linear(tokens, **classifier)  # (1, 7, 8, 10)
assert np.allclose(logits.mean(axis=(1, 2)), taps["logits"], atol=1e-4)
largest = ops.linear(tokens.max(axis=(1, 2)), **classifier)
assert np.abs(logits.max(axis=(1, 2)) - largest).max() > 0.1
