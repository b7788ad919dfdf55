"""Embeddings and encoder, as people get them wrong (Eq. 1–11)."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from musiq_ref.model.attention import allowed_pairs, attention, project
from musiq_ref.model.embeddings import embed
from musiq_ref.model.encoder import block_names, mlp, norm
from musiq_ref.model.noise import NO_NOISE
from musiq_ref.model.taps import no_tap, within
from musiq_ref.ops.activation import gelu_erf, gelu_tanh
from musiq_ref.ops.layer_norm import layer_norm
from musiq_ref.ops.linear import linear
from musiq_ref.ops.softmax import mask_logits, softmax
from musiq_ref.verify.mistakes.mistake import Mistake, at, family, latest
from musiq_ref.verify.mistakes.patterns import coarse
from musiq_ref.verify.mistakes.weights import blocks, changed, everywhere, exchanged, without

# --- embeddings ------------------------------------------------------------------------------------------------------


def flattened(change):
    """`patch_embedding` of changed features (..., rows, columns, channels)."""

    def embedding(features, params):
        flat = change(features).reshape(*features.shape[:-3], -1)
        return linear(flat, params["kernel"], params["bias"])

    return embedding


def embed_without(table):
    """`embed` with one of its tables taken as zero."""
    return embed_with(table, lambda rows: 0 * rows)


def embed_with(table, change):
    """`embed` with one of its tables changed."""

    def embedded(x, hash_index, scale_index, params, config, tap=no_tap, noise=NO_NOISE):
        other = {**params, table: {"table": change(params[table]["table"])}} if table in params else params
        return embed(x, hash_index, scale_index, other, config, tap)

    return embedded


def grid_transposed(table):
    side = math.isqrt(len(table))
    return table.reshape(side, side, -1).swapaxes(0, 1).reshape(table.shape)


def class_token_placed(x, hash_index, scale_index, params, config, tap=no_tap, noise=NO_NOISE):
    """The class token gets the first row of both tables, too."""
    extra = params["spatial_embedding"]["table"][0] + params["scale_embedding"]["table"][0]
    return embed(x, hash_index, scale_index, {**params, "class_token": params["class_token"] + extra}, config, tap)


# --- blocks ----------------------------------------------------------------------------------------------------------


def normalised(x, eps=1e-6, ddof=0, axis=-1, root_then_eps=False, centre=True):
    centred = x - x.mean(axis=axis, keepdims=True) if centre else x
    variance = (centred * centred).sum(axis=axis, keepdims=True) / max(x.shape[axis] - ddof, 1)
    return centred / (np.sqrt(variance) + eps if root_then_eps else np.sqrt(variance + eps))


def norm_with(scale=lambda gamma: gamma, shift=lambda beta: beta, **how):
    """`layer_norm` with another divisor or axis, ε elsewhere, or γ and β changed."""
    return lambda x, gamma, beta, eps=1e-6: (scale(gamma) * normalised(x, eps, **how) + shift(beta), None)


def norm_with_eps(eps):
    return lambda x, gamma, beta, _=1e-6: layer_norm(x, gamma, beta, eps)


def wired(first=lambda z, n, x: z + x, second=lambda z, n, x: z + x, norms=("norm1", "norm2"), after=None):
    """`block` with other residuals: first(z, LN(z), MSA(LN(z))), second(z, LN(z), MLP(LN(z))).

    norms: whose parameters are used; None for no norm
    """

    def run(z, allowed, params, conventions, tap=no_tap, noise=NO_NOISE, rate=0.0):
        def normed(z, name):
            return norm(z, params[name])[0] if name else z

        n = tap("norm1", normed(z, norms[0]))
        x, _ = attention(n, allowed, params["attention"], conventions, within(tap, "attention"))
        z = tap("residual1", first(z, n, x))
        n = tap("norm2", normed(z, norms[1]))
        x, _ = mlp(n, params["mlp"], conventions, within(tap, "mlp"))
        return tap("output", second(z, n, x)), None

    return run


def post_norm_block(z, allowed, params, conventions, tap=no_tap, noise=NO_NOISE, rate=0.0):
    """z′ = LN(MSA(z) + z);  z″ = LN(MLP(z′) + z′): the original Transformer's order."""
    x, _ = attention(tap("norm1", z), allowed, params["attention"], conventions, within(tap, "attention"))
    z, _ = norm(tap("residual1", z + x), params["norm1"])
    x, _ = mlp(tap("norm2", z), params["mlp"], conventions, within(tap, "mlp"))
    z, _ = norm(z + x, params["norm2"])
    return tap("output", z), None


