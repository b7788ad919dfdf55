"""`make gpu`: a step that fails loses nothing of the others, the table is the JSON's, and all do the same work."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from cupy_double import from_numpy

import musiq_ref as mq
from musiq_ref.backend import NUMPY
from musiq_ref.ops import fused

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))

import gpu
import gpu_steps
import gpu_table
import gpu_tasks

PYTHON = [sys.executable, "-c"]
RECORD = {
    "task": "score 1 photograph",
    "musiq_ref_seconds": 0.0012,
    "torch_seconds": 0.0026,
    "plain_seconds": 0.0034,
    "ratio to torch": 0.456,
    "musiq_ref_bytes": 3 << 20,
    "torch_bytes": None,
    "difference from torch": 2.3e-7,
    "difference from numpy": 2e-3,
}
LARGE = {"task": "score 12 megapixels", "musiq_ref_bytes": 250, "torch_bytes": 1000, "untiled_bytes": 500}
BUNDLED = {"task": "training the bundled model, 16 pictures", "ratio to numpy": 0.0125}
REPORT = {
    **{"card": "A card", "torch": "2.11", "numpy": "2.5", "cupy": "14.2", "python": "3.12", "driver": "580.1"},
    **{
        "driver_cuda": 12080,
        "processor": "A processor",
        "steps": {"memcheck": "exit code 1"},
        "seconds": {"memcheck": 1.5},
    },
}


def steps_in(folder: Path, seconds: float = 60) -> gpu.Steps:
    return gpu.Steps(folder / "gpu.json", seconds, {"steps": {}, "seconds": {}})


def printing(name: str, code: str, seconds: float = 30, read=json.loads) -> gpu.Step:
    return gpu.Step(name, [*PYTHON, code], seconds, read)


def test_what_was_found_before_a_step_failed_is_kept(tmp_path):
    steps = steps_in(tmp_path)
    steps.run(printing("good", "print('noise'); print('{\"task\": 1}'); print('{\"graphs\": 3}')", read=gpu.measured))
    steps.run(printing("bad", "raise SystemExit('out of luck')"))
    steps.run(printing("strange", "print('no JSON')"))
    steps.run(printing("part", 'print(\'{"task": "a"}\'); print(\'{"task": "b", "error": "c"}\')', read=gpu.measured))
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert found["steps"]["good"] == "done"
    assert found["good"] == {"records": [{"task": 1}], "graphs": 3}
    assert found["steps"]["bad"] == "exit code 1"
    assert "out of luck" in found["bad"]["stderr"]
    assert found["steps"]["strange"].startswith("no figures")
    assert found["steps"]["part"] == "failed: b"
    assert len(found["part"]["records"]) == 2
    assert [line.partition(":")[0] for line in steps.failed] == ["bad", "strange", "part"]


def test_a_step_that_takes_too_long_ends_with_its_children_and_what_it_said_is_kept(tmp_path):
    pid, ready = str(tmp_path / "pid"), str(tmp_path / "ready")
    child = f"import os, time; open({pid!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    code = f"""
