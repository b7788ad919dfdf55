"""What goes wrong around a training run, as it happens to people: a full disk, labels and files that are off."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from test_golden_training import MODEL, data_set

import musiq_ref as mq
from musiq_ref.model.parameters import flatten
from musiq_ref.training.run import train
from musiq_ref.training.settings import Settings, recipe
from musiq_ref.training.state import TrainingError

resource = pytest.importorskip("resource", reason="limits on a process's files need Unix")
RUN = Settings(dataset="csv", model=MODEL, optimizer="adam", schedule="constant", learning_rate=1e-3, batch=3)


def command(folder, table, epochs):
    recipe_file = folder / "mine.toml"
    if not recipe_file.exists():
        recipe_file.write_text(
            'dataset = "csv"\noptimizer = "adam"\nschedule = "constant"\nbatch = 3\nsave_every = 1\n'
        )
    model = [option for name, value in MODEL.items() for option in ("--set", f"model.{name}={json.dumps(value)}")]
    train_it = ["train", "--recipe", str(recipe_file), "--data", str(table), "-o", str(folder / "run"), "--json"]
    return [sys.executable, "-m", "musiq_ref.cli", *train_it, *model, "--set", f"epochs={epochs}"]


def limited(size):
    """No file that this process writes may grow beyond `size` bytes, as on a disk with that much room."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


@pytest.mark.parametrize(("room", "file"), [(400_000, "state.safetensors"), (300, "log.jsonl")])
def test_a_disk_that_fills_up_stops_with_a_sentence_and_room_lets_it_go_on(room, file, tmp_path):
    """The system refuses to write in the middle of a file; afterwards the run ends as if nothing had happened."""
    table = data_set(tmp_path, 6, 2)
    (tmp_path / "undisturbed").mkdir()
    run = partial(subprocess.run, capture_output=True, text=True)
    for folder in (tmp_path, tmp_path / "undisturbed"):
        assert run(command(folder, table, 1)).returncode == 0
    state = tmp_path / "run" / "state.safetensors"
    before = state.read_bytes()
    stopped = run(command(tmp_path, table, 3), preexec_fn=partial(limited, room))
    assert stopped.returncode in (1, 2)
    [line] = stopped.stderr.splitlines()
    assert line.startswith("musiq-ref train: ")
    assert "File too large" in line
    assert file in line
    assert state.read_bytes() == before
    assert not list((tmp_path / "run").glob(".*.part"))
    for folder in (tmp_path, tmp_path / "undisturbed"):
        finished = run(command(folder, table, 3))
        assert finished.returncode == 0, finished.stderr
    ends = [mq.load_checkpoint(folder / "run" / "last.safetensors") for folder in (tmp_path, tmp_path / "undisturbed")]
    for (path, a), (_, b) in zip(*(flatten(end.params) for end in ends), strict=True):
        assert np.array_equal(a, b), path
    logs = [(folder / "run" / "log.jsonl").read_text() for folder in (tmp_path, tmp_path / "undisturbed")]
    assert logs[0] == logs[1]


@pytest.mark.parametrize(
    ("closed", "code", "said"),
    [
        ("2>&1 | head -c 1 >head", 0, ""),  # whose reader goes when the bar first shows
        ("| head -c 0", 0, None),
        (">&-", 0, None),
        (">&- 2>&-", 0, ""),
        ("2>/dev/full", 0, ""),
        ("--json >/dev/full", 2, "the standard output cannot be used (No space left on device); check "),
    ],
)
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux")
def test_a_training_does_not_end_because_nobody_reads_what_it_shows(closed, code, said, tmp_path):
    table = data_set(tmp_path, 6, 2)
    line = shlex.join([one for one in command(tmp_path, table, 2) if one != "--json"])
    shell = ["bash", "-c", f"{line} {closed}; exit ${{PIPESTATUS[0]}}"]
    done = subprocess.run(shell, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert said is None or (said in done.stderr if said else not done.stderr)
    assert json.loads((tmp_path / "run" / "log.jsonl").read_text().splitlines()[-1])["epoch"] == 2
    assert (tmp_path / "run" / "last.safetensors").exists()


def test_a_damaged_checkpoint_to_start_from_is_named(tmp_path):
    table = data_set(tmp_path, 6, 2)
    start = tmp_path / "start.safetensors"
    mq.save_checkpoint(start, mq.init_params(RUN.config()), RUN.config())
    start.write_bytes(start.read_bytes()[:-100])
    with pytest.raises(mq.CheckpointError, match=r"start\.safetensors: cut short, damaged"):
        train(RUN.replace(init=str(start)), tmp_path / "run", table, progress=False)
    with pytest.raises(mq.CheckpointError, match=r"gone\.safetensors: no such file; .*--set init= from none"):
        train(RUN.replace(init=str(tmp_path / "gone.safetensors")), tmp_path / "run", table, progress=False)


@pytest.mark.parametrize(("score", "said"), [("nan", r"row 3: score is 'nan'"), ("good", r"row 3: score is 'good'")])
def test_a_label_that_is_no_score_names_its_row(score, said, tmp_path):
    table = data_set(tmp_path, 6, 2)
    lines = table.read_text().splitlines()
    lines[2] = f"1.png,{score},training"
    table.write_text("\n".join(lines))
    with pytest.raises(ValueError, match=said):
        train(RUN, tmp_path / "run", table, progress=False)


def test_a_class_beyond_the_outputs_is_a_sentence(tmp_path):
    table = data_set(tmp_path, 6, 2)  # scores from 15
    with pytest.raises(TrainingError, match=r"the label of example 0 is \d+; with 5 classes it must lie in 0 … 4"):
        train(RUN.replace(model={"outputs": 5}, loss="cross_entropy"), tmp_path / "run", table, progress=False)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"batch": "many"}, "batch is 'many'; it must be a value such as 32"),
        ({"epochs": 2.5}, r"epochs is 2\.5; it must be a value such as 1"),
        ({"flip": 1}, "flip is 1; it must be a value such as True"),
        ({"learning_rate": True}, "learning_rate is True"),
        ({"model": {"depth": 3}}, "MusiqConfig has no field 'depth'"),
    ],
)
def test_settings_of_another_kind_are_refused(changes, said):
    with pytest.raises(ValueError, match=said):
        recipe("koniq", **changes)
    assert recipe("koniq", learning_rate=1).learning_rate == 1
