"""Embeddings and encoder, as people get them wrong (Eq. 1–11)."""

from __future__ import annotations

import math

import numpy as np

from musiq_ref.model.attention import attention, merge
from musiq_ref.model.embeddings import embed
from musiq_ref.model.encoder import block_names, mlp, norm
from musiq_ref.model.noise import NO_NOISE
from musiq_ref.model.taps import no_tap, within
from musiq_ref.ops.activation import gelu_erf, gelu_tanh, relu
from musiq_ref.ops.layer_norm import layer_norm
from musiq_ref.ops.linear import linear
from musiq_ref.ops.softmax import mask_logits, softmax
from musiq_ref.verify.mistakes.mistake import Mistake, at, latest

# --- embeddings ------------------------------------------------------------------------------------------------------


def features_channel_first(features, params):
    """Features flattened as channel, row, column before the linear layer."""
    flat = np.moveaxis(features, -1, -3).reshape(*features.shape[:-3], -1)
    return linear(flat, params["kernel"], params["bias"])


def embed_without(table):
    """`embed` with one of its tables taken as zero."""

    def embedded(x, hash_index, scale_index, params, config, tap=no_tap, noise=NO_NOISE):
        zeroed = {**params, table: {"table": 0 * params[table]["table"]}} if table in params else params
        return embed(x, hash_index, scale_index, zeroed, config, tap)

    return embedded


def class_token_placed(x, hash_index, scale_index, params, config, tap=no_tap, noise=NO_NOISE):
    """The class token gets the first row of both tables, too."""
    extra = params["spatial_embedding"]["table"][0] + params["scale_embedding"]["table"][0]
    return embed(x, hash_index, scale_index, {**params, "class_token": params["class_token"] + extra}, config, tap)


# --- blocks ----------------------------------------------------------------------------------------------------------


def normalised(x, eps=1e-6, ddof=0, axis=-1, root_then_eps=False):
    centred = x - x.mean(axis=axis, keepdims=True)
    variance = (centred * centred).sum(axis=axis, keepdims=True) / max(x.shape[axis] - ddof, 1)
    return centred / (np.sqrt(variance) + eps if root_then_eps else np.sqrt(variance + eps))


def norm_with(**how):
    """`layer_norm` with another divisor or axis, or ε elsewhere."""
    return lambda x, gamma, beta, eps=1e-6: (gamma * normalised(x, eps, **how) + beta, None)


def norm_with_eps(eps):
    return lambda x, gamma, beta, _=1e-6: layer_norm(x, gamma, beta, eps)


def post_norm_block(z, allowed, params, conventions, tap=no_tap, noise=NO_NOISE, rate=0.0):
    """z′ = LN(MSA(z) + z);  z″ = LN(MLP(z′) + z′): the original Transformer's order."""
    x, _ = attention(tap("norm1", z), allowed, params["attention"], conventions, within(tap, "attention"))
    z, _ = norm(tap("residual1", z + x), params["norm1"])
    x, _ = mlp(tap("norm2", z), params["mlp"], conventions, within(tap, "mlp"))
    z, _ = norm(z + x, params["norm2"])
    return tap("output", z), None


def residual_from_the_norm(z, allowed, params, conventions, tap=no_tap, noise=NO_NOISE, rate=0.0):
    """z′ = MSA(n) + n,  n = LN(z): the branch is added to the normalised input."""
    n, _ = norm(z, params["norm1"])
    x, _ = attention(tap("norm1", n), allowed, params["attention"], conventions, within(tap, "attention"))
    z = tap("residual1", n + x)
    n, _ = norm(z, params["norm2"])
    x, _ = mlp(tap("norm2", n), params["mlp"], conventions, within(tap, "mlp"))
    return tap("output", n + x), None


def one_block_less(params):
    return block_names(params)[:-1]


# --- attention -------------------------------------------------------------------------------------------------------


def heads_interleaved(z, params):
    """The width split into (D_h, H) instead of (H, D_h)."""
    D, H, D_h = params["kernel"].shape
    y, _ = linear(z, params["kernel"].reshape(D, -1), params["bias"].reshape(-1))
    return np.moveaxis(y.reshape(*z.shape[:-1], D_h, H), -1, 1), None


