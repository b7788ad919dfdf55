"""Embeddings and class token, as people get them wrong (Eq. 1 and 2)."""

from __future__ import annotations

import math

import numpy as np

from musiq_ref.model.embeddings import embed
from musiq_ref.model.noise import NO_NOISE
from musiq_ref.model.taps import no_tap
from musiq_ref.ops.embedding import sinusoidal_table
from musiq_ref.ops.linear import linear
from musiq_ref.verify.mistakes.attention import dropout
from musiq_ref.verify.mistakes.mistake import Mistake, at, family
from musiq_ref.verify.mistakes.weights import changed


def flattened(change):
    """`patch_embedding` of changed features (..., rows, columns, channels)."""

    def embedding(features, params):
        flat = change(features).reshape(*features.shape[:-3], -1)
        return linear(flat, params["kernel"], params["bias"])

    return embedding


def embed_with(table, change):
    """`embed` with one of its tables changed."""

    def embedded(x, hash_index, scale_index, params, config, tap=no_tap, noise=NO_NOISE):
        other = {**params, table: {"table": change(params[table]["table"])}} if table in params else params
        return embed(x, hash_index, scale_index, other, config, tap)

    return embedded


def grid_transposed(table):
    side = math.isqrt(len(table))
    return table.reshape(side, side, -1).swapaxes(0, 1).reshape(table.shape)


TABLES = {
    "missing": lambda t: 0 * t, "doubled": lambda t: 2 * t, "subtracted": lambda t: -t, "reversed": lambda t: t[::-1],
    "one row too far in the": lambda t: np.roll(t, -1, 0), "one row too early in the": lambda t: np.roll(t, 1, 0),
}  # fmt: skip
ADDED = {"spatial": "patch_embedding", "scale": "spatial_embedding"}  # what the rows of a table are added to

MISTAKES = [
    *family("features flattened {}", "flatten the stem's output as row, column, channel", {
                "channel first": lambda f: np.moveaxis(f, -1, -3), "column by column": lambda f: f.swapaxes(-2, -3),
                "channel, column, row": lambda f: f.swapaxes(-1, -3), "upside down": lambda f: f[..., ::-1, :, :],
                "turned by 180°": lambda f: f[..., ::-1, ::-1, :],
                "row, channel, column": lambda f: f.swapaxes(-1, -2),
            }, "patch_embedding", flattened, "patch_embedding"),
    *[m for table in ADDED for m in family(
        f"{{}} {table} embedding", f"add the row of the {table} table, as it is, once", TABLES, "embed",
        lambda change, table=table: embed_with(f"{table}_embedding", change), f"{table}_embedding")],
    *family("{} spatial embedding", "row r, column c of the grid is row r·G + c of the learned table", {
                "transposed": grid_transposed,
                "sinusoidal": lambda t: sinusoidal_table(math.isqrt(len(t)), t.shape[1]).astype(t.dtype),
            }, "embed", lambda change: embed_with("spatial_embedding", change), "spatial_embedding"),
    *family("{} embedding multiplied", "embeddings are added", ADDED.keys(), stage="*_embedding",
            tap=lambda table: at(f"{table}_embedding", lambda a, seen, config: (
                x := seen[ADDED[table]]) * (a - x))),
    *family("class token with {}", "add no embedding to the class token", {
                "a place": ("spatial", "scale"), "a spatial embedding": ("spatial",), "a scale embedding": ("scale",),
            }, stage="encoder/input", load=lambda tables: changed("class_token", lambda c, get: c + sum(
                get(f"{table}_embedding/table")[0] for table in tables))),
    *family("class token {}", "put the learned class token in front, once, as it is", {
                "missing": lambda c, x: (0 * c, x), "doubled": lambda c, x: (2 * c, x),
                "of the wrong sign": lambda c, x: (-c, x),
                "added to every token": lambda c, x: (c, c + x),
            }, stage="encoder/input", tap=lambda f: at("encoder/input", lambda a, seen, config: np.concatenate(
                f(a[:, :1], a[:, 1:]), 1))),
    Mistake("class token at the end", "put the learned class token in front, once, as it is", "with_class_token",
            lambda mask: np.pad(mask.astype(bool), ((0, 0), (0, 1)), constant_values=True), "encoder/input",
            tap=at("encoder/input", lambda a, seen, config: np.roll(a, -1, axis=1))),
    dropout("dropout on the patch embedding", "patch_embedding"),
    dropout("dropout on the embedded tokens", "encoder/input"),
    *family("embeddings {}", "do not scale or normalise the embedded tokens", {
                "scaled by √D": lambda a: a * math.sqrt(a.shape[-1]),
                "divided by √D": lambda a: a / math.sqrt(a.shape[-1]),
                "normalised": lambda a: (a - a.mean(-1, keepdims=True)) / np.sqrt(a.var(-1, keepdims=True) + 1e-6),
            }, stage="encoder/input", tap=lambda f: at("encoder/input", lambda a, seen, config: f(a))),
]  # fmt: skip
