# %% [markdown]
# # 6. Attention
#
# A 3 x 3 convolution sees nine pixels. To connect a cat's ear with its tail, a network of convolutions needs many
# layers or many strides. Attention connects all places of a map in one step, and it decides *from the values
# themselves* which places belong together. It comes from the translation of texts ([Attention is all you
# need](https://arxiv.org/abs/1706.03762), section 3.2); MobileViT puts nine layers of it between its convolutions
# ([paper](https://arxiv.org/abs/2110.02178), section 3.1 and figure 1b).
#
# You need to know the product of matrices and what a mean with weights is. Lesson 7 shows where the tokens come from.

# %%
import numpy as np
from lesson import IMAGES, figure

import npmobilevit as nm
from npmobilevit import ops
from npmobilevit.validation.mutants import mutant_named
from npmobilevit.validation.replay import run_changed
from npmobilevit.visual import drawing

# %% [markdown]
# ## Three views of a token
#
# A **token** is a vector, here all channels of one pixel of a map. A **sequence** is a list of tokens, an array (L, D):
# L tokens of width D. Attention looks at each token in three ways, with a matrix of weights for each:
#
# - the **query** says what the token looks for,
# - the **key** says what it can be found by,
# - the **value** says what it has to give.
#
# Where a query fits a key, the value is taken. Here are four tokens: two channels say whether the token is red or blue,
# the third holds a number. The query asks for a token's own colour, and the value is the number.

# %%
tokens = np.array([[1, 0, 2], [0, 1, 30], [1, 0, 4], [0, 1, 50]], np.float32)  # (L, D): red, blue, number
query = ops.linear(tokens, weight=np.array([[12, 0, 0], [0, 12, 0]], np.float32))  # (4, 2)
key = ops.linear(tokens, weight=np.array([[1, 0, 0], [0, 1, 0]], np.float32))  # (4, 2)
value = ops.linear(tokens, weight=np.array([[0, 0, 1]], np.float32))  # (4, 1)

# %% [markdown]
# How well query $i$ fits key $j$ is their dot product. It is large where both are large at the same place. All of them
# are one product of matrices, the **scores**: a row for each query, a column for each key. They are divided by
# $\sqrt d$, where $d$ is the width of a query; the reason comes below.

# %%
scores = ops.attention_scores(query, key)  # (L, L)
print(scores.shape, scores[0].round(1), scores[1].round(1))  # -> (4, 4) [8.5 0.  8.5 0. ] [0.  8.5 0.  8.5]

# %% [markdown]
# **Softmax** makes weights of the scores of each query: positive numbers with the sum 1,
# $p_{ij} = e^{s_{ij}} / \sum_k e^{s_{ik}}$. The result for a token is the mean of all values with these weights. So
# this attention gives every token the mean number of its colour:

# %%
probs = ops.softmax(scores)  # (L, L), each row with the sum 1
print(probs[0].round(2))  # -> [0.5 0.  0.5 0. ]
print(ops.attend(probs, value).round(1).ravel())  # -> [ 3. 40.  3. 40.]

# %% [markdown]
# In one formula (equation 1 of "Attention is all you need"), with the queries, keys and values as rows of matrices:
#
# $$\mathrm{Attention}(Q, K, V) = \mathrm{softmax}\left(\frac{Q K^T}{\sqrt d}\right) V$$
#
# The same three matrices of weights serve all tokens, however many there are. The weights of the *mean* are no
# parameters: every picture makes its own.
#
# Softmax goes over the keys, along a row. A matrix of scores is square, so softmax over the queries runs as well, and
# no shape tells ([ATT-04](../mistakes.md#att-04)). But then the weights of a token do not add up to 1:

# %%
two = np.array([[4, 0], [4, 4]], np.float32)  # the first query fits the first key, the second fits both
print(ops.softmax(two).sum(axis=1))  # -> [1. 1.]
print(ops.softmax(two.T).T.sum(axis=1).round(1))  # -> [0.5 1.5]

# %% [markdown]
# ## Why the root of d
#
# Take queries and keys of $d$ random numbers with mean 0 and variance 1. A score is a sum of $d$ products of variance
# 1, so its variance is $d$. Wide tokens have large scores, and softmax of large scores gives nearly all the weight to
# one key. Divided by $\sqrt d$, scores have variance 1 at every width (the same paper, section 3.2.1, footnote 4).

# %%
rng = np.random.default_rng(6)
q, k = rng.normal(size=(2, 1000, 64))  # 1000 tokens of width 64
plain = q @ k.T  # (1000, 1000)
print(round(plain.std()), round(ops.attention_scores(q, k).std()))  # -> 8 1
sharpest = [ops.softmax(s[:, :16]).max(axis=1).mean() for s in (plain, ops.attention_scores(q, k))]
print([f"{p:.0%}" for p in sharpest])  # -> ['84%', '25%']

