"""Who is timed here: musiq_ref, the products alone, and others where they are installed."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from musiq_ref.bench.contender import FLOOR, OURS
from musiq_ref.bench.ours import Ours
from musiq_ref.bench.products import Products
from musiq_ref.bench.rivals import Pyiqa, Torch
from musiq_ref.extras import needs

MAKERS: dict[str, Any] = {OURS: Ours, FLOOR: Products, "PyTorch": Torch, "pyiqa": Pyiqa}


def available(preset: str, backend: str = "numpy") -> tuple[dict[str, Any], dict[str, str]]:
    """{name: class} of the contenders that can run here, and {name: why not} of the others."""
    makers, left_out = dict(MAKERS), {}
    if not find_spec("torch"):
        left_out["PyTorch"] = f"not installed: {needs('verify')}"
    if not find_spec("pyiqa") or not find_spec("torch"):
        left_out["pyiqa"] = "not installed"
    elif backend != "numpy":
        left_out["pyiqa"] = "is timed on processors only"
    elif preset != "small":
        left_out["pyiqa"] = "has the small model only"
    return {name: maker for name, maker in makers.items() if name not in left_out}, left_out