def parallel_block(z, allowed, params, conventions, tap=no_tap, noise=NO_NOISE, rate=0.0):
    """Attention and MLP beside each other: z + MSA(LN(z)) + MLP(LN(z))."""
    n, _ = norm(z, params["norm1"])
    x, _ = attention(tap("norm1", n), allowed, params["attention"], conventions, within(tap, "attention"))
    residual = tap("residual1", z + x)
    n, _ = norm(z, params["norm2"])
    x, _ = mlp(tap("norm2", n), params["mlp"], conventions, within(tap, "mlp"))
    return tap("output", residual + x), None


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


# --- activations -----------------------------------------------------------------------------------------------------


def gelu_tanh_cube_outside(x):
    return x / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * x + 0.044715 * x * x * x)), None


def gelu_erf_unscaled(x):
    return gelu_erf(math.sqrt(2) * x)[0] / math.sqrt(2), None


ACTIVATIONS = {
    "quick GELU": lambda x: x / (1 + np.exp(-1.702 * x)), "ReLU in the MLP": lambda x: np.maximum(x, 0),
    "SiLU in the MLP": lambda x: x / (1 + np.exp(-x)), "no activation in the MLP": lambda x: x + 0,
    "ELU in the MLP": lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))),
    "leaky ReLU in the MLP": lambda x: np.where(x > 0, x, 0.01 * x),
    "mish in the MLP": lambda x: x * np.tanh(np.logaddexp(x, 0)), "softplus in the MLP": lambda x: np.logaddexp(x, 0),
    "squared ReLU in the MLP": lambda x: np.maximum(x, 0) ** 2, "tanh in the MLP": np.tanh,
    "sigmoid in the MLP": lambda x: 1 / (1 + np.exp(-x)), "ReLU6 in the MLP": lambda x: np.clip(x, 0, 6),
    "hard swish in the MLP": lambda x: x * np.clip(x + 3, 0, 6) / 6,
    "GELU with 1.7 for √(2/π)": lambda x: x / 2 * (1 + np.tanh(1.7 * (x + 0.044715 * x**3))),
    "GELU with 0.0044715": lambda x: x / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.0044715 * x**3))),
    "GELU without its half": lambda x: x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "GELU twice": lambda x: gelu_tanh(gelu_tanh(x)[0])[0], "exact GELU twice": lambda x: gelu_erf(gelu_erf(x)[0])[0],
}  # fmt: skip


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


# --- precision -------------------------------------------------------------------------------------------------------


def bfloat16(x):
    whole = np.ascontiguousarray(x, np.float32).view(np.uint32).astype(np.uint64)
    rounded = (whole + 0x7FFF + ((whole >> 16) & 1)) & 0xFFFF0000
    return rounded.astype(np.uint32).view(np.float32).astype(x.dtype)


def tf32(x):
    whole = np.ascontiguousarray(x, np.float32).view(np.uint32).astype(np.uint64)
    return ((whole + 0xFFF + ((whole >> 13) & 1)) & 0xFFFFE000).astype(np.uint32).view(np.float32).astype(x.dtype)


FORMATS = {"bfloat16": bfloat16, "float16": lambda x: x.astype(np.float16).astype(x.dtype), "TF32": tf32}


def kept_in(fmt):
    """A tap that keeps every stage in a coarser format."""
    return lambda name, array, seen, config: FORMATS[fmt](array) if array.dtype.kind == "f" else array


def looks_kept_in(fmt):
    """Whether all numbers are of a format, and near the right ones, which are not of it."""

    def looks(reference, mine):
        far = np.abs(mine - reference).max(initial=0) > 0.1 * np.abs(reference).max(initial=0)
        return bool(mine.size > 30 and not far and coarse(mine) == fmt and not coarse(reference))

    return looks


