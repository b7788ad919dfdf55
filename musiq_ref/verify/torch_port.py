"""MUSIQ in plain PyTorch with pyiqa's conventions and parameter names: the second opinion, differentiated by autograd.

Written from the facts of SPEC 3-6 (column "pyiqa"), so that a state dict of pyiqa's names loads as it is. The models of
the ablations, which pyiqa does not have, lack the parameters that they lack here. It shares no code with the NumPy
model and is what that model is compared and timed against. Like `torch_adapter`, it needs PyTorch (the extra "verify").

Axis letters: B images, N tokens, D width, H heads, P patch side, C outputs.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from musiq_ref.config import PYIQA, MusiqConfig
from musiq_ref.verify.torch_attention import ATTENTION


class TorchTokens(NamedTuple):
    """One image batch as tokens: patches (B,N,3,P,P), hash_index (N,), scale_index (N,), mask (N,) of 0 and 1."""

    patches: Tensor
    hash_index: Tensor
    scale_index: Tensor
    mask: Tensor


def same_padding(x: Tensor, kernel: int, stride: int) -> Tensor:
    """x (..., h, w) padded with zeros so that ceil(n / stride) windows fit, the smaller half before.

    >>> same_padding(torch.zeros(1, 1, 5, 8), kernel=4, stride=4).shape
    torch.Size([1, 1, 8, 8])
    """
    amounts = []
    for n in (x.shape[-1], x.shape[-2]):  # F.pad wants the last axis first
        total = max((-(-n // stride) - 1) * stride + kernel - n, 0)
        amounts += [total // 2, total - total // 2]
    return F.pad(x, amounts)


def hash_index(rows: int, columns: int, grid: int) -> Tensor:
    """Grid cell t_row·G + t_col of every patch, row by row: t_i = min(floor(i·(G/n)), G − 1) in float32 (SPEC 3).

    >>> hash_index(2, 3, grid=10).tolist()
    [0, 3, 6, 50, 53, 56]
    """
    t_row, t_col = (
        torch.floor(torch.arange(n, dtype=torch.float32) * (torch.tensor(grid, dtype=torch.float32) / n))
        .clamp(max=grid - 1)
        .long()
        for n in (rows, columns)
    )
    return (t_row[:, None] * grid + t_col).flatten()


def sinusoidal_table(grid: int, width: int) -> Tensor:
    """Position p of G² (row-major) as sines and cosines, float64 (G², D): p / 10000^(2⌊j/2⌋/D) (appendix B.2).

    >>> sinusoidal_table(2, 4)[0]
    tensor([0., 1., 0., 1.], dtype=torch.float64)
    """
    frequency = 10000 ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)  # one for every pair of columns
    angle = torch.outer(torch.arange(grid**2, dtype=torch.float64), frequency)
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)[:, :width]


def resized_size(height: int, width: int, longer_side: int) -> tuple[int, int]:
    """Height and width when the longer side has become `longer_side`, in float64, rounded half to even.

    >>> resized_size(1375, 1600, 224)
    (193, 224)
    """
    ratio = longer_side / max(height, width)
    return round(height * ratio), round(width * ratio)


class StandardizedConv2d(nn.Conv2d):
    """Convolution without bias, SAME padding, kernel standardised per output channel with the unbiased deviation."""

    def __init__(self, c_in: int, c_out: int, kernel_size: int, stride: int = 1) -> None:
        super().__init__(c_in, c_out, kernel_size, stride, bias=False)

    def forward(self, input: Tensor) -> Tensor:
        std, mean = torch.std_mean(self.weight, dim=(1, 2, 3), keepdim=True, correction=1)
        padded = same_padding(input, self.kernel_size[0], self.stride[0])
        return F.conv2d(padded, (self.weight - mean) / (std + 1e-5), stride=self.stride)


class Bottleneck(nn.Module):
    """The stem's one residual unit: 1×1, 3×3, 1×1 convolutions to 256 channels, with a projected shortcut."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.gn1 = StandardizedConv2d(64, 64, 1), nn.GroupNorm(32, 64, eps=1e-4)
        self.conv2, self.gn2 = StandardizedConv2d(64, 64, 3), nn.GroupNorm(32, 64, eps=1e-4)
        self.conv3, self.gn3 = StandardizedConv2d(64, 256, 1), nn.GroupNorm(32, 256, eps=1e-4)
        self.conv_proj, self.gn_proj = StandardizedConv2d(64, 256, 1), nn.GroupNorm(32, 256, eps=1e-4)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.gn1(self.conv1(x)))
        y = F.relu(self.gn2(self.conv2(y)))
        return F.relu(self.gn3(self.conv3(y)) + self.gn_proj(self.conv_proj(x)))


