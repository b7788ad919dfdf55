"""Steps of a long measurement, each a process, of which none can lose what the others have found."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
TAIL = 3000  # characters of what a step that failed has said


class Step(NamedTuple):
    """A process: its name, its command, the seconds that it may take, and what is made of its standard output."""

    name: str
    command: list[str]
    seconds: float
    read: Callable[[str], dict[str, Any]]


class Running:
    """A step that has begun, in a process group of its own, whose output goes to files.

    seconds: that it may take
    """

    def __init__(self, step: Step, seconds: float) -> None:
        print(f"{step.name} …", file=sys.stderr)
        self.step, self.start, self.seconds = step, time.monotonic(), seconds
        self.out, self.err = tempfile.TemporaryFile(), tempfile.TemporaryFile()  # noqa: SIM115, `result` closes them
        files = {"stdin": subprocess.DEVNULL, "stdout": self.out, "stderr": self.err}
        self.process = subprocess.Popen(step.command, cwd=ROOT, start_new_session=True, **files)

    @property
    def taken(self) -> float:
        """Seconds so far."""
        return time.monotonic() - self.start

    def end(self) -> None:
        """Ends the process and its children."""
        with suppress(OSError):  # it may have ended by itself
            if hasattr(os, "killpg"):
                os.killpg(self.process.pid, signal.SIGKILL)
            else:
                self.process.kill()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(5)

    def result(self) -> tuple[dict[str, Any], str]:
        """What was found, and what failed, if anything; to be called when it has ended, or its time has."""
        code, failure, found = self.process.poll(), "", {}
        self.end()  # children that are left, too
        texts = []
        for file in (self.out, self.err):
            file.seek(0)
            texts.append(file.read().decode("utf-8", "replace"))
            file.close()
        if code:
            failure = f"exit code {code}"
        elif code is None:
            failure = f"not done in {self.seconds:.0f} s"
        try:
            found = self.step.read(texts[0])
        except ValueError as error:
            failure = failure or f"no figures ({error})"
        if failed := [one["task"] for one in found.get("records", []) if "error" in one]:
            failure = failure or f"failed: {', '.join(failed)}"
        said = {"stdout": texts[0][-TAIL:], "stderr": texts[1][-TAIL:]} if failure else {}
        return found | said, failure


class Steps:
    """Steps with a limit of time together; what they find is written to a file.

    path: of the JSON
    seconds: for all of them
    """

    def __init__(self, path: Path, seconds: float, report: dict[str, Any]) -> None:
        self.path, self.end, self.report, self.failed = path, time.monotonic() + seconds, report, []

    def run(self, *steps: Step) -> None:
        """Runs them at the same time; adds under the name of each what it found, or what it said when it failed."""
        left, running = max(1.0, self.end - time.monotonic()), []
        try:
            for step in steps:
                running.append(Running(step, min(step.seconds, left)))
            while running:
                for one in running[:]:
                    if one.process.poll() is not None or one.taken > one.seconds:
                        self._note(one)
                        running.remove(one)
                time.sleep(0.02)
        finally:  # an interrupt does not reach them
            for one in running:
                one.end()

    def _note(self, one: Running) -> None:
        name, taken = one.step.name, round(one.taken, 1)
        self.report[name], failure = one.result()
        self.report["steps"][name], self.report["seconds"][name] = failure or "done", taken
        if failure:
            self.failed.append(f"{name}: {failure}")
        self.path.write_text(json.dumps(self.report, indent=1) + "\n", encoding="utf-8")
