"""Embeddings and encoder, as people get them wrong (Eq. 1–5)."""

from __future__ import annotations

import math

import numpy as np

from musiq_ref.model.attention import attention
from musiq_ref.model.embeddings import embed
from musiq_ref.model.encoder import block_names, mlp, norm
from musiq_ref.model.noise import NO_NOISE
from musiq_ref.model.taps import no_tap, within
from musiq_ref.ops.activation import gelu_erf, gelu_tanh
from musiq_ref.ops.layer_norm import layer_norm
from musiq_ref.ops.linear import linear
from musiq_ref.verify.mistakes.attention import BLOCKS, dropped, looks_dropped
from musiq_ref.verify.mistakes.mistake import Mistake, at, family, latest
from musiq_ref.verify.mistakes.pointwise import coarse
from musiq_ref.verify.mistakes.weights import blocks, changed, everywhere, without

# --- embeddings ------------------------------------------------------------------------------------------------------


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


def class_token_placed(x, hash_index, scale_index, params, config, tap=no_tap, noise=NO_NOISE):
    """The class token gets the first row of both tables, too."""
    extra = params["spatial_embedding"]["table"][0] + params["scale_embedding"]["table"][0]
    return embed(x, hash_index, scale_index, {**params, "class_token": params["class_token"] + extra}, config, tap)


# --- blocks ----------------------------------------------------------------------------------------------------------


def normalised(x, eps=1e-6, ddof=0, axis=-1, root_then_eps=False, centre=True, root=True):
    centred = x - x.mean(axis=axis, keepdims=True) if centre else x
    variance = (centred * centred).sum(axis=axis, keepdims=True)
    variance = variance / max(x.size // variance.size - ddof, 1)
    if not root:
        return centred / (variance + eps)
    return centred / (np.sqrt(variance) + eps if root_then_eps else np.sqrt(variance + eps))


def norm_with(scale=lambda gamma: gamma, shift=lambda beta: beta, **how):
    """`layer_norm` with another divisor or axis, ε elsewhere, or γ and β changed."""
    return lambda x, gamma, beta, eps=1e-6: (scale(gamma) * normalised(x, eps, **how) + shift(beta), None)


def norm_with_eps(eps):
    return lambda x, gamma, beta, _=1e-6: layer_norm(x, gamma, beta, eps)


def wired(first=lambda z, n, x: z + x, second=lambda z, n, x: z + x, norms=("norm1", "norm2"), reads="nn"):
    """`block` with other residuals: first(z, LN(z), MSA(LN(z))), second(z, LN(z), MLP(LN(z))).

    norms: whose parameters are used; None for no norm
    reads: what attention and MLP read: "n" for the norm, "z" for its input
    """

    def run(z, allowed, params, conventions, tap=no_tap, noise=NO_NOISE, rate=0.0):
        def normed(z, name):
            return norm(z, params[name])[0] if name else z

        n = tap("norm1", normed(z, norms[0]))
        x, _ = attention(
            n if reads[0] == "n" else z, allowed, params["attention"], conventions, within(tap, "attention")
        )
        z = tap("residual1", first(z, n, x))
        n = tap("norm2", normed(z, norms[1]))
        x, _ = mlp(n if reads[1] == "n" else z, params["mlp"], conventions, within(tap, "mlp"))
        return tap("output", second(z, n, x)), None

    return run


def mlp_with(change):
    """`mlp` with its hidden values changed before the second layer."""

    def run(z, params, conventions, tap=no_tap, noise=NO_NOISE):
        x, _ = linear(z, params["fc1"]["kernel"], params["fc1"]["bias"])
        gelu = gelu_tanh if conventions.gelu == "tanh" else gelu_erf
        x = tap("gelu", gelu(tap("fc1", x))[0])
        y, _ = linear(change(x), params["fc2"]["kernel"], params["fc2"]["bias"])
        return tap("fc2", y), None

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


def mlp_first_block(z, allowed, params, conventions, tap=no_tap, noise=NO_NOISE, rate=0.0):
    """z′ = MLP(LN2(z)) + z;  z″ = MSA(LN1(z′)) + z′; the names are those of the layers, not of the order."""
    n, _ = norm(z, params["norm2"])
    x, _ = mlp(n, params["mlp"], conventions, within(tap, "mlp"))
    z = z + x
    n, _ = norm(z, params["norm1"])
    x, _ = attention(tap("norm1", n), allowed, params["attention"], conventions, within(tap, "attention"))
    return tap("output", tap("residual1", z + x)), None


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
    "GELU with 0.0447": lambda x: x / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.0447 * x**3))),
    "GELU without its half": lambda x: x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "GELU twice": lambda x: gelu_tanh(gelu_tanh(x)[0])[0], "exact GELU twice": lambda x: gelu_erf(gelu_erf(x)[0])[0],
}  # fmt: skip


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


