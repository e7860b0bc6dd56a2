# %% [markdown]
# # 11. Rounding: why two right programs differ
#
# Run MobileViT in two programs, or in one program on two machines, and the logits differ in their last digits. Both may
# be right. But a wrong program also differs, sometimes by not much more. This lesson finds out how far apart two right
# programs can be, by a formula and not by feeling. The checks of this project rest on it.
#
# You need lesson 2: each value of a layer is a sum of products, an **inner product**. The book on the matter is N. J.
# Higham, *Accuracy and Stability of Numerical Algorithms* (2nd edition, 2002): sections 2.1 and 2.2 for floating-point
# numbers, chapters 3 and 4 for inner products and sums.

# %%
import hashlib
import math

import numpy as np
from lesson import IMAGES, figure

import npmobilevit as nm
from npmobilevit import validation
from npmobilevit.ops import bitexact
from npmobilevit.visual import drawing

# %% [markdown]
# ## Numbers with 24 digits
#
# A float32 number is a sign, a power of two, and 24 binary digits. So the numbers from 1 to 2 lie $2^{-23}$ apart,
# those from 2 to 4 twice as far, and so on: the gap grows with the number. What lies between two of them is rounded to
# the nearer one, which moves it by half a gap at most. Relative to the number, that is never more than
#
# $$u = 2^{-24} \approx 6 \cdot 10^{-8}$$
#
# the **unit roundoff**. IEEE 754, the standard for such numbers, promises that each addition, multiplication, division
# and square root gives the exact result, rounded once (Higham, section 2.2). With $\mathrm{fl}$ for "as computed",
#
# $$\mathrm{fl}(a + b) = (a + b)(1 + \delta), \qquad |\delta| \le u$$

# %%
u = 2.0**-24
one = np.float32(1)
print(np.spacing(one) == 2 * u, np.spacing(np.float32(2)) == 4 * u)  # -> True True
print(one + np.float32(0.9 * u) == one)  # -> True
print(one + np.float32(1.1 * u) == one + np.float32(2 * u))  # -> True

# %% [markdown]
# So a single operation has one right answer, on every machine. Two operations have not: (a + b) + c and a + (b + c) are
# the same number in mathematics, but what is rounded on the way is not the same.

# %%
a, b, c = (np.float32(x) for x in (1e8, -1e8, 1))
print((a + b) + c, a + (b + c))  # -> 1.0 0.0

# %% [markdown]
# A layer adds hundreds of products for each of its values. A processor adds several of them at once, and another one
# adds more at once. Each program may choose an order, and none of them is the right one.
#
# With fewer digits all of this shows sooner. float16 has 11 binary digits, $u = 2^{-11}$, and from 2048 on its numbers
# are 2 apart. To add 1 then changes nothing, so a sum of 4096 ones gets no further. A device that multiplies float16
# numbers should not add them up in float16 ([NUM-01](../mistakes.md#num-01)):

# %%
print([int(np.cumsum(np.ones(4096, dtype))[-1]) for dtype in (np.float16, np.float32)])  # -> [2048, 4096]

# %% [markdown]
# ## How far a sum can be off
#
# Add $n$ numbers, one after the other. Each of the partial sums is rounded. Before that, none of them is larger than
#
# $$S = \sum_i |x_i|$$
#
# the sum of the **sizes** of the terms. So each rounding moves the result by $uS$ at most, and all of them by
#
# $$|\text{error}| \le n \, u \, S$$
#
# This holds in every order, and for an inner product, too, whose $n$ products are rounded besides. (That the partial
# sums are a little larger once they are rounded does not spoil it: C.-P. Jeannerod, S. M. Rump, SIAM J. Matrix Anal.
# Appl. 34, 2013.)
#
# But it would take all roundings to be as bad as they can be, and all to the same side. They go up and down as if by
# chance, and mostly undo each other. A walk of $n$ steps with the direction thrown by a coin ends about $\sqrt n$ steps
# away from where it began. And it is unlikely to end much further away: but for a probability of $2 e^{-\lambda^2/2}$,
#
# $$|\text{error}| \le \lambda \sqrt n \, u \, S$$
#
# (N. J. Higham, T. Mary, SIAM J. Sci. Comput. 41, 2019; I. C. F. Ipsen, H. Zhou, SIAM J. Matrix Anal. Appl. 41, 2020.)
# This bound needs roundings that differ. Equal numbers are all rounded alike, and the 4096 ones above break it.
#
# The project allows one false alarm in a thousand checks of five million values each, and that gives $\lambda$:

# %%
print(round(math.sqrt(2 * math.log(2 * 5e6 / 1e-3)), 1))  # -> 6.8

