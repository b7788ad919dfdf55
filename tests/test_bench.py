"""`musiq-ref bench`: it counts the right products, measures whom it says, in the right direction. No time is judged."""

from __future__ import annotations

import importlib
import json
import os
import runpy
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from cupy_double import BACKEND, counters

import musiq_ref as mq
from musiq_ref.backend import NUMPY
from musiq_ref.bench import contenders, measure, parts, products
from musiq_ref.bench.cases import CASES, Case, chosen, pictures
from musiq_ref.bench.contender import FLOOR, OURS
from musiq_ref.bench.machine import OVERRIDES, peak_mib
from musiq_ref.bench.ours import Ours
from musiq_ref.bench.tables import file_name, header, markdown, notes, rows, text
from musiq_ref.bench.worker import Worker
from musiq_ref.cli import main
from musiq_ref.outputs import is_ours
from musiq_ref.scorers import Scorer

ROOT = Path(__file__).parent.parent
SMALL = {  # every kind, of a size that takes no time
    "score": Case("score-small", "score", ((40, 70), (64, 33)), 2),
    "folder": Case("folder-small", "folder", ((40, 70), (64, 33)), 2),
    "image_gradient": Case("gradient-small", "image_gradient", ((40, 70),), 2),
    "forward_backward": Case("both-small", "forward_backward", ((40, 70),), 2),
    "training_step": Case("training-small", "training_step", 4 * ((400, 400),), 2, share=1 / 2, native=20),
    "training by recipe": Case("recipe-small", "training_step", 4 * ((400, 400),), 2, native=20, recipe="koniq"),
}


@pytest.fixture
def run(capsys):
    def call(*arguments):
        try:
            code = main(["bench", "--preset", "tiny", "--threads", "1", *map(str, arguments)])
        except SystemExit as stopped:
            code = stopped.code
        return code, *capsys.readouterr()

    return call


@pytest.fixture
def no_torch(monkeypatch):
    monkeypatch.setattr(contenders, "find_spec", lambda name: None)


@pytest.fixture
def small_parts(monkeypatch):
    monkeypatch.setattr(measure, "PARTS", {"score-31x500": (parts.score_parts, (OURS, "PyTorch"))})


# ---- counts


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("size", [(31, 500), (427, 640)])
@pytest.mark.parametrize("config", [mq.MusiqConfig(outputs=10), mq.MusiqConfig.preset("tiny", stem="linear")], ids=str)
def test_the_products_of_the_forward_are_those_of_the_counts(config, size, padded):
    counted = mq.complexity(config, size, padded).macs_by_part
    ours = dict.fromkeys(counted, 0)
    for product in products.forward_products(config, size, padded):
        ours[product.part] += product.macs
    assert ours == counted


def test_what_takes_many_minutes_is_taken_only_if_it_is_asked_for():
    usual, long = chosen([], quick=False), chosen(["score-6000*", "*3000x4000"], quick=False)
    assert {case.name for case in long} == {"score-6000x8000", "score-3000x4000", "image-gradient-3000x4000"}
    assert {case.name for case in long} & {case.name for case in usual} == {"score-3000x4000"}


def test_gradients_take_the_products_that_they_need():
    config = mq.MusiqConfig()
    forward = mq.complexity(config, (427, 640), padded=False)
    attention = forward.macs_by_part["encoder/attention/products"]
    [gradient] = chosen(["image-*x640"], quick=False)
    assert products.macs(gradient, config) == 2 * forward.macs + attention
    [both] = chosen(["forward-backward-427*"], quick=False)
    assert products.macs(both, config) == 3 * mq.complexity(config, (427, 640)).macs
    [step] = chosen(["training-step-96*"], quick=False)
    one = mq.complexity(step.config("small"), (1024, 1024))
    assert one.tokens == 705
    assert products.macs(step, step.config("small")) == 96 * (3 * one.macs - one.macs_by_part["stem/conv_root"])


@pytest.mark.parametrize("kind", SMALL)
@pytest.mark.parametrize("threads", [1, 3])
def test_the_floor_does_the_products_that_are_counted(kind, threads, monkeypatch, tmp_path):
    case, done = SMALL[kind], []
    run = products.Products("tiny", threads, str(tmp_path)).prepare(case)
    multiply = np.matmul

    def counting(x, w, out):
        done.append(x.shape[0] * x.shape[1] * w.shape[1])
        return multiply(x, w, out=out)

    monkeypatch.setattr("musiq_ref.bench.products.np.matmul", counting)
    run()
    assert sum(done) == products.macs(case, case.config("tiny")) * case.share


