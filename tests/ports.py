"""Ports of MUSIQ in other frameworks, as their users would connect them to the kit."""

from __future__ import annotations

import numpy as np
import torch

from musiq_ref.config import PYIQA
from musiq_ref.verify.ladder.fixture import fixture_image
from musiq_ref.verify.ladder.stages import HASH_LENGTHS, SIDES
from musiq_ref.verify.torch_adapter import pyiqa_hooks, torch_port
from musiq_ref.verify.torch_port import TorchMusiq, hash_index, resized_size


def torch_tokens(module, image):
    """What the hooks cannot see: the tokens and the integer tables of the repository's PyTorch port."""
    tokens, config = module.tokenize(image), module.config
    cells = np.full((HASH_LENGTHS, HASH_LENGTHS), -1)
    for n in range(1, HASH_LENGTHS + 1):
        cells[n - 1, :n] = hash_index(1, n, config.grid_size).numpy()
    sides = [[resized_size(h, w, side) for side in config.longer_sides] for h, w in SIDES]
    return {
        "integers/hash": cells,
        "integers/sides": np.array(sides),
        "patches": tokens.patches.numpy(),  # (1, N, 3, P, P): recognised
        "hash_index": tokens.hash_index.numpy(),
        "scale_index": tokens.scale_index.numpy(),
        "mask": tokens.mask.numpy(),
    }


def torch_musiq_port(config, dtype=torch.float32, gradients=True):
    """The repository's PyTorch port, whatever the fixture's conventions."""
    module = TorchMusiq(config.replace(conventions=PYIQA)).to(dtype)
    return torch_port(module, lambda m, image: m(image), pyiqa_hooks(config), extra=torch_tokens, gradients=gradients)


IMAGE = fixture_image(54, 96)
