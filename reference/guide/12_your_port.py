# %% [markdown]
# # 12. Validating your own port
#
# A port is the network in another language or on another device. It is right if every layer makes of its input what it
# should. This lesson makes a small port with two mistakes, finds and mends them, then does the same for a whole
# network, and ends with the order of work that finds a mistake soonest. What is behind it is described in
# [validation.md](../validation.md); the tolerances are those of lesson 11.
#
# You need lesson 2 (convolution), 4 (batch normalisation) and 11 (rounding). The network is that of the paper ([arXiv
# 2110.02178](https://arxiv.org/abs/2110.02178), figure 1b).

# %%
import contextlib
import io
import json
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
from lesson import IMAGES, figure

import npmobilevit as nm
from npmobilevit import validation
from npmobilevit.cli import main
from npmobilevit.validation.mutants import mutant_named
from npmobilevit.validation.replay import run_changed
from npmobilevit.visual import drawing

pipeline = nm.load("cifar10-xx-small")
pixel_values = pipeline.pixel_values(IMAGES / "chelsea.png")
parameters = pipeline.network.parameters()
print(pixel_values.shape, len(parameters))  # -> (1, 3, 64, 64) 315

# %% [markdown]
# ## A port of one layer
#
# Here is the first layer of the network, the stem, written once more in NumPy: a 3 x 3 convolution with stride 2, batch
# normalisation, SiLU. It knows nothing of the package but the weights. Its author comes from Keras, where stride 2 pads
# below and on the right only, and batch normalisation has an eps of 0.001.
#
# The one thing that a check needs is a **dump**: what each layer puts out, under the name that transformers gives that
# layer. Such a value is called a tap. `npmobilevit taps` lists the names.


# %%
def stem(x, *, padding, eps):
    """A port of the stem. Gives its taps."""
    name = "mobilevit.conv_stem"
    x_padded = np.pad(x, ((0, 0), (0, 0), padding, padding))
    windows = np.lib.stride_tricks.sliding_window_view(x_padded, (3, 3), axis=(2, 3))[:, :, ::2, ::2]
    convolved = np.einsum("nchwkl,ockl->nohw", windows, parameters[f"{name}.convolution.weight"])
    mean, variance, scale, shift = (
        parameters[f"{name}.normalization.{leaf}"].reshape(-1, 1, 1)  # (16, 1, 1)
        for leaf in ("running_mean", "running_var", "weight", "bias")
    )
    normalised = (convolved - mean) / np.sqrt(variance + np.float32(eps)) * scale + shift
    activated = normalised / (1 + np.exp(-normalised))
    return {
        "pixel_values": x,
        f"{name}.convolution": convolved,
        f"{name}.normalization": normalised,
        f"{name}.activation": activated,
        name: activated,
    }


taps = stem(pixel_values, padding=(0, 1), eps=1e-3)
print(taps["mobilevit.conv_stem"].shape)  # -> (1, 16, 32, 32)

# %% [markdown]
# The shape is right, and no number looks wrong. Ask:

# %%
report = validation.check(taps, pipeline)
print(report.verdict, len(report.judgements))  # -> fail 4
first, second = report.failures
print(first.tap, first.cause)  # -> mobilevit.conv_stem.convolution CNV-01
print(second.tap, second.cause)  # -> mobilevit.conv_stem.normalization NRM-01
print(first.diagnosis.description)
print(first.diagnosis.fix)

# %% [markdown]
# Two taps are wrong, and both mistakes have their names: [CNV-01](../mistakes.md#cnv-01),
# [NRM-01](../mistakes.md#nrm-01). How could it see the second, behind the first? For each tap, the check takes the
# port's **own** tensors before it, computes the layer from them in float64, and compares. The normalisation was given a
# wrong map, and made the wrong thing of it. The activation was given a wrong map and did the right thing: it is not
# blamed.
#
# A mistake gets its name by trial: the check runs the layer with each mistake of [the catalogue](../mistakes.md) in it,
# and looks which one gives what the port has.
#
# ## Mended

# %%
taps = stem(pixel_values, padding=(1, 1), eps=1e-5)
report = validation.check(taps, pipeline)
print(report.verdict, report.complete, len(report.unchecked))  # -> screened False 280

# %% [markdown]
# Nothing is wrong any more. But the verdict is not "pass", for 280 taps are missing. There are three verdicts:
#
# - **fail**: a tap is wrong;
# - **pass**: all is right from the input to the output, and each region between two taps was judged by a tolerance that
#   is derived, as in lesson 11;
# - **screened**: nothing wrong was seen, but the end is missing, or two taps lie so far apart that the derived
#   tolerance says little. There another stands in for it, which is found by trying random roundings. It sees mistakes
#   of ordinary size, and certifies nothing.
#
# ## A whole port
#
# To have a whole port at hand we let the package run its own network with mistakes of the catalogue in it: two heads of
# attention in place of four ([ATT-01](../mistakes.md#att-01)), and a fusion whose two inputs are joined in the wrong
# order ([FUS-01](../mistakes.md#fus-01)). All shapes and all weights fit.

