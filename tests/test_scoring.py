"""`score` and `musiq-ref`: what a user types, and what happens when something is wrong."""

from __future__ import annotations

import csv
import io
import itertools
import json
import os
import shlex
import subprocess
import sys
import threading
import time
from contextvars import ContextVar, copy_context

import numpy as np
import pytest
from PIL import Image, ImageSequence
from tqdm import tqdm

import musiq_ref as mq
from musiq_ref.cli import COMMANDS, main
from musiq_ref.image.limits import too_many_pixels
from musiq_ref.image.tokenize import tokens_for
from musiq_ref.model.inference import predict
from musiq_ref.ordered import in_order
from musiq_ref.team import OneThreadOfBlas
from musiq_ref.verify import deterministic_params

CONFIG = mq.MusiqConfig.preset("tiny", outputs=10)
PARAMS = deterministic_params(CONFIG, 4)
OPTION = "musiq-ref score, evaluate and distort: --max-pixels"


@pytest.fixture
def picture(rng):
    return rng.integers(0, 256, (50, 77, 3), dtype=np.uint8)


@pytest.fixture
def checkpoint(tmp_path):
    path = tmp_path / "tiny.safetensors"
    mq.save_checkpoint(path, PARAMS, CONFIG)
    return str(path)


@pytest.fixture
def photograph(tmp_path, picture):
    path = tmp_path / "photographs" / "a.png"
    path.parent.mkdir()
    Image.fromarray(picture).save(path)
    return path


def test_one_score_for_every_kind_of_input(picture, photograph, checkpoint):
    logits, _ = mq.forward(PARAMS, mq.batch([mq.tokenize(picture, CONFIG)]), CONFIG)
    p = np.exp(logits[0]) / np.exp(logits[0]).sum()
    expected = (np.arange(1, 11) * p).sum()
    inputs = [picture, photograph, str(photograph), io.BytesIO(photograph.read_bytes()), Image.open(photograph)]
    for result in mq.score(inputs, checkpoint):
        assert result.value == pytest.approx(expected, rel=1e-5)
        np.testing.assert_allclose(result.distribution, p, rtol=1e-4)
        assert (result.height, result.width) == (50, 77)
    assert [r.path for r in mq.score([picture, photograph], checkpoint)] == [None, str(photograph)]


def test_a_single_image_need_not_be_in_a_list(picture, photograph, checkpoint):
    for single in (picture, photograph, str(photograph), io.BytesIO(photograph.read_bytes()), Image.open(photograph)):
        assert len(mq.score(single, checkpoint)) == 1
    assert len(mq.score(np.stack([picture, picture]), checkpoint)) == 2
    assert len(mq.score((image for image in [picture, picture]), checkpoint)) == 2


def test_dtype_conventions_and_loaded_checkpoints(picture, checkpoint):
    loaded = mq.load_checkpoint(checkpoint)
    [single], [double] = mq.score([picture], loaded), mq.score([picture], loaded, dtype="float64")
    [pyiqa] = mq.score([picture], loaded, conventions=mq.PYIQA)
    assert 0 < abs(single.value - double.value) < 1e-5
    assert 1e-4 < abs(pyiqa.value - single.value) < 1


def test_scores_are_not_silently_infinite(picture):
    config = CONFIG.replace(outputs=1)
    huge = np.full((48, 1), 3e38, "f4")
    params = {**PARAMS, "head": {"kernel": huge, "bias": np.zeros(1, "f4")}}
    with pytest.raises(ValueError, match="overflow in float32"), np.errstate(all="ignore"):
        mq.score([picture], mq.Checkpoint(params, config, "native", None))


def test_bad_images_backends_and_dtypes_are_one_sentence(tmp_path, picture, checkpoint):
    with pytest.raises(mq.ImageError, match=r"missing\.png"):
        mq.score([tmp_path / "missing.png"], checkpoint)
    with pytest.raises(ValueError, match="1×700 pixels is too elongated"):
        mq.score([np.zeros((1, 700, 3), np.uint8)], checkpoint)
    with pytest.raises(mq.BackendError, match=r"no backend is called 'tpu'; there are: .*numpy"):
        mq.score([picture], checkpoint, backend="tpu")
    with pytest.raises(ValueError, match="dtype is 'float16'; choose 'float32' or 'float64'"):
        mq.score([picture], checkpoint, dtype="float16")