# %% [markdown]
# Try it: add the same numbers in 100 orders, and see the largest error in units of $uS$. Do this with numbers of both
# signs, and with positive ones. `math.fsum` gives the exact sum, rounded once.

# %%
rng = np.random.default_rng(11)


def errors_in_units(terms, orders=100):
    """Errors of the float32 sum in as many random orders, each over u * S."""
    exact, size = math.fsum(terms), math.fsum(np.abs(terms))
    sums = [np.cumsum(rng.permutation(terms))[-1] for _ in range(orders)]  # cumsum adds one after the other
    return np.abs(np.array(sums, np.float64) - exact) / (u * size)


lengths = 2 ** np.arange(2, 15)  # 4 to 16,384 terms
both_signs = np.array([errors_in_units(rng.normal(size=n).astype(np.float32)).max() for n in lengths])
one_sign = np.array([errors_in_units(rng.random(n, dtype=np.float32)).max() for n in lengths])
proof, likely = lengths, 6.8 * np.sqrt(lengths)
print(bool((np.maximum(both_signs, one_sign) <= np.minimum(proof, likely)).all()))  # -> True
print(bool(one_sign[-1] < proof[-1] / 100), bool(one_sign[-1] > likely[-1] / 100))  # -> True True

# %% [markdown]
# For many terms the proof is hundreds of times too wide, and the likely bound is not. The left half of the figure below
# shows it. (Terms of both signs are better off, as their partial sums are much smaller than $S$.) Below 46 terms $n$ is
# smaller than $6.8 \sqrt n$, so the project takes the smaller of the two.
#
# ## Why S, and not the result
#
# It is tempting to allow an error of a share of the result, such as a millionth. But look at terms that cancel: the sum
# is small, and the roundings on the way were those of large numbers. Nobody has made a mistake, and not one digit
# behind the point is left. In units of $uS$ it is an error like any other:

# %%
terms = np.array([1e7, math.pi, -1e7], np.float32)
found, exact = np.cumsum(terms)[-1], math.fsum(terms)
relative = abs(found - exact) / abs(exact)
in_units = abs(found - exact) / (u * np.abs(terms).sum())
print(f"found {found:.6f}, exact {exact:.6f}")  # -> found 3.000000, exact 3.141593
print(round(float(relative), 3), round(float(in_units), 2))  # -> 0.045 0.12

# %% [markdown]
# ## A real layer
#
# Here is the first query of the network, a linear layer of 64 inputs (lesson 6). The tolerance takes two lines: $S$
# comes out of the same layer, with the sizes of inputs, weights and biases. In float64, $u$ is $2^{-53}$, so what
# float64 gives is exact for our purpose.

# %%
pipeline = nm.load("cifar10-xx-small")
pixel_values = pipeline.pixel_values(IMAGES / "chelsea.png")
taps = pipeline.network.taps(pixel_values)
layer = "mobilevit.encoder.layer.2.transformer.layer.0"
x = taps[f"{layer}.layernorm_before"]  # (4, 16, 64): the four pixels of a patch, 16 patches, 64 channels
parameters = pipeline.network.parameters()
weight, bias = (parameters[f"{layer}.attention.attention.query.{leaf}"] for leaf in ("weight", "bias"))
exact = x.astype(np.float64) @ weight.T.astype(np.float64) + bias  # (4, 16, 64)
size = np.abs(x).astype(np.float64) @ np.abs(weight.T).astype(np.float64) + np.abs(bias)  # S of each value

n = weight.shape[1] + 1  # 64 products and the bias
tolerance = min(n, 6.8 * math.sqrt(n)) * u * size
error = np.abs(taps[f"{layer}.attention.attention.query"] - exact)
print(x.shape, weight.shape, n, error.shape)  # -> (4, 16, 64) (64, 64) 65 (4, 16, 64)
print(bool((error <= tolerance).all()))  # -> True

most = np.unravel_index(np.argmin(np.abs(exact) / size), exact.shape)  # where most cancels
print(f"a value of {exact[most]:.0e} from terms of together {size[most]:.1f}")
print(f"error: {error[most] / abs(exact[most]) / u:.0f} u of the value, {error[most] / tolerance[most]:.2f} tolerances")

# %% [markdown]
# `validation.check` does this for all layers (lesson 12). It adds what the formula above leaves out: the rounding of
# the result when it is stored, and inputs of fewer digits, which a device may use without saying so
# ([NUM-02](../mistakes.md#num-02); all is in [bounds.py](../../npmobilevit/validation/bounds.py)). Each layer is judged
# on the input that the program itself had. So the errors of the layers before it do not count, and the tolerances stay
# narrow up to the last layer.
#
# We check the float32 network against float64. For each convolution and linear layer the report has the value that is
# worst in units of its tolerance:

