"""Evaluation: which images, which numbers, and what is left on disk."""

from __future__ import annotations

import csv
import json
import os
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import musiq_ref as mq
from musiq_ref import cli
from musiq_ref.evaluation import rating
from musiq_ref.extras import needs
from musiq_ref.image.decode import decode
from musiq_ref.metrics import plcc, srcc
from musiq_ref.pictures.synthetic import held_out_examples
from musiq_ref.training.datasets import Dataset, DatasetError, Example, Split, open_dataset, split
from musiq_ref.verify import deterministic_params

SIZES = {"layers": 1, "width": 8, "mlp_width": 6, "heads": 2, "patch_size": 8, "grid_size": 3, "longer_sides": [12]}
CONFIG = mq.MusiqConfig(**SIZES)
IMAGES = 20


@pytest.fixture
def checkpoint(tmp_path):
    path = tmp_path / "tiny.safetensors"
    mq.save_checkpoint(path, deterministic_params(CONFIG, 2), CONFIG)
    return path


@pytest.fixture
def folder(tmp_path):
    """Twenty pictures of different contrast, with scores."""
    rng, folder = np.random.default_rng(1), tmp_path / "pictures"
    folder.mkdir()
    for i in range(IMAGES):
        pixels = 128 + rng.integers(-3 * i - 1, 3 * i + 1, (16 + i, 36 - i, 3))
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i}.png")
    return folder


@pytest.fixture
def table(folder):
    lines = ["path,score,set", *(f"{i}.png,{5 * i},{'test' if i >= 12 else 'training'}" for i in range(IMAGES))]
    (folder / "labels.csv").write_text("\n".join(lines))
    return folder / "labels.csv"


@pytest.fixture
def evaluate(capsys, checkpoint):
    """Runs the command; returns exit code, stdout, stderr."""

    def run(*arguments):
        code = cli.main(["evaluate", "--checkpoint", str(checkpoint), "--resamples", "20", *map(str, arguments)])
        out, err = capsys.readouterr()
        return code, out, err

    return run


