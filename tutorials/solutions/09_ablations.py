# %% [markdown]
# # Solutions of chapter 09
#
# Each is followed by a mistake that people make, which the check must catch.

# %% tags=["solution-1"]
def my_pooled(rows):
    squares = sum(((row - np.mean(row)) ** 2).sum() for row in rows)
    freedom = sum(len(row) - 1 for row in rows)
    return math.sqrt(squares / freedom), freedom


# %% tags=["wrong-1"]
def my_pooled(rows):
    everything = np.concatenate(rows)
    return everything.std(ddof=1), len(everything) - 1  # the rows' differences count as luck


# %% tags=["solution-2"]
def my_holm(p_values, alpha=0.05):
    n, found = len(p_values), np.zeros(len(p_values), bool)
    for k, i in enumerate(np.argsort(p_values)):
        if p_values[i] > alpha / (n - k):
            break
        found[i] = True
    return found


# %% tags=["wrong-2"]
def my_holm(p_values, alpha=0.05):
    return p_values <= alpha / len(p_values)  # Bonferroni's: right, but finds less


# %% tags=["solution-3"]
def my_embedding_parameters(config):
    P, D = config.patch_size, config.width
    features = (P // 4) ** 2 * 256 if config.stem == "resnet" else 3 * P * P
    return features * D + D


# %% tags=["wrong-3"]
def my_embedding_parameters(config):
    P, D = config.patch_size, config.width
    return 3 * P * P * D + D  # as if the stem handed on pixels
