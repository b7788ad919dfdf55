# %% [markdown]
# # Solutions of chapter 00
#
# Each is followed by a mistake that people make, which the check must catch.


# %% tags=["solution-1"]
def my_mos(votes):
    grades, shares = np.arange(1, len(votes) + 1), votes / votes.sum()
    mean = (shares * grades).sum()
    variance = (shares * (grades - mean) ** 2).sum()
    return mean, np.sqrt(variance / votes.sum())


# %% tags=["wrong-1"]
def my_mos(votes):
    grades, shares = np.arange(len(votes)), votes / votes.sum()  # grades begin at 1, not at 0
    mean = (shares * grades).sum()
    variance = (shares * (grades - mean) ** 2).sum()
    return mean, np.sqrt(variance / votes.sum())


# %% tags=["solution-2"]
def my_psnr(a, b):
    mse = ((a.astype(float) - b.astype(float)) ** 2).mean()
    return 10 * np.log10(255**2 / mse)


# %% tags=["wrong-2"]
def my_psnr(a, b):
    return 10 * np.log10(255**2 / ((a - b) ** 2).mean())  # uint8 wraps around


# %% tags=["solution-3"]
def my_srcc(a, b):
    x, y = (ranks(values) - ranks(values).mean() for values in (a, b))
    return (x * y).sum() / np.sqrt((x * x).sum() * (y * y).sum())


# %% tags=["wrong-3"]
def my_srcc(a, b):
    d, n = ranks(a) - ranks(b), len(a)
    return 1 - 6 * (d * d).sum() / (n * (n * n - 1))  # right only without ties
