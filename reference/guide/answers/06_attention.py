# %% [markdown]
# # Answers to lesson 6, attention

# %%
import dataclasses

import numpy as np

import npmobilevit as nm
from npmobilevit import ops

rng = np.random.default_rng(66)
model = nm.MobileViTForImageClassification.from_pretrained("cifar10-xx-small")

# %% [markdown]
# ## 1. When the square wins
#
# $2 L^2 D > 4 L D^2$ where $L > 2 D = 128$. The map of encoder layer 2 has an eighth of the side, and a patch two
# pixels: $L = (\mathrm{side} / 16)^2$. At a side of 176 it is 121, at 192 it is 144: from 192 on. (Any other side is
# rounded up, so that a picture of 177 has 144 tokens already: lesson 7.)
#
# The check counts the multiplications that the operators of the network do.


# %%
def multiplications(side):
    """Of the projections, and of scores and means, in the first transformer layer of encoder layer 2."""
    counts = {"projections": 0, "scores and means": 0}
    layer = "mobilevit.encoder.layer.2.transformer.layer.0.attention"
    matrices = {
        id(model.parameters()[f"{layer}.{name}.weight"])
        for name in ("attention.query", "attention.key", "attention.value", "output.dense")
    }

    def linear(x, *, weight, **bias):
        if id(weight) in matrices:
            counts["projections"] += x.size * weight.shape[0]
        return ops.linear(x, weight=weight, **bias)

    def attention_scores(query, key):
        if query.shape[-1] == 16:  # D / 4 of encoder layer 2, which has two transformer layers
            counts["scores and means"] += query.size * key.shape[-2] // 2
        return ops.attention_scores(query, key)

    def attend(probs, value):
        if value.shape[-1] == 16:
            counts["scores and means"] += probs.size * value.shape[-1] // 2
        return ops.attend(probs, value)

    scope = model.scope()
    table = scope.ops._replace(linear=linear, attention_scores=attention_scores, attend=attend)
    model.forward(dataclasses.replace(scope, ops=table), np.zeros((1, 3, side, side), np.float32))
    return counts


for side, length in ((176, 121), (177, 144), (192, 144)):
    counts = multiplications(side)
    assert counts["projections"] == 4 * (4 * length * 64**2)  # 4 sequences
    assert counts["scores and means"] == 4 * (2 * length**2 * 64)
    assert (counts["scores and means"] > counts["projections"]) == (side > 176)

# %% [markdown]
# ## 2. The bias that does nothing
#
# The key's. With it, a score is $q_i \cdot (k_j + b) = q_i \cdot k_j + q_i \cdot b$: the same number is added to all
# scores of row $i$. Softmax divides $e^{s_{ij}}$ by the sum over the row, so the factor $e^{q_i \cdot b}$ cancels.
#
# With a bias of the query, $b \cdot k_j$ is added, another number in each column; and the bias of the value is added to
# the result, as the weights of a row add up to 1.

# %%
layer = "mobilevit.encoder.layer.2.transformer.layer.0.attention"
weights = {name: value.astype(np.float64) for name, value in model.parameters().items()}
projections = {
    name: {leaf: weights[f"{layer}.{place}.{leaf}"] for leaf in ("weight", "bias")}
    for name, place in (
        *((name, f"attention.{name}") for name in ("query", "key", "value")),
        ("output", "output.dense"),
    )
}
x = rng.normal(size=(4, 16, 64))
right = ops.multi_head_attention(x, **projections, num_heads=4)
changes = {}
for name in ("query", "key", "value"):
    other = projections | {name: {"weight": projections[name]["weight"], "bias": rng.normal(size=64)}}
    changes[name] = np.abs(ops.multi_head_attention(x, **other, num_heads=4) - right).max()
assert changes["key"] < 1e-12
assert changes["query"] > 1e-2
assert changes["value"] > 1e-2

# %% [markdown]
# ## 3. Attention that moves values by one
#
# With the identity as the key's weights, a query finds token j if its j-th number is the large one. Token i has to find
# token i - 1, so the query's matrix moves the one by one place: row i of the queries is large at i - 1.
#
# Tokens without a place: shuffled tokens give the shuffled results, whatever the weights. If each token took from its
# left neighbour, that would have to be the left neighbour before the shuffling and the one after it, which is another.

# %%
length = 7
places = np.eye(length)
shift = np.roll(np.eye(length), 1, axis=0)  # row i has its one at i - 1
query = ops.linear(places, weight=1000 * shift.T)
key = ops.linear(places, weight=np.eye(length))
value = rng.normal(size=(length, 3))
moved = ops.scaled_dot_product_attention(query, key, value)
assert np.allclose(moved, np.roll(value, 1, axis=0), rtol=1e-9)
