"""A contender in a process of its own: its threads, its memory and its BLAS disturb nobody else's."""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from musiq_ref.bench.machine import environment

PATIENCE = 1.0  # seconds that a process has to end by itself


class Worker:
    """Starts a process and asks it, one question at a time.

    name: for messages
    make: called in the process with `arguments`; its result is like a `Contender`
    threads: that the process's libraries are told to use

    Raises RuntimeError, from here and from every question, with what went wrong in the process.
    """

    def __init__(self, name: str, make: Callable[..., Any], threads: int, *arguments: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self.name, self.make = name, make
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(theirs, make, arguments))
        with environment(threads):
            self.process.start()
        theirs.close()
        try:
            self.about: dict[str, str] = self._answer()
        except BaseException:
            self.stop()
            raise

    def prepare(self, case: Any) -> None:
        """Gets ready for a case."""
        self._ask("prepare", case)

    def run(self) -> tuple[float, list[float]]:
        """Seconds of one run, and what it returned."""
        return self._ask("run")

    def peak(self) -> float | None:
        """The most memory that the process has had so far, in MiB."""
        return self._ask("peak")

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """function(contender, *arguments), in the process."""
        return self._ask("call", function, *arguments)

    def stop(self) -> None:
        """Ends the process, whatever it is at."""
        self.connection.close()
        self.process.join(PATIENCE)
        self.process.kill()
        self.process.join()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def _ask(self, *question: Any) -> Any:
        with contextlib.suppress(OSError):  # that it has ended is noticed below
            self.connection.send(question)
        return self._answer()

    def _answer(self) -> Any:
        try:
            done, answer = self.connection.recv()
        except (EOFError, OSError):
            self.process.join()
            reason = f"its process ended (exit code {self.process.exitcode}), perhaps for want of memory"
            raise RuntimeError(f"{self.name}: {reason}") from None
        if not done:
            raise RuntimeError(f"{self.name}: {answer}")
        return answer


def serve(connection: Connection, make: Callable[..., Any], arguments: tuple) -> None:
    """What the process does: answers until nobody asks any more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that asks
    contender, run = None, None

    def answer(what: str, *given: Any) -> Any:
        nonlocal contender, run
        if what == "make":
            contender = make(*given)
            return contender.about
        if what == "prepare":
            run = None  # what the case before needed is not needed any more
            run = contender.prepare(*given)  # type: ignore[union-attr]
            return None
        if what == "run":
            start = time.perf_counter()
            result = run()  # type: ignore[misc]
            return time.perf_counter() - start, result
        if what == "peak":
            return contender.peak()  # type: ignore[union-attr]
        return given[0](contender, *given[1:])

    question: tuple = ("make", *arguments)
    while True:
        try:
            reply = True, answer(*question)
        except Exception as error:
            reply = False, f"{type(error).__name__}: {' '.join(str(error).split())}"
        try:
            connection.send(reply)
            question = connection.recv()
        except (EOFError, OSError):
            return
