# %% [markdown]
# # 03 · Gradients by hand: linear, GELU, LayerNorm, and how to check them
#
# *If this number in the middle of the network were a little larger, how would the score move?* A gradient answers that
# for millions of numbers at once. Frameworks compute it behind your back; here you derive it with a pencil, for the
# three layers that make up most of MUSIQ. Then you learn to check a gradient, and see six checks that look fine and let
# wrong gradients through.

# %% [markdown]
# ## What you will learn
#
# - what a *backward* is, and why it takes `dy` and never a Jacobian;
# - to derive the backward of a linear layer, of GELU and of LayerNorm, and to read each as a sentence;
# - to check a gradient with differences: which step, which precision, which direction;
# - how a careless check passes a wrong gradient, fault by fault;
# - to do all that on the real model's numbers.

# %% [markdown]
# ## What you need
#
# About 45 minutes; the derivative of a function of one variable, the chain rule, matrix products. Tokens
# (chapters 01 and 02) only as "rows of numbers".

# %%
import math

import matplotlib.pyplot as plt
import numpy as np

import musiq_ref as mq
from course import exercise, photograph, show
from musiq_ref import verify
from musiq_ref.image.tokenize import Tokens, drop_padding
from musiq_ref.ops.activation import gelu_erf, gelu_erf_backward, gelu_tanh, gelu_tanh_backward
from musiq_ref.ops.layer_norm import layer_norm, layer_norm_backward
from musiq_ref.ops.linear import linear, linear_backward
from musiq_ref.ops.softmax import softmax, softmax_backward
from musiq_ref.verify import GradientError

# %% [markdown]
# ## What a gradient says
#
# We take the bundled model and, to be quick, only the first 24 tokens of a photograph. `verify.trace` runs it forward
# and backward and keeps every intermediate and its gradient, under the same name.

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
# The gradient has the shape of the value: one number for each number. We write $\mathrm{d}x$ for the gradient of the
# one final number to $x$. What does it mean? Nudge a value, run the model again from there, and compare. A `tap` may
# replace any intermediate.


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
# It does so layer by layer, from the last to the first. Each layer is asked one question: *given how the score changes
# with your outputs, how does it change with your inputs?* Its **backward** gets $\mathrm{d}y$ and returns $\mathrm{d}x$.
# By the chain rule
#
# $$\mathrm{d}x_j = \sum_k \mathrm{d}y_k \, \frac{\partial y_k}{\partial x_j}$$
#
# The matrix of all $\partial y_k / \partial x_j$ is the Jacobian. A layer with 100,000 numbers in and out would have
# one of $10^{10}$ entries. No program builds it: for each kind of layer the sum can be worked out once, on paper.

# %% [markdown]
# ## Linear
#
# $y_o = \sum_i x_i W_{io} + b_o$. Ask for each letter in turn where it occurs:
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
# Without something bent between them, two linear layers are one. MUSIQ's MLP bends with GELU: $y = x\,\Phi(x)$, where
# $\Phi$ is the distribution function of the standard normal. It works on each number alone, so its Jacobian is diagonal
# and the sum has a single term: $\mathrm{d}x = \mathrm{d}y \cdot y'(x)$. By the product rule, with the density
# $\varphi = \Phi'$:
#
# $$y' = \Phi(x) + x\,\varphi(x), \qquad \varphi(x) = e^{-x^2/2} / \sqrt{2\pi}$$
#
# The authors' program computes an approximation, $y = \frac{x}{2}(1 + \tanh u)$ with
# $u = \sqrt{2/\pi}\,(x + 0.044715\,x^3)$. Product rule and chain rule, with $\tanh' = 1 - \tanh^2$ and $t = \tanh u$:
#
# $$y' = \tfrac{1}{2}(1 + t) + \tfrac{x}{2}(1 - t^2)\,u', \qquad u' = \sqrt{2/\pi}\,(1 + 3 \cdot 0.044715\,x^2)$$

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
assert 1.1 < slopes["exact"].max() < 1.2
assert slopes["exact"].min() < -0.1

# %% [markdown]
# Two things to see. A gradient may *grow* on its way back (the slope reaches 1.13), and a small negative input is
# pushed the other way. And the two forms differ by less than one part in a thousand: remember that when we check.

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
# $$\hat x_k = (x_k - \mu)\,\rho, \quad \rho = (\sigma^2 + \epsilon)^{-1/2}, \quad y_k = \gamma_k \hat x_k + \beta_k$$
#
# The hard one, because every $x_j$ is in $\mu$ and in $\sigma^2$, and so in every output. Step by step, for a token of
# $D$ numbers:
#
# 1. $\partial\mu / \partial x_j = 1/D$.
# 2. $\partial\sigma^2 / \partial x_j = 2(x_j - \mu)/D$; the shift of $\mu$ itself adds nothing, since deviations sum to
#    0.
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

