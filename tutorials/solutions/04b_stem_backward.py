# %% [markdown]
# # Solutions of chapter 04b
#
# Each is followed by a mistake that people make, which the check must catch.

# %% tags=["solution-1"]
def my_group_norm_backward(dy, cache):
    xhat, rho, gamma, groups = cache
    N, h, w, C = dy.shape

    def mean(a):  # of the group, at every place: (N, h, w, C)
        grouped = a.reshape(N, h * w, groups, C // groups)
        means = grouped.mean(axis=(1, 3), keepdims=True)
        return np.broadcast_to(means, grouped.shape).reshape(dy.shape)

    dxhat = dy * gamma
    dx = rho * (dxhat - mean(dxhat) - xhat * mean(dxhat * xhat))
    return dx, (dy * xhat).sum(axis=(0, 1, 2)), dy.sum(axis=(0, 1, 2))


# %% tags=["wrong-1"]
def my_group_norm_backward(dy, cache):
    xhat, rho, gamma, groups = cache
    dxhat = (dy * gamma).reshape(len(dy), -1, groups, len(gamma) // groups)
    centred = dxhat - dxhat.mean(axis=(1, 3), keepdims=True)
    dx = rho * centred.reshape(dy.shape)  # the way through the variance forgotten
    return dx, (dy * xhat).sum(axis=(0, 1, 2)), dy.sum(axis=(0, 1, 2))


# %% tags=["solution-2"]
def my_max_pool_backward(dy, x):
    dx = np.zeros_like(x)
    for i in range(dy.shape[0]):
        for j in range(dy.shape[1]):
            window = x[2 * i : 2 * i + 3, 2 * j : 2 * j + 3]
            a, b = np.unravel_index(window.argmax(), window.shape)
            dx[2 * i + a, 2 * j + b] += dy[i, j]
    return dx


# %% tags=["wrong-2"]
def my_max_pool_backward(dy, x):
    dx = np.zeros_like(x)
    for i in range(dy.shape[0]):
        for j in range(dy.shape[1]):
            window = x[2 * i : 2 * i + 3, 2 * j : 2 * j + 3]
            a, b = np.unravel_index(window.argmax(), window.shape)
            place = 2 * i + a, 2 * j + b
            dx[place] = dy[i, j]  # a pixel that wins several windows keeps only the last
    return dx
