"""The ablations: their tables are the appendix's, their cells what the tables say, and a stopped grid goes on."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import musiq_ref as mq
from musiq_ref.ablations import ABLATIONS, ablation, grid, markdown, report, run_grid
from musiq_ref.ablations.processes import in_processes
from musiq_ref.ablations.run import _claim, run_cell
from musiq_ref.cli import main
from musiq_ref.config import PRESETS, MusiqConfig
from musiq_ref.counts import complexity
from musiq_ref.metrics import plcc, srcc
from musiq_ref.model.parameters import flatten
from musiq_ref.pictures.synthetic import SIDES, TEST_PHOTOGRAPHS, TRAINING_PHOTOGRAPHS, held_out_examples
from musiq_ref.training.folder import claimed
from musiq_ref.training.run import train
from musiq_ref.training.settings import recipe
from musiq_ref.training.state import TrainingError

TINY = {
    "side": 16,
    "epoch_images": 6,
    "batch": 2,
    "warmup": 0,
    "save_every": 1,
    "model": {"layers": 1, "width": 12, "mlp_width": 8, "heads": 2, "longer_sides": [16]},
    "held_out": {"crops": 1, "scenes": 1, "severities": [0.5, 1.0], "mixtures": 1},
}
APPENDIX = {  # tables 2 to 6, row by row
    "variants": [(0.916, 0.928), (0.918, 0.928), (0.916, 0.927)],
    "grid": [(0.720, 0.733), (0.723, 0.734), (0.726, 0.738), (0.722, 0.736), (0.724, 0.735), (0.722, 0.734)],
    "spatial": [(0.726, 0.738), (0.724, 0.735), (0.722, 0.734), (0.719, 0.733), (0.716, 0.730), (0.720, 0.733)],
    "patch_size": [(0.715, 0.729), (0.726, 0.738), (0.713, 0.727), (0.705, 0.719)],
    "native_patches": [(0.876, 0.895), (0.906, 0.923), (0.916, 0.928), None],
    "scales": [None] * 4 + [(0.726, 0.738)],
    "embeddings": [(0.726, 0.738), None, None, None],
    "stem": [(0.726, 0.738), None],
    "attention": [(0.726, 0.738)] + [None] * 6,
}


def options(**changes):
    """--set of every value, for the command line."""
    texts = []
    for name, value in {**TINY, **changes}.items():
        for key, leaf in value.items() if isinstance(value, dict) else [("", value)]:
            texts += ["--set", f"{name}{'.' * bool(key)}{key}={json.dumps(leaf)}"]
    return texts


def arrays(path):
    return dict(flatten(mq.load_checkpoint(path).params))


def same_files(a, b):
    """The same checkpoints and results, to the bit; returns how many cells there are."""
    ends = sorted(path.relative_to(a) for path in Path(a).glob("cells/*/*/last.safetensors"))
    assert ends == sorted(path.relative_to(b) for path in Path(b).glob("cells/*/*/last.safetensors"))
    for end in ends:
        for (path, x), (_, y) in zip(arrays(a / end).items(), arrays(b / end).items(), strict=True):
            assert np.array_equal(x, y), (end, path)
        result = end.with_name("result.json")
        assert (a / result).read_text() == (b / result).read_text()
    return len(ends)


@pytest.mark.parametrize("name", ABLATIONS)
def test_the_published_figures_are_the_appendixs(name):
    published = [
        (row.published["srcc"], row.published["plcc"]) if row.published else None for row in ablation(name).rows
    ]
    assert published == APPENDIX[name]


def test_the_rules_of_scaling_down_are_kept():
    """base.toml and the notes say how a published value becomes a small one; the brackets hold the published one."""
    base = grid("all").base.config()
    for row in ablation("variants").rows:
        large = PRESETS[row.setting.lower()]
        small = {name: round(large[name] / by) for name, by in (("layers", 7), ("width", 8), ("mlp_width", 8))}
        assert row.model == {**small, "heads": large["heads"]}
    published, native = MusiqConfig(), (96 // base.patch_size) ** 2
    assert ablation("variants").rows[0].model.items() <= base.to_dict().items()
    assert base.patch_size == published.patch_size / 2
    assert base.grid_size == published.grid_size * 4 / 10
    assert base.longer_sides == (32, 64)
    rules = {"grid_size": 0.4, "patch_size": 0.5, "max_native_patches": native / (32 * 24)}
    for name, field in (("grid", "grid_size"), ("patch_size", "patch_size"), ("native_patches", "max_native_patches")):
        for row in ablation(name).rows:
            in_brackets = re.search(r"\((\d+)\)", row.setting)
            if in_brackets:
                assert row.model[field] == round(int(in_brackets[1]) * rules[field])
            assert name == "native_patches" or in_brackets


def test_every_row_differs_in_what_it_names_and_nothing_else():
    planned = grid("all", seeds=2)
    for table in (*planned.ablations, ablation("attention")):
        assert len({planned.cell(row, 0).name for row in table.rows}) == len(table.rows)
        for row in table.rows:
            config, base = planned.cell(row, 1).settings.config().to_dict(), planned.base.config().to_dict()
            assert config == {**base, **row.model}
            assert planned.cell(row, 1).settings.seed == planned.base.seed + 1
    names = [cell.name for cell in planned.cells()]
    assert names.count("base") == 2  # once a seed, though seven tables have it
    assert len(names) == len(set(names)) * 2 == 50


def test_a_linformer_is_long_enough_for_every_picture_it_meets():
    config = grid("attention").cell(ablation("attention").rows[1], 0).settings.config()
    assert 1 + complexity(config, (SIDES[1], SIDES[1])).tokens <= config.attention_length
    assert 1 + complexity(config, (96, 96)).tokens == 57


def test_groups_of_parts_that_a_model_lacks_are_left_out():
    planned = grid("stem", groups={"stem/conv1/*": {"lr_scale": 2.0}})
    resnet, linear = (planned.cell(row, 0).settings.groups for row in ablation("stem").rows)
    assert "stem/conv1/*" in resnet
    assert set(resnet) - set(linear) == {pattern for pattern in resnet if pattern.startswith("stem/")}


def test_it_is_the_synthetic_recipe_but_for_its_size():
    base, full = grid("stem").base.to_dict(), recipe("synthetic").to_dict()
    differing = {name for name in base if base[name] != full[name]}
    assert differing <= {
        "epochs",
        "epoch_images",
        "side",
        "reduction",
        "batch",
        "learning_rate",
        "warmup",
        "ema",
        "threads",
        "model",
    }
    changed = grid("stem", learning_rate=0.5, model={"width": 24}).base
    assert (changed.learning_rate, changed.config().width, changed.config().layers) == (0.5, 24, 2)


def test_no_source_of_the_test_is_trained_with():
    planned = grid("all")
    sources = {example.source for example in held_out_examples(**{**planned.held_out, "severities": [1.0]})}
    assert {source.split()[0] for source in sources} == {*TEST_PHOTOGRAPHS, "scene"}
    assert not set(TEST_PHOTOGRAPHS) & set(TRAINING_PHOTOGRAPHS)
    assert all(source.startswith("scene 1 ") for source in sources if source.startswith("scene"))
    assert planned.held_out["size"] == planned.base.side
    assert grid("all", side=48).held_out["size"] == 48


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The ablation of the stem, run in one go with one job."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, run_grid(grid("stem", **TINY), folder, progress=False)


def test_a_cell_is_an_ordinary_run_tested_on_the_held_out_pictures(whole, tmp_path):
    folder, made = whole
    planned = grid("stem", **TINY)
    row = made["tables"][0]["rows"][1]
    assert row["setting"] == "linear"
    cell = planned.cell(planned.ablations[0].rows[1], 1)
    trained = train(cell.settings, tmp_path, progress=False)
    checkpoint = mq.load_checkpoint(trained.last)
    assert checkpoint.config.stem == "linear"
    pictures = list(held_out_examples(**planned.held_out))
    scores = [score.value for score in mq.score([p.image for p in pictures], checkpoint)]
    targets = [p.score for p in pictures]
    assert row["srcc"]["values"][1] == pytest.approx(srcc(scores, targets), abs=1e-6)
    assert row["plcc"]["values"][1] == pytest.approx(plcc(scores, targets), rel=1e-4)
    assert made["held_out"]["images"] == len(pictures) > 40
    assert cell.name == "stem=linear"
    assert (folder / "cells" / "stem=linear" / "seed_1" / "state.safetensors").exists()


def test_the_report_says_mean_and_spread_over_the_seeds(whole):
    folder, made = whole
    assert json.loads((folder / "ablation.json").read_text()) == made
    for row in made["tables"][0]["rows"]:
        for name in ("srcc", "plcc"):
            values = np.array(row[name]["values"])
            assert len(values) == 2
            assert row[name]["mean"] == pytest.approx(values.mean())
            assert row[name]["deviation"] == pytest.approx(values.std(ddof=1))
    text = (folder / "ablation.md").read_text()
    first = made["tables"][0]["rows"][0]
    [line] = [line for line in text.splitlines() if line.startswith("| ResNet")]
    for part in (f"{first['srcc']['mean']:.3f} ± {first['srcc']['deviation']:.3f}", "0.726", "0.738"):
        assert part in line
    [line] = [line for line in text.splitlines() if line.startswith("| linear")]
    assert line.split("|")[4].strip() == line.split("|")[5].strip() == "–"


def test_a_seed_that_is_missing_gives_no_mean():
    planned = grid("stem", seeds=2)
    found = {("base", 0): {"srcc": 0.3, "plcc": 0.3}, ("stem=linear", 1): {"srcc": 0.3, "plcc": 0.3}}
    made = report(planned, found, ["base, seed 1: it broke"])
    assert [row["srcc"] for row in made["tables"][0]["rows"]] == [None, None]
    assert "- failed: base, seed 1: it broke" in markdown(made)


def test_jobs_at_a_time_do_not_change_the_results(whole, tmp_path):
    again = run_grid(grid("stem", **TINY), tmp_path, jobs=3, progress=False)
    assert again == whole[1]
    assert same_files(whole[0], tmp_path) == 4


def test_the_limit_of_native_patches_is_for_training_alone(tmp_path):
    """A model trained with few patches is tested with all, so that it scores the end of a picture, too."""
    small = {**TINY, "side": 32, "model": {**TINY["model"], "patch_size": 8, "max_native_patches": 2}}
    planned = grid("native_patches", **small)
    cell = planned.cell(planned.ablations[0].rows[0]._replace(model={"max_native_patches": 2}), 0)
    run_cell(cell, planned.held_out, str(tmp_path))
    checkpoint = mq.load_checkpoint(tmp_path / "last.safetensors")
    assert checkpoint.config.max_native_patches == 2
    pictures = list(held_out_examples(**planned.held_out))
    targets = [p.score for p in pictures]
    values = []
    for limit in (-1, 2):
        limited = checkpoint._replace(config=checkpoint.config.replace(max_native_patches=limit))
        values.append(plcc([s.value for s in mq.score([p.image for p in pictures], limited)], targets))
    found = json.loads((tmp_path / "result.json").read_text())["plcc"]
    assert found == pytest.approx(values[0], rel=1e-4)
    assert found != pytest.approx(values[1], rel=1e-2)


def test_killed_outright_a_grid_goes_on_to_the_same_bits_and_skips_what_is_done(whole, tmp_path):
    """kill -9 of the command, whatever its processes are at; then nobody is left at work."""
    command = [sys.executable, "-m", "musiq_ref.cli", "train", "--ablation", "stem", "--jobs", "2", "--json"]
    command += ["-o", str(tmp_path), *options()]

    def steps():
        return sum(len(log.read_bytes().splitlines()) for log in tmp_path.glob("cells/*/*/log.jsonl"))

    few = 2 if Path("/proc/self").exists() else 0  # a second run may find steps enough before it has started anybody
    for least in (2, 5, 9):
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            while process.poll() is None and (steps() < least or len(children(process.pid)) < few):
                time.sleep(0.02)
            started = children(process.pid)
            assert process.poll() is None
            process.kill()
        deadline = time.monotonic() + 60
        while any(alive(pid) for pid in started):
            assert time.monotonic() < deadline, "a process outlived the command"
            time.sleep(0.01)
    done = {path: path.stat().st_mtime_ns for path in tmp_path.glob("cells/*/*/result.json")}
    finished = subprocess.run(command, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    assert json.loads(finished.stdout) == whole[1]
    assert {path: path.stat().st_mtime_ns for path in done} == done
    assert same_files(whole[0], tmp_path) == 4


def process_state(pid):
    """State and parent of a process, where the system has /proc; ("", 0) when there is none."""
    try:
        state, parent, *_ = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return state, int(parent)
    except (OSError, ValueError):
        return "", 0


def children(pid):
    pids = [int(entry.name) for entry in Path("/proc").glob("[0-9]*")]
    return [child for child in pids if process_state(child)[1] == pid]


def alive(pid):
    return process_state(pid)[0] not in ("", "Z", "X")


def test_what_is_finished_is_not_run_again(whole, tmp_path, monkeypatch):
    folder, made = whole

    def none(work, items, jobs):
        assert not items
        return iter(())

    monkeypatch.setattr("musiq_ref.ablations.run.in_processes", none)
    assert run_grid(grid("stem", **TINY), folder, progress=False) == made
    fewer = run_grid(grid("stem", seeds=1, **TINY), folder, progress=False)
    assert fewer["tables"][0]["rows"][1]["srcc"]["values"] == made["tables"][0]["rows"][1]["srcc"]["values"][:1]
    run_grid(grid("stem", **TINY), folder, progress=False)  # the files of the fixture as they were


def test_other_settings_in_the_same_folder_are_refused(whole):
    for changes, said in (
        ({"epoch_images": 8}, r"holds ablations with epoch_images = 6, not 8; set what it was, or name another"),
        ({"epochs": 2}, r"holds ablations with epochs = 1, not 2"),
        ({"held_out": {**TINY["held_out"], "crops": 2}}, r"holds ablations with held_out\.crops = 1, not 2"),
    ):
        with pytest.raises(TrainingError, match=said):
            run_grid(grid("stem", **{**TINY, **changes}), whole[0], progress=False)


def test_a_cell_that_fails_is_named_and_the_others_are_run(tmp_path, capsys):
    command = ["train", "--ablation", "stem", "--seeds", "1", "--jobs", "2", "-o", str(tmp_path), *options()]
    blocked = tmp_path / "cells" / "stem=linear"
    blocked.parent.mkdir(parents=True)
    blocked.write_text("in the way")
    assert main(command) == 2
    assert "cells is there, but no grid.json to go on from; name another folder" in capsys.readouterr().err
    blocked.unlink()
    blocked.parent.rmdir()
    _claim(tmp_path, grid("stem", 1, **TINY))
    blocked.parent.mkdir()
    blocked.write_text("in the way")
    assert main(command) == 1
    printed = capsys.readouterr()
    assert "- failed: stem=linear, seed 0: the folder " in printed.out
    rows = json.loads((tmp_path / "ablation.json").read_text())["tables"][0]["rows"]
    assert [row["srcc"] is None for row in rows] == [False, True]
    blocked.unlink()
    assert main(command) == 0


def test_damaged_files_and_folders_that_cannot_be_are_one_sentence(tmp_path):
    planned = grid("stem", seeds=1, **TINY)
    (tmp_path / "file").write_text("")
    with pytest.raises(TrainingError, match="cannot be made"):
        run_grid(planned, tmp_path / "file" / "grid")
    (tmp_path / "grid.json").write_text("{half")
    with pytest.raises(TrainingError, match=r"grid\.json cannot be read .* move it away"):
        run_grid(planned, tmp_path)


def test_one_grid_at_a_time_and_nothing_of_somebody_elses(tmp_path):
    planned = grid("stem", seeds=1, **TINY)
    with claimed(tmp_path / "mine"), pytest.raises(TrainingError, match=r"another training is at work in .*mine;"):
        run_grid(planned, tmp_path / "mine")
    (tmp_path / "ablation.md").write_text("my notes")
    with pytest.raises(
        TrainingError, match=r"ablation\.md is there, but no grid\.json to go on from; name another folder"
    ):
        run_grid(planned, tmp_path)
    assert (tmp_path / "ablation.md").read_text() == "my notes"


@pytest.mark.parametrize(
    "content", ["[]", "12", "{}", '{"srcc": "x"}', '{"srcc": 5, "plcc": 0, "images": 9}', "[" * 99_999]
)
def test_a_result_that_is_damaged_is_one_sentence(content, tmp_path):
    planned = grid("stem", seeds=1, **TINY)
    _claim(tmp_path, planned)
    result = tmp_path / "cells" / "base" / "seed_0" / "result.json"
    result.parent.mkdir(parents=True)
    result.write_text(content)
    with pytest.raises(TrainingError, match=r"result\.json .*; move it away") as refused:
        run_grid(planned, tmp_path)
    assert "\n" not in str(refused.value)


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="looks for processes in /proc")
def test_ctrl_c_ends_the_grid_in_a_sentence_and_leaves_nobody_at_work(tmp_path):
    """As a terminal sends it: to the command and to all that it started, at whatever moment."""
    command = [sys.executable, "-m", "musiq_ref.cli", "train", "--ablation", "stem", "--jobs", "2", "--json"]
    command += ["-o", str(tmp_path / "grid"), *options(epochs=500)]
    for files in ("grid.json", "cells/*/*/log.jsonl"):
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        while not list(tmp_path.glob(f"grid/{files}")) or not children(process.pid):
            assert process.poll() is None
            time.sleep(0.01)
        started = children(process.pid)
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=60)
        assert (process.returncode, out) == (130, "")
        assert len(err.splitlines()) == 1, err
        deadline = time.monotonic() + 20
        while any(alive(pid) for pid in started):
            assert time.monotonic() < deadline, "a process outlived the command"
            time.sleep(0.01)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--ablation", "colour"], "there is no ablation 'colour'; choose one of variants, grid"),
        (["--ablation", "stem", "--seeds", "0"], "seeds is 0; it must be at least 1"),
        (["--ablation", "stem", "--jobs", "0"], "jobs is 0; it must be at least 1"),
        (["--ablation", "stem", "--data", "here"], "leave out --data"),
        (["--ablation", "stem", "--accept-changed-data"], "leave out --accept-changed-data"),
        (["--ablation", "stem", "--set", "speed=3"], "has no setting 'speed'"),
        (["--ablation", "stem", "--set", "dataset=koniq"], "dataset is 'koniq'; the ablations are trained"),
        (["--ablation", "stem", "--set", "held_out=3"], "held_out is 3; set one of its values"),
        (["--ablation", "stem", "--set", "held_out.colours=3"], "held_out has 'colours', which is not one of seed"),
        (["--ablation", "stem", "--set", "held_out.crops=0", "--set", "held_out.scenes=0"], "makes no pictures"),
        (["--ablation", "stem", "--set", "model.heads=7"], "does not split into 7 heads"),
        (["--ablation", "patch_size", "--set", "model.patch_size=6"], "patch_size is 6; choose a multiple of 4"),
        (["--recipe", "synthetic", "--jobs", "2"], "--seeds and --jobs are for --ablation"),
    ],
)
def test_bad_use_is_one_sentence(arguments, said, tmp_path, capsys):
    assert main(["train", "-o", str(tmp_path / "grid"), *arguments]) == 2
    err = capsys.readouterr().err
    assert said in err
    assert len(err.splitlines()) == 1


def test_under_mpiexec_it_says_what_to_do_instead(monkeypatch, tmp_path, capsys):
    from contextlib import contextmanager

    from musiq_ref.training.parallel import World

    @contextmanager
    def two():
        yield World(0, 2, None)

    monkeypatch.setattr("musiq_ref.cli.train.together", two)
    assert main(["train", "--ablation", "stem", "-o", str(tmp_path)]) == 2
    assert "leave out mpiexec, and set --jobs" in capsys.readouterr().err


def test_a_process_that_dies_is_an_error_not_a_wait():
    [(_, error)] = in_processes(os._exit, [(3,)], jobs=1)
    assert error == "its process ended with code 3; it may have been killed, for want of memory perhaps"


def test_whoever_stops_ends_the_processes(tmp_path):
    started = time.monotonic()
    for item, error in in_processes(time.sleep, [(0,), (300,)], jobs=2):
        assert (item, error) == ((0,), "")
        break
    assert time.monotonic() - started < 100


def test_the_tables_of_the_documentation_are_those_that_were_measured():
    docs = Path(__file__).parent.parent / "docs"
    measured = json.loads((docs / "ablations.json").read_text(encoding="utf-8"))
    assert (docs / "measured_ablations.md").read_text(encoding="utf-8") == markdown(measured)
    planned = grid("all")
    now = json.loads(json.dumps(planned.base.to_dict()))
    assert {name: now[name] for name in now if name != "threads"} == {
        name: measured["settings"][name] for name in now if name != "threads"
    }
    assert measured["seeds"] == list(planned.seeds)
    assert {**measured["held_out"], "images": 0} == {**planned.held_out, "images": 0}
    assert measured["problems"] == []
    for table, expected in zip(measured["tables"], planned.ablations, strict=True):
        assert [row["setting"] for row in table["rows"]] == [row.setting for row in expected.rows]
        assert all(len(row["srcc"]["values"]) == len(planned.seeds) for row in table["rows"])