class EncoderBlock(nn.Module):
    """z' = MSA(LN(z)) + z;  z = MLP(LN(z')) + z'  (Eq. 3-4), GELU with the error function."""

    def __init__(self, config: MusiqConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.width, eps=1e-6)
        self.attention = ATTENTION[config.attention](config)
        self.norm2 = nn.LayerNorm(config.width, eps=1e-6)
        self.mlp = nn.ModuleDict(
            {"fc1": nn.Linear(config.width, config.mlp_width), "fc2": nn.Linear(config.mlp_width, config.width)}
        )

    def forward(self, z: Tensor, allowed: Tensor) -> Tensor:
        z = z + self.attention(self.norm1(z), allowed)
        return z + self.mlp["fc2"](F.gelu(self.mlp["fc1"](self.norm2(z))))


class Encoder(nn.Module):
    """Embeddings and class token added (Eq. 2), L blocks, LayerNorm of the class token (Eq. 5)."""

    def __init__(self, config: MusiqConfig) -> None:
        super().__init__()
        D, G = config.width, config.grid_size
        self.posembed_input, self.scaleembed_input = nn.ParameterDict(), nn.ParameterDict()
        if config.spatial == "learnable":
            self.posembed_input["position_emb"] = torch.zeros(1, G**2, D)
        if config.scale_embedding:
            self.scaleembed_input["scale_emb"] = torch.zeros(config.scales, D)
        self.fixed_table = sinusoidal_table(G, D) if config.spatial == "sinusoidal" else None
        self.cls = nn.Parameter(torch.zeros(1, 1, D))
        self.transformer = nn.ModuleDict({f"encoderblock_{i}": EncoderBlock(config) for i in range(config.layers)})
        self.encoder_norm = nn.LayerNorm(D, eps=1e-6)

    def forward(self, x: Tensor, tokens: TorchTokens) -> Tensor:
        for table in self.posembed_input.values():
            x = x + table[0, tokens.hash_index]
        if self.fixed_table is not None:
            x = x + self.fixed_table.to(x)[tokens.hash_index]
        for table in self.scaleembed_input.values():
            x = x + table[tokens.scale_index]
        z = torch.cat([self.cls.expand(len(x), 1, -1), x], dim=1)
        valid = F.pad(tokens.mask.bool(), (1, 0), value=True)  # the class token is never masked
        allowed = valid[:, None] & valid[None, :]
        for block in self.transformer.values():
            z = block(z, allowed)
        return self.encoder_norm(z[:, 0])