# %%
mistakes = [*mutant_named("ATT-01").make(2), *mutant_named("FUS-01").make(None)]
wrong = run_changed(pipeline.network, pixel_values, mistakes)
mended = pipeline.network.taps(pixel_values)
names = pipeline.config.id2label
print(len(wrong), names[wrong["logits"].argmax()], names[mended["logits"].argmax()])  # -> 285 cat cat

# %% [markdown]
# The picture shows a cat, and the port says so. A test that looks at the label alone would be content. Now dump the
# taps into a file, and check that:

# %%
temporary = tempfile.TemporaryDirectory()
folder = Path(temporary.name)
np.savez(folder / "port.npz", **wrong)
before = validation.check(folder / "port.npz", pipeline)
print(str(before).splitlines()[0])
print(dict(Counter(finding.cause for finding in before.failures)))  # -> {'ATT-01': 6, 'FUS-01': 3}
after = validation.check(mended, pipeline)
print(after.verdict, len(after.judgements))  # -> pass 284

# %% [markdown]
# Nine layers fail, and 275 are right. (The last encoder layer has a map of 2 x 2 pixels, one patch. A softmax over one
# token is 1, however many heads there are. So the mistake cannot be seen there, and does nothing there.)
#
# What if one compares each tap with that of a reference run instead, as one would at first? Here is both, for all taps
# that compute anything and do not only move numbers. 1 is the tolerance. For the comparison with the reference run we
# are generous, and take the tolerance of that value of the tap which has the widest.

# %%
exact = nm.load("cifar10-xx-small", precision="float64").network.taps(pixel_values)
computing = [judged for judged in after.judgements if judged.test == "local"]
widest = {judged.tap: judged.resolution for judged in computing}  # this error in any one value would be caught
own_input = [{judged.tap: judged.ratio for judged in one.judgements} for one in (before, after)]
reference_run = [
    {tap: float(np.abs(one[tap] - exact[tap]).max() / widest[tap]) for tap in widest} for one in (wrong, mended)
]


def beyond(ratios):
    """How many of the taps that compute are beyond their tolerance."""
    return sum(ratios[tap] > 1 for tap in widest)


print(len(computing), [beyond(ratios) for ratios in own_input])  # -> 198 [9, 0]
print(beyond(reference_run[0]) > 100, beyond(reference_run[1]) > 0)  # -> True True

# %%
axis = np.arange(len(widest))


def lines(ratios):
    """Two ports and the line that they should stay below."""
    curves = {"two mistakes": ratios[0], "mended": ratios[1], "tolerance": dict.fromkeys(widest, 1)}
    return {title: (axis, [values[tap] for tap in widest]) for title, values in curves.items()}


panels = [
    (drawing.curves(lines(ratios), x_label="tap", y_label="error / tolerance", log_y=True), title)
    for ratios, title in (
        (reference_run, "compared with a reference run"),
        (own_input, "each tap on the port's own input"),
    )
]
figure("12_your_port", drawing.arranged(panels))

# %% [markdown]
# ![Left, compared with a reference run: all taps behind the first mistake are far off, and the mended port, too, comes
# near its tolerance and crosses it. Right, each tap on the port's own input: nine peaks stand out, and the mended port
# stays well below its tolerance everywhere](figures/12_your_port.png)
#
# On the left everything behind the first mistake is off, and where the second one lies nobody can tell. Even the mended
# port crosses the line, as the roundings of all layers before it add up. So one widens the tolerance, and then sees
# less. On the right there are nine peaks, and nothing else.
#
# ## How many taps?
#
# As many as you can get. The 41 of "blocks", the input and the ends of the parts that the paper's figure shows, are
# enough for a "pass". With the 9 of "stages" the regions between them are long, and the verdict is "screened". With the
# logits alone a mistake of ordinary size is still seen, but the search for its name takes long, and may fail.

# %%
blocks = validation.record(pipeline, pixel_values, taps="blocks")
stages = validation.record(pipeline, pixel_values, taps="stages")
print(len(blocks), validation.check(blocks, pipeline).verdict)  # -> 41 pass
print(len(stages), validation.check(stages, pipeline).verdict)  # -> 9 screened

