# %% [markdown]
# # Solutions of chapter 06
#
# Each is followed by a mistake that people make, which the check must catch.

# %% tags=["solution-1"]
def my_block(z, ln1, msa, ln2, mlp):
    z = z + msa(ln1(z))
    return z + mlp(ln2(z))


# %% tags=["wrong-1"]
def my_block(z, ln1, msa, ln2, mlp):
    return (
        z + msa(ln1(z)) + mlp(ln2(z))
    )  # side by side: the MLP does not see what attention brought


# %% tags=["solution-2"]
def my_encoder_parameters(L, D, M):
    attention = 4 * (D * D + D)
    mlp = D * M + M + M * D + D
    return L * (attention + mlp + 2 * 2 * D) + 2 * D


# %% tags=["wrong-2"]
def my_encoder_parameters(L, D, M):
    return L * (4 * D * D + 2 * D * M + 4 * D) + 2 * D  # without the biases


# %% tags=["solution-3"]
def my_unread(N, D, M):
    queries_and_output = 2 * N * D * D
    logits_and_means = 2 * N * (N + 1) * D
    return queries_and_output + logits_and_means + 2 * N * D * M


# %% tags=["wrong-3"]
def my_unread(N, D, M):
    return 4 * N * D * D + 2 * N * N * D + 2 * N * D * M  # keys and values of the patches are read