class TorchMusiq(nn.Module):
    """From an image (B, 3, H, W) in [0, 1] to its score (B,), differentiable in the image and every parameter.

    >>> model = TorchMusiq(MusiqConfig.preset("tiny", conventions=PYIQA))
    >>> model(torch.zeros(1, 3, 64, 96)).shape
    torch.Size([1])
    >>> TorchMusiq(MusiqConfig.preset("tiny"))
    Traceback (most recent call last):
    ValueError: the PyTorch port knows pyiqa's conventions only; build the config with conventions=PYIQA
    """

    def __init__(self, config: MusiqConfig) -> None:
        super().__init__()
        if config.conventions != PYIQA:
            raise ValueError("the PyTorch port knows pyiqa's conventions only; build the config with conventions=PYIQA")
        self.config = config
        if config.stem == "resnet":
            self.conv_root, self.gn_root = StandardizedConv2d(3, 64, 7, stride=2), nn.GroupNorm(32, 64, eps=1e-6)
            self.block1 = Bottleneck()
        features = {"resnet": config.stem_side**2 * 256, "linear": config.patch_size**2 * 3}[config.stem]
        self.embedding = nn.Linear(features, config.width)
        self.transformer_encoder = Encoder(config)
        head = nn.Linear(config.width, config.outputs)
        self.head = head if config.outputs == 1 else nn.Sequential(head, nn.Softmax(dim=-1))

    def forward(self, image: Tensor) -> Tensor:
        return self.score(self.outputs(self.tokenize(image)))

    def tokenize(self, image: Tensor) -> TorchTokens:
        """Image (B, 3, H, W) in [0, 1] to the tokens of every scale, resized ones first (SPEC 3)."""
        config, x = self.config, 2 * image - 1
        h, w = x.shape[-2:]
        scales = []
        for side in config.longer_sides:
            size = resized_size(h, w, side)
            if min(size) < 1:
                raise ValueError(f"an image of {h} × {w} has no pixels left when its longer side becomes {side}")
            same = size == (h, w)
            resized = x if same else F.interpolate(x, size, mode="bicubic", align_corners=False)
            scales.append((resized, (-(-side // config.patch_size)) ** 2))
        if config.native:
            scales.append((x, config.max_native_patches))
        parts = [self._scale_tokens(pixels, k, length) for k, (pixels, length) in enumerate(scales)]
        patches, *vectors = zip(*parts, strict=True)
        return TorchTokens(torch.cat(patches, dim=1), *(torch.cat(v) for v in vectors))

    def _scale_tokens(self, x: Tensor, k: int, length: int) -> TorchTokens:
        """The tokens of scale k, padded with zeros or cut to `length` (−1: left as they are)."""
        P = self.config.patch_size
        x = same_padding(x, P, P)
        rows, columns = x.shape[-2] // P, x.shape[-1] // P
        patches = x.unflatten(-1, (columns, P)).unflatten(-3, (rows, P)).permute(0, 2, 4, 1, 3, 5).flatten(1, 2)
        n = rows * columns
        missing = max(length - n, 0)
        keep = n if length < 0 else min(n, length)
        vectors = (hash_index(rows, columns, self.config.grid_size), torch.full((n,), k), torch.ones(n).long())
        return TorchTokens(
            F.pad(patches[:, :keep], (0, 0) * 3 + (0, missing)), *(F.pad(v[:keep], (0, missing)) for v in vectors)
        )

    def outputs(self, tokens: TorchTokens) -> Tensor:
        """What the head says (B, C): the score itself for C = 1, else the distribution over the classes."""
        B, N = tokens.patches.shape[:2]
        x = tokens.patches.flatten(0, 1)
        if self.config.stem == "resnet":
            x = F.relu(self.gn_root(self.conv_root(x)))
            x = self.block1(F.max_pool2d(same_padding(x, 3, 2), 3, 2))  # zero padding: x is not negative
        x = self.embedding(x.permute(0, 2, 3, 1).flatten(1)).unflatten(0, (B, N))  # flat order: row, column, channel
        return self.head(self.transformer_encoder(x, tokens))

    def score(self, outputs: Tensor) -> Tensor:
        """Score (B,) of the head's outputs (B, C): the output itself, or the mean class Σ k·p_k, k = 1…C.

        >>> model = TorchMusiq(MusiqConfig.preset("tiny", outputs=3, conventions=PYIQA))
        >>> model.score(torch.tensor([[0.5, 0.5, 0.0]]))
        tensor([1.5000])
        """
        if outputs.shape[-1] == 1:
            return outputs[:, 0]
        classes = torch.arange(1, outputs.shape[-1] + 1, dtype=outputs.dtype)
        return (outputs * classes).sum(dim=-1)
