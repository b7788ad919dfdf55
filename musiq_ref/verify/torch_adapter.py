"""A PyTorch module as a port: forward hooks see (and may replace) its submodules' outputs, autograd gives gradients.

Hooks hand on copies, so that modules may work in place; a module may be on a GPU, in half precision, compiled,
wrapped, run twice, or give tuples, dicts and dataclasses.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from musiq_ref.config import MusiqConfig
from musiq_ref.verify.adapters import Port
from musiq_ref.verify.ladder.fixture import Fixture
from musiq_ref.verify.ladder.stages import run_stages
from musiq_ref.verify.proposal import AGREES, Hook, HookMap, check_corrections, joined, propose
from musiq_ref.verify.recognition import match_parameters
from musiq_ref.verify.torch_module import TorchParts, as_numpy, hooked, items_of, tensor_in, with_tensor
from musiq_ref.verify.torch_watch import Watch

INFERENCE = "nference tensors cannot be saved for backward"  # PyTorch's words
Module = torch.nn.Module | Mapping[str, torch.Tensor]


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
    module: Module,
    call: Callable[..., torch.Tensor],
    hooks: Mapping[str, Hook] | None = None,
    *,
    names: str | None = "pyiqa",
    parameters: Mapping[str, str] | None = None,
    extra: Callable[[Any, torch.Tensor], Mapping[str, Any]] | None = None,
    gradients: bool = True,
) -> Port:
    """A module, or a function of tensors, as a port for `compare_port`, `single_step` and `bisect`.

    module: runs in its own dtype and on its own device, with the fixture's weights; {name: tensor} for functional code.
        In half precision it gets a float32 image, and its submodules what comes of it cast to their dtype
    call: (module, image (1, 3, H, W) in [0, 1]) -> score (1,). A third parameter, if it has one, is the tap:
        x = tap(stage, x, layout) shows a tensor of any place in the code
    hooks: {submodule: (stage, layout)}; "name:1" is an item of a tuple, dict or dataclass, "name#1" the second call.
        None: those that `propose_hooks` finds
    names: under which the module gets the weights, "pyiqa", "official" or "native" (ours); None, or a module with other
        names, leaves it its own, which should be the fixture's
    parameters: {its name: ours}, for gradients, where the values do not tell which parameter is which
    extra: further stages, such as tokens and tables
    gradients: also to the image and every parameter, by autograd
    """

    def port(fixture: Fixture, tap: Callable[[str, Any], Any]) -> dict[str, Any]:
        parts = TorchParts(module)
        notes = parts.load(fixture, names)
        chosen = propose_hooks(module, call, fixture, names=None) if hooks is None else hooks
        run = _Run(parts, call, fixture, chosen, tap)
        try:
            stages, image = run(gradients)
        except RuntimeError as error:
            if not gradients or INFERENCE not in str(error):
                raise
            run.notes.append("part of the port runs in inference_mode: no gradients are compared; use no_grad there")
            stages, image = run(False)
        if gradients:
            stages |= parts.gradients(fixture, parameters, notes)
        return {**(extra(module, image) if extra else {}), **stages, "notes": notes + run.notes}

    return port


def propose_hooks(
    module: Module,
    call: Callable[..., torch.Tensor],
    fixture: Fixture,
    *,
    names: str | None = "pyiqa",
    corrections: Mapping[str, Hook | None] | None = None,
) -> HookMap:
    """The hooks of a module: it is run with the fixture's weights, and all that its submodules give is compared.

    Print the map to read it. Where values do not tell, after a mistake, the parameters of a submodule do; it is then
    run again with the reference's values put in, so that the map is as full, and says which submodules are off by
    themselves.

    module, call, names: as in `torch_port`
    corrections: {submodule: (stage, layout)}, or None where there should be none

    Raises ValueError for a correction that names no submodule, stage or layout.

    >>> from musiq_ref.verify import build_fixture
    >>> from musiq_ref.verify.torch_port import TorchMusiq
    >>> fixture = build_fixture(conventions="pyiqa")
    >>> propose_hooks(TorchMusiq(fixture.config), lambda m, image: m(image), fixture)["conv_root"]
    ('stem/conv_root', 'NCHW')
    """
    parts = TorchParts(module)
    check_corrections(corrections or {}, parts.submodules, fixture)
    parts.load(fixture, names)
    hooks = _proposed(parts, call, fixture, HookMap())
    if any(error > AGREES for error in hooks.errors.values()):  # from the reference's values, no mistake is handed on
        hooks = _proposed(parts, call, fixture, hooks)
    return hooks.corrected(corrections or {})


def _proposed(parts: TorchParts, call: Callable[..., Any], fixture: Fixture, given: HookMap) -> HookMap:
    """The hooks that a run shows, in which the given ones put in what the reference has."""
    seen: dict[str, list[np.ndarray]] = {}

    def record(name: str) -> Callable[..., None]:
        def hook(module: torch.nn.Module, inputs: Any, output: Any) -> None:
            for item in [""] if isinstance(output, torch.Tensor) else items_of(output):
                tensor = tensor_in(output, item)
                if tensor is not None and tensor.is_floating_point():
                    seen.setdefault(f"{name}:{item}" if item else name, []).append(as_numpy(tensor))

        return hook

    exact = run_stages(fixture.params, fixture.image, fixture.config, gradients=False) if given else {}
    handles = [hooked(m, record(n)) for n, m in parts.submodules.items() if n]
    run = _Run(parts, call, fixture, given, lambda stage, array: exact.get(stage, array))
    try:
        run(True, backward=False)
    except RuntimeError as error:
        if INFERENCE not in str(error):
            raise
        seen.clear()
        run(False)
    finally:
        for handle in handles:
            handle.remove()
    found = match_parameters(parts.values(), fixture.params, fixture.config)
    arrays: list[tuple[str, np.ndarray]] = []
    for place, calls in seen.items():
        whole = calls[0] if len(calls) == 1 else joined(calls)
        if whole is not None:
            arrays.append((place, whole))
        else:
            arrays += [(f"{place}#{k}" if k else place, array) for k, array in enumerate(calls)]
    owners: dict[str, set[str]] = {}
    for place, _ in arrays:
        name = place.partition("#")[0].partition(":")[0]
        owners[place] = {p for n, m in found.items() if n.startswith(f"{name}.") for p in m.paths}
    return propose(arrays, fixture, owners)


def _score(
    parts: TorchParts, call: Callable[..., Any], image: torch.Tensor, tap: Callable[..., torch.Tensor]
) -> torch.Tensor:
    """The score that a call gives, with the tap where it takes one."""
    taken = [
        p
        for p in inspect.signature(call).parameters.values()
        if p.kind == p.POSITIONAL_OR_KEYWORD and p.default is p.empty
    ]
    output = call(parts.given, image, *([tap] if len(taken) > 2 else []))
    score = tensor_in(output)
    if score is None:
        raise TypeError(f"the call gave a {type(output).__name__}; let it return the score, a tensor")
    return score


class _Run:
    """One run of a port: the stages that hooks and taps saw, and the gradients to them."""

    def __init__(self, parts: TorchParts, call, fixture: Fixture, hooks: Mapping[str, Hook], tap) -> None:
        self.parts, self.call, self.fixture, self.tap = parts, call, fixture, tap
        self.hooks = {place: (hook, "") if isinstance(hook, str) else hook for place, hook in hooks.items()}
        self.watches: dict[str, Watch] = {}
        self.notes: list[str] = []
        self.back = False

    def watch(self, place: str, stage: str, layout: str) -> Watch:
        return self.watches.setdefault(place, Watch(self.fixture, stage, layout, self.tap))

    def see(self, stage: str, x: torch.Tensor, layout: str = "") -> torch.Tensor:
        """The tap of code without modules."""
        return self.watch(f"tap {stage}", stage, layout).see(x)

    def hook(self, place: str, stage: str, layout: str) -> Callable[..., Any]:
        """A forward hook; what it returns takes the place of the output."""
        where, _, number = place.partition("#")
        item = where.partition(":")[2]
        watch = self.watch(place, stage, layout)

        def hook(module: torch.nn.Module, inputs: Any, output: Any) -> Any:
            tensor = tensor_in(output, item)
            if tensor is None or not watch.turn(int(number or 0), self.back):
                return None
            return with_tensor(output, item, watch.see(tensor))

        return hook

    def __call__(self, gradients: bool, backward: bool = True) -> tuple[dict[str, Any], torch.Tensor]:
        """The score and the gradients to the image and the stages; the image.

        A port in half precision gets a float32 image, so that it can make its patches as the others do; one that
        cannot take it gets the image in its own dtype.
        """
        if self.parts.half:
            try:
                return self._run(gradients, backward, torch.float32)
            except RuntimeError as error:
                if "type" not in str(error) or INFERENCE in str(error):
                    raise
            self.notes.append(f"the port takes no float32 image: it gets one in {self.parts.dtype}, rounded already")
        return self._run(gradients, backward, self.parts.dtype)

    def _run(self, gradients: bool, backward: bool, dtype: torch.dtype) -> tuple[dict[str, Any], torch.Tensor]:
        self.watches, self.back = {}, False
        parts, image = self.parts, self.parts.image(self.fixture, dtype)
        image.requires_grad_(gradients)
        parts.begin(gradients)
        handles = parts.narrowing() if dtype != parts.dtype else []
        for place, (stage, layout) in self.hooks.items():
            submodule = parts.submodule(place.partition("#")[0].partition(":")[0])
            handles.append(hooked(submodule, self.hook(place, stage, layout)))
        try:
            with torch.set_grad_enabled(gradients):
                score = _score(parts, self.call, image, self.see)
            self.back = True  # a checkpointed module is run again from here
            if gradients and backward and score.requires_grad:  # it does not where the reference's values were put in
                score.float().sum().backward()
        finally:
            for handle in handles:
                handle.remove()
        stages: dict[str, Any] = {"score": as_numpy(score)}
        if gradients and image.grad is not None:
            stages["gradient/image"] = as_numpy(image.grad[0].permute(1, 2, 0))
        elif gradients and not any(w.replaced for w in self.watches.values()):
            self.notes.append(
                "no gradient comes back to the image: is there a no_grad, a detach or a NumPy array on the way?"
            )
        for watch in self.watches.values():
            stages |= watch.gradients()
        idle = [place for place, watch in self.watches.items() if not watch.seen]
        self.notes += [f"{place} was not run, so {self.hooks[place][0]} is not compared" for place in idle]
        return stages, image.detach()


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