def test_square_pictures_fill_the_tokens_of_a_training_step():
    for case in chosen(["training-*"], quick=False):
        tokens = mq.complexity(case.config("small"), case.sizes[0]).tokens
        assert tokens == mq.complexity(case.config("small"), case.sizes[0], padded=False).tokens
        assert case.name == f"training-step-{len(case.sizes)}x{tokens}"


# ---- who is measured


@pytest.mark.parametrize("kind", SMALL)
def test_a_case_computes_what_anybody_would(kind, tmp_path):
    case, ours = SMALL[kind], Ours("tiny", 1, str(tmp_path))
    values, checkpoint = ours.prepare(case)(), ours.checkpoint(case)
    if kind == "folder":
        files = sorted((tmp_path / case.name).iterdir())
        assert values == pytest.approx([s.value for s in mq.score(files, checkpoint)], abs=1e-5)
    elif kind in ("score", "image_gradient", "forward_backward"):
        image = pictures(case)[0]
        assert values[0] == pytest.approx(mq.score(image, checkpoint)[0].value, abs=1e-5)
    else:
        assert values[0] > 0


def test_a_training_step_takes_the_batch_piece_by_piece(tmp_path):
    """Two halves, then the first again, after two steps."""
    case = SMALL["training_step"]
    run = Ours("tiny", 1, str(tmp_path)).prepare(case)
    first, second, again = run()[0], run()[0], run()[0]
    whole = Ours("tiny", 1, str(tmp_path)).prepare(case._replace(share=1.0))()[0]
    assert first + second == pytest.approx(whole, rel=1e-3)
    assert first != second
    assert again == pytest.approx(first, rel=1e-2)
    assert again < first


@pytest.mark.parametrize("kind", SMALL)
def test_pytorch_computes_the_same(kind, torch, tmp_path):
    from musiq_ref.bench.rivals import Torch

    case, threads = SMALL[kind], torch.get_num_threads()
    both = {name: make("tiny", 1, str(tmp_path)).prepare(case)() for name, make in ((OURS, Ours), ("PyTorch", Torch))}
    torch.set_num_threads(threads)
    assert len(both[OURS]) == len(both["PyTorch"]) > 0
    rounding = 1e-3 if "gradient" in kind or "backward" in kind else 1e-4  # of a ReLU that decides otherwise: 2e-4
    assert measure.disagreement(both) < rounding


@pytest.fixture
def on_double(monkeypatch):
    """--backend names the stand-in for CuPy."""
    chosen = {"numpy": NUMPY, "double": BACKEND}
    for module in ("bench.contender", "scorers"):
        monkeypatch.setattr(f"musiq_ref.{module}.get_backend", chosen.__getitem__)
    monkeypatch.setattr("musiq_ref.bench.ours.card", lambda device: {"card": "none"})


@pytest.mark.parametrize("kind", SMALL)
def test_a_backend_computes_the_same(kind, tmp_path, on_double):
    case, double = SMALL[kind], Ours("tiny", 1, str(tmp_path), "double")
    host = Ours("tiny", 1, str(tmp_path))
    run = double.prepare(case)
    counters.reset()
    values = run()
    assert counters.transfers > 0  # it was the backend that computed
    if kind in ("score", "folder"):  # which ask for the backend themselves
        images = sorted((tmp_path / case.name).iterdir()) if kind == "folder" else pictures(case)
        expected = [Scorer(double.checkpoint(case))(image).value for image in images]
    else:
        assert double.model(case)[0]["class_token"].__class__.__name__ == "Double"
        expected = host.prepare(case)()
    assert values == pytest.approx(expected, rel=5e-6)  # float32: 6e-7 measured


@pytest.mark.parametrize("kind", SMALL)
def test_the_floor_of_a_backend_does_the_products_that_are_counted(kind, tmp_path, on_double, monkeypatch):
    case, done, multiply = SMALL[kind], [], products.fused.product
    run = products.Products("tiny", 1, str(tmp_path), "double").prepare(case)

    def counting(x, w):
        done.append(x.shape[0] * x.shape[1] * w.shape[1])
        return multiply(x, w)

    monkeypatch.setattr(products.fused, "product", counting)
    run()
    assert sum(done) == products.macs(case, case.config("tiny")) * case.share


