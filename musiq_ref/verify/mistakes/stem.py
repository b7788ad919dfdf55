"""The stem, as people get it wrong (SPEC 4)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from musiq_ref.model.stem import BLOCK_EPS, ROOT_EPS
from musiq_ref.ops.activation import gelu_tanh
from musiq_ref.ops.convolution import convolution, pad_same, same_padding, windows
from musiq_ref.ops.group_norm import group_norm
from musiq_ref.verify.mistakes.mistake import Mistake, at, family
from musiq_ref.verify.mistakes.weights import changed, exchanged, without

# --- convolutions ----------------------------------------------------------------------------------------------------


def padded_convolution(before=same_padding, mode="constant"):
    """`convolution` with other padding: before(n, size, stride) -> (before, after)."""

    def convolved(x, kernel, stride=1):
        size, (h, w) = kernel.shape[0], (-(-n // stride) for n in x.shape[1:3])
        sides = [before(n, size, stride) for n in x.shape[1:3]]
        options: Any = {"mode": mode}
        wide = np.pad(x, ((0, 0), *sides, (0, 0)), **options)
        columns = windows(wide, size, stride)[:, :h, :w]
        y = columns.reshape(-1, size * size * x.shape[-1]) @ kernel.reshape(-1, kernel.shape[-1])
        return y.reshape(*columns.shape[:3], -1), None

    return convolved


def with_kernel(change):
    return lambda x, kernel, stride=1: convolution(x, change(kernel), stride)


# --- norms, activations, pooling -------------------------------------------------------------------------------------


def group_norm_eps(which, instead):
    """`group_norm` with another ε in the place of one."""
    return lambda x, gamma, beta, given, groups=32: group_norm(
        x, gamma, beta, instead if given == which else given, groups
    )


def groups_of(number):
    """`group_norm` with number(groups, channels) groups, if they divide the channels."""

    def norm(x, gamma, beta, eps, groups=32):
        n = max(number(groups, x.shape[-1]), 1)
        if x.shape[-1] % n:
            raise ValueError(f"{n} groups do not divide {x.shape[-1]} channels")
        return group_norm(x, gamma, beta, eps, n)

    return norm


def normalised(x, eps=1e-6, ddof=0, axis: Any = -1, beside=False, centre=True, root=True):
    """(x − mean)/√(variance + ε) over an axis or several, or in part.

    beside: whether ε is added to the deviation
    centre, root: whether the mean is subtracted, whether the root of the variance is taken
    """
    centred = x - x.mean(axis=axis, keepdims=True) if centre else x
    variance = (centred * centred).sum(axis=axis, keepdims=True)
    variance = variance / max(x.size // variance.size - ddof, 1)
    if not root:
        return centred / (variance + eps)
    return centred / (np.sqrt(variance) + eps if beside else np.sqrt(variance + eps))


def group_norm_over(*axes, scale=lambda gamma: gamma, shift=lambda beta: beta, **how):
    """`group_norm` with statistics over other axes of (N, positions, groups, channels of a group)."""

    def norm(x, gamma, beta, eps, groups=32):
        grouped = x.reshape(x.shape[0], -1, groups, x.shape[-1] // groups)
        return scale(gamma) * normalised(grouped, eps, axis=axes, **how).reshape(x.shape) + shift(beta), None

    return norm


def strided_groups(x, gamma, beta, eps, groups=32):
    """A group is channels c, c + G, c + 2G, …"""
    order = np.arange(x.shape[-1]).reshape(-1, groups).T.ravel()
    y, _ = group_norm(x[..., order], np.ones_like(gamma), np.zeros_like(beta), eps, groups)
    return gamma * y[..., np.argsort(order)] + beta, None


def pooled(pad=pad_same, reduce=np.max, window=3):
    """`max_pool` with another padding, rule or window."""

    def pool(x, size=3, stride=2):
        y = reduce(windows(pad(x, window, stride), window, stride), axis=(3, 4))
        return y[:, : -(-x.shape[1] // stride), : -(-x.shape[2] // stride)], None

    return pool


def pad_of(*sides):
    return lambda x, size, stride: np.pad(x, ((0, 0), sides, sides, (0, 0)), constant_values=-math.inf)


CONVOLUTION, NORMS, GROUPS = "stem/conv*", "stem/gn*", "32 groups of neighbouring channels"
RECTIFIED = {"relu_root": "gn_root", "relu1": "gn1", "relu2": "gn2"}  # ReLU: what it is applied to
ALIKE = (("gn3", "gn_proj"), ("gn1", "gn2"), ("gn_root", "gn1"), ("conv3", "conv_proj"))  # of one shape
NORMED = ("gn_root", "gn_proj", "gn1", "gn2", "gn3")

MISTAKES = [
    *family("{}", 'pad with 0 "SAME": the smaller half before, 2 and 3 for a 7×7/2 kernel', {
                "convolution padded on both sides": padded_convolution(lambda n, size, stride: (size // 2, size // 2)),
                "convolution padded before only": padded_convolution(
                    lambda n, size, stride: (sum(same_padding(n, size, stride)), 0)),
                "convolution padded after only": padded_convolution(
                    lambda n, size, stride: (0, sum(same_padding(n, size, stride)))),
                "convolution padded by repeating the edge": padded_convolution(mode="edge"),
                "convolution padded with a mirror image": padded_convolution(mode="reflect"),
                "convolution padded on both sides by repeating the edge": padded_convolution(
                    lambda n, size, stride: (size // 2, size // 2), "edge"),
            }, "convolution", lambda f: f, CONVOLUTION),
    *family("{}", "a kernel is (row, column, input, output), and not flipped", {
                "flipped kernels": lambda k: k[::-1, ::-1], "kernels upside down": lambda k: k[::-1],
                "kernels mirrored": lambda k: k[:, ::-1], "kernels transposed": lambda k: k.swapaxes(0, 1),
                "kernels' input channels in reverse order": lambda k: k[:, :, ::-1],
                "kernels' output channels in reverse order": lambda k: k[..., ::-1],
                "kernels reshaped from (output, input, row, column)": lambda k: (
                    k.transpose(3, 2, 0, 1).reshape(k.shape)),
                "kernels reshaped to (output, input, row, column)": lambda k: (
                    k.reshape(k.shape[3], k.shape[2], *k.shape[:2]).transpose(2, 3, 1, 0)),
            }, "convolution", with_kernel, CONVOLUTION),
    Mistake("kernel of conv1 transposed", "a kernel is (row, column, input, output)", stage="stem/conv1*",
            load=changed("stem/conv1/kernel", lambda k, get: k.swapaxes(2, 3))),
    *family("GroupNorm of the root with ε {}", "ε is 1e-6 after the root convolution", {
                "1e-8": 1e-8, "1e-5": 1e-5, "1e-4": BLOCK_EPS, "1e-3": 1e-3, "1e-2": 1e-2,
            }, "group_norm", lambda eps: group_norm_eps(ROOT_EPS, eps), "stem/gn_root", "eps"),
    *family("GroupNorm of the bottleneck with ε {}", "ε is 1e-4 in the bottleneck", {"1e-3": 1e-3, "1e-2": 1e-2},
            "group_norm", lambda eps: group_norm_eps(BLOCK_EPS, eps), NORMS, "eps"),
    Mistake("GroupNorm of the bottleneck with ε 1e-5", "ε is 1e-4 in the bottleneck",
            "group_norm", group_norm_eps(BLOCK_EPS, 1e-5)),
    *family("GroupNorm with {}", GROUPS, {
                "half as many groups": lambda g, c: g // 2,
                "a quarter of the groups": lambda g, c: g // 4,
                "twice as many groups": lambda g, c: 2 * g, "1 group": lambda g, c: 1,
                "groups of 32 channels": lambda g, c: c // 32,
                "groups of 16 channels": lambda g, c: c // 16,
            }, "group_norm", groups_of, NORMS),
    Mistake("GroupNorm with strided groups", "a group is neighbouring channels", "group_norm", strided_groups, NORMS),
    *family("GroupNorm's statistics {}", "mean and deviation are per example and group, over all positions", {
                "per channel": group_norm_over(1),
                "over the batch (BatchNorm)": group_norm_over(0, 1),
                "over the batch, per group": group_norm_over(0, 1, 3),
                "per position over all channels (LayerNorm)": group_norm_over(2, 3),
                "with an unbiased variance": group_norm_over(1, 3, ddof=1),
                "with ε beside the root": group_norm_over(1, 3, beside=True),
                "without the mean": group_norm_over(1, 3, centre=False),
            }, "group_norm", lambda f: f, NORMS),
    Mistake("GroupNorm's statistics per position", "mean and deviation run over all positions, too", "group_norm",
            group_norm_over(3)),
    *family("GroupNorm {}", "y = γ·x̂ + β", {
                "without γ": {"scale": np.ones_like}, "without β": {"shift": np.zeros_like},
                "without γ and β": {"scale": np.ones_like, "shift": np.zeros_like},
                "with 1 + γ": {"scale": lambda gamma: 1 + gamma}, "with γ and β exchanged": {},
            }, "group_norm", lambda how: group_norm_over(1, 3, **how) if how else (
                lambda x, gamma, beta, eps, groups=32: group_norm(x, beta, gamma, eps, groups)), NORMS),
    Mistake("ReLU after the max-pool", "the same result, one ReLU later", stage="stem/relu_root",
            tap=lambda name, array, seen, config: seen["stem/gn_root"] if name == "stem/relu_root" else
            np.maximum(array, 0) if name == "stem/pool" else array),
    *family("{} for ReLU", "take max(x, 0)", {
                "absolute value": np.abs, "leaky ReLU (0.01)": lambda x: np.where(x > 0, x, 0.01 * x),
                "leaky ReLU (0.1)": lambda x: np.where(x > 0, x, 0.1 * x),
                "leaky ReLU (0.2)": lambda x: np.where(x > 0, x, 0.2 * x), "nothing": lambda x: x + 0,
                "ReLU6": lambda x: np.clip(x, 0, 6), "GELU": lambda x: gelu_tanh(x)[0],
                "SiLU": lambda x: x / (1 + np.exp(-x)), "ELU": lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))),
                "softplus": lambda x: np.logaddexp(x, 0), "max(−x, 0)": lambda x: np.maximum(-x, 0), "tanh": np.tanh,
            }, "relu", lambda f: lambda x: (f(x), None), "stem/[ro]*"),  # the last one gives stem/output
    *[Mistake(f"ReLU missing: {name}", f"apply a ReLU to {before}", stage=f"stem/{name}",
              tap=at(f"stem/{name}", lambda array, seen, config, before=before: seen[f"stem/{before}"]))
      for name, before in RECTIFIED.items()],
    *family("{}", 'a maximum over 3 × 3, padded "SAME": 0 before and 1 after', {
                "max-pool padded on both sides": pooled(pad_of(1, 1)),
                "max-pool padded before only": pooled(pad_of(1, 0)),
                "average pooling": pooled(reduce=np.mean),
                "minimum pooling": pooled(reduce=np.min), "max-pool over 2 × 2": pooled(window=2),
                "max-pool replaced by a stride": pooled(window=1), "average pooling over 2 × 2": pooled(
                    pad_same, np.mean, 2),
            }, "max_pool", lambda f: f, "stem/pool"),
    Mistake("max-pool padded with 0", "pad with −∞, which never wins", "max_pool", pooled()),
    Mistake("last ReLU of the stem missing", "end the bottleneck with a ReLU", stage="stem/output",
            tap=at("stem/output", lambda a, seen, config: seen["stem/sum"])),
    *family("{}", "add the projected, normalised input of the bottleneck", {
                "shortcut missing": lambda s: s["stem/gn3"],
                "shortcut added twice": lambda s: s["stem/gn3"] + 2 * s["stem/gn_proj"],
                "shortcut not normalised": lambda s: s["stem/gn3"] + s["stem/conv_proj"],
                "shortcut alone": lambda s: s["stem/gn_proj"],
                "shortcut subtracted": lambda s: s["stem/gn3"] - s["stem/gn_proj"],
                "shortcut rectified": lambda s: s["stem/gn3"] + np.maximum(s["stem/gn_proj"], 0),
                "branch rectified before the sum": lambda s: np.maximum(s["stem/gn3"], 0) + s["stem/gn_proj"],
                "branches averaged": lambda s: (s["stem/gn3"] + s["stem/gn_proj"]) / 2,
            }, stage="stem/sum", tap=lambda f: at("stem/sum", lambda a, seen, config: f(seen))),
    *family("β of {} missing", "add the bias of the norm", NORMED, stage="stem/gn*",
            load=lambda n: without(f"stem/{n}/bias")),
    *family("parameters of {} exchanged", "read every layer's own parameters",
            {f"{a} and {b}": (f"stem/{a}", f"stem/{b}") for a, b in ALIKE},
            stage="stem/*", load=lambda pair: exchanged(*pair)),
    *family("{} has the other one's parameters", "read every layer's own parameters", {
                f"{a} of {b}:": (f"stem/{a}", f"stem/{b}") for pair in ALIKE for a, b in (pair, pair[::-1])
            }, stage="stem/*", load=lambda pair: changed(pair[0], lambda p, get: get(pair[1]))),
]  # fmt: skip
