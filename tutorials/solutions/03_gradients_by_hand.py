# %% [markdown]
# # Solutions of chapter 03
#
# Each is followed by a mistake that people make, which the check must catch.


# %% tags=["solution-1"]
def my_linear_backward(dy, cache):
    x, W = cache
    rows, drows = x.reshape(-1, x.shape[-1]), dy.reshape(-1, dy.shape[-1])
    return dy @ W.T, rows.T @ drows, drows.sum(axis=0)


# %% tags=["wrong-1"]
def my_linear_backward(dy, cache):
    x, W = cache
    return dy @ W.T, x[0].T @ dy[0], dy[0].sum(axis=0)  # the first image of the batch only


# %% tags=["solution-2"]
def my_gelu_backward(dy, x):
    density = np.exp(-x * x / 2) / math.sqrt(2 * math.pi)
    return dy * (capital_phi(x) + x * density)


# %% tags=["wrong-2"]
def my_gelu_backward(dy, x):
    return dy * capital_phi(x)  # the product rule's second half is missing


# %% tags=["solution-3"]
def my_rms_norm_backward(dy, cache):
    xhat, rho, gamma = cache
    dxhat = dy * gamma
    dx = rho * (dxhat - xhat * (dxhat * xhat).mean(axis=-1, keepdims=True))
    return dx, (dy * xhat).sum(axis=0)


# %% tags=["wrong-3"]
def my_rms_norm_backward(dy, cache):
    xhat, rho, gamma = cache
    dxhat = dy * gamma
    dx = dxhat - dxhat.mean(axis=-1, keepdims=True)  # LayerNorm's term, which has no place here
    dx = rho * (dx - xhat * (dxhat * xhat).mean(axis=-1, keepdims=True))
    return dx, (dy * xhat).sum(axis=0)
