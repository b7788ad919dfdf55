# %% [markdown]
# # 04 · The stem: a small network for every patch
#
# Before any token meets another, each patch passes by itself through a few layers of convolution, the **stem**. What
# the stem does not see, nothing after it can see. Here you compute all of it by hand, forward and backward, and find
# out something that surprises most users of MUSIQ: it hardly knows what contrast is.

# %% [markdown]
# ## What you will learn
#
# - to write a convolution as a matrix product, with the padding that TensorFlow calls "SAME", and to transpose it;
# - why the kernels are standardised and the features normalised in groups, and what that makes the model blind to;
# - the backward of GroupNorm, of weight standardisation and of max-pooling, derived and checked;
# - how a patch becomes one row of $\mathbf{E}_p$ (Eq. 1), and which pixels one of its features looks at.

# %% [markdown]
# ## What you need
#
# About 45 minutes; the patches of chapter 01; the backward of linear and of LayerNorm from chapter 03. $\mathrm{d}x$ is
# the gradient of the score to $x$.

# %%
import matplotlib.pyplot as plt
import numpy as np

import musiq_ref as mq
from course import exercise, photograph, show
from musiq_ref import explain, verify
from musiq_ref.image.tokenize import drop_padding
from musiq_ref.model.embeddings import patch_embedding
from musiq_ref.model.stem import ROOT_EPS, stem, stem_backward
from musiq_ref.ops.activation import relu_backward
from musiq_ref.ops.convolution import (
    convolution,
    convolution_backward,
    pad_same,
    same_padding,
    windows,
)
from musiq_ref.ops.group_norm import GROUPS, group_norm, group_norm_backward
from musiq_ref.ops.max_pool import max_pool, max_pool_backward
from musiq_ref.ops.weight_standardization import EPS, standardize, standardize_backward

# %% [markdown]
# ## Four patches
#
# The busiest and the smoothest patch of the photograph (those with the largest and smallest standard deviation) and two
# more. The stem treats each by itself, so four are enough to see everything.

