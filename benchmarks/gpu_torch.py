"""PyTorch's side of `benchmarks/gpu.py`: the port of the verification kit, eager, as one would write it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

import musiq_ref as mq
from musiq_ref.image.tokenize import batch, drop_padding
from musiq_ref.verify.torch_port import TorchMusiq, TorchTokens


class Torch:
    """A model, and functions to time.

    params: musiq_ref's
    cuda: on the GPU; the processor otherwise
    tf32: whether products may round their factors
    """

    def __init__(self, config: mq.MusiqConfig, params: Any, cuda: bool, tf32: bool) -> None:
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
        weights = mq.checkpoint.to_pyiqa(params)
        self.config, self.cuda, self.where = config, cuda, torch.device("cuda" if cuda else "cpu")
        self.weights = {name: torch.tensor(array) for name, array in weights.items()}
        self.model = self.loaded()

    def loaded(self) -> TorchMusiq:
        model = TorchMusiq(self.config)
        model.load_state_dict(self.weights)
        return model.to(self.where)

    def upload(self, images: list[mq.Tokens]) -> tuple[TorchTokens, np.ndarray]:
        """Images as one batch, padded where they differ, and which of its tokens are none of padding."""
        kept = [drop_padding(one) for one in images]
        tokens = batch(kept) if len(kept) > 1 else mq.Tokens(*(array[None] for array in kept[0]))
        patches, places, scales = (torch.from_numpy(array).to(self.where) for array in tokens[:3])
        everywhere = torch.ones(patches.shape[1], dtype=torch.long, device=self.where)
        return TorchTokens(patches.permute(0, 1, 4, 2, 3), places.long(), scales.long(), everywhere), tokens.mask

    def scores(self, images: list[mq.Tokens]) -> Callable[[], list[float]]:
        """Scores, image by image."""

        def run():
            with torch.inference_mode():
                return [float(score) for score in [self.model.outputs(self.upload([one])[0])[0, 0] for one in images]]

        return run

    def steps(self, images: list[mq.Tokens], together: bool) -> Callable[[], float]:
        """A training step, to be called again and again, of images one by one or as one batch; it returns the loss."""
        model, allowed = self.loaded(), []
        optimizer = torch.optim.AdamW(model.parameters(), 1e-5)
        if together:  # the port's own mask is one for all images of a batch
            for block in model.transformer_encoder.transformer.values():
                block.register_forward_pre_hook(lambda _, inputs: (inputs[0], allowed[0]))

        def run():
            optimizer.zero_grad()
            losses = []
            for part in [images] if together else [[one] for one in images]:
                tokens, mask = self.upload(part)
                if together:
                    valid = torch.from_numpy(np.pad(mask, ((0, 0), (1, 0)), constant_values=True)).to(self.where)
                    allowed[:] = [valid[:, None, :, None] & valid[:, None, None, :]]  # (B, 1, N, N)
                scores = model.outputs(tokens)[:, 0]
                loss = torch.nn.functional.huber_loss(scores, torch.zeros_like(scores)) * (len(part) / len(images))
                loss.backward()
                losses.append(loss.detach())
            optimizer.step()
            if self.cuda:
                torch.cuda.synchronize()
            return float(sum(losses))

        return run

    def peak(self) -> int | None:
        """The most memory of tensors since it was last asked."""
        if not self.cuda:
            return None
        most = torch.cuda.max_memory_allocated()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        return most
