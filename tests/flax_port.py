"""MUSIQ with flax.linen modules, as JAX users write it: Flax's own layers and names, intermediates captured by Flax."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict
from jax_port import tokens_of

EPS = 1e-6


class StdConv(nn.Module):
    width: int
    size: int
    stride: int = 1

    @nn.compact
    def __call__(self, x):
        shape = (self.size, self.size, x.shape[-1], self.width)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape)
        kernel = (kernel - kernel.mean((0, 1, 2))) / (kernel.std((0, 1, 2)) + 1e-5)
        strides = (self.stride, self.stride)
        return jax.lax.conv_general_dilated(
            x, kernel, strides, "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"), precision="highest"
        )


class Unit(nn.Module):
    @nn.compact
    def __call__(self, x):
        def norm(name, x):
            return nn.GroupNorm(32, epsilon=1e-4, use_fast_variance=False, name=name)(x)

        shortcut = norm("gn_proj", StdConv(256, 1, name="conv_proj")(x))
        y = nn.relu(norm("gn1", StdConv(64, 1, name="conv1")(x)))
        y = nn.relu(norm("gn2", StdConv(64, 3, name="conv2")(y)))
        return nn.relu(norm("gn3", StdConv(256, 1, name="conv3")(y)) + shortcut)


class Block(nn.Module):
    heads: int
    hidden: int
    eps: float

    @nn.compact
    def __call__(self, z, mask):
        x = nn.LayerNorm(EPS, use_fast_variance=False)(z)
        z = z + nn.MultiHeadDotProductAttention(self.heads, precision="highest", name="attention")(x, mask=mask)
        x = nn.LayerNorm(self.eps, use_fast_variance=False)(z)
        x = nn.gelu(nn.Dense(self.hidden, precision="highest")(x))
        return z + nn.Dense(z.shape[-1], precision="highest")(x)


class Musiq(nn.Module):
    config: object
    eps: float = EPS

    @nn.compact
    def __call__(self, patches, place, scale, mask):
        """Patches (B, N, P, P, 3), integers and mask (B, N) to the scores (B,)."""
        config, (B, N) = self.config, patches.shape[:2]
        table = nn.initializers.normal()
        x = StdConv(64, 7, 2, name="conv_root")(patches.reshape(B * N, *patches.shape[2:]))
        x = nn.relu(nn.GroupNorm(32, epsilon=EPS, use_fast_variance=False, name="gn_root")(x))
        x = Unit(name="unit")(nn.max_pool(x, (3, 3), (2, 2), "SAME"))
        x = nn.Dense(config.width, precision="highest", name="embedding")(x.reshape(B, N, -1))
        x = x + self.param("spatial", table, (config.grid_size**2, config.width))[place]
        x = x + self.param("scale", table, (config.scales, config.width))[scale]
        cls = self.param("cls", table, (config.width,))
        z = jnp.concatenate([jnp.broadcast_to(cls, (B, 1, config.width)), x], axis=1)
        valid = jnp.pad(mask, ((0, 0), (1, 0)), constant_values=1) > 0
        for i in range(config.layers):
            eps = self.eps if i == config.layers - 1 else EPS
            z = Block(config.heads, config.mlp_width, eps, name=f"block_{i}")(z, nn.make_attention_mask(valid, valid))
        y = nn.LayerNorm(EPS, use_fast_variance=False, name="norm")(z)[:, 0]
        p = nn.softmax(nn.Dense(config.outputs, precision="highest", name="head")(y))
        return (p * jnp.arange(1, config.outputs + 1)).sum(-1)


def tree_of(params):
    """The fixture's parameters as Flax's."""
    stem = params["stem"]
    block = {"LayerNorm_0": "norm1", "attention": "attention", "LayerNorm_1": "norm2"}
    tree = {
        "conv_root": stem["conv_root"], "gn_root": stem["gn_root"], "embedding": params["patch_embedding"],
        "unit": {n: p for n, p in stem.items() if not n.endswith("_root")}, "cls": params["class_token"],
        "spatial": params["spatial_embedding"]["table"], "scale": params["scale_embedding"]["table"],
        "norm": params["encoder"]["norm"], "head": params["head"],
    }  # fmt: skip
    for name, p in params["encoder"].items():
        if name.startswith("block"):
            mlp = {"Dense_0": p["mlp"]["fc1"], "Dense_1": p["mlp"]["fc2"]}
            tree[f"block_{int(name[6:])}"] = {theirs: p[ours] for theirs, ours in block.items()} | mlp
    return {"params": tree}


def padded(tokens):
    """Tokens of several images as one batch: padded with zeros at the end."""
    length = max(len(t[-1]) for t in tokens)
    arrays = zip(*tokens, strict=True)
    return [jnp.stack([jnp.pad(a, [(0, length - len(a))] + [(0, 0)] * (a.ndim - 1)) for a in each]) for each in arrays]


def port(params, image, config, eps=EPS, others=()):
    """What Flax captures of the first of a batch of images; the others may have any size."""
    tokens = [tuple(map(jnp.asarray, tokens_of(picture, config))) for picture in (image, *others)]
    count = len(tokens[0][-1])
    score, state = Musiq(config, eps).apply(tree_of(params), *padded(tokens), capture_intermediates=True)
    seen = {"/".join(path[:-1]): value[0] for path, value in flatten_dict(state["intermediates"]).items()}
    stages = {"score": score[:1]}
    longest = max(len(t[-1]) for t in tokens)
    for name, array in seen.items():
        if name and not name.startswith(("conv_root", "gn_root", "unit")):
            array = array[:1, : count + 1] if array.shape[1] == longest + 1 else array[:1, :count]
        stages[name or "scores"] = array[:count] if name.startswith(("conv_root", "gn_root", "unit")) else array
    stages.pop("scores", None)
    patches, place, scale, mask = (np.asarray(a) if a.dtype.kind in "iu" else a for a in tokens[0])
    return stages | {"patches": patches[None], "hash_index": place, "scale_index": scale, "mask": mask}
