# %% [markdown]
# # Solutions of chapter 05b
#
# Each is followed by a mistake that people make, which the check must catch.

# %% tags=["solution-1"]
def my_head(q, k, v, allowed):
    logits = np.where(allowed, q @ k.T / math.sqrt(q.shape[1]), -np.inf)
    weights, _ = softmax(logits)
    return weights @ v


# %% tags=["wrong-1"]
def my_head(q, k, v, allowed):
    weights, _ = softmax(q @ k.T / math.sqrt(q.shape[1]))
    return (weights * allowed) @ v  # masked after the softmax: the shares no longer sum to 1


# %% tags=["solution-2"]
def my_softmax_backward(dy, y):
    return y * (dy - (dy * y).sum(axis=-1, keepdims=True))


# %% tags=["wrong-2"]
def my_softmax_backward(dy, y):
    return y * (1 - y) * dy  # only the diagonal of the Jacobian


# %% tags=["solution-3"]
def my_head_backward(dy, cache):
    q, k, v, weights = cache
    dv = weights.T @ dy
    dweights = dy @ v.T
    dlogits = weights * (dweights - (dweights * weights).sum(axis=1, keepdims=True))
    dq, dk = dlogits @ k / math.sqrt(q.shape[1]), dlogits.T @ q / math.sqrt(q.shape[1])
    return dq, dk, dv


# %% tags=["wrong-3"]
def my_head_backward(dy, cache):
    q, k, v, weights = cache
    dv = weights.T @ dy
    dweights = dy @ v.T
    dlogits = weights * (dweights - (dweights * weights).sum(axis=1, keepdims=True))
    return dlogits @ k / math.sqrt(q.shape[1]), dlogits.T @ q, dv  # dk without the root
