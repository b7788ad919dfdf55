"""The encoder, as people get it wrong (Eq. 3–5)."""

from __future__ import annotations

import math

import numpy as np

from musiq_ref.model.attention import attention
from musiq_ref.model.encoder import block_names, mlp, norm
from musiq_ref.model.noise import NO_NOISE
from musiq_ref.model.taps import no_tap, within
from musiq_ref.ops.activation import SQRT_2_OVER_PI, gelu_erf, gelu_tanh
from musiq_ref.ops.linear import linear
from musiq_ref.verify.mistakes.attention import BLOCKS, dropout
from musiq_ref.verify.mistakes.mistake import Mistake, at, family, latest
from musiq_ref.verify.mistakes.stem import normalised
from musiq_ref.verify.mistakes.weights import blocks, changed, everywhere, without

# --- blocks ----------------------------------------------------------------------------------------------------------


def norm_with(scale=lambda gamma: gamma, shift=lambda beta: beta, **how):
    """`layer_norm` with γ and β changed, or normalised in another way (`normalised`)."""
    return lambda x, gamma, beta, eps=1e-6: (scale(gamma) * normalised(x, **{"eps": eps, **how}) + shift(beta), None)


def wired(first=lambda z, n, x: z + x, second=lambda z, n, x: z + x, norms=("norm1", "norm2"), reads="nn", once=False):
    """`block` with other residuals: first(z, LN(z), MSA(LN(z))), second(z, LN(z), MLP(LN(z))).

    norms: whose parameters are used; None for no norm
    reads: what attention and MLP read: "n" for the norm, "z" for its input
    once: whether the MLP reads what the attention reads
    """

    def run(z, allowed, params, conventions, tap=no_tap, noise=NO_NOISE, rate=0.0):
        def normed(z, name):
            return norm(z, params[name])[0] if name else z

        before, n = z, tap("norm1", normed(z, norms[0]))
        x, _ = attention(
            n if reads[0] == "n" else z, allowed, params["attention"], conventions, within(tap, "attention")
        )
        z = tap("residual1", first(z, n, x))
        n = tap("norm2", normed(before if once else z, norms[1]))
        x, _ = mlp(n if reads[1] == "n" else z, params["mlp"], conventions, within(tap, "mlp"))
        return tap("output", second(z, n, x)), None

    return run


def post_norm_block(after_norms="", first=True, second=True):
    """`block` in the original Transformer's order: z′ = LN(MSA(z) + z);  z″ = LN(MLP(z′) + z′).

    after_norms: which stages are what the norms give, not what goes into a layer or a norm: "sums", or "sums and norms"
    first, second: whether the branch of the attention is in this order, and that of the MLP
    """

    def run(z, allowed, params, conventions, tap=no_tap, noise=NO_NOISE, rate=0.0):
        def taps(what):
            return (no_tap, tap) if what in after_norms else (tap, no_tap)

        def branch(z, name, post, layer, total):
            if not post:
                return total(tap, z + layer(tap(name, norm(z, params[name])[0])))
            (before, after), (sum_before, sum_after) = taps("norms"), taps("sums")
            z, _ = norm(total(sum_before, z + layer(before(name, z))), params[name])
            return total(sum_after, after(name, z))

        def msa(x):
            return attention(x, allowed, params["attention"], conventions, within(tap, "attention"))[0]

        def hidden(x):
            return mlp(x, params["mlp"], conventions, within(tap, "mlp"))[0]

        z = branch(z, "norm1", first, msa, lambda see, x: see("residual1", x))
        return tap("output", branch(z, "norm2", second, hidden, lambda see, x: x)), None

    return run


def mlp_first_block(z, allowed, params, conventions, tap=no_tap, noise=NO_NOISE, rate=0.0):
    """z′ = MLP(LN2(z)) + z;  z″ = MSA(LN1(z′)) + z′; the names are those of the layers, not of the order."""
    n, _ = norm(z, params["norm2"])
    x, _ = mlp(n, params["mlp"], conventions, within(tap, "mlp"))
    z = z + x
    n, _ = norm(z, params["norm1"])
    x, _ = attention(tap("norm1", n), allowed, params["attention"], conventions, within(tap, "attention"))
    return tap("output", tap("residual1", z + x)), None


def mlp_with(change):
    """`mlp` with its hidden values changed before the second layer."""

    def run(z, params, conventions, tap=no_tap, noise=NO_NOISE):
        x, _ = linear(z, params["fc1"]["kernel"], params["fc1"]["bias"])
        gelu = gelu_tanh if conventions.gelu == "tanh" else gelu_erf
        x = tap("gelu", gelu(tap("fc1", x))[0])
        y, _ = linear(change(x), params["fc2"]["kernel"], params["fc2"]["bias"])
        return tap("fc2", y), None

    return run


