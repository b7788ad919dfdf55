"""How `musiq-ref` reads its command line: suggestions for what was misspelt, and completion in shells."""

from __future__ import annotations

import argparse
import re
from importlib import import_module
from typing import Any

from musiq_ref.extras import needs
from musiq_ref.suggest import did_you_mean


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that suggests what was meant by an unknown choice or option.

    >>> parser = Parser(exit_on_error=False)
    >>> _ = parser.add_argument("--colour", choices=["red", "blue"])
    >>> parser.parse_args(["--colour", "bleu"])
    Traceback (most recent call last):
    argparse.ArgumentError: argument --colour: there is no 'bleu' (choose from red, blue); did you mean 'blue'?
    """

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is None or value in action.choices:
            return
        known = [str(choice) for choice in action.choices]
        meant = did_you_mean(str(value), known)
        raise argparse.ArgumentError(action, f"there is no {value!r} (choose from {', '.join(known)}){meant}")

    def parse_known_args(self, args=None, namespace=None):  # type: ignore[override]
        """As in argparse, but nothing unknown is handed back: it is this parser's error, below its own usage."""
        namespace, unknown = super().parse_known_args(args, namespace)
        if unknown:
            known = [option for option in self._option_string_actions if option.startswith("--")]
            meant = did_you_mean(unknown[0].partition("=")[0], known) if unknown[0].startswith("-") else ""
            self.error(f"unrecognized arguments: {' '.join(unknown)}{meant}")
        return namespace, []


class Subcommand(Parser):
    """The parser of a subcommand, filled in by its module when it is first needed."""

    def __init__(self, **options: Any) -> None:
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, **options)

    def fill(self) -> None:
        """Imports the module and adds its arguments."""
        name = self.get_default("subcommand")
        module = import_module(f"musiq_ref.cli.{name}")
        self.epilog = "example:\n" + "".join(f"  {line}\n" for line in module.EXAMPLE.splitlines())
        module.configure(self)
        self.set_defaults(run=module.run)

    def parse_known_args(self, args=None, namespace=None):  # type: ignore[override]
        """As above, with the arguments of the module."""
        if self.get_default("run") is None:
            self.fill()
        return super().parse_known_args(args, namespace)


class PrintCompletion(argparse.Action):
    """`--print-completion SHELL`: prints a script that lets a shell complete subcommands, options and files."""

    def __init__(self, option_strings: list[str], dest: str) -> None:
        super().__init__(
            option_strings,
            dest=argparse.SUPPRESS,
            metavar="SHELL",
            choices=("bash", "zsh", "tcsh"),
            help='for completion in a shell, bash say: eval "$(musiq-ref --print-completion bash)"',
        )

    def __call__(self, parser, namespace, values, option_string=None) -> None:
        try:
            import shtab
        except ImportError:
            parser.error(f"completion needs shtab; install it with: {needs('completion')}")
        for action in parser._actions:
            for subcommand in action.choices.values() if isinstance(action.choices, dict) else ():
                subcommand.fill()
                for argument in subcommand._actions:
                    if re.search(r"\b(FILE|FOLDER|CSV|DIR|IN|OUT|MINE|FIXTURE)\b", str(argument.metavar)):
                        argument.complete = shtab.FILE  # type: ignore[attr-defined]
        print(shtab.complete(parser, shell=str(values)))
        parser.exit()
