"""Scores by a Dask cluster, a real one of two workers: the same as here, exactly once, whatever is killed."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import musiq_ref as mq
from musiq_ref import cluster
from musiq_ref.cli import main
from musiq_ref.cluster import ClusterError, Model, _Run, check_versions, score_on_cluster
from musiq_ref.extras import needs
from musiq_ref.verify import deterministic_params

HERE = Path(__file__).parent
SIZES = {"layers": 1, "width": 8, "mlp_width": 6, "heads": 2, "patch_size": 8, "grid_size": 3, "longer_sides": [12]}
CONFIG = mq.MusiqConfig(**SIZES)
IMAGES, POISON = 40, 17


def slowly(pixels):
    """What workers do before they score, so that there is time to kill them."""
    time.sleep(0.1)
    return pixels


def deadly(pixels):
    """Kills the worker that is given the picture of that height."""
    if len(pixels) == 16 + POISON:
        os.kill(os.getpid(), signal.SIGKILL)
    return pixels


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Pictures and a model."""
    folder, rng = tmp_path_factory.mktemp("folder"), np.random.default_rng(1)
    for i in range(IMAGES):
        Image.fromarray(rng.integers(0, 256, (16 + i, 60 - i, 3), dtype=np.uint8)).save(folder / f"{i:02}.png")
    mq.save_checkpoint(folder / "m.safetensors", deterministic_params(CONFIG, 2), CONFIG)
    lines = ["path,score", *(f"{i:02}.png,{(i * 7) % 40}" for i in range(IMAGES))]
    (folder / "labels.csv").write_text("\n".join(lines))
    return folder


