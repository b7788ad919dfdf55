"""The worked example of docs/port-guide.md prints what the page says."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from musiq_ref.cli import main

ROOT = Path(__file__).parent.parent
GUIDE = (ROOT / "docs" / "port-guide.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    folder = tmp_path_factory.mktemp("guide") / "reference"
    assert main(["fixture", str(folder), "--conventions", "pyiqa"]) == 0
    return folder


STEPS = re.findall(r"```sh\n([^`]*broken_port[^`]*)\n```\n\n```text\n([^`]*)```", GUIDE)


def words(line):
    """A line without its numbers, which rounding may change."""
    return re.sub(r"[-+]?\d[\d.e+-]*", "#", line).strip()


@pytest.mark.parametrize(("command", "printed"), STEPS, ids=range(len(STEPS)))
def test_the_worked_example(torch, command, printed, reference, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    arguments = shlex.split(command.splitlines()[-1])[1:]
    assert main([str(reference) if a == "pyiqa/" else a for a in arguments]) == 1
    said = {words(line) for line in capsys.readouterr().out.splitlines()}
    assert {words(line) for line in printed.splitlines() if line not in ("", "…")} <= said


def test_the_repaired_port_passes(torch, reference, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    assert main(["compare", str(reference), "docs/examples/broken_port.py:repaired"]) == 0
    [verdict] = [line for line in capsys.readouterr().out.splitlines() if line.startswith("PASSED")]
    assert verdict in GUIDE
    assert len(STEPS) == 3


def test_links_lead_somewhere():
    for page in ("port-guide.md", "fixture-format.md"):
        for target in re.findall(r"\]\(([^)#]+)\)", (ROOT / "docs" / page).read_text(encoding="utf-8")):
            assert (ROOT / "docs" / target).exists(), target
