"""From the class token to the score, as people get it wrong (SPEC 4)."""

from __future__ import annotations

import numpy as np

from musiq_ref.model.head import Expected, expected_score, head
from musiq_ref.model.taps import no_tap
from musiq_ref.ops.activation import gelu_tanh
from musiq_ref.ops.linear import linear
from musiq_ref.ops.softmax import softmax
from musiq_ref.verify.mistakes.mistake import Mistake, at, family, latest


def last_token(y, params, tap=no_tap):
    return head(y[:, ::-1], params, tap)


def head_of(change):
    """`head` of a changed class token."""

    def logits(y, params, tap=no_tap):
        x, _ = linear(change(tap("class_token", y[:, 0])), params["kernel"], params["bias"])
        return tap("logits", x), None

    return logits


def head_without_bias(y, params, tap=no_tap):
    return head(y, {**params, "bias": 0 * params["bias"]}, tap)


def read(change):
    """A tap that reads change(tokens (B, 1 + N, D), valid (N,)) instead of the class token."""
    return at(
        "head/class_token", lambda array, seen, config: change(seen["encoder/norm"], seen["mask"][0].astype(bool))
    )


def expected(score=lambda p, k: (p * k).sum(axis=-1), probabilities=lambda x: softmax(x)[0]):
    """`expected_score` with another rule for the score or for the probabilities."""

    def rule(logits):
        right, cache = expected_score(logits)
        if logits.shape[-1] == 1:
            return right, cache
        p = probabilities(logits)
        return Expected(score(p, np.arange(1, p.shape[-1] + 1, dtype=p.dtype)), p), cache

    return rule


SCORE, MEAN = "expected_score", "the score is the mean of the distribution over the classes 1 … C"
SOFTMAX = "take the softmax of the logits, once"

MISTAKES = [
    *family("{}", "read the class token, the first", {
                "mean of the tokens": lambda z, valid: z[:, 1:][:, valid].mean(axis=1),
                "mean of the tokens, the class token included": lambda z, valid: z[:, np.r_[True, valid]].mean(axis=1),
                "mean of all tokens, padding included": lambda z, valid: z[:, 1:].mean(axis=1),
                "mean of all tokens, the class token and padding included": lambda z, valid: z.mean(axis=1),
                "maximum of the tokens": lambda z, valid: z[:, 1:][:, valid].max(axis=1),
                "maximum of the tokens, the class token included": lambda z, valid: (
                    z[:, np.r_[True, valid]].max(axis=1)),
                "maximum of all tokens, the class token and padding included": lambda z, valid: z.max(axis=1),
                "second token read, the first patch": lambda z, valid: z[:, 1],
                "last valid token read": lambda z, valid: z[:, 1:][:, valid][:, -1],
            }, stage="head/class_token", tap=read),
    Mistake("class token read before the final norm", "read it after the final norm", stage="head/class_token",
            tap=at("head/class_token", lambda a, seen, config: latest(seen, "/output")[:, 0])),
    Mistake("last token read", "read the class token, the first", "head", last_token, "head/class_token"),
    Mistake("head without bias", "add the bias of the head", "head", head_without_bias, "head/logits"),
    *family("head reads the class token through {}", "logits = y·W + b", {
                "tanh": np.tanh, "a ReLU": lambda y: np.maximum(y, 0), "a GELU": lambda y: gelu_tanh(y)[0],
            }, "head", head_of, "head/logits"),
    *family("logits {}", "logits = y·W + b", {
                "negated": lambda a: -a, "in reverse order": lambda a: a[:, ::-1],
                "rectified": lambda a: np.maximum(a, 0), "through a sigmoid": lambda a: 1 / (1 + np.exp(-a)),
            }, stage="head/logits", tap=lambda f: at("head/logits", lambda a, seen, config: f(a)),
            when=lambda config: config.outputs > 1),
    *family("{}", SOFTMAX, {
                "head without softmax": lambda x: x, "sigmoid for softmax": lambda x: 1 / (1 + np.exp(-x)),
                "softmax twice": lambda x: softmax(softmax(x)[0])[0],
                "logarithm of the softmax": lambda x: np.log(softmax(x)[0]),
                "softmax of the negative logits": lambda x: softmax(-x)[0], "exp without its sum": np.exp,
                "probabilities in reverse order": lambda x: softmax(x)[0][..., ::-1],
                "sigmoid divided by its sum": lambda x: (p := 1 / (1 + np.exp(-x))) / p.sum(-1, keepdims=True),
                "logits divided by their sum": lambda x: x / x.sum(-1, keepdims=True),
            }, SCORE, lambda f: expected(probabilities=f), "probabilities", "score"),
    *family("softmax with temperature {}", SOFTMAX, ("0.5", "2", "10", "0.1"), SCORE,
            lambda t: expected(probabilities=lambda x: softmax(x / float(t))[0]), "probabilities", "score"),
    *family("{}", MEAN, {
                "scores 0 … C−1": lambda p, k: (p * (k - 1)).sum(-1),
                "most likely class": lambda p, k: 1.0 + p.argmax(-1),
                "most likely class, from 0": lambda p, k: 0.0 + p.argmax(-1),
                "score divided by C": lambda p, k: (p * k).sum(-1) / k[-1],
                "score times 10": lambda p, k: 10 * (p * k).sum(-1),
                "score times 100/C": lambda p, k: (p * k).sum(-1) * 100 / k[-1],
                "score from 0 to 1": lambda p, k: (p * (k - 1)).sum(-1) / (k[-1] - 1),
                "score from 0 to 100": lambda p, k: (p * (k - 1)).sum(-1) / (k[-1] - 1) * 100,
                "classes counted down": lambda p, k: (p * k[::-1]).sum(-1),
                "mean of the probabilities": lambda p, k: p.mean(-1),
                "last class left out": lambda p, k: (p * k)[..., :-1].sum(-1),
                "root of the mean of the squared classes": lambda p, k: np.sqrt((p * k * k).sum(-1)),
                "largest probability": lambda p, k: p.max(-1),
                "median class": lambda p, k: 1.0 + (p.cumsum(-1) < 0.5).sum(-1),
                "mean of the squared classes": lambda p, k: (p * k * k).sum(-1),
                "score of the wrong sign": lambda p, k: -(p * k).sum(-1),
                "classes from 0 to C in equal steps": lambda p, k: (p * np.linspace(0, k[-1], len(k))).sum(-1),
                "classes 0.5 … C − 0.5": lambda p, k: (p * (k - 0.5)).sum(-1),
            }, SCORE, expected, "score", "score"),
]  # fmt: skip
