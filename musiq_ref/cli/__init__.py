"""`musiq-ref`: one file a subcommand, no logic of its own, imported when it is called.

A subcommand is a module with EXAMPLE (command lines), `configure(parser)` and `run(args) -> int`.
Exit code 0: done; 1: done, and the answer is "no", or some or all of the images have no score; 2: it cannot be done.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import signal
import sys
from collections.abc import Iterator
from typing import Any

from musiq_ref.cli.parser import Parser, PrintCompletion, Subcommand
from musiq_ref.version import __version__

COMMANDS = {
    "score": "score image files, or all images in folders",
    "distort": "write versions of photographs that are spoilt by known degrees",
    "explain": "show a photograph's scales, patches, attention and gradient, as a page (.html) or a picture (.png, …)",
    "follow": "write a page on which the model runs in the browser, forward and backward, on a photograph",
    "summary": "count parameters and multiply-accumulates, beside the paper's table 1 and section G",
    "train": "train a model by a recipe, or those of the paper's ablations; or go on where that was stopped",
    "evaluate": "compare a model's scores with people's on a data set",
    "convert": "convert a checkpoint between the official, pyiqa and native layouts, values unchanged",
    "download": "download a published checkpoint into the cache folder, verified and resumable",
    "bench": "measure how fast this machine is, beside PyTorch and beside the matrix products alone",
    "fixture": "write a folder of arrays that a port in any language can be checked against",
    "compare": "compare a port's arrays with a fixture: the first difference, its size and its likely cause",
}
"""{subcommand: what it does}; each is a module of this package."""

GO_ON = {"train": "the same command goes on where this one stopped"}
GO_ON["download"] = GO_ON["train"]
START_ANEW = "no file is half written; the same command begins anew"


class Terminated(KeyboardInterrupt):
    """SIGTERM, which ends a command as Ctrl-C does."""

    code = 143


def main(argv: list[str] | None = None) -> int:
    """Runs one subcommand and returns its exit code; errors are one sentence on stderr."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # closed by the caller; the next file opened would take its place
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):  # lines reach a pipe as they come, even names that it cannot show
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace", line_buffering=True)
    args = argparse.Namespace(subcommand="")
    try:
        with _terminable():
            args = _parser().parse_args(argv)
            if getattr(args, "device", None) is not None:
                from musiq_ref.backend import use_device

                if args.backend == "numpy":
                    raise ValueError("--device names a GPU, and NumPy uses none; add --backend cupy, or leave it out")
                use_device(args.device)
            with _limited(getattr(args, "threads", None)):
                return args.run(args)
    except BrokenPipeError:  # whoever reads our output, `head` say, has had enough
        return 0
    except KeyboardInterrupt as stop:
        _say(args, f"stopped; {getattr(args, 'go_on', GO_ON.get(args.subcommand, START_ANEW))}")
        return getattr(stop, "code", 130)
    except Exception as error:
        if not isinstance(error, EXPECTED) and "MUSIQ_REF_TRACEBACK" in os.environ:
            raise
        _say(args, _sentence(error))
        return 2
    finally:
        _flush()


EXPECTED = (ValueError, OSError, RuntimeError, MemoryError, ImportError)
"""What is raised on purpose, with a sentence for the user."""


def _sentence(error: Exception) -> str:
    if isinstance(error, MemoryError):
        return "this machine has too little memory for it; give it a smaller picture, batch or checkpoint"
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror or error}; check the path, its rights and the space left"
    if isinstance(error, OSError) and error.strerror:
        return f"a file or the standard output cannot be used ({error.strerror}); check its rights and the space left"
    if isinstance(error, EXPECTED) and str(error):
        return " ".join(str(error).split())
    what = f"{type(error).__name__}: {' '.join(str(error).split())}"
    return f"this is a fault of musiq-ref ({what}); please report it, with what MUSIQ_REF_TRACEBACK=1 before it prints"


def _say(args: argparse.Namespace, sentence: str) -> None:
    with contextlib.suppress(OSError):  # the exit code tells it, too
        print(f"musiq-ref {args.subcommand}".rstrip() + f": {sentence}", file=sys.stderr)


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """In its block SIGTERM raises Terminated; only the main thread may ask for that."""

    def stop(*_: Any) -> None:
        raise Terminated

    try:
        before = signal.signal(signal.SIGTERM, stop)
    except ValueError:
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _parser() -> Parser:
    parser = Parser(
        prog="musiq-ref", description="The MUSIQ image-quality transformer: scores, gradients, checkpoints."
    )
    parser.add_argument("-V", "--version", action="version", version=f"musiq-ref {__version__}")
    parser.add_argument("--print-completion", action=PrintCompletion)
    commands = parser.add_subparsers(dest="subcommand", required=True, metavar="COMMAND", parser_class=Subcommand)
    for name, summary in COMMANDS.items():
        commands.add_parser(name, help=summary, description=summary).set_defaults(subcommand=name)
    return parser


def _limited(threads: int | None) -> contextlib.AbstractContextManager:
    """In its block matrix products use so many cores, or all."""
    if threads is None:
        return contextlib.nullcontext()
    from threadpoolctl import threadpool_limits

    return threadpool_limits(threads)


def _flush() -> None:
    """Writes what is left; where it cannot be written it goes nowhere, for Python would try again and complain."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
