"""Tolerances for ports that multiply in fewer bits, measured by running the reference with its numbers rounded alike.

float16, bfloat16: parameters, every intermediate and every gradient are rounded; sums are float32. Images are made into
patches in float32 first.
tf32, int8: only what enters a product is rounded, kernels and activations, to 10 bits, or to 255 steps of one size for
a whole array, symmetric about 0; sums and results are float32.
"""

from __future__ import annotations

from collections.abc import Callable
from fnmatch import fnmatch
from typing import Any

import numpy as np

from musiq_ref.model.parameters import flatten, nest
from musiq_ref.suggest import did_you_mean
from musiq_ref.verify.ladder.deterministic import unit
from musiq_ref.verify.ladder.distance import distance
from musiq_ref.verify.ladder.fixture import Fixture, Stage, sample_places
from musiq_ref.verify.ladder.layouts import sampled_validity
from musiq_ref.verify.ladder.stages import BACK, run_stages
from musiq_ref.verify.ladder.tolerance import FEW, Tolerance

UNIT = {"float16": 2.0**-11, "bfloat16": 2.0**-8, "tf32": 2.0**-11, "int8": 2.0**-8}
"""{precision: the largest relative error of one rounding} (of int8: of the largest value)."""
HALF = ("float16", "bfloat16")
FACTORS = ("patches", "stem/*/standardized", "stem/pool", "stem/relu[12]", "stem/output", "*/norm[12]", "*/query")
FACTORS += ("*/key", "*/value", "*/attention/weights", "*/heads", "*/gelu", "head/class_token")
"""What enters a product on the way to the score."""
PRODUCTS = ("stem/conv_????", "stem/conv[123]", "patch_embedding", "*/query", "*/key", "*/value", "*/attention/logits")
PRODUCTS += ("*/heads", "*/out", "*/fc[12]", "head/logits")
"""What a product gives, whose gradients enter one on the way back."""
MARGIN, MARGIN_BACK, RUNS = 4, 6, 4  # wider than those of float32: single ReLUs decide otherwise more often
COARSE = 3e-3  # median errors from which a fault of a percent is looked for in the gain, which rounding hardly moves
GAIN_FLOOR, GAIN_FLOOR_BACK = 2e-3, 2e-2  # single ReLUs that decide otherwise move gradients along themselves
GAIN_OF_INT8 = 3  # times wider: one step for a whole array moves the gain of softmax weights, in some runs much
FEW_UNITS = 8  # of one rounding, for the error of a few numbers, which three runs say little about


def round_to(array: Any, precision: str) -> np.ndarray:
    """The nearest numbers that a precision has, as float32; float16 ends at ±65504 instead of overflowing.

    >>> [round_to(np.float32([1.001]), p)[0].item() for p in ("float16", "bfloat16", "tf32")]
    [1.0009765625, 1.0, 1.0009765625]
    """
    a = np.ascontiguousarray(array, np.float32)
    if precision == "float16":
        return np.clip(a, -65504, 65504).astype(np.float16).astype(np.float32)
    if precision == "int8":
        step = np.float32(np.abs(a).max(initial=0) / 127)
        return np.rint(a / step) * step if step else a
    dropped = np.uint32(16 if precision == "bfloat16" else 13)
    bits = a.view(np.uint32)
    half = np.uint32((1 << int(dropped) - 1) - 1) + ((bits >> dropped) & np.uint32(1))  # ties to even
    return ((bits + half) >> dropped << dropped).view(np.float32)


def at_precision(fixture: Fixture, precision: str, back: bool = True) -> Fixture:
    """The fixture with the tolerances of a precision; the same fixture for "float32", or where it has them.

    precision: "float32", "float16", "bfloat16", "tf32" or "int8"
    back: whether the way back matters, too; int8 has none, and the stages there are left out

    Raises ValueError for another name.

    >>> from musiq_ref.verify import build_fixture
    >>> fixture = build_fixture(image=np.zeros((40, 50, 3), np.uint8))
    >>> half = at_precision(fixture, "float16", back=False)
    >>> half.stages["head/logits"].tolerance.bulk > 100 * fixture.stages["head/logits"].tolerance.bulk
    True
    """
    if precision not in ("float32", *UNIT):
        meant = did_you_mean(precision, UNIT) or f"; choose one of float32, {', '.join(UNIT)}"
        raise ValueError(f"no precision is called {precision!r}{meant}")
    if precision in ("float32", fixture.manifest.get("precision")):
        return fixture
    if "training" in fixture.manifest:
        raise ValueError(f"a fixture of training is judged as float32 only, not as {precision}; give another fixture")
    back = back and precision != "int8"
    runs = [rounded_run(fixture, precision, seed, back) for seed in range(RUNS)]
    stages = {
        name: _measured(stage, fixture, runs, precision)
        for name, stage in fixture.stages.items()
        if precision != "int8" or not name.startswith(BACK)
    }
    return fixture._replace(stages=stages, manifest={**fixture.manifest, "precision": precision})


