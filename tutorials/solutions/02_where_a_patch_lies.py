# %% [markdown]
# # Solutions of chapter 02
#
# Each is followed by a mistake that people make, which the check must catch.


# %% tags=["solution-1"]
def my_hash_axis(n, G):
    place = np.arange(n, dtype=np.float32) * (np.float32(G) / np.float32(n))
    return np.minimum(np.floor(place).astype(int), G - 1)


# %% tags=["wrong-1"]
def my_hash_axis(n, G):
    return np.minimum(np.arange(n) * G // n, G - 1)  # exact, and so not the authors'


# %% tags=["solution-2"]
def my_free_grid(height, width, P, D):
    G = max(-(-height // P), -(-width // P))  # as many cells as the longer axis has patches
    return G, G * G * D


# %% tags=["wrong-2"]
def my_free_grid(height, width, P, D):
    G = max(height, width) // P  # forgets the last patch, which is cut
    return G, G * G * D


# %% tags=["solution-3"]
def my_embed(E_p, where, which, T, Q, x_class):
    B, _, D = E_p.shape
    first = np.broadcast_to(x_class, (B, 1, D))
    return np.concatenate([first, E_p + T[where] + Q[which]], axis=1)


# %% tags=["wrong-3"]
def my_embed(E_p, where, which, T, Q, x_class):
    B, _, D = E_p.shape
    first = np.broadcast_to(x_class, (B, 1, D))
    return np.concatenate([E_p + T[where] + Q[which], first], axis=1)  # the class token comes last
