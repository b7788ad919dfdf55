"""The stem, as people get it wrong (SPEC 4)."""

from __future__ import annotations

import math

import numpy as np

from musiq_ref.model.stem import BLOCK_EPS, ROOT_EPS
from musiq_ref.ops.convolution import convolution, pad_same, windows
from musiq_ref.ops.group_norm import group_norm
from musiq_ref.ops.weight_standardization import EPS, standardize
from musiq_ref.verify.mistakes.mistake import Mistake, at


def centred_kernel(kernel):
    return kernel - kernel.mean(axis=(0, 1, 2), keepdims=True)


def not_standardised(kernel, ddof=0):
    return kernel, None


def only_centred(kernel, ddof=0):
    return centred_kernel(kernel), None


def standardised_without_eps(kernel, ddof=0):
    centred = centred_kernel(kernel)
    return centred / np.sqrt((centred * centred).mean(axis=(0, 1, 2), keepdims=True)), None


def standardised_with_eps_inside(kernel, ddof=0):
    """ε under the root, as BatchNorm has it: 1e-5 is then a variance."""
    centred = centred_kernel(kernel)
    return centred / np.sqrt((centred * centred).mean(axis=(0, 1, 2), keepdims=True) + EPS), None


def standardised_as_a_whole(kernel, ddof=0):
    return (kernel - kernel.mean()) / (kernel.std(ddof=ddof) + EPS), None


