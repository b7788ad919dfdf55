"""The README works as printed, and every public name is documented."""

from __future__ import annotations

import inspect
import re
import shlex
import warnings
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


def test_the_commands_of_the_readme_exist():
    lines = [line.split("#")[0] for block in blocks("sh") for line in block.splitlines()]
    targets = {line.split(":")[0] for line in (ROOT / "Makefile").read_text().splitlines() if ":" in line}
    for line in lines:
        program, first, *_ = shlex.split(line)
        assert (program == "make" and first in targets) or (program == "musiq-ref" and first in COMMANDS), line


def test_the_score_command_of_the_readme(tmp_path, monkeypatch, capsys):
    """The printed command, with a small model where "koniq" would be."""
    [line] = [line for block in blocks("sh") for line in block.splitlines() if line.startswith("musiq-ref score")]
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
