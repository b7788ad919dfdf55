# %% [markdown]
# # 04b · The stem, backward: what a patch owes to each of its pixels
#
# A convolution is many small windows that overlap; a norm ties every number to every other. How does one walk
# back through that? With two rules only: *what is used several times gets the sum*, and *what the forward ignores
# gets nothing*. The question of this chapter:
#
# > **One number leaves the stem. Which pixels of the patch had a say in it?**

# %% [markdown]
# ## What you will learn
#
# - to transpose a convolution: every number goes back to the pixels that it was read from, and is added there;
# - the backward of weight standardisation and of GroupNorm, derived from what the two ignore;
# - what a training step does to a kernel whose length does not count;
# - how max-pooling decides who gets the gradient, and which pixels one feature sees.

# %% [markdown]
# ## What you need
#
# About 55 minutes, exercises included; chapter 04; the backward of a linear layer and of LayerNorm (chapter 03).
# $\mathrm{d}x$ is the gradient of the score with respect to $x$: how much the score changes per unit of each
# number of $x$.

# %%
import matplotlib.pyplot as plt
import numpy as np

import musiq_ref as mq
from course import exercise, photograph, quiz, show
from musiq_ref import verify
from musiq_ref.image.tokenize import drop_padding
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
from musiq_ref.ops.max_pool import max_pool_backward
from musiq_ref.ops.weight_standardization import EPS, standardize, standardize_backward

# %% [markdown]
# ## The patch of 4×4 pixels, backward
#
# The toy of chapter 04: windows of 3×3 at every second pixel, each answering "left minus right" of its middle
# row, with a zero where it sticks out. There are four answers. Suppose that the score changes by 1, 10, 100 and
# 1000 per unit of them; these round numbers are $\mathrm{d}y$, and will show us who went where.
#
# The first answer is $x_{10} - x_{12}$ (row 1; columns 0 and 2). So $x_{10}$ gets $+1$ and $x_{12}$ gets $-1$.
# The second is $x_{12} - 0$: it gives $x_{12}$ another $+10$. Together $x_{12}$ has $-1+10 = 9$.

# %%
patch = np.array([[2, 2, 8, 8], [2, 2, 8, 8], [2, 2, 2, 2], [2, 2, 2, 2]], float)
left_minus_right = np.array([[0, 0, 0], [1, 0, -1], [0, 0, 0]], float)
y, cache = convolution(patch[None, :, :, None], left_minus_right[:, :, None, None], stride=2)
dy = np.array([[1, 10], [100, 1000]], float)
dx, _ = convolution_backward(dy[None, :, :, None], cache)
dx = dx[0, :, :, 0]
print(dx)
assert np.array_equal(dx[1], [1, 0, -1 + 10, 0])
assert np.array_equal(dx[3], [100, 0, -100 + 1000, 0])

# %%
figure, axes = plt.subplots(1, 2, figsize=(7, 3.2), width_ratios=[2, 4])
for axis, numbers, title in ((axes[0], dy, "dy"), (axes[1], dx, "dx")):
    axis.imshow(np.zeros_like(numbers), cmap="Greys")
    for (i, j), value in np.ndenumerate(numbers):
        axis.text(j, i, f"{value:g}", ha="center", va="center", fontsize=12)
    axis.set(xticks=[], yticks=[], title=title)
    axis.spines[:].set_visible(False)
for column, style in ((0, "-"), (2, "--")):
    box = plt.Rectangle((column - 0.45, -0.45), 2.9, 2.9, fill=False, linestyle=style, linewidth=2)
    axes[1].add_patch(box)
axes[1].add_patch(plt.Circle((2, 1), 0.3, fill=False, linewidth=2))
axes[1].set_xlim(-0.6, 5)
plt.show()

# %% [markdown]
# The circled pixel lies in both windows, so it gets a share from each. Pixels that no window weighs get 0, and
# what the second window would give to the zero beside the patch is dropped: there is no pixel.
#
# Then the norm. The answers $-6, 8, 0, 2$ have mean 1 and standard deviation 5; normalised they are $\hat x =
# (-1.4, 1.4, -0.2, 0.2)$. Ask only for the first: $\mathrm{d}\hat x = (1, 0, 0, 0)$. Raising *all four* answers
# would change nothing, so the mean, 0.25, is taken off. *Stretching* them would change nothing, so the part along
# $\hat x$ is taken off, too. Divided by 5, what remains is

