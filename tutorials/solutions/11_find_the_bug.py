# %% [markdown]
# # Solutions of chapter 11
#
# Each is followed by a mistake that people make, which the check must catch.

# %% tags=["solution-1"]
# The difference is one vector for all tokens, and that vector is the bias of the out-projection.
difference = values["encoder/block_00/attention/out"] - mine["encoder/block_00/attention/out"]
bias = fixture.params["encoder"]["block_00"]["attention"]["out"]["bias"]
np.testing.assert_allclose(difference, np.broadcast_to(bias, difference.shape), atol=1e-12)
my_diagnosis = "encoder/block_00/attention/out", "out-projection without bias"


# %% tags=["wrong-1"]
my_diagnosis = "encoder/block_00/attention/out", "transposed out-projection"  # a guess, not proven


# %% tags=["solution-2"]
def my_group_norm(x, gamma, beta, eps, groups=32):
    n, h, w, c = x.shape
    members = x.reshape(n, h * w, groups, c // groups)  # neighbouring channels
    mean = members.mean(axis=(1, 3), keepdims=True)
    var = members.var(axis=(1, 3), keepdims=True)  # divided by n, not by n − 1
    y = ((members - mean) / np.sqrt(var + eps)).reshape(x.shape)
    return gamma * y + beta


# %% tags=["wrong-2"]
def my_group_norm(x, gamma, beta, eps, groups=32):
    n, h, w, c = x.shape
    members = x.reshape(n, h * w, groups, c // groups)
    mean = members.mean(axis=(1, 3), keepdims=True)
    var = members.var(axis=(1, 3), keepdims=True, ddof=1)  # the second bug is still there
    y = ((members - mean) / np.sqrt(var + eps)).reshape(x.shape)
    return gamma * y + beta
