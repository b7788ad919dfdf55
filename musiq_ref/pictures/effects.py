"""What goes wrong with pictures, each by a physical amount; musiq_ref.pictures.flaws says how bad an amount is.

Every effect takes an image uint8 (H, W, 3), an amount and a random generator, and returns a new uint8 (H, W, 3).
Lengths are pixels, never parts of the picture: a picture is judged pixel by pixel, as it would be seen at its full
size, and the same pixels must not get another score because more picture was cut off around them.
"""

from __future__ import annotations

import math
from io import BytesIO

import numpy as np
from PIL import Image
from scipy import fft, ndimage

from musiq_ref.pictures.distortions import LIGHT

GAMMA = 2.2  # of the display: twice the light is 2^(1/2.2) times the grey level
Random = np.random.Generator


def gaussian_blur(image: np.ndarray, sigma: float, rng: Random) -> np.ndarray:
    """A lens out of focus, a Gaussian of `sigma` pixels.

    >>> gaussian_blur(np.full((9, 7, 3), 50, np.uint8), 3.0, np.random.default_rng(0)).max().item()
    50
    """
    return to_uint8(ndimage.gaussian_filter(image.astype(np.float32), (sigma, sigma, 0), truncate=3.0))


def motion_blur(image: np.ndarray, length: float, rng: Random) -> np.ndarray:
    """A camera that moved straight by `length` pixels, in a random direction: the spectrum times sinc(length·f·d).

    >>> motion_blur(np.full((9, 7, 3), 50, np.uint8), 30.0, np.random.default_rng(0)).max().item()
    50
    """
    angle = rng.uniform(0, math.pi)
    return filtered(image, lambda fy, fx: np.sinc(length * (np.sin(angle) * fy + np.cos(angle) * fx)), length)


def ringing(image: np.ndarray, wavelength: float, rng: Random) -> np.ndarray:
    """Only waves longer than `wavelength` pixels are left, cut off abruptly, so that edges echo (Gibbs).

    >>> ringing(np.full((9, 7, 3), 50, np.uint8), 6.0, np.random.default_rng(0)).max().item()
    50
    """
    return filtered(image, lambda fy, fx: fy * fy + fx * fx <= 1 / wavelength**2, 4 * wavelength)


def rescale(image: np.ndarray, factor: float, rng: Random) -> np.ndarray:
    """A thumbnail enlarged: reduced by `factor`, then enlarged to the old size by one of three usual filters.

    >>> rescale(np.zeros((9, 7, 3), np.uint8), 2.0, np.random.default_rng(0)).shape
    (9, 7, 3)
    """
    kinds = (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC, Image.Resampling.LANCZOS)
    return resized(_small(image, factor), image.shape[0], image.shape[1], kinds[rng.integers(3)])


def pixelation(image: np.ndarray, side: float, rng: Random) -> np.ndarray:
    """Blocks of `side` pixels, each of its mean colour, wherever the first begins; below 2, mixed in by half.

    >>> ramp = np.tile(np.arange(12, dtype=np.uint8)[:, None], (1, 12, 3)).reshape(12, 12, 3)
    >>> len(np.unique(pixelation(ramp, 4.0, np.random.default_rng(0)))) <= 4
    True
    """
    blocks, size = image.astype(np.float32), max(side, 2.0)
    for axis in (0, 1):
        number = np.floor((np.arange(image.shape[axis]) + rng.uniform(0, size)) / size).astype(int)
        starts = np.flatnonzero(np.diff(number, prepend=number[0] - 1))
        counts = np.diff(starts, append=len(number))
        sums = np.add.reduceat(blocks, starts, axis=axis)
        shape = (-1, 1, 1) if axis == 0 else (1, -1, 1)
        blocks = np.repeat(sums / counts.reshape(shape), counts, axis=axis)
    return to_uint8(image + min(1.0, side - 1) * (blocks - image))


def white_noise(image: np.ndarray, sigma: float, rng: Random) -> np.ndarray:
    """Noise of the electronics: a normal number of deviation `sigma` grey levels added to every value.

    >>> round(white_noise(np.full((200, 200, 3), 128, np.uint8), 16, np.random.default_rng(0)).std())
    16
    """
    return to_uint8(image + np.float32(sigma) * rng.standard_normal(image.shape, dtype=np.float32))


