# %% [markdown]
# # Answers to lesson 12, your port

# %%
import json
import tempfile
from pathlib import Path

import numpy as np

import npmobilevit as nm
from npmobilevit import ops, validation
from npmobilevit.validation.mutants import mutant_named
from npmobilevit.validation.replay import run_changed

pipeline = nm.load("cifar10-xx-small")
parameters = pipeline.network.parameters()
pixel_values = np.random.default_rng(1212).random((1, 3, 64, 64), np.float32)
stem = "mobilevit.conv_stem"

# %% [markdown]
# ## 1. Without the activation, and channels last
#
# The first port fails at the activation, and the mistake has a name: CNV-12, a layer without its activation. The last
# tap of the stem repeats the value of the activation, as it should, so it is right.
#
# Of the second port the report says that the values are right and the axes in another order, SYS-05. That is a fail,
# too: what the name promises is not there. With "layout" in a manifest the same numbers are right.

# %%
normalised = ops.batch_norm(
    ops.conv2d(pixel_values, weight=parameters[f"{stem}.convolution.weight"], stride=2, padding=1),
    **{leaf: parameters[f"{stem}.normalization.{leaf}"] for leaf in ("weight", "bias", "running_mean", "running_var")},
)
bare = {"pixel_values": pixel_values, f"{stem}.normalization": normalised, f"{stem}.activation": normalised}
report = validation.check({**bare, stem: normalised}, pipeline)
assert [(finding.tap, finding.cause) for finding in report.failures] == [(f"{stem}.activation", "CNV-12")]

channels_last = {"pixel_values": pixel_values, stem: ops.silu(normalised).transpose(0, 2, 3, 1)}
report = validation.check(channels_last, pipeline)
assert [(finding.tap, finding.cause, finding.kind) for finding in report.failures] == [(stem, "SYS-05", "layout")]
assert "values are right" in report.failures[0].message

# %% [markdown]
# ## 2. Too small to see it
#
# Heads only share out which tokens are looked at how much. With a single token there is nothing to share out: the
# softmax of one score is 1. The maps of layers 2, 3 and 4 have 1/8, 1/16 and 1/32 of the picture's side, and patches of
# 2 x 2 pixels. So there is more than one token from a side beyond 16, 32 and 64 pixels on. A check sees what the input
# makes visible, so choose one on which every layer has something to do.

# %%
picture = np.random.default_rng(12).random((1, 3, 96, 96), np.float32)


def layers_that_show_it(side):
    """Encoder layers in which a check finds two heads, on a picture of this side."""
    taps = run_changed(pipeline.network, picture[:, :, :side, :side], mutant_named("ATT-01").make(2))
    report = validation.check(taps, pipeline)
    assert {finding.cause for finding in report.failures} <= {"ATT-01"}
    return sorted({int(finding.tap.split(".")[3]) for finding in report.failures})


assert layers_that_show_it(16) == []
assert layers_that_show_it(64) == [2, 3]
assert layers_that_show_it(96) == [2, 3, 4]

# %% [markdown]
# ## 3. Whole numbers
#
# Rounded to the nearest, values are off by half a step at most, and rounded down by nearly a whole one. The tolerance
# of the profile is one step, for nobody says which of the two a device does, and a little more for the float32 sum. So
# both pass. (Not only that: to add half a step before the shift costs nothing and halves the error.) One step higher
# than rounded, some values are one and a half steps off, and that is found.

# %%
exact = pipeline.network.taps(pixel_values, [f"{stem}.convolution"])[f"{stem}.convolution"]
scale = float(np.abs(exact).max() / 120)  # some room below 127


def checked(whole):
    """The judgement of whole numbers (N, C, H, W)."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pixel_values.astype("<f4").tofile(folder / "in.raw")
        stored = whole.astype(np.int8).transpose(0, 2, 3, 1)  # (N, H, W, C)
        stored.tofile(folder / "out.raw")
        picture = {"file": "in.raw", "dtype": "float32", "shape": list(pixel_values.shape)}
        tap = {"file": "out.raw", "dtype": "int8", "shape": list(stored.shape), "layout": "NHWC", "scale": scale}
        manifest = {"taps": {"pixel_values": picture, f"{stem}.convolution": tap}}
        (folder / "manifest.json").write_text(json.dumps(manifest))
        (judged,) = validation.check(folder, pipeline, profile="fixed").judgements
    return judged


nearest, down = checked(np.rint(exact / scale)), checked(np.floor(exact / scale))
assert nearest.status == down.status == "right"
assert 0.45 < nearest.error / scale < 0.51
assert 0.95 < down.error / scale < 1.01
assert 1 <= nearest.tolerance / scale < 1.01
assert checked(np.rint(exact / scale) + 1).status == "wrong"
