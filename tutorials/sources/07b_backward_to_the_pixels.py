# %% [markdown]
# # 07b · The backward pass: from the tokens to the pixels
#
# Chapter 07 ended with a gradient for every token. Here you walk the rest of the way, through tables and stem and
# the resizing of images, to a number for each pixel of the photograph. And then you ask:
#
# > **May I believe this gradient, and what does it tell me about my photograph?**

# %% [markdown]
# ## What you will learn
#
# - what shared tables do to a gradient: every use brings its part, and the parts are added;
# - why the way back from a resized image is a transposed matrix and not another resize;
# - how to test a backward of any size with two runs of the forward;
# - what a gradient promises, for how large a step, and what it does not tell.

# %% [markdown]
# ## What you need
#
# About 50 minutes, exercises included; chapter 07, and the stem's backward (04b). $\mathrm{d}x$ means the
# gradient of the score with respect to $x$: it has the shape of $x$.

# %%
import matplotlib.pyplot as plt
import numpy as np

import musiq_ref as mq
from course import exercise, photograph, quiz
from musiq_ref import explain, verify
from musiq_ref.image.patches import extract_patches_backward
from musiq_ref.image.resize import FILTER, resize
from musiq_ref.image.tokenize import drop_padding, scales_of
from musiq_ref.model.parameters import map_params
from musiq_ref.model.stem import stem, stem_backward
from musiq_ref.ops.embedding import lookup_backward

# %% [markdown]
# ## Four pixels at two scales
#
# A picture of four pixels is seen twice: as it is, and at half the size, where each pixel is the mean of two. Say
# that the score changes by 1, 2, 3, 4 per unit of the four native pixels, and by 10 and 20 per unit of the two
# small ones. How does it change with a pixel of the picture?
#
# The first pixel is a native pixel, 1, and it is half of the first small one, $½·10 = 5$: together 6. So is the
# second, $2 + 5$. The others get $3 + 10$ and $4 + 10$.

# %%
R = np.array([[0.5, 0.5, 0, 0], [0, 0, 0.5, 0.5]])  # the resize: small = R @ pixels
native, small = np.array([1.0, 2, 3, 4]), np.array([10.0, 20])
to_pixels = native + R.T @ small
print(to_pixels)
assert np.array_equal(to_pixels, [1 + 5, 2 + 5, 3 + 10, 4 + 10])

# %% [markdown]
# The matrix of the resize is used **transposed**. To "resize the gradient back" by repeating each number would
# give 10, 10, 20, 20: twice what is right, since each pixel is only half of a small one. Sizes would fit, and nobody
# would notice, until one asks the forward:


# %%
def toy(pixels):
    """A score with just these gradients."""
    return native @ pixels + small @ (R @ pixels)


pixels, h = np.array([0.1, 0.7, 0.4, 0.9]), 1e-6
tried = [(toy(pixels + h * one) - toy(pixels - h * one)) / (2 * h) for one in np.eye(4)]
np.testing.assert_allclose(tried, to_pixels, atol=1e-6)
repeated = native + np.repeat(small, 2)
assert abs(repeated - tried).max() > 4

figure, axis = plt.subplots(figsize=(6, 2.8))
axis.bar(range(4), native, 0.35, label="as it is")
axis.bar(range(4), R.T @ small, 0.35, bottom=native, label="through the small one", hatch="//")
axis.plot(np.arange(4) + 0.28, repeated, "k_", markersize=16, label="if resized back")
axis.set(xlabel="pixel", ylabel="gradient", xticks=range(4), title="Two uses, one sum")
axis.legend()
plt.show()

# %% [markdown]
# Each bar has two parts, one for each use of the pixel. The dashes, above all bars, are the mistake.

# %% [markdown]
# ## Where chapter 07 ended
#
# We run forward and backward of the whole model, keeping every intermediate and every gradient through taps, and
# begin with $\mathrm{d}\mathbf{z}_0$. The image is made of floating-point numbers, a little paler than the
# photograph, to leave room for changes: 0 … 1 is all that the model takes. (Paler *around mid-grey*. Compare the score
# with the one in chapter 07: it is chapter 04's blind spot.)