# %%
report = validation.check(taps, pipeline)
kernels = {name for name, values in parameters.items() if name.endswith(".weight") and values.ndim in (2, 4)}
products = [judged for judged in report.judgements if f"{judged.tap}.weight" in kernels]
print(report.verdict, len(products))  # -> pass 90
print(max(judged.ratio for judged in products) < 0.5)  # -> True

# %% [markdown]
# ## One tolerance for all is blind or noisy
#
# Most tests of networks have one number for all layers, `atol=1e-4` say: a difference below it is right. Here is what
# such a number would do: how many layers of this right program it refuses, and in how many layers an error of a hundred
# tolerances, which no rounding explains, would pass.

# %%
tolerances = np.array([judged.tolerance for judged in products])
differences = np.array([abs(judged.found - judged.expected) for judged in products])
for atol in (1e-7, 1e-6, 1e-5, 1e-4, 1e-3):
    refused, passed = (differences > atol).sum(), (100 * tolerances < atol).sum()
    print(f"atol {atol:.0e}: refuses {refused} right layers, passes {passed} wrong ones")
print(bool(tolerances.max() > 1000 * tolerances.min()))  # -> True

# %% [markdown]
# No number is good for all: the layers' tolerances differ by a factor of thousands. The right half of the figure shows
# how the errors of a right program go up and down with the layer, and the tolerances with them. (Its peaks are the
# 3 x 3 convolutions that mix channels, with the most terms. There the tolerance also leaves room for Winograd's
# algorithm, a fast one that shares sums among neighbouring pixels.)
#
# ## Identical bits
#
# Rounding can also be made the same everywhere. With `precision="bitexact"` the package computes in float64, and cuts
# the factors of each product of matrices into whole numbers so small that all sums are exact, in whatever order (the
# idea of Ozaki, Ogita, Oishi and Rump, Numerical Algorithms 59, 2012). Then the order of the terms does not matter:

# %%
left, right = rng.normal(size=(50, 300)), rng.normal(size=(300, 40))
order = rng.permutation(300)
print(np.array_equal(left @ right, left[:, order] @ right[order]))  # -> False
print(np.array_equal(bitexact.matmul(left, right), bitexact.matmul(left[:, order], right[order])))  # -> True

# %% [markdown]
# And a result can be named by a hash, which a test can compare without any tolerance, on every machine that keeps to
# IEEE 754:

# %%
same_everywhere = nm.load("cifar10-xx-small", precision="bitexact").network(pixel_values).logits
print(hashlib.sha256(same_everywhere.astype("<f8").tobytes()).hexdigest()[:16])  # -> bfc0f1240bbfd0a5

# %% [markdown]
# It takes longer than float32, and other programs do not compute like this. So it is good for keeping the same program
# the same. For a program of somebody else there remains the tolerance. Now the figure:

# %%
x_axis, layer_axis = np.log2(lengths), np.arange(len(products))
sums = {
    "n, the proof": (x_axis, proof),
    "6.8 sqrt(n)": (x_axis, likely),
    "terms of one sign": (x_axis, one_sign),
    "terms of both signs": (x_axis, both_signs),
}
layers = {"tolerance": (layer_axis, tolerances), "float32 - float64": (layer_axis, differences)}
panels = [
    (drawing.curves(sums, x_label="log2 of the number of terms n", y_label="error / (u S)", log_y=True), "one sum"),
    (drawing.curves(layers, x_label="layer", y_label="at its worst value", log_y=True), "the layers of MobileViT"),
]
figure("11_rounding", drawing.arranged(panels))

# %% [markdown]
# ![Left: the error of a sum grows slowly with the number of terms, far below n and below 6.8 sqrt(n). Right: over the
# layers, the errors of a right program vary a thousandfold, always below their tolerances](figures/11_rounding.png)
#
# ## Exercises
#
# The answers, with the code that checks them, are in [answers/11_rounding.py](answers/11_rounding.py).
#
# 1. Which is the smallest positive whole number that float32 does not have? What do you get if you add 1 to the number
#    before it?
# 2. Add 16,384 numbers of one sign in pairs, then the sums in pairs, and so on. How many roundings can add up in the
#    result? Give the bound, and check that the errors keep it, and that those of adding one after the other do not.
# 3. A device rounds the inputs and weights of the query above to float16, and multiplies and adds in float32. How far
#    can it be from the exact layer, at the most? Which rounding matters? Would it pass the float32 tolerance? (The
#    weights of this checkpoint are float16 numbers already. Multiply them by 1.1 first.)
