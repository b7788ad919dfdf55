"""The verdict on one answer, found in a process of its own; `grade` asks for it."""

from __future__ import annotations

import ast
import contextlib
import functools
import json
import linecache
import multiprocessing
import os
import signal
import sys
import tempfile
import types
from typing import Any

from IPython.core.inputtransformer2 import TransformerManager

ROOTS = ("builtins", "course", "musiq_ref", "numpy", "stem_in_pytorch", "torch")
"""Packages that checks rely on: an answer must not replace what is in them."""

ANSWERS = "answers"
"""What the module of a student's code is called, which tells classes of their own."""


def run(source: str, namespace: dict[str, Any], name: str) -> None:
    """Runs a cell; what only a notebook has, such as `%timeit` or `!ls`, is passed over."""
    code = TransformerManager().transform_cell(source)
    label = f"<ipykernel {name}>"  # by which `course` knows whose line an error was in
    linecache.cache[label] = (len(code), None, code.splitlines(keepends=True), label)
    exec(compile(code, label, "exec", dont_inherit=True), namespace)


class Silent:
    """Stands for IPython's shell: whatever is asked of it, it does nothing."""

    def __getattr__(self, name: str) -> Any:
        return lambda *args, **options: None


class Guard:
    """Remembers the functions and classes that checks rely on, and says which of them was replaced."""

    def __init__(self) -> None:
        loaded = [(n.partition(".")[0], m) for n, m in list(sys.modules.items())]
        modules = [m for root, m in loaded if root in ROOTS and isinstance(m, types.ModuleType)]
        classes = [c for m in modules for c in list(vars(m).values()) if isinstance(c, type)]
        ours = [
            c for c in classes if str(c.__module__).partition(".")[0] in ("course", "musiq_ref")
        ]
        self.held = [(h, {n: v for n, v in vars(h).items() if callable(v)}) for h in modules + ours]

    def replaced(self) -> str:
        """The name of something that is no longer what it was, or ""."""
        for holder, before in self.held:
            now = vars(holder)
            for name, value in before.items():
                if now.get(name) is not value:
                    return f"{holder.__name__}.{name}"
        return ""


def names_of(source: str) -> set[str]:
    """The names that a cell defines."""
    found = set()
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Assign):
            found |= {n.id for t in node.targets for n in ast.walk(t) if isinstance(n, ast.Name)}
    return found


def own_object(x: Any) -> bool:
    """Whether an answer is an object of a class that the student wrote, which may claim to equal anything."""
    if isinstance(x, tuple | list):
        return type(x).__module__ == ANSWERS or any(own_object(part) for part in x)
    return not isinstance(x, type) and type(x).__module__ == ANSWERS


def verdict(namespace: dict, cells: list[str], wanted: set[str], check: str) -> tuple[str, str]:
    """("right" | "open" | "wrong", sentence) of one answer; to be called in a process of its own."""
    import course  # what the chapter has imported, too

    guard, judge = Guard(), course.judge
    theirs = dict(namespace, __name__=ANSWERS)
    mine = dict(namespace)
    told: list[tuple[str, str]] = []

    def refused(answer: Any) -> Any:
        if own_object(answer):
            raise AssertionError(
                "the answer is an object of a class of its own, not a number or an array"
            )
        return answer

    def watched(f: Any) -> Any:
        return functools.wraps(f)(lambda *args, **options: refused(f(*args, **options)))

    def exercise(number: int, answer: Any, check: Any) -> None:
        if isinstance(answer, types.FunctionType):
            answer = watched(answer)
        told.append(judge(answer, lambda given: check(refused(given))))

    try:
        for k, cell in enumerate(cells):
            run(cell, theirs, f"answer {k}")
        missing = sorted(name for name in wanted if name not in theirs)
        if missing:
            return "wrong", f"the answer does not define {missing[0]}"
        mine |= {name: theirs[name] for name in wanted} | {"exercise": exercise}
        run(check, mine, "check")
    except BaseException as error:  # SystemExit, too
        return "wrong", f"your code stopped with {type(error).__name__}: {error}"
    if replaced := guard.replaced():
        return "wrong", f"the answer replaces {replaced}, which its check needs"
    said, sentence = told[-1] if told else ("wrong", "the check was not reached")
    return ("right" if said == "solved" else said), sentence


def in_own_process(seconds: float, *task: Any) -> tuple[str, str]:
    """`verdict` of a task in a forked process, killed with all that it started when its time is over."""
    fork = multiprocessing.get_context("fork")
    here, there = fork.Pipe(duplex=False)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        process = fork.Process(target=_child, args=(there, folder, *task))
        process.start()
        there.close()
        assert process.pid
        try:
            if not here.poll(seconds):
                return "wrong", f"it did not end within {seconds:g} seconds"
            said, sentence = json.loads(here.recv_bytes(10**6))
            return str(said), str(sentence)
        except (EOFError, OSError, ValueError):  # it ended, or wrote, without a verdict
            process.join(1)
            code = process.exitcode or 0
            killed = f"was killed by {signal.Signals(-code).name}" if code < 0 else ""
            return (
                "wrong",
                f"the program {killed or f'ended with code {code}'} before its check was done",
            )
        finally:
            here.close()
            with contextlib.suppress(OSError):  # it is gone already
                os.killpg(process.pid, signal.SIGKILL)
            process.kill()
            process.join()


def _child(pipe: Any, folder: str, *task: Any) -> None:
    os.setsid()
    os.chdir(folder)  # where files that an answer writes do not matter
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in range(3):
        os.dup2(nowhere, stream)
    sys.stdout = sys.stderr = os.fdopen(1, "w")
    said, sentence = verdict(*task)
    pipe.send_bytes(json.dumps((said, sentence[:2000])).encode())
    os._exit(0)
