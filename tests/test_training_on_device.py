"""A training run on a device: NumPy's numbers, waited for a few times a step, and files that either can go on with."""

from __future__ import annotations

import json
import os
import platform
from types import SimpleNamespace

import cupy_double
import numpy as np
import pytest
from cupy_double import BACKEND, Double, counters
from test_golden_training import MODEL, data_set

import musiq_ref as mq
from musiq_ref.backend import VISIBLE, BackendError, get_backend
from musiq_ref.cli import main
from musiq_ref.cli.train import use_own_device
from musiq_ref.model.inference import predict
from musiq_ref.model.parameters import flatten
from musiq_ref.ordered import in_order
from musiq_ref.training import run as run_module
from musiq_ref.training.parallel import World
from musiq_ref.training.run import train
from musiq_ref.training.settings import Settings
from musiq_ref.training.state import TrainingError, load_state
from musiq_ref.training.step import BatchGradient

RUN = Settings(
    dataset="csv",
    model={**MODEL, "layers": 1},
    optimizer="adamw",
    learning_rate=1e-3,
    batch=3,
    epochs=2,
    dtype="float64",
    clip=1.0,
    ema=0.5,
    normalize_targets=True,
    dropout=0.1,
    threads=2,
)


@pytest.fixture(autouse=True)
def _double(monkeypatch):
    monkeypatch.setattr(run_module, "get_backend", lambda name: BACKEND if name == "double" else get_backend(name))


@pytest.fixture
def table(tmp_path):
    """6 images to train on and 3 to validate with."""
    (tmp_path / "data").mkdir()
    return data_set(tmp_path / "data", 6, 3)


def go(folder, table, backend, **changes):
    return train(RUN.replace(**changes), folder, table, progress=False, backend=backend)


def assert_same(one, other):
    """Checkpoints and logs agree to rounding, but for key biases: softmax ignores them, Adam makes rounding large."""
    there = dict(flatten(mq.load_checkpoint(other.last, "float64").params))
    for path, array in flatten(mq.load_checkpoint(one.last, "float64").params):
        if "key/bias" not in path:
            np.testing.assert_allclose(there[path], array, rtol=0, atol=1e-10, err_msg=path)
    assert one.validation == pytest.approx(other.validation, rel=1e-10)
    lines = [[json.loads(line) for line in result.log.read_text().splitlines()] for result in (one, other)]
    losses = [[line["loss"] for line in of_one if "loss" in line] for of_one in lines]
    assert losses[0] == pytest.approx(losses[1], rel=1e-10)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_run_is_numpys(table, tmp_path, optimizer):
    options = {"optimizer": optimizer, "optimizer_options": {"momentum": 0.9} if optimizer == "sgd" else {}}
    here, there = (go(tmp_path / name, table, name, **options) for name in ("numpy", "double"))
    assert_same(here, there)


@pytest.mark.parametrize("order", [("numpy", "double"), ("double", "numpy")])
def test_a_run_goes_on_with_another_backend(table, tmp_path, order):
    whole = go(tmp_path / "whole", table, "numpy", schedule="constant")
    for epochs, backend in enumerate(order, 1):
        go(tmp_path / "both", table, backend, epochs=epochs, schedule="constant")
    assert_same(whole, go(tmp_path / "both", table, order[1], schedule="constant"))  # which has nothing left to do
    files = [sorted(path.name for path in (tmp_path / name).iterdir()) for name in ("whole", "both")]
    assert files[0] == files[1]
    assert load_state(tmp_path / "both" / "state.safetensors", RUN.replace(schedule="constant")).step == 4


