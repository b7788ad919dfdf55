# %% [markdown]
# # Solutions of chapter 08b
#
# Each is followed by a mistake that people make, which the check must catch.

# %% tags=["solution-1"]
def my_dropout(x, rate, rng):
    keep = (rng.random((1, x.shape[1])) >= rate) / (1 - rate)

    def backward(dy):
        return dy * keep

    return x * keep, backward


# %% tags=["wrong-1"]
def my_dropout(x, rate, rng):
    keep = (rng.random((1, x.shape[1])) >= rate) / (1 - rate)

    def backward(dy):
        return dy * (rng.random((1, x.shape[1])) >= rate) / (1 - rate)  # thrown again

    return x * keep, backward


# %% tags=["solution-2"]
def my_adam(theta, g, m, v, t, rate, beta1=0.9, beta2=0.999, eps=1e-8):
    m, v = beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g**2
    m_hat, v_hat = m / (1 - beta1**t), v / (1 - beta2**t)
    return theta - rate * m_hat / (np.sqrt(v_hat) + eps), m, v


# %% tags=["wrong-2"]
def my_adam(theta, g, m, v, t, rate, beta1=0.9, beta2=0.999, eps=1e-8):
    m, v = beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g**2
    return theta - rate * m / (np.sqrt(v) + eps), m, v  # both are still too small at first
