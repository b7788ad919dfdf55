"""Several processes train as one: the same gradients, the same weights, and they stop together.

Run by mpiexec, this file is also what the processes do: `mpiexec -n 2 python test_parallel.py FOLDER TASK`.
"""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open

import musiq_ref as mq
from musiq_ref.model.parameters import flatten
from musiq_ref.training.folder import claimed
from musiq_ref.training.parallel import World, together, world_gradient
from musiq_ref.training.run import train
from musiq_ref.training.settings import Settings
from musiq_ref.training.state import TrainingError
from musiq_ref.training.step import BatchGradient, Rates, batch_gradient
from musiq_ref.verify import deterministic_params

MPIEXEC = Path(sysconfig.get_path("scripts"), "mpiexec")
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
SIZES = {"layers": 1, "width": 8, "mlp_width": 6, "heads": 2, "patch_size": 8, "grid_size": 3, "longer_sides": [12]}
RATES = Rates(dropout=0.3, attention_dropout=0.2)


def settings(**changes):
    """Three steps, of 5, 3 and 5 images: no process has as many as another, and of 4 one has none."""
    values = {"dataset": "csv", "model": SIZES, "batch": 5, "epochs": 2, "optimizer": "adamw", "ema": 0.5}
    values |= {"dtype": "float64", "threads": 1, "normalize_targets": True, "dropout": 0.1, "clip": 1.0}
    return Settings(**{**values, **changes})


def problem():
    """Parameters, the tokens and targets of 7 images, and the configuration."""
    config, rng = settings().config(), np.random.default_rng(3)
    images = [rng.integers(0, 256, (16 + 3 * i, 40 - 3 * i, 3), dtype=np.uint8) for i in range(7)]
    tokens = [mq.tokenize(image, config, "float64") for image in images]
    return deterministic_params(config, 1, "float64"), tokens, np.linspace(-1, 1, 7), config


def gradients(world):
    """Of all 7 images, one by one and in parts, without and with noise, and of the first image alone."""
    params, tokens, targets, config = problem()
    share = world.share(range(7), micro_batch=1)
    mine = [tokens[i] for i in share], targets[share.start : share.stop]
    plain = world_gradient(world, params, *mine, config, "huber")
    noisy = world_gradient(world, params, *mine, config, "huber", rates=RATES, seed=(4,))
    share = world.share(range(7), micro_batch=2)
    mine = [tokens[i] for i in share], targets[share.start : share.stop]
    parts = world_gradient(world, params, *mine, config, "huber", rates=RATES, seed=(4,), micro_batch=2)
    share = world.share(range(1))
    first = world_gradient(world, params, [tokens[i] for i in share], targets[share.start : share.stop], config)
    return [plain, noisy, parts, first]


def work(folder: Path, task: str) -> None:
    """What one of the processes does."""
    with together() as world:
        if task == "train":
            result = train(settings(), folder / "run", folder / "scores.csv", progress=False, world=world)
            given = {"gradients": gradients(world), "result": result, "threads": world.threads()}
            (folder / f"{world.rank}.pickle").write_bytes(pickle.dumps(given))
        if task == "fail" and world.rank == 1:
            raise ValueError("the camera is broken")
        if task == "fault" and world.rank == 1:
            raise KeyError("misspelt")
        world.from_first(lambda: 1)
        gradients(world)
        if task == "fail late" and world.rank == 0:
            raise OSError("the disk is full")


