"""The stem of chapter 12 in PyTorch, repaired: chapter 12 proves it, and chapter 12b goes on from it.

Parameters have pyiqa's names, and what the ladder calls a stage is the output of a submodule.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F

from musiq_ref.checkpoint import to_pyiqa
from musiq_ref.ops.convolution import same_padding


def load(part: nn.Module, params: dict, prefix: str = "") -> nn.Module:
    """The weights of a part of the model, those whose names begin with the prefix."""
    tensors = {
        name.removeprefix(prefix): torch.tensor(array)
        for name, array in to_pyiqa(params).items()
        if name.startswith(prefix)
    }
    missing, _ = part.load_state_dict(tensors, strict=False)
    assert not missing, f"no weights were found for {missing}"
    return part


def pad_same(x: torch.Tensor, size: int, stride: int, value: float = 0.0) -> torch.Tensor:
    """x (N, C, h, w), padded as TensorFlow's "SAME" does."""
    (top, bottom), (left, right) = (same_padding(n, size, stride) for n in x.shape[-2:])
    return F.pad(x, (left, right, top, bottom), value=value)  # the last axis first


class Conv(nn.Conv2d):
    """A convolution with standardised weights and SAME padding."""

    def __init__(self, c_in: int, c_out: int, size: int, stride: int = 1) -> None:
        super().__init__(c_in, c_out, size, stride, bias=False)
        self.standardized = nn.Identity()

    def forward(self, input):
        w = self.weight.permute(2, 3, 1, 0)  # (row, column, in, out), as in the ladder
        std, mean = torch.std_mean(w, dim=(0, 1, 2), correction=0)
        w = self.standardized((w - mean) / (std + 1e-5)).permute(3, 2, 0, 1)
        return F.conv2d(pad_same(input, self.kernel_size[0], self.stride[0]), w, stride=self.stride)


class Pool(nn.Module):
    """Max-pool over 3×3, every second pixel; padding never wins."""

    def forward(self, x):
        return F.max_pool2d(pad_same(x, 3, 2, -math.inf), 3, stride=2)


class Bottleneck(nn.Module):
    """1×1, 3×3, 1×1 convolutions and a shortcut: (N, 64, h, w) to (N, 256, h, w)."""

    def __init__(self, conv: Callable[..., nn.Module]) -> None:
        super().__init__()
        self.conv1, self.gn1, self.relu1 = conv(64, 64, 1), nn.GroupNorm(32, 64, 1e-4), nn.ReLU()
        self.conv2, self.gn2, self.relu2 = conv(64, 64, 3), nn.GroupNorm(32, 64, 1e-4), nn.ReLU()
        self.conv3, self.gn3 = conv(64, 256, 1), nn.GroupNorm(32, 256, 1e-4)
        self.conv_proj, self.gn_proj = conv(64, 256, 1), nn.GroupNorm(32, 256, 1e-4)
        self.sum = nn.Identity()

    def forward(self, x):
        shortcut = self.gn_proj(self.conv_proj(x))
        x = self.relu1(self.gn1(self.conv1(x)))
        x = self.relu2(self.gn2(self.conv2(x)))
        return F.relu(self.sum(self.gn3(self.conv3(x)) + shortcut))


class Stem(nn.Module):
    """(N, 3, P, P) to (N, 256, P/4, P/4)."""

    def __init__(
        self, conv: Callable[..., nn.Module] = Conv, pool: Callable[[], nn.Module] = Pool
    ) -> None:
        super().__init__()
        self.conv_root, self.gn_root = conv(3, 64, 7, stride=2), nn.GroupNorm(32, 64, 1e-6)
        self.relu_root, self.pool, self.block1 = nn.ReLU(), pool(), Bottleneck(conv)

    def forward(self, x):
        x = self.relu_root(self.gn_root(self.conv_root(x)))  # (N, 64, P/2, P/2)
        return self.block1(self.pool(x))  # pooled: (N, 64, P/4, P/4)


def stem_hooks(stem: Stem) -> dict[str, tuple[str, str]]:
    """{submodule: (stage, layout)} of the stem; "NCHW" has the channels second, "" lies as the ladder has it."""
    hooks = {"block1": ("stem/output", "NCHW")}
    for name in ("conv_root", "gn_root", "relu_root", "pool"):
        hooks[name] = (f"stem/{name}", "NCHW")
    for name, _ in stem.block1.named_children():  # conv1, gn1, relu1, …, sum
        hooks[f"block1.{name}"] = (f"stem/{name}", "NCHW")
    for name, (stage, _) in list(hooks.items()):
        if "conv" in name:
            hooks[f"{name}.standardized"] = (f"{stage}/standardized", "")
    return hooks