def rounded_run(fixture: Fixture, precision: str, seed: int = 0, back: bool = True) -> dict[str, np.ndarray]:
    """The stages of a float32 run that rounds, its patches moved by less than that; each seed has other errors.

    >>> from musiq_ref.verify import build_fixture
    >>> fixture = build_fixture(image=np.zeros((40, 50, 3), np.uint8))
    >>> rounded_run(fixture, "bfloat16", back=False)["score"].dtype
    dtype('float32')
    """
    seen: dict[str, np.ndarray] = {}

    def rounding(kinds: tuple[str, ...], prefix: str = "") -> Callable[[str, Any], Any]:
        def tap(name: str, array: Any) -> Any:
            if name == "patches" and not prefix:
                noise = unit(seed, "rounding", array.shape) * np.float32(UNIT[precision])
                array = array * (np.float32(1) + noise)
            seen[prefix + name] = np.asarray(array)
            whole = precision in HALF or any(fnmatch(name, kind) for kind in kinds)
            return round_to(array, precision) if whole and array.dtype.kind == "f" else array

        return tap

    leaves = {
        path: round_to(a, precision) if _is_rounded(path, precision) else a.astype(np.float32)
        for path, a in flatten(fixture.params)
    }
    forward, backward = rounding(FACTORS), rounding(PRODUCTS, "gradient/")
    run = run_stages(nest(leaves), fixture.image, fixture.config, tap=forward, gradient_tap=backward, gradients=back)
    run |= {name: array for name, array in seen.items() if name in run}
    if precision in HALF:
        run = {name: round_to(a, precision) if a.dtype.kind == "f" else a for name, a in run.items()}
    return run


def _is_rounded(path: str, precision: str) -> bool:
    """Whether a parameter is; the stem's kernels are rounded when they have been standardised."""
    return precision in HALF or (path.endswith("kernel") and not path.startswith("stem/"))


def _measured(stage: Stage, fixture: Fixture, runs: list[dict[str, np.ndarray]], precision: str) -> Stage:
    """The stage with a larger tolerance, where rounding asks for it."""
    old, unit_error = stage.tolerance, UNIT[precision]
    if stage.name not in runs[0] or stage.array.dtype.kind != "f":
        return stage
    valid = sampled_validity(stage, fixture)
    found = [distance(stage.array, _sampled(run[stage.name], stage), valid) for run in runs]
    if old.absolute is not None:
        absolute = max(old.absolute, 20 * max(d.rms for d in found))
        return stage._replace(tolerance=old._replace(absolute=absolute))
    margin = MARGIN_BACK if stage.name.startswith(BACK) else MARGIN
    bulk, norm, gain = (max(abs(getattr(d, what)) for d in found) for what in ("bulk", "norm", "gain"))
    if margin * bulk <= old.bulk and margin * norm <= old.norm:
        return stage
    least = unit_error * (FEW_UNITS if stage.array.size < FEW else 1) if norm > unit_error / 16 else 0.0
    allowed = max(margin * min(bulk, 1.0), least, old.bulk), max(margin * min(norm, 1.0), 2 * least, old.norm)
    coarse = allowed[0] > COARSE and stage.array.size >= FEW
    gain *= margin * (GAIN_OF_INT8 if precision == "int8" else 1)
    floor = GAIN_FLOOR_BACK if stage.name.startswith(BACK) else GAIN_FLOOR
    return stage._replace(tolerance=Tolerance(*allowed, None, bulk, max(gain, floor) if coarse else None))


def _sampled(array: np.ndarray, stage: Stage) -> np.ndarray:
    return array.reshape(-1)[sample_places(array.size, stage.sample)].reshape(stage.array.shape)
