# %% [markdown]
# # Solutions of chapter 09b
#
# Each is followed by a mistake that people make, which the check must catch.

# %% tags=["solution-1"]
def my_difference(a, b, targets, resamples=400):
    rng, differences = np.random.default_rng(0), []
    for _ in range(resamples):
        i = rng.integers(len(targets), size=len(targets))
        differences.append(metrics.srcc(a[i], targets[i]) - metrics.srcc(b[i], targets[i]))
    return np.quantile(differences, [0.025, 0.975])


# %% tags=["wrong-1"]
def my_difference(a, b, targets, resamples=400):
    rng, differences = np.random.default_rng(0), []
    for _ in range(resamples):
        i, j = rng.integers(len(targets), size=(2, len(targets)))  # other images for each model
        differences.append(metrics.srcc(a[i], targets[i]) - metrics.srcc(b[j], targets[j]))
    return np.quantile(differences, [0.025, 0.975])


# %% tags=["solution-2"]
def my_split(groups, rng):
    sources = np.unique(groups)
    chosen = rng.permutation(sources)[: round(len(sources) / 5)]
    return np.isin(groups, chosen)


# %% tags=["wrong-2"]
def my_split(groups, rng):
    test = np.zeros(len(groups), bool)
    test[rng.permutation(len(groups))[: len(groups) // 5]] = True  # a fifth of the images
    return test


# %% tags=["solution-3"]
def my_error(values, n_test, n_train):
    return np.std(values, ddof=1) * math.sqrt(1 / len(values) + n_test / n_train)


# %% tags=["wrong-3"]
def my_error(values, n_test, n_train):
    return np.std(values, ddof=1) / math.sqrt(len(values))  # as if the splits did not overlap
