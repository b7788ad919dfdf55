"""What is timed: cases, and the pictures that they work on."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from musiq_ref.config import PYIQA, MusiqConfig
from musiq_ref.image.decode import decode
from musiq_ref.outputs import write_output
from musiq_ref.pictures.synthetic import PHOTOGRAPHS
from musiq_ref.suggest import did_you_mean

MIXED = tuple((height, width) for height in (240, 333, 480, 600) for width in (320, 427, 640, 800))


class Case(NamedTuple):
    """One thing that is timed.

    name: for `--only`
    kind: the method of a contender that prepares it
    sizes: (height, width) of each picture that one run takes, in training of each of the batch
    rounds: runs of each contender
    quick: the same with --quick; 0 leaves it out
    share: of the named work that one run does; times are divided by it
    native: patches of the native scale that are used; -1 for all
    layers: encoder blocks; 0 for the preset's
    recipe: of the training step; "" for the plain settings
    rivals: whether PyTorch and pyiqa take part
    long: left out unless it is asked for
    """

    name: str
    kind: str
    sizes: tuple[tuple[int, int], ...]
    rounds: int
    quick: int = 0
    share: float = 1.0
    native: int = -1
    layers: int = 0
    recipe: str = ""
    rivals: bool = True
    long: bool = False

    @property
    def taken(self) -> int:
        """How many of the pictures one run takes.

        >>> Case("training-step-8x70", "training_step", ((70, 70),) * 8, rounds=1, share=1 / 4).taken
        2
        """
        return round(self.share * len(self.sizes))

    def config(self, preset: str) -> MusiqConfig:
        """The model: a preset with pyiqa's conventions, which the PyTorch port implements."""
        changes = {"layers": self.layers} if self.layers else {}
        return MusiqConfig.preset(preset, conventions=PYIQA, max_native_patches=self.native, **changes)


CASES = (
    Case("score-31x500", "score", ((31, 500),), rounds=21, quick=7),
    Case("score-300x451", "score", ((300, 451),), rounds=21, quick=7),
    Case("score-427x640", "score", ((427, 640),), rounds=21, quick=7),
    Case("score-768x1024", "score", ((768, 1024),), rounds=15, quick=5),
    Case("score-16-mixed", "score", MIXED, rounds=5),
    Case("score-3000x4000", "score", ((3000, 4000),), rounds=3, rivals=False),  # PyTorch's port needs over 10 GiB
    Case("score-6000x8000", "score", ((6000, 8000),), rounds=1, rivals=False, long=True),
    Case("score-folder-48", "folder", 3 * MIXED, rounds=3),
    Case("image-gradient-427x640", "image_gradient", ((427, 640),), rounds=9, quick=2),
    Case("image-gradient-3000x4000", "image_gradient", ((3000, 4000),), rounds=1, rivals=False, long=True),
    Case("forward-backward-427x640", "forward_backward", ((427, 640),), rounds=7, quick=2),
    Case("forward-backward-768x1024", "forward_backward", ((768, 1024),), rounds=5),
    Case("training-step-4x343", "training_step", 4 * ((1024, 1024),), rounds=7, quick=2, native=150),
    Case(
        "training-step-96x705",
        "training_step",
        96 * ((1024, 1024),),
        rounds=3,
        share=1 / 8,
        native=512,
        recipe="koniq",
    ),
)
"""In the order of the tables. Square pictures of 1024 pixels fill 49 + 144 + `native` tokens without padding."""


def chosen(patterns: Iterable[str], quick: bool) -> list[Case]:
    """The cases whose names fit one of the patterns, all but the long if there is none; with quick, those that are.

    >>> [case.name for case in chosen(["score-*x500", "image-*x640"], quick=False)]
    ['score-31x500', 'image-gradient-427x640']
    >>> chosen(["scor"], quick=False)
    Traceback (most recent call last):
    ValueError: no benchmark is called 'scor'; ...
    """
    names = [case.name for case in CASES]
    patterns = list(patterns) or [case.name for case in CASES if not case.long]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            meant = did_you_mean(pattern, names)
            raise ValueError(f"no benchmark is called {pattern!r}; there are {', '.join(names)}{meant}")
    fit = [case for case in CASES if any(fnmatchcase(case.name, pattern) for pattern in patterns)]
    kept = [case for case in fit if case.quick or not quick]
    if not kept:
        raise ValueError(f"--quick leaves {', '.join(case.name for case in fit)} out; run it without --quick")
    return kept


def picture(height: int, width: int, which: int = 0) -> np.ndarray:
    """A bundled photograph, stretched to that size: uint8 (height, width, 3).

    >>> picture(31, 500).shape
    (31, 500, 3)
    """
    paths = sorted(PHOTOGRAPHS.glob("*.png"))
    photograph = Image.fromarray(decode(paths[which % len(paths)]))
    return np.asarray(photograph.resize((width, height), Image.Resampling.BICUBIC))


def pictures(case: Case) -> list[np.ndarray]:
    """The pictures of a case, all different, as far as there are photographs."""
    return [picture(height, width, which) for which, (height, width) in enumerate(case.sizes)]


def write_photographs(case: Case, folder: Path) -> Path:
    """Writes the pictures of a case as JPEG files into a folder; done once, however often it is called."""
    if not folder.is_dir():
        folder.mkdir()
        for number, pixels in enumerate(pictures(case)):
            image = Image.fromarray(pixels)
            write_output(folder / f"{number:03}.jpg", lambda part, image=image: image.save(part, "jpeg", quality=90))
    return folder


def training_batch(case: Case) -> list[np.ndarray]:
    """The pictures of a batch, each moved by a row."""
    one = picture(*case.sizes[0])
    return [np.roll(one, number, axis=0) for number in range(len(case.sizes))]
