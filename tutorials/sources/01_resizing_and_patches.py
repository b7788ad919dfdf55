# %% [markdown]
# # 01 · Resizing and patches: from a photograph to tokens
#
# Many image models begin by making every photograph a square of 224 pixels. For "is this a cat?" that does little harm.
# For "is this photograph *good*?" it destroys the evidence: squeezing changes shapes, cropping loses the composition,
# and shrinking hides noise and blur. MUSIQ looks at the whole picture instead, at several sizes, each in its own shape.
# Here you follow the pixels until they are tokens.
#
# The question of this chapter: **what is lost when a photograph is shrunk, and how can a model judge it all the same?**

# %% [markdown]
# ## What you will learn
#
# - to shrink 16 pixels by hand, and why that is two matrix products;
# - what a small square does to the evidence, measured;
# - what the authors' Gaussian, pyiqa's bicubic and an antialiased filter do to fine detail, on a zone plate;
# - how patches are cut, padded and ordered, and how many tokens a photograph becomes;
# - why the backward of all this is a transpose;
# - if you like: where `float32` decides about a whole row of patches, and a filter that blurs without resizing.

# %% [markdown]
# ## What you need
#
# About 60 minutes, of which the exercises take 25; matrix products; images as arrays of shape (height, width, 3).

# %%
import math
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image

import musiq_ref as mq
from course import exercise, photograph, quiz, show
from musiq_ref import explain
from musiq_ref.image.patches import extract_patches
from musiq_ref.image.resize import (
    bicubic_matrix,
    gaussian_matrix,
    resize,
    resize_backward,
    resized_sides,
)
from musiq_ref.image.tokenize import drop_padding, normalize, scales_of
from musiq_ref.model.inference import predict
from musiq_ref.pictures.distortions import DISTORTIONS

# %% [markdown]
# ## Sixteen pixels, halved
#
# Two patches of 4×4 grey levels. One has an edge in it, the other is dirty: a chequerboard of noise. Halve both. Each new
# pixel is the mean of the 2×2 old ones under it, so on paper:
#
# - the edge: $(0+0+0+0)/4 = 0$ on the left, $(8+8+8+8)/4 = 8$ on the right;
# - the dirt: $(8+0+0+8)/4 = 4$, everywhere.

# %%
edge = np.array([[0, 0, 8, 8]] * 4)
dirt = np.array([[8, 0, 8, 0], [0, 8, 0, 8]] * 2)
half = np.array([[1, 1, 0, 0], [0, 0, 1, 1]]) / 2
figure, axes = plt.subplots(1, 4, figsize=(9, 2.6), width_ratios=[2, 1, 2, 1])
for axis, picture, title in zip(
    axes,
    (edge, half @ edge @ half.T, dirt, half @ dirt @ half.T),
    ("edge, 4×4", "halved", "dirt, 4×4", "halved"),
    strict=True,
):
    axis.imshow(picture, cmap="gray", vmin=-2, vmax=10)
    for (y, x), grey in np.ndenumerate(picture):
        axis.text(x, y, f"{grey:g}", ha="center", va="center", color="w" if grey < 4 else "k")
    axis.set(title=title, xticks=[], yticks=[])
plt.show()
assert (half @ edge @ half.T == [[0, 8], [0, 8]]).all()
assert (half @ dirt @ half.T == 4).all()

# %% [markdown]
# The edge is still there. The dirt has become an even grey, just what a clean grey patch would become. Anyone who sees
# only the small picture cannot know whether the large one was dirty.
#
# Look at how the cell halves: `half @ X @ half.T`. The matrix on the left averages rows two by two, the one on the right
# columns. Every usual way to resize is such a pair of matrices; only the weights differ.

# %% [markdown]
# ## Why not one square?
#
# Make a photograph a square by squeezing it, and everybody sees that the cup has become an oval. Cut a square out of it,
# and everybody sees that something is missing. Shrinking is the least visible harm and the worst. Spoil the photograph
# in four ways, shrink the spoilt and the untouched one as most programs do, and see how much of the difference is left at
# each size.

# %%
image = photograph("coffee")
height, width = image.shape[:2]
print(image.shape, image.dtype)


