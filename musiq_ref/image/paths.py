"""Words about paths that lead to no image."""

from __future__ import annotations

import os
import re
from pathlib import Path

from musiq_ref.suggest import similar_file


def is_url(name: str) -> bool:
    """Whether it looks like a URL; `Path` leaves one slash of two, and a single letter is a drive of Windows.

    >>> is_url("https://example.org/photo.jpg"), is_url("C:/photo.jpg")
    (True, False)
    """
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", name) is not None


def missing(name: str) -> str:
    """The sentence about a path that leads nowhere.

    >>> missing("https://example.org/photo.jpg")
    'https://example.org/photo.jpg is a URL, and nothing is fetched here; download it first and pass the file'
    """
    if is_url(name):
        remedy = "pass the path alone" if name.lower().startswith("file:") else "download it first and pass the file"
        return f"{name} is a URL, and nothing is fetched here; {remedy}"
    if os.path.islink(name):
        return f"{name} is a link to {os.readlink(name)}, which does not exist; name another file"
    return f"{name} does not exist{similar_file(Path(name)) or '; check the path'}"
