"""What a Python user does without reading the manual: Series, reprs, process pools, one bad file, logging."""

from __future__ import annotations

import copy
import logging
import pickle
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from importlib.resources import files
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import musiq_ref as mq
from musiq_ref import scoring
from musiq_ref.explain.picture import picture
from musiq_ref.explain.report import BUNDLED, report
from musiq_ref.reprs import short_table
from musiq_ref.verify import deterministic_params

CONFIG = mq.MusiqConfig.preset("tiny", outputs=10)
CHECKPOINT = mq.Checkpoint(deterministic_params(CONFIG, 4), CONFIG, "native", None)


@pytest.fixture
def paths(tmp_path, rng):
    """Three photographs, as strings."""
    found = []
    for name in ("a.png", "b.png", "c.png"):
        Image.fromarray(rng.integers(0, 256, (50, 77, 3), dtype=np.uint8)).save(tmp_path / name)
        found.append(str(tmp_path / name))
    return found


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "tiny.safetensors"
    mq.save_checkpoint(path, CHECKPOINT.params, CONFIG)
    return path


def same(a, b):
    """Whether two Scores are equal to the bit."""
    return a.value == b.value and a.distribution.tobytes() == b.distribution.tobytes() and a[2:] == b[2:]


# ---- collections


class Series:
    """What `score` may know of a pandas Series: one axis, its values in order, and a conversion to an array."""

    ndim, dtype = 1, np.dtype(object)

    def __init__(self, values):
        self.values = values

    def __iter__(self):
        return iter(self.values)

    def __array__(self, dtype=None, copy=None):
        return np.array(self.values, object)


def scored(images, errors="raise"):
    return mq.score(images, CHECKPOINT, errors=errors)


@pytest.mark.parametrize(
    "collect",
    [
        list,
        tuple,
        iter,
        Series,
        lambda paths: {path: None for path in paths}.keys(),
        lambda paths: map(Path, paths),
        np.array,
        lambda paths: np.array(paths, object),
        lambda paths: np.array(paths, np.dtypes.StringDType()),
        lambda paths: np.array([Path(path) for path in paths]),
        lambda paths: Series([np.asarray(Image.open(path)) for path in paths]),
        lambda paths: np.stack([np.asarray(Image.open(path)) for path in paths]),
    ],
)
def test_every_collection_of_images(collect, paths):
    expected = [result.value for result in scored(paths)]
    results = scored(collect(paths))
    assert [result.value for result in results] == expected
    assert all(type(result.path) in (str, type(None)) for result in results)


def test_a_tensor_is_a_batch_or_an_image(torch, paths):
    images = torch.stack([torch.tensor(np.asarray(Image.open(path))) for path in paths])
    expected = [result.value for result in scored(paths)]
    for collection in (images, list(images), iter(images)):
        assert [result.value for result in scored(collection)] == expected
    assert [result.value for result in scored(images[1])] == expected[1:2]
    with pytest.raises(mq.ImageError, match=r"the given array has shape \(9,\)"):
        scored(torch.zeros(9))


def test_a_column_of_a_table(pandas, paths):
    table = pandas.DataFrame({"path": paths}, index=[7, 8, 9])
    expected = scored(paths)
    assert all(map(same, scored(table["path"]), expected))
    assert all(map(same, scored(table["path"].astype("category")), expected))
    assert all(map(same, scored(table["path"].to_numpy()), expected))
    assert scored(table["path"][:0]) == []
    assert list(pandas.DataFrame(expected)["value"]) == [result.value for result in expected]
    with pytest.raises(mq.ImageError, match=r"a table is no list of images; pass the column .*table\['path'\]"):
        scored(table)


@pytest.mark.parametrize("nothing", [[], (), np.array([]), np.array([], object), Series([])])
def test_nothing_has_no_scores(nothing):
    assert scored(nothing) == []


@pytest.mark.parametrize("numbers", [np.zeros(9), np.zeros(()), Series([1.0, 2.0])])
def test_numbers_are_no_images(numbers):
    with pytest.raises(mq.ImageError, match="the given array has shape"):
        scored(numbers)
    with pytest.raises(mq.ImageError, match="an object of type int is no image"):
        scored(5)


# ---- one bad file


