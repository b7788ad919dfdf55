"""A port of MUSIQ in plain PyTorch functions with the authors' conventions, which shares no code with the library.

Written as a script for one image, as people write it; `benchmarks/measure_diagnosis.py` edits its lines to make faults.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F


def sides(h, w, longer):
    ratio = torch.tensor(longer, dtype=torch.float32) / max(h, w)
    return int(torch.round(h * ratio)), int(torch.round(w * ratio))


def taps(n_in, n_out):
    """The weights of every output position, (n_out, n_in)."""
    center = (torch.arange(n_out, dtype=torch.float32) + 0.5) * (n_in / n_out)
    place = torch.arange(n_in, dtype=torch.float32) + 0.5
    d = (place[None] - center[:, None]).abs()
    weight = torch.exp(-(d**2) / (2 * 0.5**2))
    weight = torch.where(d < 1.5, weight, 0.0)
    return weight / weight.sum(1, keepdim=True)


def resize(x, h, w):
    return torch.einsum("ih,hwc,jw->ijc", taps(x.shape[0], h), x, taps(x.shape[1], w))


def hash_cell(n, grid):
    i = torch.arange(n, dtype=torch.float32)
    return torch.floor(i * (torch.tensor(grid, dtype=torch.float32) / n)).long().clamp(max=grid - 1)


def cut(x, P):
    """Pixels (h, w, 3) to patches (n, P, P, 3), "SAME" padding."""
    h, w = x.shape[:2]
    rows, columns = -(-h // P), -(-w // P)
    bottom, right = rows * P - h, columns * P - w
    top, left = bottom // 2, right // 2
    x = F.pad(x, (0, 0, left, right - left, top, bottom - top))
    patches = x.reshape(rows, P, columns, P, 3).permute(0, 2, 1, 3, 4).reshape(-1, P, P, 3)
    return patches, rows, columns


def tokens(image, config, see):
    x = torch.from_numpy(image.copy()).float()
    x = x / 255 * 2 - 1
    P, grid = config.patch_size, config.grid_size
    patches, cells, numbers, masks = [], [], [], []
    sizes = [*config.longer_sides, 0]
    for k, longer in enumerate(sizes):
        scaled = resize(x, *sides(*x.shape[:2], longer)) if longer else x
        see(f"pixels/scale_{k}", scaled)
        p, rows, columns = cut(scaled, P)
        cell = hash_cell(rows, grid)[:, None] * grid + hash_cell(columns, grid)[None]
        length = (-(-longer // P)) ** 2 if longer else len(p)
        missing = length - len(p)
        patches.append(F.pad(p, (0, 0, 0, 0, 0, 0, 0, missing)))
        cells.append(F.pad(cell.flatten(), (0, missing)))
        numbers.append(F.pad(torch.full((len(p),), k), (0, missing)))
        masks.append(F.pad(torch.ones(len(p), dtype=torch.long), (0, missing)))
    return [torch.cat(parts) for parts in (patches, cells, numbers, masks)]


def standardized(kernel):
    mean = kernel.mean(dim=(0, 1, 2), keepdim=True)
    std = kernel.std(dim=(0, 1, 2), keepdim=True, correction=0)
    return (kernel - mean) / (std + 1e-5)


def conv(x, kernel, stride=1):
    """NCHW, "SAME" padding."""
    k = kernel.shape[0]
    total = max((-(-x.shape[-1] // stride) - 1) * stride + k - x.shape[-1], 0)
    before, after = total // 2, total - total // 2
    x = F.pad(x, (before, after, before, after))
    return F.conv2d(x, kernel.permute(3, 2, 0, 1), stride=stride)


def stem(x, p, see):
    x = x.permute(0, 3, 1, 2)

    def convolve(name, x, stride=1):
        kernel = standardized(p[name]["kernel"])
        see(f"stem/{name}/standardized", kernel)
        y = conv(x, kernel, stride)
        see(f"stem/{name}", y.permute(0, 2, 3, 1))
        return y

    def norm(name, x, eps=1e-4):
        y = F.group_norm(x, 32, p[name]["scale"], p[name]["bias"], eps)
        see(f"stem/{name}", y.permute(0, 2, 3, 1))
        return y

    def rectified(name, x):
        y = F.relu(x)
        see(f"stem/{name}", y.permute(0, 2, 3, 1))
        return y

    x = convolve("conv_root", x, 2)
    x = norm("gn_root", x, 1e-6)
    x = rectified("relu_root", x)
    x = F.max_pool2d(F.pad(x, (0, 1, 0, 1)), 3, 2)
    see("stem/pool", x.permute(0, 2, 3, 1))
    shortcut = convolve("conv_proj", x)
    shortcut = norm("gn_proj", shortcut)
    y = rectified("relu1", norm("gn1", convolve("conv1", x)))
    y = rectified("relu2", norm("gn2", convolve("conv2", y)))
    y = norm("gn3", convolve("conv3", y))
    y = y + shortcut
    see("stem/sum", y.permute(0, 2, 3, 1))
    return rectified("output", y).permute(0, 2, 3, 1)


def dense(x, p):
    return x @ p["kernel"].reshape(x.shape[-1], -1) + p["bias"].flatten()


def layer_norm(x, p, eps=1e-6):
    return F.layer_norm(x, x.shape[-1:], p["scale"], p["bias"], eps)


def attention(z, p, heads, mask, see):
    N, D = z.shape
    q, k, v = (dense(z, p[n]).reshape(N, heads, D // heads).transpose(0, 1) for n in ("query", "key", "value"))
    see("query", q), see("key", k), see("value", v)
    logits = q @ k.transpose(1, 2) / math.sqrt(D // heads)
    see("logits", logits)
    allowed = mask[:, None] & mask[None, :]
    logits = logits + torch.where(allowed, 0.0, -1e10)
    weights = logits.softmax(dim=-1)
    see("weights", weights)
    y = weights @ v
    see("heads", y)
    y = y.transpose(0, 1).reshape(N, D)
    return y @ p["out"]["kernel"].reshape(D, D) + p["out"]["bias"]


def mlp(z, p, see):
    x = dense(z, p["fc1"])
    see("fc1", x)
    x = F.gelu(x, approximate="tanh")
    see("gelu", x)
    return dense(x, p["fc2"])


def block(z, p, heads, mask, see):
    x = layer_norm(z, p["norm1"])
    see("norm1", x)
    x = attention(x, p["attention"], heads, mask, lambda n, a: see(f"attention/{n}", a))
    see("attention/out", x)
    z = z + x
    see("residual1", z)
    x = layer_norm(z, p["norm2"])
    see("norm2", x)
    x = mlp(x, p["mlp"], lambda n, a: see(f"mlp/{n}", a))
    see("mlp/fc2", x)
    z = z + x
    see("output", z)
    return z


def leaves(tree, path=""):
    for name, value in tree.items():
        yield from leaves(value, f"{path}{name}/") if isinstance(value, dict) else [(path + name, value)]


def run(image, params, config):
    """{stage name: array} of one image; params: nested dicts of tensors.

    Where the parameters require gradients, those of the score to them, and to what is seen on its way, come as well.
    """
    stages, seen = {}, {}

    def see(name, array):
        tokenwise = name.startswith(("encoder", "patches", "hash", "scale_", "mask", "patch_", "spatial", "head"))
        stages[name] = (array[None] if tokenwise else array).detach().numpy().copy()
        if array.requires_grad:
            array.retain_grad()
            seen[name] = array, tokenwise

    patches, cells, numbers, mask = tokens(image, config, see)
    see("hash_index", cells), see("scale_index", numbers), see("mask", mask)
    see("patches", patches)
    x = stem(patches, params["stem"], see)
    x = dense(x.flatten(1), params["patch_embedding"])
    see("patch_embedding", x)
    x = x + params["spatial_embedding"]["table"][cells]
    see("spatial_embedding", x)
    x = x + params["scale_embedding"]["table"][numbers]
    see("scale_embedding", x)
    z = torch.cat([params["class_token"][None], x])
    see("encoder/input", z)
    valid = torch.cat([torch.ones(1), mask]).bool()
    names = sorted(n for n in params["encoder"] if n.startswith("block"))
    for name in names:
        z = block(z, params["encoder"][name], config.heads, valid, lambda n, a, b=name: see(f"encoder/{b}/{n}", a))
    z = layer_norm(z, params["encoder"]["norm"])
    see("encoder/norm", z)
    token = z[0]
    see("head/class_token", token)
    logits = dense(token, params["head"])
    see("head/logits", logits)
    p = logits.softmax(dim=-1)
    stages["probabilities"] = p[None].detach().numpy()
    score = (p * torch.arange(1, config.outputs + 1)).sum()
    stages["score"] = score[None].detach().numpy()
    if score.requires_grad:
        score.backward()
        for name, (array, tokenwise) in reversed(seen.items()):
            if array.grad is not None:  # not a view that is only looked at
                stages[f"gradient/{name}"] = (array.grad[None] if tokenwise else array.grad).numpy()
        stages |= {f"dparams/{name}": p.grad.numpy() for name, p in leaves(params) if p.grad is not None}
    return stages
