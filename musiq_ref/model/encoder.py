"""The Transformer encoder: L pre-norm blocks and a final LayerNorm (Eq. 3–5)."""

from __future__ import annotations

from typing import Any

from musiq_ref.config import Conventions
from musiq_ref.model.attention import allowed_pairs, attention, attention_backward
from musiq_ref.model.noise import NO_NOISE, Noise, drop, drop_backward, drop_branch, drop_branch_backward
from musiq_ref.model.parameters import Params
from musiq_ref.model.taps import Tap, no_tap, within
from musiq_ref.ops.activation import GELU
from musiq_ref.ops.layer_norm import layer_norm, layer_norm_backward
from musiq_ref.ops.linear import linear, linear_backward


def norm(z, params: Params):
    """LN with the parameters "scale" and "bias".

    z, y: (B, N, D)
    """
    return layer_norm(z, params["scale"], params["bias"])


def norm_backward(dy, cache):
    """Returns (dz, dparams)."""
    dz, dscale, dbias = layer_norm_backward(dy, cache)
    return dz, {"scale": dscale, "bias": dbias}


def mlp(z, params: Params, conventions: Conventions, tap: Tap = no_tap, noise: Noise = NO_NOISE):
    """MLP(z) = GELU(z·W_1 + b_1)·W_2 + b_2                                   (Eq. 4)

    z, y: (B, N, D)
    """
    cache: dict[str, Any] = {}
    gelu, cache["gelu_backward"] = GELU[conventions.gelu]
    x, cache["fc1"] = linear(z, params["fc1"]["kernel"], params["fc1"]["bias"])  # (B, N, M)
    x, cache["gelu"] = gelu(tap("fc1", x))
    x, cache["drop1"] = drop(tap("gelu", x), noise.dropout, noise)
    y, cache["fc2"] = linear(x, params["fc2"]["kernel"], params["fc2"]["bias"])  # (B, N, D)
    y, cache["drop2"] = drop(tap("fc2", y), noise.dropout, noise)
    return y, cache


def mlp_backward(dy, cache, tap: Tap = no_tap):
    """The lines of `mlp` from the last to the first. Returns (dz, dparams)."""
    dy = tap("fc2", drop_backward(dy, cache["drop2"]))
    dx, dkernel_2, dbias_2 = linear_backward(dy, cache["fc2"])  # (B, N, M)
    dx = tap("gelu", drop_backward(dx, cache["drop1"]))
    dx = tap("fc1", cache["gelu_backward"](dx, cache["gelu"]))
    dz, dkernel_1, dbias_1 = linear_backward(dx, cache["fc1"])  # (B, N, D)
    return dz, {"fc1": {"kernel": dkernel_1, "bias": dbias_1}, "fc2": {"kernel": dkernel_2, "bias": dbias_2}}


def block(
    z, allowed, params: Params, conventions: Conventions, tap: Tap = no_tap, noise: Noise = NO_NOISE, rate=0.0, msa=None
):
    """z′ = MSA(LN(z)) + z;  z″ = MLP(LN(z′)) + z′                            (Eq. 3 and 4)

    z, z″: (B, N, D)
    allowed: boolean (B, 1, N, N), or what `msa` takes
    rate: chance of dropping a branch (stochastic depth)
    msa: another pair than that of `attention`
    """
    cache = {}
    run_msa, cache["msa_backward"] = msa or (attention, attention_backward)
    x, cache["norm1"] = norm(z, params["norm1"])
    x, cache["attention"] = run_msa(
        tap("norm1", x), allowed, params["attention"], conventions, within(tap, "attention"), noise
    )
    x, cache["drop"] = drop(x, noise.dropout, noise)
    x, cache["branch1"] = drop_branch(x, rate, noise)
    z = tap("residual1", z + x)
    x, cache["norm2"] = norm(z, params["norm2"])
    x, cache["mlp"] = mlp(tap("norm2", x), params["mlp"], conventions, within(tap, "mlp"), noise)
    x, cache["branch2"] = drop_branch(x, rate, noise)
    return tap("output", z + x), cache


def block_backward(dz, cache, tap: Tap = no_tap):
    """The lines of `block` from the last to the first. Returns (dz, dparams)."""
    dparams = {}
    dz = tap("output", dz)
    dx = drop_branch_backward(dz, cache["branch2"])
    dx, dparams["mlp"] = mlp_backward(dx, cache["mlp"], within(tap, "mlp"))
    dx, dparams["norm2"] = norm_backward(tap("norm2", dx), cache["norm2"])
    dz = tap("residual1", dz + dx)
    dx = drop_backward(drop_branch_backward(dz, cache["branch1"]), cache["drop"])
    dx, dparams["attention"] = cache["msa_backward"](dx, cache["attention"], within(tap, "attention"))
    dx, dparams["norm1"] = norm_backward(tap("norm1", dx), cache["norm1"])
    return dz + dx, dparams


def block_names(params: Params) -> list[str]:
    """ "block_00", "block_01", … of the encoder's parameters."""
    return sorted((name for name in params if name.startswith("block_")), key=lambda name: int(name[6:]))


def encoder(
    z,
    valid,
    params: Params,
    conventions: Conventions,
    tap: Tap = no_tap,
    noise: Noise = NO_NOISE,
    run_block=block,
    allow=allowed_pairs,
):
    """z_L = block_L(… block_1(z_0));  y = LN(z_L)                            (Eq. 3–5)

    z, y: (B, N, D)
    valid: boolean (B, N)
    run_block: `block`, or one that keeps less
    allow: `allowed_pairs`, or `allowed_keys` where no N² numbers are wanted
    """
    cache, names, allowed = {}, block_names(params), allow(valid)
    for i, name in enumerate(names):
        rate = noise.path_rate(i, len(names))
        z, cache[name] = run_block(z, allowed, params[name], conventions, within(tap, name), noise, rate)
    y, cache["norm"] = norm(z, params["norm"])
    return tap("norm", y), cache


def encoder_backward(dy, cache, tap: Tap = no_tap, run_block_backward=block_backward):
    """The lines of `encoder` from the last to the first. Returns (dz, dparams)."""
    dparams = {}
    dz, dparams["norm"] = norm_backward(tap("norm", dy), cache["norm"])
    for name in reversed(block_names(cache)):
        dz, dparams[name] = run_block_backward(dz, cache[name], within(tap, name))
    return dz, dparams