BLOCK, BLOCKS = "encoder/block_00/", "encoder/block_*/"
LOGITS, WEIGHTS, GELU = BLOCKS + "attention/logits", BLOCKS + "attention/weights", "gelu_tanh gelu_erf"
NORM, HEADS, OUT = "encoder/*norm*", "split the width into (heads, head width), in this order", BLOCKS + "attention/out"
BIASES = {  # part: (paths of its bias, where it shows)
    "patch embedding": ("patch_embedding/bias", "patch_embedding"),
    **{n: (f"*/attention/{n}/bias", BLOCKS + f"attention/{n}") for n in ("query", "key", "value")},
    "out-projection": ("*/attention/out/bias", OUT),
    "fc1": ("*/mlp/fc1/bias", BLOCKS + "mlp/fc1"), "fc2": ("*/mlp/fc2/bias", BLOCKS + "mlp/fc2"),
    "norm1": ("*/norm1/bias", BLOCKS + "norm1"), "norm2": ("*/norm2/bias", BLOCKS + "norm2"),
    "the final norm": ("encoder/norm/bias", "encoder/norm"), "the head": ("head/bias", "head/logits"),
}  # fmt: skip
SQUARE = {n: (f"*/attention/{n}/kernel", BLOCKS + f"attention/{n}") for n in ("query", "key", "value")}


def turned(kernel):
    """A (D, H, D_h) kernel loaded as its transpose."""
    return kernel.reshape(len(kernel), -1).T.reshape(kernel.shape)


def in_blocks(*parts):
    """Parts of every block, (first, second), in each other's place, or the second's for both."""

    def load(params, config):
        for k in range(config.layers):
            params = exchanged(*(f"encoder/block_{k:02d}/{p}" for p in parts))(params, config)
        return params

    return load


