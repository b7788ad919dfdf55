"""A PyTorch module as a port: forward hooks see (and may replace) its submodules' outputs, autograd gives gradients."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from musiq_ref.checkpoint import to_official, to_pyiqa
from musiq_ref.config import MusiqConfig
from musiq_ref.verify.adapters import Port
from musiq_ref.verify.ladder.fixture import Fixture

Hook = tuple[str, str]  # stage, and the layout of the output: "NCHW", "heads" (B, N, H·D_h) or "" for ours


def pyiqa_hooks(config: MusiqConfig) -> dict[str, Hook]:
    """{submodule: (stage, layout)} for a module with pyiqa's names.

    >>> pyiqa_hooks(MusiqConfig(layers=1))["conv_root"]
    ('stem/conv_root', 'NCHW')
    """
    stem = {"conv_root": "conv_root", "gn_root": "gn_root", "block1": "output"}
    stem |= {f"block1.{n}": n for n in ("conv1", "gn1", "conv2", "gn2", "conv3", "gn3", "conv_proj", "gn_proj")}
    hooks: dict[str, Hook] = {name: (f"stem/{stage}", "NCHW") for name, stage in stem.items()}
    hooks["embedding"] = ("patch_embedding", "")
    for i in range(config.layers):
        block, stage = f"transformer_encoder.transformer.encoderblock_{i}", f"encoder/block_{i:02d}"
        hooks |= {f"{block}.attention.{n}": (f"{stage}/attention/{n}", "heads") for n in ("query", "key", "value")}
        hooks |= {
            f"{block}.{theirs}": (f"{stage}/{ours}", "")
            for theirs, ours in (
                ("norm1", "norm1"),
                ("attention.out", "attention/out"),
                ("norm2", "norm2"),
                ("mlp.fc1", "mlp/fc1"),
                ("mlp.fc2", "mlp/fc2"),
            )
        }
        hooks[block] = (f"{stage}/output", "")
    head = "head" if config.outputs == 1 else "head.0"
    return {**hooks, head: ("head/logits", "")}


def torch_port(
    module: torch.nn.Module,
    call: Callable[[torch.nn.Module, torch.Tensor], torch.Tensor],
    hooks: Mapping[str, Hook],
    *,
    names: str | None = "pyiqa",
    extra: Callable[[torch.nn.Module, torch.Tensor], Mapping[str, Any]] | None = None,
    gradients: bool = True,
) -> Port:
    """A module as a port for `compare_port`, `single_step` and `bisect`.

    module: runs in its own dtype, with the fixture's weights
    call: (module, image (1, 3, H, W) in [0, 1]) -> score (1,)
    hooks: {submodule: (stage, layout)}
    names: under which the module gets the weights, "pyiqa" or "official"; None leaves its own
    extra: further stages, such as tokens and tables
    gradients: also to the image and every parameter, by autograd
    """

    def port(fixture: Fixture, tap: Callable[[str, Any], Any]) -> dict[str, Any]:
        if names is not None:
            tensors = {"pyiqa": to_pyiqa, "official": to_official}[names](fixture.params)
            module.load_state_dict({k: torch.from_numpy(np.array(v)) for k, v in tensors.items()})
        module.eval()
        dtype = next(module.parameters()).dtype
        image = torch.from_numpy(fixture.image.copy()).permute(2, 0, 1)[None].to(dtype) / 255
        image.requires_grad_(gradients)
        submodules = dict(module.named_modules())
        missing = sorted(set(hooks) - set(submodules))
        if missing:
            raise ValueError(f"the module has no submodule {missing[0]!r}; adjust the hooks")
        kept: dict[str, tuple[torch.Tensor, str]] = {}
        handles = [
            submodules[name].register_forward_hook(_hook(stage, layout, tap, kept, fixture.config))
            for name, (stage, layout) in hooks.items()
        ]
        try:
            module.zero_grad()
            with torch.set_grad_enabled(gradients):
                score = call(module, image)
            stages: dict[str, Any] = {"score": score.detach().numpy()}
            if gradients and score.requires_grad:  # it does not where the reference's values were put in
                score.sum().backward()
        finally:
            for handle in handles:
                handle.remove()
        if gradients:
            if image.grad is not None:
                stages["gradient/image"] = image.grad[0].permute(1, 2, 0).numpy()
            for stage, (tensor, layout) in kept.items():
                if tensor.grad is not None:
                    stages[f"gradient/{stage}"] = to_ours(tensor.grad.numpy(), layout, fixture.config)
            for name, parameter in module.named_parameters():
                if parameter.grad is not None:
                    stages[f"dparams/{name}"] = parameter.grad.numpy().copy()
        return {**(extra(module, image.detach()) if extra else {}), **stages}

    return port


def to_ours(array: np.ndarray, layout: str, config: MusiqConfig) -> np.ndarray:
    """A submodule's output in the layout of the stages.

    >>> to_ours(np.zeros((2, 3, 4, 5)), "NCHW", MusiqConfig()).shape
    (2, 4, 5, 3)
    """
    if layout == "NCHW":
        return array.transpose(0, 2, 3, 1)
    if layout == "heads":
        return array.reshape(*array.shape[:-1], config.heads, config.head_width).swapaxes(-2, -3)
    return array


def to_theirs(array: np.ndarray, layout: str, shape: torch.Size) -> np.ndarray:
    """The inverse of `to_ours`."""
    if layout == "NCHW":
        return array.transpose(0, 3, 1, 2)
    return (array.swapaxes(-2, -3) if layout == "heads" else array).reshape(tuple(shape))


def _hook(stage: str, layout: str, tap, kept, config: MusiqConfig):
    """A forward hook that shows an output to the tap, replaces it if the tap does, and keeps it for its gradient."""

    def hook(module: torch.nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor | None:
        ours = to_ours(output.detach().numpy(), layout, config)
        given = tap(stage, ours)
        if given is not ours:
            return torch.from_numpy(np.array(to_theirs(np.asarray(given), layout, output.shape))).to(output.dtype)
        if output.requires_grad:
            output.retain_grad()
            kept[stage] = (output, layout)
        return None

    return hook