# %%
x_hat = np.array([-1.4, 1.4, -0.2, 0.2])
d = np.array([1.0, 0, 0, 0])
by_hand = (d - 0.25 - x_hat * (-1.4 / 4)) / 5
print(by_hand, " sum:", round(by_hand.sum(), 12), " along x̂:", round(by_hand @ x_hat, 12))
np.testing.assert_allclose(by_hand, [0.052, 0.048, -0.064, -0.036])

one, zero = np.ones(1), np.zeros(1)
_, cache = group_norm(np.reshape([-6.0, 8, 0, 2], (1, 2, 2, 1)), one, zero, 0.0, 1)
theirs, _, _ = group_norm_backward(d.reshape(1, 2, 2, 1), cache)
np.testing.assert_allclose(theirs.ravel(), by_hand, atol=1e-12)

# %% [markdown]
# We asked for one answer, and all four have a gradient. Remember that when we come back to our question.

# %% [markdown]
# ## The stem of the model
#
# Four patches again, forward and backward, keeping everything through taps (functions that are shown each
# intermediate, or, backward, the gradient with respect to it, under the same name). In place of what the rest of
# the model would send back we take random numbers: such a $\mathrm{d}y$ from outside is called a **cotangent**,
# and a backward must be right for any.

# %%
checkpoint = mq.load_checkpoint("demo", dtype="float64")
params, config = checkpoint.params, checkpoint.config
tokens = drop_padding(mq.tokenize(photograph("coffee", longer_side=256), config))
spread = tokens.patches.std(axis=(1, 2, 3))
chosen = [int(spread.argmax()), int(spread.argmin()), 0, len(spread) // 2]
patches = tokens.patches[chosen].astype("float64")  # (4, P, P, 3)

values, gradients = {}, {}
P, p = config.patch_size, params["stem"]
y, kept = stem(patches, p, config.conventions, tap=lambda name, x: values.setdefault(name, x))
dy = np.random.default_rng(0).standard_normal(y.shape)
dpatches, dparams = stem_backward(dy, kept, tap=lambda name, dx: gradients.setdefault(name, dx))
print("dy", dy.shape, " dpatches", dpatches.shape)
assert all(gradients[name].shape == values[name].shape for name in gradients)

# %% [markdown]
# ## Convolution
#
# Forward it is rows times kernels (chapter 04). For the product alone it is a linear layer:
# $\mathrm{d}\hat{\mathbf{W}} = \text{rows}^T\,\mathrm{d}\mathbf{Y}$, and $\mathrm{d}\text{rows} =
# \mathrm{d}\mathbf{Y}\,\hat{\mathbf{W}}^T$. And as in the toy, each number of $\mathrm{d}\text{rows}$
# is **added** to the pixel that it was read from. What lands on the padding is dropped.

# %%
show(convolution_backward)

# %%
padded = pad_same(patches, 7, 2)
kernel = values["conv_root/standardized"]  # (7, 7, 3, 64)
columns = windows(padded, 7, 2)  # (4, P/2, P/2, 7, 7, 3)
rows, dconv = columns.reshape(-1, 7 * 7 * 3), gradients["conv_root"].reshape(-1, 64)
dkernel = (rows.T @ dconv).reshape(kernel.shape)
np.testing.assert_allclose(dkernel, gradients["conv_root/standardized"], rtol=1e-9, atol=1e-9)

drows = (dconv @ kernel.reshape(-1, 64).T).reshape(columns.shape)
dpadded = np.zeros_like(padded)
for i in range(columns.shape[1]):
    for j in range(columns.shape[2]):
        dpadded[:, 2 * i : 2 * i + 7, 2 * j : 2 * j + 7] += drows[:, i, j]
before = same_padding(P, 7, 2)[0]
inside = slice(before, before + P)
largest = abs(dpatches).max()
np.testing.assert_allclose(dpadded[:, inside, inside], dpatches, rtol=0, atol=1e-10 * largest)

# %% [markdown]
# ## Weight standardisation
#
# $$\begin{aligned} \hat w &= \frac{c}{\sigma + \varepsilon} \\ c &= w - \frac1n\sum w \\ \sigma &= \sqrt{\tfrac1n\textstyle\sum c^2} \end{aligned}$$
#
# From the last operation to the first. The quotient: $\mathrm{d}c = \mathrm{d}\hat w/(\sigma+\varepsilon)$ and
# $\mathrm{d}\sigma = -\sum \mathrm{d}\hat w\,c/(\sigma+\varepsilon)^2$. The root, $\partial\sigma/\partial c =
# c/(n\sigma)$, adds $\mathrm{d}\sigma\,c/(n\sigma)$ to $\mathrm{d}c$, since $c$ is used twice. Subtracting the
# mean subtracts it from the gradient as well: $\mathrm{d}w = \mathrm{d}c - \text{mean}(\mathrm{d}c)$.

# %%
show(standardize_backward)

# %%
w = p["conv_root"]["kernel"]
axes = (0, 1, 2)
n = 7 * 7 * 3 - config.conventions.weight_std_ddof  # pyiqa divides by n − 1
c = w - w.mean(axis=axes)
sigma = np.sqrt((c * c).sum(axis=axes) / n)  # (64,)
dw_hat = gradients["conv_root/standardized"]
dsigma = -(dw_hat * c).sum(axis=axes) / (sigma + EPS) ** 2
dc = dw_hat / (sigma + EPS) + dsigma * c / (n * sigma)
dw = dc - dc.mean(axis=axes)
theirs = dparams["conv_root"]["kernel"]
np.testing.assert_allclose(dw, theirs, rtol=0, atol=1e-10 * abs(theirs).max())

# %% [markdown]
# What the forward ignores has no gradient: $\mathrm{d}w$ has no mean, and (but for $\varepsilon$) no part along
# $c$. The gradient is **perpendicular** to the kernel. Does a training step then only turn it? Nearly. A step
# sideways ends a little farther from the centre: $|c - \eta\,\mathrm{d}w|^2 = |c|^2 +
# \eta^2|\mathrm{d}w|^2$, by Pythagoras.

# %%
lengths = np.sqrt((c * c).sum(axis=axes))  # (64,)
along = abs((dw * c).sum(axis=axes)) / np.sqrt((dw * dw).sum(axis=axes)) / lengths
print(f"largest cosine between dw and c: {along.max():.1e}")
assert abs(dw.sum(axis=axes)).max() < 1e-9 * abs(dw).max()
assert along.max() < 0.1

sideways = dw / np.sqrt((dw * dw).sum(axis=axes)) * lengths  # as long as the kernel
for share in (0.1, 0.5, 1.0):
    longer = np.sqrt(((c - share * sideways) ** 2).sum(axis=axes)) / lengths
    print(f"a step of {share:.0%} of its length makes a kernel {longer.mean():.4f} times as long")
    np.testing.assert_allclose(longer, np.sqrt(1 + share**2), rtol=0.1)

# %% [markdown]
# Its length does not matter to $\hat w$. But it matters to the *next* step: of a longer kernel, the same step
# turns less, and the gradient with respect to it is smaller, too. Without weight decay such kernels grow step by
# step and turn more and more slowly. Weight decay, which shortens them, keeps them quick; that is its effect
# here, and not "smaller weights".

# %%
_, cache = standardize(2 * w, config.conventions.weight_std_ddof)
of_doubled = standardize_backward(dw_hat, cache)
ratio = np.linalg.norm(dw) / np.linalg.norm(of_doubled)
print(f"for a kernel twice as long, the gradient is {ratio:.2f} times smaller")
assert 1.7 < ratio < 2.3

# %% [markdown]
# ## GroupNorm
#
# It is LayerNorm's backward of chapter 03, with "row" replaced by "group". Let $\mathrm{d}\hat x =
# \gamma\,\mathrm{d}y$, and $\rho = (\sigma^2 + \varepsilon)^{-1/2}$. Directly, $x$ gets $\rho\,\mathrm{d}\hat x$.
# Raising all of the group raises $\mu$ as much, and nothing happens: so the mean of $\mathrm{d}\hat x$ does not
# count. Stretching the group around its mean is undone by $\rho$: so what lies along $\hat x$ does not count
# either. What is left is what you computed by hand in the toy:
#
# $$\begin{aligned} \mathrm{d}x &= \rho\,\big(\mathrm{d}\hat x - \text{mean}(\mathrm{d}\hat x) - \hat x\,\text{mean}(\mathrm{d}\hat x\,\hat x)\big) \\ \mathrm{d}\gamma &= \sum \mathrm{d}y\,\hat x \\ \mathrm{d}\beta &= \sum \mathrm{d}y \end{aligned}$$

# %%
x = values["conv_root"]  # (4, P/2, P/2, 64)
size = x.shape[-1] // GROUPS
g = 5  # one group of the busiest patch
channels = slice(g * size, (g + 1) * size)
group = x[0, :, :, channels]
rho = 1 / np.sqrt(group.var() + ROOT_EPS)
xhat = (group - group.mean()) * rho
dxhat = gradients["gn_root"][0, :, :, channels] * p["gn_root"]["scale"][channels]
dx = rho * (dxhat - dxhat.mean() - xhat * (dxhat * xhat).mean())
theirs = gradients["conv_root"][0, :, :, channels]
np.testing.assert_allclose(dx, theirs, rtol=0, atol=1e-9 * abs(theirs).max())
print(f"Σ dx = {dx.sum():.1e},  Σ dx·x̂ = {(dx * xhat).sum():.1e},  Σ |dx| = {abs(dx).sum():.1e}")

# %% [markdown]
# ## ReLU and max-pooling
#
# ReLU lets the gradient pass where its output is above 0. For max-pooling **the winner takes it all**: only the
# largest number of a window decides, so only it gets the gradient, and a number that wins several windows gets
# the sum of theirs.

# %%
show(max_pool_backward)

# %%
x, pooled = values["relu_root"], values["pool"]
dx = np.zeros_like(x)
for i, j, c in np.ndindex(pooled.shape[1:]):  # the busiest patch; no padding before, 1 after
    window = x[0, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3, c]
    a, b = np.unravel_index(window.argmax(), window.shape)
    dx[0, 2 * i + a, 2 * j + b, c] += gradients["pool"][0, i, j, c]
np.testing.assert_allclose(dx[0], gradients["relu_root"][0], atol=1e-12 * abs(dx).max())
print(f"{(dx[0] != 0).mean():.0%} of the positions have a gradient")

# %% [markdown]
# Two equal maxima? The library chooses the first; other programs may share or choose the last. After a ReLU there
# can be windows of nothing but zeros, all tied, but there the choice does not matter: the ReLU lets no gradient
# through where its output is 0.

# %%
tied = (windows(np.pad(x, ((0, 0), (0, 1), (0, 1), (0, 0))), 3, 2) == 0).all(axis=(3, 4))
print(f"{tied.mean():.0%} of the windows hold only zeros")
through = relu_backward(gradients["relu_root"], x)
assert abs(through[x == 0]).max() == 0
np.testing.assert_array_equal(through, gradients["gn_root"])

# %% [markdown]
# ## Which pixels does a feature see?
#
# Now the question. We send back a gradient from **one position** of the stem's output, the first, which belongs
# to the upper left corner. Where a pixel has no influence, its gradient is zero.
#
# What do we expect? By convolution and pooling alone, the root sees 7×7 pixels; a window of 3×3 of its outputs,
# which are 2 pixels apart, sees 4 more; and one of 3×3 of the pooled numbers, which are 4 pixels apart, 8 more:
# 19×19. The window of the first position begins 6 pixels outside the patch, so 13×13 are left of it. The shortcut has no
# 3×3 and stops at 11×11, which begin 2 pixels outside: 9×9 are left of them, and these have two ways to the feature.

# %%
corner = np.zeros_like(dy)
corner[0, 0, 0] = dy[0, 0, 0]  # of the busiest patch
to_patches, _ = stem_backward(corner, kept)
assert abs(to_patches[1:]).max() == 0  # the other patches have no say
seen = abs(to_patches[0]).sum(axis=2)  # (P, P)
reach = 19 - (2 + 4)  # 2 before by the root; 1 before, 4 pixels wide, by the 3×3 of the bottleneck
window, nearest = np.zeros((2, P, P), bool)
window[:reach, :reach], nearest[:9, :9] = True, True
near, other, outside = (seen[m].mean() for m in (nearest, window & ~nearest, ~window))
print(
    f"a pixel inside 9×9 counts {near / outside:.1f} times as much as one outside {reach}×{reach},"
)
print(f"another inside {reach}×{reach} {other / outside:.1f} times")
print(f"pixels without any influence: {(seen == 0).sum()}")
assert near > other > outside

# %%
figure, axis = plt.subplots(figsize=(4.8, 3.8))
shown = axis.imshow(np.log10(seen / seen.max() + 1e-12), extent=(0, P, P, 0))
box = plt.Rectangle((0, 0), reach, reach, fill=False, edgecolor="white", linewidth=3)
axis.add_patch(box)
axis.set(xlabel="column of pixels", ylabel="row of pixels")
axis.locator_params(integer=True)
axis.set_title("Who influences the feature of the corner")
figure.colorbar(shown, ax=axis, label=r"$\log_{10}$ of |gradient| / largest")
plt.show()
assert (seen > 0).all()

# %% [markdown]
# **The answer.** The pixels next to the corner have the most to say, then the others in the white frame. But even
# outside it no pixel is silent: through the mean and the variance of its groups, *every* pixel of the patch has a
# say, as the four numbers of the toy all had a gradient. And no pixel of any other patch has one: between patches,
# the stem passes nothing.

# %% [markdown]
# ## Exercises
#
# Each cell to fill in is followed by one that checks it. Until you do, it says so and the notebook goes on.
# Solutions are in `tutorials/solutions/04b_stem_backward.py`; try first.

# %% [markdown]
# ### Exercise 1: the backward of GroupNorm (★★★, 15 minutes)
#
# `cache` is what `group_norm` keeps: `xhat` (N, h, w, C), `rho` (N, 1, 1, C), equal for the channels of a group,
# `gamma` (C,), and the number of groups. `dy` is (N, h, w, C). Return `dx` (N, h, w, C), `dgamma` and `dbeta`
# (C,).
#
# <details><summary>Hint</summary>
#
# Multiply by `gamma` first. For the means, reshape to (N, h·w, G, C/G): a group lies along axes 1 and 3.
# `np.broadcast_to` brings the means, with `keepdims=True`, to every place, so that they can be reshaped back.
#
# </details>


# %% tags=["exercise-1"]
def my_group_norm_backward(dy, cache):
    xhat, rho, gamma, groups = cache
    dx, dgamma, dbeta = ..., ..., ...
    return dx, dgamma, dbeta


# %% tags=["check-1"]
def check(backward):
    rng = np.random.default_rng(2)
    x = rng.standard_normal((2, 3, 5, 6))
    gamma, beta = rng.standard_normal(6), rng.standard_normal(6)
    verify.check_vjp(group_norm, backward, [x, gamma, beta, 1e-6, 2])  # ε, and 2 groups of 3


exercise(1, my_group_norm_backward, check)

# %% [markdown]
# ### Exercise 2: the backward of max-pooling (★★, 10 minutes)
#
# One channel, no padding: `x` (h, w) was pooled by 3×3 windows at every second position, so `dy[i, j]` belongs to
# the window `x[2*i : 2*i + 3, 2*j : 2*j + 3]`. Return `dx`. Of several equal maxima, the first takes it.
#
# <details><summary>Hint</summary>
#
# `window.argmax()` is the first maximum, counted row by row; `np.unravel_index` makes a row and a column of it.
# Windows share a row or column of pixels.
#
# </details>


# %% tags=["exercise-2"]
def my_max_pool_backward(dy, x):
    return ...


# %% tags=["check-2"]
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


exercise(2, my_max_pool_backward, check)

# %% [markdown]
# ## Quiz

# %%
quiz("04b")

# %% [markdown]
# ## In practice
#
# - **Ask only for what you use.** Training needs no gradient with respect to the pixels, a map of the pixels
#   needs none with respect to the kernels, and a frozen stem needs no backward at all. `stem_backward` leaves out
#   what is not wanted.
# - **Weight decay and norms.** Where a norm follows, decay does not make the function simpler. It sets how fast
#   kernels turn. Many recipes leave $\gamma$ and $\beta$ out of it.
# - **Ties** show up when a port is compared: on flat pictures many numbers are equal, and two programs may send
#   the gradient to different pixels, both rightly. Compare gradients on pictures with some noise.
# - **Adding in a fixed order.** Overlapping windows are sums, and on a GPU the order of atomic additions changes
#   from run to run; so do the last digits of the gradient.

# %% [markdown]
# ## References
#
# - Y. Wu, K. He: *Group Normalization*, ECCV 2018.
# - S. Qiao, H. Wang, C. Liu, W. Shen, A. Yuille: *Micro-batch training with batch-channel normalization and
#   weight standardization*, 2019.
# - T. van Laarhoven: *L2 regularization versus batch and weight normalization*, 2017: why a kernel's length sets
#   its learning rate.
# - W. Luo, Y. Li, R. Urtasun, R. Zemel: *Understanding the effective receptive field in deep convolutional neural
#   networks*, NeurIPS 2016.
# - The code: `musiq_ref/model/stem.py`, `musiq_ref/ops/convolution.py`, `musiq_ref/ops/group_norm.py`,
#   `musiq_ref/ops/weight_standardization.py`, `musiq_ref/ops/max_pool.py`.
