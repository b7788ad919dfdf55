# %% [markdown]
# # 03 · Gradients by hand: linear, GELU, LayerNorm
#
# A gradient answers one question for millions of numbers at once, and it is the question of this chapter: **if this number
# in the middle of the network were a little larger, how would the score move?** Frameworks compute the answer behind your
# back. Here you derive it with a pencil, for the three layers that make up most of MUSIQ.

# %% [markdown]
# ## What you will learn
#
# - to follow a gradient backwards through three tokens, on paper;
# - what a *backward* is, and why it takes `dy` and never a Jacobian;
# - to derive the backward of a linear layer, of GELU and of LayerNorm, and to read each as a sentence;
# - to do all that on the real model's numbers.

# %% [markdown]
# ## What you need
#
# About 60 minutes, of which the exercises take 28; the derivative of a function of one variable, the chain rule, matrix
# products. Tokens (chapters 01 and 02) only as "rows of numbers".

# %%
import math

import matplotlib.pyplot as plt
import numpy as np

import musiq_ref as mq
from course import exercise, photograph, quiz, show
from musiq_ref import verify
from musiq_ref.image.tokenize import Tokens, drop_padding
from musiq_ref.ops.activation import gelu_erf, gelu_erf_backward, gelu_tanh, gelu_tanh_backward
from musiq_ref.ops.layer_norm import layer_norm, layer_norm_backward
from musiq_ref.ops.linear import linear, linear_backward

# %% [markdown]
# ## Three tokens
#
# Three tokens of two numbers each, the rows of $\mathbf{x}$, go through a linear layer, $\mathbf{y} = \mathbf{x}\mathbf{W}$. The final
# number is $s = y_{00} + 2\,y_{11} + y_{20}$. So we know how $s$ changes with $\mathbf{y}$, the gradient $\mathrm{d}\mathbf{y}$: it is 1, 2
# and 1 in these three places, and 0 elsewhere.

# %%
x = np.array([[1, 0], [0, 1], [1, 1]])
W = np.array([[1, 2], [3, 4]])
dy = np.array([[1, 0], [0, 2], [1, 0]])
y = x @ W
s = (dy * y).sum()
print("y:", y.tolist(), "  s =", s)
assert s == 1 + 2 * 4 + 4

# %% [markdown]
# How would $s$ move if one number were larger by 1? On paper:
#
# - $x_{10}$, now 0: row 1 of $\mathbf{y}$ gains row 0 of $\mathbf{W}$, which is $(1, 2)$. Only $y_{11}$ counts there, twice. So $s$ gains
#   $2 \cdot 2 = 4$.
# - $W_{00}$, now 1: tokens 0 and 2 have a 1 in front of it, so $y_{00}$ and $y_{20}$ gain 1 each. Each counts once, so $s$ gains 2.
#
# Doing this for every number gives two arrays, $\mathrm{d}\mathbf{x}$ and $\mathrm{d}\mathbf{W}$. Let the computer do it, one nudge at a
# time:


# %%
def by_nudging(array, final):
    """How final() changes when each number of the array is raised by 1."""
    gradient = np.zeros_like(array)
    for index in np.ndindex(*array.shape):
        before = final()
        array[index] += 1
        gradient[index] = final() - before
        array[index] -= 1
    return gradient


dx = by_nudging(x, lambda: (dy * (x @ W)).sum())
dW = by_nudging(W, lambda: (dy * (x @ W)).sum())
print("dx:", dx.tolist(), "  dW:", dW.tolist())
assert dx[1, 0] == 4
assert dW[0, 0] == 2

# %%
figure, axes = plt.subplots(1, 3, figsize=(9, 3), width_ratios=[1, 1, 1])
pairs = {"x: three tokens": (x, dx), "W": (W, dW), "y = x W": (y, dy)}
for axis, (title, (value, gradient)) in zip(axes, pairs.items(), strict=True):
    axis.imshow(np.zeros(value.shape), cmap="gray_r", vmin=0, vmax=1, aspect="auto")
    for (i, j), number in np.ndenumerate(value):
        axis.text(j, i - 0.15, number, ha="center", va="center", fontsize=15)
        text = f"gradient {gradient[i, j]}"
        axis.text(j, i + 0.22, text, ha="center", va="center", color="C5", fontsize=10)
    axis.set(title=title, xticks=[0.5], yticks=np.arange(0.5, len(value) - 1))
    axis.tick_params(length=0, labelbottom=False, labelleft=False)
    axis.grid(color="0.6")
    axis.spines[:].set_visible(True)
