"""How bad a flaw is: from the severity of any of 18 kinds, 0 … 1, to its amount and to the score, at every size.

Up to KNEE, equal severities do about equally much damage: at severity KNEE·t the gradient magnitude similarity
deviation (GMSD, Xue et al. 2014) is 0.2·t^1.5 on average, as benchmarks/calibrate_distortions.py measures it; of a
colour cast, which GMSD does not see, the amounts are set by eye. From KNEE to 1 the amount grows by equal ratios (of
webp, whose quality passes 0, by equal steps) to the end of the scale, FAR, where hardly anything is left to be
recognised. The score is 100·(1 − severity), whatever the kind and the size: all amounts are absolute, in pixels, grey
levels or stops (musiq_ref.pictures.effects says why).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from musiq_ref.pictures import effects
from musiq_ref.pictures.distortions import PARAMETERS, SEVERITIES

KNEE = 0.85
AMOUNTS = {  # at KNEE times 0, 0.1, 0.2, 0.4, …, 1
    **PARAMETERS,
    "haze": PARAMETERS["contrast"],  # there called contrast: the part that is left of every difference
    "contrast": (1, 0.84, 0.73, 0.57, 0.45, 0.34, 0.235),  # the part that is left
    "underexposure": (0, 0.55, 1.0, 1.8, 2.6, 3.5, 4.6),  # stops
    "overexposure": (0, 0.2, 0.4, 0.8, 1.4, 2.2, 3.2),  # stops
    "colour_cast": (0, 0.2, 0.35, 0.65, 1.0, 1.4, 2.0),  # stops
    "chroma_noise": (0, 2.4, 4.2, 8.1, 13, 20, 32),  # grey levels
    "low_light_noise": (0, 0.014, 0.026, 0.05, 0.082, 0.13, 0.21),  # relative to white
    "oversharpening": (0, 0.2, 0.4, 1.0, 1.9, 3.8, 9.0),  # of the unsharp mask
    "ringing": (1.42, 2.5, 3.1, 5.3, 6.6, 8.9, 15),  # shortest wave that is left, in pixels
}
FAR = {  # at severity 1
    "gaussian_blur": 10,
    "motion_blur": 60,
    "rescale": 20,
    "pixelation": 32,
    "white_noise": 110,
    "poisson_noise": 0.8,
    "low_light_noise": 0.6,
    "chroma_noise": 70,
    "haze": 0.06,
    "contrast": 0.06,
    "underexposure": 7,
    "overexposure": 4.5,
    "colour_cast": 3.5,
    "oversharpening": 20,
    "ringing": 30,
    "banding": 200,
    "jpeg": 1,
    "webp": -4,
}
KINDS = (  # in the order in which a picture meets them
    ("gaussian_blur", "motion_blur", "rescale", "pixelation"),
    ("haze", "contrast", "underexposure", "overexposure", "colour_cast"),
    ("white_noise", "poisson_noise", "low_light_noise", "chroma_noise"),
    ("oversharpening", "ringing", "banding"),
    ("jpeg", "webp"),
)
PERHAPS_MEANT = ("underexposure", "overexposure", "colour_cast")
"""A photographer may have wanted them, and the pixels do not tell: drawn more rarely than the others."""
RARELY = 1 / 3
FLAWS: dict[str, Callable[[np.ndarray, float, np.random.Generator], np.ndarray]] = {
    name: getattr(effects, name) for kind in KINDS for name in kind
}


def score_of(severity: float) -> float:
    """The score of a severity, 100·(1 − severity): 100 for an untouched picture, 0 at the end of the scale.

    >>> score_of(0.25)
    75.0
    """
    return 100 * (1 - severity)


def amount(name: str, severity: float) -> float:
    """The amount of a flaw at a severity.  Raises ValueError for another name, or a severity outside [0, 1].

    >>> amount("pixelation", 1.0), amount("gaussian_blur", 0.85)
    (32.0, 3.7)
    """
    if name not in FLAWS:
        raise ValueError(f"there is no flaw {name!r}; choose among {', '.join(FLAWS)}")
    if not 0 <= severity <= 1:
        raise ValueError(f"{name} got severity {severity}; it goes from 0 (untouched) to 1")
    table = AMOUNTS[name]
    if severity <= KNEE:
        return float(np.interp(severity / KNEE, SEVERITIES, table))
    beyond = (severity - KNEE) / (1 - KNEE)
    if name == "webp":  # below 0 there are no ratios
        return float(table[-1] + beyond * (FAR[name] - table[-1]))
    return float(table[-1] * (FAR[name] / table[-1]) ** beyond)


def spoil(image: np.ndarray, name: str, severity: float, rng: np.random.Generator) -> np.ndarray:
    """The image with a flaw of that severity; at 0 a copy.

    image: uint8 (H, W, 3), also the result

    Raises ValueError as `amount` does, and for another image.

    >>> spoil(np.zeros((9, 7, 3), np.uint8), "haze", 0.5, np.random.default_rng(0)).shape
    (9, 7, 3)
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"{name} got {image.dtype} {image.shape}; pass uint8 (H, W, 3), which decode returns")
    how_much = amount(name, severity)
    return FLAWS[name](image, how_much, rng) if severity >= 1e-3 else image.copy()


def drawn_flaws(severity: float, rng: np.random.Generator, mixed: float) -> tuple[tuple[str, float], ...]:
    """One flaw of that severity, or, with probability `mixed`, two of different kinds that together have it.

    Together means 1 − (1 − s₁)(1 − s₂) = s: what the first leaves of the quality, the second reduces in proportion.

    >>> (name1, s1), (name2, s2) = drawn_flaws(0.75, np.random.default_rng(0), mixed=1.0)
    >>> name1 != name2, round(1 - (1 - s1) * (1 - s2), 12)
    (True, 0.75)
    """
    if rng.random() >= mixed:
        return ((_one_of(list(FLAWS), rng), severity),)
    kinds = [KINDS[kind] for kind in sorted(rng.choice(len(KINDS), 2, replace=False))]
    names = [_one_of(kind, rng) for kind in kinds]
    share = rng.uniform(0.25, 0.75)
    return (names[0], 1 - (1 - severity) ** share), (names[1], 1 - (1 - severity) ** (1 - share))


def _one_of(names: Sequence[str], rng: np.random.Generator) -> str:
    weights = np.array([RARELY if name in PERHAPS_MEANT else 1.0 for name in names])
    return str(rng.choice(names, p=weights / weights.sum()))
