# %% [markdown]
# # 03b · How to check a gradient, and how a check is fooled
#
# A wrong backward raises no error. The model still trains, perhaps a little worse, and nobody knows why. So every backward is
# compared with differences of its forward. That sounds safe. It is not: the usual ways to do it let real faults through.
#
# The question of this chapter: **when a check says "right", how do we know that it would have noticed a wrong one?**

# %% [markdown]
# ## What you will learn
#
# - to check a gradient with differences: which step, which precision, which direction;
# - why one random direction is enough, and when to look at the inputs one by one;
# - how five careless checks pass wrong gradients, fault by fault, and one careful check does not.

# %% [markdown]
# ## What you need
#
# About 50 minutes, of which the exercises take 20; the backwards of chapter 03. Of the softmax you need only this: its
# outputs are positive and sum to 1.

# %%
import matplotlib.pyplot as plt
import numpy as np

from course import exercise, quiz
from musiq_ref import verify
from musiq_ref.ops.activation import gelu_erf_backward, gelu_tanh, gelu_tanh_backward
from musiq_ref.ops.layer_norm import layer_norm, layer_norm_backward
from musiq_ref.ops.linear import linear, linear_backward
from musiq_ref.ops.softmax import softmax, softmax_backward
from musiq_ref.verify import GradientError

# %% [markdown]
# ## Two numbers
#
# Here is a layer with two inputs. It turns them into shares: $y_1 = \frac{x_1}{x_1 + x_2}$, $y_2 = \frac{x_2}{x_1 + x_2}$. For
# $x = (1, 3)$ the shares are a quarter and three quarters. With the quotient rule, its backward is
#
# $$\begin{aligned} \mathrm{d}x_1 &= \frac{x_2\,(\mathrm{d}y_1 - \mathrm{d}y_2)}{(x_1 + x_2)^2} \\[1ex] \mathrm{d}x_2 &= \frac{x_1\,(\mathrm{d}y_2 - \mathrm{d}y_1)}{(x_1 + x_2)^2} \end{aligned}$$
#
# A colleague is in a hurry and writes a backward that always returns zeros. Then both of you check your work in the most
# natural way: add up the outputs, and see how the sum moves when an input is nudged.


# %%
def shares(x):
    return x / x.sum(), x


def yours(dy, x):
    return np.array([x[1] * (dy[0] - dy[1]), x[0] * (dy[1] - dy[0])]) / x.sum() ** 2


def hurried(dy, x):
    return np.zeros(2)


x = np.array([1.0, 3.0])
for dy in (np.array([1.0, 1.0]), np.array([1.0, 0.0])):
    nudged = [(dy * (shares(x + e)[0] - shares(x - e)[0])).sum() / 2e-4 for e in 1e-4 * np.eye(2)]
    print(f"dy = {dy}: by nudging {np.round(nudged, 4)}, ", end="")
    print(f"yours {yours(dy, x)}, hurried {hurried(dy, x)}")
    np.testing.assert_allclose(yours(dy, x), nudged, atol=1e-6)

# %%
first = np.linspace(0.2, 4, 50)
made = np.array([shares(np.array([x1, 3.0]))[0] for x1 in first])
figure, axis = plt.subplots(figsize=(6.5, 2.8))
for line, label, style in ((made[:, 0], "y₁", "-"), (made[:, 1], "y₂", "--")):
    axis.plot(first, line, style, label=label)
axis.plot(first, made.sum(axis=1), ":", linewidth=3, label="their sum")
axis.set(xlabel="x₁ (x₂ = 3)", ylabel="outputs", title="The sum cannot tell")
axis.legend()
plt.show()
np.testing.assert_allclose(made.sum(axis=1), 1)

# %% [markdown]
# The dotted line is flat: shares sum to 1, whatever one does to the inputs. So the gradient of the *sum* really is 0, and the
# hurried backward is right about it, and about nothing else. With $\mathrm{d}y = (1, 0)$, which asks for the first share alone,
# nudging gives $3/16$ and $-1/16$, and the zeros are exposed. A check is only as good as the question it asks.

