"""The CSV file of `musiq-ref score`: it grows row by row, and a later run can go on with it, whatever stopped this one.

A row is written in one piece, after the one before; so a killed run leaves whole rows and at most one half row, at the
end. Its last field says what made the score: weights, conventions and dtype.
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import math
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from filelock import FileLock, Timeout

from musiq_ref.checkpoint import Checkpoint
from musiq_ref.config import NAMED_CONVENTIONS, Conventions
from musiq_ref.model.parameters import flatten
from musiq_ref.outputs import OutputError, sync_folder, write_output

EVERY = 1.0  # seconds from one fsync to the next: what a power cut may cost
MARKS = ("model", "conventions", "dtype")  # what the last field holds, in a word each


def model_mark(checkpoint: Checkpoint, conventions: Conventions | None, dtype: str) -> str:
    """What makes a score, in a word each: a digest of weights and sizes, the conventions, the dtype.

    >>> from musiq_ref.checkpoint import load_checkpoint
    >>> model_mark(load_checkpoint("demo"), None, "float32").split()[1:]
    ['official', 'float32']
    """
    config, used = checkpoint.config, conventions or checkpoint.config.conventions
    official = NAMED_CONVENTIONS["official"]
    digest = hashlib.sha256(repr(config.replace(conventions=official)).encode())
    for name, array in sorted(flatten(checkpoint.params), key=lambda item: item[0]):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(array, "<f4").data)  # the same, whatever dtype they are loaded in
    known = [name for name, one in NAMED_CONVENTIONS.items() if one == used]
    name = known[0] if known else hashlib.sha256(repr(used).encode()).hexdigest()[:12]
    return f"{digest.hexdigest()[:12]} {name} {dtype}"


def table_key(path: str) -> str:
    """A path as it stands in the table, in which bytes that are not UTF-8 are written as escapes.

    >>> table_key("\\udcff.png")
    '\\\\udcff.png'
    """
    return path.encode("utf-8", "backslashreplace").decode()


def part_of(path: Path) -> Path:
    """Where the table is until it is whole."""
    return place_of(path).with_name(f"{place_of(path).name}.part")


def place_of(path: Path) -> Path:
    """The file itself, or the one that a link leads to."""
    return Path(os.path.realpath(path)) if path.is_symlink() else path


class ScoreTable:
    """A table that is open for more rows.

    done: keys (`table_key`) of the images whose scores it holds
    """

    def __init__(self, path: Path, file: BinaryIO, header: list[str], mark: str, done: set[str]) -> None:
        self.path, self.file, self.mark, self.done = path, file, mark, done
        self.probabilities = len(header) - 6
        self.size, self.synced = file.seek(0, os.SEEK_END), time.monotonic()
        if not self.size:
            self._append(header)

    def write(self, row: dict[str, Any]) -> None:
        """Appends a row: path, score, height, width, distribution, error.  Raises OutputError."""
        p = row["distribution"] or [None] * self.probabilities
        self._append([row["path"], row["score"], row["height"], row["width"], *p, row["error"], self.mark])

    def sync(self) -> None:
        """Has what was written put on the disk.  Raises OutputError."""
        try:
            os.fsync(self.file.fileno())
        except OSError as error:
            raise self._unwritable(error) from None
        self.synced = time.monotonic()

    def _append(self, fields: list) -> None:
        text = io.StringIO()
        csv.writer(text).writerow(fields)
        data = text.getvalue().encode("utf-8", "backslashreplace")
        try:
            if (written := self.file.write(data)) != len(data):  # where space ends; the next write says so
                self.file.write(data[written:])
        except OSError as error:
            with contextlib.suppress(OSError):
                self.file.truncate(self.size)  # without the half row
            raise self._unwritable(error) from None
        self.size += len(data)
        if time.monotonic() - self.synced > EVERY:
            self.sync()

    def _unwritable(self, error: OSError) -> OutputError:
        return OutputError(f"{self.path} cannot be written ({error.strerror}); make space, or name another")


@contextlib.contextmanager
def open_table(
    path: Path, outputs: int, mark: str, resume: bool = False, names: Iterable[str] = ()
) -> Iterator[ScoreTable]:
    """A ScoreTable, which nobody else writes to.

    path: a new table grows in FILE.part, which becomes FILE at the end of the block
    outputs: of the model, which say how many columns there are
    mark: `model_mark`
    resume: go on with the rows that are there, in FILE itself; FILE.part becomes FILE if there is no other
    names: of the images that are to be scored; their rows with errors are taken out of the table

    Raises OutputError where another process has it, and where what is there cannot be gone on with.
    """
    probabilities = [f"p{k}" for k in range(1, outputs + 1)] if outputs > 1 else []
    header = ["path", "score", "height", "width", *probabilities, "error", "model"]
    place, part = place_of(path), part_of(path)
    with _alone(path, place):
        done: set[str] = set()
        if resume:
            if place.exists() and part.exists() and place.stat().st_size:
                raise OutputError(
                    f"both {path} and {part}, of a run that was stopped, are there; remove the one not to go on with"
                )
            if part.exists():
                os.replace(part, place)
            if place.exists():
                done = _taken_up(place, header, mark, set(map(table_key, names)))
        else:
            part.unlink(missing_ok=True)  # it may be a link
        with open(place if resume else part, "ab" if resume else "xb", buffering=0) as file:
            table = ScoreTable(path, file, header, mark, done)
            try:
                yield table
            except BaseException:
                with contextlib.suppress(OutputError):
                    table.sync()
                raise
            table.sync()
        if not resume:
            os.replace(part, place)
        sync_folder(place.parent)


@contextlib.contextmanager
def _alone(path: Path, place: Path) -> Iterator[None]:
    """In its block no other process can have the table; the lock is the system's own, which a killed process loses."""
    lock = FileLock(place.with_name(f".{place.name[:200]}.lock"), timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise OutputError(f"another musiq-ref is writing {path}; wait for it, or name another file") from None
    except (OSError, NotImplementedError) as error:
        reason = getattr(error, "strerror", None) or "its file system has no locks"
        raise OutputError(f"{path} cannot be written, as it cannot be locked ({reason}); name another") from None
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # Windows removes nothing that is open
            os.unlink(lock.lock_file)
        lock.release()


# ---- What is there


def _taken_up(place: Path, header: list[str], mark: str, names: set[str]) -> set[str]:
    """The keys of the images that have scores; removes a half row at the end, and rows of `names` with errors."""
    done: set[str] = set()
    failed = whole = 0
    with open(place, "rb") as file:
        for number, record in enumerate(_records(file), 1):
            fields = _fields(record, f"{place}, row {number},")
            whole += len(record)
            if number == 1:
                _check_header(fields, header, place)
            elif fields:
                _check_row(fields, header, mark, f"{place}, row {number},")
                failed += _is_failed(fields, names)
                if not fields[-2]:
                    done.add(fields[0])
        file.seek(whole)
        rest = file.read()
    if f"{mark}\r\n".encode() in rest:  # not half a row, but rows behind a quotation mark that is never closed
        raise OutputError(f'{place} has a quotation mark (") that is not closed; mend it, or name another file')
    if failed or rest:
        write_output(place, lambda part: _copy(place, part, names))
    return done


def _copy(place: Path, part: Path, names: set[str]) -> None:
    with open(place, "rb") as old, open(part, "wb") as new:
        new.writelines(record for record in _records(old) if not _is_failed(_fields(record, str(place)), names))


def _is_failed(fields: list[str], names: set[str]) -> bool:
    return len(fields) > 1 and fields[-2] not in ("", "error") and fields[0] in names


def _records(file: BinaryIO) -> Iterator[bytes]:
    """The rows that have an end, as they are: a line break between quotation marks is none."""
    record, quotes = [], 0
    for line in file:
        record.append(line)
        quotes += line.count(b'"')
        if line.endswith(b"\n") and quotes % 2 == 0:
            yield b"".join(record)
            record, quotes = [], 0


def _fields(record: bytes, where: str) -> list[str]:
    try:
        return next(csv.reader([record.decode("utf-8")], strict=True), [])
    except (UnicodeDecodeError, csv.Error) as error:
        raise OutputError(f"{where} is damaged ({error}); mend or remove it, or name another file") from None


def _check_header(fields: list[str], header: list[str], place: Path) -> None:
    if fields != header:
        raise OutputError(
            f"{place} has the columns {', '.join(fields)}, and this run would write {', '.join(header)}; "
            "it is of another model or version, so name another file"
        )


def _check_row(fields: list[str], header: list[str], mark: str, where: str) -> None:
    if len(fields) != len(header):
        raise OutputError(f"{where} has {len(fields)} fields instead of {len(header)}; mend or remove it")
    if fields[-1] != mark:
        was, now = fields[-1].split(), mark.split()
        if len(was) != len(now):
            raise OutputError(f"{where} does not say what made it ({fields[-1]!r}); mend or remove it")
        differ = [(name, old, new) for name, old, new in zip(MARKS, was, now, strict=True) if old != new]
        what = ", ".join(f"{name} {old} and not {new}" for name, old, new in differ)
        raise OutputError(f"{where} was scored with {what}; choose the same for this run, or name another file")
    if not fields[-2] and not _is_number(fields[1]):
        raise OutputError(f"{where} has neither a score nor an error; mend or remove it")


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False
