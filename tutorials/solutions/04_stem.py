# %% [markdown]
# # Solutions of chapter 04
#
# Each is followed by a mistake that people make, which the check must catch.

# %% tags=["solution-1"]
def my_convolution(padded, kernel, stride, rows, columns):
    y = 0
    for a in range(kernel.shape[0]):
        for b in range(kernel.shape[1]):
            place = padded[:, a : a + rows * stride : stride, b : b + columns * stride : stride]
            y = y + place @ kernel[a, b]
    return y


# %% tags=["wrong-1"]
def my_convolution(padded, kernel, stride, rows, columns):
    kernel = kernel[::-1, ::-1]  # flipped, as in signal processing
    y = 0
    for a in range(kernel.shape[0]):
        for b in range(kernel.shape[1]):
            place = padded[:, a : a + rows * stride : stride, b : b + columns * stride : stride]
            y = y + place @ kernel[a, b]
    return y


# %% tags=["solution-2"]
def my_same_padding(n, size, stride):
    count = -(-n // stride)  # n/stride, rounded up
    total = max((count - 1) * stride + size - n, 0)
    return total // 2, total - total // 2


# %% tags=["wrong-2"]
def my_same_padding(n, size, stride):
    return size // 2, size // 2  # as with PyTorch's padding=size // 2


# %% tags=["solution-3"]
def my_invisible(patch):
    return patch / 2


# %% tags=["wrong-3"]
def my_invisible(patch):
    mean = patch.mean(axis=(1, 2), keepdims=True)
    return mean + (patch - mean) / 2  # around the patch's own mean: the frame tells
