"""Backwards of the Performer and the Linformer, as people get them wrong. Each takes what the right one takes."""

from __future__ import annotations

import numpy as np

from musiq_ref.model.linformer import compress_backward, linformer_backward
from musiq_ref.model.performer import performer_backward
from musiq_ref.verify.mistakes.gradients import tapped
from musiq_ref.verify.mistakes.mistake import Mistake


def performer_wrong(change):
    """`performer_backward` of changed factors: change(phi_q, phi_k, v, summary, total, heads) -> the same six."""

    def backward(dy, cache, *tap):
        return performer_backward(dy, {**cache, "factors": change(*cache["factors"])}, *tap)

    return backward


def linformer_wrong(change):
    """`linformer_backward` of changed factors: change(q, k, v, weights, scale, two) -> the same six."""

    def backward(dy, cache, *tap):
        return linformer_backward(dy, {**cache, "factors": change(*cache["factors"])}, *tap)

    return backward


def exchanged(dy, cache, *tap):
    dz, dparams = linformer_backward(dy, cache, *tap)
    return dz, {**dparams, **({"E": dparams["F"], "F": dparams["E"]} if "F" in dparams else {})}


def left_in_front(dy, cache):
    closed, matrix, valid, order = cache
    places = np.broadcast_to(np.arange(order.shape[1]), order.shape)
    return compress_backward(dy, (closed, matrix, valid, places))


def through_padding(dy, cache):
    closed, matrix, valid, order = cache
    return compress_backward(dy, (closed, matrix, np.ones_like(valid), order))


def first_image_only(dy, cache):
    closed, matrix, valid, order = cache
    dx, _ = compress_backward(dy, cache)
    return dx, compress_backward(dy[:1], (closed[:1], matrix, valid[:1], order[:1]))[1]


MISTAKES = [
    Mistake("Performer: normaliser taken as constant", "it depends on queries and keys", "performer_backward",
            performer_wrong(lambda q, k, v, summary, total, heads: (q, k, v, summary, total, 0 * heads))),
    Mistake("Performer: not divided by the normaliser", "the sums' gradients are divided by it, too",
            "performer_backward",
            performer_wrong(lambda q, k, v, summary, total, heads: (q, k, v, summary, 0 * total + 1, heads))),
    Mistake("Performer: heads exchanged", "each head's gradient is its own", "performer_backward",
            performer_wrong(lambda q, k, v, summary, total, heads: (q, k, v[:, ::-1], summary, total, heads))),
    Mistake("Performer: no gradient to the queries' features", "they depend on z", "performer_backward",
            tapped(performer_backward, "query_features", np.zeros_like)),
    Mistake("Performer: no gradient to the keys' features", "they depend on z", "performer_backward",
            tapped(performer_backward, "key_features", np.zeros_like)),
    Mistake("Linformer: 1/√D_h forgotten", "dQ and dK have the factor of the logits", "linformer_backward",
            linformer_wrong(lambda q, k, v, weights, scale, two: (q, k, v, weights, 1.0, two))),
    Mistake("Linformer: gradients of E and F exchanged", "E sums the keys, F the values", "linformer_backward",
            exchanged),
    Mistake("Linformer: no gradient to the weights", "they depend on queries and keys", "linformer_backward",
            tapped(linformer_backward, "compressed_weights", np.zeros_like)),
    Mistake("Linformer: rows not put back", "the tokens' gradients belong where the tokens were", "compress_backward",
            left_in_front),
    Mistake("Linformer: gradient to padding", "what was zeroed gets none", "compress_backward", through_padding),
    Mistake("Linformer: E's gradient of the first image only", "sum over the batch, too", "compress_backward",
            first_image_only),
]  # fmt: skip
