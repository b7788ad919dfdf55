"""Attention, as people get it wrong (Eq. 6–11)."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import combinations

import numpy as np

from musiq_ref.model.attention import allowed_pairs, attention, project
from musiq_ref.model.noise import NO_NOISE
from musiq_ref.model.taps import no_tap
from musiq_ref.ops.linear import linear
from musiq_ref.ops.softmax import mask_logits, softmax
from musiq_ref.verify.mistakes.mistake import Mistake, at, family, latest
from musiq_ref.verify.mistakes.weights import PARTS, everywhere, fused, in_blocks, misread, turned

# --- attention -------------------------------------------------------------------------------------------------------


def heads_interleaved(z, params):
    """The width split into (D_h, H) instead of (H, D_h)."""
    D, H, D_h = params["kernel"].shape
    y, _ = linear(z, params["kernel"].reshape(D, -1), params["bias"].reshape(-1))
    return np.moveaxis(y.reshape(*z.shape[:-1], D_h, H), -1, 1), None


def heads_not_moved(z, params):
    """(N, H, D_h) read as (H, N, D_h) without a transposition."""
    y, _ = project(z, params)
    return y.swapaxes(1, 2).reshape(y.shape), None


def merged(change, kernel=lambda k: k, bias=lambda b: b):
    """`merge` of changed heads (B, H, N, D_h) -> flat in the wrong order; or with another kernel."""

    def out(heads, params):
        D = params["kernel"].shape[-1]
        flat = change(heads).reshape(heads.shape[0], -1, D)
        return linear(flat, kernel(params["kernel"].reshape(D, D)), bias(params["bias"]))

    return out


def regrouped(count: Callable[[int], int]):
    """`attention` with another number of heads, count(H)."""

    def run(z, allowed, params, conventions, tap=no_tap, noise=NO_NOISE):
        D, H, _ = params["query"]["kernel"].shape
        shape = count(H), D // count(H)
        if math.prod(shape) != D:
            raise ValueError(f"{count(H)} heads do not divide {D}")
        other = {n: {"kernel": p["kernel"].reshape(D, *shape), "bias": p["bias"].reshape(shape)}
                 for n, p in params.items() if n != "out"}  # fmt: skip
        other["out"] = {**params["out"], "kernel": params["out"]["kernel"].reshape(*shape, D)}
        return attention(z, allowed, other, conventions, tap)

    return run


def split_as(order):
    """`attention` that computes query, key and value as one, rightly, and splits them in another order."""

    def run(z, allowed, params, conventions, tap=no_tap, noise=NO_NOISE):
        def shown(name, array):
            if name not in PARTS:
                return tap(name, array)
            tap(name, project(z, params[name])[0])
            return array

        return attention(z, allowed, misread(params, order), conventions, shown)

    return run


def scaled(by):
    """A tap that multiplies the logits by by(config)."""
    return at("attention/logits", lambda a, seen, config: a * by(config))


def masked_with(value):
    """`mask_logits` with a value that does not hide a token."""
    return lambda x, allowed, how, _: mask_logits(x, allowed, "add", value)


def masked_by_key(x, allowed, how, value):
    return mask_logits(x, np.broadcast_to(allowed.any(axis=-2, keepdims=True), allowed.shape), how, value)


def pairs(rule):
    """`allowed_pairs` by another rule(valid (B, N)) -> (B, 1, N, N)."""
    return lambda valid: np.broadcast_to(rule(valid), allowed_pairs(valid).shape)


def of_weights(change):
    """A tap that changes the attention weights, change(weights, logits, allowed pairs)."""

    def tapped(a, seen, config):
        mask = np.asarray(seen["mask"]).astype(bool)
        valid = np.concatenate([np.ones((len(mask), 1), bool), mask], axis=1)
        return change(a, latest(seen, "attention/logits"), allowed_pairs(valid))

    return at("attention/weights", tapped)


def softmax_over(axis):
    def over(x):
        y, _ = softmax(x.swapaxes(axis, -1))
        return y.swapaxes(axis, -1), None

    return over


def softmax_over_everything(x):
    return softmax(x.ravel())[0].reshape(x.shape), None


def divided(x):
    """Each row divided by its sum, without exp."""
    return x / x.sum(axis=-1, keepdims=True), None


BLOCKS = "encoder/block_*/"

# --- dropout left on -------------------------------------------------------------------------------------------------


def dropped(array, seen, config):
    keep = np.random.default_rng().random(array.shape) >= 0.1
    return array * (keep / 0.9).astype(array.dtype)


def looks_dropped(reference: np.ndarray, mine: np.ndarray) -> bool:
    """Whether some values are 0, and all others one factor too large, the factor that goes with that share.

    >>> looks_dropped(np.ones(8), np.array([2.0, 0, 2, 0, 0, 2, 2, 0]))
    True
    """
    used = np.abs(reference) > 1e-3 * np.abs(reference).max()
    ratio = mine[used] / reference[used]
    kept = ratio[ratio != 0]
    if kept.size in (0, ratio.size):
        return False
    factor = float(np.median(kept))
    share = 1 - kept.size / ratio.size
    return bool(np.abs(kept / factor - 1).max() < 1e-2) and factor > 1 and abs(1 - 1 / factor - share) < 0.05


def dropout(name, stage):
    """Dropout of a stage left on."""
    tap = at(stage.removeprefix(BLOCKS), dropped)
    return Mistake(name, "switch dropout off (model.eval())", stage=stage, tap=tap, recognise=looks_dropped)


LOGITS, WEIGHTS, OUT = BLOCKS + "attention/logits", BLOCKS + "attention/weights", BLOCKS + "attention/out"
HEADS = "split the width into (heads, head width), in this order"
SQUARE = {n: (f"*/attention/{n}/kernel", f"{BLOCKS}attention/{n}") for n in PARTS}
FUSED = "they lie side by side, each as (heads, head width)"
ORDERS = {
    "(heads, three, head width)": (1, 0, 2), "(heads, head width, three)": (1, 2, 0),
    "(head width, three, heads)": (2, 0, 1), "(head width, heads, three)": (2, 1, 0),
}  # fmt: skip
COUNTS: dict[str, Callable[[int], int]] = {
    "twice as many": lambda H: 2 * H, "half as many": lambda H: H // 2, "one head for all": lambda H: 1,
    "three times as many": lambda H: 3 * H, "as many as 8": lambda H: 8 if H != 8 else 4,
    "as many as 12": lambda H: 12 if H != 12 else 6,
}  # fmt: skip
"""{name: number of heads -> another}"""

MISTAKES = [
    Mistake("heads interleaved", HEADS, "project", heads_interleaved, BLOCKS + "attention/[qkv]*"),
    Mistake("heads not transposed", "(N, H, D_h) to (H, N, D_h) is a transposition, not a reshape",
            "project", heads_not_moved, BLOCKS + "attention/[qkv]*"),
    *(Mistake(f"{name} heads", HEADS, "attention", regrouped(count), BLOCKS + "attention/*",
              when=lambda config, count=count: config.width % max(count(config.heads), 1) == 0)
      for name, count in COUNTS.items()),
    *family("{}", "divide the logits by √(D/H), once", {
                "missing 1/√": lambda c: math.sqrt(c.head_width),
                "scaled by the model's width": lambda c: 1 / math.sqrt(c.heads),
                "logits divided by D/H": lambda c: 1 / math.sqrt(c.head_width),
                "logits multiplied by √(D/H)": lambda c: c.head_width,
                "logits divided by 8": lambda c: math.sqrt(c.head_width) / 8,
                "logits divided by √H": lambda c: math.sqrt(c.head_width / c.heads),
                "logits divided by D": lambda c: math.sqrt(c.head_width) / c.width,
                "logits doubled": lambda c: 2.0, "logits halved": lambda c: 0.5,
                "logits of the wrong sign": lambda c: -1.0,
            }, stage=LOGITS, tap=scaled),
    Mistake("queries and keys exchanged", "logits are Q·Kᵀ, queries along the rows", stage=LOGITS,
            tap=at("attention/logits", lambda a, seen, config: a.swapaxes(-1, -2))),
    Mistake("mask not applied", "hide padded tokens from the softmax",
            "mask_logits", lambda x, allowed, how, value: (x, (allowed, how)), WEIGHTS, "mask"),
    *family("mask of {}", "add −1e10 to the logits of padded tokens", {"−1": -1.0, "−5": -5.0, "−10": -10.0, "1": 1.0},
            "mask_logits", masked_with, WEIGHTS, "mask"),
    *family("{}", "where a token is padding, its logits become −∞ before the softmax", {
                "mask multiplied with the logits": lambda x, allowed, how, value: (x * allowed, None),
                "mask added as 0 and 1": lambda x, allowed, how, value: (x + allowed, None),
                "logits filled with the smallest float": lambda x, allowed, *_: (np.where(allowed, x, 1e-38), None),
                "mask inverted in the attention": lambda x, allowed, how, value: mask_logits(x, ~allowed, how, value),
            }, "mask_logits", lambda f: f, WEIGHTS, "mask"),
    *family("{}", "hide padded tokens, and nothing else", {
                "class token masked": lambda v: allowed_pairs(np.concatenate([0 * v[:, :1], v[:, 1:]], 1).astype(bool)),
                "causal mask": lambda v: np.tril(allowed_pairs(v)),
                "mask shifted by the class token": lambda v: allowed_pairs(np.concatenate([v[:, 1:], v[:, :1]], 1)),
                "mask on queries only": lambda v: v[:, None, :, None] & np.ones_like(v)[:, None, None],
            }, "allowed_pairs", pairs, WEIGHTS, "mask"),
    *family("weights {}", "one softmax over the keys, after the mask", {
                "masked after the softmax": lambda w, x, a: softmax(x)[0] * a,
                "averaged over the heads": lambda w, x, a: np.broadcast_to(w.mean(1, keepdims=True), w.shape),
                "uniform": lambda w, x, a: np.full_like(w, 1 / w.shape[-1]),
                "after two softmaxes": lambda w, x, a: softmax(w)[0],
            }, stage=WEIGHTS, tap=of_weights),
    Mistake("mask on keys only", "harmless: rows of padded queries differ, and nothing reads them",
            "mask_logits", masked_by_key, "", "mask"),
    *family("{}", "normalise over the keys, the last axis", {
                "softmax over the queries": softmax_over(-2), "softmax over the heads": softmax_over(-3),
                "sigmoid for the attention's softmax": lambda x: (1 / (1 + np.exp(-x)), None),
                "softmax with 1 more in its sum": lambda x: (np.exp(x) / (1 + np.exp(x).sum(-1, keepdims=True)), None),
            }, "softmax", lambda f: f, WEIGHTS, where="attention"),
    Mistake("softmax over the whole array", "normalise over the last axis", "softmax", softmax_over_everything),
    Mistake("exp(x), not normalised", "divide by the sum over the last axis", "softmax", lambda x: (np.exp(x), None)),
    dropout("attention dropout on", WEIGHTS), dropout("dropout on the attention's output", OUT),
    *family("weights {} before the product", "heads = A·V", {
                "transposed": lambda a, v: a.swapaxes(-1, -2) @ v, "of the other heads": lambda a, v: a[:, ::-1] @ v,
                "of the first head for all": lambda a, v: np.broadcast_to(a[:, :1], a.shape) @ v,
            }, stage=BLOCKS + "attention/heads", tap=lambda f: at("attention/heads", lambda h, seen, config: f(
                latest(seen, "attention/weights"), latest(seen, "attention/value")))),
    *family("{}", "put the heads side by side before the out-projection: (N, H, D_h) to (N, D)", {
                "heads woven together": lambda h: np.moveaxis(h, 1, -1),
                "heads merged without a transposition": lambda h: h,
                "heads in reverse order": lambda h: h[:, ::-1].swapaxes(1, 2),
            }, "merge", merged, OUT),
    Mistake("transposed out-projection", "transpose the kernel of the out-projection",
            "merge", merged(lambda h: h.swapaxes(1, 2), kernel=lambda k: k.T), OUT),
    Mistake("out-projection without bias", "add the bias", "merge",
            merged(lambda h: h.swapaxes(1, 2), bias=lambda b: 0 * b), OUT),
    Mistake("out-projection missing", "multiply the heads by the out-projection",
            "merge", merged(lambda h: h.swapaxes(1, 2), kernel=lambda k: np.eye(len(k)), bias=lambda b: 0 * b), OUT),
    *[Mistake(f"kernel of {name} transposed", "a kernel is (D, H, D_h); (out, in) is transposed", stage=stage,
              load=everywhere(path, turned)) for name, (path, stage) in SQUARE.items()],
    *family("fused query, key and value read as {}", FUSED, ORDERS, stage=BLOCKS + "attention/[qkv]*", load=fused),
    *family("output of the fused query, key and value split as {}", FUSED, ORDERS, "attention", split_as, LOGITS),
    *family("{} exchanged", "read every layer's own parameters", {
                f"{what} of {one} and {other}": (f"attention/{one}{leaf}", f"attention/{other}{leaf}")
                for what, leaf in {"parameters": "", "kernels": "/kernel", "biases": "/bias"}.items()
                for one, other in combinations(PARTS, 2)
            }, stage=BLOCKS + "attention/[qkv]*", load=lambda parts: in_blocks(*parts)),
]  # fmt: skip
