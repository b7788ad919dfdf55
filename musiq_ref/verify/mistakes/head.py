"""From the class token to the score, as people get it wrong (SPEC 4)."""

from __future__ import annotations

import numpy as np

from musiq_ref.model.head import Expected, expected_score, head
from musiq_ref.model.taps import no_tap
from musiq_ref.ops.softmax import softmax
from musiq_ref.verify.mistakes.mistake import Mistake, at


def last_token(y, params, tap=no_tap):
    return head(y[:, ::-1], params, tap)


def head_without_bias(y, params, tap=no_tap):
    return head(y, {**params, "bias": 0 * params["bias"]}, tap)


def mean_of_tokens(array, seen, config):
    return seen["encoder/norm"][:, 1:][seen["mask"].astype(bool)].mean(axis=0, keepdims=True)


def expected(score=lambda p, k: (p * k).sum(axis=-1), probabilities=lambda x: softmax(x)[0]):
    """`expected_score` with another rule for the score or for the probabilities."""

    def rule(logits):
        right, cache = expected_score(logits)
        if logits.shape[-1] == 1:
            return right, cache
        p = probabilities(logits)
        return Expected(score(p, np.arange(1, p.shape[-1] + 1, dtype=p.dtype)), p), cache

    return rule


SCORE = "expected_score"

MISTAKES = [
    Mistake("mean of the tokens", "read the class token", stage="head/class_token",
            tap=at("head/class_token", mean_of_tokens)),
    Mistake("last token read", "read the class token, the first", "head", last_token, "head/class_token"),
    Mistake("head without bias", "add the bias of the head", "head", head_without_bias, "head/logits"),
    Mistake("head without softmax", "take the softmax of the logits",
            SCORE, expected(probabilities=lambda x: x), "probabilities", "score"),
    Mistake("sigmoid for softmax", "take the softmax of the logits",
            SCORE, expected(probabilities=lambda x: 1 / (1 + np.exp(-x))), "probabilities", "score"),
    Mistake("scores 0 … C−1", "the classes are 1 … C",
            SCORE, expected(lambda p, k: (p * (k - 1)).sum(-1)), "score", "score"),
    Mistake("most likely class", "the score is the mean of the distribution",
            SCORE, expected(lambda p, k: 1.0 + p.argmax(-1)), "score", "score"),
    Mistake("score divided by C", "the classes are 1 … C",
            SCORE, expected(lambda p, k: (p * k).sum(-1) / k[-1]), "score", "score"),
]  # fmt: skip
