# %% [markdown]
# # Solutions of chapter 14
#
# Each is followed by a mistake that people make, which the check must catch.

# %% tags=["solution-1"]
def my_grid(rows, warps):
    blocks = math.ceil(rows / warps)
    return blocks, blocks * warps - rows


# %% tags=["wrong-1"]
def my_grid(rows, warps):
    blocks = rows // warps  # the last rows are left out
    return blocks, blocks * warps - rows


# %% tags=["solution-2"]
def my_warp_max(x):
    for mask in (16, 8, 4, 2, 1):
        x = np.maximum(x, x[np.arange(32) ^ mask])
    return x


# %% tags=["wrong-2"]
def my_warp_max(x):
    for mask in (8, 4, 2, 1):  # the halves of the warp never meet
        x = np.maximum(x, x[np.arange(32) ^ mask])
    return x


# %% tags=["solution-3"]
my_body = """
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = x[i] > 0 ? x[i] : 0;
"""

# %% tags=["wrong-3"]
my_body = """
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    y[i] = x[i] > 0 ? x[i] : 0;
"""  # threads without an element write behind the end
