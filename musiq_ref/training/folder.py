"""The folder of a run: one training at a time, and no file in it that is somebody else's."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from musiq_ref.outputs import clear_parts, is_ours, sync_folder
from musiq_ref.training.log import read_lines
from musiq_ref.training.state import TrainingError

LOCK = ".lock"
PATIENCE = 2.0  # seconds that a training which was just killed may take to end


class Files(NamedTuple):
    """The files of a run.

    state: to go on from
    last, best: checkpoints
    log: a line of JSON a step
    curves: a picture of the log

    >>> Files.of(Path("run")).log.as_posix()
    'run/log.jsonl'
    """

    state: Path
    last: Path
    best: Path
    log: Path
    curves: Path

    @classmethod
    def of(cls, folder: Path) -> Files:
        """Those of the run in a folder."""
        names = ("state.safetensors", "last.safetensors", "best.safetensors", "log.jsonl", "curves.png")
        return cls(*(folder / name for name in names))

    def check(self, inputs: Iterable[str | os.PathLike[str]]) -> None:
        """Raises TrainingError where a run would write over what is not its own, or over one of the files it reads.

        inputs: files or other names that the run reads
        """
        folder = self.state.parent
        for path in filter(os.path.lexists, self):
            for one in filter(os.path.exists, inputs):
                if path.exists() and path.samefile(one):
                    raise TrainingError(f"{one} is read, and training in {folder} would write over it; {REMEDY}")
            if not path.is_file() or (path in (self.last, self.best, self.curves) and not is_ours(path)):
                raise TrainingError(f"{path} is there and was not written by a training; {REMEDY}")
            if not self.state.exists() and path != self.log:
                raise TrainingError(f"{path} is there, but no {self.state.name} to go on from; {REMEDY}")
        if not self.state.exists():
            read_lines(self.log, 0)


REMEDY = "name another folder, or move it away"


@contextlib.contextmanager
def claimed(folder: Path, names: Iterable[str] = ()) -> Iterator[None]:
    """For the block, the folder is this process's alone; it is made if need be, and goes again if nothing is put there.

    The lock is the system's own: whoever is killed loses it.

    names: of files whose parts, of saves that were killed, are removed

    Raises TrainingError when the folder cannot be made, or another training has it.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as parent:
    ...     with claimed(Path(parent, "run")):
    ...         print(Path(parent, "run").is_dir())
    ...     print(Path(parent, "run").is_dir())
    True
    False
    """
    from filelock import FileLock, Timeout  # here: scoring does without it

    made = [place for place in (folder, *folder.parents) if not place.exists()]
    lock = FileLock(folder / LOCK, timeout=PATIENCE)
    try:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for place in made:
                sync_folder(place.parent)
            lock.acquire()
        except Timeout:
            raise TrainingError(
                f"another training is at work in {folder}; name another folder, or wait for it"
            ) from None
        except (OSError, NotImplementedError) as error:
            reason = getattr(error, "strerror", None) or "its file system has no locks"
            with contextlib.suppress(OSError):
                if made and os.listdir(folder) == [LOCK]:
                    (folder / LOCK).unlink()
            raise TrainingError(
                f"the folder {folder} cannot be made, written to or locked ({reason}); name another"
            ) from None
        for name in names:
            clear_parts(folder, name)
        yield
    finally:
        with contextlib.suppress(OSError):
            if made and lock.is_locked and os.listdir(folder) == [LOCK]:
                (folder / LOCK).unlink()
        lock.release()
        _leave(made)


def _leave(made: Iterable[Path]) -> None:
    """Removes the folders, deepest first, as far as they are empty."""
    with contextlib.suppress(OSError):
        for place in made:
            place.rmdir()