# %% [markdown]
# ## Which step?
#
# For a function of one number there are two ways to take differences:
#
# - forward: $(f(x + h) - f(x)) / h$, wrong by about $h \cdot f''/2$;
# - central: $(f(x + h) - f(x - h)) / 2h$, wrong by about $h^2 \cdot f'''/6$.
#
# Both also lose digits, since they subtract nearly equal numbers: about $\epsilon / h$, with an $\epsilon$ of $10^{-16}$ in
# `float64` and $10^{-7}$ in `float32`. Try it on $f(x) = x^2$ at
# $x = 3$, with the slope 6, and the large step $h = 1$: forward $(16 - 9)/1 = 7$, central $(16 - 4)/2 = 6$. A large $h$ is
# wrong because the function bends, a small one because of rounding. Where between them is the best?

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
good, poor = ([error(h, t, True) for h in (1e-6, 3e-6, 1e-5)] for t in (np.float64, np.float32))
print("float64, h from 1e-6 to 1e-5:", *(f"{e:.0e}" for e in good))
print("float32, with the same steps:", *(f"{e:.0e}" for e in poor))
assert max(good) < 1e-9
assert max(poor) > 1e-3
assert best["float32, central"] > 1000 * best["float64, central"]

# %% [markdown]
# Each curve is a valley: bending on the right, rounding on the left. Central differences in `float64`, with $h$ between
# $10^{-6}$ and $10^{-5}$, know nine digits or more. In `float32` the valley lies far higher. Its best step knows five, but nobody
# tells you which it is, and with the steps that serve so well in `float64` only one to three are left. A check there
# must be so tolerant that real faults slip through.

# %% [markdown]
# ## Which direction?
#
# Nudging inputs one by one takes two forwards for each of them. But a sum tells enough. Choose a random direction $v$
# through *all* inputs at once, and a random $c$ in the place of $\mathrm{d}y$ (a random *cotangent*). Both sides of
#
# $$\begin{aligned} &\Big\langle c,\ \frac{f(x + hv) - f(x - hv)}{2h} \Big\rangle \\ &\quad = \big\langle \text{backward}(c),\ v \big\rangle \end{aligned}$$
#
# are single numbers ($\langle a, b \rangle$ is the sum of all products $a_i b_i$), and a wrong backward makes them differ
# for almost every $v$ and $c$. Two more forwards, one backward.
# (What a backward computes is a *vector–Jacobian product*, VJP; hence the name of the library's check, `check_vjp`.) That
# is the whole gradient check:


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


rng = np.random.default_rng(0)
R, I, O = 3, 4, 5  # rows, inputs, outputs: all different, so that a mix-up shows
inputs = [rng.standard_normal(shape) for shape in ((R, I), (I, O), (O,))]
assert check(linear, linear_backward, inputs)
assert not check(linear, lambda dy, cache: (dy @ cache[1].T, cache[0].T @ dy, dy[0]), inputs)

# %% [markdown]
# The second backward forgets to sum the bias's gradient over the rows, and is caught. But which of its three gradients is
# wrong? A direction through all inputs cannot say. Directions through one input at a time can; `check_vjp` takes both, and
# exercise 2 lets you find a culprit yourself.

# %% [markdown]
# ## How a careless check passes a wrong gradient
#
# Six faults that people really make. Each is a forward, a wrong backward, and the shapes of the inputs.


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
# And six checks. Five are careless, each in one way only; the last is not:
#
# - **dy = 1**: "sum the outputs and differentiate". As in the toy: a softmax sums to 1 whatever happens, so the gradient of
#   the sum *is* 0.
# - **fresh layer**: parameters as a new model has them, $\gamma = 1$, $\beta = 0$, biases 0.
# - **sizes of 1**: one row, one input, one output.
# - **tiny dy**: a loss divided by a large number makes all gradients small, and the usual absolute tolerance of
#   `np.isclose` then accepts anything.
# - **loose**: a relative tolerance of 1 %, as one is driven to in `float32`.
# - **check_vjp**: the library's. It cannot choose your inputs: unequal sizes and random values are up to you.


# %%
def draw(shapes):
    rng = np.random.default_rng(5)
    return [rng.standard_normal(shape) for shape in shapes]


def fresh(shapes):
    """x and a matrix random; a vector that multiplies (γ) is 1, one that is added (β, a bias) 0."""
    inputs = draw(shapes)
    if len(shapes) == 3:
        inputs[1] = np.ones(shapes[1]) if len(shapes[1]) == 1 else inputs[1]
        inputs[2] = np.zeros(shapes[2])
    return inputs


def ones(forward, inputs):
    return np.ones_like(forward(*inputs)[0])


def tiny(forward, inputs):
    return 1e-9 * np.random.default_rng(7).standard_normal(forward(*inputs)[0].shape)


def careful(forward, backward, shapes):
    try:
        verify.check_vjp(forward, backward, draw(shapes))
    except GradientError:
        return False
    return True


