"""Tolerances: how far float32 moves each stage of the reference from float64, with a margin.

Four float32 runs are made: a plain one, and three whose patches are off by up to 1.2e-7 of their size, as those of
another program's float32 resize are (SPEC 3). A stage's tolerance is 3 or 4 times the largest of its distances, or a
floor.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from musiq_ref.config import MusiqConfig
from musiq_ref.model.parameters import Params, map_params
from musiq_ref.ops.convolution import pad_same, windows
from musiq_ref.verify.ladder.deterministic import unit
from musiq_ref.verify.ladder.distance import Distance, distance
from musiq_ref.verify.ladder.stages import BACK, axes_of, run_stages, validity

MARGIN, MARGIN_BACK = 3, 4  # on the way to the score, and on the way back, which few values decide
BULK_FLOOR, NORM_FLOOR = 1e-6, 2e-6
PIXEL_FLOOR = 2e-6  # two float32 resizes by the same filter differ by up to 5.4e-7 (SPEC 3)
FEW, FEW_FLOOR = 64, 2e-5  # two runs say little about the error of a few numbers
SHAKES = 3
CORNERS = ("stem/gn_root", "stem/gn1", "stem/gn2", "stem/sum")
SAFE = 4e-6  # corner margin from which no float32 run decides otherwise
SUMMED = 2e-2  # bulk of a sum over positions, where one decision changes every value of the sum
FLIPS = 3e-2  # norm, where float32 may decide a ReLU or a maximum otherwise
NEGLIGIBLE = 1e-2  # a stage that float32 moves by more than this is zero in exact arithmetic


class Tolerance(NamedTuple):
    """What is allowed of `Distance.bulk` and `.norm`; of `.rms` instead (absolute), for what is 0 in exact arithmetic.

    float32: the bulk distance that was measured, the envelope of reports
    gain: what is allowed of `.gain`, where the others allow much (`ladder.precision`)

    >>> Tolerance(1e-6, 2e-6, None, 2e-7).allows(distance(np.ones(3), np.ones(3)))
    True
    """

    bulk: float
    norm: float
    absolute: float | None
    float32: float
    gain: float | None = None

    def allows(self, d: Distance) -> bool:
        """Whether float32 rounding explains a distance.

        >>> Tolerance(1e-6, 2e-6, None, 2e-7).allows(distance(np.ones(3), 1.1 * np.ones(3)))
        False
        """
        return self.excess(d) <= 1

    def excess(self, d: Distance) -> float:
        """How many times larger than allowed the distance is; 1 and below are fine.

        >>> Tolerance(1e-6, 1e-6, None, 2e-7).excess(distance(np.ones(3), np.ones(3)))
        0.0
        """
        if self.absolute is not None:
            return d.rms / self.absolute if self.absolute else (np.inf if d.rms else 0.0)
        gain = abs(d.gain) / self.gain if self.gain else 0.0
        return max(d.bulk / self.bulk, d.norm / self.norm, gain) if self.bulk else (np.inf if d.max else 0.0)


def rounded(params: Params, image: np.ndarray, config: MusiqConfig, gradients: bool = True) -> list[dict[str, Any]]:
    """The stages of the four float32 runs."""
    single = map_params(lambda a: a.astype(np.float32), params)
    taps = [None, *(shaken(seed) for seed in range(SHAKES))]
    return [run_stages(single, image, config, tap=tap, gradients=gradients) for tap in taps]


def shaken(seed: int) -> Callable[[str, Any], Any]:
    """A tap that moves the patches by about as much as another program's float32 resize does.

    >>> shaken(0)("patches", np.zeros(2, "f4"))
    array([0., 0.], dtype=float32)
    """

    def tap(name: str, array: Any) -> Any:
        if name != "patches":
            return array
        noise = unit(seed, "rounding", array.shape).astype(array.dtype)
        return array + (np.abs(array) * array.dtype.type(2**-23) + array.dtype.type(2**-25)) * noise * (array != 0)

    return tap


def corner_margin(stages: dict[str, np.ndarray]) -> float:
    """How far the nearest ReLU or maximum of the stem is from deciding otherwise, at valid tokens.

    >>> corner_margin({"mask": np.ones((1, 1)), "stem/sum": np.array([[0.5, -0.25]])})
    0.25
    """
    valid = stages["mask"][0].astype(bool)
    found = [np.abs(stages[n][valid]).min() for n in CORNERS if n in stages]
    if "stem/relu_root" in stages:
        x = stages["stem/relu_root"][valid]
        values = np.sort(windows(pad_same(x, 3, 2), 3, 2).reshape(*stages["stem/pool"][valid].shape[:3], 9, -1), axis=3)
        gap = values[..., -1, :] - values[..., -2, :]
        found.append(gap[(values[..., -1, :] > 0) & (gap > 0)].min(initial=np.inf))  # equal stays equal: zero padding
    return float(min([1.0, *found]))  # 1 where there is no such decision


def calibrate(
    exact: dict[str, np.ndarray], runs: list[dict[str, np.ndarray]], safe: bool = True
) -> dict[str, Tolerance]:
    """The tolerance of every stage from an exact run and several rounded ones.

    safe: whether the corner margin is so wide that no float32 run decides a ReLU otherwise

    >>> calibrate({"score": np.ones(1)}, [{"score": np.ones(1, "f4")}])["score"].bulk
    2e-05
    """
    mask = exact["mask"][0] if "mask" in exact else np.ones(1)
    return {name: _tolerance(name, value, runs, mask, safe) for name, value in exact.items()}


def _tolerance(
    name: str, value: np.ndarray, runs: list[dict[str, np.ndarray]], mask: np.ndarray, safe: bool
) -> Tolerance:
    if np.asarray(value).dtype.kind in "iub":
        return Tolerance(0, 0, None, 0)
    valid = validity(name, np.shape(value), mask)
    found = [distance(value, run[name], valid) for run in runs]
    bulk, norm = max(d.bulk for d in found), max(d.norm for d in found)
    if norm > NEGLIGIBLE and bulk > NEGLIGIBLE and not may_flip(name):
        return Tolerance(BULK_FLOOR, NORM_FLOOR, 20 * max(d.rms for d in found), 0)
    floor = FLIPS if may_flip(name) and not safe else NORM_FLOOR
    smallest = PIXEL_FLOOR if name.startswith(("pixels/", "patches")) else BULK_FLOOR
    if np.size(value) < FEW:
        floor, smallest = max(floor, FEW_FLOOR), FEW_FLOOR
    if may_flip(name) and not safe and not name.endswith(("patches", "image")) and len(axes_of(name)) in (0, 4):
        summed = not axes_of(name) or name.endswith("standardized")
        smallest = max(smallest, SUMMED) if summed else smallest
    margin = MARGIN_BACK if name.startswith(BACK) else MARGIN
    bulk, norm = min(bulk, 1.0), min(norm, 1.0)  # where most values are rounding only, the other number tells
    return Tolerance(max(margin * bulk, smallest), max(margin * norm, floor), None, bulk)


def may_flip(name: str) -> bool:
    """Whether a ReLU or a maximum lies between this gradient and the score.

    >>> may_flip("gradient/stem/conv1"), may_flip("stem/conv1")
    (True, False)
    """
    parts = name.split("/")
    if parts[0] == "gradient":
        return name in ("gradient/patches", "gradient/image") or (parts[1] == "stem" and parts[2] != "output")
    return parts[0] in ("dparams", "step") and parts[1] == "stem"
