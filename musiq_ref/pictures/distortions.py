"""Ten ways to spoil an image, each by a chosen degree (mixtures of two: musiq_ref.pictures.mixtures).

Every distortion is a function of an image uint8 (H, W, 3), a severity in [0, 1] (0 leaves the image as it is) and a
random generator, and returns a new uint8 (H, W, 3). Its table below gives the physical parameter at the severities 0,
0.1, 0.2, 0.4, …, 1; between them it is interpolated linearly. The tables are chosen so that equal severities look about
equally bad: at severity s the gradient magnitude similarity deviation from the untouched image (GMSD, Xue et al. 2014)
is 0.2·s^1.5 on average over crops of the bundled photographs, as benchmarks/calibrate_distortions.py measures it.
"""

from __future__ import annotations

import math
from io import BytesIO

import numpy as np
from PIL import Image
from scipy import fft, ndimage

SEVERITIES = (0.0, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0)
PARAMETERS = {  # the parameter at those severities
    "gaussian_blur": (0, 0.5, 0.7, 1.1, 1.6, 2.4, 3.7),  # sigma in pixels
    "motion_blur": (0, 1.9, 2.7, 4.5, 6.6, 9.6, 17),  # length of the path in pixels
    "rescale": (1, 1.3, 1.7, 2.6, 3.5, 4.8, 7.7),  # by how much the image is reduced before it is enlarged again
    "pixelation": (1, 1.2, 1.4, 1.9, 3.2, 4.5, 5.9),  # side of the blocks in pixels
    "white_noise": (0, 4.5, 8.5, 16, 26, 40, 62),  # standard deviation in grey levels
    "poisson_noise": (0, 0.026, 0.046, 0.09, 0.15, 0.24, 0.4),  # standard deviation at white, relative to white
    "contrast": (1, 0.84, 0.73, 0.57, 0.45, 0.34, 0.235),  # share of the contrast that haze leaves
    "banding": (1, 10, 17, 32, 50, 82, 150),  # width of a quantisation step in grey levels
    "jpeg": (100, 80, 51, 16, 8, 5, 3),  # quality, libjpeg's scale
    "webp": (100, 85, 64, 14, 3, -0.2, -1.4),  # quality, libwebp's scale, and below it
}


LIGHT = (190, 230)  # grey levels of the light that haze scatters


def gaussian_blur(image: np.ndarray, severity: float, rng: np.random.Generator) -> np.ndarray:
    """A lens out of focus: convolution with a Gaussian; the parameter is its sigma in pixels.

    image: uint8 (H, W, 3), also the result.  Raises ValueError for another image or a severity outside [0, 1].

    >>> edge = np.zeros((4, 8, 3), np.uint8); edge[:, 4:] = 255
    >>> gaussian_blur(edge, 0.5, np.random.default_rng(0))[0, :, 0].tolist() == edge[0, :, 0].tolist()
    False
    """
    sigma = parameter("gaussian_blur", severity, image)
    if not severity:
        return image.copy()
    return _to_uint8(ndimage.gaussian_filter(image.astype(np.float32), (sigma, sigma, 0), truncate=3.0))


def motion_blur(image: np.ndarray, severity: float, rng: np.random.Generator) -> np.ndarray:
    """A camera that moved straight during the exposure, in a random direction; the parameter is the path's length.

    Averaging over a path of length L in direction d multiplies the spectrum at frequency f by sinc(L·f·d).

    >>> motion_blur(np.full((9, 7, 3), 50, np.uint8), 1.0, np.random.default_rng(0)).tolist()[0][0]
    [50, 50, 50]
    """
    length, angle = parameter("motion_blur", severity, image), rng.uniform(0, math.pi)
    if not severity:
        return image.copy()
    margin = math.ceil(length)
    padded = np.pad(image.astype(np.float32), ((margin, margin), (margin, margin), (0, 0)), mode="symmetric")
    h, w = (fft.next_fast_len(side, real=True) for side in padded.shape[:2])
    along = np.sin(angle) * fft.fftfreq(h)[:, None] + np.cos(angle) * fft.rfftfreq(w)  # (h, w/2 + 1) f·d
    spectrum = fft.rfft2(padded, (h, w), axes=(0, 1)) * np.sinc(length * along).astype(np.float32)[:, :, None]
    blurred = np.asarray(fft.irfft2(spectrum, (h, w), axes=(0, 1)))
    return _to_uint8(blurred[margin : margin + image.shape[0], margin : margin + image.shape[1]])


def rescale(image: np.ndarray, severity: float, rng: np.random.Generator) -> np.ndarray:
    """A thumbnail enlarged: reduced (Lanczos) by the parameter, then enlarged (bicubic) to the old size.

    >>> rescale(np.zeros((9, 7, 3), np.uint8), 0.5, np.random.default_rng(0)).shape
    (9, 7, 3)
    """
    small = _reduced(image, parameter("rescale", severity, image), Image.Resampling.LANCZOS)
    return _enlarged(small, image, Image.Resampling.BICUBIC)


def pixelation(image: np.ndarray, severity: float, rng: np.random.Generator) -> np.ndarray:
    """Square blocks, each of its mean colour; the parameter is their side in pixels.

    Below 2, the image with blocks of 2 pixels is mixed in. Above, block edges need not fall between pixels: they are
    drawn at four times the size and averaged down.

    >>> ramp = np.tile(np.arange(12, dtype=np.uint8)[:, None], (12, 1, 3))
    >>> len(np.unique(pixelation(ramp, 1.0, np.random.default_rng(0)))) < 12
    True
    """
    side = parameter("pixelation", severity, image)
    small = Image.fromarray(_reduced(image, max(2, side), Image.Resampling.BOX))
    blocks = np.asarray(small.resize((4 * image.shape[1], 4 * image.shape[0]), Image.Resampling.NEAREST).reduce(4))
    return _to_uint8(image + min(1, side - 1) * (blocks.astype(np.float32) - image))