@pytest.fixture(scope="module")
def started(distributed, tmp_path_factory):
    """The address of a scheduler with two workers, in which one death condemns what the worker had to do."""
    place = tmp_path_factory.mktemp("cluster")
    variables = {"DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "0", "PYTHONPATH": f"{HERE}:{HERE.parent}"}
    words = ["--no-dashboard", "--scheduler-file", place / "scheduler.json"]
    with open(place / "log", "w") as log:

        def start(*arguments):
            command = [sys.executable, "-m", "dask", *map(str, arguments)]
            environment = {**os.environ, **variables}
            return subprocess.Popen(command, stdout=log, stderr=log, env=environment, cwd=place)

        processes = [start("scheduler", "--host", "127.0.0.1", "--port", 0, *words)]
        processes.append(start("worker", "--nworkers", 2, "--nthreads", 1, *words))
        while not (place / "scheduler.json").exists():
            assert processes[0].poll() is None, (place / "log").read_text()
            time.sleep(0.1)
        try:
            yield json.loads((place / "scheduler.json").read_text())["address"]
        finally:
            for process in processes[::-1]:
                process.terminate()
            for process in processes:
                process.wait(20)


@pytest.fixture
def client(started, distributed):
    """A client of the cluster, once both workers are there."""
    with distributed.Client(started, set_as_default=False) as client:
        client.wait_for_workers(2, timeout=60)
        yield client


@pytest.fixture
def model(folder):
    name = str(folder / "m.safetensors")
    return Model.of(name, mq.load_checkpoint(name), mq.scorer(name))


@pytest.fixture
def images(folder):
    return sorted(folder.glob("??.png"))


@pytest.fixture
def expected(images, folder):
    return [one.value for one in mq.score(images, folder / "m.safetensors", threads=1)]


def read(path):
    with open(path, newline="", encoding="utf-8") as file:
        return sorted(csv.reader(file))


# ---- a real cluster


def test_the_table_is_that_of_this_machine_to_the_bit(started, folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    (folder / "bad.png").write_bytes(b"no picture")
    command = ["score", ".", "gone.png", "--checkpoint", "m.safetensors", "--threads", "1", "--csv"]
    assert main([*command, str(tmp_path / "here.csv")]) == 1
    command[5:7] = ["--scheduler", started]
    capsys.readouterr()
    assert main([*command, str(tmp_path / "there.csv"), "--json"]) == 1
    (folder / "bad.png").unlink()
    assert read(tmp_path / "there.csv") == read(tmp_path / "here.csv")
    names = [row["path"] for row in json.loads(capsys.readouterr().out)]
    assert names == [*sorted(names[:-1]), "gone.png"]  # in the order in which they were named
    assert len(names) == IMAGES + 2


def test_workers_may_be_killed(client, started, model, images, expected):
    found, killed = {}, []
    for i, score in score_on_cluster(started, model, images, slowly):
        assert i not in found
        found[i] = score.value
        if len(found) in (3, 12, 24):
            process = next(iter(client.run(os.getpid).values()))
            os.kill(process, signal.SIGKILL)
            killed.append(process)
    assert len(set(killed)) == 3
    assert [found[i] for i in range(IMAGES)] == expected


def test_one_image_that_kills_every_worker_does_not_stop_the_rest(client, started, model, images, expected):
    results = list(score_on_cluster(started, model, images, deadly))
    assert Counter(i for i, _ in results) == Counter(range(IMAGES))
    found = dict(results)
    error = found.pop(POISON)
    assert str(error).startswith(f"{images[POISON]}: every worker that scored it was killed")
    assert {i: score.value for i, score in found.items()} == {i: expected[i] for i in range(IMAGES) if i != POISON}


def test_the_client_may_be_killed(client, started, folder, tmp_path, capsys):
    many = tmp_path / "many"
    many.mkdir()
    for i in range(400):
        os.link(folder / f"{i % IMAGES:02}.png", many / f"{i:03}.png")
    table = tmp_path / "s.csv"
    words = ["score", str(many), "--checkpoint", str(folder / "m.safetensors"), "--csv", str(table), "--resume"]
    words += ["--scheduler", started]
    with subprocess.Popen([sys.executable, "-m", "musiq_ref", *words], stdout=subprocess.PIPE) as process:
        assert process.stdout
        for _ in range(20):
            process.stdout.readline()
        process.kill()
    before = len(read(table))
    assert 20 <= before - 1 < 400
    assert main(words) == 0
    assert f"{before - 1} of 400 images have their scores" in capsys.readouterr().err
    assert Counter(row[0] for row in read(table)) == Counter(["path", *(str(one) for one in many.iterdir())])


def test_a_checkpoint_that_workers_do_not_see_is_sent_once(
    client, started, model, images, expected, folder, monkeypatch
):
    asked = []

    def find(name):
        asked.append(name)
        return folder / "m.safetensors"

    monkeypatch.setattr(cluster, "find_checkpoint", find)
    unseen = model._replace(checkpoint="/nowhere/m.safetensors")
    results = dict(score_on_cluster(started, unseen, images))
    assert [results[i].value for i in range(IMAGES)] == expected
    assert asked == ["/nowhere/m.safetensors"]
    with pytest.raises(ClusterError, match="does not reach the workers; put it where they see it"):
        list(score_on_cluster(started, unseen._replace(mark="another official float32"), images))


def test_another_version_in_the_workers_is_a_sentence(client, started, model, images):
    with pytest.raises(ClusterError, match=rf"^a worker has musiq_ref {mq.__version__}, and this is 0\.0; install"):
        list(score_on_cluster(started, model._replace(version="0.0"), images))


def test_evaluate_finds_the_same(client, started, folder, capsys):
    command = ["evaluate", "--dataset", str(folder / "labels.csv"), "--all", "--json", "--resamples", "20"]
    command += ["--checkpoint", str(folder / "m.safetensors"), "--shorter-side", "12"]
    answers = []
    for options in ([], ["--scheduler", started]):
        assert main([*command, *options]) == 0
        answers.append(json.loads(capsys.readouterr().out))
    assert answers[0] == answers[1]


def test_where_no_scheduler_answers(distributed, model, images, monkeypatch, capsys):
    monkeypatch.setattr(cluster, "PATIENCE", 1.0)
    for address in ("tcp://127.0.0.1:9", "127.0.0.1", "ftp://127.0.0.1:9"):
        with pytest.raises(ClusterError, match=f"^no scheduler answers at {address} .*; start one"):
            list(score_on_cluster(address, model, images))


# ---- without one


def client_with(workers):
    def nthreads():
        if workers is None:
            raise OSError
        return workers

    return SimpleNamespace(nthreads=nthreads)


def test_a_scheduler_without_workers_and_one_that_is_gone(model, monkeypatch):
    monkeypatch.setattr(cluster, "PATIENCE", 0.3)
    for workers, words in (({}, "the scheduler has no workers; start some: dask worker"), (None, "scheduler was lost")):
        with pytest.raises(ClusterError, match=words):
            _Run(client_with(workers), model, [], [], None).threads()
    later: dict = {}
    threading.Timer(0.1, later.update, [{"tcp://a": 3}]).start()
    assert _Run(client_with(later), model, [], [], None).threads() == 3


def test_images_that_only_this_machine_sees(model, images, tmp_path):
    gone = str(tmp_path / "gone.png")
    run = _Run(None, model, ["gone.png", *images], [gone, *map(str, images)], None)
    assert str(run._checked(0, None)) == "gone.png does not exist; check the path"
    with pytest.raises(ClusterError, match=r"a worker does not see .*00\.png; put images where all see them"):
        run._checked(1, None)


def test_of_a_file_that_a_worker_does_not_see_it_says_nothing(model, images, monkeypatch):
    monkeypatch.setattr(cluster, "_scorer", lambda model: mq.scorer(model.checkpoint))
    gone, there = cluster.score_batch(model, [str(images[0]) + ".gone", str(images[0])], None)
    assert gone is None
    assert isinstance(there, mq.Score)


def test_versions_that_differ_are_a_sentence():
    def packages(distributed, python):
        return {"packages": {"distributed": distributed, "python": python}}

    here = packages("2026.8.0", "3.12.1.final.0")
    same = packages("2026.8.0", "3.12.9.final.0")
    check_versions({"client": here, "scheduler": same, "workers": {"tcp://a": same}})
    with pytest.raises(ClusterError, match=r"the scheduler has distributed 2025\.1\.0, and this is 2026\.8\.0; i"):
        check_versions({"client": here, "scheduler": packages("2025.1.0", "3.12.1"), "workers": {}})
    with pytest.raises(ClusterError, match=r"the worker tcp://a has Python 3\.13, and this is 3\.12"):
        check_versions({"client": here, "scheduler": same, "workers": {"tcp://a": packages("2026.8.0", "3.13.0")}})


def test_without_dask_it_is_a_sentence(folder, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "distributed", None)
    command = [
        "score",
        str(folder / "00.png"),
        "--checkpoint",
        str(folder / "m.safetensors"),
        "--scheduler",
        "tcp://a:1",
    ]
    assert main(command) == 2
    assert f"a cluster needs Dask; install it with: {needs('dask')}" in capsys.readouterr().err


def test_options_that_say_nothing_to_a_cluster(folder, capsys):
    for options, words in (
        (["-"], "a cluster reads files"),
        (["a", "--threads", "2"], "--threads is of this"),
    ):
        assert main(["score", *options, "--scheduler", "tcp://a:1"]) == 2
        assert words in capsys.readouterr().err
    assert main(["evaluate", "--dataset", "synthetic", "--scheduler", "tcp://a:1"]) == 2