def evenly_padded(x, kernel, stride=1):
    """padding=size//2 on both sides, as a PyTorch layer has it."""
    size, (h, w) = kernel.shape[0], (-(-n // stride) for n in x.shape[1:3])
    padded = np.pad(x, ((0, 0), (size // 2,) * 2, (size // 2,) * 2, (0, 0)))
    columns = windows(padded, size, stride)[:, :h, :w]
    y = columns.reshape(-1, size * size * x.shape[-1]) @ kernel.reshape(-1, kernel.shape[-1])
    return y.reshape(*columns.shape[:3], -1), None


def flipped(x, kernel, stride=1):
    return convolution(x, kernel[::-1, ::-1], stride)


def kernel_transposed(x, kernel, stride=1):
    return convolution(x, kernel.swapaxes(0, 1), stride)


def pooled(x, pad, reduce, size=3, stride=2):
    """`max_pool` with another padding or another rule."""
    return reduce(windows(pad(x, size, stride), size, stride), axis=(3, 4)), None


def max_pool_evenly_padded(x, size=3, stride=2):
    def pad(x, size, stride):
        return np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-math.inf)

    y, _ = pooled(x, pad, np.max, size, stride)
    return y[:, : -(-x.shape[1] // stride), : -(-x.shape[2] // stride)], None


def max_pool_padded_with_zero(x, size=3, stride=2):
    return pooled(x, pad_same, np.max, size, stride)


def average_pool(x, size=3, stride=2):
    return pooled(x, pad_same, np.mean, size, stride)


def group_norm_eps(eps, instead):
    """`group_norm` with another ε in the place of one."""
    return lambda x, gamma, beta, given, groups=32: group_norm(
        x, gamma, beta, instead if given == eps else given, groups
    )


def half_as_many_groups(x, gamma, beta, eps, groups=32):
    return group_norm(x, gamma, beta, eps, max(groups // 2, 1))


def group_norm_over(*axes):
    """`group_norm` with statistics over other axes of (N, positions, groups, channels of a group)."""

    def norm(x, gamma, beta, eps, groups=32):
        grouped = x.reshape(x.shape[0], -1, groups, x.shape[-1] // groups)
        centred = grouped - grouped.mean(axis=axes, keepdims=True)
        xhat = centred / np.sqrt((centred * centred).mean(axis=axes, keepdims=True) + eps)
        return gamma * xhat.reshape(x.shape) + beta, None

    return norm


def strided_groups(x, gamma, beta, eps, groups=32):
    """A group is channels c, c + G, c + 2G, …"""
    order = np.arange(x.shape[-1]).reshape(-1, groups).T.ravel()
    y, _ = group_norm(x[..., order], np.ones_like(gamma), np.zeros_like(beta), eps, groups)
    return gamma * y[..., np.argsort(order)] + beta, None


KERNEL, WEIGHT_STD = "stem/conv_root/standardized", "weight std"

MISTAKES = [
    Mistake("unbiased std", "divide by n (torch.std and var need correction=0)", "standardize",
            lambda kernel, ddof=0: standardize(kernel, 1), KERNEL, WEIGHT_STD, {"weight_std_ddof": 1}),
    Mistake("biased std", "divide by n − 1", "standardize",
            lambda kernel, ddof=0: standardize(kernel, 0), KERNEL, WEIGHT_STD, {"weight_std_ddof": 0}),
    Mistake("no weight standardisation", "standardise every kernel of the stem",
            "standardize", not_standardised, KERNEL, WEIGHT_STD),
    Mistake("kernels centred only", "divide by the standard deviation, too",
            "standardize", only_centred, KERNEL, WEIGHT_STD),
    Mistake("standardised over the whole kernel", "mean and deviation are per output channel",
            "standardize", standardised_as_a_whole, KERNEL, WEIGHT_STD),
    Mistake("weight std without ε", "add 1e-5 to the standard deviation",
            "standardize", standardised_without_eps, KERNEL, "eps"),
    Mistake("weight std with ε under the root", "add 1e-5 to the standard deviation, not to the variance",
            "standardize", standardised_with_eps_inside, KERNEL, "eps"),
    Mistake("convolution padded on both sides", 'pad "SAME": the smaller half before, 2 and 3 for a 7×7/2 kernel',
            "convolution", evenly_padded, "stem/conv_root"),
    Mistake("flipped kernels", "do not flip: this is a correlation, as in every deep-learning library",
            "convolution", flipped, "stem/conv_root"),
    Mistake("kernels transposed", "a kernel's first axis is the row", "convolution", kernel_transposed),
    Mistake("GroupNorm of the root with ε 1e-5", "ε is 1e-6 after the root convolution",
            "group_norm", group_norm_eps(ROOT_EPS, 1e-5), "stem/gn_root", "eps"),
    Mistake("GroupNorm of the root with ε 1e-4", "ε is 1e-6 after the root convolution",
            "group_norm", group_norm_eps(ROOT_EPS, BLOCK_EPS), "stem/gn_root", "eps"),
    Mistake("GroupNorm of the bottleneck with ε 1e-3", "ε is 1e-4 in the bottleneck",
            "group_norm", group_norm_eps(BLOCK_EPS, 1e-3), "stem/gn_proj", "eps"),
    Mistake("GroupNorm of the bottleneck with ε 1e-5", "ε is 1e-4 in the bottleneck",
            "group_norm", group_norm_eps(BLOCK_EPS, 1e-5)),
    Mistake("GroupNorm with half as many groups", "32 groups", "group_norm", half_as_many_groups, "stem/gn_root"),
    Mistake("GroupNorm with strided groups", "a group is neighbouring channels",
            "group_norm", strided_groups, "stem/gn_root"),
    Mistake("GroupNorm's statistics per channel", "mean and deviation are per group", "group_norm", group_norm_over(1)),
    Mistake("GroupNorm's statistics per position", "mean and deviation run over all positions, too",
            "group_norm", group_norm_over(3)),
    Mistake("ReLU after the max-pool", "the same result, one ReLU later", stage="stem/relu_root",
            tap=lambda name, array, seen, config: seen["stem/gn_root"] if name == "stem/relu_root" else
            np.maximum(array, 0) if name == "stem/pool" else array),
    Mistake("absolute value for ReLU", "take max(x, 0)", "relu", lambda x: (np.abs(x), None)),
    Mistake("max-pool padded on both sides", 'pad "SAME": 0 before and 1 after',
            "max_pool", max_pool_evenly_padded, "stem/pool"),
    Mistake("max-pool padded with 0", "pad with −∞, which never wins", "max_pool", max_pool_padded_with_zero),
    Mistake("average pooling", "take the maximum", "max_pool", average_pool, "stem/pool"),
    Mistake("shortcut missing", "add the projected input of the bottleneck", stage="stem/sum",
            tap=at("stem/sum", lambda a, seen, config: seen["stem/gn3"])),
    Mistake("last ReLU of the stem missing", "end the bottleneck with a ReLU", stage="stem/output",
            tap=at("stem/output", lambda a, seen, config: seen["stem/sum"])),
]  # fmt: skip