def poisson_noise(image: np.ndarray, relative: float, rng: Random) -> np.ndarray:
    """Too few photons: a white value is counted with 1/relative² of them.

    >>> int(poisson_noise(np.zeros((4, 4, 3), np.uint8), 0.4, np.random.default_rng(0)).max())
    0
    """
    per_level = 1 / (255 * relative * relative)
    return to_uint8(rng.poisson(image * per_level) / per_level)


def low_light_noise(image: np.ndarray, relative: float, rng: Random) -> np.ndarray:
    """A dark scene, amplified: noise of deviation relative·√(v + 0.03) of the brightness v, in grains a pixel wide.

    >>> low_light_noise(np.zeros((4, 4, 3), np.uint8), 0.2, np.random.default_rng(0)).shape
    (4, 4, 3)
    """
    deviation = 255 * relative * np.sqrt(image.astype(np.float32) / 255 + 0.03)
    return to_uint8(image + deviation * _grains(image.shape, rng.uniform(0.4, 0.9), rng))


def chroma_noise(image: np.ndarray, sigma: float, rng: Random) -> np.ndarray:
    """Spots of wrong colour: noise of `sigma` grey levels in the two colour differences, the brightness kept.

    >>> chroma_noise(np.full((4, 4, 3), 99, np.uint8), 9.0, np.random.default_rng(0)).shape
    (4, 4, 3)
    """
    blue, red = np.moveaxis(sigma * _grains((*image.shape[:2], 2), rng.uniform(0.5, 2.0), rng), 2, 0)
    added = np.stack([1.402 * red, -0.344 * blue - 0.714 * red, 1.772 * blue], axis=2)  # YCbCr to RGB
    return to_uint8(image + added)


def haze(image: np.ndarray, left: float, rng: Random) -> np.ndarray:
    """Of every value x the part `left` remains, scattered light A fills up the rest, a random light grey.

    >>> haze(np.zeros((2, 2, 3), np.uint8), 0.1, np.random.default_rng(0)).min().item() > 150
    True
    """
    light = rng.uniform(*LIGHT)
    return to_uint8(light + left * (np.arange(256) - light))[image]


def contrast(image: np.ndarray, left: float, rng: Random) -> np.ndarray:
    """A dull print: every difference from the picture's mean is multiplied by `left`.

    >>> contrast(np.array([[[0, 0, 0], [200, 200, 200]]], np.uint8), 0.1, np.random.default_rng(0))[0, :, 0].tolist()
    [90, 110]
    """
    mean = image.mean()
    return to_uint8(mean + left * (np.arange(256) - mean))[image]


def underexposure(image: np.ndarray, stops: float, rng: Random) -> np.ndarray:
    """2^−stops times the light.

    >>> underexposure(np.full((1, 1, 3), 220, np.uint8), 2.2, np.random.default_rng(0))[0, 0].tolist()
    [110, 110, 110]
    """
    return to_uint8(np.arange(256) * 2 ** (-stops / GAMMA))[image]


def overexposure(image: np.ndarray, stops: float, rng: Random) -> np.ndarray:
    """2^stops times the light, and what does not fit is white.

    >>> overexposure(np.array([[[50, 100, 200]]], np.uint8), 2.2, np.random.default_rng(0))[0, 0].tolist()
    [100, 200, 255]
    """
    return to_uint8(np.arange(256) * 2 ** (stops / GAMMA))[image]


def colour_cast(image: np.ndarray, stops: float, rng: Random) -> np.ndarray:
    """Light of the wrong colour: the channels are exposed otherwise, by `stops` in a random direction of colour.

    >>> len(set(colour_cast(np.full((1, 1, 3), 99, np.uint8), 1.0, np.random.default_rng(0))[0, 0].tolist())) > 1
    True
    """
    direction = rng.standard_normal(3)
    direction -= direction.mean()
    gain = 2 ** (stops * direction / np.linalg.norm(direction) / GAMMA)
    return to_uint8(image * (gain / gain.mean()))


def oversharpening(image: np.ndarray, amount: float, rng: Random) -> np.ndarray:
    """An unsharp mask: `amount` times the difference from a blurred copy is added, so that edges get bright rims.

    >>> oversharpening(np.full((9, 7, 3), 50, np.uint8), 5.0, np.random.default_rng(0)).max().item()
    50
    """
    values, sigma = image.astype(np.float32), rng.uniform(0.8, 2.0)
    return to_uint8(values + amount * (values - ndimage.gaussian_filter(values, (sigma, sigma, 0), truncate=3.0)))