class Planted:
    """A contender that sleeps, allocates, fails or ends, and returns a number."""

    seconds, mib, value, problem = 0.0, 0, 2.0, ""

    def __init__(self, preset, threads, scratch, backend="numpy"):
        self.about = {"planted": f"{threads} threads"}

    def prepare(self, case):
        return self.go

    peak = staticmethod(peak_mib)

    def go(self):
        time.sleep(self.seconds)
        held = np.ones((self.mib, 2**17))
        if self.problem == "ends":
            os._exit(9)
        if self.problem:
            raise ValueError(self.problem)
        return [self.value + 0 * held.size]

    def score(self, case):
        raise NotImplementedError


class Slow(Planted):
    seconds = 0.1


class Hungry(Planted):
    mib = 300


class Wrong(Planted):
    value = 3.0


class Failing(Planted):
    problem = "no such luck"


class Ending(Planted):
    problem = "ends"


class Late(Planted):
    """Fails in the second run."""

    def go(self):
        self.problem, before = "too late", self.problem
        return super().go() if before else [self.value]


def measured(tmp_path, makers, case=SMALL["score"], quick=True, say=lambda what: None):
    report = {}
    setup = measure.Setup(makers, "tiny", 1, quick, str(tmp_path))
    measure.measure(setup, [case._replace(quick=2)], report, say)
    return report


def test_a_slow_function_has_a_ratio_above_1(tmp_path):
    report = measured(tmp_path, {OURS: Slow, FLOOR: Planted, "PyTorch": Planted})
    [row] = report["results"]
    assert row["ratios"]["PyTorch"]["median"] > 1 < row["ratios"][FLOOR]["median"]
    assert row["gflops"][OURS] < row["gflops"][FLOOR]
    [row] = measured(tmp_path, {OURS: Planted, FLOOR: Slow, "PyTorch": Slow})["results"]
    assert row["ratios"]["PyTorch"]["median"] < 1 > row["ratios"][FLOOR]["median"]
    assert len(row["runs"]["PyTorch"]) == len(row["runs"][OURS]) == 2


def test_times_of_a_share_are_those_of_the_whole(tmp_path):
    report = measured(tmp_path, {OURS: Slow, FLOOR: Slow}, SMALL["score"]._replace(share=1 / 8))
    assert report["results"][0]["seconds"][OURS]["low"] >= 8 * Slow.seconds


def test_memory_is_of_the_thing_measured(tmp_path):
    held = np.ones((400, 2**17))  # 400 MiB here, which must not show there
    makers = {OURS: Planted, FLOOR: Planted, "PyTorch": Hungry}
    [row] = measured(tmp_path, makers, quick=False)["results"]
    modest, hungry = (row["peak_mib"][name] for name in (OURS, "PyTorch"))
    assert 280 < hungry - modest < 340
    assert modest < held.nbytes / 2**20


def test_contenders_run_in_turn_in_changing_order():
    order = []
    seconds = {}
    measure.interleaved({name: lambda name=name: order.append(name) or 1.0 for name in "abc"}, 3, seconds)
    assert "".join(order) == "abccbaabc"
    assert seconds == {name: [1.0, 1.0, 1.0] for name in "abc"}


def test_other_results_are_noticed(tmp_path):
    report = measured(tmp_path, {OURS: Planted, FLOOR: Planted, "PyTorch": Wrong})
    assert report["results"][0]["disagreement"] == pytest.approx(0.5)
    assert any("WARNING" in line for line in notes(report))


@pytest.mark.parametrize(
    ("rival", "reason"), [(Failing, "no such luck"), (Ending, "its process ended (exit code 9)"), (Late, "too late")]
)
def test_a_rival_that_fails_is_left_out(rival, reason, tmp_path):
    report = measured(tmp_path, {OURS: Planted, FLOOR: Planted, "PyTorch": rival})
    assert reason in report["left_out"]["PyTorch, score-small"]
    assert list(report["results"][0]["runs"]) == [OURS, FLOOR]
    assert report["complete"]
    with pytest.raises(RuntimeError, match="musiq_ref: "):
        measured(tmp_path, {OURS: rival, FLOOR: Planted})


def environment_of(contender):
    return {name: os.environ.get(name) for name in (*OVERRIDES, "OPENBLAS_NUM_THREADS")}


def test_measurements_go_without_another_kernel(tmp_path, monkeypatch):
    for name in OVERRIDES:
        monkeypatch.setenv(name, "Haswell")
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "7")
    with Worker("planted", Planted, 3, "tiny", 3, "") as worker:
        assert worker.about == {"planted": "3 threads"}
        inside = worker.call(environment_of)
    assert inside == dict.fromkeys(OVERRIDES) | {"OPENBLAS_NUM_THREADS": "3"}
    assert os.environ["OPENBLAS_CORETYPE"] == "Haswell"
    assert os.environ["OPENBLAS_NUM_THREADS"] == "7"