def read(table):
    with open(table, newline="") as file:
        return list(csv.DictReader(file))


def run(capsys, *args):
    code = main([str(arg) for arg in args])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_command_scores_files_and_folders(photograph, checkpoint, picture, capsys):
    Image.fromarray(picture[:, ::-1]).save(photograph.parent / "B.JPG", format="PNG")
    [expected] = mq.score([photograph], checkpoint)
    code, out, err = run(capsys, "score", photograph.parent, "--checkpoint", checkpoint)
    assert (code, err) == (0, "")
    assert len(out.splitlines()) == 2
    assert f"{expected.value:.4f}  {photograph}" in out


def test_json_and_csv(photograph, checkpoint, tmp_path, capsys):
    table = tmp_path / "scores.csv"
    code, out, _ = run(capsys, "score", photograph, "--checkpoint", checkpoint, "--json", "--csv", table)
    [row], [expected] = json.loads(out), mq.score([photograph], checkpoint)
    assert code == 0
    assert (row["path"], row["height"], row["width"]) == (str(photograph), 50, 77)
    assert row["score"] == expected.value
    assert row["distribution"] == pytest.approx(expected.distribution.tolist())
    [line] = read(table)
    assert float(line["score"]) == expected.value
    assert float(line["p10"]) == pytest.approx(expected.distribution[9])


def test_goes_on_past_unreadable_files_and_says_so(photograph, checkpoint, tmp_path, capsys):
    broken = tmp_path / "broken.png"
    broken.write_bytes(photograph.read_bytes()[:700])
    code, out, err = run(
        capsys,
        "score",
        broken,
        tmp_path / "gone.png",
        photograph,
        "--checkpoint",
        checkpoint,
        "--csv",
        tmp_path / "t.csv",
    )
    assert code == 1
    lines = out.splitlines()
    assert "broken.png" in lines[0]
    assert "error" in lines[0]
    assert "gone.png" in lines[1]
    assert str(photograph) in lines[2]
    assert "2 of 3 images could not be scored" in err
    assert [bool(row["error"]) for row in read(tmp_path / "t.csv")] == [True, True, False]


def test_made_up_weights_are_announced_loudly(photograph, monkeypatch, capsys):
    made_up = mq.Checkpoint(PARAMS, CONFIG, "deterministic", None)
    monkeypatch.setattr("musiq_ref.cli.score.load_checkpoint", lambda *args: made_up)
    code, _, err = run(capsys, "score", photograph)
    assert code == 0
    assert "MEAN NOTHING" in err


def test_the_bundled_model_is_named(photograph, checkpoint, capsys):
    assert "the bundled model, which learned to judge synthetic distortions" in run(capsys, "score", photograph)[2]
    assert "bundled" not in run(capsys, "score", photograph, "--checkpoint", checkpoint)[2]


def test_an_unwritable_csv_is_noticed_before_the_work(photograph, checkpoint, tmp_path, capsys):
    code, out, err = run(capsys, "score", photograph, "--checkpoint", checkpoint, "--csv", tmp_path / "no" / "t.csv")
    assert (code, out) == (2, "")
    assert "t.csv" in err


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--checkpoint", "nowhere.npz"], "nowhere.npz"),
        (["--backend", "tpu"], "no backend is called 'tpu'"),
    ],
)
def test_bad_use_is_one_sentence_and_exit_code_2(args, message, photograph, checkpoint, capsys):
    args = args if "--checkpoint" in args else [*args, "--checkpoint", checkpoint]
    code, out, err = run(capsys, "score", photograph, *args)
    assert (code, out) == (2, "")
    assert message in err
    assert len(err.splitlines()) == 1


def test_an_empty_folder_is_an_error(tmp_path, checkpoint, capsys):
    (tmp_path / "empty").mkdir()
    code, _, err = run(capsys, "score", tmp_path / "empty", "--checkpoint", checkpoint)
    assert code == 2
    assert "empty" in err


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(command, capsys):
    with pytest.raises(SystemExit) as exit_:
        main([command, "--help"])
    assert exit_.value.code == 0
    assert f"example: musiq-ref {command}" in " ".join(capsys.readouterr().out.split())


