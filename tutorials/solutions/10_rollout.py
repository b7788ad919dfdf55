# %% [markdown]
# # Solutions of chapter 10
#
# Each is followed by a mistake that people make, which the check must catch.

# %% tags=["solution-1"]
def my_rollout(layers):
    row = np.eye(layers[0].shape[-1])[0]
    for A in reversed(layers):
        row = (row + row @ A.mean(axis=0)) / 2
    return row


# %% tags=["wrong-1"]
def my_rollout(layers):
    row = np.eye(layers[0].shape[-1])[0]
    for A in layers:  # the first layer first: the factors in the wrong order
        row = (row + row @ A.mean(axis=0)) / 2
    return row


# %% tags=["solution-2"]
def my_relevance(layers, gradients):
    R = np.eye(layers[0].shape[-1])
    for A, dA in zip(layers, gradients, strict=True):
        R = R + np.maximum(dA * A, 0).mean(axis=0) @ R
    return R[0, 1:]


# %% tags=["wrong-2"]
def my_relevance(layers, gradients):
    R = np.eye(layers[0].shape[-1])
    for A, dA in zip(layers, gradients, strict=True):
        R = R + np.maximum((dA * A).mean(axis=0), 0) @ R  # heads cancel before the maximum
    return R[0, 1:]