# %% [markdown]
# On average, the largest of 16 keys gets 84 % of the weight without the division, and 25 % with it.
#
# ## Several heads
#
# With one set of weights, a token asks one question. MobileViT asks four at a time: it cuts queries, keys and values
# into four blocks of channels, the **heads**, and each head does the whole computation for itself (the same paper,
# section 3.2.2). Here they are in the first MobileViT block of the checkpoint that comes with the package, for the
# picture of a cat. The intermediate values of a network, its taps, have names; "scores" and "probs" are only there if
# they are asked for.

# %%
model = nm.MobileViTForImageClassification.from_pretrained("cifar10-xx-small")
pixels = nm.load("cifar10-xx-small").pixel_values(IMAGES / "chelsea.png")  # (1, 3, 64, 64)
layer = "mobilevit.encoder.layer.2.transformer.layer.0"
inside = f"{layer}.attention.attention"
taps = model.taps(pixels) | model.taps(pixels, [f"{inside}.scores", f"{inside}.probs"])

x = taps[f"{layer}.layernorm_before"]  # (S, L, D): 4 sequences of 16 tokens, lesson 7 says why
q, k, v = (ops.split_heads(taps[f"{inside}.{name}"], 4) for name in ("query", "key", "value"))
print(x.shape, q.shape)  # -> (4, 16, 64) (4, 4, 16, 16)
scores, probs = taps[f"{inside}.scores"], taps[f"{inside}.probs"]
print(scores.shape, np.allclose(scores, ops.attention_scores(q, k), atol=1e-5))  # -> (4, 4, 16, 16) True
print(np.allclose(probs, ops.softmax(scores), atol=1e-6))  # -> True
print(np.allclose(ops.merge_heads(ops.attend(probs, v)), taps[inside], atol=1e-5))  # -> True

# %% [markdown]
# The axes are (sequence, head, token, channel of the head) for queries, and (sequence, head, query, key) for scores and
# weights. At the end the heads are put side by side again, and the **output projection**, one more matrix, mixes them.
# `multi_head_attention` is all of it:

# %%
names = {"query": "attention.query", "key": "attention.key", "value": "attention.value", "output": "output.dense"}
weights = model.parameters()
projections = {
    key: {leaf: weights[f"{layer}.attention.{name}.{leaf}"] for leaf in ("weight", "bias")}
    for key, name in names.items()
}
attended = ops.multi_head_attention(x, **projections, num_heads=4)
print(attended.shape, np.allclose(attended, taps[f"{layer}.attention"], atol=1e-5))  # -> (4, 16, 64) True

# %% [markdown]
# The number of heads stands in no shape of a weight: two heads fit the same checkpoint and compute something else
# ([ATT-01](../mistakes.md#att-01)). The width of a head is D / 4 = 16, so it is $\sqrt{16}$ that scores are divided by,
# not $\sqrt{64}$ ([ATT-02](../mistakes.md#att-02)); and the division must not be forgotten
# ([ATT-03](../mistakes.md#att-03)). Such a mistake is hard to see, as the network goes through and still sees a cat.
# `run_changed` runs it with a mistake of the catalogue:


# %%
def cat(*mistake):
    """Probability of "cat" (class 3), with a mistake in the network."""
    return f"{ops.softmax(run_changed(model, pixels, mistake)['logits'])[0, 3]:.0%}"


print(cat())  # -> 77%
print(cat(*mutant_named("ATT-01").make(2)))  # -> 69%
print(cat(*mutant_named("ATT-02").make(None)))  # -> 78%
print(cat(*mutant_named("ATT-03").make(None)))  # -> 69%

# %% [markdown]
# ## Attention does not know where a token stands
#
# Nothing in the formula names the place of a token. If the tokens are shuffled, the results are shuffled in the same
# way and do not change otherwise:

# %%
order = rng.permutation(16)
shuffled = ops.multi_head_attention(x[:, order], **projections, num_heads=4)
print(np.allclose(shuffled, attended[:, order], atol=1e-5))  # -> True

# %% [markdown]
# But a picture with its patches shuffled is another picture. The Vision Transformer therefore adds a learned vector to
# each token that stands for its place ([ViT](https://arxiv.org/abs/2010.11929), equation 1), and has to interpolate
# these vectors for pictures of other sizes.
#
# MobileViT needs none (its paper, section 3.2). Its tokens go back to their places after the transformer, so the order
# is never lost (section 3.1), and the convolutions before and after it do know the neighbours of a pixel. They even see
# the border of the picture, where the kernel meets the zeros of the padding. On a picture of one colour, tokens that
# had no idea of their place would all be equal. In the middle they are, and in the corner they are not:

# %%
plain = np.full((1, 3, 128, 128), 0.5, np.float32)
grid = model.taps(plain, "mobilevit.encoder.layer.2.conv_1x1")["mobilevit.encoder.layer.2.conv_1x1"]  # (1, 64, 16, 16)
from_the_middle = np.abs(grid - grid[:, :, 8:9, 8:9]).max(axis=(0, 1))  # (16, 16)
print(from_the_middle[7:10, 7:10].max() < 1e-4, from_the_middle[0, 0] > 0.1)  # -> True True

