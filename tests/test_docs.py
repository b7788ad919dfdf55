"""The README and all printed commands work as printed, and every public name is documented."""

from __future__ import annotations

import argparse
import inspect
import re
import runpy
import shlex
import sys
import tomllib
import warnings
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

import musiq_ref as mq
from musiq_ref import explain
from musiq_ref.cli import COMMANDS, main

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
API = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, re.S)


def test_the_python_of_the_readme_runs(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    names = {}
    for block in blocks("python"):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "these weights were never trained")
            exec(compile(block, "README.md", "exec"), names)
    first, second, shape = capsys.readouterr().out.splitlines()[0].split(" ", 2)
    assert float(first) == pytest.approx(float(second), abs=1e-4)
    assert shape == "(400, 600, 3)"
    assert names["result"].height == 400


def test_the_score_command_of_the_readme(tmp_path, monkeypatch, capsys):
    """The printed command, with a small model where "koniq" would be."""
    [line] = [line for block in blocks("sh") for line in block.splitlines() if "--checkpoint koniq" in line]
    photograph = (ROOT / "musiq_ref/data/photographs/cat.png").read_bytes()
    (tmp_path / "photo.jpg").write_bytes(photograph)
    (tmp_path / "holiday").mkdir()
    (tmp_path / "holiday" / "cat.png").write_bytes(photograph)
    monkeypatch.chdir(tmp_path)
    config = mq.MusiqConfig.preset("tiny")
    small = mq.Checkpoint(mq.verify.deterministic_params(config, 1), config, "native", None)
    monkeypatch.setattr("musiq_ref.cli.score.load_checkpoint", lambda *args: {("koniq", "float32"): small}[args])
    assert main(shlex.split(line)[1:]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2
    assert len(Path("scores.csv").read_text().splitlines()) == 3


PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "tutorials/README.md",
    *sorted((ROOT / "docs").glob("*.md")),
]
PROGRAMS = ("make", "musiq-ref", "mpiexec", "dask", "python", "pip", "pytest", "pre-commit", "git", ".", "cc", "rustc")


def commands(page):
    """All command lines of a page: lines of `sh` blocks, and what is in backticks. With "…" in it one is no command."""
    text = page.read_text("utf-8")
    lines = [line for block in re.findall(r"```sh\n(.*?)```", text, re.S) for line in block.splitlines()]
    lines = [command for line in lines for command in line.split(" && ")]
    lines += [" ".join(inline.split()) for inline in re.findall(r"`((?:make|musiq-ref|python|pip) [^`]+)`", text)]
    return [line for line in lines if shlex.split(line, comments=True) and "…" not in line]


def check_command(line, monkeypatch):
    """Fails if the command line names what does not exist, or if its program would refuse its arguments."""
    program, *arguments = shlex.split(line, comments=True)
    if program == "mpiexec":
        program, *arguments = arguments[arguments.index("musiq-ref") :]
    assert program in PROGRAMS, line
    if program == "musiq-ref" and len(arguments) == 1:
        assert arguments[0] in COMMANDS or arguments[0] in ("--help", "--version", "-V"), line
    elif program == "musiq-ref":
        assert arguments[0] in COMMANDS, line
        monkeypatch.setattr(import_module(f"musiq_ref.cli.{arguments[0]}"), "run", lambda args: 0)
        assert exit_code(arguments) == 0, line
    elif program == "make":
        makefile = (ROOT / "Makefile").read_text("utf-8")
        assert set(word for word in arguments if "=" not in word) <= set(re.findall(r"^([\w-]+):", makefile, re.M)), (
            line
        )
    elif program == "python" and arguments[0] == "-m":
        assert find_spec(arguments[1]) or arguments[1] in ("build", "twine"), line
        if arguments[1] in ("pip", "pytest"):
            check_command(shlex.join(arguments[1:]), monkeypatch)
    elif program == "python":
        assert (ROOT / arguments[0]).exists(), line
        check_script(arguments, monkeypatch)
    elif program == "pip":
        assert arguments[0] == "install", line
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
        for names in re.findall(r"(?:musiq_ref|\.)\[([\w,-]+)\]", line):
            assert set(names.split(",")) <= extras.keys(), line
    elif program == "pytest":
        paths = [word.partition("::")[0] for word in arguments if "/" in word]
        assert all(any(ROOT.glob(path)) for path in paths), line


def exit_code(arguments):
    try:
        return main(arguments)
    except SystemExit as end:  # --help and bad use
        return end.code


class Parsed(Exception):
    """A script has understood its arguments."""


def check_script(arguments, monkeypatch):
    """Runs a script until its real parser has read the arguments."""
    if "argparse" not in (ROOT / arguments[0]).read_text("utf-8"):
        return
    parse = argparse.ArgumentParser.parse_args

    def stop(parser, *rest):
        parse(parser, *rest)
        raise Parsed

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", stop)
    monkeypatch.setattr(sys, "argv", arguments)
    monkeypatch.syspath_prepend(str((ROOT / arguments[0]).parent))
    with pytest.raises(Parsed):
        runpy.run_path(str(ROOT / arguments[0]), run_name="__main__")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_the_commands_of_a_page_are_understood(page, monkeypatch):
    for line in commands(page):
        with monkeypatch.context() as patched:
            check_command(line, patched)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_examples_of_help_are_understood(name, monkeypatch):
    examples = re.split(r"\n|; ", import_module(f"musiq_ref.cli.{name}").EXAMPLE)
    assert all(line.startswith(f"musiq-ref {name} ") or line == f"musiq-ref {name}" for line in examples)
    for line in examples:
        check_command(line, monkeypatch)


@pytest.mark.parametrize(
    "line",
    [
        "musiq-ref scor photo.jpg",
        "musiq-ref score photo.jpg --chekpoint koniq",
        "musiq-ref train --recipe",
        "make tset",
        "pip install 'musiq_ref[mpy]'",
        "python benchmarks/measure_conventions.py --chekpoint koniq",
        "python benchmarks/no_such_file.py",
        "pytest tests/test_no_such_file.py",
        "no-such-program",
    ],
)
def test_a_command_that_does_not_work_is_noticed(line, monkeypatch):
    with pytest.raises((AssertionError, SystemExit)):
        check_command(line, monkeypatch)


def test_there_are_commands_to_check():
    assert len(commands(ROOT / "README.md")) >= 12
    assert sum(len(commands(page)) for page in PAGES) > 50


def test_links_lead_somewhere():
    for text, folder in ((README, ROOT), (API, ROOT / "docs")):
        for target in re.findall(r"\]\(([^)#]+)\)", text):
            if not target.startswith("http"):
                assert (folder / target).exists(), target


PUBLIC = [(module, name) for module in (mq, mq.verify, mq.checkpoint, explain) for name in module.__all__]


@pytest.mark.parametrize(("module", "name"), PUBLIC, ids=lambda x: x if isinstance(x, str) else x.__name__)
def test_every_public_name_is_documented(module, name):
    assert re.search(rf"\b{name}\b", API), f"{name} is not in docs/api.md"
    thing = getattr(module, name)
    if inspect.isfunction(thing) or inspect.isclass(thing):
        assert inspect.getdoc(thing)


CODE = {x for module, name in PUBLIC if inspect.isfunction(x := getattr(module, name)) or inspect.isclass(x)}


@pytest.mark.parametrize("thing", sorted(CODE, key=lambda x: x.__name__), ids=lambda x: x.__name__)
def test_every_public_function_and_class_has_a_runnable_example(thing):
    assert ">>> " in inspect.getdoc(thing)
