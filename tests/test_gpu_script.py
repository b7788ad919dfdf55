"""`make gpu`: a step that fails loses nothing of the others, and the table is that of the JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))

import gpu

PYTHON = [sys.executable, "-c"]
RECORD = {
    "task": "score 1 photograph",
    "musiq_ref_seconds": 0.0012,
    "plain_seconds": 0.0034,
    "ratio to torch": 0.456,
    "musiq_ref_bytes": 3 << 20,
    "torch_bytes": None,
    "difference from torch": 2.3e-7,
}


def test_what_was_found_before_a_step_failed_is_kept(tmp_path):
    steps = gpu.Steps(tmp_path / "gpu.json", 60, {"steps": {}, "seconds": {}})
    steps.run(
        "good", [*PYTHON, "print('noise'); print('{\"records\": []}')"], 30, lambda t: json.loads(t.splitlines()[-1])
    )
    steps.run("bad", [*PYTHON, "raise SystemExit('out of luck')"], 30, json.loads)
    steps.run("strange", [*PYTHON, "print('no JSON')"], 30, json.loads)
    steps.run("slow", [*PYTHON, "import time; time.sleep(60)"], 1, json.loads)
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert found["steps"]["good"] == "done"
    assert found["good"] == {"records": []}
    assert found["steps"]["bad"] == "exit code 1"
    assert "out of luck" in found["bad"]["error"]
    assert found["steps"]["strange"].startswith("no figures")
    assert found["steps"]["slow"] == "not done in 1 s"
    assert [line.partition(":")[0] for line in steps.failed] == ["bad", "strange", "slow"]


def test_pytests_words_are_understood():
    said = "FAILED tests/a.py::b[c] - x\nERROR tests/c.py\n1 failed, 20 passed, 3 skipped, 2 errors in 3.10s\n"
    assert gpu.summary(said) == {
        "failed": 1,
        "passed": 20,
        "skipped": 3,
        "error": 2,
        "not passed": ["tests/a.py::b[c]", "tests/c.py"],
    }


def test_the_table_says_what_was_measured():
    report = {"card": "A card", "torch": "2.11", "numpy": "2.5", "cupy": "14.2", "steps": {"memcheck": "exit code 1"}}
    text = gpu.table({**report, "float32": {"records": [RECORD]}, "tf32": {"error": "it stopped"}})
    assert "| float32 | score 1 photograph | 1.20 | 0.46 | 3.40 | 3 | – | 2e-07 |" in text
    assert "| memcheck | exit code 1 |" in text
    assert "A card; CuPy 14.2" in text
    assert "mean nothing" in gpu.table({**report, "card": None})


def test_without_a_gpu_it_says_so_and_writes_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(gpu, "environment", lambda: {"card": None, "because": "no driver"})
    monkeypatch.setattr(sys, "argv", ["gpu.py", "-o", str(tmp_path / "gpu.json")])
    assert gpu.main() == 2
    assert "there is no GPU to measure (no driver)" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", gpu.DEVICE + gpu.TESTS)
def test_its_tests_are_there(name):
    assert (gpu.ROOT / "tests" / f"test_{name}.py").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--seconds", "nan"], "--seconds is nan; give a number above 0"),
        (["-o", "no/gpu.json"], "no/gpu.json cannot be written"),
        (["--table", "no.json"], "no.json is no report of this script"),
    ],
)
def test_bad_arguments_are_refused(arguments, says, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["gpu.py", *arguments])
    with pytest.raises(SystemExit, match="2"):
        gpu.main()
    assert says in capsys.readouterr().err
