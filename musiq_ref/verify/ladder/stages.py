"""The ladder: every intermediate of one image's way to its score and back, by name, in the order in which it is made.

Names are those of the taps; a gradient has "gradient/" in front of the name of what it belongs to, a gradient to a
parameter "dparams/", a parameter after one step of the optimiser "step/".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from musiq_ref.backend import Array
from musiq_ref.config import MusiqConfig
from musiq_ref.image import hash as hashing
from musiq_ref.image import resize, tokenize
from musiq_ref.losses import LOSSES, ON_LOGITS
from musiq_ref.model import head, musiq
from musiq_ref.model.parameters import Params, flatten
from musiq_ref.training.optimizers import sgd, sgd_init
from musiq_ref.verify.ladder.deterministic import unit

HASH_LENGTHS = 320  # tables of the hash for 1 … 320 patches: some lengths round differently in float32
SIDES = [(h, w) for w in (384, 640, 735, 1280, 1600) for h in range(60, w, 66)] + [
    (1375, 1600),
    (715, 832),
    (735, 1280),
]
BACK = ("gradient/", "dparams/", "step/")  # how the names on the way back begin
STEP: dict[str, Any] = {"lr": 0.01, "momentum": 0.9, "weight_decay": 0.1}  # of the one step of the optimiser


class Enough(Exception):
    """Raised by a tap to end a run early.

    >>> issubclass(Enough, Exception)
    True
    """


def integer_tables(config: MusiqConfig) -> dict[str, np.ndarray]:
    """The two roundings that a single image may not show: the hash of 1 … 320 patches, the sides of many images.

    >>> tables = integer_tables(MusiqConfig())
    >>> tables["integers/hash"].shape, tables["integers/hash"][3, :5]
    ((320, 320), array([ 0,  2,  5,  7, -1]))
    """
    cells = np.full((HASH_LENGTHS, HASH_LENGTHS), -1)
    for n in range(1, HASH_LENGTHS + 1):
        cells[n - 1, :n] = hashing.hash_axis(n, config.grid_size, config.conventions.hash)
    sides = [
        [resize.resized_sides(h, w, side, config.conventions.resized_sides) for side in config.longer_sides]
        for h, w in SIDES
    ]
    return {"integers/sides": np.array(sides).reshape(len(SIDES), len(config.longer_sides), 2), "integers/hash": cells}


def targets(config: MusiqConfig) -> tuple[np.ndarray, np.ndarray | None]:
    """What the losses compare with: a score (1,), and a distribution (1, C) where there are classes.

    >>> targets(MusiqConfig(outputs=10))[0]
    array([5.75])
    """
    score = np.array([(config.outputs + 1) / 2 + 0.25])
    if config.outputs == 1:
        return score, None
    share = np.abs(unit(5, "target/distribution", (1, config.outputs)).astype(np.float64)) + 0.05
    return score, share / share.sum()


def run_stages(
    params: Params,
    image: np.ndarray,
    config: MusiqConfig,
    *,
    tap: Callable[[str, Array], Array] | None = None,
    gradient_tap: Callable[[str, Array], Array] | None = None,
    gradients: bool = True,
    until: str | None = None,
) -> dict[str, np.ndarray]:
    """All stages of one image, pixels included, in the dtype of the parameters, as a dict in the order of the ladder.

    tap, gradient_tap: may replace an intermediate or a gradient, under the ladder's name without "gradient/"
    gradients: whether to go back as well
    until: the stage after which nothing more is needed

    Of a name that is seen again, as of a block that runs twice, the first array counts.

    >>> import musiq_ref as mq
    >>> config = mq.MusiqConfig.preset("tiny", longer_sides=(64,))
    >>> stages = run_stages(mq.init_params(config), np.zeros((40, 50, 3), np.uint8), config)
    >>> list(stages)[:4], stages["score"]
    (['integers/sides', 'integers/hash', 'layout', 'hash_index'], array([0.], dtype=float32))
    """
    stages: dict[str, np.ndarray] = {}

    def see(name: str, array: Any) -> Any:
        stages.setdefault(name, np.asarray(array))
        if name == until:
            raise Enough
        return array

    def forward_tap(name: str, array: Array) -> Array:
        return see(name, array if tap is None else tap(name, array))

    def backward_tap(name: str, array: Array) -> Array:
        array = array if gradient_tap is None else gradient_tap(name, array)
        see(f"gradient/{name}", array)
        return array

    try:
        for name, table in integer_tables(config).items():
            see(name, table)
        dtype = next(flatten(params))[1].dtype
        tokens = _tokens(see, tap, image, config, dtype)
        logits, cache = musiq.forward(params, tokens, config, tap=forward_tap)
        expected, cache_score = head.expected_score(logits)
        if expected.distribution is not None:
            see("probabilities", expected.distribution)
        see("score", expected.score)
        _losses(see, logits, expected, config)
        if gradients:
            _way_back(see, backward_tap, params, image, config, cache, cache_score, dtype)
    except Enough:
        pass
    return stages


def _tokens(see, tap, image, config: MusiqConfig, dtype) -> tokenize.Tokens:
    """The tokens of the image; what they are made of is seen after their integers."""
    scales = tokenize.scales_of(image.shape[0], image.shape[1], config)
    see("layout", np.array([s[2:] for s in scales]))
    resized: dict[str, Array] = {}

    def pixel_tap(name: str, array: Array) -> Array:
        resized[name] = array if tap is None else tap(name, array)
        return resized[name]

    tokens = tokenize.batch([tokenize.tokenize(image, config, dtype, pixel_tap)])
    for name in ("hash_index", "scale_index", "mask"):
        see(name, getattr(tokens, name).astype(np.int64))
    if tap is not None:
        tap("mask", tokens.mask)  # to be seen, not replaced
    for name, array in resized.items():
        see(name, array)
    return tokens


def _losses(see, logits, expected, config: MusiqConfig) -> None:
    score, distribution = targets(config)
    for name in LOSSES:
        if name not in ON_LOGITS:
            see(f"loss/{name}", LOSSES[name][0](expected.score, score.astype(logits.dtype))[0])
        elif distribution is not None:
            see(f"loss/{name}", LOSSES[name][0](logits, distribution.astype(logits.dtype))[0])


def _way_back(see, tap, params, image, config, cache, cache_score, dtype) -> None:
    """The gradients of the score, from the last to the first, and one step of the optimiser along them."""
    dlogits = head.expected_score_backward(np.ones(1, dtype), cache_score)
    gradients = musiq.backward(dlogits, cache, tap=tap)
    see("gradient/image", tokenize.tokenize_backward(gradients.patches[0], image.shape[0], image.shape[1], config))
    for path, gradient in flatten(gradients.params):
        see(f"dparams/{path}", gradient)
    after, _ = sgd(params, gradients.params, sgd_init(params), **STEP)
    for path, value in flatten(after):
        see(f"step/{path}", value)


SEQUENCE = "sequence"  # the class token and the tokens
AXES = {  # the end of a stage's name: the names of its axes
    "patches": ("batch", "token", "row", "column", "channel"),
    "patch_embedding": ("batch", "token", "width"),
    "spatial_embedding": ("batch", "token", "width"),
    "scale_embedding": ("batch", "token", "width"),
    "hash_index": ("batch", "token"),
    "scale_index": ("batch", "token"),
    "mask": ("batch", "token"),
    "attention/query": ("batch", "head", SEQUENCE, "head_width"),
    "attention/key": ("batch", "head", SEQUENCE, "head_width"),
    "attention/value": ("batch", "head", SEQUENCE, "head_width"),
    "attention/heads": ("batch", "head", SEQUENCE, "head_width"),
    "attention/logits": ("batch", "head", f"{SEQUENCE} (query)", f"{SEQUENCE} (key)"),
    "attention/weights": ("batch", "head", f"{SEQUENCE} (query)", f"{SEQUENCE} (key)"),
    "attention/query_features": ("batch", "head", SEQUENCE, "feature"),
    "attention/key_features": ("batch", "head", SEQUENCE, "feature"),
    "attention/compressed_key": ("batch", "head", "row of E", "head_width"),
    "attention/compressed_value": ("batch", "head", "row of F", "head_width"),
    "attention/compressed_logits": ("batch", "head", SEQUENCE, "row of E"),
    "attention/compressed_weights": ("batch", "head", SEQUENCE, "row of E"),
    "standardized": ("kernel row", "kernel column", "input channel", "output channel"),
    "layout": ("scale", "height width rows columns length kept"),
    "integers/hash": ("patches", "patch"),
    "integers/sides": ("image", "scale", "height width"),
    "head/class_token": ("batch", "width"),
    "head/logits": ("batch", "output"),
    "probabilities": ("batch", "class"),
    "score": ("batch",),
    "gradient/image": ("row", "column", "channel"),
}


def axes_of(name: str) -> tuple[str, ...]:
    """Names of the axes of a stage; () for parameters and losses.

    >>> axes_of("gradient/encoder/block_00/attention/weights")
    ('batch', 'head', 'sequence (query)', 'sequence (key)')
    """
    if name.startswith((*BACK[1:], "loss/", "training/")):
        return ()
    if name.startswith("pixels/"):
        return ("row", "column", "channel")
    for end, axes in AXES.items():
        if name in (end, f"gradient/{end}") or ("/" in name and name.endswith(f"/{end}")):
            return axes
    if name.removeprefix("gradient/").startswith("stem/"):
        return ("token", "row", "column", "channel")
    return ("batch", SEQUENCE, "width")


def validity(name: str, shape: tuple[int, ...], mask: np.ndarray) -> np.ndarray | None:
    """Which places of a stage belong to valid tokens, as an array that broadcasts to it; None where all do.

    mask: (N,), one image's

    >>> validity("patch_embedding", (1, 3, 2), np.array([1, 0, 1])).ravel()
    array([ True, False,  True])
    """
    if mask.all() or name == "mask":
        return None
    valid = None
    for axis, label in enumerate(axes_of(name)):
        if not label.startswith(("token", SEQUENCE)):
            continue
        along = mask.astype(bool)
        if label.startswith(SEQUENCE):
            along = np.concatenate([[True], along])
        along = along.reshape(-1, *([1] * (len(shape) - axis - 1)))
        valid = along if valid is None else valid & along
    return valid
