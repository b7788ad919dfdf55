"""The folder of a run: one training at a time, nothing lost, nothing wrong, whatever ends it.

Run by itself, `python tests/test_training_folder.py FOLDER SEED COUNT` kills trainings and lets them go on.
"""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import save_file
from test_golden_training import MODEL, data_set

from musiq_ref.training.datasets import DatasetError
from musiq_ref.training.folder import claimed
from musiq_ref.training.log import Log
from musiq_ref.training.run import train
from musiq_ref.training.settings import Settings
from musiq_ref.training.state import TrainingError, load_state
from musiq_ref.training.stream import open_stream
from musiq_ref.training.validation import validate

RUN = Settings(dataset="csv", model={**MODEL, "layers": 1}, optimizer="adam", learning_rate=1e-2, batch=3, epochs=3)
RUN = RUN.replace(threads=1, save_every=1, ema=0.5)


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir())}


def go(folder, table, **changes):
    return train(RUN.replace(**changes), folder, table, progress=False)


@pytest.fixture
def table(tmp_path):
    """11 images to train on and 4 to validate with."""
    (tmp_path / "data").mkdir()
    return data_set(tmp_path / "data", 11, 4)


@pytest.fixture
def run(table, tmp_path):
    """A finished run of one epoch."""
    go(tmp_path / "run", table, epochs=1)
    return tmp_path / "run"


def unsealed(state, change):
    """The state as versions without a seal wrote it, with its metadata changed."""
    with safe_open(state, "numpy") as file:
        tensors, metadata = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
    told = {name: json.loads(metadata[name]) for name in ("numbers", "settings")}
    change(tensors, told)
    save_file(tensors, state, {name: json.dumps(value) for name, value in told.items()})


# One at a time


def test_a_second_training_in_a_folder_is_refused_and_touches_nothing(run, table, capsys):
    before = contents(run)
    with claimed(run), pytest.raises(TrainingError, match=r"another training is at work in .*run; name another folder"):
        go(run, table)
    assert contents(run) == before
    go(run, table)