# %%
def shrunk(pixels, longer_side):
    """As most programs shrink: Pillow, antialiased. Values −1 … 1; 0 stands for the native size."""
    if longer_side:
        h, w = resized_sides(*pixels.shape[:2], longer_side)
        pixels = np.asarray(Image.fromarray(pixels).resize((w, h), Image.Resampling.BICUBIC))
    return normalize(pixels)


def damage_left(at_size, sizes=(0, 384, 224, 96, 48)):
    """{distortion: root mean square of what it changes, one per size, relative to the native}."""
    left = {}
    for name in ("white_noise", "gaussian_blur", "jpeg", "contrast"):
        spoilt = DISTORTIONS[name](image, 0.4, np.random.default_rng(0))
        apart = [at_size(spoilt, s) - at_size(image, s) for s in sizes]
        left[name] = np.array([np.sqrt((d * d).mean()) for d in apart])
        left[name] /= left[name][0]
    return left


# %%
def draw_damage(left, title):
    figure, axis = plt.subplots(figsize=(6.5, 2.8))
    for (name, values), style in zip(left.items(), ("o-", "s--", "^:", "D-."), strict=True):
        axis.plot(values, style, label=name.replace("_", " "))
    axis.set_xticks(range(5), ["native", "384", "224", "96", "48"])
    axis.set(xlabel="longer side", ylabel="damage left (native = 1)", ylim=(0, 1.1), title=title)
    axis.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    plt.show()


usual = damage_left(shrunk)
draw_damage(usual, "What is still visible after shrinking")
assert usual["gaussian_blur"][3] < 0.3
assert usual["white_noise"][3] < 0.3
assert usual["contrast"][3] > 0.9

# %% [markdown]
# Haze (lost contrast) is as visible in a thumbnail as in the original. Of noise (the toy's chequerboard) and of blur, less
# than a third is left at a longer side of 96. Judge from one small square, and you are nearly blind to them. So MUSIQ
# takes the **native** picture, for the details, and smaller ones, for the whole, each in its own shape.

# %% [markdown]
# ## The size of each scale
#
# A scale is named by its longer side $L$; the shorter one follows from the picture's shape. ("SPEC 3" in the source is a
# section of [docs/spec.md](../docs/spec.md), which says what the authors' program does.)
#
# $$\begin{aligned} r &= L / \max(h, w) \\ h' &= \text{round}(h\,r) \\ w' &= \text{round}(w\,r) \end{aligned}$$

# %%
show(resized_sides)
ratio = 224 / 640
print("480×640 at 224 by hand:", round(480 * ratio), "×", round(640 * ratio))
assert resized_sides(480, 640, 224) == (168, 224)

# %% [markdown]
# ## Resizing is two matrix products
#
# Every output pixel is a weighted mean of input pixels, and the weights along rows and columns are chosen separately.
# So there is a matrix $\mathbf{R}$ for each axis, one row of weights per output pixel, and
#
# $$\mathbf{Y} = \mathbf{R}_{rows}\,\mathbf{X}\,\mathbf{R}_{columns}^T$$
#
# for each colour. A filter *is* its matrix. The authors' filter uses a Gaussian of $\sigma = 0.5$ input pixels, cut off at
# a radius of 1.5. When it halves, that is the toy's matrix: both pixels under an output pixel lie at distance 0.5 from
# its middle and weigh the same, and the next ones, at 1.5, weigh nothing.

# %%
np.testing.assert_allclose(gaussian_matrix(4, 2).toarray(), half)
print("4 → 1:", gaussian_matrix(4, 1).toarray()[0], " two of the four pixels are not read at all")
show(gaussian_matrix)

# %%
x = normalize(image)
new_height, new_width = resized_sides(height, width, 96)
R_rows = gaussian_matrix(height, new_height).toarray()
R_columns = gaussian_matrix(width, new_width).toarray()
print("R_rows", R_rows.shape, "· X", x.shape[:2], "· R_columnsᵀ", R_columns.T.shape)
by_hand = np.stack([R_rows @ x[:, :, c] @ R_columns.T for c in range(3)], axis=-1)
np.testing.assert_allclose(by_hand, resize(x, new_height, new_width), rtol=0, atol=1e-5)
np.testing.assert_allclose(R_rows.sum(axis=1), 1, rtol=1e-6)