# %%
checks = {
    "dy = 1": lambda f, b, s: check(f, b, draw(s), c=ones(f, draw(s))),
    "fresh\nlayer": lambda f, b, s: check(f, b, fresh(s)),
    "sizes\nof 1": lambda f, b, s: check(f, b, draw([(1,) * len(shape) for shape in s])),
    "tiny dy": lambda f, b, s: check(f, b, draw(s), c=tiny(f, draw(s)), atol=1e-8),
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
assert passed[:, :-1].any(axis=0).all()  # each of the others lets at least one fault through
assert passed[:, [2, 3]].mean() > 0.8
assert (passed[:, [0, 1, 4]].sum(axis=0) == 1).all()

# %% [markdown]
# Two of the careless checks are worthless: nearly everything passes. The other three are the dangerous
# ones. Each catches five faults of six, which is why people trust it. Only the last column is clean. And the right
# backwards pass all six:

# %%
right = (softmax_backward, layer_norm_backward, layer_norm_backward)
right += (linear_backward, linear_backward, gelu_tanh_backward)
for (f, _, shapes), backward in zip(faults.values(), right, strict=True):
    assert all(run(f, backward, shapes) for run in checks.values())

# %% [markdown]
# ## The answer
#
# When a check says "right", how do we know that it would have noticed a wrong one? Only by giving it wrong ones. A green tick
# by itself says little; ask which wrong answers would get one, too. `check_vjp` has been asked, and says what it found:

# %%
try:
    verify.check_vjp(linear, linear_wrong, draw(linear_shapes))
except GradientError as error:
    print(error)
else:
    raise AssertionError("the fault was not noticed")

# %% [markdown]
# ## Exercises
#
# Each cell to fill in is followed by one that checks it. Until you do, it says so and the notebook goes on. Solutions
# are in `tutorials/solutions/03b_checking_gradients.py`; try first.

# %% [markdown]
# ### Exercise 1: fool the check (★★★, 8 minutes)
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


# %% tags=["exercise-1"]
def my_fooling_backward(dy, cache):
    xhat, rho, gamma = cache
    dx, dgamma, dbeta = ..., ..., ...
    return dx, dgamma, dbeta


# %% tags=["check-1"]
def check_1(backward):
    x = np.random.default_rng(4).standard_normal((3, 5))
    fooled = check(layer_norm, backward, [x, np.ones(5), np.zeros(5)], c=np.ones((3, 5)), atol=1e-6)
    assert fooled, "the careless check notices it"
    assert not careful(layer_norm, backward, ((3, 5), (5,), (5,))), "check_vjp finds nothing wrong"


exercise(1, my_fooling_backward, check_1)

# %% [markdown]
# ### Exercise 2: find the culprit (★★, 12 minutes)
#
# A backward returns one gradient for each input, and one of them is wrong. Say which: return the number of the input (0, 1,
# 2, …), or `None` if all are right. Like `check`, but with a direction through *one* input at a time.
#
# <details><summary>Hint</summary>
#
# Draw one random $c$ of the shape of the output, and call the backward once. Then, for each input $i$: a random `v` of its
# shape, the forward with only that input moved by $\pm$`h * v`, and compare $\langle c, \ldots \rangle$ with
# `(gradients[i] * v).sum()`. `np.random.default_rng(9)` draws `c`, and a new `v` for each input.
#
# </details>


# %% tags=["exercise-2"]
def my_culprit(forward, backward, inputs, h=1e-6):
    """forward(*inputs) -> (y, cache);  backward(dy, cache) -> a tuple;  returns a number or None"""
    return ...


# %% tags=["check-2"]
def check_2(culprit):
    for forward, backward, shapes in (
        (linear, linear_backward, linear_shapes),
        (layer_norm, layer_norm_backward, norm_shapes),
    ):
        got = culprit(forward, backward, draw(shapes))
        assert got is None, f"nothing is wrong with {backward.__name__}, and you say input {got}"
        for wrong in range(3):

            def spoilt(dy, cache, backward=backward, wrong=wrong):
                gradients = list(backward(dy, cache))
                gradients[wrong] = 1.01 * gradients[wrong]
                return tuple(gradients)

            got = culprit(forward, spoilt, draw(shapes))
            assert got == wrong, f"the gradient of input {wrong} is wrong, and you say {got}"


exercise(2, my_culprit, check_2)

# %% [markdown]
# ## Quiz

# %%
quiz("03b")

# %% [markdown]
# ## In practice
#
# - **`float64` for checking**, whatever you train in. In `float32` even the best step, which you do
#   not know, gives five digits.
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
# - A. Griewank, A. Walther: *Evaluating derivatives*, SIAM 2008 (differences and their errors).
# - PyTorch: *Gradcheck mechanics*, in its documentation (a check by single inputs, and a fast one by random directions).
# - The code: `musiq_ref/verify/check/gradient.py`, `tests/test_planted_faults.py`.
