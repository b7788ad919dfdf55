# %% [markdown]
# # Solutions of chapter 02b
#
# Each is followed by a mistake that people make, which the check must catch.


# %% tags=["solution-1"]
def my_lookup_backward(dy, cache):
    index, rows = cache
    dT = np.zeros((rows, dy.shape[-1]))
    np.add.at(dT, index, dy)
    return dT


# %% tags=["wrong-1"]
def my_lookup_backward(dy, cache):
    index, rows = cache
    dT = np.zeros((rows, dy.shape[-1]))
    dT[index] += dy  # keeps one of the tokens that share a row
    return dT


# %% tags=["solution-2"]
def my_luck(table, group, others):
    unit = table / np.linalg.norm(table, axis=1, keepdims=True)
    cosines = unit @ unit.T

    def together(rows):
        n = len(rows)
        return (cosines[np.ix_(rows, rows)].sum() - n) / (n * (n - 1))

    return together(group), np.mean([together(other) >= together(group) for other in others])


# %% tags=["wrong-2"]
def my_luck(table, group, others):
    unit = table / np.linalg.norm(table, axis=1, keepdims=True)
    cosines = unit @ unit.T

    def together(rows):
        return cosines[np.ix_(rows, rows)].mean()  # counts each row with itself

    return together(group), np.mean([together(other) >= together(group) for other in others])
