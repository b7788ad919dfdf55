"""The tables of musiq_ref.pictures.flaws and .distortions: how much of a flaw does how much damage.

    python benchmarks/calibrate_distortions.py          # a minute; prints the table of every flaw

Damage is the gradient magnitude similarity deviation (GMSD; Xue, Zhang, Mou and Bovik 2014), which agrees well with
human judgement across kinds of distortion and takes three lines. It is averaged over crops of the photographs that are
assigned to training. For every flaw a range of amounts is tried; the entry for severity s is where the damage,
interpolated, reaches 0.2·s^1.5 (flaws then takes KNEE·s for s). The second line is the damage that the table in use
does. GMSD sees brightness only: the table of colour_cast is by eye.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from musiq_ref.pictures import synthetic
from musiq_ref.pictures.distortions import SEVERITIES
from musiq_ref.pictures.flaws import AMOUNTS, FLAWS

WORST, EXPONENT = 0.2, 1.5
TRIED = {  # amounts from harmless to worst
    "gaussian_blur": np.geomspace(0.3, 8, 14),
    "motion_blur": np.geomspace(1, 40, 14),
    "rescale": np.geomspace(1.1, 14, 14),
    "pixelation": np.geomspace(1.1, 12, 14),
    "white_noise": np.geomspace(2, 120, 14),
    "poisson_noise": np.geomspace(0.01, 1.0, 14),
    "low_light_noise": np.geomspace(0.005, 1.0, 18),
    "chroma_noise": np.geomspace(1, 120, 18),
    "haze": np.linspace(0.95, 0.1, 14),
    "contrast": np.linspace(0.95, 0.1, 14),
    "underexposure": np.linspace(0.2, 8, 16),
    "overexposure": np.linspace(0.1, 5, 16),
    "oversharpening": np.geomspace(0.1, 20, 18),
    "ringing": np.geomspace(1.5, 30, 18),
    "banding": np.geomspace(4, 160, 20),
    "jpeg": np.array([95, 90, 80, 70, 60, 50, 40, 30, 25, 20, 15, 12, 10, 8, 6, 5, 4, 3, 2, 1]),
    "webp": np.array([98, 95, 90, 80, 70, 60, 50, 40, 30, 20, 15, 10, 5, 0, -0.5, -1, -1.5, -2, -3]),
}


def gmsd(x: np.ndarray, y: np.ndarray) -> float:
    """The deviation over the image of the similarity of gradient magnitudes in grey; x, y: uint8 (H, W, 3)."""
    grey = [ndimage.uniform_filter(image.astype(np.float64).mean(2), 2)[::2, ::2] for image in (x, y)]
    g, h = (np.hypot(ndimage.prewitt(image, 0), ndimage.prewitt(image, 1)) / 3 for image in grey)
    return float(np.std((2 * g * h + 170) / (g * g + h * h + 170)))


def damage(name: str, amount: float, crops: list[np.ndarray]) -> float:
    """The mean GMSD of that much of a flaw."""
    spoilt = [FLAWS[name](crop, amount, np.random.default_rng(i)) for i, crop in enumerate(crops)]
    return float(np.mean([gmsd(crop, image) for crop, image in zip(crops, spoilt, strict=True)]))


def main() -> None:
    generators = [np.random.default_rng(seed) for seed in range(8)]
    photographs = synthetic.TRAINING_PHOTOGRAPHS
    reduction = (1.0, 2.0)  # the tables in use were calibrated on such crops
    crops = [synthetic.photograph_crop(name, rng, 192, 192, reduction) for name in photographs for rng in generators]
    wanted = [WORST * s**EXPONENT for s in SEVERITIES[1:]]
    print(f"{'wanted':15}", *(f"{value:8.3f}" for value in wanted))
    for name, tried in TRIED.items():
        done = np.maximum.accumulate([damage(name, value, crops) for value in tried])
        print(f"{name:15}", *(f"{value:8.3f}" for value in np.interp(wanted, done, tried)))
        in_use = (damage(name, value, crops) for value in AMOUNTS[name][1:])
        print(f"{'  in use':15}", *(f"{value:8.3f}" for value in in_use), f"  worst tried {done[-1]:.3f}")


if __name__ == "__main__":
    main()