def white_noise(image: np.ndarray, severity: float, rng: np.random.Generator) -> np.ndarray:
    """Noise of the electronics: a normal number added to every value; the parameter is the standard deviation.

    >>> round(white_noise(np.full((200, 200, 3), 128, np.uint8), 0.4, np.random.default_rng(0)).std())
    16
    """
    sigma = parameter("white_noise", severity, image)
    return _to_uint8(image + np.float32(sigma) * rng.standard_normal(image.shape, dtype=np.float32))


def poisson_noise(image: np.ndarray, severity: float, rng: np.random.Generator) -> np.ndarray:
    """Too few photons: every value is a Poisson count; the parameter r is the relative noise of white, 1/r² photons.

    >>> int(poisson_noise(np.zeros((4, 4, 3), np.uint8), 1.0, np.random.default_rng(0)).max())  # no light, no noise
    0
    """
    relative = parameter("poisson_noise", severity, image)
    if relative < 1e-4:  # invisible, and more photons than a Poisson generator counts
        return image.copy()
    photons_per_level = 1 / (255 * relative * relative)
    return _to_uint8(rng.poisson(image * photons_per_level) / photons_per_level)


def contrast(image: np.ndarray, severity: float, rng: np.random.Generator) -> np.ndarray:
    """Haze: of every value x the part t is left, and scattered light A fills up the rest, t·x + (1 − t)·A.

    The parameter is t, which multiplies every difference of grey levels; A, a light grey, is drawn at random. (Haze
    rather than greying towards the mean: how much contrast a scene had by itself, nobody can tell from a picture.)

    >>> contrast(np.array([[[0, 0, 0], [200, 200, 200]]], np.uint8), 1.0, np.random.default_rng(0))[0, :, 0].tolist()
    [165, 212]
    """
    light, left = rng.uniform(*LIGHT), parameter("contrast", severity, image)
    levels = _to_uint8(light + left * (np.arange(256) - light))
    return levels[image]


def banding(image: np.ndarray, severity: float, rng: np.random.Generator) -> np.ndarray:
    """Too few grey levels: every channel is rounded to a multiple of the parameter, counted from mid-grey.

    >>> np.unique(banding(np.arange(240, dtype=np.uint8).reshape(8, 10, 3), 1.0, np.random.default_rng(0))).size < 6
    True
    """
    step = parameter("banding", severity, image)
    levels = _to_uint8(np.rint((np.arange(256) - 128) / step) * step + 128)
    return levels[image]


def jpeg(image: np.ndarray, severity: float, rng: np.random.Generator) -> np.ndarray:
    """JPEG compression with 4:2:0 colour; the parameter is libjpeg's quality, rounded.

    >>> jpeg(np.zeros((9, 7, 3), np.uint8), 0.5, np.random.default_rng(0)).shape
    (9, 7, 3)
    """
    return _compress(image, severity, "JPEG", quality=round(parameter("jpeg", severity, image)), subsampling="4:2:0")


def webp(image: np.ndarray, severity: float, rng: np.random.Generator) -> np.ndarray:
    """WebP compression (lossy, fastest method); the parameter is libwebp's quality, rounded.

    Its worst quality, 0, is not very bad. A parameter −k below 0 means quality 0 of the image reduced by 1 + k and
    enlarged again, as video services do when bits are short.

    >>> webp(np.zeros((9, 7, 3), np.uint8), 0.5, np.random.default_rng(0)).shape
    (9, 7, 3)
    """
    quality = parameter("webp", severity, image)
    factor = 1 + max(0, -quality)
    small = _reduced(image, factor, Image.Resampling.LANCZOS)
    spoilt = _compress(small, severity, "WEBP", quality=max(0, round(quality)), method=0)
    return _enlarged(spoilt, image, Image.Resampling.BICUBIC)


KINDS = (  # in the order in which a picture meets them
    (gaussian_blur, motion_blur, rescale, pixelation),
    (white_noise, poisson_noise),
    (contrast, banding),
    (jpeg, webp),
)
DISTORTIONS = {distortion.__name__: distortion for kind in KINDS for distortion in kind}


def parameter(name: str, severity: float, image: np.ndarray | None = None) -> float:
    """The parameter of a distortion at a severity: its table, interpolated.

    Raises ValueError for a severity outside [0, 1], or when `image` is given and is not uint8 (H, W, 3).

    >>> parameter("jpeg", 0.0), parameter("contrast", 0.0)
    (100.0, 1.0)
    """
    if not 0 <= severity <= 1:
        raise ValueError(f"{name} got severity {severity}; it goes from 0 (untouched) to 1")
    if image is not None and (image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3):
        raise ValueError(f"{name} got {image.dtype} {image.shape}; pass uint8 (H, W, 3), which decode returns")
    return float(np.interp(severity, SEVERITIES, PARAMETERS[name]))


def _to_uint8(values: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def _reduced(image: np.ndarray, factor: float, resampling: Image.Resampling) -> np.ndarray:
    h, w = (max(1, round(side / factor)) for side in image.shape[:2])
    return np.array(Image.fromarray(image).resize((w, h), resampling))


def _enlarged(image: np.ndarray, like: np.ndarray, resampling: Image.Resampling) -> np.ndarray:
    return np.array(Image.fromarray(image).resize((like.shape[1], like.shape[0]), resampling))


def _compress(image: np.ndarray, severity: float, file_format: str, **options: int | str) -> np.ndarray:
    if not severity:
        return image.copy()
    file = BytesIO()
    Image.fromarray(image).save(file, file_format, **options)
    return np.array(Image.open(file).convert("RGB"))