RESIDUALS = {
    "missing": lambda z, n, x: x, "without the branch": lambda z, n, x: z, "doubled": lambda z, n, x: 2 * z + x,
    "of half the branch": lambda z, n, x: z + x / 2, "of twice the branch": lambda z, n, x: z + 2 * x,
    "of a tenth of the branch": lambda z, n, x: z + x / 10, "averaged": lambda z, n, x: (z + x) / 2,
    "subtracted": lambda z, n, x: z - x, "divided by √2": lambda z, n, x: (z + x) / math.sqrt(2),
    "normalised": lambda z, n, x: normalised(z + x), "taken from the norm": lambda z, n, x: n + x,
}  # fmt: skip

# --- activations -----------------------------------------------------------------------------------------------------


def gelu_of(cubic, factor=SQRT_2_OVER_PI, power=3):
    """The tanh approximation with other constants."""
    return lambda x: x / 2 * (1 + np.tanh(factor * (x + cubic * x**power)))


ACTIVATIONS = {
    "quick GELU": lambda x: x / (1 + np.exp(-1.702 * x)), "ReLU in the MLP": lambda x: np.maximum(x, 0),
    "SiLU in the MLP": lambda x: x / (1 + np.exp(-x)), "no activation in the MLP": lambda x: x + 0,
    "ELU in the MLP": lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))),
    "leaky ReLU in the MLP": lambda x: np.where(x > 0, x, 0.01 * x),
    "mish in the MLP": lambda x: x * np.tanh(np.logaddexp(x, 0)), "softplus in the MLP": lambda x: np.logaddexp(x, 0),
    "squared ReLU in the MLP": lambda x: np.maximum(x, 0) ** 2, "tanh in the MLP": np.tanh,
    "sigmoid in the MLP": lambda x: 1 / (1 + np.exp(-x)), "ReLU6 in the MLP": lambda x: np.clip(x, 0, 6),
    "hard swish in the MLP": lambda x: x * np.clip(x + 3, 0, 6) / 6,
    "GELU with 1.7 for √(2/π)": gelu_of(0.044715, 1.7), "GELU with the square for the cube": gelu_of(0.044715, power=2),
    **{f"GELU with {c}": gelu_of(float(c)) for c in ("0.0044715", "0.0447", "0.04715", "0.04475", "0.44715")},
    "GELU without its half": lambda x: 2 * gelu_tanh(x)[0],
    "GELU twice": lambda x: gelu_tanh(gelu_tanh(x)[0])[0], "exact GELU twice": lambda x: gelu_erf(gelu_erf(x)[0])[0],
}  # fmt: skip

AFTER, BLOCK, GELU, NORM = "sums and norms", "encoder/block_00/", "gelu_tanh gelu_erf", "encoder/*norm*"
BIASES = {  # part: (paths of its bias, where it shows)
    "patch embedding": ("patch_embedding/bias", "patch_embedding"),
    **{n: (f"*/attention/{n}/bias", f"{BLOCKS}attention/{n}") for n in ("query", "key", "value")},
    "out-projection": ("*/attention/out/bias", BLOCKS + "attention/out"),
    **{n: (f"*/mlp/{n}/bias", f"{BLOCKS}mlp/{n}") for n in ("fc1", "fc2")},
    **{n: (f"*/{n}/bias", BLOCKS + n) for n in ("norm1", "norm2")},
    "the final norm": ("encoder/norm/bias", "encoder/norm"), "head": ("head/bias", "head/logits"),
}  # fmt: skip

