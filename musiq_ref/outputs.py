"""Files that are written: never over an input, never over somebody else's, whole or not at all."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from safetensors import SafetensorError

GENERATOR = '<meta name="generator" content="musiq_ref">'
SOFTWARE = "musiq_ref"
"""What our pictures name as their maker: a text chunk of a PNG, the metadata of an SVG or PDF."""

METADATA = {"png": {"Software": SOFTWARE}, "svg": {"Title": SOFTWARE}, "pdf": {"Creator": SOFTWARE}}
"""{kind: what matplotlib's `savefig` is to write into it as `metadata`}"""

MARKS = {
    ".html": (GENERATOR.encode(),),
    ".htm": (GENERATOR.encode(),),
    ".png": (b"Software\0musiq_ref",),
    ".svg": (b"<dc:title>musiq_ref</dc:title>",),
    ".pdf": (b"/Creator (musiq_ref)",),
    ".safetensors": (b'"musiq_ref_config"', b'"settings"'),
    ".json": (b'"made_by": "musiq_ref"',),
    ".md": (b"<!-- made by musiq_ref -->",),
    ".xml": (b"<!-- made by musiq_ref -->",),
}
"""{ending: what tells a file of ours}"""

NEAR = 2**16  # bytes at the start and at the end of a file among which a mark is looked for
HOUR = 3600.0


class OutputError(ValueError):
    """A file that must not, or cannot, be written; the message is one sentence that names it.

    >>> issubclass(OutputError, ValueError)
    True
    """


def check_output(
    path: Path, inputs: Iterable[str | os.PathLike[str] | None] = (), force: bool = False, endings: tuple[str, ...] = ()
) -> None:
    """Raises OutputError where a file must not or cannot be written; to be asked before the work.

    path: the file to write
    inputs: files that it must not be, whatever `force` says; None is passed over
    force: write over a file that is none of ours
    endings: those that its name may have, in lower case; all where none are given

    >>> check_output(Path("photo.jpg"), endings=(".html",))
    Traceback (most recent call last):
    musiq_ref.outputs.OutputError: photo.jpg does not end in .html; name another
    """
    if endings and path.suffix.lower() not in endings:
        raise OutputError(f"{path} does not end in {' or '.join(endings)}; name another")
    try:
        _check_place(path)
        if not path.exists():
            return
        for one in (Path(name) for name in inputs if name is not None):
            if one.exists() and path.samefile(one):
                raise OutputError(f"{path} is one of the files to read, which would be overwritten; name another")
        if not path.is_file():
            raise OutputError(f"{path} is no file; name another")
        if not force and not is_ours(path):
            raise OutputError(f"{path} is there and was not written by musiq-ref; name another, or add --force")
    except OSError as error:
        raise OutputError(_unwritable(path, error)) from None


def _check_place(path: Path) -> None:
    folder = path.parent
    if not folder.is_dir():
        raise OutputError(f"{path} cannot be written: there is no folder {folder}; make it first")
    if not os.access(folder, os.W_OK):
        raise OutputError(f"{path} cannot be written: nothing may be put into {folder}; name another")


def is_ours(path: Path) -> bool:
    """Whether musiq-ref wrote a file, by what is in it; an empty file is nobody's, and may be filled.

    >>> is_ours(Path(__file__))
    False
    """
    with path.open("rb") as file:
        start = file.read(NEAR)
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - NEAR))
        near = start + file.read(NEAR)
    suffix = Path(path.name.removesuffix(".part")).suffix.lower()
    if suffix == ".csv":
        return _is_table(start)
    return not size or any(mark in near for mark in MARKS.get(suffix, ()))


def _is_table(start: bytes) -> bool:
    """Whether a CSV file begins with the whole header of a table of ours, or was cut within it by a killed writer."""
    line, end, _ = start.partition(b"\n")
    line = line.removesuffix(b"\r")
    probabilities = [b"p%d" % k for k in range(1, line.count(b",p") + 1)]
    scores = b",".join([b"path", b"score", b"height", b"width", *probabilities, b"error"])
    headers = (scores + b",model", scores, b"image,target,score,error")  # before 0.2 tables had no model
    return line in headers if end else any(header.startswith(line) for header in headers)


def write_output(path: str | os.PathLike[str], write: Callable[[Path], object] | str | bytes) -> None:
    """Writes beside, then puts the file in its place in one step: a failure leaves what was there as it was.

    What has been written is on the disk when this returns, its name, too. Parts that a killed write left beside, an
    hour ago or earlier, are removed.

    path: of the file; where it is a link, the file that it leads to
    write: the whole of the file, text as UTF-8; or a function that fills the file whose path it is given

    Raises OutputError.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_output(Path(folder, "a.txt"), "whole")
    ...     [p.name for p in Path(folder).iterdir()]
    ['a.txt']
    """
    try:
        place = Path(os.path.realpath(path))
        clear_parts(place.parent, place.name, HOUR)
        part = place.with_name(f".{_start(place.name)}.{secrets.token_hex(4)}.part")
        try:
            _fill(part, write)
            with part.open("rb+") as file:
                os.fsync(file.fileno())
            os.replace(part, place)
        finally:
            part.unlink(missing_ok=True)
        sync_folder(place.parent)
    except (OSError, SafetensorError) as error:
        raise OutputError(_unwritable(path, error)) from None


def _fill(part: Path, write: Callable[[Path], object] | str | bytes) -> None:
    if isinstance(write, str):
        part.write_bytes(write.encode("utf-8", "backslashreplace"))
    elif isinstance(write, bytes):
        part.write_bytes(write)
    else:
        write(part)


def clear_parts(folder: Path, name: str = "", older: float = 0.0) -> None:
    """Removes the parts that killed writes left in a folder.

    folder: nothing is done where it does not exist
    name: of the one file whose parts are meant; "" for all files
    older: seconds since they were last written to; 0 only where nobody else writes
    """
    for part in folder.glob(".*.part") if folder.is_dir() else ():
        if part.name.startswith(f".{_start(name)}") and time.time() - part.lstat().st_mtime >= older:
            part.unlink(missing_ok=True)


def _start(name: str) -> str:
    """As much of a name as leaves room in a name's 255 bytes."""
    return os.fsencode(name)[:200].decode("utf-8", "ignore")


def sync_folder(folder: Path) -> None:
    """Has the names in a folder written to the disk, so that a power cut does not undo them; not on Windows."""
    if os.name != "nt":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _unwritable(path: str | os.PathLike[str], error: Exception) -> str:
    reason = getattr(error, "strerror", None) or " ".join(str(error).split())
    return f"{os.fspath(path)} cannot be written ({reason}); check the folder, its rights and the space left"
