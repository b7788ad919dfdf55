# %% [markdown]
# # 04 · The stem: a small network for every patch
#
# Before any token meets another, each patch passes by itself through a few layers of convolution, the **stem**.
# What the stem does not see, nothing after it can see. So here is the question of this chapter:
#
# > **Halve the contrast of a photograph. Does the score notice?**
#
# The answer is neither yes nor no, and what decides it is the last thing one would think of: the zeros around a
# patch.

# %% [markdown]
# ## What you will learn
#
# - to write a convolution as a matrix product, with the padding that TensorFlow calls "SAME";
# - why the kernels are standardised and the features normalised in groups, and what that hides from the model;
# - what the stem knows of contrast and of brightness, and where it gets that from;
# - how a patch becomes one row of $\mathbf{E}_p$ (Eq. 1).

# %% [markdown]
# ## What you need
#
# About 60 minutes, exercises included; the patches of chapter 01; matrix products. The way back is chapter 04b.

# %%
import matplotlib.pyplot as plt
import numpy as np

import musiq_ref as mq
from course import exercise, photograph, quiz, show
from musiq_ref import explain
from musiq_ref.image.tokenize import drop_padding
from musiq_ref.model.embeddings import patch_embedding
from musiq_ref.model.stem import ROOT_EPS, stem
from musiq_ref.ops.convolution import convolution, pad_same, same_padding, windows
from musiq_ref.ops.group_norm import GROUPS, group_norm
from musiq_ref.ops.max_pool import max_pool
from musiq_ref.ops.weight_standardization import EPS, standardize
from musiq_ref.training.initial import cosine_filters

# %% [markdown]
# ## A patch of 4×4 pixels
#
# Take a small patch of one colour, in which **0 is mid-grey**: 2 is a little brighter, 8 is bright. It has a
# bright corner. The stem looks for edges with a window of 3×3 that says "left minus right", at every second
# pixel, and where the window sticks out, it finds zeros.

# %%
patch = np.array([[2, 2, 8, 8], [2, 2, 8, 8], [2, 2, 2, 2], [2, 2, 2, 2]], float)
left_minus_right = np.array([[0, 0, 0], [1, 0, -1], [0, 0, 0]], float)


def answers(patch):
    """The window's four answers, (2, 2)."""
    y, _ = convolution(patch[None, :, :, None], left_minus_right[:, :, None, None], stride=2)
    return y[0, :, :, 0]


print(answers(patch))
assert np.array_equal(answers(patch), [[2 - 8, 8 - 0], [2 - 2, 2 - 0]])

# %%
figure, axes = plt.subplots(1, 2, figsize=(7, 3.2), width_ratios=[5, 2])
framed = np.pad(patch, (0, 1), constant_values=np.nan)
for axis, numbers in zip(axes, (framed, answers(patch)), strict=True):
    axis.imshow(numbers, vmin=-16, vmax=16, cmap="PuOr")
    for (i, j), value in np.ndenumerate(np.nan_to_num(numbers)):
        axis.text(j, i, f"{value:g}", ha="center", va="center", fontsize=12)
    axis.set(xticks=[], yticks=[])
    axis.spines[:].set_visible(False)
for column, style in ((0, "-"), (2, "--")):  # the windows of the upper row
    box = plt.Rectangle((column - 0.45, -0.45), 2.9, 2.9, fill=False, linestyle=style, linewidth=2)
    axes[0].add_patch(box)
axes[0].set_title("patch, zeros to the right and below, two windows")
axes[1].set_title("the answers")
plt.show()

# %% [markdown]
# The edge in the picture gives $2-8=-6$. But look at the window on the right: it sticks out, and finds an edge
# between the patch and the zeros, $8-0=8$. **The frame makes edges of its own**: the farther a
# patch is from mid-grey, the higher they are.
#
# Then the answers are normalised: minus their mean, divided by their standard deviation. Their mean is 1, the
# deviations are $-7, 7, -1, 1$, and the standard deviation is 5:


# %%
def normalised(y):
    """Mean 0 and standard deviation 1."""
    return (y - y.mean()) / y.std()