# %%
checkpoint = mq.load_checkpoint("demo", dtype="float64")
params, config = checkpoint.params, checkpoint.config
image = 0.1 + 0.8 * photograph("coffee", longer_side=256) / 255  # (H, W, 3), a little paler
tokens = mq.batch([drop_padding(mq.tokenize(image, config))])
values, gradients = {}, {}
logits, kept = mq.forward(params, tokens, config, tap=lambda name, x: values.setdefault(name, x))
expected, cache = mq.expected_score(logits)
dlogits = mq.expected_score_backward(np.ones(1), cache)
dmodel = mq.backward(dlogits, kept, tap=lambda name, dx: gradients.setdefault(name, dx))
dz = gradients["encoder/input"]  # (1, 1 + N, D)
D, scales = config.width, scales_of(*image.shape[:2], config)
print(f"score {expected.score[0]:.4f}, dz_0 {dz.shape}")


def agrees(mine, theirs):
    """Our gradient is the model's, to rounding."""
    np.testing.assert_allclose(mine, theirs, rtol=1e-9, atol=1e-11 * abs(theirs).max())


# %% [markdown]
# ## Station 4: the embeddings
#
# Eq. (2) puts the class token in front and adds to each patch a row of the spatial table and a row of the scale
# table. Backward, row 0 is the gradient with respect to the class token, and each of the three summands gets the
# other rows, unchanged.
#
# The rows of a table are shared: on a large photograph, several patches hash to the same cell, and all scales use
# the same table. Each use brings back its gradient, so a row of the table gets the **sum** over all tokens that
# looked it up:

# %%
dx = dz[:, 1:]  # (1, N, D): of the patch embeddings, and of each row that was added to them
agrees(dx, gradients["patch_embedding"])
agrees(dz[0, 0], dmodel.params["class_token"])
index, rows = tokens.hash_index, config.grid_size**2
dtable = np.zeros((rows, D))
for token, row in enumerate(index[0]):
    dtable[row] += dx[0, token]
for theirs in (lookup_backward(dx, (index, rows)), dmodel.params["spatial_embedding"]["table"]):
    agrees(dtable, theirs)
uses = np.bincount(index[0], minlength=rows)
print(f"{dx.shape[1]} tokens; rows of the table are used {uses.min()} to {uses.max()} times")
assert uses.max() > 1

# %% [markdown]
# Beware of `dtable[index] += dx`. NumPy reads all rows, adds, and writes all rows back: of several additions to
# one row only the last survives. The loop is right; so is `np.add.at`. The library multiplies by a one-hot
# matrix, which is fast on every device, and always adds in the same order.

# %%
careless = np.zeros((rows, D))
careless[index[0]] += dx[0]
lost = abs(careless - dtable).max(axis=1) > 1e-12 * abs(dtable).max()
print(f"wrong rows: {lost.sum()}; rows used more than once: {(uses > 1).sum()}")
assert lost.sum() == (uses > 1).sum()

# %% [markdown]
# ## Station 5: patch embedding and stem
#
# The patch embedding is a linear layer on the flattened features of the stem: $\mathrm{d}\text{features} =
# \mathrm{d}\mathbf{E}_p\,\mathbf{W}^T$, folded back into $P/4 \times P/4 \times 256$. The stem sees each patch by
# itself, so we may take a few of them through it.

# %%
few = slice(0, 4)
dfeatures = (dx[0, few] @ params["patch_embedding"]["kernel"].T).reshape(
    -1, config.stem_side, config.stem_side, 256
)
_, cache = stem(tokens.patches[0, few], params["stem"], config.conventions)
dpatches_few, _ = stem_backward(dfeatures, cache)
print("dfeatures", dfeatures.shape, " dpatches", dpatches_few.shape)
theirs = gradients["patches"][0]
np.testing.assert_allclose(dpatches_few, theirs[few], rtol=0, atol=1e-10 * abs(theirs).max())

# %% [markdown]
# ## Station 6: the pixels
#
# How did the pixels become patches? They were stretched from 0 … 1 to −1 … 1, resized for all but the native
# scale, padded with zeros, cut. But for a constant, all of this is **linear**, as in the toy: a resize multiplies
# the rows of the image by a matrix $\mathbf{R}$ and its columns by a matrix $\mathbf{C}$ (chapter 01),
# $\mathbf{Y} = \mathbf{R}\mathbf{X}\mathbf{C}^T$ for each colour. In components, $Y_{ij} = \sum_{ab} R_{ia}
# X_{ab} C_{jb}$, so that $X_{ab}$ takes part in each $Y_{ij}$ with the factor $R_{ia} C_{jb}$, and
#
# $$\begin{aligned} \mathrm{d}X_{ab} &= \sum_{ij} R_{ia}\,\mathrm{d}Y_{ij}\,C_{jb} \\ \mathrm{d}\mathbf{X} &= \mathbf{R}^T\,\mathrm{d}\mathbf{Y}\,\mathbf{C} \end{aligned}$$
#
# A pixel that the filter passes over gets nothing, one that it counts twice gets twice. The model's own filter,
# for 12 pixels resized to 3:

# %%
column = np.linspace(0, 1, 12)[:, None, None]  # an image 12 high, 1 wide, of one colour
R = FILTER[config.conventions.resize](12, 3, "float64").toarray()  # (3, 12): no antialiasing
print("how much each of 12 pixels takes part in the 3:", R.sum(axis=0).round(2))
theirs = resize(column, 3, 1, config.conventions.resize)
np.testing.assert_allclose(R @ column[:, 0], theirs[:, 0], atol=1e-12)

# %% [markdown]
# What padding added was no pixel: its gradient is dropped. And every pixel is used at **each scale**: the
# gradients of the scales are added. The 2 is the stretch from 0 … 1 to −1 … 1.

# %%
dpatches, start, parts = gradients["patches"][0], 0, []
for scale in scales:
    here = dpatches[start : start + scale.kept]
    start += scale.kept
    part = extract_patches_backward(here, scale.height, scale.width)  # puts together, drops padding
    if scale.longer_side:
        make = FILTER[config.conventions.resize]
        R = make(image.shape[0], scale.height, "float64")
        C = make(image.shape[1], scale.width, "float64")
        part = np.stack([R.T @ part[:, :, c] @ C for c in range(3)], axis=2)
    parts.append(2 * part)
    print(f"{explain.scale_name(scale)}: {here.shape} -> {part.shape}")
dimage = sum(parts)

# %% [markdown]
# We are there. The library walks the same way in one call:

# %%
score, theirs = mq.image_gradient(image, params, config)
np.testing.assert_allclose(dimage, theirs, rtol=0, atol=1e-9 * abs(theirs).max())
print(f"score {score:.4f};  gradient {dimage.shape}, {dimage.size:,} numbers")

# %% [markdown]
# The strength of the gradient, $\sum_{rgb} |\mathrm{d}\,\text{score} / \mathrm{d}\,\text{pixel}|$, as each scale
# contributes it, and of their sum. (`explain.gradient_over_photograph` draws a photograph with its gradient.)

# %%
strength = [abs(part).sum(axis=2) for part in [*parts, dimage]]
top = np.quantile(strength[-1], 0.995)  # so that single pixels do not darken the rest
figure, axes = plt.subplots(1, len(strength), figsize=(10, 2.6))
titles = [explain.scale_name(scale) for scale in scales] + ["all scales"]
for axis, one, title in zip(axes, strength, titles, strict=True):
    shown = axis.imshow(one, vmin=0, vmax=top)
    axis.set(title=title, xticks=[], yticks=[])
figure.colorbar(shown, ax=axes, label="|d score / d pixel|", extend="max", shrink=0.7)
plt.show()

# %% [markdown]
# Bright is where a pixel moves the score most, up or down. From a small scale each number is spread over many
# pixels, or falls on those few that its filter reads: hence dots or blocks. The grid of the patches may show
# through, as every patch is normalised by itself and has its own frame of zeros (chapter 04). What you see is
# where *this model* looks closely, which is not yet where the photograph is good or bad; and a scale whose panel
# stays dark has little say in it.

# %% [markdown]
# ## Is it right?
#
# So far we compared the model's backward with its own parts. The real test asks the **forward**, as in the toy.
# Choose a random direction $\mathbf{v}$, one number for each pixel. If $\mathbf{g}$ is the gradient, the score of
# $\mathbf{x} + h\mathbf{v}$ grows with $\mathbf{g} \cdot \mathbf{v}$ per $h$. Two runs of the forward, at $\pm
# h$, test all numbers of the gradient at once: an error anywhere would change the product, for almost every
# $\mathbf{v}$.


# %%
def score_of(pixels):
    """The score in double precision, without a backward; pixels are kept within 0 … 1."""
    logits = mq.predict(params, mq.tokenize(np.clip(pixels, 0, 1), config), config)
    return mq.expected_score(logits[None])[0].score[0]


rng = np.random.default_rng(1)
v, h = rng.standard_normal(image.shape), 1e-9
differences = (score_of(image + h * v) - score_of(image - h * v)) / (2 * h)
print(f"by differences {differences:.8f};  gradient · v {np.sum(dimage * v):.8f}")
assert abs(differences - np.sum(dimage * v)) < 1e-4 * np.linalg.norm(dimage)