plt.show()

# %% [markdown]
# The numbers run forward, from left to right; the gradients run back. Each number has one gradient, so the arrays have the
# same shape. And there is a shortcut, much cheaper than nudging. Both arrays are matrix products:

# %%
assert (dx == dy @ W.T).all()
assert (dW == x.T @ dy).all()

# %% [markdown]
# Why these two, we will see below. First, what all this means in a real model.

# %% [markdown]
# ## What a gradient says
#
# We take the bundled model and, to be quick, only the first 24 tokens of a photograph. The tokens pass several *blocks*,
# each of which ends with an *MLP*: two linear layers with a GELU between them. `verify.trace` runs the model forward and
# backward and keeps every intermediate and its gradient, under the same name. The final number is the first *logit*, what
# the last layer puts out: the score, or a part of it.

# %%
checkpoint = mq.load_checkpoint("demo", dtype="float64")
params, config = checkpoint.params, checkpoint.config
tokens = drop_padding(mq.tokenize(photograph("coffee", longer_side=128), config))
tokens = mq.batch([Tokens(*(array[:24] for array in tokens))])
dlogits = np.zeros((1, config.outputs))
dlogits[0, 0] = 1  # the one number whose gradient we want: the first logit
values, gradients = verify.trace(params, tokens, config, dlogits)

# %%
name = "encoder/block_00/norm2"  # what enters the MLP of the first block
print("values:", values[name].shape, " gradient:", gradients[name].shape)
print(f"value {values[name][0, 3, 5]:+.6f}, its gradient {gradients[name][0, 3, 5]:+.6f}")
assert values[name].shape == gradients[name].shape

# %% [markdown]
# We write $\mathrm{d}x$ for the gradient of the one final number with respect to $x$. What does it mean? Nudge a value, run
# the model again, and compare. A *tap*, a function that the forward calls with the name and value of every intermediate,
# may replace any of them.


# %%
def logit_when(change):
    """The first logit when `change` is added to that intermediate."""

    def tap(at, array):
        return array + change if at == name else array

    return mq.forward(params, tokens, config, tap=tap)[0][0, 0]


nudge = np.zeros_like(values[name])
nudge[0, 3, 5] = 1e-4
moved = (logit_when(nudge) - logit_when(-nudge)) / 2e-4
print(f"by nudging: {moved:+.9f};  by the backward: {gradients[name][0, 3, 5]:+.9f}")
np.testing.assert_allclose(moved, gradients[name][0, 3, 5], rtol=1e-5, atol=1e-8)

# %% [markdown]
# Two runs of the model for one number. The backward gave all of them in one run, for a few times the price of a forward:

# %%
print(f"{sum(g.size for g in gradients.values()):,} gradients from one backward")

# %% [markdown]
# It does so layer by layer, from the last to the first. Each layer is asked one question: *given how the final number
# changes with your outputs, how does it change with your inputs?* Its **backward** gets $\mathrm{d}y$ and returns
# $\mathrm{d}x$. By the chain rule
#
# $$\mathrm{d}x_j = \sum_k \mathrm{d}y_k \, \frac{\partial y_k}{\partial x_j}$$
#
# The matrix of all $\partial y_k / \partial x_j$ is the Jacobian. A layer with 100,000 numbers in and out would have
# one of $10^{10}$ entries. No program builds it: for each kind of layer the sum can be worked out once, on paper. (Others
# call $\mathrm{d}y$ a *cotangent* and the sum a *vector–Jacobian product*, VJP.)

# %% [markdown]
# ## Linear
#
# Now the toy's shortcut, for any sizes, and with a bias: $y_o = \sum_i x_i W_{io} + b_o$. Ask for each letter in turn where
# it occurs:
#
# - $x_i$ occurs in every output $o$, with factor $W_{io}$. So $\mathrm{d}x_i = \sum_o \mathrm{d}y_o W_{io}$, which is
#   $\mathrm{d}\mathbf{x} = \mathrm{d}\mathbf{y}\,\mathbf{W}^T$.
# - $W_{io}$ occurs in one output, with factor $x_i$. So $\mathrm{d}W_{io} = x_i\,\mathrm{d}y_o$.
# - $b_o$ occurs in one output, with factor 1. So $\mathrm{d}b_o = \mathrm{d}y_o$.
#
# $\mathbf{W}$ and $\mathbf{b}$ serve every row (token). What is used several times collects a **sum**:
# $\mathrm{d}\mathbf{W} = \sum_{rows} \mathbf{x}^T \mathrm{d}\mathbf{y}$ and
# $\mathrm{d}\mathbf{b} = \sum_{rows} \mathrm{d}\mathbf{y}$. With loops, slowly:

