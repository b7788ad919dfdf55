# %% [markdown]
# # Solutions of chapter 16
#
# Each is followed by a mistake that people make, which the check must catch.


# %% tags=["solution-1"]
def my_outputs(phi_q, phi_k, v):
    return phi_q @ (phi_k.T @ v) / (phi_q @ phi_k.sum(axis=0))[:, None]


# %% tags=["wrong-1"]
def my_outputs(phi_q, phi_k, v):
    return phi_q @ (phi_k.T @ v) / phi_k.sum()  # one normaliser for all queries


# %% tags=["solution-2"]
def my_backward(dy, cache):
    phi_q, phi_k, v, summary, total, y = cache
    dT, dt = dy / total, -(dy * y).sum(axis=1, keepdims=True) / total
    dphi_q = dT @ summary.T + dt * phi_k.sum(axis=0)
    dsummary = phi_q.T @ dT
    dphi_k = v @ dsummary.T + (phi_q.T @ dt).T
    return dphi_q, dphi_k, phi_k @ dsummary


# %% tags=["wrong-2"]
def my_backward(dy, cache):
    phi_q, phi_k, v, summary, total, y = cache
    dT = dy / total  # the normaliser taken as a constant
    dsummary = phi_q.T @ dT
    return dT @ summary.T, v @ dsummary.T, phi_k @ dsummary


# %% tags=["solution-3"]
def my_rank(N, share):
    return int(share * N / 2)


# %% tags=["wrong-3"]
def my_rank(N, share):
    return int(share * N)  # a Linformer's four products are twice as many as two
