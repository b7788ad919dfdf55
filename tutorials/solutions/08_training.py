# %% [markdown]
# # Solutions of chapter 08
#
# Each is followed by a mistake that people make, which the check must catch.

# %% tags=["solution-1"]
def my_baseline(targets):
    return np.median(targets), targets.mean(), targets.std()


# %% tags=["wrong-1"]
def my_baseline(targets):
    return targets.mean(), targets.mean(), targets.std()  # the mean for both


# %% tags=["solution-2"]
def my_emd_backward(dloss, cache):
    D, e, cache_softmax = cache
    dD = dloss * D / (D.shape[1] * e) / len(D)
    dp = np.cumsum(dD[:, ::-1], axis=1)[:, ::-1]
    return softmax_backward(dp, cache_softmax)


# %% tags=["wrong-2"]
def my_emd_backward(dloss, cache):
    D, e, cache_softmax = cache
    dD = dloss * D / (D.shape[1] * e) / len(D)
    return softmax_backward(np.cumsum(dD, axis=1), cache_softmax)  # summed from the wrong end


# %% tags=["solution-3"]
def my_srcc(x, y):
    def ranks(z):
        smaller, equal = (z[:, None] > z).sum(axis=1), (z[:, None] == z).sum(axis=1)
        return 1 + smaller + (equal - 1) / 2

    return pearson(ranks(x), ranks(y))


# %% tags=["wrong-3"]
def my_srcc(x, y):
    return pearson(np.argsort(np.argsort(x)), np.argsort(np.argsort(y)))  # ties get different ranks