def banding(image: np.ndarray, step: float, rng: Random) -> np.ndarray:
    """Too few grey levels: every value is rounded to a multiple of `step`, counted from mid-grey.

    >>> np.unique(banding(np.arange(240, dtype=np.uint8).reshape(8, 10, 3), 100, np.random.default_rng(0))).size
    3
    """
    return to_uint8(np.rint((np.arange(256) - 128) / step) * step + 128)[image]


def jpeg(image: np.ndarray, quality: float, rng: Random) -> np.ndarray:
    """JPEG compression, its blocks beginning anywhere, as in a picture that was cut afterwards.

    >>> jpeg(np.zeros((9, 7, 3), np.uint8), 10, np.random.default_rng(0)).shape
    (9, 7, 3)
    """
    top, left = rng.integers(0, 8, 2) * int(rng.integers(2))  # half of them uncut
    whole = np.pad(image, ((top, 0), (left, 0), (0, 0)), mode="edge")
    colour = "4:2:0" if rng.random() < 0.7 else "4:4:4"
    return compressed(whole, "JPEG", quality=max(1, round(quality)), subsampling=colour)[top:, left:].copy()


def webp(image: np.ndarray, quality: float, rng: Random) -> np.ndarray:
    """WebP compression; −k below 0 means quality 0 of the image reduced by 1 + k, as video services do.

    >>> webp(np.zeros((9, 7, 3), np.uint8), -1.0, np.random.default_rng(0)).shape
    (9, 7, 3)
    """
    small = _small(image, 1 + max(0, -quality))
    spoilt = compressed(small, "WEBP", quality=max(0, round(quality)), method=0)
    return resized(spoilt, image.shape[0], image.shape[1], Image.Resampling.BICUBIC)


def to_uint8(values: np.ndarray) -> np.ndarray:
    """Rounded and clipped to 0 … 255.

    >>> to_uint8(np.array([-3.0, 1.6, 300.0])).tolist()
    [0, 2, 255]
    """
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def filtered(image: np.ndarray, response, margin: float) -> np.ndarray:
    """The image times `response(fy, fx)` in the frequency domain, mirrored by at least `margin` pixels at its edges.

    >>> filtered(np.full((9, 7, 3), 50, np.uint8), lambda fy, fx: 1 + 0 * (fy + fx), 2).max().item()
    50
    """
    pad = min(math.ceil(margin), 64)
    h, w = (fft.next_fast_len(side + 2 * pad, real=True) or 0 for side in image.shape[:2])
    sides = ((pad, h - pad - image.shape[0]), (pad, w - pad - image.shape[1]), (0, 0))
    padded = np.pad(image.astype(np.float32), sides, mode="symmetric")
    weights = np.asarray(response(fft.fftfreq(h)[:, None], fft.rfftfreq(w)), np.float32)  # (h, w/2 + 1)
    spectrum = np.asarray(fft.rfft2(padded, axes=(0, 1))) * weights[:, :, None]
    values = np.asarray(fft.irfft2(spectrum, (h, w), axes=(0, 1)))
    return to_uint8(values[pad : pad + image.shape[0], pad : pad + image.shape[1]])


def resized(image: np.ndarray, height: int, width: int, resampling: Image.Resampling) -> np.ndarray:
    """An image of another size.

    >>> resized(np.zeros((9, 7, 3), np.uint8), 4, 5, Image.Resampling.BOX).shape
    (4, 5, 3)
    """
    return np.array(Image.fromarray(image).resize((width, height), resampling))


def compressed(image: np.ndarray, file_format: str, **options: int | str) -> np.ndarray:
    """The image after a lossy file.

    >>> compressed(np.zeros((9, 7, 3), np.uint8), "JPEG", quality=5).shape
    (9, 7, 3)
    """
    file = BytesIO()
    Image.fromarray(image).save(file, file_format, **options)
    return np.array(Image.open(file).convert("RGB"))


def _small(image: np.ndarray, factor: float) -> np.ndarray:
    h, w = (max(1, round(side / factor)) for side in image.shape[:2])
    return resized(image, h, w, Image.Resampling.LANCZOS)


def _grains(shape: tuple[int, ...], sigma: float, rng: Random) -> np.ndarray:
    """Normal noise, smoothed by `sigma` pixels, of deviation 1."""
    noise = ndimage.gaussian_filter(rng.standard_normal(shape, dtype=np.float32), (sigma, sigma, 0), truncate=3.0)
    return noise / max(float(noise.std()), 1e-6)