# %%
rng = np.random.default_rng(0)
R, I, O = 3, 4, 5  # rows, inputs, outputs: all different, so that a mix-up shows
x, W, b = rng.standard_normal((R, I)), rng.standard_normal((I, O)), rng.standard_normal(O)
dy = rng.standard_normal((R, O))

dx, dW, db = np.zeros((R, I)), np.zeros((I, O)), np.zeros(O)
for r in range(R):
    for o in range(O):
        db[o] += dy[r, o]
        for i in range(I):
            dx[r, i] += dy[r, o] * W[i, o]
            dW[i, o] += x[r, i] * dy[r, o]

# %% [markdown]
# And as the library has it. Each forward returns its result and a *cache*, what its backward will need:

# %%
show(linear, linear_backward)
_, cache = linear(x, W, b)
for mine, theirs in zip((dx, dW, db), linear_backward(dy, cache), strict=True):
    print(theirs.shape)
    np.testing.assert_allclose(mine, theirs, rtol=1e-12)

# %% [markdown]
# Shapes are half of the derivation: $\mathrm{d}\mathbf{W}$ must be $(I, O)$, and from $(R, I)$ and $(R, O)$ there is
# one way to get it. Now the real layer: the first of the MLP in block 0.

# %%
p = params["encoder"]["block_00"]["mlp"]
block = "encoder/block_00"
dhidden = gradients[f"{block}/mlp/fc1"]
print("fc1: dy", dhidden.shape, "times Wᵀ", p["fc1"]["kernel"].T.shape)
by_hand = dhidden @ p["fc1"]["kernel"].T
np.testing.assert_allclose(by_hand, gradients[f"{block}/norm2"], rtol=1e-9, atol=1e-12)

# %% [markdown]
# ## GELU
#
# Without something bent between them, two linear layers are one. MUSIQ's MLP bends with GELU, which lets large positive
# numbers through, holds back negative ones, and changes smoothly from one to the other: $y = x\,\Phi(x)$, where
# $\Phi$ is the distribution function of the standard normal. It works on each number alone, so its Jacobian is diagonal
# and the sum has a single term: $\mathrm{d}x = \mathrm{d}y \cdot y'(x)$. By the product rule, with the density
# $\varphi = \Phi'$:
#
# $$\begin{aligned} y' &= \Phi(x) + x\,\varphi(x) \\ \varphi(x) &= e^{-x^2/2} / \sqrt{2\pi} \end{aligned}$$
#
# The authors' program computes an approximation, $y = \frac{x}{2}(1 + \tanh u)$ with
# $u = \sqrt{2/\pi}\,(x + 0.044715\,x^3)$. Product rule and chain rule, with $\tanh' = 1 - \tanh^2$ and $t = \tanh u$:
#
# $$\begin{aligned} y' &= \tfrac{1}{2}(1 + t) + \tfrac{x}{2}(1 - t^2)\,u' \\ u' &= \sqrt{2/\pi}\,(1 + 3 \cdot 0.044715\,x^2) \end{aligned}$$

# %%
x = np.linspace(-4, 4, 401)
ones = np.ones_like(x)  # dy = 1 everywhere: dx is then the derivative itself
slopes = {
    "tanh form": gelu_tanh_backward(ones, gelu_tanh(x)[1]),
    "exact": gelu_erf_backward(ones, gelu_erf(x)[1]),
}
figure, axes = plt.subplots(1, 2, figsize=(9, 3))
axes[0].plot(x, gelu_tanh(x)[0], label="y")
axes[0].plot(x, slopes["tanh form"], "--", label="y′, what the backward multiplies by")
axes[0].axhline(1, color="0.6", linewidth=0.8)
axes[0].set(xlabel="x", title="GELU")
axes[0].legend()
axes[1].plot(x, gelu_tanh(x)[0] - gelu_erf(x)[0], label="y")
axes[1].plot(x, slopes["tanh form"] - slopes["exact"], "--", label="y′")
axes[1].set(xlabel="x", title="tanh form minus exact")
axes[1].legend()
plt.show()
slope = slopes["exact"]
print(f"slope at −0.5: {np.interp(-0.5, x, slope):+.3f}; the largest: {slope.max():.2f}")
negative = x[slope < 0]
print(f"the slope is negative from x = {negative.max():.2f} downwards")
assert 1.1 < slope.max() < 1.2
assert -0.8 < negative.max() < -0.7
assert len(negative) == (x <= negative.max()).sum()  # everywhere below, and nowhere above

