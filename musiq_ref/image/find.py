"""Image files among paths, patterns and folders, and what was left out of the folders."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from musiq_ref.image.decode import ImageError
from musiq_ref.image.heif import EXTENSIONS as HEIF
from musiq_ref.image.heif import NEEDS, readable
from musiq_ref.image.paths import is_url, missing

EXTENSIONS = (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif")
EXTENSIONS += (".pbm", ".pgm", ".ppm", ".pnm", *HEIF)
MOST_REASONS = 8  # that are named


class Found(NamedTuple):
    """The files to open, and how many entries of folders were left out, by reason.

    >>> Found([], {"hidden": 2, ".cr2": 1}).summary()
    '3 left out: 2 hidden, 1 .cr2'
    """

    files: list[Path]
    left_out: dict[str, int]

    def summary(self) -> str:
        """One line on what was left out, the most frequent first; empty if nothing was."""
        if not self.left_out:
            return ""
        reasons = sorted(self.left_out.items(), key=lambda reason: (-reason[1], reason[0]))
        parts = [f"{count} {reason}" for reason, count in reasons[:MOST_REASONS]]
        if others := sum(count for _, count in reasons[MOST_REASONS:]):
            parts.append(f"{others} for other reasons")
        return f"{sum(self.left_out.values())} left out: {', '.join(parts)}"


def find_images(paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]) -> Found:
    """The files among `paths` as they are, and for every folder the images in it and below, in sorted order.

    paths: files, folders, or patterns such as "holiday/*.jpg", which are expanded where no file is called so

    In a folder an image is known by its extension; hidden entries and linked folders are left out. A path that does
    not exist, or a folder without images, is kept for whoever opens it to report; what is named twice comes once.

    Raises ImageError for a URL, and when there are only folders without images.

    >>> find_images(["photo.jpg"]).files == [Path("photo.jpg")]
    True
    """
    found: list[Path] = []
    left_out: Counter[str] = Counter()
    for name in [paths] if isinstance(paths, str | os.PathLike) else paths:
        for path in _expanded(os.fspath(name)):
            found += (list(_search(path, left_out)) if os.path.isdir(path) else []) or [path]
    files = list(dict.fromkeys(found))
    result = Found(files, dict(left_out))
    if files and all(map(os.path.isdir, files)):
        seen = f" ({result.summary()})" if left_out else ""
        raise ImageError(f"{files[0]} holds no images; pass a folder with files such as .jpg or .png{seen}")
    return result


def _expanded(name: str) -> list[Path]:
    """The paths of a pattern; the name itself if it is none, or matches nothing."""
    if not name:
        raise ImageError("an empty name is no path; name a file or a folder, the present one as .")
    if os.path.lexists(name):
        return [Path(name)]
    if is_url(name):
        raise ImageError(missing(name))
    matches = sorted(glob.glob(name, recursive=True)) if glob.escape(name) != name else []
    return [Path(match) for match in matches or [name]]


def _search(folder: Path, left_out: Counter[str]) -> Iterator[Path]:
    """The images in and below a folder."""
    try:
        entries = sorted(folder.iterdir())
    except OSError:
        left_out["unreadable folder"] += 1
        return
    for entry in entries:
        if reason := _why_not(entry):
            left_out[reason] += 1
        elif os.path.isdir(entry):
            yield from _search(entry, left_out)
        else:
            yield entry


def _why_not(entry: Path) -> str:
    """Why an entry of a folder is left out; empty if it is not. (`os.path` is False where rights are lacking.)"""
    suffix = entry.suffix.lower()
    if entry.name.startswith("."):
        return "hidden"
    if os.path.isdir(entry):
        return "linked folder" if os.path.islink(entry) else ""
    if os.path.islink(entry) and not os.path.exists(entry):
        return "broken link"
    if suffix in HEIF and not readable(HEIF[suffix]):
        return f"{suffix} (needs {NEEDS[HEIF[suffix]]})"
    if suffix not in EXTENSIONS:
        return suffix or "without extension"
    return "" if os.path.isfile(entry) else "not a file"