def launch(processes, *command, **environment):
    """mpiexec with that many processes; only the wheels of mpi4py and mpich are needed."""
    command = [str(MPIEXEC), "-n", str(processes), sys.executable, *map(str, command)]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=60, env={**os.environ, **ONE_THREAD, **environment}
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A data set of 8 images to train on and 4 to validate with."""
    folder, rng = tmp_path_factory.mktemp("parallel"), np.random.default_rng(5)
    lines = ["path,score,set"]
    for i in range(12):
        Image.fromarray(rng.integers(0, 256, (16 + i, 30 - i, 3), dtype=np.uint8)).save(folder / f"{i}.png")
        lines.append(f"{i}.png,{10 + 7 * i},{'training' if i < 8 else 'validation'}")
    (folder / "scores.csv").write_text("\n".join(lines))
    return folder


@pytest.fixture(scope="module")
def alone(folder):
    """One process: gradients, and the checkpoint after three steps."""
    params, tokens, targets, config = problem()
    whole = [
        batch_gradient(params, tokens, targets, config, "huber"),
        batch_gradient(params, tokens, targets, config, "huber", rates=RATES, seed=(4,)),
        batch_gradient(params, tokens, targets, config, "huber", rates=RATES, seed=(4,), micro_batch=2),
        batch_gradient(params, tokens[:1], targets[:1], config),
    ]
    result = train(settings(), folder / "alone", folder / "scores.csv", progress=False)
    return whole, result


def leaves(params):
    return [array for _, array in flatten(params)]


@pytest.mark.parametrize("processes", [2, 4])
def test_several_processes_take_the_steps_of_one(mpi4py, processes, folder, alone):
    run = folder / "run"
    if run.exists():
        run.rename(folder / f"run{processes}")
    done = launch(processes, __file__, folder, "train")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    given = [pickle.loads((folder / f"{rank}.pickle").read_bytes()) for rank in range(processes)]
    whole, expected = alone

    for one, several in zip(whole, zip(*(g["gradients"] for g in given), strict=True), strict=True):
        assert several[0].loss == pytest.approx(one.loss, rel=1e-12)
        np.testing.assert_allclose(several[0].scores, one.scores, rtol=1e-12)
        for name, array in flatten(one.gradients):
            [here] = [a for n, a in flatten(several[0].gradients) if n == name]
            np.testing.assert_allclose(here, array, rtol=1e-12, atol=1e-12 * np.abs(array).max(), err_msg=name)
        for other in several[1:]:  # the same bits on every process
            assert other.loss == several[0].loss
            for here, there in zip(leaves(other.gradients), leaves(several[0].gradients), strict=True):
                np.testing.assert_array_equal(here, there)

    for which in ("last", "best"):
        one, several = (mq.load_checkpoint(getattr(r, which), "float64") for r in (expected, given[0]["result"]))
        for here, there in zip(leaves(several.params), leaves(one.params), strict=True):
            np.testing.assert_allclose(here, there, rtol=1e-12, atol=1e-12)
    logs = [[json.loads(line) for line in r.log.read_text().splitlines()] for r in (expected, given[0]["result"])]
    assert [line.keys() for line in logs[0]] == [line.keys() for line in logs[1]]
    for one, several in zip(*logs, strict=True):
        assert several == pytest.approx(one, rel=1e-10)
    assert [g["result"].validation == {} for g in given] == [False] + [True] * (processes - 1)
    assert given[0]["threads"] == max(1, World().threads() // processes)


def test_the_command_prints_once_and_goes_on(mpi4py, folder):
    model = [f"--set=model.{name}={value}" for name, value in SIZES.items()]
    command = ["-m", "musiq_ref.cli", "train", "--recipe", "koniq", "--data", folder / "scores.csv", *model]
    command += [
        "-o",
        folder / "command",
        "--json",
        "--set=batch=4",
        "--set=dataset=csv",
        "--set=init=",
        "--set=threads=1",
    ]
    for epochs in (1, 2):
        done = launch(2, *command, f"--set=epochs={epochs}")
        assert (done.returncode, done.stderr) == (0, "")
        assert json.loads(done.stdout)["last"] == str(folder / "command" / "last.safetensors")
    steps = [json.loads(line)["step"] for line in (folder / "command" / "log.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 2, 3, 4, 4]
    done = launch(2, *command, "--set=batch=0")
    assert done.returncode != 0
    assert [line for line in done.stderr.splitlines() if line] == ["musiq-ref train: batch is 0; it must be above 0"]


def synthetic(folder, *changes):
    """A training that is short of nothing but an end."""
    tiny = [*(f"model.{name}={value}" for name, value in SIZES.items()), "fit_to_images=false", "side=16", "batch=4"]
    tiny += ["epoch_images=8", "epochs=9999", "save_every=9999", "threads=1", "warmup=0", *changes]
    return [
        "-m",
        "musiq_ref.cli",
        "train",
        "--recipe",
        "synthetic",
        "-o",
        folder,
        "--json",
        *(f"--set={t}" for t in tiny),
    ]


def test_a_folder_in_use_stops_all_in_one_sentence(mpi4py, tmp_path):
    with claimed(tmp_path / "run"):
        done = launch(2, *synthetic(tmp_path / "run"))
    assert done.returncode != 0
    [line] = [line for line in done.stderr.splitlines() if line]
    assert line.startswith("musiq-ref train: another training is at work in ")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_stops_all_and_saves_the_last_whole_step(mpi4py, number, tmp_path):
    command = [str(MPIEXEC), "-n", "2", sys.executable, *map(str, synthetic(tmp_path / "run", "ema=0"))]
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env={**os.environ, **ONE_THREAD}
    )
    log = tmp_path / "run" / "log.jsonl"
    while not log.exists() or len(log.read_bytes().splitlines()) < 6:
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == {signal.SIGINT: 130, signal.SIGTERM: 143}[number]
    assert err.count("musiq-ref train: ") == 1
    assert "Traceback" not in err
    with safe_open(tmp_path / "run" / "state.safetensors", "numpy") as file:
        assert json.loads(file.metadata()["numbers"])["step"] >= 3


@pytest.mark.parametrize(
    ("task", "said"),
    [
        ("fail", "TrainingError: rank 1 of 3: the camera is broken"),
        ("fail late", "OSError: the disk is full"),
        ("fault", "KeyError: 'misspelt'"),
    ],
)
def test_one_that_fails_stops_all_and_is_heard(mpi4py, task, said, folder):
    done = launch(3, __file__, folder, task)
    assert done.returncode != 0
    assert said in done.stderr
    assert done.stderr.count("Traceback") == (2 if task == "fault" else 1)


def test_processes_that_do_not_see_each_other_are_refused(mpi4py, folder):
    """As when the mpiexec of Open MPI starts an mpi4py that was built with MPICH: each would think itself alone."""
    done = launch(1, __file__, folder, "", OMPI_COMM_WORLD_SIZE="4")
    assert done.returncode != 0
    assert "TrainingError: 4 processes were started that do not see each other; use the mpiexec that" in done.stderr


def test_without_mpi4py_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    with together() as world:
        assert world == World()
    monkeypatch.setenv("PMI_SIZE", "2")
    with pytest.raises(TrainingError, match=r"2 processes .* need mpi4py .*pip install 'musiq_ref\[mpi\]'"), together():
        pass


def test_shares_are_whole_parts_and_leave_nothing_out():
    for size in range(1, 6):
        for length in range(12):
            for part in range(1, 4):
                shares = [list(World(rank, size).share(range(length), part)) for rank in range(size)]
                assert [i for share in shares for i in share] == list(range(length))
                assert all(share[0] % part == 0 for share in shares if share)
                parts = [-(-len(share) // part) for share in shares]
                assert max(parts) - min(parts) <= 1


def test_alone_nothing_is_exchanged():
    world, mine = World(), BatchGradient(1.0, {}, np.zeros(2))
    assert world.sum_gradients(mine) is mine
    assert world.gather(mine.scores) is mine.scores
    with pytest.raises(KeyError, match="own"), together():
        raise KeyError("own")


if __name__ == "__main__":
    work(Path(sys.argv[1]), sys.argv[2])