import os, subprocess, sys, time
subprocess.Popen([sys.executable, "-c", {child!r}])
while not os.path.exists({pid!r}) or not os.path.getsize({pid!r}): time.sleep(0.01)
print('{{"task": "first"}}', flush=True)
open({ready!r}, "w").close()
time.sleep(60)
"""
    slow = gpu_steps.Running(printing("slow", code, read=gpu.measured), 60)
    try:
        while not (tmp_path / "ready").exists():
            time.sleep(0.01)
            assert slow.process.poll() is None
    finally:
        slow.seconds = 0
        found, failure = slow.result()
    assert failure == "not done in 0 s"
    assert found["records"] == [{"task": "first"}]
    assert "first" in found["stdout"]
    if sys.platform == "linux":
        assert not runs(int((tmp_path / "pid").read_text()))


def runs(pid: int) -> bool:
    """Whether a process does, or will in half a second; one that is dead may still have an entry (Z)."""
    for _ in range(50):
        stat = Path(f"/proc/{pid}/stat")
        if not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] in "ZX":
            return False
        time.sleep(0.01)
    return True


def test_steps_given_together_run_together(tmp_path):
    def waiting(mine: str, other: str) -> gpu.Step:
        here, there = str(tmp_path / mine), str(tmp_path / other)
        code = f"import os, time; open({here!r}, 'w').close()\nwhile not os.path.exists({there!r}): time.sleep(0.01)"
        return printing(mine, code, 20, gpu.summary)

    steps = steps_in(tmp_path)
    steps.run(waiting("a", "b"), waiting("b", "a"))
    assert steps.report["steps"] == {"a": "done", "b": "done"}


def test_the_limit_for_everything_holds(tmp_path):
    steps = steps_in(tmp_path, 0)
    steps.run(printing("late", "import time; time.sleep(60)"))
    assert steps.report["steps"] == {"late": "not done in 1 s"}


def test_pytests_words_are_understood():
    said = "FAILED tests/a.py::b[c] - x\nERROR tests/c.py\n1 failed, 20 passed, 3 skipped, 2 errors in 3.10s\n"
    assert gpu.summary(said) == {
        "failed": 1,
        "passed": 20,
        "skipped": 3,
        "error": 2,
        "ran": 23,
        "not passed": ["tests/a.py::b[c]", "tests/c.py"],
    }


def test_the_published_table_is_that_of_the_published_figures():
    docs = Path(gpu.__file__).resolve().parent.parent / "docs"
    report = json.loads((docs / "gpu.json").read_text(encoding="utf-8"))
    assert (docs / "gpu.md").read_text(encoding="utf-8") == gpu_table.table(report), "run benchmarks/gpu.py --table"


def test_the_table_says_what_was_measured_and_what_is_reached():
    failed = {"task": "score 12 megapixels", "error": "MemoryError: a|b"}
    measured = {"float32": {"records": [RECORD, failed]}, "tf32": {"stderr": "it stopped"}}
    text = gpu.table({**REPORT, **measured, "memcheck": {"ran": 2}})
    assert "| float32 | score 1 photograph | 1.20 | 2.60 | 0.46 | 3 | – | 2e-07 | without a graph 3.40 ms |" in text
    assert "| float32 | score 12 megapixels | failed: MemoryError: a/b |" in text
    assert "| score 1 photograph: time, of PyTorch's | yes, 0.46 | – | – |" in text
    assert "| score 1 photograph: difference from NumPy's | **no**, 2e-03 (≤ 1e-05) | – | – |" in text
    assert "| memcheck | exit code 1 | 1.5 | 2 |" in text
    assert "A card; driver 580.1 (CUDA 12.8); CuPy 14.2" in text
    assert "A processor" in text
    assert "mean nothing" in gpu.table({**REPORT, "card": None})


def test_targets_are_met_by_what_is_small_enough_or_fast_enough():
    rows = gpu_table.targets({"float32": {"records": [LARGE, BUNDLED]}, "tf32": {"records": [RECORD]}})
    met = {(row["target"], row["precision"]): (row["reached"], row["met"]) for row in rows}
    assert met["score 12 megapixels: memory, of PyTorch's", "float32"] == (0.25, True)
    assert met["score 12 megapixels: memory, of ours with all weights at once", "float32"] == (0.5, False)
    assert met["training the bundled model, 16 pictures: times as fast as NumPy on 2 threads", "float32"] == (80, True)
    assert met["score 1 photograph: time, of PyTorch's", "tf32"] == (0.456, True)
    assert met["score 1 photograph: difference from NumPy's", "tf32"] == (2e-3, False)
    assert met["score 16 of different sizes: time, of PyTorch's", "tf32"] == (None, None)


@pytest.mark.parametrize(
    ("takes", "calls"), [(0.001, 1 + 3 + 10), (0.5, 1 + 3 + 4), (2.0, 1 + 1 + 1), (9.0, 1 + 1 + 1)]
)
def test_a_task_that_takes_long_is_run_less_often(takes, calls, monkeypatch):
    monkeypatch.setattr(gpu_tasks, "seconds_of", lambda run: (run(), takes * (1 if run is mine else 0.5))[1])
    done = []
    mine, other = (lambda: done.append("mine") or [2.0, -4.0]), (lambda: done.append("other") or [2.0, -3.0])
    peaks = iter([9, 5])  # the first is of what was before
    contenders = [gpu_tasks.Contender("musiq_ref", mine, lambda: next(peaks)), gpu_tasks.Contender("torch", other)]
    found = gpu_tasks.record(contenders, 10, images=2)
    assert done.count("mine") == done.count("other") == calls
    assert (found["musiq_ref_bytes"], found["torch_bytes"]) == (5, None)
    assert (found["ratio to torch"], found["difference from torch"]) == (2, 0.25)
    assert found["torch_images_per_second"] == 2 / (takes / 2)


def test_all_weights_at_once_are_one_block_and_after_it_all_is_as_before(monkeypatch):
    monkeypatch.setattr(fused, "WEIGHTS_ON_DEVICE", 7)
    q, k, v = (from_numpy(a) for a in np.random.default_rng(0).normal(size=(3, 1, 2, 5, 4)))
    _, (*_, rows) = gpu_tasks.all_weights_at_once(lambda: fused.attend(q, k, v))()
    assert rows > 5
    with pytest.raises(ZeroDivisionError):
        gpu_tasks.all_weights_at_once(lambda: 1 / 0)()
    assert fused.WEIGHTS_ON_DEVICE == 7


def test_pictures_together_are_trained_on_as_one_by_one(torch):
    from gpu_torch import Torch

    config = mq.MusiqConfig.preset("tiny", conventions=mq.PYIQA, longer_sides=(64,))
    sizes, params = [(40, 90), (150, 130), (64, 32)], mq.verify.deterministic_params(config, 1)
    images = [mq.tokenize(mq.verify.deterministic_image(3, *size), config) for size in sizes]
    assert len({int(one.mask.sum()) for one in images}) == 3
    rival = Torch(config, params, cuda=False, tf32=False)
    everybody = [gpu_tasks.steps(params, images, config, NUMPY, together) for together in (1, 3)]
    everybody += [rival.steps(images, together) for together in (False, True)]
    losses = np.array([[step() for step in everybody] for _ in range(3)])
    np.testing.assert_allclose(losses, losses[:, :1].repeat(4, axis=1), rtol=1e-4)
    assert np.abs(np.diff(losses[:, 0])).min() > 1e-3 * losses[0, 0], "it does not train"
    scores = gpu_tasks.scores(params, images, config, NUMPY)()
    np.testing.assert_allclose(rival.scores(images)(), scores, rtol=1e-4)


def test_the_bundled_model_is_trained_as_on_numpy():
    tokens = gpu_tasks.bundled_tokens(3)
    ours, other = gpu_tasks.bundled(tokens, NUMPY, lambda: None)
    losses = np.array([[ours.run(), other.run()] for _ in range(2)])
    np.testing.assert_allclose(losses[:, 0], losses[:, 1], rtol=1e-5)
    assert losses[0, 0] != losses[1, 0]


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
