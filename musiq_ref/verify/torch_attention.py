"""The three kinds of self-attention in plain PyTorch, for `torch_port`.

They share no code with the NumPy ones; a Performer's random draws, which are numbers and no code, are the library's.

Axis letters: B images, N tokens, D width, H heads, D_h head width, m rank.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from musiq_ref.config import MusiqConfig
from musiq_ref.model.performer import random_features

MASK_FILL = -1e3  # logit of a pair of tokens of which one is padding


class Attention(nn.Module):
    """Multi-head self-attention (Eq. 6-11) with the logits of masked pairs replaced by −1000."""

    def __init__(self, config: MusiqConfig) -> None:
        super().__init__()
        self.heads, D = config.heads, config.width
        self.query, self.key, self.value, self.out = (nn.Linear(D, D) for _ in range(4))

    def forward(self, x: Tensor, allowed: Tensor) -> Tensor:
        q, k, v = (f(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for f in (self.query, self.key, self.value))
        return self.out(self.mix(q, k, v, allowed).transpose(1, 2).flatten(2))

    def mix(self, q: Tensor, k: Tensor, v: Tensor, allowed: Tensor) -> Tensor:
        logits = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5  # (B,H,N,N)
        return logits.masked_fill(~allowed, MASK_FILL).softmax(dim=-1) @ v


class LinformerAttention(Attention):
    """Queries attend to E·K and F·V; column n of E and F is the n-th valid token's."""

    E: Tensor
    F: Tensor

    def __init__(self, config: MusiqConfig) -> None:
        super().__init__(config)
        for name in "E" if config.attention_shared else "EF":
            matrix = torch.zeros(config.attention_rank, config.attention_length)
            self.register_parameter(name, nn.Parameter(matrix))

    def mix(self, q: Tensor, k: Tensor, v: Tensor, allowed: Tensor) -> Tensor:
        valid = allowed.any(dim=0)
        n, E, F = int(valid.sum()), self.E, getattr(self, "F", self.E)
        k, v = E[:, :n] @ k[..., valid, :], F[:, :n] @ v[..., valid, :]  # (B,H,m,D_h)
        return (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(dim=-1) @ v


class PerformerAttention(Attention):
    """FAVOR+ with the library's random draws, which are no parameters and not in the state dict."""

    draws: Tensor

    def __init__(self, config: MusiqConfig) -> None:
        super().__init__(config)
        drawn = random_features(config.attention_rank, config.head_width, config.attention_seed)
        self.eps = config.attention_eps
        self.register_buffer("draws", torch.tensor(drawn), persistent=False)

    def mix(self, q: Tensor, k: Tensor, v: Tensor, allowed: Tensor) -> Tensor:
        valid = allowed.any(dim=0)
        phi_q, phi_k = self.features(q, -1), self.features(k[..., valid, :], (-2, -1))
        total = (phi_q * phi_k.sum(dim=-2, keepdim=True)).sum(dim=-1, keepdim=True)
        return phi_q @ (phi_k.transpose(-1, -2) @ v[..., valid, :]) / (total + 2 * self.eps * (total <= self.eps))

    def features(self, x: Tensor, dim: int | tuple[int, int]) -> Tensor:
        W = self.draws.to(x)
        logits = x @ W.T / x.shape[-1] ** 0.25
        norms = x.square().sum(dim=-1, keepdim=True) / (2 * x.shape[-1] ** 0.5)
        return ((logits - norms - logits.amax(dim=dim, keepdim=True)).exp() + self.eps) / len(W) ** 0.5


ATTENTION = {"softmax": Attention, "linformer": LinformerAttention, "performer": PerformerAttention}