def test_one_bad_file_does_not_cost_the_others(paths, tmp_path, caplog):
    broken = tmp_path / "broken.png"
    broken.write_bytes(Path(paths[0]).read_bytes()[:500])
    images = [paths[0], broken, "missing.png", np.zeros((1, 700, 3), np.uint8), None, paths[1]]
    first, *bad, last = scored(images, errors="return")
    assert all(map(same, (first, last), scored([paths[0], paths[1]])))
    assert [type(error) for error in bad] == [mq.ImageError, mq.ImageError, ValueError, mq.ImageError]
    for error, words in zip(bad, ("broken.png", "missing.png", "too elongated", "NoneType is no image"), strict=True):
        assert words in str(error)
        assert words in caplog.text
        assert error.__traceback__ is error.__context__ is None  # frames would keep every image in memory
    assert isinstance(pickle.loads(pickle.dumps(bad[0])), mq.ImageError)
    with pytest.raises(mq.ImageError, match=r"broken\.png"):
        scored(images)


def test_a_missing_path_in_a_column(paths):
    good, bad = scored(Series([paths[0], float("nan")]), errors="return")
    assert isinstance(good, mq.Score)
    assert "an object of type float is no image" in str(bad)


def test_too_little_memory_for_one_image(paths, monkeypatch):
    real = scoring.decode

    def limited(image, **options):
        if image == paths[0]:
            raise MemoryError
        return real(image, **options)

    monkeypatch.setattr("musiq_ref.scorers.decode", limited)
    bad, good = scored(paths[:2], errors="return")
    assert str(bad) == f"{paths[0]}: too large for the memory of this machine; reduce it, or use another"
    assert isinstance(good, mq.Score)


def test_what_is_wrong_with_the_arguments_is_raised_whatever_errors_says(paths):
    with pytest.raises(ValueError, match="errors is 'ignore'; choose 'raise' or 'return'"):
        scored(paths, errors="ignore")
    with pytest.raises(mq.CheckpointError):
        mq.score(paths, "nowhere.npz", errors="return")
    for threads in (0, -1, 1.5, "two"):
        with pytest.raises(ValueError, match="choose a whole number of at least 1"):
            mq.score(paths, CHECKPOINT, threads=threads)


# ---- reprs


def records():
    tokens = mq.tokenize(np.zeros((300, 400, 3), np.uint8), CONFIG)
    logits, cache = mq.forward(CHECKPOINT.params, mq.batch([tokens]), CONFIG)
    [result] = scored(np.zeros((60, 80, 3), np.uint8))
    return [tokens, mq.load_checkpoint("demo"), CHECKPOINT, mq.backward(np.ones_like(logits), cache), result]


def test_reprs_say_shapes_and_counts():
    tokens, demo, made, gradients, result = map(repr, records())
    assert all(len(text) < 400 for text in (tokens, demo, made, gradients, result))
    assert tokens.startswith("Tokens(patches=float32 (")
    assert tokens.endswith("True)")
    assert "862,049 float32 values in 104 arrays" in demo
    assert "MusiqConfig(layers=5, width=96, heads=4, outputs=1, …), format='native'" in demo
    assert "demo.safetensors" in demo
    assert "path=None" in made
    assert "patches=float32 (1, " in gradients
    assert "distribution=float32 (10,), path=None, height=60, width=80)" in result
    assert result.startswith("Score(value=")


def test_a_score_of_one_number_is_shown_whole():
    assert repr(mq.Score(3.25, None, "a.png", 4, 5)) == (
        "Score(value=3.25, distribution=None, path='a.png', height=4, width=5)"
    )


def test_the_tables_of_a_notebook_are_short_and_escaped():
    for record in records():
        table = record._repr_html_()
        assert len(table) < 800
        assert table.count("<tr>") == len(record)
        assert all(f"<th>{name}</th>" in table for name in record._fields)
    assert "<script>" not in mq.Score(1.0, None, "<script>alert(1)</script>", 1, 1)._repr_html_()
    assert "&lt;script&gt;" in mq.Checkpoint({}, CONFIG, "<script>", None)._repr_html_()
    assert "&amp;" in short_table(mq.Tokens("&", 1, 2, 3))


def test_they_are_named_tuples_as_before():
    assert mq.Tokens._fields == ("patches", "hash_index", "scale_index", "mask")
    assert mq.Checkpoint._fields == ("params", "config", "format", "path", "notes")
    assert mq.Gradients._fields == ("params", "patches")
    assert mq.Score._fields == ("value", "distribution", "path", "height", "width")
    for record in records():
        assert type(record)._make(record) is not record
        assert [a is b for a, b in zip(record, record._asdict().values(), strict=True)] == [True] * len(record)
        changed = record._replace(**{record._fields[-1]: None})
        assert changed[-1] is None
        assert changed[0] is record[0]
        assert repr(pickle.loads(pickle.dumps(record))) == repr(record)


