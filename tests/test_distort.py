"""`musiq-ref distort`: the files are what the library makes, and nobody's picture is lost."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from musiq_ref.cli import main
from musiq_ref.image.decode import decode
from musiq_ref.pictures.distortions import DISTORTIONS


@pytest.fixture
def photo(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def test_the_files_are_what_the_library_makes(photo, tmp_path, capsys):
    command = ["distort", str(photo), "-o", str(tmp_path / "out"), "--seed", "5"]
    assert main([*command, "--distortion", "white_noise", "--distortion", "jpeg", "--severity", "0.5"]) == 0
    written = sorted((tmp_path / "out").iterdir())
    assert capsys.readouterr().out.split() == [str(path) for path in reversed(written)]
    for path, name in zip(written, ("jpeg", "white_noise"), strict=True):
        assert path.name == f"photo_{name}_0.50.png"
        np.testing.assert_array_equal(
            decode(path), DISTORTIONS[name](decode(photo), 0.5, np.random.default_rng(5)), strict=True
        )


def test_by_default_four_kinds_at_three_severities_and_again_the_same(photo, tmp_path):
    for _ in range(2):
        assert main(["distort", str(photo), "-o", str(tmp_path / "out")]) == 0
        assert len(list((tmp_path / "out").iterdir())) == 12


def test_another_picture_is_not_overwritten(photo, tmp_path, capsys):
    other = tmp_path / "photo_jpeg_0.50.png"
    Image.new("RGB", (4, 4)).save(other)
    before = other.read_bytes()
    assert main(["distort", str(photo), "-o", str(tmp_path), "--distortion", "jpeg", "--severity", "0.5"]) == 2
    assert "was not written by musiq-ref; name another, or add --force" in capsys.readouterr().err
    assert other.read_bytes() == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--severity", "1.5"], "severity 1.5; it goes from 0"),
        (["--seed", "-1"], "--seed is -1; it must not be negative"),
        (["--severity", "0.301", "--severity", "0.299", "--force"], "two pictures would be called"),
    ],
)
def test_bad_use_is_one_sentence(photo, tmp_path, capsys, options, message):
    assert main(["distort", str(photo), "-o", str(tmp_path / "new" / "out"), *options]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_two_files_of_one_name_are_refused(photo, tmp_path, capsys):
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "photo.png").write_bytes(photo.read_bytes())
    assert main(["distort", str(photo), str(tmp_path / "b"), "-o", str(tmp_path / "out")]) == 2
    assert "photo_gaussian_blur_0.20.png; make them in two calls, in two folders" in capsys.readouterr().err


def test_a_missing_file(tmp_path, capsys):
    assert main(["distort", str(tmp_path / "none.png"), "-o", str(tmp_path / "out")]) == 2
    assert "none.png" in capsys.readouterr().err


def test_the_limit_of_pixels_can_be_moved(photo, tmp_path, capsys):
    command = ["distort", str(photo), "-o", str(tmp_path / "out"), "--distortion", "jpeg", "--max-pixels"]
    assert main([*command, "599"]) == 2
    assert "has 30 x 20 pixels, more than max_pixels=599" in capsys.readouterr().err
    assert main([*command, "600"]) == 0