# %% [markdown]
# ### Which pixels does an output pixel see?
#
# Reduce by 4. The middle of output pixel $x$ lies at $s = 4(x + 0.5)$ in the input, on the border of two pixels. Three
# filters: the authors'; the bicubic one of pyiqa, a port of MUSIQ to PyTorch that many people use; and Pillow's bicubic,
# which is stretched by the factor 4, as signal theory demands ("antialiased").


# %%
def pillow_matrix(n_in, n_out):
    """R of Pillow's antialiased bicubic: what it makes of the identity."""
    identity = Image.fromarray(np.eye(n_in, dtype=np.float32))
    return np.asarray(identity.resize((n_in, n_out), Image.Resampling.BICUBIC))


n_in, n_out = 240, 60
filters = {
    "Gaussian (authors)": gaussian_matrix(n_in, n_out).toarray(),
    "bicubic (pyiqa)": bicubic_matrix(n_in, n_out).toarray(),
    "antialiased (Pillow)": pillow_matrix(n_in, n_out),
}

# %%
x = 30  # an output pixel in the middle
figure, axes = plt.subplots(1, 3, figsize=(9, 2.6), sharey=True)
for axis, (name, R), colour in zip(axes, filters.items(), ("C0", "C1", "C2"), strict=True):
    axis.bar(range(n_in), R[x], color=colour, width=0.8)
    axis.axvspan(4 * x - 0.5, 4 * x + 3.5, color="0.9", zorder=0)
    axis.set(
        title=f"{name}: {np.count_nonzero(R[x])} pixels", xlim=(109, 135), xlabel="input pixel"
    )
axes[0].set_ylabel("weight")
plt.show()
print("grey: the four input pixels that the output pixel covers")
assert np.count_nonzero(filters["Gaussian (authors)"][x]) == 2
assert np.count_nonzero(filters["antialiased (Pillow)"][x]) > 12

# %% [markdown]
# The Gaussian reads two of four pixels along each axis, so **four of sixteen**: at this scale, three quarters of the
# picture have no influence at all. Pillow's filter reads them all, and some beyond. What happens to fine detail then?

# %% [markdown]
# ### The zone plate
#
# A test picture for filters: rings that become finer outwards, from an even patch in the middle to a period of 2 pixels
# at the middle of each side. After reducing by 4, only the middle quarter of that radius can be shown. The rest should
# turn into even grey. What a filter makes of it instead is **aliasing**: false rings, coarse patterns that are not in the
# picture.

# %%
y, x = np.mgrid[:n_in, :n_in] - (n_in - 1) / 2
plate = np.cos(np.pi * (x * x + y * y) / n_in)
small = {name: R @ plate @ R.T for name, R in filters.items()}

# %%
figure, axes = plt.subplots(2, 2, figsize=(7, 7.2))
axes = axes.ravel()
axes[0].imshow(plate, cmap="gray", vmin=-1, vmax=1, interpolation="antialiased")
axes[0].set_title(f"zone plate, {n_in}×{n_in}")
for axis, (name, picture) in zip(axes[1:], small.items(), strict=True):
    axis.imshow(picture, cmap="gray", vmin=-1, vmax=1)
    axis.set_title(f"{name}, {n_out}×{n_out}")
for axis in axes:
    axis.set(xticks=[], yticks=[])
plt.show()

# %% [markdown]
# The antialiased picture is grey outside the middle, as it should be. The other two are full of rings that nobody drew.
# Is the authors' filter then wrong? By the textbook, yes. But look at what it does to the four kinds of damage:


# %%
def as_musiq_sees(pixels, longer_side):
    """One scale, by the authors' filter; 0 stands for the native size."""
    x = normalize(pixels)
    return resize(x, *resized_sides(*x.shape[:2], longer_side)) if longer_side else x


theirs = damage_left(as_musiq_sees)
draw_damage(theirs, "… and with the authors' filter")
print({name: round(float(values[-1] / usual[name][-1]), 1) for name, values in theirs.items()})
assert theirs["white_noise"][-1] > 3 * usual["white_noise"][-1]
assert theirs["gaussian_blur"][-1] > 3 * usual["gaussian_blur"][-1]
assert min(values[-1] for values in theirs.values()) > 0.5

