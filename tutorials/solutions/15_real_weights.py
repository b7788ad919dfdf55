# %% [markdown]
# # Solutions of chapter 15
#
# Each is followed by a mistake that people make, which the check must catch.

# %% tags=["solution-1"]
def my_kernel(weight, heads):
    return weight.T.reshape(weight.shape[1], heads, -1)


# %% tags=["wrong-1"]
def my_kernel(weight, heads):
    return weight.reshape(
        weight.shape[0], heads, -1
    )  # not transposed, which the shape does not tell


# %% tags=["solution-2"]
def my_detective(image, checkpoint, told):
    apart = {}
    for name, value in (("resize", "bicubic"), ("gelu", "erf"), ("weight_std_ddof", 1)):
        conventions = replace(mq.OFFICIAL, **{name: value})
        apart[name] = abs(mq.score([image], checkpoint, conventions=conventions)[0].value - told)
    return min(apart, key=apart.get)


# %% tags=["wrong-2"]
def my_detective(image, checkpoint, told):
    return "resize"  # the largest difference is not always the culprit


# %% tags=["solution-3"]
def my_distribution(logits):
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    p = (p / p.sum(axis=1, keepdims=True)).mean(axis=0)
    k = np.arange(1, len(p) + 1)
    mean = (k * p).sum()
    return mean, np.sqrt(((k - mean) ** 2 * p).sum())


# %% tags=["wrong-3"]
def my_distribution(logits):
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    p = p / p.sum(axis=1, keepdims=True)
    k = np.arange(1, p.shape[1] + 1)
    means = (k * p).sum(axis=1)
    spreads = np.sqrt(((k - means[:, None]) ** 2 * p).sum(axis=1))
    return means.mean(), spreads.mean()  # the crops' spreads: that they disagree is forgotten