MISTAKES = [
    *family("post-norm{}", "normalise before each branch, not after", {
                "": ("",), ", given after its norms": (AFTER,), ", its sums given after its norms": ("sums",),
                " in the attention branch": ("", True, False),
                " in the attention branch, given after its norm": (AFTER, True, False),
                " in the attention branch, its sum given after its norm": ("sums", True, False),
            }, "block", lambda how: post_norm_block(*how), BLOCKS + "norm1"),
    *family("post-norm in the MLP branch{}", "normalise before each branch, not after",
            {"": "", ", given after its norm": AFTER},
            "block", lambda shown: post_norm_block(shown, first=False), BLOCKS + "norm2"),
    Mistake("attention and MLP in parallel", "the MLP reads what the attention has been added to",
            "block", wired(once=True), BLOCKS + "norm2"),
    Mistake("MLP before the attention", "attention first, then the MLP", "block", mlp_first_block, BLOCKS + "norm1"),
    *family("{} reads what is not normalised", "norm1 before the attention, norm2 before the MLP",
            {"attention": "zn", "MLP": "nz"}, "block", lambda reads: wired(reads=reads), BLOCKS + "[am]*"),
    *family("{} before fc2", "MLP(z) = GELU(z·W_1 + b_1)·W_2 + b_2", {
                "GELU once more": lambda x: gelu_tanh(x)[0], "exact GELU once more": lambda x: gelu_erf(x)[0],
                "ReLU": lambda x: np.maximum(x, 0), "norm": normalised, "dropout's factor 0.9": lambda x: 0.9 * x,
            }, "mlp", mlp_with, BLOCKS + "mlp/fc2"),
    *family("LayerNorm with ε {}", "add ε, 1e-6, to the variance (PyTorch's default is 1e-5)", {
                f"{eps}{where}": {"eps": float(eps), "beside": bool(where)}
                for where in ("", " beside the root") for eps in ("1e-5", "1e-3", "1e-4", "1e-2")
            }, "layer_norm", lambda how: norm_with(**how), NORM, "eps"),
    *family("LayerNorm with ε {}", "add ε, 1e-6, to the variance, not to the standard deviation",
            {"1e-12": {"eps": 1e-12}, "beside the root": {"beside": True}}, "layer_norm", lambda how: norm_with(**how)),
    *family("LayerNorm {}", "y = γ·x̂ + β with mean and variance over the width, the variance divided by D", {
                "with unbiased variance": {"ddof": 1}, "over the tokens": {"axis": -2},
                "with unbiased variance and ε beside the root": {"ddof": 1, "beside": True},
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
    *[Mistake(f"{part} without bias", "add the bias", stage=stage, load=without(path))
      for part, (path, stage) in BIASES.items() if part not in ("head", "out-projection")],
    *[Mistake(f"bias of {part} doubled", "add the bias once", stage=stage, load=everywhere(path, lambda b: 2 * b))
      for part, (path, stage) in BIASES.items()],
    Mistake("residual taken from the norm", "add the branch once to its unnormalised input", "block",
            wired(RESIDUALS["taken from the norm"], RESIDUALS["taken from the norm"]), BLOCKS + "residual1"),
    *family("first residual {}", "add the attention branch once to its input", RESIDUALS,
            "block", lambda f: wired(first=f), BLOCKS + "residual1"),
    Mistake("erf for tanh", "use the tanh approximation of GELU, as the authors do",
            "gelu_tanh", gelu_erf, BLOCK + "mlp/gelu", "GELU", {"gelu": "erf"}),
    Mistake("tanh for erf", "use the exact GELU", "gelu_erf", gelu_tanh, BLOCK + "mlp/gelu", "GELU", {"gelu": "tanh"}),
    *family("{}", "use the GELU of the reference", ACTIVATIONS, GELU, lambda f: lambda x: (f(x), None),
            BLOCKS + "mlp/gelu", "GELU"),
    Mistake("GELU's cube not scaled", "√(2/π) multiplies the cube as well as x", "gelu_tanh",
            lambda x: (gelu_of(0.044715 * math.sqrt(math.pi / 2))(x), None)),
    Mistake("GELU's erf of x", "erf takes x/√2", "gelu_erf", lambda x: (
        gelu_erf(math.sqrt(2) * x)[0] / math.sqrt(2), None)),
    dropout("dropout on", BLOCKS + "mlp/gelu"), dropout("dropout on the MLP's output", BLOCKS + "mlp/fc2"),
    *family("second residual {}", "add the MLP branch once to its input", RESIDUALS,
            "block", lambda f: wired(second=f), BLOCKS + "output"),
    Mistake("final norm missing", "normalise once more after the last block", stage="encoder/norm",
            tap=at("encoder/norm", lambda a, seen, config: latest(seen, "/output"))),
    Mistake("final norm with a block's parameters", "read the parameters of the final norm", stage="encoder/norm",
            load=lambda params, config: changed("encoder/norm", lambda p, get: get(
                f"encoder/block_{config.layers - 1:02d}/norm2"))(params, config)),
    *family("{}", "run all encoder blocks once, in the order of their numbers", {
                "one block too few": lambda names: names[:-1], "blocks run in reverse order": lambda names: names[::-1],
                "first block skipped": lambda names: names[1:],
                "only the first block run": lambda names: names[:1],
                "first block run every time": lambda names: names[:1] * len(names),
                "last block run every time": lambda names: names[-1:] * len(names),
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
]  # fmt: skip
