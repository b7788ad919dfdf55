"""The log of a training run: a line of JSON for every step and epoch."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from musiq_ref.outputs import OutputError, write_output
from musiq_ref.training.state import TrainingError

STEP = {"step", "loss", "norm", "learning_rate"}
VALIDATION = {"step", "epoch", "srcc", "plcc", "rmse", "accuracy"}


class Log:
    """The log in a file; going on from a step forgets what came after it. Its `digest` is that of all lines.

    path: made when there is a line to write
    step: from which the run goes on
    digest: of the lines to that step, from the state; "" where it has none

    Raises TrainingError where the lines are not those that the run wrote.
    """

    def __init__(self, path: Path, step: int, digest: str = "") -> None:
        self.path, self.digest = path, ""
        texts, last = read_lines(path, step)
        self.lines: list[dict[str, Any]] = [json.loads(text) for text in texts]
        for text in texts:
            self.digest = _sealed(self.digest, text)
        if not path.exists():
            return
        begun_anew = not texts and last > step  # it was moved away, and the run stopped before it saved a state
        if digest not in ("", self.digest) and not begun_anew:
            raise TrainingError(f"{path} is not as the run left it; restore it, or move it away to go on without it")
        if "".join(texts).encode() != path.read_bytes():
            try:
                write_output(path, "".join(texts))
            except OutputError as error:
                raise TrainingError(str(error)) from None

    def last_validation(self) -> dict[str, float]:
        """The figures of the last epoch's line; none before the first."""
        for line in reversed(self.lines):
            if "epoch" in line:
                return {name: value for name, value in line.items() if name not in ("step", "epoch")}
        return {}

    def add(self, **values: Any) -> None:
        """Writes a line."""
        text = json.dumps(values) + "\n"
        self._write(text)
        self.lines.append(values)
        self.digest = _sealed(self.digest, text)

    def sync(self) -> None:
        """Has all lines on the disk before a state counts on them."""
        self._write("", sync=True)

    def _write(self, text: str, sync: bool = False) -> None:
        try:
            with open(self.path, "a", encoding="utf-8", newline="") as file:
                file.write(text)
                if sync:
                    os.fsync(file.fileno())
        except OSError as error:
            raise TrainingError(
                f"{self.path} cannot be written ({error.strerror}); check the folder and its space"
            ) from None


def read_lines(path: Path, step: int) -> tuple[list[str], int]:
    """The lines to a step, as they stand in the file, and the step of its last whole line; none where there is no file.

    What follows them is left out, such as the line that a crash cut short.  Raises TrainingError for what is no log.
    """
    try:
        whole = path.read_bytes() if path.exists() else b""
    except OSError as error:
        raise TrainingError(f"{path} cannot be read ({error.strerror}); check its rights") from None
    lines, last = [], 0
    for number, raw in enumerate(whole.split(b"\n")[:-1], start=1):
        line = _parsed(raw)
        if line is None and last >= step and number > 1:
            break
        if line is None or line["step"] < last:
            raise TrainingError(
                f"{path}, line {number} is not as a training wrote it; restore it, or move the file away"
            )
        last = line["step"]
        if last <= step:
            lines.append(raw.decode() + "\n")
    return lines, last


def _sealed(digest: str, line: str) -> str:
    """The digest with one more line."""
    return hashlib.sha256(f"{digest}{line}".encode()).hexdigest()


def _parsed(raw: bytes) -> dict[str, Any] | None:
    """A line's values, or None if it is none of ours."""
    try:
        line = json.loads(raw.decode())
        good = set(line) == STEP or ({"step", "epoch"} < set(line) <= VALIDATION)
        numbers = all(isinstance(x, float) or (isinstance(x, int) and 0 <= x < 10**15) for x in line.values())
        return line if good and numbers and isinstance(line["step"], int) else None
    except (ValueError, TypeError, AttributeError, RecursionError):
        return None
