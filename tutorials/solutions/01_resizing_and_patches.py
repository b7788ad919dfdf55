# %% [markdown]
# # Solutions of chapter 01
#
# Each is followed by a mistake that people make, which the check must catch.


# %% tags=["solution-1"]
def my_weights(x, n_in, n_out):
    s = (x + 0.5) * n_in / n_out
    d = abs(np.arange(n_in) + 0.5 - s)
    weights = np.where(d < 1.5, np.exp(-(d**2) / (2 * 0.5**2)), 0)
    return weights / weights.sum()


# %% tags=["wrong-1"]
def my_weights(x, n_in, n_out):
    d = abs(np.arange(n_in) - x * n_in / n_out)  # corners aligned, not middles
    weights = np.where(d < 1.5, np.exp(-(d**2) / (2 * 0.5**2)), 0)
    return weights / weights.sum()


# %% tags=["solution-2"]
def my_patches(image, P):
    h, w = image.shape[:2]
    rows, columns = math.ceil(h / P), math.ceil(w / P)
    down, across = rows * P - h, columns * P - w
    top, left = down // 2, across // 2
    x = np.pad(image, ((top, down - top), (left, across - left), (0, 0)))
    return np.stack(
        [x[r * P : (r + 1) * P, c * P : (c + 1) * P] for r in range(rows) for c in range(columns)]
    )


# %% tags=["wrong-2"]
def my_patches(image, P):
    h, w = image.shape[:2]
    rows, columns = math.ceil(h / P), math.ceil(w / P)
    x = np.pad(image, ((0, rows * P - h), (0, columns * P - w), (0, 0)))  # all of it after
    return x.reshape(rows, P, columns, P, 3).swapaxes(1, 2).reshape(-1, P, P, 3)


# %% tags=["solution-3"]
def my_count(h, w):
    sizes = [resized_sides(h, w, 224), resized_sides(h, w, 384), (h, w)]
    return sum(math.ceil(a / 32) * math.ceil(b / 32) for a, b in sizes)


# %% tags=["wrong-3"]
def my_count(h, w):
    sizes = [resized_sides(h, w, 224), resized_sides(h, w, 384), (h, w)]
    return sum(
        (a * b) // (32 * 32) for a, b in sizes
    )  # area over area: forgets the patches cut short
