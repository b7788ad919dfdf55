"""What training sees: example number i of epoch e, the same whenever and wherever it is asked for.

Because an example depends on (seed, epoch, number) alone, a run that goes on after a crash needs to remember only how
far it came.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from musiq_ref.image.decode import ImageError, decode
from musiq_ref.pictures.photographs import load_photographs
from musiq_ref.pictures.synthetic import PHOTOGRAPHS, TEST_PHOTOGRAPHS, training_example
from musiq_ref.pictures.world import world_example
from musiq_ref.training.datasets import (
    SHORTER_SIDES,
    Dataset,
    DatasetError,
    Split,
    check_images,
    digest,
    open_dataset,
    shrink,
    split,
)
from musiq_ref.training.settings import Settings

VALIDATION_SEED = 1_000_000  # added to the seed: scenes and crops that training with this seed does not see
VALIDATION_IMAGES = 256
LARGEST_VALIDATED = 400  # greatest shorter side that is validated with: larger ones cost more than they tell


class Stream(NamedTuple):
    """Examples to train on and to validate with.

    length: examples in an epoch
    example: (epoch, number) -> (uint8 image (H, W, 3), target)
    validation: number, 0 … validation_length − 1 -> the same
    problems: a sentence for every entry left out
    data: what must not change from stop to start, in words: a digest of it, or the thing itself
    held_out: the groups that are not trained with
    """

    length: int
    example: Callable[[int, int], tuple[np.ndarray, Any]]
    validation_length: int
    validation: Callable[[int], tuple[np.ndarray, Any]]
    problems: tuple[str, ...] = ()
    data: Mapping[str, str] = MappingProxyType({})
    held_out: tuple[str, ...] = ()


def open_stream(settings: Settings, folder: str | Path | None = None, held_out: Sequence[str] = ()) -> Stream:
    """The examples that the settings ask for.

    folder: where the data set lies, or its CSV file; of the synthetic set, photographs to make it of
    held_out: `Stream.held_out` of before: whatever has changed, these are not trained with

    Raises DatasetError, in one sentence, when it is not there or does not fit the model.

    >>> stream = open_stream(Settings(epoch_images=8))
    >>> stream.length, stream.example(0, 3)[0].dtype
    (8, dtype('uint8'))
    """
    if settings.dataset != "synthetic":
        stream = _dataset(settings, folder, held_out)
    elif folder is None:
        stream = _synthetic(settings)
    else:
        stream = _photographs(settings, Path(folder))
    if stream.length < 1 or not stream.validation_length:
        raise DatasetError("there are no images to train on, or none to validate with")
    return stream


def _check_made(settings: Settings) -> None:
    if not settings.epoch_images:
        raise DatasetError("epoch_images is 0; the synthetic set has no end, so say how many images make an epoch")
    if settings.config().outputs != 1:
        raise DatasetError(f"the synthetic set has one score per image, the model {settings.config().outputs} outputs")


def _photographs(settings: Settings, folder: Path) -> Stream:
    """Examples made of the bundled photographs and those in a folder.

    With subfolders training/ and validation/, those are used; of other folders every eighth photograph validates.
    """
    _check_made(settings)
    if not folder.is_dir():
        raise DatasetError(
            f"{folder} is no folder of photographs to make the synthetic set of; for a table, dataset=csv"
        )
    own = [PHOTOGRAPHS / f"{name}.png" for name in settings.photographs]
    try:
        if (folder / "training").is_dir() and (folder / "validation").is_dir():
            train, held_out = (load_photographs([folder / part]) for part in ("training", "validation"))
        else:
            found = load_photographs([folder])
            train = tuple(one for i, one in enumerate(found) if i % 8 != 7)
            held_out = tuple(found[7::8]) or load_photographs([PHOTOGRAPHS / f"{TEST_PHOTOGRAPHS[0]}.png"])
        train = (*load_photographs(own), *train)
    except ImageError as error:
        raise DatasetError(str(error)) from None

    def example(epoch: int, number: int):
        one = world_example(settings.seed, epoch * settings.epoch_images + number, train, settings.largest_side)
        return one.image, one.score

    def validation(number: int):
        seed, largest = settings.seed + VALIDATION_SEED, min(settings.largest_side, LARGEST_VALIDATED)
        one = world_example(seed, number, held_out, largest, power=1)
        return one.image, one.score

    marks = {"photographs": hashlib.sha256(b"".join(one.pixels.tobytes() for one in (*train, *held_out))).hexdigest()}
    count = min(VALIDATION_IMAGES, settings.epoch_images)
    return Stream(settings.epoch_images, example, count, validation, data=marks)


def _synthetic(settings: Settings) -> Stream:
    _check_made(settings)

    def drawn(seed: int, index: int, size: int | None):
        one = training_example(seed, index, size, settings.photographs, settings.reduction)
        return one.image, one.score

    def example(epoch: int, number: int):
        return drawn(settings.seed, epoch * settings.epoch_images + number, settings.side or None)

    def validation(number: int):
        return drawn(settings.seed + VALIDATION_SEED, number, None)

    return Stream(settings.epoch_images, example, min(VALIDATION_IMAGES, settings.epoch_images), validation)


def _dataset(settings: Settings, folder: str | Path | None, held_out: Sequence[str]) -> Stream:
    data = check_images(open_dataset(settings.dataset, folder))
    classes, outputs = settings.loss == "cross_entropy" and data.outputs == 1, settings.config().outputs
    fits = outputs > 1 if classes else data.outputs == outputs
    if not fits:
        raise DatasetError(
            f"{data.name} has {data.outputs} value(s) per image, which does not fit a model with {outputs} outputs"
        )
    parts = _split(data, settings.split, held_out)
    length = min(settings.epoch_images or len(parts.train), len(parts.train))

    def read(position: int):
        entry = data.examples[position]
        target = np.asarray(entry.target) if data.outputs > 1 else entry.target[0]
        image = shrink(decode(entry.image), SHORTER_SIDES.get(settings.dataset, 0))
        return image, int(target) if classes else target

    def example(epoch: int, number: int):
        order = np.random.default_rng((settings.seed, epoch)).permutation(len(parts.train))
        return read(parts.train[order[number]])

    tested = parts.validation or parts.test
    marks = {"number of images": str(len(data.examples)), **digest(data, parts)}
    groups = tuple(sorted({data.examples[i].group for i in (*parts.validation, *parts.test)}))
    return Stream(length, example, len(tested), lambda number: read(tested[number]), data.problems, marks, groups)


def _split(data: Dataset, index: int, held_out: Sequence[str]) -> Split:
    """The published or a random split, but so that no group that was held out before is trained with."""
    kept = set(held_out)
    apart = [example.group in kept for example in data.examples]
    if data.published:
        return data.published._replace(train=tuple(i for i in data.published.train if not apart[i]))
    if kept:
        train, test = (tuple(i for i, one in enumerate(apart) if one is which) for which in (False, True))
        return Split(train, (), test)
    return split(data, index=index)
