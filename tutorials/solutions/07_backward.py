# %% [markdown]
# # Solutions of chapter 07
#
# Each is followed by a mistake that people make, which the check must catch.

# %% tags=["solution-1"]
def my_score_backward(dscore, p):
    k = np.arange(1, p.shape[1] + 1)
    score = (p * k).sum(axis=1, keepdims=True)
    return dscore[:, None] * p * (k - score)


# %% tags=["wrong-1"]
def my_score_backward(dscore, p):
    k = np.arange(p.shape[1])  # marks from 0 here, from 1 below
    score = (p * (k + 1)).sum(axis=1, keepdims=True)
    return dscore[:, None] * p * (k - score)


# %% tags=["solution-2"]
def my_branch_backward(dy, cache):
    cache_norm, cache_linear = cache
    dnormed, dkernel, dbias = linear_backward(dy, cache_linear)
    dx, dgamma, dbeta = layer_norm_backward(dnormed, cache_norm)
    return dy + dx, dgamma, dbeta, dkernel, dbias


# %% tags=["wrong-2"]
def my_branch_backward(dy, cache):
    cache_norm, cache_linear = cache
    dnormed, dkernel, dbias = linear_backward(dy, cache_linear)
    dx, dgamma, dbeta = layer_norm_backward(dnormed, cache_norm)
    return dx, dgamma, dbeta, dkernel, dbias  # the residual path forgotten


# %% tags=["solution-3"]
def my_tables_backward(dy, place, which, rows_spatial, rows_scale):
    dspatial, dscale = np.zeros((rows_spatial, dy.shape[1])), np.zeros((rows_scale, dy.shape[1]))
    np.add.at(dspatial, place, dy)
    np.add.at(dscale, which, dy)
    return dspatial, dscale


# %% tags=["wrong-3"]
def my_tables_backward(dy, place, which, rows_spatial, rows_scale):
    dspatial, dscale = np.zeros((rows_spatial, dy.shape[1])), np.zeros((rows_scale, dy.shape[1]))
    dspatial[place] += dy  # of several uses of a row only the last is kept
    dscale[which] += dy
    return dspatial, dscale


# %% tags=["solution-4"]
def my_pixels(dresized, dnative, R, C):
    return R.T @ dresized @ C + dnative


# %% tags=["wrong-4"]
def my_pixels(dresized, dnative, R, C):
    return (
        np.linalg.pinv(R) @ dresized @ np.linalg.pinv(C).T + dnative
    )  # resized back, not transposed