def merged_interleaved(heads, params):
    """The heads' values woven together instead of side by side."""
    D = params["kernel"].shape[-1]
    flat = np.moveaxis(heads, 1, -1).reshape(heads.shape[0], -1, D)
    return linear(flat, params["kernel"].reshape(-1, D), params["bias"])


def merged_transposed(heads, params):
    D = params["kernel"].shape[-1]
    flat = heads.swapaxes(1, 2).reshape(heads.shape[0], -1, D)
    return linear(flat, params["kernel"].reshape(D, D).T, params["bias"])


def merged_without_bias(heads, params):
    return merge(heads, {**params, "bias": 0 * params["bias"]})


def not_masked(x, allowed, how, value):
    return x, (allowed, how)


def masked_by_key(x, allowed, how, value):
    return mask_logits(x, np.broadcast_to(allowed.any(axis=-2, keepdims=True), allowed.shape), how, value)


def masked_weakly(x, allowed, how, value):
    return mask_logits(x, allowed, "add", -1.0)


def softmax_over_queries(x):
    y, _ = softmax(x.swapaxes(-1, -2))
    return y.swapaxes(-1, -2), None


def softmax_over_everything(x):
    return softmax(x.ravel())[0].reshape(x.shape), None


def not_normalised(x):
    return np.exp(x), None


# --- activations -----------------------------------------------------------------------------------------------------


def quick_gelu(x):
    return x / (1 + np.exp(-1.702 * x)), None


def silu(x):
    return x / (1 + np.exp(-x)), None


def gelu_tanh_cube_outside(x):
    return x / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * x + 0.044715 * x * x * x)), None


def gelu_erf_unscaled(x):
    return gelu_erf(math.sqrt(2) * x)[0] / math.sqrt(2), None


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


BLOCK = "encoder/block_00/"
LOGITS, WEIGHTS, GELU = BLOCK + "attention/logits", BLOCK + "attention/weights", "gelu_tanh gelu_erf"