MISTAKES = [
    *family("features flattened {}", "flatten the stem's output as row, column, channel", {
                "channel first": lambda f: np.moveaxis(f, -1, -3), "column by column": lambda f: f.swapaxes(-2, -3),
                "channel, column, row": lambda f: f.swapaxes(-1, -3), "upside down": lambda f: f[..., ::-1, :, :],
                "row, channel, column": lambda f: f.swapaxes(-1, -2),
            }, "patch_embedding", flattened, "patch_embedding"),
    *family("{} spatial embedding", "add the hash-based spatial embedding", {
                "missing": lambda t: 0 * t, "doubled": lambda t: 2 * t, "transposed": grid_transposed,
                "one row too far in the": lambda t: np.roll(t, -1, 0), "one row too early in the": lambda t: np.roll(t, 1, 0),
                "subtracted": lambda t: -t, "reversed": lambda t: t[::-1],
            }, "embed", lambda change: embed_with("spatial_embedding", change), "spatial_embedding"),
    *family("{} scale embedding", "add the scale embedding", {
                "missing": lambda t: 0 * t, "doubled": lambda t: 2 * t, "reversed": lambda t: t[::-1],
                "one row too far in the": lambda t: np.roll(t, -1, 0), "subtracted": lambda t: -t,
            }, "embed", lambda change: embed_with("scale_embedding", change), "scale_embedding"),
    Mistake("class token with a place", "add no embedding to the class token",
            "embed", class_token_placed, "encoder/input"),
    *family("class token {}", "put the learned class token in front, once, as it is", {
                "missing": lambda a, c: np.concatenate([0 * a[:, :1], a[:, 1:]], 1),
                "doubled": lambda a, c: np.concatenate([2 * a[:, :1], a[:, 1:]], 1),
                "of the wrong sign": lambda a, c: np.concatenate([-a[:, :1], a[:, 1:]], 1),
                "at the end": lambda a, c: np.concatenate([a[:, 1:], a[:, :1]], 1),
                "added to every token": lambda a, c: np.concatenate([a[:, :1], a[:, 1:] + a[:, :1]], 1),
            }, stage="encoder/input", tap=lambda f: at("encoder/input", lambda a, seen, config: f(a, config))),
    *family("embeddings {}", "do not scale or normalise the embedded tokens", {
                "scaled by √D": lambda a, c: a * math.sqrt(c.width), "divided by √D": lambda a, c: a / math.sqrt(c.width),
                "normalised": lambda a, c: normalised(a),
            }, stage="encoder/input", tap=lambda f: at("encoder/input", lambda a, seen, config: f(a, config))),
    Mistake("post-norm", "normalise before each branch, not after", "block", post_norm_block, BLOCKS + "norm1"),
    Mistake("attention and MLP in parallel", "the MLP reads what the attention has been added to",
            "block", parallel_block, BLOCKS + "norm2"),
    *family("LayerNorm with ε {}", "ε is 1e-6 (PyTorch's default is 1e-5, Keras's 1e-3)", ("1e-5", "1e-3", "1e-4", "1e-2"),
            "layer_norm", lambda eps: norm_with_eps(float(eps)), NORM, "eps"),
    Mistake("LayerNorm with ε 1e-12", "ε is 1e-6", "layer_norm", norm_with_eps(1e-12)),
    Mistake("LayerNorm with ε beside the root", "add ε to the variance, not to the standard deviation",
            "layer_norm", norm_with(root_then_eps=True)),
    *family("LayerNorm {}", "y = γ·x̂ + β with mean and variance over the width, the variance divided by D", {
                "with unbiased variance": {"ddof": 1}, "over the tokens": {"axis": -2},
                "without the mean (RMS norm)": {"centre": False},
                "without γ and β": {"scale": np.ones_like, "shift": np.zeros_like},
                "without γ": {"scale": np.ones_like}, "without β": {"shift": np.zeros_like},
                "with 1 + γ": {"scale": lambda gamma: 1 + gamma},
            }, "layer_norm", lambda how: norm_with(**how), NORM),
    *family("{}", "norm1 before the attention, norm2 before the MLP, each with its own parameters", {
                "norm1 skipped": (None, "norm2"), "norm2 skipped": ("norm1", None),
                "norm1's parameters for norm2": ("norm1", "norm1"), "norm2's parameters for norm1": ("norm2", "norm2"),
                "norm1 and norm2 exchanged": ("norm2", "norm1"),
            }, "block", lambda norms: wired(norms=norms), BLOCKS + "norm*"),
    Mistake("heads interleaved", HEADS, "project", heads_interleaved, BLOCKS + "attention/[qkv]*"),
    Mistake("heads not transposed", "(N, H, D_h) to (H, N, D_h) is a transposition, not a reshape",
            "project", heads_not_moved, BLOCKS + "attention/[qkv]*"),
    *family("{} heads", HEADS, {
                "twice as many": lambda H: 2 * H, "half as many": lambda H: H // 2, "one head for all": lambda H: 1,
                "three times as many": lambda H: 3 * H, "as many as 8": lambda H: 8 if H != 8 else 4,
                "as many as 12": lambda H: 12 if H != 12 else 6,
            }, "attention", regrouped, BLOCKS + "attention/*"),
    *family("{}", "divide the logits by √(D/H), once", {
                "missing 1/√": lambda c: math.sqrt(c.head_width), "scaled by the model's width": lambda c: 1 / math.sqrt(c.heads),
                "logits divided by D/H": lambda c: 1 / math.sqrt(c.head_width), "logits multiplied by √(D/H)": lambda c: c.head_width,
                "logits divided by 8": lambda c: math.sqrt(c.head_width) / 8,
                "logits divided by √H": lambda c: math.sqrt(c.head_width / c.heads),
                "logits divided by D": lambda c: math.sqrt(c.head_width) / c.width,
                "logits doubled": lambda c: 2.0, "logits halved": lambda c: 0.5, "logits of the wrong sign": lambda c: -1.0,
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
                "logits filled with the smallest float": lambda x, allowed, how, value: (np.where(allowed, x, 1e-38), None),
                "mask inverted in the attention": lambda x, allowed, how, value: mask_logits(x, ~allowed, how, value),
            }, "mask_logits", lambda f: f, WEIGHTS, "mask"),
    *family("{}", "hide padded tokens, and nothing else", {
                "class token masked": lambda v: (w := np.concatenate([0 * v[:, :1], v[:, 1:]], 1).astype(bool))[:, None, :, None]
                & w[:, None, None],
                "causal mask": lambda v: np.tril(allowed_pairs(v)), "mask shifted by the class token": lambda v: allowed_pairs(
                    np.concatenate([v[:, 1:], v[:, :1]], 1)),
                "mask on queries only": lambda v: (
                    v[:, None, :, None] & np.ones_like(v)[:, None, None]),
            }, "allowed_pairs", pairs, WEIGHTS, "mask"),
    *family("weights {}", "one softmax over the keys, after the mask", {
                "masked after the softmax": lambda w, x, a: softmax(x)[0] * a, "averaged over the heads": lambda w, x, a: (
                    np.broadcast_to(w.mean(1, keepdims=True), w.shape)),
                "uniform": lambda w, x, a: np.full_like(w, 1 / w.shape[-1]),
                "after two softmaxes": lambda w, x, a: softmax(w)[0],
            }, stage=WEIGHTS, tap=of_weights),
    Mistake("mask on keys only", "harmless: rows of padded queries differ, and nothing reads them",
            "mask_logits", masked_by_key, "", "mask"),
    *family("{}", "normalise over the keys, the last axis", {
                "softmax over the queries": softmax_over(-2), "softmax over the heads": softmax_over(-3),
            }, "softmax", lambda f: f, WEIGHTS, where="attention"),
    Mistake("softmax over the whole array", "normalise over the last axis", "softmax", softmax_over_everything),
    Mistake("exp(x), not normalised", "divide by the sum over the last axis", "softmax", lambda x: (np.exp(x), None)),
    Mistake("attention dropout on", "switch dropout off (model.eval())", stage=WEIGHTS,
            tap=at("attention/weights", dropped), recognise=looks_dropped),
    *family("weights {} before the product", "heads = A·V", {
                "transposed": lambda a, v: a.swapaxes(-1, -2) @ v, "of the other heads": lambda a, v: a[:, ::-1] @ v,
                "of the first head for all": lambda a, v: np.broadcast_to(a[:, :1], a.shape) @ v,
            }, stage=BLOCKS + "attention/heads", tap=lambda f: at("attention/heads", lambda h, seen, config: f(
                latest(seen, "attention/weights"), latest(seen, "attention/value")))),
    *family("{}", "put the heads side by side before the out-projection: (N, H, D_h) to (N, D)", {
                "heads woven together": lambda h: np.moveaxis(h, 1, -1), "heads merged without a transposition": lambda h: h,
                "heads in reverse order": lambda h: h[:, ::-1].swapaxes(1, 2),
            }, "merge", merged, OUT),
    Mistake("transposed out-projection", "transpose the kernel of the out-projection",
            "merge", merged(lambda h: h.swapaxes(1, 2), kernel=lambda k: k.T), OUT),
    Mistake("out-projection missing", "multiply the heads by the out-projection",
            "merge", merged(lambda h: h.swapaxes(1, 2), kernel=lambda k: np.eye(len(k)), bias=lambda b: 0 * b), OUT),
    *[Mistake(f"{name} without bias", "add the bias", stage=stage, load=without(path))
      for name, (path, stage) in BIASES.items()],
    *[Mistake(f"bias of {name} doubled", "add the bias once", stage=stage, load=everywhere(path, lambda b: 2 * b))
      for name, (path, stage) in BIASES.items()],
    *[Mistake(f"kernel of {name} transposed", "a kernel is (D, H, D_h); (out, in) is transposed", stage=stage,
              load=everywhere(path, turned)) for name, (path, stage) in SQUARE.items()],
    *family("parameters of {} exchanged", "read every layer's own parameters", {
                "query and key": ("attention/query", "attention/key"), "key and value": ("attention/key", "attention/value"),
                "query and value": ("attention/query", "attention/value"),
            }, stage=BLOCKS + "attention/[qkv]*", load=lambda parts: in_blocks(*parts)),
    *family("{}", "add the branch once to its unnormalised input", {
                "residual taken from the norm": lambda z, n, x: n + x,
            }, "block", lambda f: wired(f, f), BLOCKS + "residual1"),
    *family("first residual {}", "add the attention branch once to its input", {
                "missing": lambda z, x: x, "of half the branch": lambda z, x: z + x / 2, "of twice the branch": lambda z, x: z + 2 * x,
                "doubled": lambda z, x: 2 * z + x, "of a tenth of the branch": lambda z, x: z + x / 10,
                "without the branch": lambda z, x: z, "averaged": lambda z, x: (z + x) / 2, "subtracted": lambda z, x: z - x,
                "divided by √2": lambda z, x: (z + x) / math.sqrt(2), "normalised": lambda z, x: normalised(z + x),
            }, "block", lambda f: wired(first=lambda z, n, x: f(z, x)), BLOCKS + "residual1"),
    Mistake("erf for tanh", "use the tanh approximation of GELU, as the authors do",
            "gelu_tanh", gelu_erf, BLOCK + "mlp/gelu", "GELU", {"gelu": "erf"}),
    Mistake("tanh for erf", "use the exact GELU", "gelu_erf", gelu_tanh, BLOCK + "mlp/gelu", "GELU", {"gelu": "tanh"}),
    *family("{}", "use the GELU of the reference", ACTIVATIONS, GELU, lambda f: lambda x: (f(x), None),
            BLOCKS + "mlp/gelu", "GELU"),
    Mistake("GELU's cube not scaled", "√(2/π) multiplies the cube as well as x", "gelu_tanh", gelu_tanh_cube_outside),
    Mistake("GELU's erf of x", "erf takes x/√2", "gelu_erf", gelu_erf_unscaled),
    Mistake("dropout on", "switch dropout off (model.eval())", stage=BLOCKS + "mlp/gelu",
            tap=at("mlp/gelu", dropped), recognise=looks_dropped),
    *family("second residual {}", "add the MLP branch once to its input", {
                "missing": lambda z, n, x: x, "from the norm": lambda z, n, x: n + x, "of half the branch": lambda z, n, x: z + x / 2,
                "of twice the branch": lambda z, n, x: z + 2 * x, "doubled": lambda z, n, x: 2 * z + x,
                "of a tenth of the branch": lambda z, n, x: z + x / 10, "without the branch": lambda z, n, x: z,
                "averaged": lambda z, n, x: (z + x) / 2, "subtracted": lambda z, n, x: z - x,
                "divided by √2": lambda z, n, x: (z + x) / math.sqrt(2), "normalised": lambda z, n, x: normalised(z + x),
            }, "block", lambda f: wired(second=f), BLOCKS + "output"),
    Mistake("final norm missing", "normalise once more after the last block", stage="encoder/norm",
            tap=at("encoder/norm", lambda a, seen, config: latest(seen, "/output"))),
    Mistake("final norm with a block's parameters", "read the parameters of the final norm", stage="encoder/norm",
            load=lambda params, config: changed("encoder/norm", lambda p, get: get(
                f"encoder/block_{config.layers - 1:02d}/norm2"))(params, config)),
    Mistake("final norm applied twice", "normalise once after the last block", stage="encoder/norm",
            tap=at("encoder/norm", lambda a, seen, config: normalised(a))),
    Mistake("one block too few", "run all encoder blocks", "block_names", lambda params: block_names(params)[:-1], "encoder/norm"),
    *family("blocks {}", "run all encoder blocks once, in the order of their numbers", {
                "in reverse order": lambda names: names[::-1], "all with the first one's parameters": lambda names: names[:1] * len(names),
                "all with the last one's parameters": lambda names: names[-1:] * len(names),
                "one too early": lambda names: [*names[1:], names[0]],
            }, stage="encoder/block_*", load=blocks, when=lambda config: config.layers > 1),
    Mistake("blocks in the order of their names as strings (0, 1, 10, 11, …, 2)", "sort the blocks by their numbers",
            stage="encoder/block_*", when=lambda config: config.layers > 10,
            load=blocks(lambda names: [names[k] for k in sorted(range(len(names)), key=str)])),
    *[Mistake(f"kept in {fmt}", "compute in float32", stage="*", tap=kept_in(fmt), recognise=looks_kept_in(fmt))
      for fmt in FORMATS],
]  # fmt: skip