# %% [markdown]
# Two things to see on the left. A gradient may *grow* on its way back, since the slope exceeds 1. And below about $-0.75$ the
# slope is negative: there a gradient comes out with the other sign. Just left of 0 it is still positive. On the right: the
# two forms and their slopes differ by less than 0.001. Remember that when we check gradients in chapter 03b.

# %%
apart = abs(slopes["tanh form"] - slopes["exact"]).max()
print(f"largest difference of the slopes: {apart:.1e}")
assert apart < 1e-3
hidden = values[f"{block}/mlp/fc1"]
backward = {"tanh": gelu_tanh_backward, "erf": gelu_erf_backward}[config.conventions.gelu]
np.testing.assert_allclose(
    backward(gradients[f"{block}/mlp/gelu"], hidden), dhidden, rtol=1e-9, atol=1e-12
)

# %% [markdown]
# ## LayerNorm
#
# Every token is shifted to mean 0, scaled to variance 1, then stretched and shifted by learned $\gamma$ and $\beta$:
#
# $$\begin{aligned} \hat x_k &= (x_k - \mu)\,\rho \\ \rho &= (\sigma^2 + \epsilon)^{-1/2} \\ y_k &= \gamma_k \hat x_k + \beta_k \end{aligned}$$
#
# By hand, for the token $(1, 1, 3, 3)$, with $\gamma = 1$, $\beta = 0$ and a negligible $\epsilon$: $\mu = 2$, $\sigma^2 = 1$,
# $\hat x = (-1, -1, 1, 1)$. Raise the first number by 0.1, and its output rises by half as much only, while the second,
# which nobody touched, falls: mean and variance have moved for all. (For the last two, the two effects cancel.)

# %%
token, ones4, zeros4 = np.array([1.0, 1, 3, 3]), np.ones(4), np.zeros(4)
xhat, cache4 = layer_norm(token, ones4, zeros4)
raised, _ = layer_norm(token + np.array([0.1, 0, 0, 0]), ones4, zeros4)
print("x̂ =", xhat.round(3), " after the nudge", raised.round(3))
np.testing.assert_allclose(raised - xhat, [0.05, -0.05, 0, 0], atol=3e-3)

# %% [markdown]
# That makes it the hard one: every $x_j$ is in every output, through $\mu$ and $\sigma^2$. Step by step, for a token of
# $D$ numbers:
#
# 1. $\partial\mu / \partial x_j = 1/D$.
# 2. $\partial\sigma^2 / \partial x_j = 2(x_j - \mu)/D$; the shift of $\mu$ itself adds nothing, since the
#    differences from the mean sum to 0.
# 3. $\partial\rho / \partial x_j = -\tfrac{1}{2}\rho^3 \cdot 2(x_j - \mu)/D = -\rho^2\,\hat x_j / D$.
# 4. So, by the product rule,
#    $\dfrac{\partial \hat x_k}{\partial x_j} = \rho\,\Big(\delta_{kj} - \dfrac{1}{D} - \dfrac{\hat x_k \hat x_j}{D}\Big)$,
#    where $\delta_{kj}$ is 1 if $k = j$, else 0.
# 5. Sum against $\mathrm{d}\hat x_k = \mathrm{d}y_k\,\gamma_k$:
#
# $$\mathrm{d}x_j = \rho\,\big(\mathrm{d}\hat x_j - \text{mean}(\mathrm{d}\hat x) - \hat x_j\,\text{mean}(\mathrm{d}\hat x \cdot \hat x)\big)$$
#
# and $\mathrm{d}\gamma = \sum \mathrm{d}y\,\hat x$, $\mathrm{d}\beta = \sum \mathrm{d}y$ over all tokens, as in the
# linear layer.
#
# On the token above, with $\mathrm{d}y = (4, 0, 0, 0)$: the mean of $\mathrm{d}\hat x$ is 1, the mean of
# $\mathrm{d}\hat x \cdot \hat x$ is $-1$, so $\mathrm{d}x = (4, 0, 0, 0) - (1, 1, 1, 1) + (-1, -1, 1, 1) = (2, -2, 0, 0)$.

# %%
dtoken, _, _ = layer_norm_backward(np.array([4.0, 0, 0, 0]), cache4)
print("dx =", dtoken.round(3))
np.testing.assert_allclose(dtoken, [2, -2, 0, 0], atol=1e-4)
show(layer_norm, layer_norm_backward)

