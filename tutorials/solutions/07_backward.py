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