# %% [markdown]
# ## What it costs
#
# For L tokens of width D, the four projections take $4 L D^2$ multiplications, and scores and means $2 L^2 D$, all
# heads together. The second grows with the *square* of the number of tokens. In encoder layer 2 the tokens of a
# sequence lie 16 pixels of the picture apart, so a picture of side 256 has sequences of 256 tokens. Twice the side is
# four times the tokens and sixteen times the scores; this is how many times as much as the projections they take for
# the sides 256, 512 and 1024:

# %%
lengths, width = [256, 1024, 4096], 64
print([(2 * length**2 * width) / (4 * length * width**2) for length in lengths])  # -> [2.0, 8.0, 32.0]

# %% [markdown]
# MobileViT has four sequences for a map instead of one that is four times as long: a quarter of the scores. Lesson 7
# shows the trick.
#
# ## A transformer layer
#
# Attention brings tokens together; what it does to a value is linear. So each attention is followed by a
# **feed-forward** part that works on each token alone: a matrix that widens it, SiLU (lesson 5), a matrix that narrows
# it. Both parts are *added* to what came in, and each sees it after a layer normalisation (LN, lesson 4), which brings
# each token to mean 0 and variance 1:
#
# $$h = x + \mathrm{Attention}(\mathrm{LN}(x)), \qquad y = h + \mathrm{FeedForward}(\mathrm{LN}(h))$$
#
# The sums let a value pass unchanged through any number of layers. The normalisation stands *before* each part
# ("pre-norm", [Xiong et al.](https://arxiv.org/abs/2002.04745)); in the original it stands after the sum, and a port
# that does that runs, too ([TRF-01](../mistakes.md#trf-01)).

# %%
x = model.taps(pixels, "mobilevit.encoder.layer.2.unfolded")["mobilevit.encoder.layer.2.unfolded"]  # (4, 16, 64)
h = x + taps[f"{layer}.attention"]
y = h + taps[f"{layer}.output.dense"]
print(taps[f"{layer}.intermediate.dense"].shape, y.shape)  # -> (4, 16, 128) (4, 16, 64)
print(np.allclose(y, taps[layer], atol=1e-5))  # -> True

# %% [markdown]
# ## Where a token looks
#
# The 16 tokens of the first sequence come from 4 x 4 patches, each of them over 16 x 16 pixels of the picture. The
# figure follows one of them, token 6, from its row of scores to what each head shows it: the brighter a patch, the more
# of its value is taken.

# %%
token, sequence = 6, 0
grey = pixels[0].mean(axis=0)[..., np.newaxis].repeat(3, axis=2)  # (64, 64, 3)


def lit(weights):
    """The picture with each patch of 16 x 16 pixels as bright as its weight."""
    bright = weights.reshape(4, 4) / weights.max()
    return drawing.picture(grey * np.kron(bright, np.ones((16, 16)))[..., np.newaxis].astype(np.float32), cell=3)


row, column = (16 * place for place in divmod(token, 4))
frame = np.ones((16, 16), bool)
frame[2:-2, 2:-2] = False
framed = grey.copy()
framed[row : row + 16, column : column + 16][frame] = [1, 0.2, 0.2]
row_6 = probs[sequence, 2, token].reshape(4, 4).round(2)
parts = [
    (drawing.picture(framed, cell=3), "token 6 of 16, framed"),
    (drawing.heatmap(scores[sequence, 2], colours="grey", cell=12), "scores of head 2"),
    (drawing.heatmap(probs[sequence, 2], low=0, colours="grey", cell=12), "after softmax, rows sum to 1"),
    (drawing.heatmap(row_6, low=0, colours="grey", cell=48, numbers=True), "its row, as 4 x 4 patches"),
    *((lit(probs[sequence, head, token]), f"token 6 in head {head}") for head in range(4)),
]
figure("06_attention", drawing.arranged(parts, columns=4))

# %% [markdown]
# ![A cat with one patch framed; a matrix of scores and the same after softmax; the weights of the framed patch for all
# patches; and the cat four times, lit where each head takes its values from](figures/06_attention.png)
#
# The stripes in the matrices say that in this head, all tokens of this picture ask nearly the same question. Two keys
# answer it:

# %%
print(sorted(np.argsort(probs[sequence, 2].mean(axis=0))[-2:].tolist()))  # -> [0, 11]

# %% [markdown]
# ## Exercises
#
# The answers, with the code that checks them, are in [answers/06_attention.py](answers/06_attention.py).
#
# 1. From how many tokens on do scores and means take more multiplications than the four projections? Which side has a
#    square picture then, in encoder layer 2 of the xx-small network (D = 64), if it is a multiple of 16?
# 2. Query, key and value have a bias each. For one of the three it makes no difference at all what it is. Which one,
#    and why?
# 3. Let each of L tokens say where it is: token i is the i-th row of the identity matrix. Find weights of query and key
#    with which each token takes the value of its left neighbour (the first, that of the last). Why is there no such
#    choice for tokens that do not say where they are?