# %% [markdown]
# ### Optional: the Jacobian, drawn
#
# Is step 4 right? For $D = 8$ the Jacobian is small enough to build by nudging each input, column by column:

# %%
D = 8
x = rng.standard_normal(D)
one, zero = np.ones(D), np.zeros(D)
_, (xhat, rho, _) = layer_norm(x, one, zero)
formula = rho * (np.eye(D) - 1 / D - np.outer(xhat, xhat) / D)

h = 1e-6
numeric = np.zeros((D, D))
for j in range(D):
    e = h * np.eye(D)[j]
    numeric[:, j] = (layer_norm(x + e, one, zero)[0] - layer_norm(x - e, one, zero)[0]) / (2 * h)
np.testing.assert_allclose(numeric, formula, rtol=0, atol=1e-8)

# %%
figure, axes = plt.subplots(1, 2, figsize=(8, 3.2))
limit = abs(formula).max()
for axis, matrix, title in ((axes[0], numeric, "by nudging"), (axes[1], formula, "step 4")):
    shown = axis.imshow(matrix, cmap="PuOr", vmin=-limit, vmax=limit)
    axis.set(xlabel="input j", ylabel="output k", title=title)
figure.colorbar(shown, ax=list(axes), label="∂x̂ₖ/∂xⱼ")
plt.show()

# %% [markdown]
# The two pictures agree to eight decimals. On the diagonal each input raises its own output. Off it most outputs fall, since
# the mean is taken off; a few rise a little, where the scaling outweighs that.

# %% [markdown]
# ### The formula as a sentence
#
# In words: *take* $\mathrm{d}\hat x$, *and remove what LayerNorm would undo.* Adding a constant to a
# token changes nothing after LayerNorm; nor does stretching it by a positive factor (but for $\epsilon$). So the gradient must
# have no part along the constant, nor along $\hat x$. The two means remove just these:

# %%
D = config.width
x, gamma, beta = rng.standard_normal((6, D)), rng.standard_normal(D), rng.standard_normal(D)
_, cache = layer_norm(x, gamma, beta)
dx, dgamma, dbeta = layer_norm_backward(rng.standard_normal((6, D)), cache)
print("dx", dx.shape, "dγ", dgamma.shape, "dβ", dbeta.shape)
print("along the constant:  ", dx.sum(axis=1))
print("along x̂:            ", (dx * cache[0]).sum(axis=1))
np.testing.assert_allclose(dx.sum(axis=1), 0, atol=1e-10)
np.testing.assert_allclose((dx * cache[0]).sum(axis=1), 0, atol=1e-3)  # not 0 exactly: ε

# %% [markdown]
# In the model, the input of the MLP's half of a block goes two ways: through LayerNorm and MLP, and around them on the
# residual path. What is used twice collects two gradients.

# %%
z = values[f"{block}/residual1"]
norm = params["encoder"]["block_00"]["norm2"]
_, cache = layer_norm(z, norm["scale"], norm["bias"])
through, _, _ = layer_norm_backward(gradients[f"{block}/norm2"], cache)
around = gradients[f"{block}/output"]
print("through", through.shape, "+ around", around.shape)
np.testing.assert_allclose(through + around, gradients[f"{block}/residual1"], rtol=1e-9, atol=1e-12)

# %% [markdown]
# ## The answer
#
# If this number were a little larger, how would the score move? By its gradient times the little, and the gradient comes from
# behind, layer by layer: through a linear layer with the transposed matrix, through GELU with its slope, through LayerNorm
# with what LayerNorm would undo taken out, and where ways meet, as a sum. One check of the whole: nudge *all* numbers of the
# intermediate at once, along a random direction.

# %%
nudge = 1e-4 * rng.standard_normal(values[name].shape)
moved = logit_when(nudge) - logit_when(-nudge)
predicted = 2 * (gradients[name] * nudge).sum()
print(f"the logit moves by {moved:+.9f}, the gradient predicts {predicted:+.9f}")
np.testing.assert_allclose(moved, predicted, rtol=1e-4, atol=1e-9)

# %% [markdown]
# But what if we had made a mistake? Nothing would have stopped us. Chapter 03b is about that.

# %% [markdown]
# ## Exercises
#
# Each cell to fill in is followed by one that checks it, with `verify.check_vjp` (chapter 03b shows how that works). Until
# you do, it says so and the notebook goes on. Solutions are in `tutorials/solutions/03_gradients_by_hand.py`; try first.

