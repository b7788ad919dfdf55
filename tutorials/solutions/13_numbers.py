# %% [markdown]
# # Solutions of chapter 13
#
# Each is followed by a mistake that people make, which the check must catch.

# %% tags=["solution-1"]
def my_log_softmax(s):
    s = s - s.max(axis=1, keepdims=True)
    return s - np.log(np.exp(s).sum(axis=1, keepdims=True))


# %% tags=["wrong-1"]
def my_log_softmax(s):
    return np.log(softmax(s)[0])  # a share that rounds to 0 has no logarithm


# %% tags=["solution-2"]
def my_attention(q, k, v, size):
    m, l, o = np.full((len(q), 1), -np.inf), 0, 0
    for j in range(0, len(k), size):
        s = q @ k[j : j + size].T / math.sqrt(q.shape[1])
        larger = np.maximum(m, s.max(axis=1, keepdims=True))
        e, correction = np.exp(s - larger), np.exp(m - larger)
        l = l * correction + e.sum(axis=1, keepdims=True)
        o = o * correction + e @ v[j : j + size]
        m = larger
    return o / l


# %% tags=["wrong-2"]
def my_attention(q, k, v, size):
    l, o = 0, 0
    for j in range(0, len(k), size):
        s = q @ k[j : j + size].T / math.sqrt(q.shape[1])
        e = np.exp(
            s - s.max(axis=1, keepdims=True)
        )  # each block has its own maximum: never corrected
        l, o = l + e.sum(axis=1, keepdims=True), o + e @ v[j : j + size]
    return o / l


# %% tags=["solution-3"]
def my_merge(n_a, mean_a, Q_a, n_b, mean_b, Q_b):
    n, delta = n_a + n_b, mean_b - mean_a
    return n, mean_a + delta * n_b / n, Q_a + Q_b + delta**2 * n_a * n_b / n


# %% tags=["wrong-3"]
def my_merge(n_a, mean_a, Q_a, n_b, mean_b, Q_b):
    n = n_a + n_b
    return n, (n_a * mean_a + n_b * mean_b) / n, Q_a + Q_b  # as if both parts had the same mean
