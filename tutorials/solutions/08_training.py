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
def my_difference(a, b, targets, resamples=400):
    rng, differences = np.random.default_rng(0), []
    for _ in range(resamples):
        i = rng.integers(len(targets), size=len(targets))
        differences.append(metrics.srcc(a[i], targets[i]) - metrics.srcc(b[i], targets[i]))
    return np.quantile(differences, [0.025, 0.975])


# %% tags=["wrong-3"]
def my_difference(a, b, targets, resamples=400):
    rng, differences = np.random.default_rng(0), []
    for _ in range(resamples):
        i, j = rng.integers(len(targets), size=(2, len(targets)))  # other images for each model
        differences.append(metrics.srcc(a[i], targets[i]) - metrics.srcc(b[j], targets[j]))
    return np.quantile(differences, [0.025, 0.975])


# %% tags=["solution-4"]
def my_srcc(x, y):
    def ranks(z):
        smaller, equal = (z[:, None] > z).sum(axis=1), (z[:, None] == z).sum(axis=1)
        return 1 + smaller + (equal - 1) / 2

    return pearson(ranks(x), ranks(y))


# %% tags=["wrong-4"]
def my_srcc(x, y):
    return pearson(np.argsort(np.argsort(x)), np.argsort(np.argsort(y)))  # ties get different ranks
