"""MUSIQ in JAX, as somebody would write it who has read SPEC 3 and 4: nested parameters in, stages out."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from musiq_ref.image.hash import hash_index
from musiq_ref.image.resize import gaussian_matrix
from musiq_ref.image.tokenize import scales_of


def tokens_of(image, config):
    """Image (H, W, 3) in 0 … 1 to patches (N, P, P, 3), hash index, scale index and mask."""
    P, parts = config.patch_size, []
    for s in scales_of(*image.shape[:2], config):
        x = 2 * image - 1
        if s.longer_side:
            rows, columns = (
                jnp.asarray(gaussian_matrix(a, b, "float32").toarray(), x.dtype)
                for a, b in zip(image.shape[:2], (s.height, s.width), strict=True)
            )
            x = jnp.einsum("ih,hwc,jw->ijc", rows, x, columns, precision="highest")
        pads = [s.rows * P - s.height, s.columns * P - s.width]
        x = jnp.pad(x, (*((n // 2, n - n // 2) for n in pads), (0, 0)))
        x = x.reshape(s.rows, P, s.columns, P, 3).swapaxes(1, 2).reshape(-1, P, P, 3)[: s.length]
        missing = s.length - len(x)
        place = hash_index(s.rows, s.columns, config.grid_size)[: s.length]
        parts.append(
            (
                jnp.pad(x, ((0, missing), (0, 0), (0, 0), (0, 0))),
                np.pad(place, (0, missing)),
                np.pad(np.full(len(place), s.scale_index), (0, missing)),
                np.pad(np.ones(len(place), int), (0, missing)),
            )
        )
    patches, *vectors = zip(*parts, strict=True)
    return jnp.concatenate(patches), *(np.concatenate(v) for v in vectors)


def norm(x, p, eps=1e-6):
    mean = x.mean(-1, keepdims=True)
    return (x - mean) * lax.rsqrt(((x - mean) ** 2).mean(-1, keepdims=True) + eps) * p["scale"] + p["bias"]


def group_norm(x, p, eps):
    grouped = x.reshape(len(x), -1, 32, x.shape[-1] // 32)
    mean = grouped.mean((1, 3), keepdims=True)
    variance = ((grouped - mean) ** 2).mean((1, 3), keepdims=True)
    return ((grouped - mean) * lax.rsqrt(variance + eps)).reshape(x.shape) * p["scale"] + p["bias"]


def convolution(x, kernel, stride=1):
    mean, std = kernel.mean((0, 1, 2)), kernel.std((0, 1, 2))
    return lax.conv_general_dilated(
        x,
        (kernel - mean) / (std + 1e-5),
        (stride, stride),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision="highest",
    )


def stem(x, p, see):
    def conv(name, x, stride=1):
        return see(f"stem/conv{name}", convolution(x, p[f"conv{name}"]["kernel"], stride))

    def gn(name, x, eps=1e-4):
        return see(f"stem/gn{name}", group_norm(x, p[f"gn{name}"], eps))

    x = jax.nn.relu(gn("_root", conv("_root", x, 2), 1e-6))
    x = see("stem/pool", lax.reduce_window(x, -jnp.inf, lax.max, (1, 3, 3, 1), (1, 2, 2, 1), "SAME"))
    y = jax.nn.relu(gn("1", conv("1", x)))
    y = jax.nn.relu(gn("2", conv("2", y)))
    return see("stem/output", jax.nn.relu(gn("3", conv("3", y)) + gn("_proj", conv("_proj", x))))


def encoder_block(z, p, allowed, see):
    x = see("norm1", norm(z, p["norm1"]))
    q, k, v = (
        see(f"attention/{n}", jnp.einsum("bnd,dhk->bhnk", x, a["kernel"], precision="highest") + a["bias"][:, None])
        for n, a in ((n, p["attention"][n]) for n in ("query", "key", "value"))
    )
    logits = jnp.einsum("bhqk,bhsk->bhqs", q, k, precision="highest") / q.shape[-1] ** 0.5
    weights = see("attention/weights", jax.nn.softmax(jnp.where(allowed, logits, -1e10), axis=-1))
    heads = jnp.einsum("bhqs,bhsk->bqhk", weights, v, precision="highest")
    out = p["attention"]["out"]
    z = z + see("attention/out", jnp.einsum("bnhk,hkd->bnd", heads, out["kernel"], precision="highest") + out["bias"])
    x = see("norm2", norm(see("residual1", z), p["norm2"]))
    x = jnp.matmul(x, p["mlp"]["fc1"]["kernel"], precision="highest") + p["mlp"]["fc1"]["bias"]
    x = see("mlp/gelu", jax.nn.gelu(see("mlp/fc1", x), approximate=True))
    x = jnp.matmul(x, p["mlp"]["fc2"]["kernel"], precision="highest") + p["mlp"]["fc2"]["bias"]
    return see("output", z + see("mlp/fc2", x))


def musiq(params, image, config, tap=None):
    """{stage: array} of one image in 0 … 1, under the authors' conventions."""
    stages = {}

    def see(name, x):
        stages[name] = x
        return x if tap is None else jnp.asarray(tap(name, x))

    patches, place, scale, mask = tokens_of(image, config)
    see("patches", patches[None])
    stages |= {"hash_index": place, "scale_index": scale, "mask": mask}
    features = stem(patches, params["stem"], see).reshape(len(patches), -1)
    embedding = params["patch_embedding"]
    x = jnp.matmul(features, embedding["kernel"], precision="highest") + embedding["bias"]
    x = see("patch_embedding", x[None]) + params["spatial_embedding"]["table"][place]
    x = see("scale_embedding", x + params["scale_embedding"]["table"][scale])
    z = see("encoder/input", jnp.concatenate([params["class_token"][None, None], x], axis=1))
    valid = np.concatenate([[True], mask.astype(bool)])
    for i in range(config.layers):
        name = f"encoder/block_{i:02d}"
        z = encoder_block(
            z, params["encoder"][f"block_{i:02d}"], valid[:, None] & valid, lambda n, x, b=name: see(f"{b}/{n}", x)
        )
    y = see("encoder/norm", norm(z, params["encoder"]["norm"]))[:, 0]
    logits = see("head/logits", jnp.matmul(y, params["head"]["kernel"], precision="highest") + params["head"]["bias"])
    p = see("probabilities", jax.nn.softmax(logits))
    see("score", (p * jnp.arange(1, config.outputs + 1)).sum(-1))
    return stages
