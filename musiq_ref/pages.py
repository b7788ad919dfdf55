"""HTML pages on disk: marked as ours, and never written over anything else."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from musiq_ref.checkpoint.files import write_atomically

GENERATOR = '<meta name="generator" content="musiq_ref">'


def check_page(path: Path, inputs: Iterable[Path] = (), force: bool = False) -> None:
    """Raises ValueError, one sentence, where a page must not or cannot be written; best asked before the work.

    path: ends in .html or .htm
    inputs: files that it must not be, whatever `force` says
    force: write over a file that is no page of ours

    >>> check_page(Path("photo.jpg"))
    Traceback (most recent call last):
    ValueError: photo.jpg is no name for a page; let it end in .html
    """
    if path.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"{path} is no name for a page; let it end in .html")
    if not os.access(path.parent, os.W_OK):
        raise ValueError(f"{path} cannot be written: its folder does not exist, or may not be written to")
    if not path.exists():
        return
    if any(path.samefile(one) for one in inputs if one.exists()):
        raise ValueError(f"{path} is one of the files to read, which would be overwritten; name another")
    if not path.is_file():
        raise ValueError(f"{path} is no file; name another")
    if not force and GENERATOR.encode() not in path.read_bytes()[:2000]:
        raise ValueError(f"{path} is there and was not written by musiq_ref; name another, or add --force")


def write_page(path: Path, page: str) -> None:
    """Writes it beside, then puts it in its place in one step; `check_page` says whether it may.

    >>> write_page(Path("no/such/folder/page.html"), "")
    Traceback (most recent call last):
    ValueError: no/such/folder/page.html: the file cannot be written (No such file or directory); ...
    """
    try:
        write_atomically(path, lambda part: part.write_bytes(page.encode("utf-8", "backslashreplace")))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
