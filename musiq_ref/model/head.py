"""From the class token to the score: a linear head, and the mean of the predicted distribution."""

from __future__ import annotations

from typing import Any, NamedTuple

from musiq_ref.backend import Array, namespace
from musiq_ref.model.parameters import Params
from musiq_ref.model.taps import Tap, no_tap
from musiq_ref.ops.linear import linear, linear_backward
from musiq_ref.ops.softmax import softmax, softmax_backward


def head(y, params: Params, tap: Tap = no_tap):
    """logits = y[class]·W + b, the class token being the first              (Eq. 5 and SPEC 4)

    y: (B, N, D)
    logits: (B, C)
    """
    logits, cache = linear(tap("class_token", y[:, 0]), params["kernel"], params["bias"])
    return tap("logits", logits), (cache, y.shape)


def head_backward(dlogits, cache, tap: Tap = no_tap):
    """Returns (dy, dparams); only the class token is read, so only its gradient is not zero."""
    cache_linear, shape = cache
    xp = namespace(dlogits)
    dtoken, dkernel, dbias = linear_backward(tap("logits", dlogits), cache_linear)
    dy = xp.zeros(shape, dtype=dtoken.dtype)
    dy[:, 0] = tap("class_token", dtoken)
    return dy, {"kernel": dkernel, "bias": dbias}


class Expected(NamedTuple):
    """The answers of a model.

    score: (B,)
    distribution: (B, C), of which the scores are the means; None with a single output
    """

    score: Any
    distribution: Any


def expected_score(logits: Array) -> tuple[Expected, Any]:
    """One output: the score itself. Several: p = softmax(logits), score = Σ_k k·p_k, k = 1…C   (SPEC 4)

    logits: (B, C)
    returns Expected(score (B,), distribution (B, C) or None), cache

    Of several crops of one image pyiqa averages p before taking the mean: the same as averaging the scores.

    >>> import numpy as np
    >>> expected, cache = expected_score(np.zeros((1, 10)))
    >>> expected.score.round(6), expected_score_backward(np.ones(1), cache)[0, :2].round(2)
    (array([5.5]), array([-0.45, -0.35]))
    """
    outputs = logits.shape[-1]
    if outputs == 1:
        return Expected(logits[:, 0], None), (None, outputs)
    xp = namespace(logits)
    p, cache = softmax(logits)
    k = xp.arange(1, outputs + 1, dtype=logits.dtype)
    return Expected(xp.sum(p * k, axis=-1), p), (cache, outputs)


def expected_score_backward(dscore: Array, cache: Any) -> Array:
    """dlogits_k = dscore·p_k·(k − score)

    dscore: (B,)
    dlogits: (B, C)

    >>> import numpy as np
    >>> _, cache = expected_score(np.array([[2.5]]))
    >>> expected_score_backward(np.ones(1), cache)
    array([[1.]])
    """
    cache_softmax, outputs = cache
    if outputs == 1:
        return dscore[:, None]
    xp = namespace(dscore)
    k = xp.arange(1, outputs + 1, dtype=dscore.dtype)
    return softmax_backward(dscore[:, None] * k, cache_softmax)
