"""Folders: which files in them are images, what is left out and said; and the formats HEIC, AVIF and MPO."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import musiq_ref as mq
from musiq_ref.cli import main
from musiq_ref.extras import needs
from musiq_ref.image.decode import ImageError, decode
from musiq_ref.image.find import Found, find_images
from musiq_ref.image.heif import kind_of, readable
from musiq_ref.verify import deterministic_params

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="makes links and pipes")
GRADIENT = np.dstack(np.broadcast_arrays(np.arange(0, 240, 4)[None], np.arange(0, 160, 4)[:, None], 90)).astype("u1")


@pytest.fixture
def folder(tmp_path):
    """One image, and everything that may lie beside it."""
    folder = tmp_path / "holiday"
    (folder / "sub" / ".hidden").mkdir(parents=True)
    for name in ("a.JPG", "x.cr2", "y.CR2", "notes.txt", "README", ".z.png", "sub/.hidden/b.png", "phone.heic"):
        (folder / name).touch()
    (folder / "gone.png").symlink_to(folder / "nowhere.png")
    (folder / "linked").symlink_to(folder / "sub", target_is_directory=True)
    (folder / "link.png").symlink_to(folder / "a.JPG")
    os.mkfifo(folder / "pipe.png")
    return folder


@pytest.fixture
def without_heic(monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)


def test_what_is_left_out_is_counted(folder, without_heic):
    found = find_images([folder])
    assert [path.name for path in found.files] == ["a.JPG", "link.png"]
    assert found.left_out == {
        ".cr2": 2,
        "hidden": 2,
        ".txt": 1,
        "without extension": 1,
        f".heic (needs pillow-heif: {needs('heif')})": 1,
        "broken link": 1,
        "linked folder": 1,
        "not a file": 1,
    }
    assert found.summary().startswith("10 left out: 2 .cr2, 2 hidden, 1 .heic (needs")


def test_links_given_by_name_are_followed(folder, tmp_path):
    (tmp_path / "here").symlink_to(folder, target_is_directory=True)
    assert len(find_images(tmp_path / "here").files) >= 2


def test_many_reasons_are_summed_up():
    assert Found([], {f".x{n}": 10 - n for n in range(10)}).summary().endswith("3 .x7, 3 for other reasons")
    assert Found([], {}).summary() == ""


def test_an_unreadable_folder_is_counted(folder, monkeypatch):
    real = Path.iterdir

    def refused(path):
        if path.name == "sub":
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(Path, "iterdir", refused)
    assert find_images([folder]).left_out["unreadable folder"] == 1


def test_an_empty_folder_says_what_was_seen(folder):
    (folder / "a.JPG").unlink()
    (folder / "link.png").unlink()
    (folder / "phone.heic").unlink()
    with pytest.raises(ImageError, match=r"holiday holds no images; .* \(\d+ left out: 2 \.cr2"):
        find_images([folder])


def test_the_command_says_it_on_stderr_and_succeeds(folder, tmp_path, capsys):
    Image.fromarray(GRADIENT).save(folder / "a.JPG")
    config = mq.MusiqConfig.preset("tiny")
    mq.save_checkpoint(tmp_path / "tiny.safetensors", deterministic_params(config, 1), config)
    (folder / "phone.heic").unlink()
    assert main(["score", str(folder), "--checkpoint", str(tmp_path / "tiny.safetensors")]) == 0
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 2
    assert err.startswith("9 left out: 2 ")
    assert "1 broken link" in err
    assert main(["distort", str(folder), "-o", str(tmp_path / "out"), "--severity", "1"]) == 0
    assert capsys.readouterr().err == err


# ---- formats


def encoded(file_format, **options):
    file = io.BytesIO()
    Image.fromarray(GRADIENT).save(file, file_format, **options)
    return file.getvalue()


def assert_close(pixels):
    assert pixels.shape == GRADIENT.shape
    assert np.abs(pixels.astype(int) - GRADIENT).mean() < 4


def test_mpo_is_its_first_picture(tmp_path):
    other = Image.fromarray(255 - GRADIENT)
    (tmp_path / "a.mpo").write_bytes(encoded("MPO", save_all=True, append_images=[other], quality=95))
    [path] = find_images([tmp_path]).files
    with Image.open(path) as image:
        assert image.n_frames == 2
    assert_close(decode(path))


@pytest.fixture
def heic():
    """Encodes GRADIENT as HEIC."""
    pillow_heif = pytest.importorskip("pillow_heif")

    def encode(**options):
        file = io.BytesIO()
        pillow_heif.from_pillow(Image.fromarray(GRADIENT)).save(file, quality=95, **options)
        return file.getvalue()

    return encode


def test_heic(heic, tmp_path):
    (tmp_path / "a.heic").write_bytes(heic())
    assert find_images([tmp_path]).files == [tmp_path / "a.heic"]
    assert_close(decode(tmp_path / "a.heic"))
    assert "HEIF" not in Image.OPEN  # Pillow stays as it was for others


def test_heic_is_turned_upright_once(heic):
    exif = Image.Exif()
    exif[274] = 6
    assert decode(io.BytesIO(heic(exif=exif.tobytes()))).shape == (GRADIENT.shape[1], GRADIENT.shape[0], 3)


def test_of_several_pictures_in_a_heic_the_primary_one_counts():
    pillow_heif = pytest.importorskip("pillow_heif")
    for primary in (0, 1, 2):
        file, several = io.BytesIO(), pillow_heif.HeifFile()
        for grey in (10, 120, 230):
            several.add_from_pillow(Image.new("RGB", (64, 48), (grey, grey, grey)))
        several.save(file, primary_index=primary)
        assert np.abs(decode(io.BytesIO(file.getvalue())).astype(int) - (10, 120, 230)[primary]).max() < 4


def test_heic_that_is_damaged_or_too_large_is_one_sentence(heic, tmp_path):
    data = heic()
    (tmp_path / "cut.heic").write_bytes(data[: len(data) // 2])
    with pytest.raises(ImageError, match=r"cut\.heic is damaged"):
        decode(tmp_path / "cut.heic")
    with pytest.raises(ImageError, match="more than max_pixels=100"):
        decode(io.BytesIO(data), max_pixels=100)


def test_heic_without_pillow_heif_says_what_to_install(without_heic, tmp_path):
    box = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"
    (tmp_path / "a.heic").write_bytes(box + bytes(100))
    with pytest.raises(ImageError) as refused:
        decode(tmp_path / "a.heic")
    path = tmp_path / "a.heic"
    assert str(refused.value) == f"{path} is a picture in the format HEIC, which needs pillow-heif: {needs('heif')}"


@pytest.mark.skipif(not readable("AVIF"), reason="this Pillow reads no AVIF")
def test_avif(tmp_path, monkeypatch):
    (tmp_path / "a.avif").write_bytes(encoded("AVIF", quality=95))
    assert kind_of((tmp_path / "a.avif").read_bytes()) == "AVIF"
    assert_close(decode(tmp_path / "a.avif"))
    assert len(find_images([tmp_path]).files) == 1
    monkeypatch.setattr("musiq_ref.image.heif.features.check_module", lambda name: False)
    with pytest.raises(ImageError, match=r"in the format AVIF, which needs Pillow 11\.3 or later"):
        decode(tmp_path / "a.avif")
    with pytest.raises(ImageError, match=r"1 left out: 1 \.avif \(needs Pillow 11\.3"):
        find_images([tmp_path])


def test_a_film_is_neither(tmp_path):
    assert kind_of(b"\0\0\0\x18ftypisom\0\0\2\0isommp42") is None
    assert kind_of(b"\0\0\0\x1cftypmif1\0\0\0\0mif1avif") == "AVIF"
    assert kind_of(b"\0\0\0\x1cftypmif1\0\0\0\0mif1heic") == "HEIC"


def test_an_empty_name_is_not_the_present_folder():
    with pytest.raises(ImageError, match="an empty name"):
        find_images([""])


def test_a_broken_link_is_called_one(tmp_path):
    (tmp_path / "photo.png").symlink_to("gone.png")
    with pytest.raises(ImageError, match=r"photo\.png is a link to gone\.png, which does not exist"):
        mq.decode(tmp_path / "photo.png")


def test_a_name_with_a_line_break_is_one_line(tmp_path, capsys):
    for name in ("a\nb é.png", "c\rd.png", "g\x85h\u2028.png"):
        Image.new("RGB", (40, 40), "red").save(tmp_path / name)
    (tmp_path / "e\nf.png").write_text("no image")
    assert main(["score", str(tmp_path)]) == 1
    lines = capsys.readouterr().out.splitlines()
    names = [line.rpartition("/")[2][:10] for line in lines]
    assert names == [r"a\nb é.png", r"c\rd.png", r"e\nf.png i", r"g\x85h\u20"]