# %% [markdown]
# ### Why so small a step?
#
# A difference has two kinds of errors. Rounding: the score has 16 digits, and an error in the last of them,
# divided by $2h$, grows as the step shrinks. And the straight line: the curve bends, which costs $h^2$; worse,
# each ReLU and each max-pool has a kink, and of their millions a share proportional to $h$ lies so close to its
# kink that the step crosses it. The best step lies between; the more kinks, the smaller it is. A model small
# enough to try all steps shows it, in single precision, too:

# %%
small = mq.MusiqConfig.preset("tiny", longer_sides=(64,))
weights = verify.deterministic_params(small, seed=1, dtype="float64")
little = 0.3 + 0.4 * photograph("cat", longer_side=80) / 255
_, g = mq.image_gradient(little, weights, small)
v = rng.standard_normal(little.shape)
steps, errors = 10.0 ** np.arange(-12, -1), {"float64": [], "float32": []}
for dtype, line in errors.items():
    cast = map_params(lambda a, dtype=dtype: a.astype(dtype), weights)
    for h in steps:
        at = [
            mq.predict(cast, mq.tokenize(little + sign * h * v, small, dtype), small)[0]
            for sign in (1, -1)
        ]
        line.append(
            abs((float(at[0]) - float(at[1])) / (2 * h) - np.sum(g * v)) / np.linalg.norm(g)
        )

# %%
figure, axis = plt.subplots(figsize=(6, 3.2))
for (dtype, line), style in zip(errors.items(), ("o-", "s--"), strict=True):
    axis.loglog(steps, np.maximum(line, 1e-16), style, label=dtype)
axis.set(xlabel="step $h$", ylabel="error / length of the gradient", xticks=steps[::2])
axis.set_title("Too large a step meets kinks, too small a step rounds")
axis.legend()
plt.show()
assert min(errors["float64"]) < 1e-6
assert min(errors["float64"]) < min(errors["float32"]) / 10

# %% [markdown]
# Both lines have their best step in the middle, and that of single precision is far worse.
# This is why gradients are checked in double precision: in single, a gradient that is wrong by a little would
# pass for a rounded one.

# %% [markdown]
# ## What it tells, and what not
#
# The gradient is the steepest direction, for a *small* step. Let us follow it: move each pixel along it, so that
# the root mean square of the change is a ten-thousandth of an 8-bit level, a hundredth, one level, and compare
# with what the straight line promises, and with noise of the same size.

# %%
levels = [0.0001, 0.01, 1.0]  # of 255
n = image.size
noise = np.random.default_rng(6).standard_normal(image.shape)
directions = {"gradient": dimage, "noise": noise}
changes = {}
for name, direction in directions.items():
    unit = direction / np.linalg.norm(direction) * np.sqrt(n) / 255  # rms: one level
    changes[name] = [score_of(image + level * unit) - score for level in levels]
promised = [np.linalg.norm(dimage) * np.sqrt(n) / 255 * level for level in levels]
for i, level in enumerate(levels):
    print(
        f"{level:6} levels: promised {promised[i]:+.5f}, "
        f"gradient {changes['gradient'][i]:+.5f}, noise {changes['noise'][i]:+.5f}"
    )
assert abs(changes["gradient"][0] - promised[0]) < 0.1 * promised[0]
assert abs(changes["noise"][0]) < 0.1 * changes["gradient"][0]

# %% [markdown]
# **The answer.** You may believe it, for a small step: the first row keeps the promise. Noise of the same size
# hardly moves the score there, since in a space of so many dimensions a random direction is almost perpendicular
# to any given one. For a large step it promises nothing: compare the last row. And what it finds are changes that
# nobody sees and that the model rates highly (*adversarial* changes). It tells what **this model** is sensitive
# to here, not what is wrong with the photograph.

# %% [markdown]
# ## What it costs
#
# A product $\mathbf{Y} = \mathbf{X}\mathbf{W}$ has two products behind it, $\mathrm{d}\mathbf{X} =
# \mathrm{d}\mathbf{Y}\,\mathbf{W}^T$ and $\mathrm{d}\mathbf{W} = \mathbf{X}^T\mathrm{d}\mathbf{Y}$: the backward
# costs about two forwards. The memory is the greater matter: what the lines remember. Most of the intermediates
# must wait until the backward comes by.

# %%
groups = {"stem": 0, "attention weights and logits": 0, "rest of the encoder": 0, "other": 0}
for name, value in values.items():
    if name.endswith(("attention/weights", "attention/logits")):
        group = "attention weights and logits"
    elif name.startswith("encoder/"):
        group = "rest of the encoder"
    else:
        group = "stem" if name.startswith("stem/") else "other"
    groups[group] += value.size
for group, size in groups.items():
    print(f"{group:30} {4 * size / 2**20:7.1f} MiB in float32")
