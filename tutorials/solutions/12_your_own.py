# %% [markdown]
# # Solutions of chapter 12
#
# Each is followed by a mistake that people make, which the check must catch.

# %% tags=["solution-1"]
def my_kernel(weight, side):
    return weight.unflatten(1, (side, side, 256)).permute(0, 3, 1, 2)


# %% tags=["wrong-1"]
def my_kernel(weight, side):
    return weight.unflatten(1, (256, side, side))  # the right shape at once, from the wrong order


# %% tags=["solution-2"]
def my_standardize_backward(dy, centred, sigma):
    over = {"dim": (0, 1, 2), "keepdim": True}
    n = centred[..., 0].numel()
    dsigma = -(dy * centred).sum(**over) / (sigma + 1e-5) ** 2
    dcentred = dy / (sigma + 1e-5) + dsigma * centred / (n * sigma)
    return dcentred - dcentred.mean(**over)


# %% tags=["wrong-2"]
def my_standardize_backward(dy, centred, sigma):
    dcentred = dy / (sigma + 1e-5)  # the standard deviation taken as a constant
    return dcentred - dcentred.mean(dim=(0, 1, 2), keepdim=True)