# %%
show(layer_norm, layer_norm_backward)

# %% [markdown]
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
# The formula as a sentence: *take* $\mathrm{d}\hat x$, *and remove what LayerNorm would undo.* Adding a constant to a
# token changes nothing after LayerNorm; nor does scaling it. So the gradient must have no part along the constant, nor
# along the token itself. The two means remove just these:

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
# In the model the block's input goes two ways: through LayerNorm and MLP, and around them on the residual path.
# What is used twice collects two gradients.

# %%
z = values[f"{block}/residual1"]
norm = params["encoder"]["block_00"]["norm2"]
_, cache = layer_norm(z, norm["scale"], norm["bias"])
through, _, _ = layer_norm_backward(gradients[f"{block}/norm2"], cache)
around = gradients[f"{block}/output"]
print("through", through.shape, "+ around", around.shape)
np.testing.assert_allclose(through + around, gradients[f"{block}/residual1"], rtol=1e-9, atol=1e-12)

# %% [markdown]
# ## Checking
#
# A wrong backward raises no error. The model trains, a little worse, and nobody knows why. So every backward is
# compared with differences. **Which step?** For a function of one number:
#
# - forward: $(f(x + h) - f(x)) / h$, wrong by about $h \cdot f''/2$;
# - central: $(f(x + h) - f(x - h)) / 2h$, wrong by about $h^2 \cdot f'''/6$;
# - both lose digits by subtracting nearly equal numbers: about $\epsilon_{machine} / h$.
#
# A large $h$ is wrong by the curve, a small one by rounding.

# %%
x0 = np.array([0.7])
true = gelu_tanh_backward(np.ones(1), x0)[0]
steps = 10.0 ** np.arange(-14, 0.1, 0.5)


def error(h, dtype, central):
    """Relative error of the slope of GELU at 0.7, by differences in that precision."""
    at, h = x0.astype(dtype), np.dtype(dtype).type(h)
    ahead, behind = at + h, (at - h if central else at)
    slope = (gelu_tanh(ahead)[0] - gelu_tanh(behind)[0]) / (2 * h if central else h)
    return float(abs(slope[0] - true) / true)


curves = {
    "float64, central": [error(h, np.float64, True) for h in steps],
    "float64, forward": [error(h, np.float64, False) for h in steps],
    "float32, central": [error(h, np.float32, True) for h in steps],
}

# %%
figure, axis = plt.subplots(figsize=(6.5, 3.4))
for (label, errors), style in zip(curves.items(), ("o-", "s--", "^:"), strict=True):
    axis.loglog(steps, np.maximum(errors, 1e-16), style, markersize=4, label=label)
axis.set(xlabel="step h", ylabel="relative error of the slope", title="How far to nudge")
axis.legend()
plt.show()
best = {label: min(errors) for label, errors in curves.items()}
print({label: f"{e:.0e}" for label, e in best.items()})
assert best["float64, central"] < 1e-8
assert best["float32, central"] > 1000 * best["float64, central"]

# %% [markdown]
# Central differences in `float64` with $h$ around $10^{-6}$ to $10^{-5}$ know about ten digits. In `float32` the best
# of all steps knows five, and the usual ones three: a check there must be so tolerant that real faults slip through.
#
# **Which direction?** Nudging inputs one by one takes two forwards for each of them. But a sum tells enough: choose a
# random direction $v$ through *all* inputs at once, and a random $c$ in the place of $\mathrm{d}y$. Both sides of
#
# $$\Big\langle c,\ \frac{f(x + hv) - f(x - hv)}{2h} \Big\rangle = \big\langle \text{backward}(c),\ v \big\rangle$$
#
# are single numbers, and a wrong backward makes them differ for almost every $v$ and $c$. Two forwards, one backward.
# That is the whole gradient check:


# %%
def check(forward, backward, inputs, c=None, rtol=1e-6, atol=1e-9, h=1e-6):
    """True if both sides agree along a random direction. c: an array, or None for a random one."""
    rng = np.random.default_rng(0)
    y, cache = forward(*inputs)
    c = rng.standard_normal(y.shape) if c is None else c
    v = [rng.standard_normal(x.shape) for x in inputs]
    ahead = forward(*(x + h * d for x, d in zip(inputs, v, strict=True)))[0]
    behind = forward(*(x - h * d for x, d in zip(inputs, v, strict=True)))[0]
    numeric = (c * (ahead - behind) / (2 * h)).sum()
    grads = backward(c, cache)
    grads = grads if isinstance(grads, tuple) else (grads,)
    analytic = sum((g * d).sum() for g, d in zip(grads, v, strict=True))
    return bool(np.isclose(numeric, analytic, rtol=rtol, atol=atol))


