"""What was probably meant by a name that is not known."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from itertools import islice
from pathlib import Path


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of a sentence that names the closest of the known names, or nothing if none is close.

    >>> "no command 'scroe'" + did_you_mean("scroe", ["score", "train"])
    "no command 'scroe'; did you mean 'score'?"
    """
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.7)
    return f"; did you mean {close[0]!r}?" if close else ""


def similar_file(path: Path) -> str:
    """The same for a file that is not there, out of (the first thousand of) those in its folder.

    >>> similar_file(Path("no/such/folder/photo.jpg"))
    ''
    """
    try:
        return did_you_mean(path.name, [file.name for file in islice(path.parent.iterdir(), 1000)])
    except (OSError, ValueError):  # ValueError: a path with a null character
        return ""