BLOCK, GELU, NORM = "encoder/block_00/", "gelu_tanh gelu_erf", "encoder/*norm*"
BIASES = {  # part: (paths of its bias, where it shows)
    "patch embedding": ("patch_embedding/bias", "patch_embedding"),
    **{n: (f"*/attention/{n}/bias", BLOCKS + f"attention/{n}") for n in ("query", "key", "value")},
    "out-projection": ("*/attention/out/bias", BLOCKS + "attention/out"),
    "fc1": ("*/mlp/fc1/bias", BLOCKS + "mlp/fc1"), "fc2": ("*/mlp/fc2/bias", BLOCKS + "mlp/fc2"),
    "norm1": ("*/norm1/bias", BLOCKS + "norm1"), "norm2": ("*/norm2/bias", BLOCKS + "norm2"),
    "the final norm": ("encoder/norm/bias", "encoder/norm"), "head": ("head/bias", "head/logits"),
}  # fmt: skip

MISTAKES = [
    *family("features flattened {}", "flatten the stem's output as row, column, channel", {
                "channel first": lambda f: np.moveaxis(f, -1, -3), "column by column": lambda f: f.swapaxes(-2, -3),
                "channel, column, row": lambda f: f.swapaxes(-1, -3), "upside down": lambda f: f[..., ::-1, :, :],
                "turned by 180°": lambda f: f[..., ::-1, ::-1, :],
                "row, channel, column": lambda f: f.swapaxes(-1, -2),
            }, "patch_embedding", flattened, "patch_embedding"),
    *family("{} spatial embedding", "add the hash-based spatial embedding", {
                "missing": lambda t: 0 * t, "doubled": lambda t: 2 * t, "transposed": grid_transposed,
                "one row too far in the": lambda t: np.roll(t, -1, 0),
                "one row too early in the": lambda t: np.roll(t, 1, 0),
                "subtracted": lambda t: -t, "reversed": lambda t: t[::-1],
            }, "embed", lambda change: embed_with("spatial_embedding", change), "spatial_embedding"),
    *family("{} scale embedding", "add the scale embedding", {
                "missing": lambda t: 0 * t, "doubled": lambda t: 2 * t, "reversed": lambda t: t[::-1],
                "one row too far in the": lambda t: np.roll(t, -1, 0), "subtracted": lambda t: -t,
            }, "embed", lambda change: embed_with("scale_embedding", change), "scale_embedding"),
    *family("{} multiplied", "embeddings are added", {
                "spatial embedding": ("patch_embedding", "spatial_embedding"),
                "scale embedding": ("spatial_embedding", "scale_embedding"),
            }, stage="*_embedding", tap=lambda names: at(
                names[1], lambda a, seen, config: seen[names[0]] * (a - seen[names[0]]))),
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
                "scaled by √D": lambda a, c: a * math.sqrt(c.width),
                "divided by √D": lambda a, c: a / math.sqrt(c.width),
                "normalised": lambda a, c: normalised(a),
            }, stage="encoder/input", tap=lambda f: at("encoder/input", lambda a, seen, config: f(a, config))),
    Mistake("post-norm", "normalise before each branch, not after", "block", post_norm_block, BLOCKS + "norm1"),
    Mistake("attention and MLP in parallel", "the MLP reads what the attention has been added to",
            "block", parallel_block, BLOCKS + "norm2"),
    Mistake("MLP before the attention", "attention first, then the MLP", "block", mlp_first_block, BLOCKS + "norm1"),
    *family("{} reads what is not normalised", "norm1 before the attention, norm2 before the MLP",
            {"attention": "zn", "MLP": "nz"}, "block", lambda reads: wired(reads=reads), BLOCKS + "[am]*"),
    *family("{} before fc2", "MLP(z) = GELU(z·W_1 + b_1)·W_2 + b_2", {
                "GELU once more": lambda x: gelu_tanh(x)[0], "exact GELU once more": lambda x: gelu_erf(x)[0],
                "ReLU": lambda x: np.maximum(x, 0), "norm": normalised, "dropout's factor 0.9": lambda x: 0.9 * x,
            }, "mlp", mlp_with, BLOCKS + "mlp/fc2"),
    *family("LayerNorm with ε {}", "ε is 1e-6 (PyTorch's default is 1e-5)", ("1e-5", "1e-3", "1e-4",
    "1e-2"),
            "layer_norm", lambda eps: norm_with_eps(float(eps)), NORM, "eps"),
    Mistake("LayerNorm with ε 1e-12", "ε is 1e-6", "layer_norm", norm_with_eps(1e-12)),
    Mistake("LayerNorm with ε beside the root", "add ε to the variance, not to the standard deviation",
            "layer_norm", norm_with(root_then_eps=True)),
    *family("LayerNorm with ε {} beside the root", "add ε, 1e-6, to the variance, not to the standard deviation",
            ("1e-5", "1e-4", "1e-3", "1e-2"), "layer_norm", lambda eps: lambda x, gamma, beta, _=1e-6: (
                gamma * normalised(x, float(eps), root_then_eps=True) + beta, None), NORM, "eps"),
    *family("LayerNorm {}", "y = γ·x̂ + β with mean and variance over the width, the variance divided by D", {
                "with unbiased variance": {"ddof": 1}, "over the tokens": {"axis": -2},
                "over tokens and width": {"axis": (-2, -1)},
                "divided by the variance, not by its root": {"root": False},
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
    *[Mistake(f"{name} without bias", "add the bias", stage=stage, load=without(path))
      for name, (path, stage) in BIASES.items() if name not in ("head", "out-projection")],
    *[Mistake(f"bias of {name} doubled", "add the bias once", stage=stage, load=everywhere(path, lambda b: 2 * b))
      for name, (path, stage) in BIASES.items()],
    *family("{}", "add the branch once to its unnormalised input", {
                "residual taken from the norm": lambda z, n, x: n + x,
            }, "block", lambda f: wired(f, f), BLOCKS + "residual1"),
    Mistake("first residual taken from the norm", "add the branch once to its unnormalised input", "block",
            wired(lambda z, n, x: n + x), BLOCKS + "residual1"),
    *family("first residual {}", "add the attention branch once to its input", {
                "missing": lambda z, x: x, "of half the branch": lambda z, x: z + x / 2,
                "of twice the branch": lambda z, x: z + 2 * x,
                "doubled": lambda z, x: 2 * z + x, "of a tenth of the branch": lambda z, x: z + x / 10,
                "without the branch": lambda z, x: z, "averaged": lambda z, x: (z + x) / 2,
                "subtracted": lambda z, x: z - x,
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
                "missing": lambda z, n, x: x, "from the norm": lambda z, n, x: n + x,
                "of half the branch": lambda z, n, x: z + x / 2,
                "of twice the branch": lambda z, n, x: z + 2 * x, "doubled": lambda z, n, x: 2 * z + x,
                "of a tenth of the branch": lambda z, n, x: z + x / 10, "without the branch": lambda z, n, x: z,
                "averaged": lambda z, n, x: (z + x) / 2, "subtracted": lambda z, n, x: z - x,
                "divided by √2": lambda z, n, x: (z + x) / math.sqrt(2),
                "normalised": lambda z, n, x: normalised(z + x),
            }, "block", lambda f: wired(second=f), BLOCKS + "output"),
    Mistake("final norm missing", "normalise once more after the last block", stage="encoder/norm",
            tap=at("encoder/norm", lambda a, seen, config: latest(seen, "/output"))),
    Mistake("final norm with a block's parameters", "read the parameters of the final norm", stage="encoder/norm",
            load=lambda params, config: changed("encoder/norm", lambda p, get: get(
                f"encoder/block_{config.layers - 1:02d}/norm2"))(params, config)),
    Mistake("final norm applied twice", "normalise once after the last block", stage="encoder/norm",
            tap=at("encoder/norm", lambda a, seen, config: normalised(a))),
    *family("{}", "run all encoder blocks once, in the order of their numbers", {
                "one block too few": lambda names: names[:-1], "blocks run in reverse order": lambda names: names[::-1],
                "first block skipped": lambda names: names[1:],
                "only the first block run": lambda names: names[:1],
            }, "block_names", lambda order: lambda params: order(block_names(params)), "encoder/*",
            when=lambda config: config.layers > 1),
    *family("blocks {}", "run all encoder blocks once, in the order of their numbers", {
                "in reverse order": lambda names: names[::-1],
                "all with the first one's parameters": lambda names: names[:1] * len(names),
                "all with the last one's parameters": lambda names: names[-1:] * len(names),
                "one too early": lambda names: [*names[1:], names[0]],
            }, stage="encoder/block_*", load=blocks, when=lambda config: config.layers > 1),
    Mistake("blocks in the order of their names as strings (0, 1, 10, 11, …, 2)", "sort the blocks by their numbers",
            stage="encoder/block_*", when=lambda config: config.layers > 10,
            load=blocks(lambda names: [names[k] for k in sorted(range(len(names)), key=str)])),
    *[Mistake(f"kept in {fmt}", "compute in float32", stage="*", tap=kept_in(fmt), recognise=looks_kept_in(fmt))
      for fmt in FORMATS],
]  # fmt: skip