# %% [markdown]
# `record` runs the network and keeps its taps. `npmobilevit record cat.jpg -o golden.safetensors --with-bounds` writes
# them into a file, with all that one needs to compute the tolerances without this package
# ([bundles.md](../bundles.md)). With `--export raw` or `hex` a device can read them, which runs one layer at a time on
# recorded inputs; its dump is then checked with `--inputs golden.safetensors`.
#
# ## From a device: raw files and a manifest
#
# A device that writes bytes needs no library. Beside the raw files lies `manifest.json`, which says what they are. The
# layout is stated there, not guessed: many devices have channels last, NHWC. A dump in an order that is not stated is
# told as such, [SYS-05](../mistakes.md#sys-05). Here is the mended stem, from a device that adds up in float32 and
# stores float16:

# %%
dump = folder / "dump"
dump.mkdir()
manifest = {"producer": {"name": "my port", "device": "board 7"}, "taps": {}}
for name, tap in taps.items():
    channels_last = tap.transpose(0, 2, 3, 1)  # (N, C, H, W) -> (N, H, W, C)
    dtype = "float32" if name == "pixel_values" else "float16"
    channels_last.astype(dtype).tofile(dump / f"{name}.raw")
    entry = {"file": f"{name}.raw", "dtype": dtype, "shape": list(channels_last.shape), "layout": "NHWC"}
    manifest["taps"][name] = entry
(dump / "manifest.json").write_text(json.dumps(manifest))
print(sorted(path.suffix for path in dump.iterdir()))  # -> ['.json', '.raw', '.raw', '.raw', '.raw', '.raw']

# %% [markdown]
# From a shell or a script it is one command, `npmobilevit check dump --model cifar10-xx-small`; here we call what
# stands behind it. The exit code is 0 if nothing wrong was seen and 4 if the port is wrong; 1, 2 and 3 say that the
# dump, the command or the model could not be used. `-o report.html` writes a page with all layers.
#
# A port in float16 has larger errors, and they are not mistakes. The **profile** says what is rounded, and the
# tolerance follows. Without one it is float32, which the dump cannot be; but the report knows what would explain it:


# %%
def checked(*options):
    """The exit code of `npmobilevit check` on the dump, and what it says of the profile."""
    with contextlib.redirect_stdout(io.StringIO()) as report:
        code = main(["check", str(dump), "--model", "cifar10-xx-small", *options])
    return code, next(line for line in report.getvalue().splitlines() if line.startswith("profile"))


print(checked())  # -> (4, 'profile  declared fp32, behaves as fp16')
print(checked("--profile", "fp16"))  # -> (0, 'profile  fp16')
temporary.cleanup()

# %% [markdown]
# | profile | for |
# |---|---|
# | `fp32` | float32 throughout; the default, also for float64 |
# | `tf32` | products of 10-digit factors, sums in float32, as some GPUs do unless told otherwise |
# | `fp16`, `bf16` | values stored in float16 or bfloat16, sums in float32 |
# | `fp16-acc16` | sums in float16, too |
# | `int8-dynamic` | weights and inputs of products in 8 bits, with scales found while running |
# | `fixed` | whole numbers, with the scales that the manifest states for each tap |
#
# Declare what the device really does, not what lets the port pass: in a wider profile smaller mistakes hide.
#
# ## The order of work
#
# 1. **The picture.** Dump `pixel_values` and check with `image=`, before there is any layer: order of channels, resize
#    and crop are the first places of mistakes (lesson 1).
# 2. **Operators.** Where the port has functions for single operators, `validation.check_backend` runs each on probes,
#    small inputs made to expose certain mistakes: an address in each pixel, a kernel that is not symmetric.
# 3. **Layer by layer**, from the stem on: port one, dump, check, go on while it says "screened".
# 4. **The whole network** with all taps, on a picture that is not square and has odd sides, and on two pictures at
#    once.
# 5. **After the network**: `probabilities`, `labels` or `mask` in the same dump.
# 6. **Then make it fast**, and check again with the taps that are left.
#
# ## Exercises
#
# The answers, with the code that checks them, are in [answers/12_your_port.py](answers/12_your_port.py).
#
# 1. Make a port of the stem that forgets the activation, and one that dumps channels last without saying so. What does
#    the report say of each?
# 2. A colleague checks a whole port on a picture of 16 x 16 pixels, gets "pass", and concludes that it has the right
#    number of heads. The port has two. Why was this not seen? From which size on do encoder layers 2, 3 and 4 show it?
# 3. Write what the stem's convolution puts out as 8-bit whole numbers with a scale, channels last, beside a manifest,
#    and check it in the profile `fixed`. How large, in steps of the scale, is the error if values are rounded to the
#    nearest, and if they are rounded down? Which of these pass? Is it found if those that are rounded to the nearest
#    are all one step too high?
