"""One stage of a PyTorch port: shown to the tap, replaced if the tap does, kept for its gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from musiq_ref.verify.ladder.fixture import Fixture
from musiq_ref.verify.recognition import Placement
from musiq_ref.verify.torch_module import as_numpy


class Watch:
    """What is seen of a stage during a run.

    fixture, stage, layout: where the stage is, as in `Placement`; a stage that the fixture lacks is shown as it is
    tap: (stage, array) -> the array to go on with
    """

    def __init__(self, fixture: Fixture, stage: str, layout: str, tap: Callable[[str, Any], Any]) -> None:
        self.stage, self.tap, self.known = stage, tap, fixture.stages
        first = f"{stage[:-3]}query" if stage.endswith("/qkv") else stage
        self.place = Placement(fixture, stage, layout) if first in fixture.stages else None
        self.seen: list[tuple[torch.Tensor, tuple[np.ndarray, ...] | None]] = []
        self.calls, self.replaced = 0, False

    def turn(self, number: int, again: bool) -> bool:
        """Whether this call of the module is the one to be watched: call `number`, or a later part of it.

        again: the module is run a second time on the way back, as a checkpointed one is
        """
        mine = again or self.calls == number
        self.calls += not mine
        return mine

    def see(self, tensor: torch.Tensor) -> torch.Tensor:
        """A tensor to go on with: never the one that is kept, which must not be written into."""
        array = as_numpy(tensor)
        index = self.place.locate(array.size) if self.place else None
        if self.place is None or index is None:
            self.seen.append((tensor, None))
            self.tap(self.stage, array)
            self.calls += 1
            return tensor.clone()
        whole = self.place.put(self.place.ours(array, index), index)
        if self.place.complete:
            self.calls += 1
        shown = self.place.named(whole)
        given = {name: self.tap(name, a) for name, a in shown.items()}
        self.seen.append((tensor, index))
        if any(given[name] is not shown[name] for name in shown):
            self.replaced = True
            whole = np.stack(list(given.values())) if len(given) > 1 else np.asarray(given[self.stage])
            theirs = np.array(self.place.theirs(whole, index, tuple(tensor.shape)))
            return torch.from_numpy(theirs).to(tensor.dtype).to(tensor.device)
        if tensor.requires_grad:
            tensor.retain_grad()
        return tensor.clone()

    def gradients(self) -> dict[str, np.ndarray]:
        """{"gradient/" and stage: array}; of a tensor that was made twice, that of the one which has one."""
        found: dict[str, np.ndarray] = {}
        if self.place is None:
            return found
        self.place.begin()
        for tensor, index in self.seen:
            if index is None or not (tensor.retains_grad or tensor.is_leaf) or tensor.grad is None:
                continue
            whole = self.place.put(self.place.ours(as_numpy(tensor.grad), index), index)
            found = {f"gradient/{name}": part for name, part in self.place.named(whole).items()}
        return {name: part for name, part in found.items() if name in self.known}
