"""Fixtures: a folder of .npy files and a manifest from which any language can check its MUSIQ (docs/fixture-format.md).

Everything is computed in float64 on one thread and stored as float32; weights and image come from integers (SPEC 9)
unless they are given. So two runs write the same bytes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from musiq_ref.checkpoint import load_checkpoint
from musiq_ref.config import NAMED_CONVENTIONS, MusiqConfig
from musiq_ref.image.decode import decode
from musiq_ref.model.parameters import Params
from musiq_ref.verify.ladder.deterministic import bits, deterministic_image, deterministic_params
from musiq_ref.verify.ladder.fixture_files import (
    Fixture,
    FixtureError,
    Stage,
    digest,
    load_fixture,
    sample_places,
    write_fixture,
)
from musiq_ref.verify.ladder.stages import run_stages
from musiq_ref.verify.ladder.tolerance import SAFE, Tolerance, calibrate, corner_margin, rounded

__all__ = ["Fixture", "FixtureError", "Stage", "load_fixture", "sample_places", "write_fixture"]
__all__ += ["build_fixture", "digest", "fixture_image", "make_fixture", "stored"]

WHOLE = 2**17  # values up to which an array is stored whole
SAMPLE = 32749  # values that are stored of a larger one: a prime, so that they fall on all rows and columns
PRESETS: dict[str, tuple[dict[str, Any], tuple[int, int]]] = {  # preset: changes to it, size of the image
    "tiny": ({"longer_sides": (56, 96)}, (54, 96)),
    "small": ({}, (198, 384)),
}
"""Sizes chosen so that float32 and float64 sides differ, one scale has the image's own size, and all have padding."""
IMAGE_SEED = 3
WEIGHT_SEEDS = {"official": 97, "pyiqa": 38, "paper": 97}
"""Seeds of the made weights with which no ReLU or maximum of the tiny fixture is nearer to its corner than rounding."""


def stored(array: np.ndarray, whole: int = WHOLE, sample: int = SAMPLE) -> tuple[np.ndarray, int | None]:
    """What is kept of a stage, and how many values if not all.

    whole: values up to which all are kept
    sample: values that are kept of more

    >>> stored(np.zeros(2**20))[1]
    32749
    """
    array = np.asarray(array)
    array = array.astype(np.int64) if array.dtype.kind in "iub" else array.astype(np.float32)
    if array.size <= whole:
        return np.ascontiguousarray(array), None
    return array.ravel()[sample_places(array.size, sample)], sample


def fixture_image(height: int, width: int) -> np.ndarray:
    """The image of SPEC 9, with 127 or 128 below row 2h/5 and right of column 2w/3: a faint corner shows GroupNorm's ε.

    The corner's values are 127 + (bits(seed, "image/corner") mod 2), row by row, channels last.

    >>> np.unique(fixture_image(54, 96)[21:, 64:])
    array([127, 128], dtype=uint8)
    """
    image = deterministic_image(IMAGE_SEED, height, width)
    corner = image[height * 2 // 5 :, width * 2 // 3 :]
    corner[:] = 127 + bits(IMAGE_SEED, "image/corner", corner.size).reshape(corner.shape) % 2
    return image


def build_fixture(
    preset: str = "tiny",
    conventions: str = "official",
    *,
    outputs: int | None = None,
    checkpoint: str | Path | None = None,
    image: Any = None,
) -> Fixture:
    """A fixture in memory; the arguments are those of `make_fixture`.

    >>> fixture = build_fixture("tiny", outputs=2, image=np.zeros((40, 50, 3), np.uint8))
    >>> fixture.stages["probabilities"].shape
    (1, 2)
    """
    if preset not in PRESETS:
        raise ValueError(f"no fixture is called {preset!r}; choose one of {', '.join(PRESETS)}")
    if conventions not in NAMED_CONVENTIONS:
        raise ValueError(f"no conventions are called {conventions!r}; choose one of {', '.join(NAMED_CONVENTIONS)}")
    chosen = NAMED_CONVENTIONS[conventions]
    if checkpoint is None:
        changes, size = PRESETS[preset]
        config = MusiqConfig.preset(preset, outputs=outputs or 10, conventions=chosen, **changes)
        params = deterministic_params(config, WEIGHT_SEEDS[conventions], "float64")
        weights = f"SPEC 9, seed {WEIGHT_SEEDS[conventions]}"
    else:
        loaded = load_checkpoint(checkpoint, "float64", conventions=chosen)
        config, params, size = loaded.config, loaded.params, PRESETS["small"][1]
        weights = Path(checkpoint).name
    source = f"SPEC 9, seed {IMAGE_SEED}, with a faint corner" if image is None else "given"
    pixels = fixture_image(*size) if image is None else decode(image)
    if pixels.dtype != np.uint8:
        raise ValueError(f"the image is {pixels.dtype}; a fixture needs 8-bit pixels (uint8)")
    about = {"weights": weights, "image": source, "preset": preset if checkpoint is None else None}
    return measured_fixture(config, params, pixels, about)


def measured_fixture(
    config: MusiqConfig,
    params: Params,
    image: np.ndarray,
    about: dict[str, Any],
    whole: int = WHOLE,
    sample: int = SAMPLE,
) -> Fixture:
    """A fixture of a model and an image, its tolerances measured; `whole` and `sample` are those of `stored`.

    about: what the manifest says of them
    """
    with threadpool_limits(1):
        exact = run_stages(params, image, config)
        margin = corner_margin(exact)
        tolerances = calibrate(exact, rounded(params, image, config), margin > SAFE)
    stages = as_stages(exact, tolerances, whole, sample)
    return Fixture(None, config, params, image, stages, {**about, "corner_margin": margin})


def as_stages(
    exact: dict[str, Any], tolerances: dict[str, Tolerance], whole: int = WHOLE, sample: int = SAMPLE
) -> dict[str, Stage]:
    """Stages as a fixture keeps them; `whole` and `sample` are those of `stored`."""
    stages = {}
    for name, value in exact.items():
        array, count = stored(value, whole, sample)
        if tolerances[name].absolute is not None:
            array = np.zeros_like(array)  # all that there is of it is this machine's rounding
        stages[name] = Stage(name, array, np.shape(value), count, tolerances[name])
    return stages


def make_fixture(folder: str | Path, preset: str = "tiny", conventions: str = "official", **options: Any) -> Fixture:
    """Writes a fixture into a new or empty folder.

    folder: to write into
    preset: "tiny" (two layers, seconds) or "small" (the published model)
    conventions: "official", "pyiqa" or "paper"
    outputs: of the model, 10 by default
    checkpoint: a file or name to take weights from instead
    image: a file or array (H, W, 3) uint8 instead of the made one

    Raises ValueError, naming the folder, when something is in it already.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     fixture = make_fixture(folder, image=np.zeros((40, 50, 3), np.uint8))
    ...     load_fixture(folder).config == fixture.config
    True
    """
    return write_fixture(new_folder(folder), build_fixture(preset, conventions, **options))


def new_folder(folder: str | Path) -> Path:
    """The folder, if it is empty or does not exist. Raises ValueError, naming it, when something is in it."""
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder}: is not empty; name a new folder")
    return folder
