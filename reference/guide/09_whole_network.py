# %% [markdown]
# # 9. The whole network
#
# All parts are there: convolutions, inverted residuals, MobileViT blocks. This lesson puts them together
# ([paper](https://arxiv.org/abs/2110.02178), figure 1b and table 4 of appendix A), counts what they cost, follows a
# picture through a trained network, and shows how every value in it got its name. The whole code stands on one page,
# [network.py](../../npmobilevit/network.py), and its blocks in [layers.py](../../npmobilevit/layers.py).
#
# You need lessons 3 (inverted residuals) and 8 (the MobileViT block).

# %%
import json

import numpy as np
from lesson import IMAGES, figure

import npmobilevit as nm
from npmobilevit import ops
from npmobilevit.checkpoints import read_model
from npmobilevit.config import expected_parameters
from npmobilevit.cost import cost_table
from npmobilevit.validation.mutants import mutant_named
from npmobilevit.validation.replay import run_changed
from npmobilevit.visual import drawing

# %% [markdown]
# ## From the picture to the classes
#
# A network is a row of blocks, each with a map in and a map out. Whenever the map gets smaller, it gets more channels:
# less of *where*, more of *what*. All that distinguishes one MobileViT from another stands in its configuration. This
# is the smallest of the paper, with the thousand classes of ImageNet and pictures of 256 x 256:

# %%
xx_small = nm.MobileViTConfig(
    hidden_sizes=(64, 80, 96),  # width of the tokens in the three MobileViT blocks
    neck_hidden_sizes=(16, 16, 24, 48, 64, 80, 320),  # channels after stem, layers 0..4 and conv_1x1_exp
    expand_ratio=2.0,  # of the inverted residuals
    num_labels=1000,
)
table = cost_table(xx_small, (256, 256), head="classification")
for part in table.blocks():
    print(f"{part.name:16} {part.shape!s:18} {part.parameters:8,} {part.macs:12,} {part.receptive_field}")

# %% [markdown]
# | part | what it is | map | parameters | multiplications | sees |
# |---|---|---|---|---|---|
# | `conv_stem` | 3 x 3 convolution, stride 2 | 16 x 128 x 128 | 464 | 7 M | 3 x 3 |
# | `encoder.layer.0` | inverted residual | 16 x 128 x 128 | 1,472 | 21 M | 7 x 7 |
# | `encoder.layer.1` | three of them, the first with stride 2 | 24 x 64 x 64 | 7,696 | 35 M | 27 x 27 |
# | `encoder.layer.2` | one with stride 2, a block of 2 transformer layers | 48 x 32 x 32 | 139,888 | 212 M | all |
# | `encoder.layer.3` | the same, of 4 layers | 64 x 16 x 16 | 341,824 | 100 M | all |
# | `encoder.layer.4` | the same, of 3 layers | 80 x 8 x 8 | 433,440 | 30 M | all |
# | `conv_1x1_exp` | 1 x 1 convolution | 320 x 8 x 8 | 26,240 | 2 M | all |
# | `classifier` | mean over all pixels, then a matrix | 1000 | 321,000 | 0.3 M | all |
#
# The column *sees* is the receptive field, the part of the picture that one value can depend on. Convolutions widen it
# step by step; with the first MobileViT block it is the whole picture.
#
# Parameters and work lie in different places. Work goes with the size of the map, so the first MobileViT block has half
# of it. Parameters go with the width, so the last layers have most.

# %%
total = table.total()
print(total.parameters, total.shape)  # -> 1272024 (1, 1000)
costs = [part for part in table.blocks() if part.parameters]  # without the mean
parts = [
    (drawing.bars([(part.name, part.parameters, f"{part.parameters:,}") for part in costs], width=420),
     "parameters of MobileViT-xx-small"),
    (drawing.bars([(part.name, part.macs, f"{part.macs / 1e6:.1f} M") for part in costs], width=420),
     "multiplications for a picture of 256 x 256"),
]  # fmt: skip
figure("09_whole_network_cost", drawing.arranged(parts))

# %% [markdown]
# ![Two bar charts by part: layers 3 and 4 and the classifier have most parameters, layer 2 has half of the
# multiplications](figures/09_whole_network_cost.png)
#
# ## Three sizes
#
# The paper has three networks that differ in nothing but widths (of maps, of tokens, and inside the inverted
# residuals), with 1.3, 2.3 and 5.6 million parameters. The numbers of layers are always the same.

# %%
x_small = nm.MobileViTConfig(
    hidden_sizes=(96, 120, 144), neck_hidden_sizes=(16, 32, 48, 64, 80, 96, 384), num_labels=1000
)
small = nm.MobileViTConfig(num_labels=1000)  # the defaults
tables = [cost_table(config, head="classification") for config in (xx_small, x_small, small)]
print([f"{each.total().parameters / 1e6:.1f} M" for each in tables])  # -> ['1.3 M', '2.3 M', '5.6 M']
print([each.total().parameters for each in tables])  # -> [1272024, 2317848, 5578632]

# %% [markdown]
# Running means and variances (lesson 4) do not count: they are measured in training, not learned.
#
# ## How small the last map is
#
# The stem, layer 1 and the three MobileViT layers halve the map, so that its side is 1/32 of the picture's. For a class
# that is enough. To say what each *pixel* shows, it is too coarse, and `output_stride` 16 or 8 leaves out the last one
# or two halvings (lesson 10). The same weights fit; sizes of the last map for a picture of 512 x 512, and billions of
# multiplications:

# %%
strides = [nm.MobileViTConfig.from_dict(xx_small.to_dict() | {"output_stride": stride}) for stride in (32, 16, 8)]
tables = [cost_table(config, (512, 512)) for config in strides]
print([each.blocks()[5].shape[2:] for each in tables])  # -> [(16, 16), (32, 32), (64, 64)]
print([f"{each.total().macs / 1e9:.1f}" for each in tables])  # -> ['2.6', '3.1', '10.3']

