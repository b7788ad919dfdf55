"""Fixtures: the same bytes every time, and refused, by name, when anything in them is not what was written."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

import musiq_ref as mq
from musiq_ref.cli import main
from musiq_ref.image.resize import resized_sides
from musiq_ref.verify import FixtureError, build_fixture, load_fixture, make_fixture
from musiq_ref.verify.ladder.fixture import WEIGHT_SEEDS, digest, fixture_image
from musiq_ref.verify.ladder.stages import run_stages
from musiq_ref.verify.ladder.tolerance import SAFE, corner_margin

IMAGE = fixture_image(40, 50)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fixtures") / "official"
    make_fixture(folder)
    return folder


@pytest.fixture
def copy(written, tmp_path):
    shutil.copytree(written, tmp_path / "copy")
    return tmp_path / "copy"


def test_two_runs_on_other_numbers_of_threads_write_the_same_bytes(written, tmp_path):
    with threadpool_limits(2):
        make_fixture(tmp_path / "again")
    ours = sorted(p.relative_to(written) for p in written.rglob("*") if p.is_file())
    theirs = sorted(p.relative_to(tmp_path / "again") for p in (tmp_path / "again").rglob("*") if p.is_file())
    assert ours == theirs
    for file in ours:
        assert (written / file).read_bytes() == (tmp_path / "again" / file).read_bytes(), file


@pytest.mark.parametrize(("kernels", "without"), [("Prescott", "X86_V3 X86_V4 AVX2 FMA3"), ("Haswell", "")])
def test_other_processors_kernels_write_the_same_arrays(written, tmp_path, kernels, without):
    """OpenBLAS and NumPy as on other x86 processors (elsewhere the variables mean nothing, and the test little)."""
    command = [sys.executable, "-m", "musiq_ref.cli", "fixture", str(tmp_path / "there"), "--json"]
    done = subprocess.run(
        command,
        env={**os.environ, "OPENBLAS_CORETYPE": kernels, "NPY_DISABLE_CPU_FEATURES": without},
        capture_output=True,
        check=True,
    )
    assert json.loads(done.stdout)["content_sha256"] == load_fixture(written).manifest["content_sha256"]


def test_what_is_in_it(written):
    fixture = load_fixture(written)
    names = list(fixture.stages)
    assert names[:3] == ["integers/sides", "integers/hash", "layout"]
    order = ["mask", "pixels/scale_0", "patches", "stem/output", "encoder/input", "head/logits", "score", "loss/l1"]
    order += ["gradient/head/logits", "gradient/patches", "gradient/image", "dparams/head/kernel", "step/head/kernel"]
    assert [n for n in names if n in order] == order
    assert np.array_equal(fixture.image, np.load(written / "image.npy"))
    checkpoint = mq.load_checkpoint(written / "weights.safetensors")
    assert checkpoint.config == fixture.config
    logits = fixture.stages["head/logits"].array
    tokens = mq.batch([mq.tokenize(fixture.image, checkpoint.config)])
    np.testing.assert_allclose(
        mq.forward(checkpoint.params, tokens, checkpoint.config)[0], logits, atol=1e-5
    )  # of values around 1, in float32


@pytest.mark.parametrize("conventions", WEIGHT_SEEDS)
def test_no_float32_run_of_a_made_fixture_decides_a_relu_otherwise(conventions):
    fixture = build_fixture(conventions=conventions)
    stages = run_stages(fixture.params, fixture.image, fixture.config, gradients=False, until="stem/output")
    assert corner_margin(stages) > SAFE


@pytest.mark.parametrize("file", ["image.npy", "weights.safetensors", "stages/score.npy", "stages/stem/pool.npy"])
@pytest.mark.parametrize("how", ["corrupted", "cut short", "missing"])
def test_a_damaged_file_is_refused_by_name(copy, file, how):
    content = bytearray((copy / file).read_bytes())
    if how == "missing":
        (copy / file).unlink()
    else:
        content[-1] ^= 1
        (copy / file).write_bytes(content if how == "corrupted" else content[:-8])
    with pytest.raises(FixtureError, match=file) as error:
        load_fixture(copy)
    assert "make the fixture again" in str(error.value)


def test_exchanged_files_are_told(copy):
    a, b = copy / "stages/encoder/block_00/norm1.npy", copy / "stages/encoder/block_01/norm1.npy"
    contents = a.read_bytes(), b.read_bytes()
    a.write_bytes(contents[1])
    b.write_bytes(contents[0])
    with pytest.raises(FixtureError, match=r"block_00/norm1.npy: holds what belongs in stages/encoder/block_01/norm1"):
        load_fixture(copy)


def test_a_file_of_another_fixture_is_refused(copy, tmp_path):
    make_fixture(tmp_path / "pyiqa", conventions="pyiqa")
    shutil.copy(tmp_path / "pyiqa/stages/score.npy", copy / "stages/score.npy")
    with pytest.raises(FixtureError, match=r"score\.npy: is not what the generator wrote"):
        load_fixture(copy)
    shutil.copy(tmp_path / "pyiqa/manifest.json", copy / "manifest.json")
    with pytest.raises(FixtureError, match="is not what the generator wrote"):
        load_fixture(copy)


def test_an_edited_manifest_is_refused(copy):
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["stages"][9]["tolerance"]["bulk"] = 1.0
    (copy / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(FixtureError, match=r"manifest\.json: was edited"):
        load_fixture(copy)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layers": 3}, r"does not fit its files .parameter encoder/block_0[0-9].*is missing"),
        ({"layers": 10**9}, r"manifest\.json: .*layers is 1000000000; it must be"),
        ({"longer_sides": [8, 10**9]}, r"manifest\.json: .*longer_sides is 1000000000; it must be"),
        ({"grid_size": 1000}, r"does not fit its files .parameter spatial_embedding/table has shape"),
    ],
)
def test_a_configuration_that_does_not_fit_the_weights_is_refused(copy, changes, message):
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["config"].update(changes)
    manifest["manifest_sha256"] = digest({key: value for key, value in manifest.items() if key != "manifest_sha256"})
    (copy / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(FixtureError, match=message):
        load_fixture(copy)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "is missing, so"),
        ("{", "cannot be read"),
        ('{"format": "x", "version": 9, "manifest_sha256": ""}', "reads"),
    ],
)
def test_what_is_no_manifest_is_refused(copy, content, message):
    (copy / "manifest.json").unlink()
    if content is not None:
        (copy / "manifest.json").write_text(content)
    with pytest.raises(FixtureError, match=message):
        load_fixture(copy)


def test_a_left_over_file_is_refused(copy):
    (copy / "stages/mine.npy").write_bytes(b"")
    with pytest.raises(FixtureError, match=r"mine\.npy: does not belong"):
        load_fixture(copy)


def test_weights_and_image_of_ones_own(tmp_path):
    config = mq.MusiqConfig.preset("tiny", outputs=1, longer_sides=(64,), layers=1)
    mq.save_checkpoint(tmp_path / "mine.safetensors", mq.verify.deterministic_params(config, 9), config)
    fixture = build_fixture(checkpoint=tmp_path / "mine.safetensors", image=IMAGE, conventions="pyiqa")
    assert fixture.config == config.replace(conventions=mq.PYIQA)
    assert np.array_equal(fixture.image, IMAGE)
    assert "probabilities" not in fixture.stages


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda folder: make_fixture(folder, "huge"), "no fixture is called 'huge'"),
        (lambda folder: make_fixture(folder, conventions="mine"), "no conventions are called 'mine'"),
        (lambda folder: make_fixture(folder, image=np.zeros((40, 50, 3))), "needs 8-bit pixels"),
        (lambda folder: make_fixture(folder.parent), "is not empty"),
    ],
)
def test_bad_use_is_refused(tmp_path, call, message):
    (tmp_path / "something").write_text("here")
    with pytest.raises(ValueError, match=message):
        call(tmp_path / "new")


def test_the_command(tmp_path, capsys):
    assert main(["fixture", str(tmp_path / "one"), "--outputs", "2", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["content_sha256"] == load_fixture(tmp_path / "one").manifest["content_sha256"]
    assert main(["fixture", str(tmp_path / "one")]) == 2
    assert "is not empty" in capsys.readouterr().err


def test_a_fixture_from_before_the_image_sizes_is_read(copy):
    (copy / "image_sizes.npy").unlink()
    manifest = json.loads((copy / "manifest.json").read_text())
    del manifest["files"]["image_sizes.npy"], manifest["manifest_sha256"]
    (copy / "manifest.json").write_text(json.dumps({**manifest, "manifest_sha256": digest(manifest)}))
    assert load_fixture(copy).image_sizes.shape == (71, 2)


def test_the_image_sizes_are_those_of_the_sides(written):
    fixture = load_fixture(written)
    for (height, width), sides in zip(fixture.image_sizes, fixture.stages["integers/sides"].array, strict=True):
        for longer, (h, w) in zip(fixture.config.longer_sides, sides, strict=True):
            assert (h, w) == resized_sides(int(height), int(width), longer, "float32")