print(normalised(answers(patch)))
np.testing.assert_allclose(normalised(answers(patch)), [[-7 / 5, 7 / 5], [-1 / 5, 1 / 5]])

# %% [markdown]
# Now halve the contrast. Around mid-grey, all numbers are halved, the answers as well, and the normalisation
# divides by a standard deviation that is halved, too: **nothing has happened**. Around the darker grey of the
# patch, 2, the corner goes from 8 to 5, while the 2s stay, and their edge with the frame stays. The result is
# another one:

# %%
around_0 = patch / 2
around_2 = 2 + (patch - 2) / 2
for name, changed in (("around 0", around_0), ("around 2", around_2)):
    found = answers(changed)
    print(f"{name}: answers {found.ravel()}, normalised {normalised(found).ravel()}")
np.testing.assert_allclose(normalised(answers(around_0)), normalised(answers(patch)))
assert abs(normalised(answers(around_2)) - normalised(answers(patch))).max() > 0.1

# %% [markdown]
# That is the whole chapter in sixteen pixels. Now the real stem.

# %% [markdown]
# ## Four patches
#
# The busiest and the smoothest patch of the photograph (those with the largest and smallest standard deviation)
# and two more. The stem treats each by itself, so four are enough to see everything.

# %%
checkpoint = mq.load_checkpoint("demo", dtype="float64")
params, config = checkpoint.params, checkpoint.config
image = photograph("coffee", longer_side=256)
tokens = drop_padding(mq.tokenize(image, config))
spread = tokens.patches.std(axis=(1, 2, 3))
chosen = [int(spread.argmax()), int(spread.argmin()), 0, len(spread) // 2]
explain.multi_scale_patches(image, config, highlight=chosen)

# %% [markdown]
# The frames mark the four, among the patches of all scales. We run the stem on them and keep what it computes.
# For that the library has **taps**: a tap is a function that the model calls with the name and the value of each
# intermediate.

# %%
values = {}
patches = tokens.patches[chosen].astype("float64")  # (4, P, P, 3), from −1 to 1: mid-grey is 0
p = params["stem"]
y, _ = stem(patches, p, config.conventions, tap=lambda name, x: values.setdefault(name, x))
for name, value in values.items():
    print(f"{name:24} {value.shape}")
P = config.patch_size
assert y.shape == (4, P // 4, P // 4, 256)

# %% [markdown]
# Five convolutions. The first halves the side of the patch, the pooling halves it again; the other four form
# a **bottleneck**: 64 channels, 64, and out to 256, with a shortcut beside them. Each convolution is followed
# by a GroupNorm, and none has a bias: the $\beta$ of the norm does that work.

# %%
show(stem)

# %% [markdown]
# ## Convolution
#
# A convolution lays a window over the picture, at every second pixel for stride 2, and takes the dot product of
# what it sees with each kernel:
#
# $$y_{ijo} = \sum_{a,b,c} \tilde x_{si+a,\;sj+b,\;c}\; \hat w_{abco}$$
#
# $\tilde x$ is the picture with zeros around it, $\hat w$ the kernels; what their hat means comes below. How many zeros?
# "SAME" wants $\lceil n/s \rceil$ windows, and puts the
# smaller half of what is missing **before**. With a 7×7 window at stride 2 that is 2 before and 3 after.
# (PyTorch's `padding=3` puts 3 on both sides, which shifts every window by one pixel: a classic fault of ports.)

# %%
print("before and after:", same_padding(P, size=7, stride=2))
padded = pad_same(patches, 7, 2)  # (4, P + 5, P + 5, 3)
kernel = values["conv_root/standardized"]  # (7, 7, 3, 64)

n, i, j, o = 0, 3, 2, 10  # one number by hand
total = 0.0
for a in range(7):
    for b in range(7):
        for c in range(3):
            total += padded[n, 2 * i + a, 2 * j + b, c] * kernel[a, b, c, o]
print(f"by hand {total:.6f}, the model {values['conv_root'][n, i, j, o]:.6f}")
np.testing.assert_allclose(total, values["conv_root"][n, i, j, o], atol=1e-10)

# %% [markdown]
# As loops it would take forever. But each window, read out as one long row, times the kernels as columns, is a
# matrix product, and that is what computers do best. `windows` makes a *view*, which copies no pixel; `reshape`,
# which needs the rows for the product, does copy.

# %%
show(convolution)

# %%
columns = windows(padded, 7, 2)  # (4, P/2, P/2, 7, 7, 3)
rows = columns.reshape(-1, 7 * 7 * 3)
product = rows @ kernel.reshape(-1, 64)
print("rows", rows.shape, " kernels", kernel.reshape(-1, 64).shape, " product", product.shape)
np.testing.assert_allclose(
    product.reshape(values["conv_root"].shape), values["conv_root"], atol=1e-10
)
assert np.shares_memory(columns, padded)
assert not np.shares_memory(rows, padded)
assert rows.size > max(value.size for value in values.values())

# %% [markdown]
# These copied rows are larger than *any* intermediate that the stem hands on. What fills the memory need not have a name in the model.

# %% [markdown]
# ### Optional: what the kernels look for
#
# On the left all 64 as small pictures, on the right what they answer to the busiest patch.


# %%
def montage(stack):
    """(64, h, w, …) as a sheet of 8 × 8 pictures, each stretched to 0 … 1 around 0.5."""
    largest = abs(stack).max(axis=tuple(range(1, stack.ndim)), keepdims=True)
    stack = 0.5 + stack / (2 * largest + 1e-12)
    margin = [(0, 0), (1, 1), (1, 1)] + [(0, 0)] * (stack.ndim - 3)
    stack = np.pad(stack, margin, constant_values=0.5)
    sheet = stack.reshape(8, 8, *stack.shape[1:]).swapaxes(1, 2)
    return sheet.reshape(8 * sheet.shape[1], 8 * sheet.shape[3], *stack.shape[3:])


figure, axes = plt.subplots(1, 3, figsize=(10, 4), width_ratios=[2, 1, 2])
axes[0].imshow(montage(kernel.transpose(3, 0, 1, 2)))
axes[0].set_title("the 64 kernels, 7×7 RGB (grey is 0)")
axes[1].imshow((patches[0] + 1) / 2)
axes[1].set_title("the busiest patch")
answered = montage(values["conv_root"][0].transpose(2, 0, 1))
shown = axes[2].imshow(answered, cmap="PuOr", vmin=0, vmax=1)
axes[2].set_title("their answers")
bar = figure.colorbar(shown, ax=axes[2], ticks=[0, 0.5, 1], shrink=0.7)
bar.ax.set_yticklabels(["−", "0", "+"])
for axis in axes:
    axis.set(xticks=[], yticks=[])
plt.show()

# %% [markdown]
# Where an answer traces the shapes of the patch, its kernel has found an edge or a texture; where only its border
# lights up, it has found the frame. A kernel of clean form need not have learned it: it may still look like what it
# was initialised with. The bundled model's began as cosine waves, a coarse and a fine one in turn. How much of
# that is left?

# %%
began = cosine_filters()
alike = [np.corrcoef(began[..., o].ravel(), kernel[..., o].ravel())[0, 1] for o in range(64)]
print(f"correlation with what it began as: median {np.median(alike):.2f}, least {min(alike):.2f}")

# %% [markdown]
# Near 1, training has hardly touched a kernel's form; near 0, nothing of the beginning is left.

# %% [markdown]
# ## Weight standardisation
#
# The model does not use the stored kernels $w$ but $\hat w$, each brought to mean 0 and standard deviation 1 over
# all that one output sums up ($n = 7 \cdot 7 \cdot 3$ here):
#
# $$\begin{aligned} \hat w &= \frac{c}{\sigma + \varepsilon} \\ c &= w - \frac1n\sum w \\ \sigma &= \sqrt{\tfrac1n\textstyle\sum c^2} \end{aligned}$$
#
# Two things follow. Doubling $w$ changes nothing: only its *shape* counts. And a kernel of mean 0 answers 0 to a
# constant grey, however bright, **as long as the window lies inside**. At the border it sees the frame:

# %%
show(standardize)

# %%
w = p["conv_root"]["kernel"]
doubled, _ = standardize(2 * w, config.conventions.weight_std_ddof)
print(f"doubling w changes ŵ by {abs(doubled - kernel).max():.1e} (ε is {EPS})")
assert abs(doubled - kernel).max() < 0.05 * abs(kernel).max()

answer, _ = convolution(np.full((1, P, P, 3), 0.7), kernel, 2)  # a constant, bright grey
inside, border = abs(answer[:, 1:-2, 1:-2]).max(), abs(answer).max()
print(f"largest answer to a constant grey: inside {inside:.1e}, at the border {border:.1f}")
assert inside < 1e-10 < 1e-3 < border

# %% [markdown]
# ## GroupNorm
#
# The 64 channels of a patch form 32 groups of 2 (later 256 form 32 groups of 8). Each group, at all positions of
# the patch, is brought to mean 0 and variance 1, then scaled by $\gamma$ and shifted by $\beta$, one of each per
# channel:
#
# $$\begin{aligned} \hat x &= (x - \mu)\,\rho \\ \rho &= (\sigma^2 + \varepsilon)^{-1/2} \\ y &= \gamma \hat x + \beta \end{aligned}$$

# %%
show(group_norm)

# %%
x = values["conv_root"]  # (4, P/2, P/2, 64)
size = x.shape[-1] // GROUPS
g = 5  # one group of the busiest patch, by hand
channels = slice(g * size, (g + 1) * size)
group = x[0, :, :, channels]  # (P/2, P/2, 2)
xhat = (group - group.mean()) / np.sqrt(group.var() + ROOT_EPS)
by_hand = p["gn_root"]["scale"][channels] * xhat + p["gn_root"]["bias"][channels]
np.testing.assert_allclose(by_hand, values["gn_root"][0, :, :, channels], atol=1e-10)

# %% [markdown]
# Why not BatchNorm? It takes $\mu$ and $\sigma$ over all patches of the batch, so that **in training** what a
# patch becomes depends on its neighbours. When the model is used, it takes averages that were kept from training
# instead: the neighbours no longer matter, but the model is no longer quite the one that was trained. GroupNorm
# looks at one patch alone, always.


# %%
def batch_norm(x, statistics_of):
    """x, normalised per channel with the mean and variance of other numbers."""
    mean, variance = statistics_of.mean(axis=(0, 1, 2)), statistics_of.var(axis=(0, 1, 2))
    return (x - mean) / np.sqrt(variance + ROOT_EPS)


one, two = x[[0, 1]], x[[0, 2]]  # the busiest patch with one neighbour, or with another
training = abs(batch_norm(one, one)[0] - batch_norm(two, two)[0]).max()
in_use = abs(batch_norm(one, x)[0] - batch_norm(two, x)[0]).max()  # x stands for what was kept
print(f"BatchNorm, another neighbour changes: in training {training:.2f}, in use {in_use:.2f}")
ones, zeros = np.ones(64), np.zeros(64)
alone = [group_norm(pair, ones, zeros, ROOT_EPS)[0][0] for pair in (one, two)]
assert training > 0.01
assert in_use == 0
np.testing.assert_allclose(*alone, atol=1e-12)

# %% [markdown]
# ## What the stem sees of contrast
#
# Now the toy's question, to the real stem. Halve all its pixels, −1 … 1: the convolution has no bias, its output
# is halved; GroupNorm divides by the standard deviation, and nothing is left of the ½. Only when the variance
# comes near $\varepsilon$ can it tell. But pull the pixels towards the patch's *own mean* instead, and the frame
# gives it away.

# %%
factors = 2.0 ** -np.arange(0, 13)
means = patches.mean(axis=(1, 2), keepdims=True)
changes = {"mid-grey": [], "the patch's own mean": []}
for f in factors:
    for name, centre in zip(changes, (0, means), strict=True):
        faded, _ = stem(centre + f * (patches - centre), p, config.conventions)
        changes[name].append(np.linalg.norm(faded[0] - y[0]) / np.linalg.norm(y[0]))

# %%
figure, axis = plt.subplots(figsize=(6, 3.2))
for (name, line), style in zip(changes.items(), ("o-", "s--"), strict=True):
    axis.loglog(factors[1:], line[1:], style, label=f"around {name}")
axis.set(xlabel="contrast multiplied by", ylabel="relative change of the output")
axis.set_title("The busiest patch, its contrast reduced in two ways")
axis.invert_xaxis()
axis.legend()
plt.show()
by_mid_grey, by_mean = (line[1] for line in changes.values())  # at one half
assert by_mid_grey < 1e-3
assert by_mean > 10 * by_mid_grey

# %% [markdown]
# At one half, on the left, the two lines are orders of magnitude apart. Contrast lost *around the patch's own
# mean* is seen at once; *around mid-grey* only when almost nothing is left. The frame is a **ruler**: it always
# says how far the patch is from mid-grey, and texture is measured against that.
#
# Noise is measured against the frame in the same way. On an even patch near mid-grey there is no frame, and
# GroupNorm brings even faint noise to variance 1; on a bright or dark patch the frame is the larger part, and
# faint noise stays faint:

# %%
noise = np.random.default_rng(0).standard_normal((1, P, P, 3)) / 255  # half an 8-bit level
effect = {}
for grey in (0, 0.9):
    even, _ = stem(np.full((1, P, P, 3), grey), p, config.conventions)
    noisy, _ = stem(grey + noise, p, config.conventions)
    effect[grey] = np.linalg.norm(noisy - even) / np.linalg.norm(even)
    print(f"even patch at {grey}: half a level of noise changes the output by {effect[grey]:.0%}")
assert effect[0] > 2 * effect[0.9]

# %% [markdown]
# No later layer sees pixels, resizing is linear, and it is zeros again that fill up a patch at the edge of the
# picture: the blind spot is the whole model's. Here are three photographs of the same contrast, half of the
# original's: pulled towards mid-grey, towards white, towards black.


# %%
def score_of(pixels):
    """The score of floating-point pixels, 0 … 1."""
    logits = mq.predict(params, mq.tokenize(pixels, config), config)
    return mq.expected_score(logits[None])[0].score[0]


original = image / 255
greys = [0, 0.1, 0.25, 0.4, 0.5, 0.6, 0.75, 0.9, 1]
faded = {grey: grey + (original - grey) / 2 for grey in greys}
scores = {grey: score_of(pixels) for grey, pixels in faded.items()}
untouched = score_of(original)
moved = {grey: abs(score - untouched) for grey, score in scores.items()}
assert moved[0.5] < 0.1 * max(moved.values())

# %%
figure, axes = plt.subplots(1, 4, figsize=(10, 2.4))
shown = {"original": (original, untouched)}
for name, grey in (("mid-grey", 0.5), ("white", 1), ("black", 0)):
    shown[f"towards {name}"] = (faded[grey], scores[grey])
for axis, (name, (pixels, score)) in zip(axes, shown.items(), strict=True):
    axis.imshow(pixels, vmin=0, vmax=1)
    axis.set(xticks=[], yticks=[], title=f"{name}\nscore {score:.4g}")
plt.show()

# %%
figure, axis = plt.subplots(figsize=(6, 3))
axis.plot(greys, list(scores.values()), "o-", label="contrast halved around this grey")
axis.axhline(untouched, color="0.4", linestyle="--", label="the original")
axis.set(xlabel="grey: 0 is black, 1 is white", ylabel="score")
axis.set_title("The same loss of contrast, around different greys")
axis.legend()
plt.show()
print(f"around mid-grey the score moves by {moved[0.5]:.1e}, at most by {max(moved.values()):.3g}")

# %% [markdown]
# **The answer to our question.** Only at 0.5 does the curve touch the line *by construction*: with pixels pulled
# exactly towards mid-grey, the score cannot notice (but for $\varepsilon$), whatever the model has learned.
# Everywhere else it can notice, and what it makes of that, haze or a flaw or nothing bad, is learned. The pixels are floating-point numbers here; 8-bit levels add their rounding, a noise
# that the stem does see.

# %% [markdown]
# ## ReLU and max-pooling
#
# ReLU keeps what is positive. Max-pooling keeps the largest of each 3×3 window at every second position, and pads
# with $-\infty$, so that padding never wins. In this stem zeros would do as well: after a ReLU nothing is below
# 0, so a zero can tie but not win. Without the ReLU, it could:

# %%
show(max_pool)


# %%
def zero_padded_pool(x):
    """Max-pooling as somebody might write it, with zeros around."""
    views = windows(np.pad(x, ((0, 0), (0, 1), (0, 1), (0, 0))), 3, 2)
    return views.max(axis=(3, 4))


assert np.array_equal(zero_padded_pool(values["relu_root"]), values["pool"])
negative = -1 - values["relu_root"]  # all below 0
assert not np.array_equal(zero_padded_pool(negative), max_pool(negative)[0])

# %% [markdown]
# ## From features to a token
#
# After the bottleneck, in which nothing is new, a patch is $P/4 \times P/4 \times 256$ numbers. Written as one
# row and multiplied by a matrix, $\mathbf{x} = \text{features} \cdot \mathbf{W} + \mathbf{b}$, they become a
# vector of width $D$: the **patch embedding**. With $\mathbf{x}_k^n$ for patch $n$ of scale $k$, the embeddings
# of all scales stand one below the other:
#
# $$\begin{aligned} \mathbf{E}_p = [&\mathbf{x}_0^1; \dots; \mathbf{x}_0^l; \cr &\mathbf{x}_1^1; \dots; \mathbf{x}_1^{m_1}; \dots; \cr &\mathbf{x}_K^1; \dots; \mathbf{x}_K^{m_K}] \end{aligned} \tag{1}$$
#
# In the paper, scale 0 is the native image, with $l$ patches. The authors' code puts it last, and so does this
# library unless you choose the paper's conventions. It matters only for which row of the scale embedding a token
# gets.

# %%
E_p, _ = patch_embedding(y, params["patch_embedding"])
flat = y.reshape(4, -1)  # row, column, channel
by_hand = flat @ params["patch_embedding"]["kernel"] + params["patch_embedding"]["bias"]
print(f"features {y.shape} -> {flat.shape} -> tokens {by_hand.shape}")
np.testing.assert_allclose(by_hand, E_p, atol=1e-10)
print("tokens of each scale, in the order of E_p:", np.bincount(tokens.scale_index))
assert (np.diff(tokens.scale_index) >= 0).all()

# %% [markdown]
# ## Exercises
#
# Each cell to fill in is followed by one that checks it. Until you do, it says so and the notebook goes on.
# Solutions are in `tutorials/solutions/04_stem.py`; try first.

# %% [markdown]
# ### Exercise 1: a convolution (★★, 10 minutes)
#
# `padded` (N, h, w, I) already has its zeros. Return the convolution with `kernel` (k, k, I, O), (N, rows,
# columns, O), where `rows` and `columns` are given. Two loops, over the places $(a, b)$ in the window, are
# enough.
#
# <details><summary>Hint</summary>
#
# The place $(a, b)$ of all windows at once is `padded[:, a : a + rows * stride : stride, …]`, of shape (N, rows,
# columns, I). Times `kernel[a, b]`, (I, O), it is one summand. The kernel is not flipped, unlike a
# mathematician's convolution.
#
# </details>


# %% tags=["exercise-1"]
def my_convolution(padded, kernel, stride, rows, columns):
    return ...


# %% tags=["check-1"]
def check(my_convolution):
    rng = np.random.default_rng(1)
    for size, stride, (height, width) in ((3, 2, (5, 8)), (2, 1, (4, 3)), (1, 1, (2, 3))):
        x = rng.standard_normal((2, height, width, 3))
        kernel = rng.standard_normal((size, size, 3, 4))
        wanted, _ = convolution(x, kernel, stride)
        got = my_convolution(pad_same(x, size, stride), kernel, stride, *wanted.shape[1:3])
        assert np.shape(got) == wanted.shape, f"the shape is {np.shape(got)}, not {wanted.shape}"
        difference = abs(got - wanted).max()
        assert difference < 1e-10, (
            f"with a {size}×{size} kernel at stride {stride} it differs by up to {difference:.2g}"
        )


exercise(1, my_convolution, check)

# %% [markdown]
# ### Exercise 2: how many zeros? (★★, 8 minutes)
#
# Return how many zeros "SAME" puts before and after an axis of `n` pixels, for windows of `size` at `stride`.
# There must be $\lceil n/s \rceil$ windows, and the larger half, if the halves differ, comes after.
#
# <details><summary>Hint</summary>
#
# The last window begins at $(\lceil n/s \rceil - 1)\,s$ and needs `size` pixels. What it needs beyond `n` is the
# number of zeros; it is never negative.
#
# </details>


# %% tags=["exercise-2"]
def my_same_padding(n, size, stride):
    return ..., ...


# %% tags=["check-2"]
def check(my_same_padding):
    for n in range(1, 40):
        for size, stride in ((7, 2), (3, 2), (3, 1), (1, 2), (4, 3)):
            got, wanted = tuple(my_same_padding(n, size, stride)), same_padding(n, size, stride)
            assert got == wanted, (
                f"{n} pixels, window {size}, stride {stride}: you say {got}, it is {wanted}"
            )


exercise(2, my_same_padding, check)

# %% [markdown]
# ### Exercise 3: a change that nobody sees (★, 5 minutes)
#
# Return a patch, its pixels again within −1 … 1, that differs from the given one by 0.05 on average or more, and
# for which the stem's output is the same. (Do not compute anything clever. Say what the stem is blind to.)
#
# <details><summary>Hint</summary>
#
# Mid-grey is 0 here. What did the toy do to the numbers when nothing happened?
#
# </details>


# %% tags=["exercise-3"]
def my_invisible(patch):
    return ...


# %% tags=["check-3"]
def check(my_invisible):
    patch = patches[:1]
    changed = my_invisible(patch)
    assert np.shape(changed) == patch.shape, f"the shape is {np.shape(changed)}"
    assert abs(changed).max() <= 1, "a pixel leaves −1 … 1"
    difference = abs(changed - patch).mean()
    assert difference >= 0.05, f"the patch differs by {difference:.3f} only"
    seen = abs(stem(changed, p, config.conventions)[0] - y[:1]).max() / abs(y[:1]).max()
    assert seen < 0.01, f"the stem sees it: its output changes by up to {seen:.0%}"


exercise(3, my_invisible, check)

# %% [markdown]
# ## Quiz

# %%
quiz("04")

# %% [markdown]
# ## In practice
#
# - **Where ports go wrong.** Padding (2, 3) against (3, 3), $\varepsilon$ of $10^{-6}$ after the root but
#   $10^{-4}$ in the bottleneck, the standard deviation with $n$ or $n-1$, features flattened by channel first:
#   each gives a model that runs and scores slightly wrong. Compare intermediates, not scores.
# - **Standardise once.** $\hat w$ does not depend on the image. A server computes it when it loads the model.
# - **Contrast.** Haze and fading pull a picture towards a bright grey: that is seen, if training has shown it.
#   What is invisible is a loss of contrast around exactly mid-grey. If your application must catch that one too,
#   measure it separately.
# - **Memory.** Per patch, the copied rows of the root take $(P/2)^2 \cdot 147$ numbers, more than anything that
#   the stem hands on; for large photographs attention's $N^2$ is larger still. Take patches in chunks (chapter
#   13).

# %% [markdown]
# ## References
#
# - J. Ke, Q. Wang, Y. Wang, P. Milanfar, F. Yang: *MUSIQ: Multi-scale Image Quality Transformer*, ICCV 2021,
#   section 3.2 and appendix A.
# - Y. Wu, K. He: *Group Normalization*, ECCV 2018.
# - S. Qiao, H. Wang, C. Liu, W. Shen, A. Yuille: *Micro-batch training with batch-channel normalization and
#   weight standardization*, 2019.
# - K. He, X. Zhang, S. Ren, J. Sun: *Deep residual learning for image recognition*, CVPR 2016: the bottleneck.
# - S. Ioffe, C. Szegedy: *Batch normalization*, ICML 2015.
# - M. A. Islam, S. Jia, N. D. B. Bruce: *How much position information do convolutional neural networks encode?*,
#   ICLR 2020: what zero padding tells a network.
# - The code: `musiq_ref/model/stem.py`, `musiq_ref/ops/convolution.py`, `musiq_ref/ops/group_norm.py`,
#   `musiq_ref/ops/weight_standardization.py`, `musiq_ref/ops/max_pool.py`.