# %% [markdown]
# A filter that averages a few pixels only can neither average noise away nor hide that edges have become soft. False
# detail is still a sign of detail: even at the smallest scale, the noisy and the clean picture differ by several times
# as much as with the usual filter.

# %% [markdown]
# ## Patches
#
# Each scale is cut into squares of $P$ pixels. Where the picture does not fill the last one, zeros are added: after
# normalising to $-1 \dots 1$, so 0 is a medium grey. The smaller half comes before, the larger after ("SAME", as
# TensorFlow calls it). Odd sizes show it best.

# %%
checkpoint = mq.load_checkpoint("demo")
config = checkpoint.config
P = config.patch_size
odd = photograph("coffee", longer_side=6 * P + 5)
print("odd:", odd.shape)
explain.multi_scale_patches(odd, config)

# %% [markdown]
# Grey rows and columns are padding. Where their number is odd, one more lies on the right, or below.

# %%
show(extract_patches)

# %% [markdown]
# The reshape is the whole trick: $(rows \cdot P,\ columns \cdot P)$ becomes $(rows, P, columns, P)$, and the two inner
# axes change places. By hand, patch (row 1, column 2):

# %%
x = normalize(odd)
h, w = x.shape[:2]
rows, columns = math.ceil(h / P), math.ceil(w / P)
top, left = (rows * P - h) // 2, (columns * P - w) // 2  # the smaller half
patches = extract_patches(x, P)
print(f"{rows}×{columns} patches: {patches.shape}; added above {top}, left {left}")
by_hand = x[1 * P - top : 2 * P - top, 2 * P - left : 3 * P - left]
np.testing.assert_array_equal(patches[1 * columns + 2], by_hand)
assert (patches[0, :top] == 0).all()  # padding

# %% [markdown]
# All scales, one after the other, smallest first, are the **tokens** of the photograph. A resized scale is filled up with
# empty places to $\lceil L/P \rceil^2$, the same number in every picture; `mask` says which are real.

# %%
tokens = mq.tokenize(odd, config)
for name, array in tokens._asdict().items():
    print(f"{name:12} {array.shape!s:20} {array.dtype}")
scales = scales_of(h, w, config)
for scale in scales:
    print(f"{explain.scale_name(scale):16} {scale.kept:4} patches in {scale.length:4} places")
assert len(tokens.mask) == sum(scale.length for scale in scales)
assert tokens.mask.sum() == sum(scale.kept for scale in scales)

# %% [markdown]
# The native scale is another matter. In training it, too, gets a fixed number of places, $l$ (the authors' 512): what is
# beyond is cut off. At test time nothing is cut ($l = -1$), and pictures differ in the number of their tokens.

# %%
for l in (-1, 20):
    c = config.replace(native=True, max_native_patches=l)
    places = [len(mq.tokenize(photograph("coffee", side), c).mask) for side in (6 * P, 9 * P)]
    print(f"l = {l:2}: a small and a larger picture take {places} places")
    assert (places[0] == places[1]) == (l > 0)

# %%
start = sum(
    scale.length for scale in scales[:-1]
)  # the last scale is the native one, if there is one
if config.native and config.max_native_patches < 0:
    np.testing.assert_array_equal(tokens.patches[start:], patches)

# %% [markdown]
# ## Backward
#
# Chapter 07b takes the gradient of the score back to the pixels. Its last step is this chapter's, and needs no
# derivation: resizing is a matrix, and the backward of $\mathbf{y} = \mathbf{R}\mathbf{x}$ is
# $\mathrm{d}\mathbf{x} = \mathbf{R}^T \mathrm{d}\mathbf{y}$. Every pixel collects from the output pixels that saw it,
# with the same weights.

# %%
dy = np.random.default_rng(0).standard_normal((20, 25, 3))
R_rows, R_columns = gaussian_matrix(45, 20, "float64"), gaussian_matrix(70, 25, "float64")
by_hand = np.stack([R_rows.T @ dy[:, :, c] @ R_columns for c in range(3)], axis=-1)
print("dy", dy.shape, "→ dx", by_hand.shape)
np.testing.assert_allclose(resize_backward(dy, (45, 70, 3)), by_hand, rtol=0, atol=1e-12)