def test_bad_arguments_exit_with_2(capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["score"])
    assert exit_.value.code == 2
    with pytest.raises(SystemExit) as exit_:
        main(["juggle"])
    assert exit_.value.code == 2
    assert "juggle" in capsys.readouterr().err


def test_float64_scores_are_float64_from_the_pixels(picture):
    """Under pyiqa's conventions the score is image_gradient's to the last digits; the authors' tokens stay float32."""
    config = CONFIG.replace(conventions=mq.PYIQA)
    params = mq.init_params(config, 3, "float64")
    params["head"]["kernel"] = np.random.default_rng(0).standard_normal((48, 10))
    [result] = mq.score([picture], mq.Checkpoint(params, config, "native", None), dtype="float64")
    assert result.value == pytest.approx(mq.image_gradient(picture, params, config)[0], rel=1e-13)


def test_untrained_weights_warn_in_python_too(picture):
    with pytest.warns(UserWarning, match="never trained: the scores mean nothing"):
        mq.score([picture], mq.Checkpoint(PARAMS, CONFIG, "deterministic", None))


def test_a_torch_tensor_is_one_image(torch, picture, checkpoint):
    assert len(mq.score(torch.tensor(picture), checkpoint)) == 1
    assert len(mq.score(torch.tensor(np.stack([picture, picture])), checkpoint)) == 2


def test_bytes_are_no_image(checkpoint):
    with pytest.raises(mq.ImageError, match="type bytes"):
        mq.score(b"not an image", checkpoint)


def test_the_options_reach_the_score(photograph, checkpoint, capsys):
    def score_with(*options):
        return json.loads(run(capsys, "score", photograph, "--checkpoint", checkpoint, "--json", *options)[1])[0][
            "score"
        ]

    loaded = mq.load_checkpoint(checkpoint, "float64")
    assert score_with("--conventions", "pyiqa") == mq.score([photograph], checkpoint, conventions=mq.PYIQA)[0].value
    assert score_with("--dtype", "float64") == mq.score([photograph], loaded, dtype="float64")[0].value
    assert len({score_with(), score_with("--conventions", "pyiqa"), score_with("--dtype", "float64")}) == 3


def test_a_csv_never_replaces_a_photograph(photograph, checkpoint, capsys):
    before = photograph.read_bytes()
    code, _, err = run(capsys, "score", photograph, "--checkpoint", checkpoint, "--csv", photograph)
    assert code == 2
    assert "does not end in .csv" in err
    assert photograph.read_bytes() == before


def test_every_row_has_every_key(photograph, checkpoint, tmp_path, capsys):
    table = tmp_path / "t.csv"
    code, out, _ = run(
        capsys, "score", tmp_path / "gone.png", photograph, "--checkpoint", checkpoint, "--json", "--csv", table
    )
    missing, good = json.loads(out)
    assert code == 1
    assert set(missing) == set(good) == {"path", "score", "distribution", "height", "width", "error"}
    assert "gone.png" in missing["error"]
    assert good["error"] is None
    rows = read(table)
    assert [row["path"] for row in rows] == [str(tmp_path / "gone.png"), str(photograph)]
    assert (rows[1]["height"], rows[1]["width"], rows[0]["score"]) == ("50", "77", "")


def test_an_interruption_keeps_what_was_scored(photograph, checkpoint, tmp_path, capsys, monkeypatch):
    def interrupted(path, **options):
        if path == tmp_path / "second.png":
            raise KeyboardInterrupt
        return mq.decode(path, **options)

    monkeypatch.setattr("musiq_ref.scorers.decode", interrupted)
    table = tmp_path / "t.csv"
    code, out, err = run(
        capsys, "score", photograph, tmp_path / "second.png", "--checkpoint", checkpoint, "--json", "--csv", table
    )
    assert code == 130
    assert "stopped; " in err
    assert len(json.loads(out)) == len(read(tmp_path / "t.csv.part")) == 1


