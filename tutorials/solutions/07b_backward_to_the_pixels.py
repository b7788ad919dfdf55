# %% [markdown]
# # Solutions of chapter 07b
#
# Each is followed by a mistake that people make, which the check must catch.

# %% tags=["solution-1"]
def my_tables_backward(dy, place, which, rows_spatial, rows_scale):
    dspatial, dscale = np.zeros((rows_spatial, dy.shape[1])), np.zeros((rows_scale, dy.shape[1]))
    np.add.at(dspatial, place, dy)
    np.add.at(dscale, which, dy)
    return dspatial, dscale


# %% tags=["wrong-1"]
def my_tables_backward(dy, place, which, rows_spatial, rows_scale):
    dspatial, dscale = np.zeros((rows_spatial, dy.shape[1])), np.zeros((rows_scale, dy.shape[1]))
    dspatial[place] += dy  # of several uses of a row only the last is kept
    dscale[which] += dy
    return dspatial, dscale


# %% tags=["solution-2"]
def my_pixels(dresized, dnative, R, C):
    return R.T @ dresized @ C + dnative


# %% tags=["wrong-2"]
def my_pixels(dresized, dnative, R, C):
    return (
        np.linalg.pinv(R) @ dresized @ np.linalg.pinv(C).T + dnative
    )  # resized back, not transposed
