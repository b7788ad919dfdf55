# ruff: noqa: E501
"""Faults that people write into ports: lines of `plain_port.py` that are changed, and what a diagnosis should say."""

from __future__ import annotations

import re
import types
from pathlib import Path
from typing import NamedTuple

import numpy as np

SOURCE = Path(__file__).with_name("plain_port.py").read_text("utf-8")


class Fault(NamedTuple):
    """One fault.

    edits: (line as it is, line as it becomes)
    named: what the name of a right finding matches
    useful: what a description matches that leads there; "" for the same as named
    back: whether it is in the gradients
    """

    title: str
    edits: tuple[tuple[str, str], ...]
    named: str
    useful: str = ""
    back: bool = False


def fault(title, old, new, named, useful=""):
    return Fault(title, ((old, new),), named, useful)


class Outcome(NamedTuple):
    """What a diagnosis made of a fault: "named", "described", "WRONG" or "silent" ("unseen": nothing differs)."""

    verdict: str
    said: list[str]


def faulty(edits):
    """`plain_port.run` with lines changed."""
    source = SOURCE
    for old, new in edits:
        assert old in source, old
        source = source.replace(old, new)
    module = types.ModuleType("faulty")
    exec(compile(source, "faulty", "exec"), module.__dict__)
    return module.run


def stages_of(fixture, edits, back=False):
    import torch

    from musiq_ref.model.parameters import map_params

    params = map_params(lambda a: torch.from_numpy(a.astype(np.float32)).requires_grad_(back), fixture.params)
    with torch.set_grad_enabled(back):
        return faulty(edits)(fixture.image, params, fixture.config)


def judge(diagnosis, one) -> Outcome:
    """How well a diagnosis fits the fault that was planted."""
    known = [f for f in diagnosis.findings if f.kind != "unexplained"]
    unknown = [f for f in diagnosis.findings if f.kind == "unexplained"]
    said = [f.name for f in known] + [f"{f.stage}: {f.about}" for f in unknown]
    if not diagnosis.findings:
        return Outcome("silent" if diagnosis.unexplained else "unseen", said)
    right = [bool(re.search(one.named, " / ".join([f.name, *f.others]))) for f in known]
    if not all(right):
        return Outcome("WRONG", said)
    if right:
        return Outcome("named", said)
    told = any(re.search(one.useful or one.named, f.about) for f in unknown)
    return Outcome("described" if told else "silent", said)