def test_a_lock_of_a_killed_training_is_none(run, table):
    script = f"""
import os, signal
from pathlib import Path
from musiq_ref.training.folder import claimed
with claimed(Path({str(run)!r})):
    os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", script]).returncode == -signal.SIGKILL
    go(run, table)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOLCK, "No locks available"), "No locks available"),
        (NotImplementedError("use SoftFileLock"), "its file system has no locks"),
    ],
)
def test_a_file_system_without_locks_is_a_sentence(error, said, tmp_path, monkeypatch):
    def refuse(lock):
        Path(lock.lock_file).touch()
        raise error

    monkeypatch.setattr("filelock.FileLock.acquire", refuse)
    message = rf"run cannot be made, written to or locked \({said}\); name another$"
    with pytest.raises(TrainingError, match=message), claimed(tmp_path / "run"):
        pass
    assert not (tmp_path / "run").exists()


def test_parts_of_killed_saves_are_cleared(run, table):
    (run / ".state.safetensors.0a1b2c3d.part").write_bytes(b"half")
    (run / ".theirs.part").write_bytes(b"not ours")
    go(run, table)
    assert [path.name for path in run.glob(".*.part")] == [".theirs.part"]


# Nothing of somebody else's


@pytest.mark.parametrize(
    "name", ["last.safetensors", "best.safetensors", "state.safetensors", "log.jsonl", "curves.png"]
)
def test_what_is_somebody_elses_is_not_written_over(name, table, tmp_path):
    folder = tmp_path / "theirs"
    folder.mkdir()
    (folder / name).write_text('{"step": 1, "accuracy": 0.5}\n')
    before = contents(folder)
    with pytest.raises(TrainingError, match=name.replace(".", r"\.")):
        go(folder, table)
    assert {kept: data for kept, data in contents(folder).items() if kept != ".lock"} == before


def test_a_checkpoint_without_a_state_is_not_written_over(run, table):
    (run / "state.safetensors").unlink()
    with pytest.raises(TrainingError, match=r"last\.safetensors is there, but no state\.safetensors to go on from"):
        go(run, table)


@pytest.mark.parametrize("name", ["best.safetensors", "last.safetensors"])
def test_the_checkpoint_to_start_from_is_not_trained_over(name, run, table, tmp_path):
    before = (run / name).read_bytes()
    (tmp_path / "link.safetensors").symlink_to(run / name)
    for start in (run / name, tmp_path / "link.safetensors"):
        with pytest.raises(
            TrainingError, match=r"is read, and training in .* would write over it; name another folder"
        ):
            go(run, table, init=str(start))
    assert (run / name).read_bytes() == before


@pytest.mark.parametrize("changes", [{"init": "nowhere.npz"}, {"model": {"outputs": 3}}, {"dataset": "koniq"}])
def test_a_training_that_cannot_begin_leaves_no_folder(changes, table, tmp_path):
    with pytest.raises((ValueError, TrainingError)):
        go(tmp_path / "a" / "b", table, **changes)
    assert not (tmp_path / "a").exists()
    (tmp_path / "empty").mkdir()
    with pytest.raises((ValueError, TrainingError)):
        go(tmp_path / "empty", table, **changes)
    assert (tmp_path / "empty").is_dir()


# State and log


def number(name, value):
    return lambda tensors, told: told["numbers"].__setitem__(name, value)


def tensor(name, change):
    return lambda tensors, told: tensors.__setitem__(name, change(tensors[name]))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (number("step", 10**9), "its optimizer has done 4 steps"),
        (number("step", -1), "its step is -1"),
        (number("step", "4"), "its step is '4'"),
        (number("spread", 0.0), "its numbers are"),
        (number("centre", float("nan")), "its numbers are"),
        (number("centre", float("inf")), "its numbers are"),
        (number("best", "good"), "its numbers are"),
        (number("held_out", 5), "its held_out is 5"),
        (number("data", [1]), r"its data is \[1\]"),
        (number("speed", 5), "not of a training run"),
        (tensor("params/head/kernel", lambda a: a * np.nan), "its parameter head/kernel is not finite"),
        (tensor("params/head/kernel", lambda a: a[:-1]), "parameter head/kernel has shape"),
        (tensor("params/head/kernel", lambda a: a.astype(np.float64)), "float32"),
        (tensor("average/head/bias", lambda a: a + np.inf), "its parameter head/bias is not finite"),
        (tensor("optimizer/mean/head/bias", lambda a: a[:0]), "its optimizer's arrays are not those of adam"),
        (tensor("optimizer/square/head/bias", lambda a: a - 1), "its optimizer's square/head/bias"),
        (tensor("optimizer/step", lambda a: np.array(a + 1)), "its optimizer has done 5 steps, not 4"),
        (lambda tensors, told: tensors.pop("params/head/bias"), "parameter head/bias is missing"),
        (lambda tensors, told: tensors.update({"params/more": np.zeros(1)}), "parameter more is unexpected"),
        (lambda tensors, told: tensors.update({"params": np.zeros(1)}), "cannot be gone on from"),
        (lambda tensors, told: told.update(settings=[]), "not of a training run"),
    ],
)
def test_a_state_that_cannot_be_is_refused(change, said, run, table):
    unsealed(run / "state.safetensors", change)
    with pytest.raises(TrainingError, match=said) as refused:
        go(run, table)
    assert "name another folder" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_run_that_is_beyond_its_end_is_refused(run, table):
    go(run, table, epochs=3)
    with pytest.raises(TrainingError, match="at step 12, beyond the 8 of 2 epochs; set epochs to 3 or more"):
        go(run, table, epochs=2)


def test_a_refused_run_says_which_settings_changed_and_which_may(run, table):
    said = r"with learning_rate = 0\.01, not 0\.5 and model\.heads = 2, not 4; .*\(only epochs, threads, save_every may"
    with pytest.raises(TrainingError, match=said):
        go(run, table, learning_rate=0.5, model={"heads": 4})
    with pytest.raises(TrainingError, match=r"with( [\w.]+ = \S+, not \S+ and){5} 1 more; set what it was"):
        go(run, table, learning_rate=0.5, clip=3.0, dropout=0.2, loss="mse", ema=0.25, seed=9)


def test_any_changed_bit_of_a_state_is_noticed(run):
    state, rng = run / "state.safetensors", random.Random(0)
    whole = state.read_bytes()
    for _ in range(200):
        changed = bytearray(whole)
        changed[rng.randrange(len(whole))] ^= 1 << rng.randrange(8)
        state.write_bytes(changed)
        with pytest.raises(TrainingError, match="cannot be gone on from"):
            load_state(state, RUN.replace(epochs=1))


@pytest.mark.parametrize(
    "line", ["12", "{}", "null", '"step"', '{"step": 1}', "[" * 99_999, "{half", '{"step": "1", "epoch": 1}']
)
def test_a_log_that_is_damaged_is_a_sentence(line, run, table):
    lines = (run / "log.jsonl").read_text().splitlines(keepends=True)
    for at in (0, 2):
        (run / "log.jsonl").write_text("".join([*lines[:at], line + "\n", *lines[at + 1 :]]))
        with pytest.raises(
            TrainingError, match=rf"log\.jsonl, line {at + 1} is not as a training wrote it; restore it"
        ):
            go(run, table, epochs=2)
    (run / "log.jsonl").unlink()
    assert len(go(run, table, epochs=2).log.read_text().splitlines()) == 5


def test_a_figure_changed_in_the_log_is_noticed(run, table):
    text = (run / "log.jsonl").read_text()
    (run / "log.jsonl").write_text(text.replace('"loss": ', '"loss": 1'))
    with pytest.raises(TrainingError, match=r"log\.jsonl is not as the run left it; restore it, or move it away"):
        go(run, table, epochs=2)


def test_a_log_may_be_moved_away_and_the_run_then_stopped_before_it_saves(run, table, monkeypatch):
    (run / "log.jsonl").rename(run / "old.jsonl")
    with monkeypatch.context() as patched:
        patched.setattr("musiq_ref.training.run._keep", lambda *a: 1 / 0)  # the log has steps that no state has
        with pytest.raises(ZeroDivisionError):
            go(run, table, epochs=2)
    assert (run / "log.jsonl").stat().st_size
    go(run, table, epochs=2)
    assert [json.loads(line)["step"] for line in (run / "log.jsonl").read_text().splitlines()] == [5, 6, 7, 8, 8]


def mutated(content, rng, until):
    """With a few bytes, mostly of the first `until`, changed, left out or put in."""
    content = bytearray(content)
    for _ in range(rng.choice([1, 1, 2, 4])):
        at = rng.randrange(min(until, len(content)) if rng.random() < 0.9 else len(content))
        new = [
            bytes([content[at] ^ 1 << rng.randrange(8)]),
            bytes([rng.randrange(256)]),
            b"9",
            b"-",
            b"null",
            b"[",
            b"{}",
        ]
        content[at : at + rng.choice([1, 1, 1, 0, 5])] = rng.choice(new)
    return bytes(content)


@pytest.mark.parametrize("count", [300, pytest.param(5_000, marks=pytest.mark.long)])
def test_mutated_states_and_logs_are_read_or_refused_in_a_sentence(count, run):
    rng, state, log = random.Random(0), run / "state.safetensors", run / "log.jsonl"
    unsealed(state, lambda tensors, told: None)
    whole, lines, said = state.read_bytes(), log.read_bytes(), set()
    header = int.from_bytes(whole[:8], "little")
    for _ in range(count):
        state.write_bytes(mutated(whole, rng, 8 + header))
        log.write_bytes(mutated(lines, rng, len(lines)))
        for read in (lambda: load_state(state, RUN.replace(epochs=1)), lambda: Log(log, 4)):
            try:
                read()
            except TrainingError as error:
                said.add(str(error).replace(str(run), ""))
    assert all(len(one.splitlines()) == 1 and len(one) < 600 for one in said), max(said, key=len)
    assert len(said) > 20


# Data


def rewritten(table, change):
    lines = table.read_text().splitlines()
    table.write_text("\n".join([lines[0], *change(lines[1:])]))


CHANGES = {
    "labels": lambda table: rewritten(table, lambda rows: [rows[0].replace(",15,", ",16,"), *rows[1:]]),
    "order or names": lambda table: rewritten(table, lambda rows: rows[::-1]),
    "images": lambda table: Image.new("RGB", (20, 20)).save(table.parent / "3.png"),
    "number of images, 14 and not 15": lambda table: (table.parent / "3.png").unlink(),
    "split": lambda table: rewritten(
        table, lambda rows: [r.replace("3.png,36,training", "3.png,36,test") for r in rows]
    ),
}


@pytest.mark.parametrize("what", CHANGES)
def test_changed_data_are_refused_unless_accepted(what, run, table, capsys):
    before = contents(run)
    CHANGES[what](table)
    with pytest.raises(TrainingError, match=rf"began with \(changed: {what}\); restore it") as refused:
        go(run, table, epochs=2)
    assert "add --accept-changed-data" in str(refused.value)
    assert contents(run) == before
    train(RUN.replace(epochs=2), run, table, progress=False, accept_changed_data=True)
    assert "going on with a data set that has changed" in capsys.readouterr().err
    go(run, table, epochs=3)  # from now on these are the data


def test_data_that_were_moved_as_a_whole_go_on(run, table, tmp_path):
    shutil.move(table.parent, tmp_path / "elsewhere")
    go(run, tmp_path / "elsewhere" / table.name, epochs=2)


def test_what_a_random_split_held_out_stays_held_out(table):
    rewritten(table, lambda rows: [row.rpartition(",")[0] + "," for row in rows])
    table.write_text(table.read_text().replace(",set", "").replace(",\n", "\n").rstrip(","))
    before = open_stream(RUN, table)
    assert before.length == 12
    for i in range(15, 40):
        shutil.copy(table.parent / f"{i % 15}.png", table.parent / f"{i}.png")
    table.write_text(table.read_text() + "".join(f"\n{i}.png,{i}" for i in range(15, 40)))
    anew, kept = open_stream(RUN, table), open_stream(RUN, table, before.held_out)
    assert set(anew.held_out) != set(before.held_out)  # by itself the split would move
    assert kept.held_out == before.held_out
    assert kept.length == 12 + 25


def test_what_a_table_held_out_is_not_trained_with_when_it_says_otherwise(run, table):
    before = open_stream(RUN, table)
    assert (before.length, before.validation_length) == (11, 4)
    rewritten(table, lambda rows: [row.replace("12.png,99,validation", "12.png,99,training") for row in rows])
    assert open_stream(RUN, table).length == 12
    after = open_stream(RUN, table, before.held_out)
    assert (after.length, after.validation_length) == (11, 3)
    train(RUN.replace(epochs=2), run, table, progress=False, accept_changed_data=True)
    go(run, table)  # and that does not change when it goes on once more
    kept = load_state(run / "state.safetensors", RUN).held_out
    assert open_stream(RUN, table, kept).length == 11


def test_a_data_set_that_is_not_named_says_how(tmp_path):
    with pytest.raises(DatasetError, match=r"where is the data set csv.*--data FILE.csv"):
        go(tmp_path / "run", None)
    with pytest.raises(DatasetError, match=r"where is the data set koniq.*--data"):
        go(tmp_path / "run", None, dataset="koniq")


# The best


@pytest.fixture
def peaked(table, tmp_path, monkeypatch):
    """A finished run of three epochs, of which the second was the best."""
    said = iter([0.1, 0.9, 0.2])
    with monkeypatch.context() as patched:
        patched.setattr("musiq_ref.training.run.validate", lambda *a: {"srcc": next(said), "rmse": 1.0})
        go(tmp_path / "run", table)
    return tmp_path / "run"


def test_the_best_is_never_a_copy_of_the_last(peaked, table, capsys):
    best = peaked / "best.safetensors"
    assert best.read_bytes() != (peaked / "last.safetensors").read_bytes()
    best.unlink()
    assert go(peaked, table).best is None
    assert not best.exists()
    assert "best.safetensors is gone; the best from now on will be kept there" in capsys.readouterr().err
    assert go(peaked, table, epochs=4).best == best


def test_a_best_that_a_kill_kept_from_being_written_is_written_at_the_start(table, tmp_path, monkeypatch):
    """A kill between the state, which says that it is the best, and the checkpoint."""
    whole = go(tmp_path / "whole", table, epochs=1)
    go(tmp_path / "run", table, epochs=1)
    for best in (None, whole.last.read_bytes()[:100]):
        (tmp_path / "run" / "best.safetensors").unlink()
        if best:
            (tmp_path / "run" / "best.safetensors").write_bytes(b'"musiq_ref_config"' + best)
        go(tmp_path / "run", table, epochs=1)
        assert contents(tmp_path / "run") == contents(whole.last.parent)


# However it ends


def test_an_interrupt_saves_the_last_whole_step(table, tmp_path, monkeypatch):
    whole = go(tmp_path / "whole", table)
    original, calls = validate, []

    def interrupted(*args):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return original(*args)

    with monkeypatch.context() as patched:
        patched.setattr("musiq_ref.training.run.validate", interrupted)
        with pytest.raises(KeyboardInterrupt):
            go(tmp_path / "run", table, save_every=999)
    assert (
        load_state(tmp_path / "run" / "state.safetensors", RUN).step == 7
    )  # the validation after step 8 was cut short
    go(tmp_path / "run", table)
    assert contents(tmp_path / "run") == contents(whole.log.parent)


def test_where_nothing_is_saved_no_good_state_is_promised(table, tmp_path):
    wild = {"optimizer": "sgd", "learning_rate": 1e9, "loss": "mse", "ema": 0.0}
    with pytest.raises(TrainingError, match=r"lower learning_rate or set clip$"):
        go(tmp_path / "run", table, save_every=999, epochs=9, batch=1, **wild)
    with pytest.raises(TrainingError, match=r"set clip, in another folder \(this one keeps the last good state\)$"):
        go(tmp_path / "again", table, epochs=9, batch=1, **wild)
    load_state(tmp_path / "again" / "state.safetensors", RUN.replace(epochs=9, batch=1, **wild))


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="needs the signals of Unix")
def test_ctrl_c_is_one_sentence_and_the_command_goes_on(table, tmp_path):
    (tmp_path / "mine.toml").write_text('dataset = "csv"\nepochs = 9999\nsave_every = 9999\nbatch = 4\n')
    command = [sys.executable, "-m", "musiq_ref.cli", "train", "--recipe", str(tmp_path / "mine.toml"), "--json"]
    command += ["--data", str(table), "-o", str(tmp_path / "run"), "--set=dropout=0.1"]
    command += [f"--set=model.{name}={json.dumps(value)}" for name, value in MODEL.items()]
    stopped = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    log = tmp_path / "run" / "log.jsonl"
    while not log.exists() or len(log.read_bytes().splitlines()) < 3:
        assert stopped.poll() is None
        time.sleep(0.01)
    stopped.send_signal(signal.SIGINT)
    out, err = stopped.communicate()
    assert (stopped.returncode, out) == (130, "")
    assert len(err.splitlines()) == 1
    with safe_open(tmp_path / "run" / "state.safetensors", "numpy") as file:
        assert json.loads(file.metadata()["numbers"])["step"] >= 2
    assert not list((tmp_path / "run").glob(".*.part"))


def killed(work, rng, most):
    """The work in a process that is killed: in its n-th change of a file, or whenever; true if it was."""
    child = os.fork()
    if not child:
        left = rng.randrange(1, most)

        def counted(function):
            def call(*args, **kwargs):
                nonlocal left
                left -= 1
                if not left:
                    os.kill(os.getpid(), signal.SIGKILL)
                return function(*args, **kwargs)

            return call

        for name in ("replace", "fsync", "unlink", "open"):
            setattr(os, name, counted(getattr(os, name)))
        work()
        os._exit(0)
    if rng.random() < 0.5:
        time.sleep(rng.uniform(0, 0.3))
        os.kill(child, signal.SIGKILL)
    return os.waitpid(child, 0)[1] != 0


def kill_and_go_on(parent, seed, count):
    """Runs that are killed again and again end with the bytes of one that was not; two at once, too."""
    rng, table = random.Random(seed), data_set(parent, 11, 4)
    whole = contents(go(parent / "whole", table).log.parent)
    kills = 0
    for number in range(count):
        folder = parent / f"run{number}"
        for most in (40, 80, 120, 160):
            kills += killed(lambda: go(folder, table, save_every=2), rng, most)  # noqa: B023, called at once
        if number % 4 == 0:
            others = []
            while len(others) < 2:
                others.append(os.fork())
                if not others[-1]:
                    try:
                        go(folder, table)
                        os._exit(0)
                    except TrainingError as error:
                        os._exit(7 if "another training" in str(error) else 8)
            codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in others]
            assert set(codes) <= {0, 7}, codes
            assert 0 in codes
        go(folder, table)
        found = contents(folder)
        assert found.keys() == whole.keys(), found.keys()
        for name in whole:
            if name != "state.safetensors":  # which knows save_every
                assert found[name] == whole[name], (number, name)
    print(kills)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize(("seed", "count"), [(0, 3), pytest.param(1, 20, marks=pytest.mark.long)])
def test_killed_at_any_point_it_ends_with_the_same_bytes(seed, count, tmp_path):
    command = [sys.executable, __file__, str(tmp_path), str(seed), str(count)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= count


if __name__ == "__main__":
    kill_and_go_on(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))


def test_a_log_that_was_emptied_is_no_log_that_was_moved_away(table, tmp_path):
    go(tmp_path / "run", table, epochs=1, batch=2)
    log = tmp_path / "run" / "log.jsonl"
    whole = log.read_bytes()
    for damaged in (b"", whole[:40], whole.replace(b'"step": 1,', b'"step": 99,', 1)):
        log.write_bytes(damaged)
        with pytest.raises(TrainingError, match=r"log\.jsonl.* is not as "):
            go(tmp_path / "run", table, epochs=2, batch=2)
        assert log.read_bytes() == damaged
