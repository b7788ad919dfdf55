"""`musiq-ref`: one file a subcommand, no logic of its own.

A subcommand is a module with HELP (one line), EXAMPLE (a command line), `configure(parser)` and `run(args) -> int`.
Exit code 0: fine; 1: the answer is "no", or some input could not be read; 2: bad use.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
from importlib import import_module
from importlib.metadata import version

COMMANDS = ("score", "distort", "explain", "summary", "train", "evaluate", "convert", "download", "fixture", "compare")


def main(argv: list[str] | None = None) -> int:
    """Runs one subcommand and returns its exit code; errors are one sentence on stderr."""
    parser = argparse.ArgumentParser(
        prog="musiq-ref", description="The MUSIQ image-quality transformer: scores, gradients, checkpoints."
    )
    parser.add_argument("--version", action="version", version=f"musiq-ref {version('musiq_ref')}")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name in COMMANDS:
        module = import_module(f"musiq_ref.cli.{name}")
        subparser = subparsers.add_parser(
            name,
            help=module.HELP,
            description=module.HELP,
            epilog=f"example: {module.EXAMPLE}",
        )
        module.configure(subparser)
        subparser.set_defaults(run=module.run)
    args = parser.parse_args(argv)
    for stream in (sys.stdout, sys.stderr):  # a file name that the terminal cannot show must not end the work
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        return args.run(args)
    except BrokenPipeError:  # whoever reads our output, `head` say, has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except MemoryError:
        print(
            f"musiq-ref {args.command}: this machine has too little memory for it; use a smaller image", file=sys.stderr
        )
        return 1
    except (ValueError, OSError, RuntimeError) as error:
        print(f"musiq-ref {args.command}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"musiq-ref {args.command}: interrupted", file=sys.stderr)
        return 130