def test_too_little_memory_for_one_image_does_not_end_the_rest(photograph, checkpoint, capsys, monkeypatch):
    def limited(path, **options):
        if path.name == "huge.png":
            raise MemoryError
        return mq.decode(path, **options)

    monkeypatch.setattr("musiq_ref.scorers.decode", limited)
    code, out, _ = run(capsys, "score", "huge.png", photograph, "--checkpoint", checkpoint)
    assert code == 1
    assert "too large for the memory" in out.splitlines()[0]
    assert str(photograph) in out.splitlines()[1]


def test_names_that_the_terminal_cannot_show_and_a_closed_pipe(photograph, checkpoint):
    odd = photograph.parent / "\udcffé.png"
    odd.write_bytes(photograph.read_bytes())
    command = [sys.executable, "-m", "musiq_ref.cli", "score", str(photograph.parent), "--checkpoint", checkpoint]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii:strict"}
    done = subprocess.run(command, capture_output=True, env=environment)
    assert (done.returncode, len(done.stdout.splitlines())) == (0, 2)
    piped = subprocess.run(["sh", "-c", f"{shlex.join(command)} | true"], capture_output=True, env=environment)
    assert piped.stderr == b""


def test_an_empty_folder_does_not_end_the_rest_and_nothing_is_scored_twice(photograph, checkpoint, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    code, out, _ = run(capsys, "score", tmp_path / "empty", photograph, photograph.parent, "--checkpoint", checkpoint)
    assert code == 1
    assert len(out.splitlines()) == 2
    assert "empty is a folder" in out.splitlines()[0]
    assert str(photograph) in out.splitlines()[1]


# ---- limits, and what is opened


def test_a_small_file_may_not_ask_for_all_memory(tmp_path, photograph, checkpoint, capsys):
    bomb = tmp_path / "bomb.png"
    Image.new("1", (4000, 4000)).save(bomb)
    with pytest.raises(mq.ImageError, match=r"bomb\.png has 4000 x 4000 pixels in \d+ bytes, too few for a photograph"):
        mq.score(bomb, checkpoint)
    code, out, _ = run(capsys, "score", bomb, photograph, "--checkpoint", checkpoint, "--max-pixels", 3000)
    assert code == 1
    for line, size in zip(out.splitlines(), (16000000, 3850), strict=True):
        assert line.endswith(f"more than max_pixels=3000; raise max_pixels if it is to be trusted ({OPTION} {size})")
    assert run(capsys, "score", photograph, "--checkpoint", checkpoint, "--max-pixels", 3850)[0] == 0


def test_a_narrow_picture_is_measured_by_its_patches(picture):
    config = CONFIG.replace(longer_sides=())
    narrow = np.zeros((1, 2_000_000, 3), np.uint8)
    one = mq.scorer(mq.Checkpoint(mq.init_params(config), config, "native", None))
    with pytest.raises(mq.ImageError, match="the image is cut into 62500 patches, those of 64000000 pixels, more than"):
        one(narrow)


@pytest.mark.parametrize("bytes_and_pixels", [(6_000_000, 24_000_000), (10_000_000, 50_000_000), (700_000, 24_000_000)])
def test_photographs_of_cameras_are_accepted(bytes_and_pixels):
    size, pixels = bytes_and_pixels
    assert too_many_pixels(pixels // 5000, 5000, None, size) == ""
    assert "--max-pixels 60000000" in too_many_pixels(12000, 5000, None, 20_000_000)


def test_max_pixels_must_be_a_count(checkpoint, capsys):
    with pytest.raises(ValueError, match="max_pixels is 0; choose a whole number of at least 1, or None"):
        mq.scorer(checkpoint, max_pixels=0)
    with pytest.raises(SystemExit):
        main(["score", "a.png", "--max-pixels", "many"])
    assert "'many' is not a number of pixels; give 1 or more" in capsys.readouterr().err


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="makes pipes")
def test_only_files_are_opened(tmp_path, checkpoint, capsys):
    os.mkfifo(tmp_path / "pipe.png")
    with (tmp_path / "huge.png").open("wb") as file:
        file.truncate(5 * 10**9)
    names = [tmp_path / "pipe.png", "/dev/zero", tmp_path / "huge.png", "x" * 300, "y/" * 3000]
    code, out, _ = run(capsys, "score", *names, "--checkpoint", checkpoint)
    pipe, device, huge, *long = out.splitlines()
    assert code == 1
    assert all("is a pipe or a device, no file; redirect it to musiq-ref score -" in line for line in (pipe, device))
    assert "is larger than 486539264 bytes; raise max_pixels" in huge
    assert all("File name too long" in line for line in long)


def test_standard_input_is_bounded(checkpoint):
    command = [sys.executable, "-m", "musiq_ref.cli", "score", "-", "--checkpoint", checkpoint, "--max-pixels", "1000"]
    with open("/dev/zero", "rb") as endless:
        done = subprocess.run(command, stdin=endless, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert "standard input is larger than 67116864 bytes" in done.stdout


def test_what_is_no_image_is_one_sentence(checkpoint, photograph):
    for nothing, message in [
        (None, "type NoneType is no image; pass a path"),
        ([None], "type NoneType is no image; pass a path"),
        ([b"\x89PNG"], r"type bytes is no image; wrap them in io\.BytesIO"),
        ("", "an empty name is no path"),
        ("a\0b", "null byte"),
    ]:
        with pytest.raises(mq.ImageError, match=message):
            mq.score(nothing, checkpoint)
    with pytest.raises(mq.ImageError, match=r"one image at a time; call it for each, or pass them all to mq\.score"):
        mq.scorer(checkpoint)([photograph])


def test_progress_within_one_picture(picture, checkpoint):
    told = []
    mq.scorer(checkpoint)(np.tile(picture, (4, 4, 1)), told.append)
    assert len(told) > 4
    assert told == sorted(told)
    assert (told[0], told[-1]) == (0, 1)


def test_a_terminal_shows_progress_within_one_picture(photograph, checkpoint, monkeypatch, capsys):
    shown = []

    class Bar(tqdm):
        def __init__(self, *args, **options):
            super().__init__(*args, **options | {"disable": False, "delay": 0, "mininterval": 0})

        def update(self, n=1):
            shown.append(self.n + n)
            return super().update(n)

    monkeypatch.setattr("musiq_ref.cli.score.tqdm", Bar)
    assert run(capsys, "score", photograph, photograph.parent, "--checkpoint", checkpoint)[0] == 0
    assert len(shown) > 4
    assert shown == sorted(shown)
    assert shown[-1] == 1


# ---- many images


@pytest.fixture
def pictures(tmp_path, rng):
    """Files of eleven sizes, the largest first."""
    for i in range(11):
        pixels = rng.integers(0, 256, (180 - 15 * i, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{i:02}.png")
    return sorted(tmp_path.glob("*.png"))


@pytest.fixture
def blas_of_three(monkeypatch):
    """As if BLAS had three threads."""

    def entered(self):
        return 3

    monkeypatch.setattr(OneThreadOfBlas, "__enter__", entered)
    monkeypatch.setattr(OneThreadOfBlas, "__exit__", lambda *_: None)


def test_many_images_in_their_order_with_the_scores_of_single_calls(pictures, checkpoint, blas_of_three, tmp_path):
    one = mq.scorer(checkpoint)
    images = [*pictures, tmp_path / "gone.png", np.zeros((9, 9, 3), np.uint8), b"bytes", *pictures[:2]]
    paths = [None if i in (12, 13) else str(image) for i, image in enumerate(images)]
    singles = [None if i in (11, 13) else one(image).value for i, image in enumerate(images)]
    for _ in range(3):
        results = list(one.map(image for image in images))
        assert [type(r).__name__ for r in results[11:14]] == ["ImageError", "Score", "ImageError"]
        assert results[11].__traceback__ is results[11].__context__ is None  # which would keep pixels in memory
        for result, path, single in zip(results, paths, singles, strict=True):
            if isinstance(result, mq.Score):
                assert result.value == pytest.approx(single, rel=1e-6)
                assert result.path == path


def test_each_small_image_has_a_thread_and_a_large_one_has_all(pictures, checkpoint, blas_of_three, monkeypatch):
    seen, at_work, most = [], [], []

    def watched(*args):
        at_work.append(1)
        most.append(len(at_work))
        seen.append((len(args[1].mask), args[5]))
        logits = predict(*args)
        at_work.pop()
        return logits

    monkeypatch.setattr("musiq_ref.scorers.predict", watched)
    for large, members in ((10_000, 1), (0, 3)):
        monkeypatch.setattr("musiq_ref.scorers.LARGE", large)
        seen.clear(), most.clear()
        list(mq.scorer(checkpoint).map(pictures))
        assert {threads for _, threads in seen} == {members}
        assert large or max(most) == 1
    for count, threads in ((1, 3), (2, 1), (3, 1)):  # and few images share the threads
        monkeypatch.setattr("musiq_ref.scorers.LARGE", 10_000)
        seen.clear()
        mq.score(pictures[:count], checkpoint)
        assert [found for _, found in seen] == [threads] * count


def test_of_large_images_two_at_most_have_their_tokens(pictures, checkpoint, blas_of_three, monkeypatch):
    ready, most = [], []

    def counted(*args):
        tokens = tokens_for(*args)
        ready.append(1)
        most.append(len(ready))
        return tokens

    def slow(*args):
        time.sleep(0.02)
        ready.pop()
        return predict(*args)

    monkeypatch.setattr("musiq_ref.scorers.LARGE", 0)
    monkeypatch.setattr("musiq_ref.scorers.tokens_for", counted)
    monkeypatch.setattr("musiq_ref.scorers.predict", slow)
    list(mq.scorer(checkpoint).map(pictures))
    assert 1 <= max(most) <= 2


def test_threads_have_the_context_of_their_caller():
    place = ContextVar("place", default="elsewhere")

    def within():
        place.set("here")
        return list(in_order(lambda _: place.get(), range(3), workers=2))

    assert copy_context().run(within) == ["here"] * 3


def test_what_changes_between_two_looks_is_read_when_it_is_given(tmp_path, checkpoint, blas_of_three):
    frames = [Image.new("RGB", (30, 40), (60 * i, 0, 200 - 40 * i)) for i in range(4)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    buffer = np.zeros((40, 30, 3), np.uint8)

    def refilled():
        for i in range(4):
            buffer[:] = (60 * i, 0, 200 - 40 * i)
            yield buffer

    with Image.open(tmp_path / "a.gif") as moving:
        by_frame = mq.score(ImageSequence.Iterator(moving), checkpoint)
    by_buffer = mq.score(refilled(), checkpoint)
    assert len({one.value for one in by_frame}) == 4
    assert [one.value for one in by_frame] == pytest.approx([one.value for one in by_buffer], abs=0.02)


def test_few_images_are_taken_ahead_and_a_stop_is_heeded_within_an_image(
    pictures, checkpoint, blas_of_three, monkeypatch
):
    taken, asked = [], []

    def endless():
        for image in itertools.cycle(pictures):
            taken.append(image)
            yield image

    def slow(*args):
        for _ in range(2000 if len(taken) > 30 else 0):
            asked.append(time.sleep(0.01))
            args[4](0.5)
        return predict(*args)

    monkeypatch.setattr("musiq_ref.scorers.predict", slow)
    results = mq.scorer(checkpoint).map(endless(), lambda done: None)
    for _ in range(5):
        next(results)
    ahead = len(taken)
    taken += pictures * 3  # from now on they are slow
    time.sleep(0.3)
    results.close()
    assert ahead <= 5 + 8 * 3
    assert 0 < len(asked) < 2000
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("ThreadPool")]


def test_progress_over_many_images(pictures, checkpoint, blas_of_three, tmp_path):
    told = []
    images = [*pictures, tmp_path / "gone.png"]
    list(mq.scorer(checkpoint).map(images, told.append))
    assert told == sorted(told)
    assert told[-1] == len(images) == 12
    assert len(told) > 40


def test_an_error_that_is_no_image_s_ends_the_work(pictures, checkpoint, blas_of_three):
    def broken(pixels):
        if len(pixels) == 105:
            raise KeyError("misspelt")
        return pixels[:40]

    results = mq.scorer(checkpoint).map(pictures, prepare=broken)
    assert [next(results).height for _ in range(5)] == [40] * 5
    with pytest.raises(KeyError, match="misspelt"):
        list(results)
