"""MUSIQ on MLX from the patches on, with mlx.nn's modules and names, connected to the kit by hand."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten

from musiq_ref.model.parameters import flatten
from musiq_ref.verify.proposal import propose
from musiq_ref.verify.recognition import match_parameters


def same(x, kernel, stride):
    total = [max((-(-n // stride) - 1) * stride + kernel - n, 0) for n in x.shape[1:3]]
    return mx.pad(x, [(0, 0), *((n // 2, n - n // 2) for n in total), (0, 0)])


class Conv(nn.Conv2d):
    def __call__(self, x):
        w, size, stride = self.weight, self.weight.shape[1], self.stride[0]
        std = mx.sqrt(mx.var(w, axis=(1, 2, 3), keepdims=True, ddof=1))
        return mx.conv2d(same(x, size, stride), (w - w.mean((1, 2, 3), keepdims=True)) / (std + 1e-5), stride)


def conv(c_in, c_out, size, stride=1, eps=1e-4):
    return [Conv(c_in, c_out, size, stride, bias=False), nn.GroupNorm(32, c_out, eps, pytorch_compatible=True)]


class Block(nn.Module):
    def __init__(self, config, eps):
        super().__init__()
        D, M = config.width, config.mlp_width
        self.ln1, self.ln2 = nn.LayerNorm(D, 1e-6), nn.LayerNorm(D, eps)
        self.attention = nn.MultiHeadAttention(D, config.heads, bias=True)
        self.fc1, self.fc2 = nn.Linear(D, M), nn.Linear(M, D)

    def __call__(self, z, keep, see):
        y = see("ln1", self.ln1(z))
        z = z + see("attention", self.attention(y, y, y, keep))
        y = nn.gelu(see("fc1", self.fc1(see("ln2", self.ln2(z)))))
        return see("out", z + see("fc2", self.fc2(y)))


class Musiq(nn.Module):
    def __init__(self, config, eps=1e-6):
        super().__init__()
        self.root = conv(3, 64, 7, 2, 1e-6)
        self.left = conv(64, 64, 1) + conv(64, 64, 3) + conv(64, 256, 1)
        self.right = conv(64, 256, 1)
        self.embed = nn.Linear(config.stem_side**2 * 256, config.width)
        self.place, self.scale = mx.zeros((config.grid_size**2, config.width)), mx.zeros((config.scales, config.width))
        self.token = mx.zeros(config.width)
        self.blocks = [Block(config, eps if i == config.layers - 1 else 1e-6) for i in range(config.layers)]
        self.norm, self.head = nn.LayerNorm(config.width, 1e-6), nn.Linear(config.width, config.outputs)

    def __call__(self, patches, cell, scale, mask, see):
        def run(name, layers, x):
            for i, layer in enumerate(layers):
                x = see(f"{name}.{i}", layer(x))
                last = name != "root" and i == len(layers) - 1
                x = nn.relu(x) if isinstance(layer, nn.GroupNorm) and not last else x
            return x

        x = see("pool", nn.MaxPool2d(3, 2)(same(run("root", self.root, patches), 3, 2)))
        x = see("stem", nn.relu(run("left", self.left, x) + run("right", self.right, x)))
        x = see("embed", self.embed(x.reshape(len(x), -1))) + self.place[cell] + self.scale[scale]
        z = mx.concatenate([self.token[None], x])[None]
        keep = mx.concatenate([mx.array([True]), mask])
        for i, block in enumerate(self.blocks):
            z = block(z, keep[None, None, None], lambda name, x, i=i: see(f"blocks.{i}.{name}", x))
        p = mx.softmax(see("head", self.head(see("norm", self.norm(z))[:, 0])))
        return (p * mx.arange(1, 1 + p.shape[-1])).sum()

    def load(self, params):
        """The fixture's weights: convolutions as (out, rows, columns, in), linear layers as (out, in)."""
        block = {"ln1": "norm1", "ln2": "norm2", "fc1": "mlp/fc1", "fc2": "mlp/fc2"}
        block |= {f"attention.{n}_proj": f"attention/{n}" for n in ("query", "key", "value", "out")}
        names = {"root.0": "stem/conv_root", "root.1": "stem/gn_root", "embed": "patch_embedding", "head": "head"}
        names |= {f"left.{2 * i}": f"stem/conv{i + 1}" for i in range(3)}
        names |= {f"left.{2 * i + 1}": f"stem/gn{i + 1}" for i in range(3)}
        names |= {"right.0": "stem/conv_proj", "right.1": "stem/gn_proj", "norm": "encoder/norm"}
        for i in range(len(self.blocks)):
            names |= {f"blocks.{i}.{mine}": f"encoder/block_{i:02d}/{ours}" for mine, ours in block.items()}
        ours = dict(flatten(params))
        weights = {"place": "spatial_embedding/table", "scale": "scale_embedding/table", "token": "class_token"}
        found = {mine: ours[path] for mine, path in weights.items()}
        for name, array in tree_flatten(self.parameters()):
            module, _, leaf = name.rpartition(".")
            if module:
                path = names[module]
                a = ours.get(f"{path}/{leaf}", ours.get(f"{path}/{'scale' if leaf == 'weight' else leaf}"))
                a = ours[f"{path}/kernel"] if a is None else a
                if leaf == "weight" and array.ndim > 1:
                    a = np.moveaxis(a, -1, 0) if array.ndim == 4 else a.reshape(array.shape[::-1]).T
                found[name] = a.reshape(array.shape)
        self.load_weights([(name, mx.array(a.astype(np.float32))) for name, a in found.items()])
        return self


def port(fixture, tap, eps=1e-6):
    model = Musiq(fixture.config, eps).load(fixture.params)
    cell, scale, mask = (mx.array(fixture.stages[n].array[0]) for n in ("hash_index", "scale_index", "mask"))
    seen = {}

    def see(name, x):
        seen[name] = x
        return x

    def score(parameters):
        model.update(parameters)
        return model(patches, cell, scale, mask.astype(mx.bool_), see)

    patches = mx.array(fixture.stages["patches"].array[0])
    parameters = model.parameters()
    stages = {"score": np.array(score(parameters))[None]}
    arrays = {name: np.array(a) for name, a in seen.items()}
    stages |= propose(arrays.items(), fixture).stages(arrays, fixture)
    gradients = dict(tree_flatten(mx.grad(score)(parameters)))  # not of the patches: MLX shares that of equal maxima
    found = match_parameters({n: np.array(a) for n, a in tree_flatten(parameters)}, fixture.params, fixture.config)
    for name, gradient in gradients.items():
        stages |= {f"dparams/{path}": a for path, a in found[name].ours(np.array(gradient)).items()}
    return stages
