"""Backwards of the Performer and the Linformer, as people get them wrong. Each takes what the right one takes."""

from __future__ import annotations

import numpy as np

from musiq_ref.model.linformer import compress_backward, linformer_backward
from musiq_ref.model.performer import performer_backward
from musiq_ref.verify.mistakes.gradients import factor, given, tapped, then
from musiq_ref.verify.mistakes.mistake import Mistake


def first_image_only(g, dy, cache):
    closed, matrix, valid, order = cache
    return g[0], compress_backward(dy[:1], (closed[:1], matrix, valid[:1], order[:1]))[1]


MISTAKES = [
    Mistake("Performer: normaliser taken as constant", "it depends on queries and keys", "performer_backward",
            factor(performer_backward, 5, lambda heads: 0 * heads)),
    Mistake("Performer: not divided by the normaliser", "the sums' gradients are divided by it, too",
            "performer_backward",
            factor(performer_backward, 4, np.ones_like)),
    Mistake("Performer: heads exchanged", "each head's gradient is its own", "performer_backward",
            factor(performer_backward, 2, lambda v: v[:, ::-1])),
    Mistake("Performer: no gradient to the queries' features", "they depend on z", "performer_backward",
            tapped(performer_backward, "query_features", np.zeros_like)),
    Mistake("Performer: no gradient to the keys' features", "they depend on z", "performer_backward",
            tapped(performer_backward, "key_features", np.zeros_like)),
    Mistake("Linformer: 1/√D_h forgotten", "dQ and dK have the factor of the logits", "linformer_backward",
            factor(linformer_backward, 4, lambda scale: 1.0)),
    Mistake("Linformer: gradients of E and F exchanged", "E sums the keys, F the values", "linformer_backward",
            then(linformer_backward, lambda g, dy, cache: (
                g[0], {**g[1], **({"E": g[1]["F"], "F": g[1]["E"]} if "F" in g[1] else {})}))),
    Mistake("Linformer: no gradient to the weights", "they depend on queries and keys", "linformer_backward",
            tapped(linformer_backward, "compressed_weights", np.zeros_like)),
    Mistake("Linformer: rows not put back", "the tokens' gradients belong where the tokens were", "compress_backward",
            given(compress_backward, lambda c: (*c[:3], np.broadcast_to(np.arange(c[3].shape[1]), c[3].shape)))),
    Mistake("Linformer: gradient to padding", "what was zeroed gets none", "compress_backward",
            given(compress_backward, lambda c: (*c[:2], np.ones_like(c[2]), c[3]))),
    Mistake("Linformer: E's gradient of the first image only", "sum over the batch, too", "compress_backward",
            then(compress_backward, first_image_only)),
]  # fmt: skip