@pytest.mark.parametrize("odd", [None, "text", 5, {"a": {}}, {"a": [1, 2]}, {"a": 1}, np.float32(3), "x" * 10**5, {}])
def test_a_repr_never_fails(odd):
    """Whatever is in the fields: tests, debuggers and half-made records show them, too."""
    assert repr(mq.Gradients(odd, odd)).startswith("Gradients(params=")
    assert len(repr(mq.Gradients({"a": odd}, [list(range(1000))]))) < 1000


# ---- pickling


def test_a_scorer_goes_to_another_process(paths, file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    scorers = [
        mq.scorer(CHECKPOINT),
        mq.scorer(file.name, dtype="float64", threads=1),
        mq.scorer(str(file), conventions=mq.PYIQA),
    ]
    expected = [[one(path) for path in paths] for one in scorers]
    assert len({results[0].value for results in expected}) == 3
    monkeypatch.chdir("/")
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        for one, results in zip(scorers, expected, strict=True):
            assert all(map(same, pool.map(one, paths), results))
        bad = pool.submit(scorers[0], "missing.png")
        with pytest.raises(mq.ImageError, match=r"missing\.png does not exist"):
            bad.result()


def test_copies_score_the_same(paths, file):
    for checkpoint in (CHECKPOINT, file):
        one = mq.scorer(checkpoint)
        for other in (copy.copy(one), copy.deepcopy(one), pickle.loads(pickle.dumps(one))):
            assert same(other(paths[0]), one(paths[0]))


def test_a_named_checkpoint_travels_by_its_name_and_a_loaded_one_with_its_weights(file):
    assert len(pickle.dumps(mq.scorer("demo"))) < 500
    assert len(pickle.dumps(mq.scorer(file))) < 1000
    assert len(pickle.dumps(mq.scorer(CHECKPOINT))) > 4 * 900_000


def test_a_copy_does_not_warn_again():
    with pytest.warns(UserWarning, match="never trained") as warned:
        one = mq.scorer(CHECKPOINT._replace(format="deterministic"))
    assert warned[0].filename == __file__  # the caller's line
    copy.deepcopy(one)
    with pytest.warns(UserWarning, match="never trained") as warned:
        mq.score([], CHECKPOINT._replace(format="deterministic"))
    assert warned[0].filename == __file__


def test_a_scorer_says_what_it_is(file):
    assert repr(mq.scorer(file, dtype="float64")) == f"Scorer({str(file)!r}, backend='numpy', dtype='float64')"
    assert len(repr(mq.scorer(CHECKPOINT))) < 400


# ---- logging


def test_what_is_worth_knowing_is_logged(paths, file, caplog):
    caplog.set_level(logging.DEBUG, "musiq_ref")
    mq.score(paths[0], file, dtype="float64")
    levels = [(record.name, record.levelname) for record in caplog.records]
    assert levels == [
        ("musiq_ref.checkpoint.load", "INFO"),
        ("musiq_ref.scoring", "INFO"),
        ("musiq_ref.scoring", "DEBUG"),
    ]
    loaded, pixels, value = caplog.messages
    assert str(file) in loaded
    assert "native" in loaded
    assert "resized in float32" in pixels
    assert value.startswith(f"{paths[0]} scores ")


def test_nothing_is_printed_unless_a_program_asks():
    code = "import musiq_ref as mq; mq.score(['missing.png'], errors='return')"
    silent = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (silent.stdout, silent.stderr) == ("", "")
    asked = f"import logging; logging.basicConfig(level='INFO'); {code}"
    told = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True)
    assert "INFO:musiq_ref.checkpoint.load:loaded Checkpoint(" in told.stderr
    assert "WARNING:musiq_ref.scoring:missing.png does not exist" in told.stderr


# ---- what the bundled model does not know


def test_the_pages_say_what_the_bundled_model_does_not_know(tmp_path, rng):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    image = rng.integers(0, 256, (60, 80, 3), dtype=np.uint8)
    bundled = mq.load_checkpoint("demo")
    assert bundled.bundled
    assert mq.load_checkpoint(Path(str(files("musiq_ref"))) / "data" / ".." / "data" / "demo.safetensors").bundled
    page, figure = report(image, bundled), picture(image, bundled)
    assert BUNDLED in page
    assert " ".join(figure.get_supxlabel().split()) == BUNDLED
    assert "does not know what people like" in BUNDLED
    mq.save_checkpoint(tmp_path / "demo.safetensors", CHECKPOINT.params, CONFIG)
    other = mq.load_checkpoint(tmp_path / "demo.safetensors")
    assert not other.bundled
    assert not CHECKPOINT.bundled
    assert BUNDLED not in report(image, other)
    assert picture(image, other).get_supxlabel() == ""
