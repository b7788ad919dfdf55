"""MUSIQ in PyTorch under its own names, with other people's habits and a few faults, each a switch."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from musiq_ref.checkpoint import to_pyiqa
from musiq_ref.verify.torch_port import StandardizedConv2d, TorchMusiq, same_padding


@dataclass
class Hidden:
    state: torch.Tensor
    name: str = "hidden"


class Centred(StandardizedConv2d):
    def forward(self, input):  # padding=k//2
        std, mean = torch.std_mean(self.weight, dim=(1, 2, 3), keepdim=True)
        return F.conv2d(
            input, (self.weight - mean) / (std + 1e-5), stride=self.stride, padding=self.kernel_size[0] // 2
        )


class Pool(nn.Module):
    def forward(self, x):
        return F.max_pool2d(same_padding(x, 3, 2), 3, 2)


class Stem(nn.Module):
    def __init__(self, fault):
        super().__init__()
        conv, relu = StandardizedConv2d, nn.ReLU(inplace=True)  # one module, called three times
        groups = 16 if fault == "groups" else 32
        first = (Centred if fault == "padding" else conv)(3, 64, 7, stride=2)
        self.root = nn.Sequential(first, nn.GroupNorm(32, 64, 1e-6), relu, Pool())
        middle = [conv(64, 64, 3), nn.GroupNorm(groups, 64, 1e-4), relu]
        end = [conv(64, 256, 1), nn.GroupNorm(32, 256, 1e-4)]
        self.left = nn.Sequential(conv(64, 64, 1), nn.GroupNorm(32, 64, 1e-4), relu, *middle, *end)
        self.right = nn.Sequential(conv(64, 256, 1), nn.GroupNorm(32, 256, 1e-4))

    def forward(self, x):
        x = self.root(x)
        y = self.left(x)
        y += self.right(x)
        return y.relu_()


class FusedAttention(nn.Module):
    def __init__(self, config, fault):
        super().__init__()
        self.heads, self.scale = config.heads, (config.head_width if fault != "scale" else config.width) ** -0.5
        self.qkv, self.proj = nn.Linear(config.width, 3 * config.width), nn.Linear(config.width, config.width)

    def forward(self, x, keep):
        B, N, D = x.shape
        q, k, v = self.qkv(x).view(B, N, 3, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        logits = q @ k.mT
        logits *= self.scale
        logits.masked_fill_(~keep, float("-inf"))
        return self.proj((logits.softmax(-1) @ v).transpose(1, 2).reshape(B, N, D))


class Block(nn.Module):
    def __init__(self, config, habits, fault):
        super().__init__()
        self.habits, self.fault = habits, fault
        D, M = config.width, config.mlp_width
        self.ln_1, self.ln_2 = nn.LayerNorm(D, 1e-6), nn.LayerNorm(D, 1e-4 if fault == "eps" else 1e-6)
        last = nn.MultiheadAttention(D, config.heads, batch_first="sequence first" not in habits)
        self.attn = last if "mha" in habits else FusedAttention(config, fault)
        gelu = nn.GELU(approximate="tanh" if fault == "gelu" else "none")
        self.ff = nn.Sequential(nn.Linear(D, M), gelu, nn.Dropout(0.1), nn.Linear(M, D), nn.Dropout(0.1))

    def forward(self, z, keep):
        z = z.state if isinstance(z, Hidden) else z[0] if isinstance(z, tuple) else z
        y = self.ln_1(z)
        y = self.attn(y, y, y, key_padding_mask=~keep[None])[0] if "mha" in self.habits else self.attn(y, keep)
        y += z
        x = self.ff(self.ln_2(y))
        x += y.detach() if self.fault == "detach" else y
        return Hidden(x) if "dataclass" in self.habits else (x, None) if "tuple" in self.habits else x


class Port(nn.Module):
    """habits: a set of words, see the ifs; fault: one word, in the last block or the stem."""

    def __init__(self, config, habits=(), fault=""):
        super().__init__()
        self.config, self.habits, self.tokenizer = config, set(habits), [TorchMusiq(config)]
        self.stem = Stem(fault)
        self.embed = nn.Linear(config.stem_side**2 * 256, config.width)
        self.pos = nn.Parameter(torch.empty(config.grid_size**2, config.width))
        self.scale = nn.Embedding(config.scales, config.width)
        self.cls = nn.Parameter(torch.empty(config.width))
        if "encoder" in self.habits:
            shape = (config.width, config.heads, config.mlp_width, 0.1, nn.GELU(), 1e-6)
            layer = nn.TransformerEncoderLayer(*shape, batch_first=True, norm_first=True)
            self.encoder = nn.TransformerEncoder(layer, config.layers, enable_nested_tensor=False)
        else:
            layers = range(config.layers)
            self.blocks = nn.ModuleList(Block(config, self.habits, fault if i == layers[-1] else "") for i in layers)
        self.norm, self.fc = nn.LayerNorm(config.width, 1e-6), nn.Linear(config.width, config.outputs)

    def tokens(self, image):
        modes = {"no_grad": torch.no_grad, "inference": torch.inference_mode}
        with next((mode() for habit, mode in modes.items() if habit in self.habits), nullcontext()):
            return self.tokenizer[0].tokenize(image)

    def forward(self, image):
        t, h = self.tokens(image), self.habits
        keep, patches = t.mask.bool(), t.patches[0]
        cell, scale = t.hash_index, t.scale_index
        if "valid only" in h:
            patches, cell, scale, keep = patches[keep], cell[keep], scale[keep], keep[keep]
        if "channels_last" in h:
            patches = patches.to(memory_format=torch.channels_last)
        x = torch.cat([self.stem(p) for p in patches.split(4)]) if "chunks" in h else self.stem(patches)
        x = self.embed(x.permute(0, 2, 3, 1).flatten(1))[None]
        x = x + self.pos[cell] + self.scale(scale)
        first = "class last" not in h
        z = torch.cat([self.cls.expand(1, 1, -1), x] if first else [x, self.cls.expand(1, 1, -1)], 1)
        keep = F.pad(keep, (1, 0) if first else (0, 1), value=True)
        z = z.transpose(0, 1) if "sequence first" in h else z
        if "encoder" in h:
            z = self.encoder(z, src_key_padding_mask=~keep[None])
        for block in [] if "encoder" in h else self.blocks:
            if "checkpoint" in h or "reentrant" in h:
                z = checkpoint(block, z, keep, use_reentrant="reentrant" in h)
            else:
                z = block(z, keep)
        z = z.state if isinstance(z, Hidden) else z[0] if isinstance(z, tuple) else z
        z = z.transpose(0, 1) if "sequence first" in h else z
        p = self.fc(self.norm(z)[:, 0 if first else -1]).softmax(-1)
        return {"distribution": p, "score": p @ torch.arange(1.0, 1 + p.shape[-1], dtype=p.dtype)}

    def load(self, params):
        """The fixture's weights, by hand as everybody writes it."""
        theirs = {name: torch.from_numpy(np.array(a)) for name, a in to_pyiqa(params).items()}
        encoder = "transformer_encoder"
        state = {"pos": theirs[f"{encoder}.posembed_input.position_emb"][0], "cls": theirs[f"{encoder}.cls"][0, 0]}
        state["scale.weight"] = theirs[f"{encoder}.scaleembed_input.scale_emb"]
        modules = {"stem.root.0": "conv_root", "stem.root.1": "gn_root", "embed": "embedding", "fc": "head.0"}
        modules |= {f"stem.left.{3 * i - 3}": f"block1.conv{i}" for i in (1, 2, 3)}
        modules |= {f"stem.left.{3 * i - 2}": f"block1.gn{i}" for i in (1, 2, 3)}
        modules |= {
            "stem.right.0": "block1.conv_proj",
            "stem.right.1": "block1.gn_proj",
            "norm": f"{encoder}.encoder_norm",
        }
        names = {"norm1": "ln_1", "norm2": "ln_2", "mlp.fc1": "ff.0", "mlp.fc2": "ff.3", "attention.out": "attn.proj"}
        qkv, prefix = "attn.qkv.", "blocks"
        if "mha" in self.habits:
            names["attention.out"], qkv = "attn.out_proj", "attn.in_proj_"
        if "encoder" in self.habits:
            names |= {"norm1": "norm1", "norm2": "norm2", "mlp.fc1": "linear1", "mlp.fc2": "linear2"}
            names["attention.out"], qkv, prefix = "self_attn.out_proj", "self_attn.in_proj_", "encoder.layers"
        for i in range(self.config.layers):
            block = f"{encoder}.transformer.encoderblock_{i}"
            modules |= {f"{prefix}.{i}.{mine}": f"{block}.{name}" for name, mine in names.items()}
            for leaf in ("weight", "bias"):
                fused = [theirs[f"{block}.attention.{part}.{leaf}"] for part in ("query", "key", "value")]
                state[f"{prefix}.{i}.{qkv}{leaf}"] = torch.cat(fused)
        for mine, name in modules.items():
            state |= {
                f"{mine}.{leaf}": theirs[f"{name}.{leaf}"] for leaf in ("weight", "bias") if f"{name}.{leaf}" in theirs
            }
        self.load_state_dict(state)
        return self