# %% [markdown]
# ## A trained network
#
# The package brings a checkpoint of this network, trained on ten classes and pictures of 64 x 64. In five lines from
# the file of a photograph to its label:

# %%
processor = nm.MobileViTImageProcessor.from_pretrained("cifar10-xx-small")
model = nm.MobileViTForImageClassification.from_pretrained("cifar10-xx-small")
pixels = processor.preprocess(IMAGES / "chelsea.png")["pixel_values"]
logits = model(pixels).logits
scores = ops.softmax(logits)[0]
print(pixels.shape, logits.shape)  # -> (1, 3, 64, 64) (1, 10)

best = np.argsort(-scores)[:5].tolist()
print([model.config.id2label[i] for i in best])  # -> ['cat', 'dog', 'frog', 'truck', 'automobile']
print([f"{scores[i]:.0%}" for i in best])  # -> ['77%', '8%', '5%', '4%', '2%']

# %% [markdown]
# The end of the network is simple: the mean of each channel over all pixels, and a matrix. The mean is what makes any
# size of picture possible, and to take the largest value in its place is a mistake that looks like success
# ([HED-02](../mistakes.md#hed-02)):

# %%
taps = model.taps(pixels)
last = taps["mobilevit.conv_1x1_exp"]  # (1, 320, 2, 2)
weights = model.parameters()
by_hand = ops.linear(last.mean(axis=(2, 3)), weight=weights["classifier.weight"], bias=weights["classifier.bias"])
print(np.allclose(by_hand, logits, atol=1e-5))  # -> True
largest = run_changed(model, pixels, mutant_named("HED-02").make(None))["logits"]
print(f"{ops.softmax(largest)[0, 3]:.0%}")  # -> 96%

# %% [markdown]
# ## One name for everything
#
# A parameter is named by the path to it: in `mobilevit.encoder.layer.2.fusion.convolution.weight`, the network
# `mobilevit` has an `encoder`, whose `layer` 2 has a `fusion`, which has a `convolution`, which has a `weight`. In
# PyTorch that is the tree of modules of `transformers.MobileViTForImageClassification`. Here it is the path of scopes
# that a function hands to the functions it calls. The names are the same, in three places:
#
# - the file of a checkpoint holds tensors under these names,
# - a function finds its parameters under the name of its scope,
# - the value that it makes is a tap of this name.

# %%
stored = read_model("cifar10-xx-small").weights  # the tensors of the file, by name
print(set(stored) == set(model.state_dict()), len(stored), len(weights))  # -> True 347 315
print(all(name.rpartition(".")[0] in taps for name in weights))  # -> True
print("mobilevit.encoder.layer.2.fusion.convolution.weight" in stored)  # -> True
print(taps["mobilevit.encoder.layer.2.fusion.convolution"].shape)  # -> (1, 48, 8, 8)

# %% [markdown]
# (The 32 more are counters that PyTorch keeps for each batch normalisation; nothing reads them.)
#
# And are they those of transformers? A file in this repository was written by transformers itself, with the name and
# shape of each parameter, and the names of all modules in the order in which they run:

# %%
witness = json.loads((IMAGES.parent / "names" / "xx-small-classification.json").read_text(encoding="utf-8"))
shapes = {name: tuple(shape) for name, shape in witness["parameters"].items()}
print(shapes == expected_parameters(xx_small, head="classification"))  # -> True
print(list(witness["taps"]) == list(taps))  # -> True

# %% [markdown]
# That is why two programs can be compared layer by layer: lesson 12.
#
# ## What it looks like
#
# Nine channels behind each part. On the way, maps lose the picture and keep what is in it; the last has four pixels,
# and each has seen everything.


# %%
def nine(name, cell):
    return drawing.sheet(taps[f"mobilevit.{name}"][0, :9], columns=3, cell=cell)


rgb = pixels[0, ::-1].transpose(1, 2, 0)  # B, G, R -> R, G, B; (64, 64, 3)
bars = [(model.config.id2label[i], float(scores[i]), f"{scores[i]:.0%}") for i in best]
parts = [
    (drawing.picture(rgb, cell=3), "3 x 64 x 64"),
    (nine("conv_stem", 2), "stem, 16 x 32 x 32"),
    (nine("encoder.layer.0", 2), "layer 0, 16 x 32 x 32"),
    (nine("encoder.layer.1", 4), "layer 1, 24 x 16 x 16"),
    (nine("encoder.layer.2", 8), "layer 2, 48 x 8 x 8"),
    (nine("encoder.layer.3", 16), "layer 3, 64 x 4 x 4"),
    (nine("encoder.layer.4", 32), "layer 4, 80 x 2 x 2"),
    (drawing.bars(bars, width=196, limit=1), "scores"),
]
figure("09_whole_network", drawing.arranged(parts, columns=4))

# %% [markdown]
# ![A cat, nine maps behind each of six parts, coarser and coarser, and bars of the five best
# classes](figures/09_whole_network.png)
#
# ## Exercises
#
# The answers, with the code that checks them, are in [answers/09_whole_network.py](answers/09_whole_network.py).
#
# 1. How many parameters fewer has the xx-small network for ten classes than for a thousand?
# 2. A picture of 200 x 232 goes through the network. Which sizes have the maps behind the stem and the five layers?
#    Which of them are resized for unfold, and how many tokens has a sequence in each of the three blocks?
# 3. Apply the classifier to every pixel of `conv_1x1_exp` *before* the mean. Show that the mean of these logits is the
#    logits of the network. Why does that not hold for the largest value in place of the mean? And what can be learned
#    from the map of logits of "cat"?
