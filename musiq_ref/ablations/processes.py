"""Work in several processes at a time, one after another as they become free."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import resource_tracker
from multiprocessing.connection import wait
from typing import Any

from tqdm import tqdm

from musiq_ref.training.parallel import EXPECTED


def in_processes(work: Callable[..., None], items: Sequence[tuple], jobs: int) -> Iterator[tuple[tuple, str]]:
    """work(*item) for every item, each in a fresh process, `jobs` at a time; yields (item, error) as they end.

    error: a sentence, empty when all went well.  work must be a function of a module. When the caller stops, or is
    killed, the processes end, too, so that whoever comes next finds nobody at work.

    >>> from pathlib import Path
    >>> sorted(error for _, error in in_processes(os.stat, [(".",), ("nowhere",)], jobs=2))
    ['', "[Errno 2] No such file or directory: 'nowhere'"]
    """
    context = multiprocessing.get_context("spawn")  # fork is unsafe beside the threads of a BLAS
    waiting, running = list(items), {}
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                item = waiting.pop(0)
                receiver, sender = context.Pipe(duplex=False)
                process = context.Process(target=_run, args=(work, item, sender), daemon=True)
                with _undisturbed():
                    process.start()
                    running[process.sentinel] = item, process, receiver
                sender.close()
            for sentinel in wait(list(running)):
                item, process, receiver = running.pop(sentinel)  # pyright: ignore[reportArgumentType]
                process.join()
                yield item, _report(receiver, process.exitcode)
    finally:
        for _, process, _ in running.values():
            process.kill()
            process.join()


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Signals wait for the end of the block; processes that are started in it do not hear Ctrl-C, even in imports."""
    if not hasattr(signal, "pthread_sigmask") or threading.current_thread() is not threading.main_thread():
        yield
        return
    resource_tracker.ensure_running()  # later it would unblock what is blocked here
    heard: list[int] = []
    handlers = {n: signal.signal(n, lambda n, _: heard.append(n)) for n in (signal.SIGINT, signal.SIGTERM)}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        if heard:
            signal.raise_signal(heard[0])


def _run(work: Callable[..., None], item: tuple, sender: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    tqdm.set_lock(threading.RLock())  # the one that it makes by itself outlives a process that is killed
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        work(*item)
        sender.send("")
    except EXPECTED as error:
        sender.send(str(error))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
    os._exit(1)


def _report(receiver: Any, exitcode: int | None) -> str:
    try:
        return receiver.recv()
    except EOFError:  # it ended without a word: killed, or a fault whose traceback it has printed
        return f"its process ended with code {exitcode}; it may have been killed, for want of memory perhaps"