# ---- parts


def test_the_time_before_a_stage_is_its_parts(monkeypatch):
    clock = iter([0.0, 1.0, 1.0, 3.0, 3.0, 7.0, 7.0])
    monkeypatch.setattr(parts.time, "perf_counter", lambda: next(clock))
    watch = parts.Stopwatch()
    for name in ("stem/conv1", "encoder/block_00/attention/out", "encoder/block_00/mlp/fc1"):
        watch(name, None)
    assert watch.parts == {"stem": 1.0, "attention": 2.0, "MLP": 4.0}


def test_on_the_way_back_the_time_is_the_stages_before(monkeypatch):
    clock = iter([0.0, 1.0, 1.0, 3.0, 3.0, 7.0, 7.0])
    monkeypatch.setattr(parts.time, "perf_counter", lambda: next(clock))
    watch = parts.Stopwatch(late=True)
    for name in ("encoder/block_00/mlp/fc1", "encoder/block_00/attention/out", "stem/output"):
        watch(name, None)
    assert watch.parts == {"LayerNorm, residuals, the rest": 1.0, "MLP": 2.0, "attention": 4.0}


def test_parts_have_all_products(tmp_path):
    ours = Ours("tiny", 1, str(tmp_path))
    case = SMALL["score"]
    found = parts.score_parts(ours, case)
    assert sum(part.macs for part in found) == products.macs(case, case.config("tiny"))
    both = SMALL["forward_backward"]
    found = parts.text_parts(ours, both)
    head = mq.complexity(both.config("tiny"), both.sizes[0]).macs_by_part["head"]
    assert sum(part.macs for part in found) == products.macs(both, both.config("tiny")) - 3 * head
    assert {part.name.rpartition(", ")[0] for part in found} == set(parts.STAGES.values())


def test_the_cases_with_parts_exist():
    assert parts.PARTS.keys() <= {case.name for case in CASES}


# ---- the command


def test_the_command_without_pytorch(run, no_torch, small_parts, tmp_path):
    code, out, err = run("--quick", "--only", "score-31x500", "--only", "score-300*", "--json", tmp_path / "a.json")
    assert code == 0, err
    assert "left out: PyTorch (not installed: pip install 'musiq_ref[verify]'" in out
    report = json.loads((tmp_path / "a.json").read_text("utf-8"))
    assert is_ours(tmp_path / "a.json")
    check_schema(report, {OURS, FLOOR})
    assert [row["name"] for row in report["results"]] == ["score-31x500", "score-300x451"]
    assert [row["parts"].keys() for row in report["results"]] == [{OURS}, set()]
    assert "score-31x500, musiq_ref\npart" in out
    assert text(report) == out
    assert "of PyTorch's time" not in rows(report)[0]


def test_the_command_with_pytorch(run, torch, tmp_path):
    code, out, err = run("--quick", "--only", "score-31x500", "--json", tmp_path, "--markdown")
    assert code == 0, err
    [file] = tmp_path.iterdir()
    report = json.loads(file.read_text("utf-8"))
    assert file.name == file_name(report["machine"]["processor"])
    check_schema(report, {OURS, FLOOR, "PyTorch"})
    assert report["machine"]["pytorch"] == torch.__version__
    assert report["results"][0]["disagreement"] < 1e-4
    assert markdown(report) == out
    assert "of PyTorch's time" in out


def check_schema(report, names):
    assert report["made_by"] == "musiq_ref"
    assert report["complete"] is report["quick"] is True
    machine = report["machine"]
    assert machine.keys() >= {"processor", "cores", "threads", "blas", "kernel", "numpy", "python", "load", "overrides"}
    assert machine["threads"] == 1
    for row in report["results"]:
        case = next(case for case in CASES if case.name == row["name"])
        assert row["runs"].keys() == row["seconds"].keys() == row["gflops"].keys() == names
        assert row["ratios"].keys() == names - {OURS}
        assert all(len(runs) == case.quick and min(runs) > 0 for runs in row["runs"].values())
        assert row["peak_mib"].keys() == {OURS}
        for spread in (*row["seconds"].values(), *row["ratios"].values()):
            assert 0 < spread["low"] <= spread["median"] <= spread["high"]
        assert row["macs"] == products.macs(case, case.config("tiny"))
        assert row["gflops"][OURS] == pytest.approx(2e-9 * row["macs"] / row["seconds"][OURS]["median"])
        for listed in row["parts"].values():
            assert sum(part["share"] for part in listed) == pytest.approx(1)