# %%
checkpoint = mq.load_checkpoint("demo", dtype="float64")
params, config = checkpoint.params, checkpoint.config
image = photograph("coffee", longer_side=256)
tokens = drop_padding(mq.tokenize(image, config))
deviation = tokens.patches.std(axis=(1, 2, 3))
chosen = [int(deviation.argmax()), int(deviation.argmin()), 0, len(deviation) // 2]
explain.multi_scale_patches(image, config, highlight=chosen)

# %% [markdown]
# We run the stem on them, keeping everything it computes, and then backward. In place of what the rest of the model
# would send back we take random numbers.

# %%
values, gradients = {}, {}


def into(store):
    """A tap that keeps everything it sees."""
    return lambda name, array: store.setdefault(name, array)


patches = tokens.patches[chosen].astype("float64")  # (4, P, P, 3)
p = params["stem"]
y, kept = stem(patches, p, config.conventions, tap=into(values))
dy = np.random.default_rng(0).standard_normal(y.shape)
dpatches, dparams = stem_backward(dy, kept, tap=into(gradients))
for name, value in values.items():
    print(f"{name:24} {value.shape}")
P = config.patch_size
assert y.shape == (4, P // 4, P // 4, 256)

# %% [markdown]
# Five convolutions. The first halves the side of the patch, the pooling halves it again; the other four form a
# **bottleneck**: 64 channels, 64, and out to 256, with a shortcut beside them. Each convolution is followed by a
# GroupNorm, and none has a bias: the $\beta$ of the norm does that work.

# %%
show(stem)

# %% [markdown]
# ## Convolution
#
# A convolution lays a small window over the picture, at every second pixel for stride 2, and takes the dot product of
# what it sees with each kernel:
#
# $$y_{ijo} = \sum_{a,b,c} \tilde x_{si+a,\;sj+b,\;c}\; \hat w_{abco}$$
#
# $\tilde x$ is the picture with zeros around it. How many? "SAME" wants $\lceil n/s \rceil$ windows, and puts the
# smaller half of what is missing **before**. With a 7×7 window at stride 2 that is 2 before and 3 after. (PyTorch's
# `padding=3` puts 3 on both sides, which shifts every window by one pixel: a classic fault of ports.)

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
# Written as loops it would take forever. But each window, read out as one long row, times the kernels as columns, is a
# matrix product, and that is what computers do best. The rows are made without copying a pixel (a *view*), until the
# product needs them.

# %%
show(convolution, convolution_backward)

# %%
columns = windows(padded, 7, 2)  # (4, P/2, P/2, 7, 7, 3)
rows = columns.reshape(-1, 7 * 7 * 3)
product = rows @ kernel.reshape(-1, 64)
print("rows", rows.shape, " kernels", kernel.reshape(-1, 64).shape, " product", product.shape)
np.testing.assert_allclose(
    product.reshape(values["conv_root"].shape), values["conv_root"], atol=1e-10
)

# %% [markdown]
# **Backward.** For the product alone it is the linear layer of chapter 03: $\mathrm{d}\hat{\mathbf{W}} =
# \text{rows}^T\,\mathrm{d}\mathbf{Y}$, and $\mathrm{d}\text{rows} = \mathrm{d}\mathbf{Y}\,\hat{\mathbf{W}}^T$. But
# windows overlap: a pixel stands in several rows. What is used several times gets the sum, so each number of
# $\mathrm{d}\text{rows}$ is **added** to the pixel it was read from. What lands on the padding is dropped.

# %%
dconv = gradients["conv_root"]
dkernel = (rows.T @ dconv.reshape(-1, 64)).reshape(kernel.shape)
np.testing.assert_allclose(dkernel, gradients["conv_root/standardized"], rtol=1e-9, atol=1e-9)

drows = (dconv.reshape(-1, 64) @ kernel.reshape(-1, 64).T).reshape(columns.shape)
dpadded = np.zeros_like(padded)
for i in range(columns.shape[1]):
    for j in range(columns.shape[2]):
        dpadded[:, 2 * i : 2 * i + 7, 2 * j : 2 * j + 7] += drows[:, i, j]
before = same_padding(P, 7, 2)[0]
inside = slice(before, before + P)
np.testing.assert_allclose(
    dpadded[:, inside, inside], dpatches, rtol=0, atol=1e-10 * abs(dpatches).max()
)

# %% [markdown]
# What do the kernels look for? On the left all 64 as small pictures, on the right what they answer to the busiest patch.


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
shown = axes[2].imshow(
    montage(values["conv_root"][0].transpose(2, 0, 1)), cmap="PuOr", vmin=0, vmax=1
)
axes[2].set_title("their answers")
figure.colorbar(shown, ax=axes[2], ticks=[0, 0.5, 1], shrink=0.7).ax.set_yticklabels(
    ["−", "0", "+"]
)
for axis in axes:
    axis.set(xticks=[], yticks=[])
plt.show()

# %% [markdown]
# ## Weight standardisation
#
# The model does not use the stored kernels $w$ but $\hat w$, each brought to mean 0 and standard deviation 1 over all
# that one output sums up ($n = 7 \cdot 7 \cdot 3$ here):
#
# $$\hat w = \frac{c}{\sigma + \varepsilon}, \qquad c = w - \frac1n\sum w, \qquad \sigma = \sqrt{\tfrac1n\textstyle\sum c^2}$$
#
# Two things follow. A kernel of mean 0 answers 0 to a constant picture, whatever its brightness, if its colour is grey.
# And doubling $w$ changes nothing: only its *shape* counts. Training cannot make a kernel louder, so it does not waste
# steps on it.

# %%
show(standardize, standardize_backward)

# %%
w = p["conv_root"]["kernel"]
grey = np.full((1, P, P, 3), 0.7)
answer, _ = convolution(grey, kernel, 2)
np.testing.assert_allclose(
    answer[:, 1:-2, 1:-2], 0, atol=1e-10
)  # inside; the zeros around it are an edge
doubled, _ = standardize(2 * w, config.conventions.weight_std_ddof)
print(f"doubling w changes ŵ by {abs(doubled - kernel).max():.1e} (ε is {EPS})")
assert abs(doubled - kernel).max() < 0.05 * abs(kernel).max()

# %% [markdown]
# **Backward.** From the last operation to the first. The quotient: $\mathrm{d}c = \mathrm{d}\hat
# w/(\sigma+\varepsilon)$ and $\mathrm{d}\sigma = -\sum \mathrm{d}\hat w\,c/(\sigma+\varepsilon)^2$. The root,
# $\partial\sigma/\partial c = c/(n\sigma)$, adds $\mathrm{d}\sigma\,c/(n\sigma)$ to $\mathrm{d}c$, since $c$ is used
# twice. Subtracting the mean subtracts it from the gradient as well: $\mathrm{d}w = \mathrm{d}c -
# \text{mean}(\mathrm{d}c)$.

# %%
axes = (0, 1, 2)
ddof = config.conventions.weight_std_ddof  # pyiqa divides by n − 1
n = 7 * 7 * 3 - ddof
c = w - w.mean(axis=axes)
sigma = np.sqrt((c * c).sum(axis=axes) / n)  # (64,)
dw_hat = gradients["conv_root/standardized"]
dsigma = -(dw_hat * c).sum(axis=axes) / (sigma + EPS) ** 2
dc = dw_hat / (sigma + EPS) + dsigma * c / (n * sigma)
dw = dc - dc.mean(axis=axes)
theirs = dparams["conv_root"]["kernel"]
np.testing.assert_allclose(dw, theirs, rtol=0, atol=1e-10 * abs(theirs).max())

# %% [markdown]
# What a forward ignores has no gradient: $\mathrm{d}w$ has no mean, and (but for $\varepsilon$) no part along $w$
# itself. A gradient step can only turn the kernel.

# %%
along = abs((dw * c).sum(axis=axes)) / np.sqrt((dw**2).sum(axis=axes) * (c**2).sum(axis=axes))
print(f"largest cosine between dw and w: {along.max():.1e}")
assert abs(dw.sum(axis=axes)).max() < 1e-9 * abs(dw).max()
assert along.max() < 0.1

# %% [markdown]
# ## GroupNorm
#
# The 64 channels of a patch form 32 groups of 2 (later 256 form 32 groups of 8). Each group, at all positions of the
# patch, is brought to mean 0 and variance 1, then scaled by $\gamma$ and shifted by $\beta$, one of each per channel:
#
# $$\hat x = (x - \mu)\,\rho, \qquad \rho = (\sigma^2 + \varepsilon)^{-1/2}, \qquad y = \gamma \hat x + \beta$$
#
# BatchNorm would take $\mu$ and $\sigma$ over all patches of all images in the batch, and the score of your photograph
# would depend on its neighbours. GroupNorm looks at one patch alone.

# %%
show(group_norm, group_norm_backward)

# %%
x = values["conv_root"]  # (4, P/2, P/2, 64)
size = x.shape[-1] // GROUPS
g = 5  # one group of the busiest patch, by hand
group = x[0, :, :, g * size : (g + 1) * size]  # (P/2, P/2, 2)
xhat = (group - group.mean()) / np.sqrt(group.var() + ROOT_EPS)
channels = slice(g * size, (g + 1) * size)
by_hand = p["gn_root"]["scale"][channels] * xhat + p["gn_root"]["bias"][channels]
np.testing.assert_allclose(by_hand, values["gn_root"][0, :, :, channels], atol=1e-10)

# %% [markdown]
# **Backward.** It is LayerNorm's of chapter 03, with "row" replaced by "group". Let $\mathrm{d}\hat x =
# \gamma\,\mathrm{d}y$. $x$ acts on $\hat x$ in three ways: directly, through $\mu$, and through $\sigma$. Directly it
# gives $\rho\,\mathrm{d}\hat x$. Raising all of the group raises $\mu$ as much, and nothing happens: so the mean of
# $\mathrm{d}\hat x$ does not count. Stretching the group around its mean is undone by $\rho$: so what lies along $\hat
# x$ does not count either. What is left is
#
# $$\mathrm{d}x = \rho\,\big(\mathrm{d}\hat x - \text{mean}(\mathrm{d}\hat x) - \hat x\,\text{mean}(\mathrm{d}\hat x\,\hat x)\big), \qquad \mathrm{d}\gamma = \sum \mathrm{d}y\,\hat x, \qquad \mathrm{d}\beta = \sum \mathrm{d}y$$

# %%
dxhat = gradients["gn_root"][0, :, :, channels] * p["gn_root"]["scale"][channels]
rho = 1 / np.sqrt(group.var() + ROOT_EPS)
dx = rho * (dxhat - dxhat.mean() - xhat * (dxhat * xhat).mean())
theirs = gradients["conv_root"][0, :, :, channels]
np.testing.assert_allclose(dx, theirs, rtol=0, atol=1e-9 * abs(theirs).max())
print(f"Σ dx = {dx.sum():.1e},  Σ dx·x̂ = {(dx * xhat).sum():.1e},  Σ |dx| = {abs(dx).sum():.1e}")

# %% [markdown]
# ### What the stem cannot see
#
# Follow a patch whose contrast is halved: all its pixels, −1 … 1, are multiplied by ½. The convolution has no bias: its
# output is halved. GroupNorm divides by the standard deviation: nothing is left of the ½. The stem's output is **the
# same**. Only when the variance comes near $\varepsilon$ does contrast begin to count.

# %%
factors = 10.0 ** -np.arange(0, 6.5, 0.5)
changes = np.array(
    [
        np.linalg.norm(stem(f * patches[:2], p, config.conventions)[0] - y[:2], axis=(1, 2)).mean(
            axis=-1
        )
        for f in factors
    ]
) / np.linalg.norm(y[:2], axis=(1, 2)).mean(axis=-1)
figure, axis = plt.subplots(figsize=(6, 3))
axis.loglog(factors[1:], changes[1:, 0], "o-", label="busiest patch")
axis.loglog(factors[1:], changes[1:, 1], "s--", label="smoothest patch")
axis.set(xlabel="contrast multiplied by", ylabel="relative change of the output")
axis.set_title("Contrast counts only when it is almost gone")
axis.invert_xaxis()
axis.legend()
plt.show()
half, _ = stem(patches[:1] / 2, p, config.conventions)
assert np.linalg.norm(half - y[:1]) < 1e-3 * np.linalg.norm(y[:1])

# %% [markdown]
# As no later layer sees pixels, this holds for the whole model: a photograph and the same photograph with all its
# pixels half as far from mid-grey get the **same score**. The pixels are floating-point numbers here; 8-bit levels
# would add the rounding, which is a noise that the stem does see.


# %%
def score_of(pixels):
    """The score of floating-point pixels."""
    logits = mq.predict(params, mq.tokenize(pixels, config), config)
    return mq.expected_score(logits[None])[0].score[0]


original = image / 255
versions = {
    "as it is": original,
    "half the contrast": 0.5 + (original - 0.5) / 2,
    "upside down": original[::-1],
}
scores = {name: score_of(pixels) for name, pixels in versions.items()}
for name, score in scores.items():
    print(f"{name:18} {score:9.5f}")
difference = abs(scores["half the contrast"] - scores["as it is"])
assert difference < 0.1 * abs(scores["upside down"] - scores["as it is"])

# %% [markdown]
# ## ReLU and max-pooling
#
# ReLU keeps what is positive; its backward lets the gradient pass where $y > 0$. Max-pooling keeps the largest of each
# 3×3 window at every second position (its padding is $-\infty$: zeros could win). Backward, **the winner takes it
# all**: only the largest number decides, so only it gets the gradient, and a number that wins several windows gets the
# sum of theirs.

# %%
show(max_pool, max_pool_backward)

# %%
x, pooled = values["relu_root"], values["pool"]
dx = np.zeros_like(x)
P2, P4 = x.shape[1], pooled.shape[1]
for n, i, j, c in np.ndindex(
    1, P4, P4, 64
):  # the busiest patch; "SAME" adds nothing before, 1 after
    window = x[n, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3, c]
    a, b = np.unravel_index(window.argmax(), window.shape)
    dx[n, 2 * i + a, 2 * j + b, c] += gradients["pool"][n, i, j, c]
np.testing.assert_allclose(dx[0], gradients["relu_root"][0], atol=1e-12 * abs(dx).max())
print(f"{(dx[0] != 0).mean():.0%} of the positions have a gradient")

# %% [markdown]
# Two equal maxima? The library, as TensorFlow, chooses the first. After a ReLU there are many windows of nothing but
# zeros, all tied, but there it does not matter: the ReLU lets no gradient through where its output is 0.

# %%
tied = (windows(np.pad(x, ((0, 0), (0, 1), (0, 1), (0, 0))), 3, 2) == 0).all(axis=(3, 4))
print(f"{tied.mean():.0%} of the windows hold only zeros")
through = relu_backward(gradients["relu_root"], x)
assert abs(through[x == 0]).max() == 0
np.testing.assert_array_equal(through, gradients["gn_root"])

# %% [markdown]
# ## From features to a token
#
# After the bottleneck, in which nothing is new, a patch is $P/4 \times P/4 \times 256$ numbers. Written as one row and
# multiplied by a matrix, $\mathbf{x} = \text{features} \cdot \mathbf{W} + \mathbf{b}$, they become a vector of width
# $D$: the **patch embedding**. With $\mathbf{x}_k^n$ for patch $n$ of scale $k$, the embeddings of all scales stand one
# below the other:
#
# $$\mathbf{E}_p = [\mathbf{x}_0^1; \dots; \mathbf{x}_0^l; \mathbf{x}_1^1; \dots; \mathbf{x}_1^{m_1}; \dots; \mathbf{x}_K^1; \dots; \mathbf{x}_K^{m_K}] \tag{1}$$
#
# In the paper, scale 0 is the native image, with $l$ patches. The authors' code puts it last, and so does this library
# unless you choose the paper's conventions. It matters only for which row of the scale embedding a token gets.

# %%
E_p, _ = patch_embedding(y, params["patch_embedding"])
flat = y.reshape(4, -1)  # row, column, channel
by_hand = flat @ params["patch_embedding"]["kernel"] + params["patch_embedding"]["bias"]
print(f"features {y.shape} -> {flat.shape} -> tokens {by_hand.shape}")
np.testing.assert_allclose(by_hand, E_p, atol=1e-10)

# %%
order = tokens.scale_index
print("tokens of each scale, in the order of E_p:", np.bincount(order))
assert (np.diff(order) >= 0).all()
share = params["patch_embedding"]["kernel"].size / mq.complexity(config, image.shape[:2]).parameters
print(
    f"this one matrix is {params['patch_embedding']['kernel'].shape}: {share:.0%} of all parameters"
)

# %% [markdown]
# ## Which pixels does a feature see?
#
# Let the gradient tell: it is zero where a pixel has no influence. We send back a gradient from **one position** of the
# stem's output.

# %%
row, column = P // 8, P // 8  # near the middle
one = np.zeros_like(dy)
one[:, row, column] = dy[:, row, column]
seen = abs(stem_backward(one, kept)[0][0]).sum(axis=2)  # (P, P), the busiest patch
first = 4 * np.array([row, column]) - 6  # the window's corner: 4 pixels a step, 2 + 4 before
window = np.zeros((P, P), bool)
window[max(first[0], 0) : first[0] + 19, max(first[1], 0) : first[1] + 19] = True
share = seen[window].sum() / seen.sum()
print(f"inside 19×19: {share:.0%} of the influence, {window.mean():.0%} of the area")
assert seen[window].mean() > 2 * seen[~window].mean() > 0

# %%
figure, axis = plt.subplots(figsize=(4.6, 3.6))
shown = axis.imshow(np.log10(seen / seen.max() + 1e-12))
box = plt.Rectangle(first[::-1] - 0.5, 19, 19, fill=False, edgecolor="white", linewidth=2)
axis.add_patch(box)
axis.set(
    xlabel="column of pixels", ylabel="row of pixels", xlim=(-0.5, P - 0.5), ylim=(P - 0.5, -0.5)
)
axis.set_title("Who influences one feature")
figure.colorbar(shown, ax=axis, label=r"$\log_{10}$ of |gradient| / largest")
plt.show()

# %% [markdown]
# Convolutions and pooling alone see 19×19 pixels, the white frame (7 pixels by the root, 4 more by the pooling, 8 more
# by the 3×3 convolution, whose steps are 4 pixels wide). All around it is a faint rest: through the mean and variance
# of GroupNorm, **every** pixel of a patch has a say.

# %% [markdown]
# ## Exercises
#
# Each cell to fill in is followed by one that checks it. Until you do, it says so and the notebook goes on. Solutions
# are in `tutorials/solutions/04_stem.py`; try first.

# %% [markdown]
# ### Exercise 1: a convolution
#
# `padded` (N, h, w, I) already has its zeros. Return the convolution with `kernel` (k, k, I, O), (N, rows, columns, O),
# where `rows` and `columns` are given. Two loops, over the places $(a, b)$ in the window, are enough.
#
# <details><summary>Hint</summary>
#
# The place $(a, b)$ of all windows at once is `padded[:, a : a + rows * stride : stride, …]`, of shape (N, rows,
# columns, I). Times `kernel[a, b]`, (I, O), it is one summand. The kernel is not flipped, unlike a mathematician's
# convolution.
#
# </details>


# %% tags=["exercise-1"]
def my_convolution(padded, kernel, stride, rows, columns):
    return ...


# %% tags=["check-1"]
def check(my_convolution):
    rng = np.random.default_rng(1)
    for size, stride, (height, width) in ((3, 2, (5, 8)), (2, 1, (4, 3)), (1, 1, (2, 3))):
        x, kernel = (
            rng.standard_normal((2, height, width, 3)),
            rng.standard_normal((size, size, 3, 4)),
        )
        wanted, _ = convolution(x, kernel, stride)
        got = my_convolution(pad_same(x, size, stride), kernel, stride, *wanted.shape[1:3])
        assert np.shape(got) == wanted.shape, f"the shape is {np.shape(got)}, not {wanted.shape}"
        difference = abs(got - wanted).max()
        assert difference < 1e-10, (
            f"with a {size}×{size} kernel at stride {stride} it differs by up to {difference:.2g}"
        )


exercise(1, my_convolution, check)

# %% [markdown]
# ### Exercise 2: the backward of GroupNorm
#
# `cache` is what `group_norm` keeps: `xhat` (N, h, w, C), `rho` (N, 1, 1, C), equal for the channels of a group, `gamma` (C,), and the
# number of groups. `dy` is (N, h, w, C).
# Return `dx` (N, h, w, C), `dgamma` and `dbeta` (C,).
#
# <details><summary>Hint</summary>
#
# Multiply by `gamma` first. For the means, reshape to (N, h·w, G, C/G): a group lies along axes 1 and 3.
# `np.broadcast_to` brings the means, with `keepdims=True`, to every place, so that they can be reshaped back.
#
# </details>


# %% tags=["exercise-2"]
def my_group_norm_backward(dy, cache):
    xhat, rho, gamma, groups = cache
    dx, dgamma, dbeta = ..., ..., ...
    return dx, dgamma, dbeta


# %% tags=["check-2"]
def check(backward):
    rng = np.random.default_rng(2)
    x, gamma, beta = (
        rng.standard_normal((2, 3, 5, 6)),
        rng.standard_normal(6),
        rng.standard_normal(6),
    )
    verify.check_vjp(group_norm, backward, [x, gamma, beta, 1e-6, 2])  # ε, and 2 groups of 3


exercise(2, my_group_norm_backward, check)

# %% [markdown]
# ### Exercise 3: the backward of max-pooling
#
# One channel, no padding: `x` (h, w) was pooled by 3×3 windows at every second position, so `dy[i, j]` belongs to the
# window `x[2*i : 2*i + 3, 2*j : 2*j + 3]`. Return `dx`. Of several equal maxima, the first takes it.
#
# <details><summary>Hint</summary>
#
# `window.argmax()` is the first maximum, counted row by row; `np.unravel_index` makes a row and a column of it. Windows
# share a row or column of pixels.
#
# </details>


# %% tags=["exercise-3"]
def my_max_pool_backward(dy, x):
    return ...


# %% tags=["check-3"]
def check(backward):
    got = backward(np.array([[2.0]]), np.array([[1.0, 5, 5], [5, 0, 5], [1, 1, 1]]))
    wanted = np.array([[0.0, 2, 0], [0, 0, 0], [0, 0, 0]])
    assert np.array_equal(got, wanted), f"of four maxima the first takes it, but dx is {got}"

    def forward(x):
        rows, columns = ((n - 1) // 2 for n in x.shape)
        places = [(i, j) for i in range(rows) for j in range(columns)]
        pooled = [x[2 * i : 2 * i + 3, 2 * j : 2 * j + 3].max() for i, j in places]
        return np.reshape(pooled, (rows, columns)), x

    x = np.random.default_rng(3).standard_normal((7, 9))
    x[2, 4] = 5  # the winner of several windows
    verify.check_vjp(forward, backward, [x])


exercise(3, my_max_pool_backward, check)

# %% [markdown]
# ## In practice
#
# - **Ports fail here most often.** Padding (2, 3) against (3, 3), $\varepsilon$ of $10^{-6}$ after the root but
#   $10^{-4}$ in the bottleneck, the standard deviation with $n$ or $n-1$, features flattened by channel first: each
#   gives a model that runs and scores slightly wrong. Compare intermediates, not scores.
# - **Standardise once.** $\hat w$ does not depend on the image. A server computes it when it loads the model.
# - **Contrast.** If your application cares for flat, hazy pictures, do not expect the score to tell. Stretching a
#   photograph's contrast before scoring changes (almost) nothing, but clipping and 8-bit rounding do.
# - **Smooth patches are amplified.** GroupNorm brings the faint noise of an even sky to the same variance as a forest.
#   That is how noise in flat areas is noticed, and why strong compression, which leaves such areas *exactly* constant,
#   looks so different.
# - **Memory.** The root's output is the largest array of the forward: $P/2 \cdot P/2 \cdot 64$ numbers per patch. Take
#   the patches in chunks (chapter 13).

# %% [markdown]
# ## References
#
# - J. Ke, Q. Wang, Y. Wang, P. Milanfar, F. Yang: *MUSIQ: Multi-scale Image Quality Transformer*, ICCV 2021, section
#   3.2 and appendix A.
# - Y. Wu, K. He: *Group Normalization*, ECCV 2018.
# - S. Qiao, H. Wang, C. Liu, W. Shen, A. Yuille: *Micro-batch training with batch-channel normalization and weight
#   standardization*, 2019.
# - K. He, X. Zhang, S. Ren, J. Sun: *Deep residual learning for image recognition*, CVPR 2016: the bottleneck.
# - A. Kolesnikov et al.: *Big Transfer (BiT)*, ECCV 2020: the stem's ancestors.
# - The code: `musiq_ref/model/stem.py`, `musiq_ref/ops/convolution.py`, `musiq_ref/ops/group_norm.py`,
#   `musiq_ref/ops/weight_standardization.py`, `musiq_ref/ops/max_pool.py`.
