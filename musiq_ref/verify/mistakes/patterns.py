"""What a wrong result looks like: common mistakes of each op, and patterns that any array of wrong numbers can show."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from musiq_ref.backend import erf
from musiq_ref.ops import activation, convolution, layer_norm, max_pool, softmax, weight_standardization


def _normalised(x, axis, eps, ddof=0, root_then_eps=False):
    centred = x - x.mean(axis=axis, keepdims=True)
    n = math.prod(x.shape[a] for a in np.atleast_1d(axis))
    variance = (centred**2).sum(axis=axis, keepdims=True) / max(n - ddof, 1)
    return centred / (np.sqrt(variance) + eps if root_then_eps else np.sqrt(variance + eps))


def _layer_norm(eps=1e-6, **how):
    return lambda x, gamma, beta, *_: gamma * _normalised(x, -1, eps, **how) + beta


def _group_norm(change: Callable[[np.ndarray], np.ndarray]):
    def forward(x, gamma, beta, eps, groups=32):
        return gamma * change(x.reshape(x.shape[0], -1, groups, x.shape[-1] // groups)).reshape(x.shape) + beta

    return forward


def _strided_groups(x, gamma, beta, eps, groups=32):
    """Groups of channels c, c + G, c + 2G, … instead of neighbours."""
    grouped = x.reshape(x.shape[0], -1, x.shape[-1] // groups, groups)
    return gamma * _normalised(grouped, (1, 2), eps).reshape(x.shape) + beta


def _layer_norm_backward(mean=True, along=True, rho=True):
    def backward(dy, cache):
        xhat, r, gamma = cache
        d = dy * gamma
        dx = (
            d - (d.mean(-1, keepdims=True) if mean else 0) - (xhat * (d * xhat).mean(-1, keepdims=True) if along else 0)
        )
        return (r if rho else 1) * dx, *layer_norm.layer_norm_backward(dy, cache)[1:]

    return backward


def _even_padding(x, kernel, stride=1):
    size = kernel.shape[0]
    padded = np.pad(x, ((0, 0), (size // 2,) * 2, (size // 2,) * 2, (0, 0)))
    n = [math.ceil(x.shape[axis] / stride) for axis in (1, 2)]
    view = convolution.windows(padded, size, stride)[:, : n[0], : n[1]]
    return np.einsum("nijabc,abco->nijo", view, kernel)


def _zero_padded_pool(x, size=3, stride=2):
    view = convolution.windows(convolution.pad_same(x, size, stride), size, stride)
    return view.max(axis=(3, 4))


def _pool_everywhere(dy, cache):
    """The gradient to every place that equals the maximum, not only to the first."""
    padded, y, shape, size, stride = cache
    dpadded = np.zeros_like(padded)
    for here, d in zip(
        max_pool._shifts(padded, shape, size, stride), max_pool._shifts(dpadded, shape, size, stride), strict=True
    ):
        d += dy * (here == y)
    return convolution.unpad_same(dpadded, shape, size, stride)


RIVALS: dict[str, dict[str, Callable[..., Any]]] = {
    "relu": {"it is |x|, not max(x, 0)": lambda x: np.abs(x)},
    "gelu_tanh": {
        "it is the exact GELU, with erf; the authors use the tanh approximation": lambda x: activation.gelu_erf(x)[0],
        "it is x·sigmoid(1.702·x), a cruder approximation": lambda x: x / (1 + np.exp(-1.702 * x)),
        "√(2/π) seems to multiply only x, not the cube": lambda x: (
            x / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * x + 0.044715 * x**3))
        ),
    },
    "gelu_erf": {
        "it is the tanh approximation; this is the exact GELU": lambda x: activation.gelu_tanh(x)[0],
        "erf takes x/√2, not x": lambda x: x / 2 * (1 + erf(x)),
    },
    "softmax": {
        "the sum runs over the wrong axis; it is the last": lambda x: softmax.softmax(x.swapaxes(-1, -2))[0].swapaxes(
            -1, -2
        ),
        "the sum runs over the whole array; it is over the last axis": lambda x: softmax.softmax(x.ravel())[0].reshape(
            x.shape
        ),
        "it is exp(x), not divided by its sum": lambda x: np.exp(x),
    },
    "layer_norm": {
        "the variance is divided by D − 1; divide by D": _layer_norm(ddof=1),
        "ε is 1e-5; here it is 1e-6": _layer_norm(1e-5),
        "ε is 1e-12; here it is 1e-6": _layer_norm(1e-12),
        "ε is added to the standard deviation; add it to the variance": _layer_norm(root_then_eps=True),
        "γ and β are left out": lambda x, *_: _normalised(x, -1, 1e-6),
        "mean and variance run over the wrong axis": lambda x, gamma, beta, *_: gamma * _normalised(x, -2, 1e-6) + beta,
    },
    "group_norm": {
        "the statistics are per channel; they are per group": _group_norm(lambda g: _normalised(g, (1,), 1e-4)),
        "the statistics are per position; they run over all positions": _group_norm(
            lambda g: _normalised(g, (3,), 1e-4)
        ),
        "ε is 1e-5; it is the fourth argument": _group_norm(lambda g: _normalised(g, (1, 3), 1e-5)),
        "a group is neighbouring channels, not every G-th": _strided_groups,
    },
    "standardize": {
        "the deviation is divided by n − 1 (PyTorch's default); the authors divide by n": lambda w, ddof=0: (
            weight_standardization.standardize(w, 1)[0]
        ),
        "the deviation is divided by n; here it is n − 1": lambda w, ddof=0: weight_standardization.standardize(w, 0)[
            0
        ],
        "mean and deviation run over the whole kernel; they are per output channel": lambda w, ddof=0: (
            weight_standardization.standardize(w.reshape(*w.shape, 1), ddof)[0][..., 0]
        ),
    },
    "convolution": {
        "the kernel is flipped; this is a correlation, as in every deep-learning library": lambda x, k, s=1: (
            convolution.convolution(x, k[::-1, ::-1], s)[0]
        ),
        "the kernel's rows and columns are exchanged": lambda x, k, s=1: convolution.convolution(
            x, k.swapaxes(0, 1), s
        )[0],
        'the padding is the same on both sides; "SAME" puts the smaller half before': _even_padding,
    },
    "max_pool": {"the padding is 0; it must be −∞, so that it never wins": _zero_padded_pool},
    "expected_score": {
        "the classes count from 0; they are 1 … C": lambda x: (
            (softmax.softmax(x)[0] * np.arange(x.shape[1])).sum(-1) if x.shape[1] > 1 else x[:, 0]
        ),
        "the softmax is missing": lambda x: (x * np.arange(1, x.shape[1] + 1)).sum(-1),
    },
}
"""{op: {what is wrong: the forward that does it}}."""

BACKWARD_RIVALS: dict[str, dict[str, Callable[..., Any]]] = {
    "relu": {"the gradient passes where x < 0, too": lambda dy, y: dy},
    "gelu_tanh": {"it is the derivative of the exact GELU": activation.gelu_erf_backward},
    "gelu_erf": {"it is the derivative of the tanh approximation": activation.gelu_tanh_backward},
    "softmax": {
        "the term −y·Σ dy·y is missing: every output depends on every input": lambda dy, y: y * dy,
        "the sum runs over the wrong axis": lambda dy, y: y * (dy - (dy * y).sum(-2, keepdims=True)),
    },
    "layer_norm": {
        "the term −mean(dx̂) is missing: μ depends on x": _layer_norm_backward(mean=False),
        "the term −x̂·mean(dx̂·x̂) is missing: σ depends on x": _layer_norm_backward(along=False),
        "μ and σ are treated as constants; both depend on x": _layer_norm_backward(mean=False, along=False),
        "the factor ρ = 1/σ is missing": _layer_norm_backward(rho=False),
    },
    "mask_logits": {"nothing flows to a logit that was replaced": lambda dy, cache: dy},
    "max_pool": {"of several equal maxima only the first gets the gradient": _pool_everywhere},
}
"""{op: {what is wrong: the backward that does it, of the reference's cache}}."""


def patterns(expected: np.ndarray, actual: np.ndarray, relatives: dict[str, Any]) -> Iterator[str]:
    """What the wrong numbers have in common with the right ones, the most telling first.

    relatives: other arrays of the same check, by name

    >>> next(patterns(np.array([1.0, 2.0]), np.array([-1.0, -2.0]), {}))
    'the sign is turned everywhere'
    """
    if not np.isfinite(actual).all():
        yield "there are values that are not finite; look for exp of large numbers and for divisions by 0"
        return
    if not actual.any():
        yield "it is zero everywhere"
        return
    for name, other in relatives.items():
        if np.shape(other) == actual.shape and _close(actual, np.asarray(other)):
            yield f"it equals {name}: a mix-up"
    ratio = (expected * actual).sum() / max((expected * expected).sum(), 1e-300)
    if ratio and _close(actual, ratio * expected):
        if abs(ratio + 1) < 1e-6:
            yield "the sign is turned everywhere"
        else:
            yield f"it is {ratio:.6g} times what it should be, everywhere"
    if actual.ndim > 1:
        for a in range(actual.ndim - 1):
            if expected.shape[a] == expected.shape[-1] and _close(actual, expected.swapaxes(a, -1)):
                yield f"axes {a} and {actual.ndim - 1} are exchanged"
    for axis in range(actual.ndim):
        if actual.shape[axis] > 1 and _close(actual, np.flip(expected, axis)):
            yield f"axis {axis} is in reverse order"
    right = np.isclose(actual, expected, rtol=1e-6, atol=1e-12 + 1e-9 * float(np.abs(expected).max()))
    if right.any() and not right.all():
        for axis, n in enumerate(actual.shape):
            wrong = np.flatnonzero(~right.all(axis=tuple(a for a in range(actual.ndim) if a != axis)))
            if len(wrong) < n:
                yield f"only indices {wrong.tolist()} of axis {axis} (of {n}) have wrong values"
                return
        yield f"{(~right).sum()} of {right.size} values are wrong"


def _close(a: np.ndarray, b: np.ndarray) -> bool:
    return bool(np.allclose(a, b, rtol=1e-7, atol=1e-9 * float(np.abs(b).max(initial=0))))