# %% [markdown]
# ### Exercise 1: linear, for tokens of a batch (★★, 8 minutes)
#
# As above, but `x` is $(B, N, I)$ and `dy` is $(B, N, O)$: two axes of rows.
#
# <details><summary>Hint</summary>
#
# A matrix product with $\mathbf{W}^T$ works on the last axis, whatever stands before. For the two sums, first make one
# axis of rows of the two: `x.reshape(-1, x.shape[-1])`.
#
# </details>


# %% tags=["exercise-1"]
def my_linear_backward(dy, cache):
    x, W = cache
    dx, dW, db = ..., ..., ...
    return dx, dW, db


# %% tags=["check-1"]
def check_1(backward):
    rng = np.random.default_rng(1)
    verify.check_vjp(linear, backward, [rng.standard_normal(s) for s in ((2, 3, 4), (4, 5), (5,))])


exercise(1, my_linear_backward, check_1)

# %% [markdown]
# ### Exercise 2: the exact GELU (★, 5 minutes)
#
# $y = x\,\Phi(x)$, backward. `capital_phi` is $\Phi$; the density you write yourself.
#
# <details><summary>Hint</summary>
#
# $y' = \Phi(x) + x\,\varphi(x)$ stands in the section on GELU. The backward multiplies it by `dy`, number by number.
#
# </details>


# %%
def capital_phi(x):
    """The standard normal's distribution function."""
    return 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


# %% tags=["exercise-2"]
def my_gelu_backward(dy, x):
    return ...


# %% tags=["check-2"]
def check_2(backward):
    x = np.random.default_rng(2).standard_normal((3, 5))
    verify.check_vjp(gelu_erf, backward, [x])


exercise(2, my_gelu_backward, check_2)

# %% [markdown]
# ### Exercise 3: RMSNorm (★★★, 15 minutes)
#
# Many newer transformers leave out the mean: $y_k = \gamma_k\, x_k\, \rho$ with
# $\rho = (\text{mean}(x^2) + \epsilon)^{-1/2}$. Derive its backward: the gradients with respect to `x` and
# to `gamma`. Follow the five steps of LayerNorm; two of them shrink.
#
# <details><summary>Hint</summary>
#
# With $\hat x = x\rho$: $\partial\rho/\partial x_j = -\rho^2 \hat x_j / D$ as before, so
# $\partial\hat x_k / \partial x_j = \rho\,(\delta_{kj} - \hat x_k \hat x_j / D)$. Nothing removes a mean. $\gamma$
# serves all rows.
#
# </details>


# %%
def rms_norm(x, gamma, eps=1e-6):
    """x: (R, D);  gamma: (D,)"""
    rho = 1 / np.sqrt((x * x).mean(axis=-1, keepdims=True) + eps)  # (R, 1)
    xhat = x * rho
    return gamma * xhat, (xhat, rho, gamma)


# %% tags=["exercise-3"]
def my_rms_norm_backward(dy, cache):
    xhat, rho, gamma = cache
    dx, dgamma = ..., ...
    return dx, dgamma


# %% tags=["check-3"]
def check_3(backward):
    rng = np.random.default_rng(3)
    verify.check_vjp(rms_norm, backward, [rng.standard_normal((4, 6)), rng.standard_normal(6)])


exercise(3, my_rms_norm_backward, check_3)

# %% [markdown]
# ## Quiz

# %%
quiz("03")

# %% [markdown]
# ## In practice
#
# - **What is used twice collects a sum**: weights over tokens, rows of a table over patches, the input of a residual block
#   over its two ways. Many a wrong gradient is a forgotten sum.
# - **It is the cache that costs memory**, not the gradient. Each forward keeps what its backward needs, until the backward has run.
# - **ε is part of the layer.** Another ε in the backward than in the forward is a small, lasting error.

# %% [markdown]
# ## References
#
# - J. L. Ba, J. R. Kiros, G. E. Hinton: *Layer normalization*, 2016.
# - D. Hendrycks, K. Gimpel: *Gaussian error linear units (GELUs)*, 2016.
# - B. Zhang, R. Sennrich: *Root mean square layer normalization*, NeurIPS 2019 (exercise 3).
# - A. Griewank, A. Walther: *Evaluating derivatives*, SIAM 2008, chapter 3 (why one backward is enough).
# - The code: `musiq_ref/ops/linear.py`, `activation.py`, `layer_norm.py`; `musiq_ref/verify/ladder/tracing.py`.