inputs = ["encoder/input", *(f"encoder/block_{q:02d}/output" for q in range(config.layers))]
inputs_only = sum(values[name].size for name in ["patches", *inputs])
print(f"{'only patches, inputs of blocks':30} {4 * inputs_only / 2**20:7.1f} MiB")
assert inputs_only < 0.5 * sum(groups.values())

# %% [markdown]
# If you keep only what goes into the stem and into each block, and run them once more when the backward comes by
# (chapter 07), you need a small part of it.

# %% [markdown]
# ## Exercises
#
# Each cell to fill in is followed by one that checks it. Until you do, it says so and the notebook goes on.
# Solutions are in `tutorials/solutions/07b_backward_to_the_pixels.py`; try first.

# %% [markdown]
# ### Exercise 1: two tables, backward (★, 8 minutes)
#
# `y = spatial[place] + scale[which]`: the two look-ups of Eq. (2). `place` and `which` are integer arrays (N,),
# `dy` is (N, D). Return the gradients with respect to the two tables, of `rows_spatial` and `rows_scale` rows.
#
# <details><summary>Hint</summary>
#
# `np.add.at(table, index, dy)` adds `dy[i]` to `table[index[i]]`, one after the other, in place. A row that
# nobody looked up keeps its zeros.
#
# </details>


# %% tags=["exercise-1"]
def my_tables_backward(dy, place, which, rows_spatial, rows_scale):
    dspatial, dscale = ..., ...
    return dspatial, dscale


# %% tags=["check-1"]
def check(backward):
    place, which = np.array([2, 0, 2, 6, 2, 0]), np.array([1, 1, 0, 1, 0, 0])

    def forward(spatial, scale):
        return spatial[place] + scale[which], None

    rng = np.random.default_rng(4)
    verify.check_vjp(
        forward,
        lambda dy, _: backward(dy, place, which, 7, 2),
        [rng.standard_normal((7, 3)), rng.standard_normal((2, 3))],
    )


exercise(1, my_tables_backward, check)

# %% [markdown]
# ### Exercise 2: to the pixels of a grey image (★★, 10 minutes)
#
# An image `x` (H, W) is given to a model at two scales: resized, `R @ x @ C.T`, and as it is. `dresized` and
# `dnative` are the gradients with respect to the two. Return the gradient with respect to `x`.
#
# <details><summary>Hint</summary>
#
# Shapes tell most of it: with `R` (h, H) and `C` (w, W), `dresized` is (h, w), and the result is (H, W). Station
# 6 has the formula. Resizing the gradient back to (H, W) has the right shape as well, and is wrong.
#
# </details>


# %% tags=["exercise-2"]
def my_pixels(dresized, dnative, R, C):
    return ...


# %% tags=["check-2"]
def check(pixels):
    rng = np.random.default_rng(5)
    R = FILTER["gaussian"](7, 3, "float64").toarray()
    C = FILTER["gaussian"](9, 4, "float64").toarray()

    def forward(x):
        return np.concatenate([(R @ x @ C.T).ravel(), x.ravel()]), None

    def backward(dy, _):
        return pixels(dy[:12].reshape(3, 4), dy[12:].reshape(7, 9), R, C)

    verify.check_vjp(forward, backward, [rng.standard_normal((7, 9))])


exercise(2, my_pixels, check)

# %% [markdown]
# ## Quiz

# %%
quiz("07b")

# %% [markdown]
# ## In practice
#
# - **8-bit input.** The score is a function of floating-point pixels; rounding to 8 bits has no useful
#   derivative. `image_gradient` treats the rounding as if it were not there.
# - **Do not ask for what you do not need.** Training needs no gradient with respect to the patches;
#   `want_patches=False` leaves out the first convolution's.
# - **A loss that uses the gradient** as a "perceptual" guide, to make pictures better, meets the adversarial
#   direction first. Restrain it: small steps, smooth changes, several models.

# %% [markdown]
# ## References
#
# - A. Griewank, A. Walther: *Evaluating Derivatives*, 2nd edition, SIAM 2008; chapter 3 on cost, chapter 12 on
#   recomputation.
# - C. Szegedy et al.: *Intriguing properties of neural networks*, ICLR 2014: adversarial changes.
# - K. Simonyan, A. Vedaldi, A. Zisserman: *Deep inside convolutional networks*, ICLR 2014 workshop: gradients
#   with respect to the pixels as pictures.
# - The code: `musiq_ref/model/musiq.py`, `musiq_ref/image/tokenize.py`, `musiq_ref/model/recompute.py`.