@pytest.mark.parametrize("batch", [2, 3])
def test_a_step_waits_four_times_whatever_the_batch(table, tmp_path, monkeypatch, batch):
    """For the losses, the norm, whether all is finite, and the scores; it uploads the images and their targets."""
    counts, real = [], run_module._one_step

    def counted(*arguments):
        counters.reset()
        made = real(*arguments)
        counts.append((counters.synchronisations, counters.transfers))
        assert all(type(array) is Double for _, array in flatten(made[0].params))
        return made

    monkeypatch.setattr(run_module, "_one_step", counted)
    go(tmp_path / "run", table, "double", batch=batch, dropout=0.0)
    uploads = batch * (len(mq.Tokens._fields) + 1)
    assert counts == [(4, 4 + uploads)] * (2 * 6 // batch)


def test_a_device_validates_and_takes_one_micro_batch_after_another(table, tmp_path, monkeypatch):
    scored, workers = [], []

    def watched(params, *rest, **options):
        scored.append(type(params["class_token"]))
        return predict(params, *rest, **options)

    def counted(run, items, threads, **options):
        workers.append(threads)
        return in_order(run, items, threads, **options)

    monkeypatch.setattr("musiq_ref.training.validation.predict", watched)
    monkeypatch.setattr("musiq_ref.training.step.in_order", counted)
    go(tmp_path / "run", table, "double", epochs=1)
    assert scored == [Double] * 3
    assert workers == [1, 1]


def test_finite_parameters_cost_one_wait_and_one_that_is_not_is_named():
    biases = {name: {"bias": BACKEND.from_numpy(np.arange(3.0))} for name in ("one", "two", "three")}
    params = {**biases, "class_token": BACKEND.from_numpy(np.zeros(2))}
    counters.reset()
    run_module._check_finite(params)
    assert counters.synchronisations == 1
    params["two"]["bias"][1] = np.inf
    with pytest.raises(ValueError, match=r"^parameter two/bias is not finite any more$"):
        run_module._check_finite(params)


def test_too_little_memory_on_the_gpu_is_a_sentence(table, tmp_path, monkeypatch):
    def full(*arguments, **options):
        raise MemoryError("Out of memory allocating 9,000,000,000 bytes")

    monkeypatch.setattr(run_module, "world_gradient", full)
    with pytest.raises(TrainingError, match=r"GPU's memory does not suffice for step 1; add --set recompute=true"):
        go(tmp_path / "run", table, "double")


def test_without_a_gpu_the_command_says_so_and_writes_nothing(table, tmp_path, monkeypatch, capsys):
    def nothing(name):
        raise BackendError("CuPy finds no NVIDIA driver on this machine; install one, or use the backend 'numpy'")

    monkeypatch.setattr(run_module, "get_backend", nothing)
    folder = tmp_path / "run"
    arguments = ["train", "--recipe", "koniq", "--data", str(table), "-o", str(folder), "--backend", "cupy"]
    assert main(arguments) == 2
    assert capsys.readouterr().err.strip().endswith("install one, or use the backend 'numpy'")
    assert not folder.exists()
    assert main(["train", "--ablation", "grid", "-o", str(folder), "--backend", "cupy"]) == 2
    assert "an ablation is trained on the processor" in capsys.readouterr().err


def communicator(nodes):
    """Of a process beside others that have nothing to add."""

    def reduce(mine, total):
        total[...] = 2 * mine

    return SimpleNamespace(
        allgather=lambda value: [value if node is None else (node, None) for node in nodes],
        Reduce=reduce,
        Bcast=lambda total: None,
    )


def test_gradients_are_added_over_processes_and_stay_on_the_device():
    world, mine = World(0, 1, communicator([None])), BACKEND.from_numpy(np.array([1.0, 2.0], "float32"))
    total = world.sum_gradients(BatchGradient(0.5, {"head": {"bias": mine}}, BACKEND.from_numpy(np.ones(3))))
    gradient = total.gradients["head"]["bias"]
    assert type(gradient) is Double
    assert gradient.dtype == np.float32
    np.testing.assert_array_equal(cupy_double.to_numpy(gradient), [2, 4])
    assert type(total.scores) is np.ndarray


@pytest.mark.parametrize(("visible", "chosen"), [("", "1"), ("4,6,7", "6"), ("5", "5")])
def test_every_process_takes_a_gpu_of_its_own(monkeypatch, visible, chosen):
    """The third of four, which has one neighbour before it; one that sees a single GPU has been given it."""
    monkeypatch.setenv(VISIBLE, visible)
    use_own_device(World(2, 4, communicator([platform.node(), "elsewhere", None, platform.node()])))
    assert os.environ[VISIBLE] == chosen


def test_a_process_alone_takes_what_it_sees(monkeypatch):
    monkeypatch.setenv(VISIBLE, "4,6")
    use_own_device(World())
    assert os.environ[VISIBLE] == "4,6"
