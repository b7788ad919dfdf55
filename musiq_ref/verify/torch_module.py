"""What a PyTorch port consists of: its submodules, parameters, device and dtype, under whatever wrappers it has."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any, cast

import numpy as np
import torch

from musiq_ref.checkpoint import to_official, to_pyiqa
from musiq_ref.checkpoint.layout import listed
from musiq_ref.checkpoint.pyiqa import PYIQA_LAYOUT
from musiq_ref.model.parameters import flatten, parameter_shapes
from musiq_ref.verify.ladder.fixture import Fixture
from musiq_ref.verify.recognition import match_parameters

WRAPPERS = (
    "_orig_mod",
    "module",
)  # what torch.compile, DataParallel and DistributedDataParallel call the module inside

HALF = (torch.float16, torch.bfloat16)


class TorchParts:
    """A module, or {name: tensor}, without its wrappers.

    >>> TorchParts(torch.nn.DataParallel(torch.nn.Linear(2, 3))).submodule("").out_features
    3
    """

    def __init__(self, given: Any) -> None:
        self.given, module = given, given
        while inner := _wrapped(module):
            module = inner
        self.module: torch.nn.Module | None = module if isinstance(module, torch.nn.Module) else None
        self.submodules: dict[str, torch.nn.Module] = dict(self.module.named_modules()) if self.module else {}
        self.parameters: dict[str, torch.Tensor] = dict(self.module.named_parameters() if self.module else given)
        self.buffers: dict[str, torch.Tensor] = dict(self.module.named_buffers()) if self.module else {}
        first = next(iter(self.parameters.values()), torch.zeros(()))
        self.dtype, self.device = first.dtype, first.device

    def submodule(self, name: str) -> torch.nn.Module:
        """The submodule of a name, with or without the wrappers' own names in it."""
        short = ".".join(part for part in name.split(".") if part not in WRAPPERS)
        found = self.submodules.get(name, self.submodules.get(short))
        if found is None:
            raise ValueError(f"the module has no submodule {name!r}; adjust the hooks")
        return found

    @property
    def half(self) -> bool:
        """Whether the parameters are in float16 or bfloat16."""
        return self.dtype in HALF

    def image(self, fixture: Fixture, dtype: torch.dtype | None = None) -> torch.Tensor:
        """The fixture's image (1, 3, H, W) in [0, 1], where the module is, in its dtype if no other is named."""
        if fixture.image.ndim != 3:
            raise ValueError("a fixture of training has two pictures, and no adapter a training loop; write a function")
        pixels = torch.from_numpy(fixture.image.copy()).permute(2, 0, 1)[None]
        return pixels.to(self.device).to(dtype or self.dtype) / 255

    def narrowing(self) -> list[Any]:
        """Handles of hooks by which modules with half-precision parameters take float32 arrays as if cast to theirs."""

        def narrow(module: torch.nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
            dtype = next(module.parameters(recurse=False)).dtype
            wide = [isinstance(x, torch.Tensor) and x.dtype == torch.float32 for x in inputs]
            return tuple(x.to(dtype) if w else x for x, w in zip(inputs, wide, strict=True))

        own = [
            m for m in self.submodules.values() if next(iter(m.parameters(recurse=False)), torch.zeros(1)).dtype in HALF
        ]
        return [
            m.register_forward_pre_hook(cast(Any, torch.compiler.disable(narrow))) for m in own if m is not self.module
        ]

    def load(self, fixture: Fixture, names: str | None) -> list[str]:
        """Gives every parameter whose name and shape fit the fixture's value; what does not fit, in sentences.

        Raises ValueError for what is on the meta device and gets none.
        """
        if names not in (None, "pyiqa", "official", "native"):
            raise ValueError(f"names is {names!r}; it can be 'pyiqa', 'official', 'native' (ours) or None")
        to_theirs = {"pyiqa": to_pyiqa, "official": to_official, "native": lambda params: dict(flatten(params))}
        tensors = {
            n: torch.from_numpy(np.array(a)) for n, a in (to_theirs[names](fixture.params) if names else {}).items()
        }
        held = self.buffers | self.parameters
        fits = {n for n, t in tensors.items() if n in held and held[n].shape == t.shape}
        empty = sorted(n for n, t in held.items() if t.is_meta and n not in fits)
        if empty:
            raise ValueError(f"{empty[0]!r} is on the meta device, so it holds no numbers; give it the fixture's first")
        if self.module and any(held[n].is_meta for n in fits):
            real = {n: tensors[n].to(held[n].dtype) for n in fits}
            self.module.load_state_dict(real, strict=False, assign=True)
            self.__init__(self.given)
            return []
        with torch.no_grad():
            for name in fits:
                held[name].copy_(tensors[name])
        lacking = sorted(set(tensors) - fits)
        return [f"the port has no parameter {listed(lacking)} of the fixture's shape"] if fits and lacking else []

    def begin(self, gradients: bool) -> None:
        """Evaluation mode, and no gradients of earlier runs."""
        for parameter in self.parameters.values():
            parameter.grad = None
            if self.module is None and gradients:
                parameter.requires_grad_(True)
        if self.module is not None:
            self.given.eval()
        if hasattr(self.given, "_orig_mod"):
            torch.compiler.reset()  # what was compiled before does not know of the hooks

    def values(self) -> dict[str, np.ndarray]:
        """{name: array} of the parameters."""
        return {name: as_numpy(p) for name, p in self.parameters.items()}

    def gradients(self, fixture: Fixture, known: Mapping[str, str] | None, notes: list[str]) -> dict[str, np.ndarray]:
        """{"dparams/" and our name: array}; adds to the notes what cannot be compared."""
        shapes, params = parameter_shapes(fixture.config), dict(flatten(fixture.params))
        wrong = sorted(set(known or {}) - set(self.parameters)) or sorted(set((known or {}).values()) - set(shapes))
        if wrong:
            raise ValueError(
                f"parameters: there is no parameter {wrong[0]!r}; write {{the module's name: the fixture's}}"
            )
        found = match_parameters(self.values(), fixture.params, fixture.config, known)
        stages: dict[str, np.ndarray] = {}
        strange = []
        for name, parameter in self.parameters.items():
            if name in found:
                parts = found[name].ours(as_numpy(parameter if parameter.grad is None else parameter.grad))
            elif known and name in known and parameter.numel() == params[known[name]].size:
                array, shape = as_numpy(parameter if parameter.grad is None else parameter.grad), shapes[known[name]]
                theirs = PYIQA_LAYOUT.to_file(known[name], params[known[name]]).shape
                parts = {known[name]: PYIQA_LAYOUT.to_native(known[name], array.reshape(theirs), shape)}
            else:
                strange.append(name)
                continue
            for path, part in parts.items() if parameter.grad is not None else ():
                key = f"dparams/{path}"
                stages[key] = part.reshape(shapes[path]) + stages.get(key, 0)  # kept twice, it has two gradients
        if strange:
            notes.append(
                f"{listed(strange)}: holds the values of no parameter of the fixture, or of several, so its gradient "
                "is not compared; `parameters` can say which it is"
            )
        if not found:
            notes.append("no parameter of the port holds the fixture's values: load the weights first")
        return stages


def _wrapped(module: Any) -> torch.nn.Module | None:
    """The module inside a wrapper."""
    parallel = (torch.nn.DataParallel, torch.nn.parallel.DistributedDataParallel)
    inner = module.module if isinstance(module, parallel) else getattr(module, "_orig_mod", None)
    return inner if isinstance(inner, torch.nn.Module) else None


def hooked(module: torch.nn.Module, hook: Callable[..., Any]) -> Any:
    """The handle of a forward hook, which a compiled module calls as it is."""
    return module.register_forward_hook(cast(Any, torch.compiler.disable(hook)))


def as_numpy(tensor: torch.Tensor) -> np.ndarray:
    """The numbers of a tensor of any device and dtype, copied; NumPy has no bfloat16.

    >>> as_numpy(torch.ones(2, dtype=torch.bfloat16, requires_grad=True))
    array([1., 1.], dtype=float32)
    """
    t = tensor.detach()
    narrow = t.is_floating_point() and t.dtype != torch.float64
    return np.array((t.float() if narrow else t).cpu().numpy())


def tensor_in(output: Any, item: str = "") -> torch.Tensor | None:
    """The tensor that an output is, or has under a name or number; by default its first.

    >>> tensor_in((None, torch.zeros(2)), "1"), tensor_in({"score": torch.ones(1)})
    (tensor([0., 0.]), tensor([1.]))
    """
    if isinstance(output, torch.Tensor):
        return output
    members = _members(output)
    if item:
        return tensor_in(members.get(item))
    return next((t for t in members.values() if isinstance(t, torch.Tensor)), None)


def with_tensor(output: Any, item: str, tensor: torch.Tensor) -> Any:
    """An output with another tensor in the place where `tensor_in` finds one.

    >>> with_tensor((torch.zeros(1), None), "", torch.ones(1))
    (tensor([1.]), None)
    """
    if isinstance(output, torch.Tensor):
        return tensor
    members = _members(output)
    item = item or next(name for name, t in members.items() if isinstance(t, torch.Tensor))
    if isinstance(output, tuple | list):
        new = [tensor if str(k) == item else t for k, t in enumerate(output)]
        return type(output)(*new) if hasattr(output, "_fields") else type(output)(new)
    changed = copy.copy(output)
    if isinstance(output, Mapping):
        changed[next(k for k in output if str(k) == item)] = tensor  # type: ignore[index]
    else:
        object.__setattr__(changed, item, tensor)  # also of a frozen dataclass
    return changed


def items_of(output: Any) -> list[str]:
    """The names or numbers of what is in a tuple, a dict or a dataclass.

    >>> items_of((None, torch.zeros(2))), items_of({"score": torch.ones(1)})
    (['0', '1'], ['score'])
    """
    return list(_members(output))


def _members(output: Any) -> dict[str, Any]:
    """What is in a tuple, a dict or a dataclass, by name."""
    if isinstance(output, Mapping):
        return {str(k): v for k, v in output.items()}
    if isinstance(output, tuple | list):
        return {str(k): v for k, v in enumerate(output)}
    return dict(getattr(output, "__dict__", {}))