FAULTS = [
    # pixels
    fault("float64 sides", "ratio = torch.tensor(longer, dtype=torch.float32) / max(h, w)", "ratio = torch.tensor(longer, dtype=torch.float64) / max(h, w)", "float64"),
    fault("sides floored", "int(torch.round(h * ratio)), int(torch.round(w * ratio))", "int(h * ratio), int(w * ratio)", "cut off|down"),
    fault("aligned corners", "center = (torch.arange(n_out, dtype=torch.float32) + 0.5) * (n_in / n_out)", "center = torch.arange(n_out, dtype=torch.float32) * ((n_in - 1) / (n_out - 1)) + 0.5", "aligned|corner"),
    fault("no half pixel", "center = (torch.arange(n_out, dtype=torch.float32) + 0.5) * (n_in / n_out)", "center = torch.arange(n_out, dtype=torch.float32) * (n_in / n_out) + 0.5", "half[- ]pixel"),
    fault("radius inclusive", "torch.where(d < 1.5, weight, 0.0)", "torch.where(d <= 1.5, weight, 0.0)", "inclusive|radius"),
    fault("radius 2", "torch.where(d < 1.5, weight, 0.0)", "torch.where(d < 2.0, weight, 0.0)", "radius"),
    fault("sigma 1", "(2 * 0.5**2)", "(2 * 1.0**2)", "[σ] ?1|sigma 1|deviation"),
    fault("gaussian squared twice", "(2 * 0.5**2)", "(0.5**2)", "σ|sigma|0\\.35"),
    fault("weights not divided by their sum", "return weight / weight.sum(1, keepdim=True)", "return weight", "sum|normalis"),
    fault("edge clamped taps", "place = torch.arange(n_in, dtype=torch.float32) + 0.5\n    d = (place[None] - center[:, None]).abs()\n    weight = torch.exp(-(d**2) / (2 * 0.5**2))\n    weight = torch.where(d < 1.5, weight, 0.0)\n    return weight / weight.sum(1, keepdim=True)",
          "place = torch.arange(-3, n_in + 3, dtype=torch.float32) + 0.5\n    d = (place[None] - center[:, None]).abs()\n    weight = torch.exp(-(d**2) / (2 * 0.5**2))\n    weight = torch.where(d < 1.5, weight, 0.0)\n    full = torch.zeros(n_out, n_in)\n    full.index_add_(1, torch.arange(-3, n_in + 3).clamp(0, n_in - 1), weight)\n    return full / full.sum(1, keepdim=True)", "edge|clamp|border"),
    fault("antialiased", "d = (place[None] - center[:, None]).abs()", "d = (place[None] - center[:, None]).abs() / max(n_in / n_out, 1)", "antialias"),
    fault("torch bilinear", "return torch.einsum(\"ih,hwc,jw->ijc\", taps(x.shape[0], h), x, taps(x.shape[1], w))", "return F.interpolate(x.permute(2, 0, 1)[None], (h, w), mode=\"bilinear\")[0].permute(1, 2, 0)", "bilinear"),
    fault("torch bicubic antialiased", "return torch.einsum(\"ih,hwc,jw->ijc\", taps(x.shape[0], h), x, taps(x.shape[1], w))", "return F.interpolate(x.permute(2, 0, 1)[None], (h, w), mode=\"bicubic\", antialias=True)[0].permute(1, 2, 0)", "antialiased bicubic"),
    fault("torch area", "return torch.einsum(\"ih,hwc,jw->ijc\", taps(x.shape[0], h), x, taps(x.shape[1], w))", "return F.interpolate(x.permute(2, 0, 1)[None], (h, w), mode=\"area\")[0].permute(1, 2, 0)", "area"),
    fault("torch nearest", "return torch.einsum(\"ih,hwc,jw->ijc\", taps(x.shape[0], h), x, taps(x.shape[1], w))", "return F.interpolate(x.permute(2, 0, 1)[None], (h, w), mode=\"nearest\")[0].permute(1, 2, 0)", "nearest"),
    fault("clamped to -1..1 after a bicubic", "return torch.einsum(\"ih,hwc,jw->ijc\", taps(x.shape[0], h), x, taps(x.shape[1], w))", "return F.interpolate(x.permute(2, 0, 1)[None], (h, w), mode=\"bicubic\")[0].permute(1, 2, 0).clamp(-1, 1)", "bicubic"),
    fault("divided by 256", "x = x / 255 * 2 - 1", "x = x / 256 * 2 - 1", "128|256"),
    fault("centred at 128", "x = x / 255 * 2 - 1", "x = (x - 128) / 128", "128|256"),
    fault("0..1", "x = x / 255 * 2 - 1", "x = x / 255", "0, 1"),
    fault("imagenet in -1..1 order", "x = x / 255 * 2 - 1", "x = (x / 255 - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])", "ImageNet"),
    fault("mean 0.5 std 0.25", "x = x / 255 * 2 - 1", "x = (x / 255 - 0.5) / 0.25", "−2, 2"),
    fault("BGR", "x = torch.from_numpy(image.copy()).float()", "x = torch.from_numpy(image[..., ::-1].copy()).float()", "BGR"),
    fault("greyscale", "x = torch.from_numpy(image.copy()).float()", "x = torch.from_numpy(image.copy()).float().mean(-1, keepdim=True).expand(-1, -1, 3)", "gr[ea]y", "channel|function"),
    fault("image upside down", "x = torch.from_numpy(image.copy()).float()", "x = torch.from_numpy(image[::-1].copy()).float()", "flip|upside|reverse"),
    fault("resized in uint8", "scaled = resize(x, *sides(*x.shape[:2], longer)) if longer else x", "scaled = ((resize((x + 1) * 127.5, *sides(*x.shape[:2], longer)).round() / 127.5) - 1) if longer else x", "8 bit"),
    fault("truncated to uint8", "scaled = resize(x, *sides(*x.shape[:2], longer)) if longer else x", "scaled = ((resize((x + 1) * 127.5, *sides(*x.shape[:2], longer)).floor() / 127.5) - 1) if longer else x", "8 bit|8-bit"),
    # patches and tokens
    fault("padding at the end", "top, left = bottom // 2, right // 2", "top, left = 0, 0", "right and bottom"),
    fault("padding at the start", "top, left = bottom // 2, right // 2", "top, left = bottom, right", "left and top|top and left"),
    fault("larger half first", "top, left = bottom // 2, right // 2", "top, left = (bottom + 1) // 2, (right + 1) // 2", "larger half"),
    fault("reflected padding", "x = F.pad(x, (0, 0, left, right - left, top, bottom - top))", "x = F.pad(x.permute(2, 0, 1)[None], (left, right - left, top, bottom - top), mode=\"reflect\")[0].permute(1, 2, 0)", "reflect|mirror"),
    fault("patches column by column", "permute(0, 2, 1, 3, 4).reshape(-1, P, P, 3)", "permute(2, 0, 1, 3, 4).reshape(-1, P, P, 3)", "column by column"),
    fault("patch rows and columns exchanged", "permute(0, 2, 1, 3, 4).reshape(-1, P, P, 3)", "permute(0, 2, 3, 1, 4).reshape(-1, P, P, 3)", "transposed|exchanged"),
    fault("hash ceil", "torch.floor(i * (torch.tensor(grid, dtype=torch.float32) / n))", "torch.ceil(i * (torch.tensor(grid, dtype=torch.float32) / n))", "hash.*(ceil|up)"),
    fault("hash without G-1 rows, linspace", "torch.floor(i * (torch.tensor(grid, dtype=torch.float32) / n)).long()", "torch.linspace(0, grid - 1, n).round().long()", "hash.*corner|corner.*hash"),
    fault("hash linspace floored", "torch.floor(i * (torch.tensor(grid, dtype=torch.float32) / n)).long()", "torch.linspace(0, grid - 1, n).long()", "hash"),
    fault("hash of i+1", "i = torch.arange(n, dtype=torch.float32)", "i = torch.arange(n, dtype=torch.float32) + 1", "hash.*(1|off by one)"),
    fault("hash column-major", "cell = hash_cell(rows, grid)[:, None] * grid + hash_cell(columns, grid)[None]", "cell = hash_cell(rows, grid)[:, None] + hash_cell(columns, grid)[None] * grid", "transposed hash|row.*exchanged"),
    fault("hash by column count", "cell = hash_cell(rows, grid)[:, None] * grid + hash_cell(columns, grid)[None]", "cell = hash_cell(rows, grid)[:, None] * columns + hash_cell(columns, grid)[None]", "hash"),
    fault("hash times G-1", "cell = hash_cell(rows, grid)[:, None] * grid + hash_cell(columns, grid)[None]", "cell = hash_cell(rows, grid)[:, None] * (grid - 1) + hash_cell(columns, grid)[None]", "hash"),
    fault("hash of the longer side for both", "cell = hash_cell(rows, grid)[:, None] * grid + hash_cell(columns, grid)[None]", "cell = hash_cell(max(rows, columns), grid)[:rows, None] * grid + hash_cell(max(rows, columns), grid)[None, :columns]", "hash"),
    fault("scales from 1", "torch.full((len(p),), k)", "torch.full((len(p),), (k + 1) % 3)", "number"),
    fault("mask all ones", "masks.append(F.pad(torch.ones(len(p), dtype=torch.long), (0, missing)))", "masks.append(torch.ones(length, dtype=torch.long))", "not marked|mask not applied"),
    fault("padding in front", "patches.append(F.pad(p, (0, 0, 0, 0, 0, 0, 0, missing)))", "patches.append(F.pad(p, (0, 0, 0, 0, 0, 0, missing, 0)))", "front", "shift|order|other places|token"),
    # stem
    fault("kernels standardised over rows only", "mean = kernel.mean(dim=(0, 1, 2), keepdim=True)", "mean = kernel.mean(dim=(0, 1), keepdim=True)", "centred|mean", "constant"),
    fault("std eps 1e-10", "(std + 1e-5)", "(std + 1e-10)", "(without|with) ε|ε 1e-10"),
    fault("std eps 1e-3", "(std + 1e-5)", "(std + 1e-3)", "ε (1e-3|0\\.001)"),
    fault("variance for std", "(std + 1e-5)", "(std**2 + 1e-5)", "variance|not.*root"),
    fault("unbiased std", "correction=0", "correction=1", "unbiased"),
    fault("conv padding even", "before, after = total // 2, total - total // 2", "before, after = k // 2, k // 2", "both sides"),
    fault("conv padding larger half first", "before, after = total // 2, total - total // 2", "before, after = total - total // 2, total // 2", "larger half|both sides"),
    fault("conv reflect", "x = F.pad(x, (before, after, before, after))\n    return F.conv2d", "x = F.pad(x, (before, after, before, after), mode=\"replicate\")\n    return F.conv2d", "edge|replicate|border", "border|edge|outermost"),
    fault("kernels transposed", "kernel.permute(3, 2, 0, 1)", "kernel.permute(3, 2, 1, 0)", "transposed"),
    fault("kernel input channels flipped", "kernel.permute(3, 2, 0, 1)", "kernel.permute(3, 2, 0, 1).flip(1)", "channel"),
    fault("16 groups", "F.group_norm(x, 32,", "F.group_norm(x, 16,", "16 groups|half as many"),
    fault("64 groups", "F.group_norm(x, 32,", "F.group_norm(x, 64,", "twice as many groups|per channel"),
    fault("1 group", "F.group_norm(x, 32,", "F.group_norm(x, 1,", "1 group|one group"),
    fault("batch norm statistics", "y = F.group_norm(x, 32, p[name][\"scale\"], p[name][\"bias\"], eps)", "y = F.batch_norm(x, None, None, p[name][\"scale\"], p[name][\"bias\"], True, 0.1, eps)", "[Bb]atch ?[Nn]orm|over the (patches|tokens|batch)"),
    fault("root eps 1e-5", "x = norm(\"gn_root\", x, 1e-6)", "x = norm(\"gn_root\", x, 1e-5)", "root.*1e-5"),
    fault("root eps 1e-3", "x = norm(\"gn_root\", x, 1e-6)", "x = norm(\"gn_root\", x, 1e-3)", "root.*1e-3"),
    fault("gn bias missing", "y = F.group_norm(x, 32, p[name][\"scale\"], p[name][\"bias\"], eps)", "y = F.group_norm(x, 32, p[name][\"scale\"], None, eps)", "GroupNorm without (bias|β)", "bias|constant"),
    fault("gn scale missing", "y = F.group_norm(x, 32, p[name][\"scale\"], p[name][\"bias\"], eps)", "y = F.group_norm(x, 32, None, p[name][\"bias\"], eps)", "GroupNorm without (scale|γ)"),
    fault("leaky relu", "y = F.relu(x)", "y = F.leaky_relu(x, 0.01)", "[Ll]eaky"),
    fault("relu6", "y = F.relu(x)", "y = F.relu6(x)", "ReLU6", "cut off|at most 6"),
    fault("relu missing after relu1", "y = rectified(\"relu1\", norm(\"gn1\", convolve(\"conv1\", x)))", "y = norm(\"gn1\", convolve(\"conv1\", x)); see(\"stem/relu1\", y.permute(0, 2, 3, 1))", "ReLU.*missing|relu1", "equals stem/gn1|stem/gn1"),
    fault("pool torch padding", "F.max_pool2d(F.pad(x, (0, 1, 0, 1)), 3, 2)", "F.max_pool2d(x, 3, 2, padding=1)", "both sides"),
    fault("pool window 2", "F.max_pool2d(F.pad(x, (0, 1, 0, 1)), 3, 2)", "F.max_pool2d(x, 2, 2)", "2 ?× ?2|window"),
    fault("average pool", "F.max_pool2d(F.pad(x, (0, 1, 0, 1)), 3, 2)", "F.avg_pool2d(F.pad(x, (0, 1, 0, 1)), 3, 2)", "average"),
    fault("no relu on the shortcut sum", "return rectified(\"output\", y).permute(0, 2, 3, 1)", "see(\"stem/output\", y.permute(0, 2, 3, 1)); return y.permute(0, 2, 3, 1)", "last ReLU"),
    fault("shortcut from the wrong tensor", "shortcut = norm(\"gn_proj\", shortcut)", "shortcut = norm(\"gn3\", shortcut); see(\"stem/gn_proj\", shortcut.permute(0, 2, 3, 1))", "gn3|parameters", "per channel|gn3"),
    # embeddings
    fault("channel-first flatten", "x = dense(x.flatten(1), params[\"patch_embedding\"])", "x = dense(x.permute(0, 3, 1, 2).flatten(1), params[\"patch_embedding\"])", "channel first"),
    fault("patch embedding bias missing", "x = dense(x.flatten(1), params[\"patch_embedding\"])", "x = x.flatten(1) @ params[\"patch_embedding\"][\"kernel\"]", "bias"),
    fault("table row 0 skipped", "params[\"spatial_embedding\"][\"table\"][cells]", "params[\"spatial_embedding\"][\"table\"][(cells + 1) % 100]", "one row too"),
    fault("scale and place multiplied", "x = x + params[\"scale_embedding\"][\"table\"][numbers]", "x = x * params[\"scale_embedding\"][\"table\"][numbers]", "multipl", "scale|token|factor"),
    fault("scale embedding twice", "x = x + params[\"scale_embedding\"][\"table\"][numbers]", "x = x + 2 * params[\"scale_embedding\"][\"table\"][numbers]", "twice|doubled"),
    fault("class token at the end", "z = torch.cat([params[\"class_token\"][None], x])", "z = torch.cat([x, params[\"class_token\"][None]])", "class token (last|at the end)", "shift|order|roll"),
    fault("class token twice", "z = torch.cat([params[\"class_token\"][None], x])", "z = torch.cat([2 * params[\"class_token\"][None], x])", "class token", "index(es|ices)? (\\[0\\]|0)|class token"),
    # encoder
    fault("eps 1e-5", "def layer_norm(x, p, eps=1e-6)", "def layer_norm(x, p, eps=1e-5)", "LayerNorm.*1e-5"),
    fault("rms norm", "return F.layer_norm(x, x.shape[-1:], p[\"scale\"], p[\"bias\"], eps)", "return x / (x.pow(2).mean(-1, keepdim=True) + eps).sqrt() * p[\"scale\"] + p[\"bias\"]", "RMS|mean not subtracted", "per token|each token"),
    fault("norm bias missing", "return F.layer_norm(x, x.shape[-1:], p[\"scale\"], p[\"bias\"], eps)", "return F.layer_norm(x, x.shape[-1:], p[\"scale\"], None, eps)", "LayerNorm without (β|bias)", "bias"),
    fault("gamma + 1", "return F.layer_norm(x, x.shape[-1:], p[\"scale\"], p[\"bias\"], eps)", "return F.layer_norm(x, x.shape[-1:], 1 + p[\"scale\"], p[\"bias\"], eps)", "1 \\+ γ|γ \\+ 1", "per (channel|width)|factor|width"),
    fault("query bias missing", "for n in (\"query\", \"key\", \"value\"))", "for n in (\"query\", \"key\", \"value\"))\n    q = (z @ p[\"query\"][\"kernel\"].reshape(D, D)).reshape(N, heads, D // heads).transpose(0, 1)", "[Qq]uer.*bias|bias.*quer"),
    fault("key bias missing", "for n in (\"query\", \"key\", \"value\"))", "for n in (\"query\", \"key\", \"value\"))\n    k = (z @ p[\"key\"][\"kernel\"].reshape(D, D)).reshape(N, heads, D // heads).transpose(0, 1)", "[Kk]ey.*bias|bias.*key"),
    fault("key and value exchanged", "(\"query\", \"key\", \"value\"))", "(\"query\", \"value\", \"key\"))", "[Kk]ey.*value|value.*key"),
    fault("head width before heads", "reshape(N, heads, D // heads).transpose(0, 1)", "reshape(N, D // heads, heads).permute(2, 0, 1)", "interleaved"),
    fault("twice as many heads", "N, D = z.shape", "N, D = z.shape; heads = heads * 2", "heads"),
    fault("one head", "N, D = z.shape", "N, D = z.shape; heads = 1", "heads"),
    fault("divided by D", "/ math.sqrt(D // heads)", "/ math.sqrt(D)", "width"),
    fault("scale applied twice", "/ math.sqrt(D // heads)", "/ (D // heads)", "twice|D/H|divided by"),
    fault("logits times scale", "/ math.sqrt(D // heads)", "* math.sqrt(D // heads)", "multipl|times"),
    fault("mask missing", "logits = logits + torch.where(allowed, 0.0, -1e10)", "logits = logits * 1.0", "mask not applied"),
    fault("mask 0 for -inf", "torch.where(allowed, 0.0, -1e10)", "torch.where(allowed, 0.0, -10.0)", "mask of"),
    fault("mask inverted", "torch.where(allowed, 0.0, -1e10)", "torch.where(~allowed, 0.0, -1e10)", "upside down|inverted"),
    fault("mask multiplied", "logits = logits + torch.where(allowed, 0.0, -1e10)", "logits = logits * allowed", "mask multiplied|mask.*0"),
    fault("mask after softmax", "logits = logits + torch.where(allowed, 0.0, -1e10)\n    weights = logits.softmax(dim=-1)", "weights = logits.softmax(dim=-1) * allowed", "after the softmax"),
    fault("softmax over queries", "logits.softmax(dim=-1)\n    see(\"weights\"", "logits.softmax(dim=-2)\n    see(\"weights\"", "quer"),
    fault("attention transposed", "y = weights @ v", "y = weights.transpose(1, 2) @ v", "transposed"),
    fault("heads stacked wrongly", "y = y.transpose(0, 1).reshape(N, D)", "y = y.reshape(N, D)", "heads.*(not|without)|reshape", "places|order"),
    fault("out kernel transposed", "y @ p[\"out\"][\"kernel\"].reshape(D, D) +", "y @ p[\"out\"][\"kernel\"].reshape(D, D).T +", "transposed out"),
    fault("fc1 bias missing", "x = dense(z, p[\"fc1\"])", "x = z @ p[\"fc1\"][\"kernel\"]", "bias"),
    fault("fc2 bias missing", "return dense(x, p[\"fc2\"])", "return x @ p[\"fc2\"][\"kernel\"]", "bias"),
    fault("exact gelu", "approximate=\"tanh\"", "approximate=\"none\"", "erf"),
    fault("elu", "F.gelu(x, approximate=\"tanh\")", "F.elu(x)", "ELU", "function of"),
    fault("gelu twice", "return dense(x, p[\"fc2\"])", "return dense(F.gelu(x, approximate=\"tanh\"), p[\"fc2\"])", "twice|once more"),
    fault("norm2 skipped", "x = mlp(x, p[\"mlp\"],", "x = mlp(z, p[\"mlp\"],", "not normalised|norm2", "residual1|norm2"),
    fault("residual halved", "z = z + x\n    see(\"residual1\", z)", "z = z + 0.5 * x\n    see(\"residual1\", z)", "0\\.5|half"),
    fault("layer scale", "z = z + x\n    see(\"output\", z)", "z = z + 1e-1 * x\n    see(\"output\", z)", "tenth"),
    fault("residual over the norm", "z = z + x\n    see(\"output\", z)", "z = F.layer_norm(z + x, z.shape[-1:])\n    see(\"output\", z)", "norm", "per token|each token|mean 0"),
    fault("second block has the first's weights", "block(z, params[\"encoder\"][name],", "block(z, params[\"encoder\"][names[0]],", "first one's", "parameters of|block_00"),
    fault("blocks in reverse order", "names = sorted(n for n in params[\"encoder\"] if n.startswith(\"block\"))", "names = sorted((n for n in params[\"encoder\"] if n.startswith(\"block\")), reverse=True)", "revers|order"),
    fault("final norm missing", "z = layer_norm(z, params[\"encoder\"][\"norm\"])", "z = z * 1.0", "final norm"),
    fault("final norm has norm2's parameters", "z = layer_norm(z, params[\"encoder\"][\"norm\"])", "z = layer_norm(z, params[\"encoder\"][\"block_01\"][\"norm2\"])", "block's parameters|norm2", "norm2|per (channel|width)|width"),
    fault("bfloat16 in the MLP", "return dense(x, p[\"fc2\"])", "return dense(x.bfloat16(), {k: v.bfloat16() for k, v in p[\"fc2\"].items()}).float()", "bfloat16"),
    fault("float16 attention", "y = weights @ v", "y = (weights.half() @ v.half()).float()", "float16"),
    # head
    fault("mean of the tokens", "token = z[0]", "token = z.mean(0)", "mean of"),
    fault("token 1 read", "token = z[0]", "token = z[1]", "second token|first patch|token 1", "shift|token|other"),
    fault("sum for mean class", "score = (p * torch.arange(1, config.outputs + 1)).sum()", "score = (p * torch.arange(config.outputs)).sum()", "0 … C"),
    fault("score over 100", "score = (p * torch.arange(1, config.outputs + 1)).sum()", "score = (p * torch.arange(1, config.outputs + 1)).sum() * 10", "times 10"),
    fault("softmax temperature", "p = logits.softmax(dim=-1)", "p = (logits / 2).softmax(dim=-1)", "softmax.*2|temperature", "power|function"),
    fault("classes reversed", "p = logits.softmax(dim=-1)", "p = logits.softmax(dim=-1).flip(-1)", "revers"),
    fault("log softmax", "p = logits.softmax(dim=-1)", "p = logits.log_softmax(dim=-1)", "log"),
]  # fmt: skip
