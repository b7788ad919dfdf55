# %% [markdown]
# # Solutions of chapter 03b
#
# Each is followed by a mistake that people make, which the check must catch.


# %% tags=["solution-1"]
def my_fooling_backward(dy, cache):
    xhat, rho, gamma = cache
    return 0 * dy, (dy * xhat).sum(axis=0), dy.sum(axis=0)


# %% tags=["wrong-1"]
def my_fooling_backward(dy, cache):
    return layer_norm_backward(dy, cache)  # nothing wrong with it


# %% tags=["solution-2"]
def my_culprit(forward, backward, inputs, h=1e-6):
    rng = np.random.default_rng(9)
    y, cache = forward(*inputs)
    c = rng.standard_normal(y.shape)
    gradients = backward(c, cache)
    for i, x in enumerate(inputs):
        v = rng.standard_normal(x.shape)
        ahead, behind = (
            forward(*inputs[:i], x + sign * h * v, *inputs[i + 1 :])[0] for sign in (1, -1)
        )
        numeric = (c * (ahead - behind)).sum() / (2 * h)
        if not np.isclose(numeric, (gradients[i] * v).sum(), rtol=1e-5):
            return i
    return None


# %% tags=["wrong-2"]
def my_culprit(forward, backward, inputs, h=1e-6):
    rng = np.random.default_rng(9)
    y, cache = forward(*inputs)
    c = rng.standard_normal(y.shape)
    gradients = backward(c, cache)
    for i, x in enumerate(inputs):
        v = np.ones(x.shape)  # along which LayerNorm's dx is 0, right or wrong
        ahead, behind = (
            forward(*inputs[:i], x + sign * h * v, *inputs[i + 1 :])[0] for sign in (1, -1)
        )
        numeric = (c * (ahead - behind)).sum() / (2 * h)
        if not np.isclose(numeric, (gradients[i] * v).sum(), rtol=1e-5):
            return i
    return None