def read(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_the_published_part_with_metrics_of_the_scores(evaluate, table, checkpoint, tmp_path):
    code, out, err = evaluate("--dataset", table, "--json", "-o", tmp_path / "made" / "here")
    answer = json.loads(out)
    assert (code, err) == (0, "")
    files = [table.parent / f"{i}.png" for i in range(12, IMAGES)]
    scores = [one.value for one in mq.score(files, checkpoint)]
    targets = [5 * i for i in range(12, IMAGES)]
    assert (answer["part"], answer["images"], answer["problems"]) == ("published test part", 8, [])
    assert answer["metrics"]["srcc"]["value"] == srcc(scores, targets)
    assert answer["metrics"]["plcc"]["value"] == plcc(scores, targets)
    assert list(answer["metrics"]) == ["srcc", "plcc", "krcc", "rmse"]
    for found in answer["metrics"].values():
        assert found["low"] <= found["high"]

    rows = read(tmp_path / "made" / "here" / "images.csv")
    assert [row["image"] for row in rows] == [str(file) for file in files]
    assert [float(row["score"]) for row in rows] == scores
    assert [float(row["target"]) for row in rows] == targets
    for name in ("scatter.png", "worst.png"):
        assert str(tmp_path / "made" / "here" / name) in answer["files"]
        assert decode(tmp_path / "made" / "here" / name).shape[1] > 400


def test_ten_splits_are_scored_once_and_averaged(evaluate, table, checkpoint, monkeypatch):
    rated = []
    original = rating.rate
    monkeypatch.setattr(
        rating, "rate", lambda one, examples, *rest: rated.extend(examples) or original(one, rated, *rest)
    )
    code, out, _ = evaluate("--dataset", table, "--splits", 10, "--json")
    assert code == 0
    assert len({example.group for example in rated}) == len(rated) <= IMAGES
    data = open_dataset(str(table))
    scores = np.array([one.value for one in mq.score([example.image for example in data.examples], checkpoint)])
    targets = np.array([example.target[0] for example in data.examples])
    parts = [list(split(data, index=i).test) for i in range(10)]
    values = [srcc(scores[part], targets[part]) for part in parts]
    found = json.loads(out)["metrics"]["srcc"]
    assert found["value"] == pytest.approx(np.mean(values))
    assert found["deviation"] == pytest.approx(np.std(values, ddof=1))


@pytest.mark.parametrize(
    ("published", "arguments", "what", "expected"),
    [
        (Split((0, 1), (2,), (3, 4)), {}, "published test part", (3, 4)),
        (Split((0, 1), (2, 3), ()), {}, "published validation part", (2, 3)),
        (Split((0, 1), (2,), (3, 4)), {"everything": True}, "all images", tuple(range(10))),
        (Split(tuple(range(10)), (), ()), {}, "test part of random split 0", None),
        (None, {}, "test part of random split 0", None),
        (Split((0, 1), (2,), (3, 4)), {"index": 3}, "test part of random split 3", None),
    ],
)
def test_which_images_are_the_test(published, arguments, what, expected):
    examples = tuple(Example(Path(f"{i}.png"), (1.0,), str(i)) for i in range(10))
    data = Dataset("ten", examples, 1, (0, 1), published, ())
    parts = rating.choose_parts(data, **arguments)
    assert parts.what == what
    assert parts.positions == (expected or split(data, index=arguments.get("index", 0)).test,)


def test_unreadable_and_missing_images_are_listed_not_fatal(evaluate, table, tmp_path):
    table.write_text(table.read_text() + "\ngone.png,3,test")
    (table.parent / "15.png").write_bytes(b"no picture")
    code, out, err = evaluate("--dataset", table, "-o", tmp_path)
    assert (code, err) == (1, "")
    assert "published test part: 7 images" in out
    left_out = [line for line in out.splitlines() if line.startswith("left out: ")]
    assert len(left_out) == 2
    assert "gone.png" in left_out[0]
    assert "15.png" in left_out[1]
    [row] = [row for row in read(tmp_path / "images.csv") if row["error"]]
    assert row["image"].endswith("15.png")
    assert row["score"] == ""


def test_when_hardly_anything_can_be_read_the_reason_is_given(evaluate, table):
    for i in range(12, IMAGES):
        (table.parent / f"{i}.png").write_bytes(b"no picture")
    code, out, err = evaluate("--dataset", table)
    assert (code, out) == (2, "")
    assert "the number of scores is 0" in err
    assert "the first of 8 problems with images: " in err
    assert "12.png" in err
    assert len(err.splitlines()) == 1


def make_spaq(folder):
    (folder / "TestImage").mkdir(parents=True)
    rng, lines = np.random.default_rng(2), ["Image name,MOS"]
    for i in range(10):
        Image.fromarray(rng.integers(0, 256, (40 + i, 30, 3), dtype=np.uint8)).save(folder / "TestImage" / f"{i}.png")
        lines.append(f"{i}.png,{10 * i}")
    (folder / "MOS and Image attribute scores.csv").write_text("\n".join(lines))


def test_spaq_is_reduced_and_compared_with_the_paper(evaluate, tmp_path, monkeypatch):
    make_spaq(tmp_path / "spaq")
    sides = []
    original = rating.shrink
    monkeypatch.setattr(rating, "shrink", lambda pixels, side: sides.append(side) or original(pixels, side))
    code, out, _ = evaluate("--dataset", "spaq", "--data", tmp_path / "spaq", "--all")
    assert code == 0
    assert set(sides) == {512}
    assert "spaq, all images: 10 images" in out
    assert "reduced to a shorter side of 512" in out
    assert "0.917/0.921  mean of 10 random splits, shorter side 512 (Ke et al. 2021, appendix table 8)" in out
    sides.clear()
    evaluate("--dataset", "spaq", "--data", tmp_path / "spaq", "--all", "--shorter-side", 0)
    assert set(sides) == {0}


def test_shrinking_averages_and_never_enlarges(rng):
    image = rng.integers(0, 256, (64, 100, 3), dtype=np.uint8)
    assert rating.shrink(image, 0) is image
    assert rating.shrink(image, 64) is image
    small = rating.shrink(image, 6)
    assert small.shape == (6, 9, 3)
    assert small.std() < image.std() / 5  # a filter without antialiasing would keep the noise
    tall = rating.shrink(image.swapaxes(0, 1), 6)
    np.testing.assert_allclose(tall.swapaxes(0, 1), small.astype(int), atol=1)  # rounded in another order


def test_votes_count_by_their_mean():
    votes = Example(np.zeros((8, 8, 3), np.uint8), (0.1, 0.2, 0.7), "votes")
    [one] = rating.rate(lambda images, prepare: [(0, mq.Score(1.0, None, None, 8, 8))], [votes])
    assert one.target == pytest.approx(2.6)
    assert one.name == "votes"


def tiny_test_set():
    return held_out_examples(size=48, crops=1, scenes=1, severities=(0.3, 0.6, 1.0), mixtures=1)


def perfect_scorer(examples, confused=()):
    """Knows the answers, in order; is misled by the distortions `confused`."""
    answers = iter([-e.score if e.distortion in confused else e.score for e in examples])
    return lambda image: SimpleNamespace(value=next(answers))


def test_synthetic_measures_of_a_perfect_and_a_confused_model():
    examples = list(tiny_test_set())
    perfect = rating.rate_synthetic(perfect_scorer(examples), examples)
    assert set(perfect.order.values()) == {1.0}
    assert perfect.pristine_best == 1.0
    assert rating.summarize([perfect.rated], 10)["srcc"]["value"] == pytest.approx(1.0)
    assert perfect.kinds == {
        kind: {"srcc": pytest.approx(1.0), "pristine_best": 1.0} for kind in ("photographs", "scenes")
    }
    name = next(iter(perfect.order))
    result = rating.rate_synthetic(perfect_scorer(examples, {name}), examples)
    assert [key for key, value in result.order.items() if value < 1] == [name]
    assert result.order[name] == pytest.approx(-1.0)
    flipped = [e._replace(score=-e.score) if e.distortion == "pristine" else e for e in examples]
    assert rating.rate_synthetic(perfect_scorer(flipped), examples).pristine_best == 0.0
    half = [e._replace(score=-e.score) if e.source.startswith("scene") else e for e in examples]
    only_photographs = rating.rate_synthetic(perfect_scorer(half), examples)
    assert only_photographs.kinds["photographs"] == {"srcc": pytest.approx(1.0), "pristine_best": 1.0}
    assert only_photographs.kinds["scenes"] == {"srcc": pytest.approx(-1.0), "pristine_best": 0.0}
    assert only_photographs.pristine_best == 0.5
    indifferent = rating.rate_synthetic(lambda image: SimpleNamespace(value=1.0), examples)
    assert set(indifferent.order.values()) == {0.0}
    assert indifferent.pristine_best == 0.0


def test_the_synthetic_test_set_from_the_command_line(evaluate, tmp_path, monkeypatch):
    monkeypatch.setattr("musiq_ref.cli.evaluate.held_out_examples", partial(tiny_test_set))
    code, out, err = evaluate("--dataset", "synthetic", "-o", tmp_path)
    assert (code, err) == (0, "")
    assert "synthetic, held-out pictures" in out
    assert "pristine above all its distorted versions: " in out
    assert "photographs alone: SRCC " in out
    assert len(read(tmp_path / "images.csv")) == len(list(tiny_test_set()))
    assert (tmp_path / "worst.png").exists()


def test_worst_are_those_whose_ranks_differ_whatever_the_scale():
    rated = [rating.Rated(str(i), i, 1e6 * ((i + 1) % 6), "", None) for i in range(6)]
    rated.append(rating.Rated("broken", 3, float("nan"), "unreadable", None))
    assert [one.name for one in rating.worst(rated, 2)] == ["5", "0"]


def test_without_matplotlib_there_are_no_figures_but_a_sentence(evaluate, table, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    code, out, err = evaluate("--dataset", table, "-o", tmp_path)
    assert code == 0
    assert err == f"no figures without matplotlib; {needs('pictures')}\n"
    assert "images.csv" in out
    assert not (tmp_path / "scatter.png").exists()


def test_results_are_printed_even_if_the_files_cannot_be_written(evaluate, table, tmp_path, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("musiq_ref.cli.evaluate.draw_figures", full)
    code, out, err = evaluate("--dataset", table, "-o", tmp_path / "results", "--json")
    assert code == 2
    assert "No space left" in err
    assert json.loads(out)["metrics"]["srcc"]["value"] <= 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dataset", "koniq"], "where is the data set koniq? pass its folder"),
        (["--dataset", "koniq", "--data", "nowhere"], "nowhere does not exist"),
        (["--dataset", "juggling"], "there is no data set 'juggling'"),
        (["--dataset", "nowhere.csv"], "nowhere.csv does not exist"),
        (["--dataset", "synthetic", "--splits", "10"], "the synthetic test set is evaluated as a whole"),
        (["--dataset", "koniq", "--resamples", "0"], "--resamples is 0; it must be at least 1"),
        (["--dataset", "csv"], "where is the data set csv? pass its table (--data FILE.csv on the command line)"),
        (["--dataset", "koniq", "--splits", "1"], "--splits must be at least 2"),
        (["--dataset", "koniq", "--splits", "0"], "--splits must be at least 2"),
    ],
)
def test_bad_use_is_one_sentence(arguments, message, evaluate):
    code, out, err = evaluate(*arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert len(err.splitlines()) == 1


def test_the_limit_of_pixels_can_be_moved(evaluate, table):
    code, _, err = evaluate("--dataset", table, "--all", "--max-pixels", 9)
    assert code == 2
    assert "more than max_pixels=9" in err
    assert evaluate("--dataset", table, "--all", "--max-pixels", 10**6)[0] == 0


def test_an_output_that_is_a_file_is_noticed_before_the_work(evaluate, table, monkeypatch):
    monkeypatch.setattr(rating, "rate", None)
    code, _, err = evaluate("--dataset", table, "-o", table)
    assert code == 2
    assert "labels.csv" in err


@pytest.mark.parametrize("name", ["$a_{$.png", "$x$ y$.png", "a_{^$$.png", "图片.png"])
def test_names_that_matplotlib_would_typeset(evaluate, table, tmp_path, name):
    (table.parent / "13.png").rename(table.parent / name)
    folder = table.parent.rename(tmp_path / "$b_{$")
    (folder / "labels.csv").write_text((folder / "labels.csv").read_text().replace("13.png", name), "utf-8")
    code, out, err = evaluate("--dataset", folder / "labels.csv", "--split", 0, "-o", tmp_path / "results")
    assert (code, err) == (0, "")
    assert out.splitlines()[-1] == f"wrote {tmp_path / 'results' / 'worst.png'}"


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere names are text")
def test_names_that_are_no_text(evaluate, table, tmp_path):
    folder = table.parent.rename(os.fsdecode(os.fsencode(tmp_path) + b"/\xff"))
    code, _, err = evaluate("--dataset", folder / "labels.csv", "-o", tmp_path / "results")
    assert (code, err) == (0, "")
    assert {row["image"] for row in read(tmp_path / "results" / "images.csv")} == {
        f"{tmp_path}/\\udcff/{i}.png" for i in range(12, IMAGES)
    }


@pytest.mark.parametrize("force", [False, True])
def test_what_is_read_is_never_written_over(evaluate, table, tmp_path, monkeypatch, force):
    folder, options = table.parent, ["--force"] if force else []
    labels = table.rename(folder / "images.csv").read_bytes()
    (folder / "12.png").rename(folder / "worst.png")
    lines = labels.replace(b"12.png", b"worst.png")
    (folder / "images.csv").write_bytes(lines)
    (folder / "other.csv").write_bytes(lines)
    monkeypatch.setattr(rating, "rate", None)  # before the work
    for chosen, there in (
        (["--dataset", folder / "images.csv"], "images.csv"),
        (["--dataset", "csv", "--data", folder / "images.csv"], "images.csv"),
        (["--dataset", folder / "other.csv"], "worst.png" if force else "images.csv"),
    ):
        code, out, err = evaluate(*chosen, "-o", folder, *options)
        assert (code, out) == (2, "")
        assert there in err
        assert "is one of the files to read, which would be overwritten" in err or not force
    assert (folder / "images.csv").read_bytes() == lines


def test_only_files_of_ours_are_replaced_unless_forced(evaluate, table, tmp_path):
    arguments = ("--dataset", table, "-o", tmp_path / "results")
    assert evaluate(*arguments)[0] == evaluate(*arguments)[0] == 0
    (tmp_path / "results" / "scatter.png").write_bytes((table.parent / "3.png").read_bytes())
    code, out, err = evaluate(*arguments)
    assert (code, out) == (2, "")
    assert "scatter.png is there and was not written by musiq-ref; name another, or add --force" in err
    assert evaluate(*arguments, "--force")[0] == 0
    assert sorted(path.name for path in (tmp_path / "results").iterdir()) == ["images.csv", "scatter.png", "worst.png"]


def test_a_folder_that_was_made_is_not_left_empty(evaluate, table, tmp_path, monkeypatch):
    def interrupted(*args):
        assert (tmp_path / "made" / "here").is_dir()
        raise KeyboardInterrupt

    monkeypatch.setattr(rating, "rate", interrupted)
    assert evaluate("--dataset", table, "-o", tmp_path / "made" / "here")[0] == 130
    assert not (tmp_path / "made").exists()


def test_results_are_printed_before_any_file_is_written(evaluate, table, tmp_path, monkeypatch, capsys):
    printed = []

    def noted(*args):
        printed.append(capsys.readouterr().out)
        return tmp_path

    monkeypatch.setattr("musiq_ref.cli.evaluate.write_table", noted)
    assert evaluate("--dataset", table, "-o", tmp_path)[0] == 0
    assert "SRCC" in printed[0]


def test_the_table_is_written_even_where_there_is_no_result(evaluate, table, tmp_path, monkeypatch):
    same = mq.Score(1.0, None, None, 8, 8)
    monkeypatch.setattr("musiq_ref.cli.evaluate.scores_of", lambda *args, **_: ((i, same) for i in range(8)))
    code, _, err = evaluate("--dataset", table, "-o", tmp_path)
    assert code == 2
    assert "all 8 predictions are 1; scores that are equal have no correlation; --all takes all images" in err
    assert len(read(tmp_path / "images.csv")) == 8


@pytest.mark.parametrize(("rows", "code", "words"), [(1, 2, "1 image;"), (5, 2, "number of scores is 1"), (10, 0, "")])
def test_few_images(evaluate, table, rows, code, words):
    lines = [line.rpartition(",")[0] for line in table.read_text().splitlines()]
    table.write_text("\n".join(lines[: 1 + rows]))
    found, out, err = evaluate("--dataset", table)
    assert found == code
    assert words in err
    assert "--all takes all images, not only the test part" in out + err
    if rows > 1:
        assert evaluate("--dataset", table, "--all")[0] == 0


def test_a_table_and_its_images_elsewhere(evaluate, table, tmp_path):
    moved = table.rename(tmp_path / "labels.csv")
    code, out, _ = evaluate("--dataset", moved, "--data", tmp_path / "pictures")
    assert code == 0
    assert "8 images" in out


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_score_that_is_no_number_is_an_error_of_its_image(value):
    example = Example(np.zeros((8, 8, 3), np.uint8), (0.1,), "black")
    [one] = rating.rate(lambda images, prepare: [(0, mq.Score(value, None, None, 8, 8))], [example])
    assert one.error == f"black: its score is {value}; check the checkpoint"


def test_published_figures_name_their_source():
    for published in rating.PUBLISHED:
        assert 0 < published.srcc < published.plcc + 0.01 < 1
        assert published.source
    with pytest.raises(DatasetError):
        open_dataset("spaq", "nowhere")
