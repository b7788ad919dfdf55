"""`musiq-ref`: one file a subcommand, no logic of its own, imported when it is called.

A subcommand is a module with EXAMPLE (command lines), `configure(parser)` and `run(args) -> int`.
Exit code 0: fine; 1: the answer is "no", or some input could not be read; 2: bad use.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys

from musiq_ref.cli.parser import Parser, PrintCompletion, Subcommand
from musiq_ref.version import __version__

COMMANDS = {
    "score": "score image files, or all images in folders",
    "distort": "write versions of photographs that are spoilt by known degrees",
    "explain": "show a photograph's scales, patches, attention and gradient, as a page (.html) or a picture (.png, …)",
    "summary": "count parameters and multiply-accumulates, beside the paper's table 1 and section G",
    "train": "train a model by a recipe, or those of the paper's ablations; or go on where that was stopped",
    "evaluate": "compare a model's scores with people's on a data set",
    "convert": "convert a checkpoint between the official, pyiqa and native layouts, values unchanged",
    "download": "download a published checkpoint into the cache folder, verified and resumable",
    "fixture": "write a folder of arrays that a port in any language can be checked against",
    "compare": "compare a port's arrays with a fixture: the first difference, its size and its likely cause",
}
"""{subcommand: what it does}; each is a module of this package."""


def main(argv: list[str] | None = None) -> int:
    """Runs one subcommand and returns its exit code; errors are one sentence on stderr."""
    for stream in (sys.stdout, sys.stderr):  # lines reach a pipe as they come, even names that it cannot show
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace", line_buffering=True)
    command = "musiq-ref"
    try:
        args = _parser().parse_args(argv)
        command = f"musiq-ref {args.subcommand}"
        with _limited(getattr(args, "threads", None)):
            return args.run(args)
    except BrokenPipeError:  # whoever reads our output, `head` say, has had enough
        return 0
    except MemoryError:
        print(f"{command}: this machine has too little memory for it; use a smaller image", file=sys.stderr)
        return 1
    except (ValueError, OSError, RuntimeError) as error:
        print(f"{command}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{command}: interrupted", file=sys.stderr)
        return 130
    finally:
        _flush()


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
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