def test_a_kernel_that_is_forced_is_said_loudly(run, no_torch, monkeypatch, capsys):
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Prescott")
    code, out, _ = run("--quick", "--only", "score-31x500")
    assert code == 0
    assert "WARNING: OPENBLAS_CORETYPE=Prescott is set" in out
    assert "kernel Prescott" not in out


@pytest.mark.parametrize(("load", "busy"), [(None, False), (0.3, False), (1.9, True)])
def test_a_busy_machine_is_said_loudly(load, busy):
    machine = dict.fromkeys(("processor", "threads", "blas", "kernel", "numpy", "python", "system", "musiq_ref"), "")
    report = {"machine": machine | {"cores": 2, "load": load, "overrides": {}}, "preset": "small", "quick": False}
    assert any("WARNING" in line for line in header(report | {"left_out": {}})) is busy


def test_an_interrupt_shows_what_there_is(run, no_torch, monkeypatch, tmp_path):
    def interrupted(bar, what):
        if what == "score-300x451: musiq_ref":
            raise KeyboardInterrupt

    monkeypatch.setattr("musiq_ref.cli.bench._say", interrupted)
    code, out, err = run("--quick", "--only", "score-3*", "--json", tmp_path / "a.json")
    assert code == 130
    assert err.endswith("musiq-ref bench: stopped; no file is half written; the same command begins anew\n")
    assert "score-31x500" in out
    assert "It was stopped before its end." in out
    report = json.loads((tmp_path / "a.json").read_text("utf-8"))
    assert not report["complete"]
    assert [row["name"] for row in report["results"]] == ["score-31x500"]


def test_a_picture_of_it(run, no_torch, small_parts, tmp_path):
    pytest.importorskip("matplotlib")
    assert run("--quick", "--only", "score-31x500", "--plot", tmp_path / "a.svg")[0] == 0
    assert is_ours(tmp_path / "a.svg")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--only", "score-31x50"], "no benchmark is called 'score-31x50'; there are score-31x500, "),
        (["--only", "score-31x50"], "did you mean 'score-31x500'?"),
        (["--quick", "--only", "score-3000*"], "--quick leaves score-3000x4000 out; run it without --quick"),
        (["--backend", "abacus"], "no backend is called 'abacus'; there are: "),
        (["--threads", "999"], "--threads is 999, but this process may use "),
        (["--json", "no/such/folder.json"], "there is no folder no/such; make it first"),
        (["--json", "speed.txt"], "speed.txt does not end in .json; name another"),
        (["--plot", "speed.gif"], "speed.gif does not end in .png or .svg or .pdf; name another"),
    ],
)
def test_bad_use_is_one_sentence_before_anything_runs(arguments, sentence, run, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("musiq_ref.cli.bench.measure", None)
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert sentence in err
    assert len(err.splitlines()) == 1


def test_somebody_elses_file_stays(run, tmp_path, monkeypatch):
    monkeypatch.setattr("musiq_ref.cli.bench.measure", None)
    (tmp_path / "a.json").write_text("{}")
    code, _, err = run("--json", tmp_path / "a.json")
    assert code == 2
    assert "was not written by musiq-ref" in err


def test_a_plot_without_matplotlib_is_refused_before_the_work(run, monkeypatch, tmp_path):
    monkeypatch.setattr("musiq_ref.cli.bench.can_draw", lambda: False)
    monkeypatch.setattr("musiq_ref.cli.bench.measure", None)
    code, _, err = run("--plot", tmp_path / "a.png")
    assert code == 2
    assert "--plot needs matplotlib; install it with: pip install 'musiq_ref[pictures]'" in err


def test_the_tables_of_the_documentation_are_those_of_the_reports(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    tables = importlib.import_module("speed_tables")
    assert tables.reports()
    assert tables.page() == tables.PAGE.read_text("utf-8"), "write it again: python benchmarks/speed_tables.py"
    assert tables.readme() == tables.README.read_text("utf-8"), "write it again: python benchmarks/speed_tables.py"
    sys.modules.pop("speed_tables")


@pytest.mark.parametrize("name", ["calibrate_distortions", "gpu", "measure_conventions", "speed_tables"])
def test_a_script_that_nothing_else_runs_finds_what_it_imports(name, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))  # as Python does for a script
    runpy.run_path(str(ROOT / "benchmarks" / f"{name}.py"), run_name="not main")
