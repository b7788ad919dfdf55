# %% [markdown]
# # Solutions of chapter 05
#
# Each is followed by a mistake that people make, which the check must catch.

# %% tags=["solution-1"]
def my_head(z, U_q, U_k, U_v):
    q, k, v = z @ U_q, z @ U_k, z @ U_v
    weights, _ = softmax(q @ k.T / math.sqrt(U_q.shape[1]))
    return weights @ v


# %% tags=["wrong-1"]
def my_head(z, U_q, U_k, U_v):
    q, k, v = z @ U_q, z @ U_k, z @ U_v
    weights, _ = softmax(k @ q.T / math.sqrt(U_q.shape[1]))  # keys ask, queries answer
    return weights @ v


# %% tags=["solution-2"]
def my_heads(x, H):
    return x.reshape(len(x), H, -1).swapaxes(0, 1)


# %% tags=["wrong-2"]
def my_heads(x, H):
    return x.reshape(H, len(x), -1)  # the right shape; numbers of several tokens in one head's row


# %% tags=["solution-3"]
def my_counts(N, D):
    return 2 * N * N * D, 4 * N * D * D  # the products cost more once N > 2·D


# %% tags=["wrong-3"]
def my_counts(N, D):
    return N * N * D, 3 * N * D * D  # one product forgotten, and U_m
