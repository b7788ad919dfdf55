"""What a data set is: images with targets, split so that training and test share none."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from musiq_ref.image.decode import ImageError, decode

TEST_SHARE = 0.2  # SPEC 7: random 80/20 splits


class DatasetError(ValueError):
    """A data set that cannot be used; the message is one sentence that names the file and says what to do."""


class Example(NamedTuple):
    """One image with what people thought of it.

    image: a path, or whatever else `decode` reads
    target: the score alone, or the C shares of the votes 1 … C, which sum to 1
    group: what must not be shared between training and test, by default the image's name
    sha256: of the file, or of the array's pixels, once `check_images` has read it
    """

    image: Path | np.ndarray
    target: tuple[float, ...]
    group: str
    sha256: str = ""


class Split(NamedTuple):
    """Positions in Dataset.examples, each part in ascending order; the parts have no group in common."""

    train: tuple[int, ...]
    validation: tuple[int, ...]
    test: tuple[int, ...]


class Dataset(NamedTuple):
    """A data set.

    outputs: the length of every target, 1 for scores and C for votes
    score_range: the least and the greatest score the scale allows
    published: the authors' own split, if they made one
    problems: a sentence for each entry left out
    """

    name: str
    examples: tuple[Example, ...]
    outputs: int
    score_range: tuple[float, float]
    published: Split | None
    problems: tuple[str, ...]


def split(dataset: Dataset, seed: int = 0, index: int = 0) -> Split:
    """A random split into 80 % training and 20 % test, by groups; `index` 0 … 9 are the ten of SPEC 7.

    Groups are sorted by the SHA-256 of "seed/index/group" and the first fifth is the test: the same on every machine,
    in any language, and whatever the order of the files. A published split, if there is one, is in dataset.published.
    Raises DatasetError when there are fewer than two groups.

    >>> examples = tuple(Example(Path(f"{i}.jpg"), (50.0,), f"{i}.jpg") for i in range(10))
    >>> split(Dataset("ten", examples, 1, (0, 100), None, ()), seed=1)
    Split(train=(0, 1, 4, 5, 6, 7, 8, 9), validation=(), test=(2, 3))
    """
    groups = {example.group for example in dataset.examples}
    if len(groups) < 2:
        raise DatasetError(f"{dataset.name} has {len(groups)} image; a split into training and test needs at least 2")

    def position(group: str) -> bytes:
        return hashlib.sha256(f"{seed}/{index}/{group}".encode()).digest()

    held_out = set(sorted(groups, key=position)[: max(1, round(TEST_SHARE * len(groups)))])
    train = tuple(i for i, example in enumerate(dataset.examples) if example.group not in held_out)
    test = tuple(i for i, example in enumerate(dataset.examples) if example.group in held_out)
    return Split(train, (), test)


def check_images(dataset: Dataset, progress: Callable[[Iterable[Any]], Iterable[Any]] = iter) -> Dataset:
    """The data set without the images that cannot be decoded, which move to its problems; opens and hashes every image.

    progress: wraps the examples while they are read, for example tqdm.  Raises DatasetError when no image is left.

    >>> example = Example(np.zeros((8, 8, 3), np.uint8), (50.0,), "black")
    >>> len(check_images(Dataset("one", (example,), 1, (0, 100), None, ())).examples)
    1
    """
    problems, examples, intact = list(dataset.problems), [], []
    for position, example in enumerate(progress(dataset.examples)):
        try:
            pixels = decode(example.image)
            examples.append(example._replace(sha256=_sha256(example.image, pixels)))
            intact.append(position)
        except ImageError as error:
            problems.append(str(error))
    if not intact:
        raise DatasetError(f"{dataset.name} has no image that can be read; the first problem: {problems[-1]}")
    new = {old: i for i, old in enumerate(intact)}
    published = dataset.published
    if published is not None:
        published = Split(*(tuple(new[i] for i in part if i in new) for part in published))
    return dataset._replace(examples=tuple(examples), published=published, problems=tuple(problems))


def _sha256(image: Path | np.ndarray, pixels: np.ndarray) -> str:
    if not isinstance(image, Path):
        return hashlib.sha256(pixels.tobytes()).hexdigest()
    with image.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(dataset: Dataset, parts: Split) -> dict[str, str]:
    """What a run that goes on must find unchanged: a SHA-256 each of "order or names", "labels", "images" and "split".

    Names are paths below the folder that all images share: a data set may be moved as a whole. The last three belong to
    names, not positions, and the same rows in another order change only the first. An image that is added or removed
    changes all four.

    dataset: from `check_images`, which hashes the images
    parts: its split into training, validation and test

    >>> black = Example(Path("a.png"), (50.0,), "a.png", "1f…")
    >>> before = digest(Dataset("one", (black,), 1, (0, 100), None, ()), Split((0,), (), ()))
    >>> after = digest(Dataset("one", (black._replace(target=(60.0,)),), 1, (0, 100), None, ()), Split((0,), (), ()))
    >>> [what for what in before if after[what] != before[what]]
    ['labels']
    """
    places = [Path(os.path.abspath(e.image)) if isinstance(e.image, Path) else Path(e.group) for e in dataset.examples]
    shared = len(os.path.commonprefix([place.parent.parts for place in places]))  # noqa: RUF071, of parts
    names = ["/".join(place.parts[shared:]) for place in places]
    found = {
        "order or names": names,
        "labels": sorted((name, example.target) for name, example in zip(names, dataset.examples, strict=True)),
        "images": sorted((name, example.sha256) for name, example in zip(names, dataset.examples, strict=True)),
        "split": [sorted(names[i] for i in part) for part in parts],
    }
    return {what: hashlib.sha256(json.dumps(value).encode()).hexdigest() for what, value in found.items()}