inputs = [rng.standard_normal(shape) for shape in ((R, I), (I, O), (O,))]
assert check(linear, linear_backward, inputs)
assert not check(linear, lambda dy, cache: (dy @ cache[1].T, cache[0].T @ dy, dy[0]), inputs)

# %% [markdown]
# ## How a careless check passes a wrong gradient
#
# Six faults that people really make. Each is a forward, a wrong backward, and a maker of inputs.


# %%
def layer_norm_wrong(dy, cache, gamma_used=True, projection=True):
    """LayerNorm's backward with a term left out."""
    xhat, rho, gamma = cache
    dxhat = dy * gamma if gamma_used else dy
    dx = dxhat - dxhat.mean(-1, keepdims=True)
    if projection:
        dx = dx - xhat * (dxhat * xhat).mean(-1, keepdims=True)
    return rho * dx, (dy * xhat).sum(0), dy.sum(0)


def linear_wrong(dy, cache):
    """Linear's backward that forgets to sum the bias's gradient over the rows."""
    x, W = cache
    return dy @ W.T, x.T @ dy, dy[0]


def transposed_wrong(dy, cache):
    """Linear's backward with W for its transpose."""
    x, W = cache
    return dy @ W, x.T @ dy, dy.sum(0)


# %%
linear_shapes, norm_shapes, plain = ((R, O), (O, O), (O,)), ((R, I), (I,), (I,)), ((R, I),)
faults = {
    "softmax: gradient is 0": (softmax, lambda dy, y: 0 * y, plain),
    "LayerNorm: γ forgotten": (
        layer_norm,
        lambda dy, cache: layer_norm_wrong(dy, cache, gamma_used=False),
        norm_shapes,
    ),
    "LayerNorm: last term missing": (
        layer_norm,
        lambda dy, cache: layer_norm_wrong(dy, cache, projection=False),
        norm_shapes,
    ),
    "linear: no sum over rows": (linear, linear_wrong, linear_shapes),
    "linear: W not transposed": (linear, transposed_wrong, linear_shapes),
    "GELU: the other form's": (gelu_tanh, gelu_erf_backward, plain),
}

# %% [markdown]
# And six checks, five of them careless in one way only:
#
# - **dy = 1**: "sum the outputs and differentiate". A softmax sums to 1 whatever happens, so its gradient to the
#   sum *is* 0.
# - **fresh layer**: inputs as a new model has them, $\gamma = 1$, $\beta = 0$, biases 0.
# - **sizes of 1**: one row, one input, one output.
# - **tiny dy**: a loss divided by a large number makes all gradients small; the absolute tolerance of `np.isclose` then
#   accepts anything.
# - **loose**: a relative tolerance of 1 %, as one is driven to in `float32`.
# - **check_vjp**: the library's. It cannot choose your inputs: unequal sizes and random values are up to you.


# %%
def draw(shapes):
    rng = np.random.default_rng(5)
    return [rng.standard_normal(shape) for shape in shapes]


def fresh(shapes):
    """x random; then ones for what multiplies (γ) and zeros for what is added."""
    x, *rest = draw(shapes)
    if len(shapes) == 3 and len(shapes[1]) == 1:
        rest = [np.ones(shapes[1]), np.zeros(shapes[2])]
    return [x, *rest]


def ones_like_output(forward, inputs):
    return np.ones_like(forward(*inputs)[0])


def careful(forward, backward, shapes):
    try:
        verify.check_vjp(forward, backward, draw(shapes))
    except GradientError:
        return False
    return True


# %%
checks = {
    "dy = 1": lambda f, b, s: check(f, b, draw(s), c=ones_like_output(f, draw(s))),
    "fresh\nlayer": lambda f, b, s: check(f, b, fresh(s)),
    "sizes\nof 1": lambda f, b, s: check(f, b, draw([(1,) * len(shape) for shape in s])),
    "tiny dy": lambda f, b, s: check(
        f, b, draw(s), c=1e-9 * ones_like_output(f, draw(s)), atol=1e-8
    ),
    "loose": lambda f, b, s: check(f, b, draw(s), rtol=1e-2),
    "check_vjp": careful,
}
passed = np.array([[run(*fault) for run in checks.values()] for fault in faults.values()])
print(passed.astype(int), "(1: the fault passes)")