# %% [markdown]
# And a consequence: a pixel that no output pixel reads gets the gradient 0. Reduced by 4 with the authors' filter, three
# pixels of four cannot matter to that scale, however much you change them.

# %%
R = gaussian_matrix(240, 60, "float64")
dx = R.T @ np.ones(60)
print("gradient along 12 pixels:", dx[100:112])
assert (dx == 0).mean() == 0.5  # along each axis; of the pixels ¾

# %% [markdown]
# ## The answer
#
# What is lost when a photograph is shrunk? Its fine flaws. After a filter as in the textbook, little of noise and blur is
# left to be seen; after the authors' filter, more than half. How can a model judge the photograph all the same? It gets
# it at its own size, too, where nothing is lost, and pays for that in tokens, as exercise 3 will show.

# %% [markdown]
# ## Optional: do not mix filters
#
# Whatever one thinks of the authors' filter, the weights were *trained* on its pictures, so they must not be given those
# of another. The bundled model, with its own filter and with pyiqa's:

# %%
params = checkpoint.params
picture = photograph("coffee", longer_side=200)
scores = {}
for kind in ("gaussian", "bicubic"):
    c = config.replace(conventions=replace(config.conventions, resize=kind))
    scores[kind] = float(predict(params, drop_padding(mq.tokenize(picture, c)), c)[0])
print(scores, "apart:", f"{abs(scores['gaussian'] - scores['bicubic']):.1e}")
assert scores["gaussian"] != scores["bicubic"]

# %% [markdown]
# ## Optional: where float32 decides
#
# The sides of a scale are rounded "half to even", in `float32`. Here is a picture for which `float64` gives
# another height, and one for which a whole row of patches hangs on it:

# %%
for h, w, L in ((735, 1280, 384), (1375, 1600, 224)):
    theirs, other = resized_sides(h, w, L), resized_sides(h, w, L, "float64")
    rows = [math.ceil(sides[0] / 32) for sides in (theirs, other)]
    print(f"{h}×{w} at {L}: float32 {theirs}, float64 {other}; rows of patches {rows}")
    assert theirs != other
assert rows[0] != rows[1]  # of the second picture

# %% [markdown]
# ## Optional: the response of a filter
#
# The zone plate in numbers: feed a wave $e^{2\pi i f x}$ of frequency $f$ (cycles per pixel) to $\mathbf{R}$. Away from
# the edges, what comes out has a constant height, the filter's response. Beyond the new limit, $f = 1/8$, it should be 0.