MISTAKES = [
    Mistake("features flattened channel first", "flatten the stem's output as row, column, channel",
            "patch_embedding", features_channel_first, "patch_embedding"),
    Mistake("missing spatial embedding", "add the hash-based spatial embedding",
            "embed", embed_without("spatial_embedding"), "spatial_embedding"),
    Mistake("missing scale embedding", "add the scale embedding",
            "embed", embed_without("scale_embedding"), "scale_embedding"),
    Mistake("class token with a place", "add no embedding to the class token",
            "embed", class_token_placed, "encoder/input"),
    Mistake("class token missing", "put the learned class token in front", stage="encoder/input",
            tap=at("encoder/input", lambda a, seen, config: np.concatenate([0 * a[:, :1], a[:, 1:]], axis=1))),
    Mistake("embeddings scaled by √D", "do not scale the embedded tokens", stage="encoder/input",
            tap=at("encoder/input", lambda a, seen, config: a * math.sqrt(config.width))),
    Mistake("post-norm", "normalise before each branch, not after", "block", post_norm_block, BLOCK + "norm1"),
    Mistake("LayerNorm with ε 1e-5", "ε is 1e-6 (PyTorch's default is 1e-5)",
            "layer_norm", norm_with_eps(1e-5), BLOCK + "norm1", "eps"),
    Mistake("LayerNorm with ε 1e-3", "ε is 1e-6 (Keras's default is 1e-3)",
            "layer_norm", norm_with_eps(1e-3), BLOCK + "norm1", "eps"),
    Mistake("LayerNorm with ε 1e-12", "ε is 1e-6", "layer_norm", norm_with_eps(1e-12)),
    Mistake("LayerNorm with ε beside the root", "add ε to the variance, not to the standard deviation",
            "layer_norm", norm_with(root_then_eps=True)),
    Mistake("LayerNorm with unbiased variance", "divide the variance by D",
            "layer_norm", norm_with(ddof=1), BLOCK + "norm1"),
    Mistake("LayerNorm without γ and β", "scale by γ and add β",
            "layer_norm", lambda x, *_: (normalised(x), None)),
    Mistake("LayerNorm over the tokens", "mean and variance run over the width, the last axis",
            "layer_norm", norm_with(axis=-2)),
    Mistake("heads interleaved", "split the width into (heads, head width), in this order",
            "project", heads_interleaved, BLOCK + "attention/query"),
    Mistake("missing 1/√", "divide the logits by √(D/H)", stage=LOGITS,
            tap=at("attention/logits", lambda a, seen, config: a * math.sqrt(config.head_width))),
    Mistake("scaled by the model's width", "divide by √(D/H), not by √D", stage=LOGITS,
            tap=at("attention/logits", lambda a, seen, config: a / math.sqrt(config.heads))),
    Mistake("logits divided by D/H", "divide by the square root of D/H", stage=LOGITS,
            tap=at("attention/logits", lambda a, seen, config: a / math.sqrt(config.head_width))),
    Mistake("queries and keys exchanged", "logits are Q·Kᵀ, queries along the rows", stage=LOGITS,
            tap=at("attention/logits", lambda a, seen, config: a.swapaxes(-1, -2))),
    Mistake("mask not applied", "hide padded tokens from the softmax", "mask_logits", not_masked, WEIGHTS, "mask"),
    Mistake("mask of −1", "add −1e10, not −1, to the logits of padded tokens",
            "mask_logits", masked_weakly, WEIGHTS, "mask"),
    Mistake("mask on keys only", "harmless: rows of padded queries differ, and nothing reads them",
            "mask_logits", masked_by_key, "", "mask"),
    Mistake("softmax over the queries", "normalise over the keys, the last axis",
            "softmax", softmax_over_queries, WEIGHTS, where="attention"),
    Mistake("softmax over the whole array", "normalise over the last axis", "softmax", softmax_over_everything),
    Mistake("exp(x), not normalised", "divide by the sum over the last axis", "softmax", not_normalised),
    Mistake("attention dropout on", "switch dropout off (model.eval())", stage=WEIGHTS,
            tap=at("attention/weights", dropped), recognise=looks_dropped),
    Mistake("heads woven together", "put the heads side by side before the out-projection",
            "merge", merged_interleaved, BLOCK + "attention/out"),
    Mistake("transposed out-projection", "transpose the kernel of the out-projection",
            "merge", merged_transposed, BLOCK + "attention/out"),
    Mistake("out-projection without bias", "add the bias", "merge", merged_without_bias, BLOCK + "attention/out"),
    Mistake("residual taken from the norm", "add the branch to its unnormalised input",
            "block", residual_from_the_norm, BLOCK + "residual1"),
    Mistake("first residual missing", "add the input of the attention branch", stage=BLOCK + "residual1",
            tap=at("/residual1", lambda a, seen, config: latest(seen, "attention/out"))),
    Mistake("erf for tanh", "use the tanh approximation of GELU, as the authors do",
            "gelu_tanh", gelu_erf, BLOCK + "mlp/gelu", "GELU", {"gelu": "erf"}),
    Mistake("tanh for erf", "use the exact GELU", "gelu_erf", gelu_tanh, BLOCK + "mlp/gelu", "GELU", {"gelu": "tanh"}),
    Mistake("quick GELU", "use the GELU of the reference, not x·sigmoid(1.702·x)",
            GELU, quick_gelu, BLOCK + "mlp/gelu", "GELU"),
    Mistake("ReLU in the MLP", "use GELU", GELU, relu, BLOCK + "mlp/gelu", "GELU"),
    Mistake("SiLU in the MLP", "use GELU", GELU, silu, BLOCK + "mlp/gelu", "GELU"),
    Mistake("GELU's cube not scaled", "√(2/π) multiplies the cube as well as x", "gelu_tanh", gelu_tanh_cube_outside),
    Mistake("GELU's erf of x", "erf takes x/√2", "gelu_erf", gelu_erf_unscaled),
    Mistake("dropout on", "switch dropout off (model.eval())", stage=BLOCK + "mlp/gelu",
            tap=at("mlp/gelu", dropped), recognise=looks_dropped),
    Mistake("second residual missing", "add the input of the MLP branch", stage=BLOCK + "output",
            tap=at("/output", lambda a, seen, config: latest(seen, "mlp/fc2") if any(
                n.endswith("mlp/fc2") for n in seen) else a)),
    Mistake("final norm missing", "normalise once more after the last block", stage="encoder/norm",
            tap=at("encoder/norm", lambda a, seen, config: latest(seen, "/output"))),
    Mistake("one block too few", "run all encoder blocks", "block_names", one_block_less, "encoder/norm"),
]  # fmt: skip