# %%
figure, axis = plt.subplots(figsize=(8, 3.4))
axis.imshow(passed, cmap="PuOr_r", vmin=-1, vmax=2, aspect="auto")
for i, j in np.ndindex(*passed.shape):
    axis.text(j, i, "PASSES" if passed[i, j] else "caught", ha="center", va="center", fontsize=9)
axis.set_xticks(range(len(checks)), list(checks))
axis.set_yticks(range(len(faults)), list(faults))
axis.tick_params(length=0)
axis.set_title("Which wrong gradient passes which check")
plt.show()
assert not passed[:, -1].any()  # the library's check catches all
assert passed[:, [2, 3]].mean() > 0.8
assert (passed[:, [0, 1, 4]].sum(axis=0) == 1).all()

# %% [markdown]
# Read it by columns. Two checks are worthless: nearly everything passes. The other three are the dangerous ones. Each
# catches five faults of six, which is why people trust it. And the right backwards pass them all, so a green tick
# alone says little: ask which wrong answers would get one, too.

# %%
right = (softmax_backward, layer_norm_backward, layer_norm_backward)
right += (linear_backward, linear_backward, gelu_tanh_backward)
for (f, _, shapes), backward in zip(faults.values(), right, strict=True):
    assert all(run(f, backward, shapes) for run in checks.values())

# %% [markdown]
# ## Exercises
#
# Each cell to fill in is followed by one that checks it, with `verify.check_vjp`. Until you do, it says so and the
# notebook goes on. Solutions are in `tutorials/solutions/03_gradients_by_hand.py`; try first.

# %% [markdown]
# ### Exercise 1: linear, for tokens of a batch
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
# ### Exercise 2: the exact GELU
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
# ### Exercise 3: RMSNorm
#
# Many newer transformers leave out the mean: $y_k = \gamma_k\, x_k\, \rho$ with
# $\rho = (\text{mean}(x^2) + \epsilon)^{-1/2}$. Derive its backward: the gradients to `x` and to `gamma`. Follow the
# five steps of LayerNorm; two of them shrink.
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
# ### Exercise 4: fool the check
#
# Write a backward for `layer_norm` that is *wrong*, and yet passes this chapter's `check` with `dy` = 1 on a fresh
# layer ($\gamma = 1$). `check_vjp` must catch it.
#
# <details><summary>Hint</summary>
#
# With $\gamma = 1$ and `dy` = 1, what does the right formula give for $\mathrm{d}x$? It is a very simple array. Return
# that always, with the right $\mathrm{d}\gamma$ and $\mathrm{d}\beta$.
#
# </details>


# %% tags=["exercise-4"]
def my_fooling_backward(dy, cache):
    xhat, rho, gamma = cache
    dx, dgamma, dbeta = ..., ..., ...
    return dx, dgamma, dbeta


# %% tags=["check-4"]
def check_4(backward):
    x = np.random.default_rng(4).standard_normal((3, 5))
    fooled = check(layer_norm, backward, [x, np.ones(5), np.zeros(5)], c=np.ones((3, 5)), atol=1e-6)
    assert fooled, "the careless check notices it"
    assert not careful(layer_norm, backward, ((3, 5), (5,), (5,))), "check_vjp finds nothing wrong"


exercise(4, my_fooling_backward, check_4)

# %% [markdown]
# ## In practice
#
# - **`float64` for checking**, whatever you train in. In `float32` no step is good, as the curve shows.
# - **Unequal sizes, always.** Squares hide a missing transpose, ones hide a missing sum, a batch of one hides both.
# - **Random values for all parameters.** Freshly initialised ones are 0 and 1, where many terms vanish.
# - **Test the test.** Plant a fault and see it caught; this library does so for each of its operations
#   (`tests/test_planted_faults.py`).
# - **Corners.** ReLU and max-pooling have points without a derivative; a difference across such a point is neither
#   side's. Draw values that keep away from them, or expect a false alarm.
# - **PyTorch** has the same check, `torch.autograd.gradcheck`. It wants `float64`, too.

# %% [markdown]
# ## References
#
# - J. L. Ba, J. R. Kiros, G. E. Hinton: *Layer normalization*, 2016.
# - D. Hendrycks, K. Gimpel: *Gaussian error linear units (GELUs)*, 2016.
# - B. Zhang, R. Sennrich: *Root mean square layer normalization*, NeurIPS 2019 (exercise 3).
# - A. Griewank, A. Walther: *Evaluating derivatives*, SIAM 2008, chapter 3 (why one backward is enough).
# - The code: `musiq_ref/ops/linear.py`, `activation.py`, `layer_norm.py`; `musiq_ref/verify/check/gradient.py`.