# %%
frequencies = np.linspace(0, 0.5, 101)
waves = np.exp(2j * np.pi * np.outer(np.arange(n_in), frequencies))  # (n_in, 101)
response = {name: abs(R @ waves)[n_out // 2] for name, R in filters.items()}
figure, axis = plt.subplots(figsize=(8, 3))
for (name, values), style in zip(response.items(), ("-", "--", ":"), strict=True):
    axis.plot(frequencies, values, style, label=name, linewidth=2)
axis.axvspan(1 / 8, 0.5, color="0.92", zorder=0)
axis.text(0.3, 1.05, "everything here becomes false detail", ha="center", fontsize=9)
axis.set(xlabel="frequency in cycles per input pixel", ylabel="response", ylim=(0, 1.15))
axis.legend(loc="center left", bbox_to_anchor=(1, 0.5))
plt.show()
quarter = {name: float(values[50]) for name, values in response.items()}
print("at a period of 4 pixels:", {name: round(v, 3) for name, v in quarter.items()})
assert quarter["antialiased (Pillow)"] < 0.05 < 0.95 < quarter["bicubic (pyiqa)"]
assert round(quarter["Gaussian (authors)"], 2) == 0.71

# %% [markdown]
# Pillow's filter has fallen to about a half at the limit, and to nothing soon after. Of a wave with a period of 4 pixels,
# which the small picture cannot show, the Gaussian still lets 71 % through, and the bicubic one nearly all.

# %% [markdown]
# ## Optional: the same-size blur
#
# A photograph whose longer side is already 224 needs no resizing. The authors' program does it all the same. The filter
# is then centred on each pixel, with neighbours at distance 1:
#
# $$\begin{aligned} e^{0} &= 1 \\ e^{-1^2 / (2 \cdot 0.5^2)} &= e^{-2} \approx 0.135 \end{aligned}$$
#
# and divided by their sum:

# %%
side_weight, middle_weight = math.exp(-2), 1.0
total = middle_weight + 2 * side_weight
print(f"by hand: {side_weight / total:.4f} {middle_weight / total:.4f} {side_weight / total:.4f}")
print("library:", gaussian_matrix(5, 5).toarray()[2])
np.testing.assert_allclose(
    gaussian_matrix(5, 5).toarray()[2, 1:4],
    [side_weight / total, 1 / total, side_weight / total],
    rtol=1e-6,
)

# %% [markdown]
# A blur. The finest stripes, $+1, -1, +1, …$, keep $0.7870 - 2 \cdot 0.1065 = 0.574$ of their contrast. pyiqa's bicubic
# leaves the picture as it is.

# %%
stripes = np.cos(np.pi * np.arange(9))
kept = (gaussian_matrix(9, 9, "float64") @ stripes)[4]
print(f"stripes: {stripes[4]:.0f} becomes {kept:.3f}")
assert math.isclose(kept, (1 - 2 * math.exp(-2)) / (1 + 2 * math.exp(-2)))
assert (bicubic_matrix(9, 9).toarray() == np.eye(9)).all()

# %%
x = normalize(photograph("cat", longer_side=224))
blurred = resize(x, *x.shape[:2])
figure, axes = plt.subplots(1, 3, figsize=(9, 3))
close = (slice(40, 100), slice(70, 140))
for axis, shown, title in ((axes[0], x, "before"), (axes[1], blurred, "after, the same size")):
    axis.imshow((shown[close] + 1) / 2)
    axis.set_title(title)
lost = abs(blurred - x)[close].mean(axis=-1)
figure.colorbar(axes[2].imshow(lost, cmap="magma"), ax=axes[2], shrink=0.8)
axes[2].set_title("|difference|, of 2")
for axis in axes:
    axis.set(xticks=[], yticks=[])
plt.show()
assert lost.mean() > 0

# %% [markdown]
# The middle picture is a little softer; the difference lies along the edges and in the fur. A photograph of just that size loses
# some of its sharpness at this scale before the model sees it.

# %% [markdown]
# ## Exercises
#
# Each cell to fill in is followed by one that checks it. Until you do, it says so and the notebook goes on. Solutions
# are in `tutorials/solutions/01_resizing_and_patches.py`; try first.

# %% [markdown]
# ### Exercise 1: one row of the Gaussian's matrix (★★, 10 minutes)
#
# The weights, $(n_{in},)$, that output pixel `x` of `n_out` gives to the input pixels: Gaussian of $\sigma = 0.5$
# around $s = (x + 0.5) \cdot n_{in} / n_{out}$; the middle of input pixel $i$ lies at $i + 0.5$; weight 0 at a distance
# of 1.5 or more; sum 1. Ordinary `float64` will do.
#
# <details><summary>Hint</summary>
#
# `d = abs(np.arange(n_in) + 0.5 - s)` are all distances at once. `np.exp(-d**2 / (2 * 0.5**2))`, then set those with
# `d >= 1.5` to 0, then divide by the sum. At the picture's edge fewer pixels are left; dividing by their sum takes care
# of it.
#
# </details>


# %% tags=["exercise-1"]
def my_weights(x, n_in, n_out):
    return ...


# %% tags=["check-1"]
def check(weights):
    for n_in, n_out in ((10, 10), (11, 4), (4, 7), (47, 13)):
        R = gaussian_matrix(n_in, n_out, "float64").toarray()
        for x in range(n_out):
            got = np.asarray(weights(x, n_in, n_out))
            assert got.shape == (n_in,), f"shape {got.shape}, not ({n_in},)"
            assert np.allclose(got, R[x], atol=1e-9), (
                f"pixel {x} of {n_out} from {n_in}: {got.round(3)}, it should be {R[x].round(3)}"
            )


exercise(1, my_weights, check)

# %% [markdown]
# ### Exercise 2: patches (★★, 10 minutes)
#
# Cut a picture of any size into $P \times P$ patches, padded with zeros as above, row by row: $(n, P, P, 3)$. Loops are
# fine.
#
# <details><summary>Hint</summary>
#
# `np.pad(image, ((top, bottom), (left, right), (0, 0)))` adds zeros. In all, $\lceil h/P \rceil P - h$ rows are
# missing; `top` is half of them, rounded down, `bottom` the rest.
#
# </details>


# %% tags=["exercise-2"]
def my_patches(image, P):
    return ...


# %% tags=["check-2"]
def check(cut):
    rng = np.random.default_rng(5)
    for h, w, P in ((8, 12, 4), (9, 14, 4), (5, 3, 8)):
        picture = rng.standard_normal((h, w, 3))
        got, wanted = np.asarray(cut(picture, P)), extract_patches(picture, P)
        case = f"{h}×{w} pixels, P = {P}"
        assert got.shape == wanted.shape, f"{case}: shape {got.shape}, not {wanted.shape}"
        first = int(np.argmax((got != wanted).any(axis=(1, 2, 3))))
        assert (got == wanted).all(), f"{case}: patch {first} is another"


exercise(2, my_patches, check)

# %% [markdown]
# ### Exercise 3: the price of a photograph (★, 5 minutes)
#
# How many real tokens (without the class token) does an `h` × `w` photograph become in the published model: $P = 32$,
# scales 224, 384 and native? Try it on your camera's size.
#
# <details><summary>Hint</summary>
#
# For each of the three sizes, $\lceil h'/P \rceil \cdot \lceil w'/P \rceil$. `resized_sides` gives $h'$ and $w'$.
#
# </details>


# %% tags=["exercise-3"]
def my_count(h, w):
    return ...


# %% tags=["check-3"]
def check(count):
    published = mq.MusiqConfig.preset("small")
    for h, w in ((480, 640), (768, 1024), (333, 1111), (3000, 4000)):
        wanted = sum(scale.kept for scale in scales_of(h, w, published))
        assert count(h, w) == wanted, f"{h}×{w}: you say {count(h, w)}, it is {wanted}"


exercise(3, my_count, check)

# %% [markdown]
# ## Quiz

# %%
quiz("01")

# %% [markdown]
# ## In practice
#
# - **Do not resize first.** Hand MUSIQ the original file. Scoring thumbnails scores the thumbnailer.
# - **"Bicubic" names a family.** PyTorch's has $a = -0.75$ and no antialiasing unless you ask (`antialias=True`),
#   Pillow's and TensorFlow's have $a = -0.5$, and Pillow's is always antialiased. The same weights give other scores
#   with each.
# - **Decoding differs, too.** JPEG decoders disagree by a grey level here and there, and a photograph's EXIF orientation
#   must be applied before anything else; `mq.tokenize("photo.jpg", config)` does.
# - **Elongated pictures.** At $L = 224$ a panorama of 448 : 1 or more would get a side of 0 pixels (half a pixel, rounded
#   to even). The library says so, as the cell below shows; other programs stop somewhere deep inside.
# - **Tokens are the price.** The cost of attention grows with the square of their number (chapter 06).

# %%
print("447 : 1 becomes", resized_sides(1, 447, 224))
for sides in ((1, 448), (2, 896), (1, 449)):
    try:
        resized_sides(*sides, 224)
    except ValueError as refusal:
        print(str(refusal).split(":")[0])
    else:
        raise AssertionError("a picture of 448 : 1 was resized")

# %% [markdown]
# ## References
#
# - J. Ke, Q. Wang, Y. Wang, P. Milanfar, F. Yang: *MUSIQ: Multi-scale Image Quality Transformer*, ICCV 2021, section
#   3.1 and appendix D.
# - R. G. Keys: *Cubic convolution interpolation for digital image processing*, IEEE Transactions on Acoustics, Speech,
#   and Signal Processing, 1981.
# - G. Parmar, R. Zhang, J.-Y. Zhu: *On aliased resizing and surprising subtleties in GAN evaluation*, CVPR 2022.
# - The code: `musiq_ref/image/resize.py`, `patches.py`, `tokenize.py`.
