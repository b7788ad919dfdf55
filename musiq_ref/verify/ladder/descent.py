"""A fixture of training: a few steps of SGD with momentum and of Adam on two small images, step by step.

The names are training/sgd/step_1/loss, …/gradient_norm, …/scores (before the step) and …/params/PATH (after it).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from musiq_ref.config import NAMED_CONVENTIONS, MusiqConfig
from musiq_ref.image.tokenize import Tokens, tokenize
from musiq_ref.model.parameters import Params, flatten, map_params
from musiq_ref.training.optimizers import OPTIMIZERS
from musiq_ref.training.step import batch_gradient
from musiq_ref.verify.ladder.deterministic import deterministic_image, deterministic_params
from musiq_ref.verify.ladder.distance import distance
from musiq_ref.verify.ladder.fixture import WEIGHT_SEEDS, Fixture, as_stages, new_folder, write_fixture
from musiq_ref.verify.ladder.tolerance import BULK_FLOOR, FEW, FEW_FLOOR, MARGIN_BACK, SHAKES, Tolerance, shaken

STEPS, LOSS, TARGETS = 5, "mse", (0.75, -0.5)
SETTINGS: dict[str, dict[str, float]] = {
    "sgd": {"lr": 3e-4, "momentum": 0.9, "weight_decay": 0.5},
    "adam": {"lr": 1e-4, "beta1": 0.9, "beta2": 0.95, "eps": 1e-4, "weight_decay": 0.0},
}
"""Weight decay is strong and β₂ small, so that they show in five steps. With Adam's usual ε of 1e-8 the rounding of a
gradient that is 0 would become steps of full length, and of ε up to 1e-6 no tolerance tells half or the double."""
MODEL: dict[str, Any] = {"longer_sides": (56, 96), "outputs": 1}
SIZE, IMAGE_SEEDS = (48, 64), (3, 4)
WHOLE, SAMPLE = 2**8, 251  # values up to which a parameter is stored whole; of a larger one
OF_THE_WAY, OF_THE_STEM = 2e-3, 3e-2  # of how far a parameter went: its direction is as uncertain as a gradient


def descend(params: Params, tokens: list[Tokens], config: MusiqConfig) -> dict[str, np.ndarray]:
    """Loss, norm of the gradient, scores and parameters of every step, for both optimisers.

    params: to start from; they decide the dtype
    tokens: of the two images
    """
    stages: dict[str, np.ndarray] = {}
    for name, settings in SETTINGS.items():
        begin, update = OPTIMIZERS[name]
        now, state = params, begin(params)
        for k in range(1, STEPS + 1):
            found = batch_gradient(now, tokens, np.array(TARGETS), config, LOSS)
            squares = [float((g.astype(np.float64) ** 2).sum()) for _, g in flatten(found.gradients)]
            now, state = update(now, found.gradients, state, **settings)
            step = f"training/{name}/step_{k}"
            stages[f"{step}/loss"] = np.array([found.loss])
            stages[f"{step}/gradient_norm"] = np.array([sum(squares) ** 0.5])
            stages[f"{step}/scores"] = found.scores
            stages |= {f"{step}/params/{path}": value for path, value in flatten(now)}
    return stages


def build_training_fixture(conventions: str = "official") -> Fixture:
    """A fixture of training in memory; its image is (2, H, W, 3), both images.

    >>> build_training_fixture().stages["training/adam/step_5/scores"].shape
    (2,)
    """
    config = MusiqConfig.preset("tiny", conventions=NAMED_CONVENTIONS[conventions], **MODEL)
    seed = WEIGHT_SEEDS[conventions]
    params = deterministic_params(config, seed, "float64")
    images = np.stack([deterministic_image(image_seed, *SIZE) for image_seed in IMAGE_SEEDS])
    with threadpool_limits(1):
        exact = descend(params, [tokenize(image, config, np.float64) for image in images], config)
        single = map_params(lambda a: a.astype(np.float32), params)
        plain = [tokenize(image, config, np.float32) for image in images]
        runs = [descend(single, plain, config)]
        for k in range(SHAKES):
            moved = [t._replace(patches=shaken(k)("patches", t.patches)) for t in plain]
            runs.append(descend(single, moved, config))
    start = dict(flatten(params))
    stages = as_stages(exact, {name: _tolerance(name, exact, runs, start) for name in exact}, WHOLE, SAMPLE)
    about = {"steps": STEPS, "loss": LOSS, "targets": list(TARGETS), "optimizers": SETTINGS}
    manifest = {
        "weights": f"SPEC 9, seed {seed}",
        "image": f"SPEC 9, seeds {IMAGE_SEEDS[0]} and {IMAGE_SEEDS[1]}",
        "preset": "tiny",
    }
    return Fixture(None, config, params, images, stages, {**manifest, "training": about})


def make_training_fixture(folder: str | Path, conventions: str = "official") -> Fixture:
    """Writes it into a new or empty folder.

    conventions: "official", "pyiqa" or "paper"

    Raises ValueError, naming the folder, when something is in it already.

    >>> make_training_fixture(".")
    Traceback (most recent call last):
    ValueError: .: is not empty; name a new folder
    """
    return write_fixture(new_folder(folder), build_training_fixture(conventions))


def curve(fixture: Fixture) -> str:
    """Loss and norm of the gradient by step, as a table."""
    lines = ["step   SGD: loss  gradient   Adam: loss  gradient"]
    for k in range(1, STEPS + 1):
        names = [f"training/{name}/step_{k}/{what}" for name in SETTINGS for what in ("loss", "gradient_norm")]
        a, b, c, d = (float(fixture.stages[name].array[0]) for name in names)
        lines.append(f"{k:>4}  {a:>10.4f}{b:>10.3f}  {c:>11.4f}{d:>10.3f}")
    return "\n".join(lines)


def _tolerance(name: str, exact: dict[str, Any], runs: list[dict[str, Any]], start: dict[str, Any]) -> Tolerance:
    """What the float32 runs ask for; of a parameter also a share of the way that it went."""
    found = [distance(exact[name], run[name]) for run in runs]
    bulk, norm = max(d.bulk for d in found), max(d.norm for d in found)
    floor = FEW_FLOOR if exact[name].size < FEW else BULK_FLOOR
    if "/params/" in name:
        path = name.partition("/params/")[2]
        way = distance(exact[name], start[path]).norm
        floor = max(floor, way * (OF_THE_STEM if path.startswith("stem/") else OF_THE_WAY))
    return Tolerance(max(MARGIN_BACK * bulk, floor), max(MARGIN_BACK * norm, 2 * floor), None, bulk)
