"""What every command writes: never an input, never somebody else's file, whole or not at all."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import musiq_ref as mq
from musiq_ref.cli import main
from musiq_ref.outputs import HOUR, OutputError, check_output, clear_parts, is_ours, write_output

COMMANDS = {  # a command, up to the file that it writes; the files that it reads
    "score --csv": ("score a.png --checkpoint tiny.safetensors --csv", "out.csv", ["a.png", "tiny.safetensors"]),
    "score --html": ("score a.png --checkpoint tiny.safetensors --html", "out.html", ["a.png", "tiny.safetensors"]),
    "explain page": ("explain a.png --checkpoint tiny.safetensors -o", "out.html", ["a.png", "tiny.safetensors"]),
    "follow": ("follow a.png --checkpoint tiny.safetensors -o", "out.html", ["a.png", "tiny.safetensors"]),
    "explain picture": ("explain a.png --checkpoint tiny.safetensors -o", "out.png", ["a.png", "tiny.safetensors"]),
    "explain svg": ("explain a.png --checkpoint tiny.safetensors -o", "out.svg", ["a.png", "tiny.safetensors"]),
    "explain pdf": ("explain a.png --checkpoint tiny.safetensors -o", "out.pdf", ["a.png", "tiny.safetensors"]),
    "compare --html": (
        "compare fixture fixture --no-diagnosis --html",
        "out.html",
        ["fixture/manifest.json", "fixture/stages/score.npy"],
    ),
}
EACH = pytest.mark.parametrize("command", list(COMMANDS))


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """A folder with an image, a model of one layer and a fixture."""
    folder = tmp_path_factory.mktemp("made")
    rng = np.random.default_rng(3)
    Image.fromarray(rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(folder / "a.png")
    config = mq.MusiqConfig.preset("tiny", layers=1)
    mq.save_checkpoint(folder / "tiny.safetensors", mq.init_params(config, 0), config)
    mq.verify.make_fixture(folder / "fixture", image=rng.integers(0, 256, (20, 30, 3), dtype=np.uint8))
    return folder


@pytest.fixture
def folder(made, tmp_path, monkeypatch):
    """A copy of it, which is the current folder."""
    subprocess.run(["cp", "-r", f"{made}/.", str(tmp_path)], check=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def contents(folder: Path) -> dict[str, bytes]:
    return {path.as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def run(command: str, output: str, *more: str) -> int:
    return main([*COMMANDS[command][0].split(), output, *more])


@EACH
def test_a_command_replaces_what_it_wrote_itself(command, folder):
    output = COMMANDS[command][1]
    assert run(command, output) == 0
    assert is_ours(Path(output))
    assert run(command, output) == 0
    assert not list(folder.glob(".*")) + list(folder.glob("*.part"))


@EACH
def test_another_file_is_replaced_with_force_only(command, folder, capsys):
    output = COMMANDS[command][1]
    Path(output).write_text("of somebody")
    assert run(command, output) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "was not written by musiq-ref; name another, or add --force" in err
    assert Path(output).read_text() == "of somebody"
    assert run(command, output, "--force") == 0
    assert is_ours(Path(output))


@EACH
@pytest.mark.parametrize("force", [[], ["--force"]])
@pytest.mark.parametrize("link", [os.link, os.symlink])
def test_no_input_is_ever_replaced(command, force, link, folder, capsys):
    _, output, inputs = COMMANDS[command]
    for name in inputs:
        link(Path(name).absolute(), output)  # another name of the same file
        before = contents(folder)
        assert run(command, output, *force) == 2
        assert capsys.readouterr().err.count("\n") == 1
        assert contents(folder) == before
        Path(output).unlink()


@EACH
def test_a_full_disk_leaves_the_old_output(command, folder, capsys, monkeypatch):
    output = COMMANDS[command][1]
    assert run(command, output) == 0
    before = contents(folder)
    capsys.readouterr()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    monkeypatch.setattr("os.replace", full)
    assert run(command, output) == 2
    out, err = capsys.readouterr()
    assert "No space left on device" in err
    assert "Traceback" not in err
    assert contents(folder).items() >= before.items()
    if command.startswith(("score", "compare")):
        assert out  # what was found is printed, whatever becomes of the file


@EACH
@pytest.mark.parametrize("output", ["nowhere/out", "folder", "/dev/full", ""])
def test_a_place_that_cannot_be_written_is_noticed_first(command, output, folder, capsys):
    ending = Path(COMMANDS[command][1]).suffix
    if output == "folder":
        (folder / f"folder{ending}").mkdir()
    assert run(command, output + ending * (output in ("nowhere/out", "folder"))) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1


def test_distorted_pictures_replace_neither_inputs_nor_others(folder, capsys):
    command = ["distort", "a.png", "-o", ".", "--distortion", "jpeg", "--severity", "0.5"]
    Path("a_jpeg_0.50.png").write_bytes(Path("a.png").read_bytes())
    assert main(command) == 2
    assert "was not written by musiq-ref" in capsys.readouterr().err
    assert main([*command[:2], "a_jpeg_0.50.png", *command[2:], "--force"]) == 2
    assert "is one of the files to read" in capsys.readouterr().err
    assert Path("a_jpeg_0.50.png").read_bytes() == Path("a.png").read_bytes()
    assert main([*command, "--force"]) == 0
    assert main(command) == 0  # the same picture again


def test_no_page_gets_into_a_fixture(folder, capsys):
    before = contents(folder)
    assert (
        main(["compare", "fixture", "fixture", "--no-diagnosis", "--html", "fixture/stages/out.html", "--force"]) == 2
    )
    assert "lies in the fixture, which takes no other file" in capsys.readouterr().err
    assert contents(folder) == before


def test_distorting_into_a_file(folder, capsys):
    assert main(["distort", "a.png", "-o", "a.png"]) == 2
    assert "a.png is a file; name a folder" in capsys.readouterr().err


def test_a_fixture_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    fixture = mq.verify.build_fixture(image=np.zeros((20, 30, 3), np.uint8))
    monkeypatch.setattr("musiq_ref.verify.ladder.fixture.build_fixture", lambda *_, **__: fixture)
    with monkeypatch.context() as patch:
        place = "musiq_ref.verify.ladder.fixture_files.digest"
        patch.setattr(place, lambda _: (_ for _ in ()).throw(OSError(28, "full")))
        with pytest.raises(ValueError, match=r"new: cannot be written \(full\)"):
            mq.verify.make_fixture(tmp_path / "new")
    assert list((tmp_path / "new").iterdir()) == []
    assert len(list(tmp_path.iterdir())) == 1
    mq.verify.make_fixture(tmp_path / "new")


def test_rows_reach_the_table_at_once(folder, monkeypatch, capsys):
    Path("b.png").write_bytes(Path("a.png").read_bytes())
    asked = []

    def interrupted(path, **options):
        if path.name == "b.png":
            while len(Path("out.csv.part").read_text().splitlines()) < 2:
                asked.append(time.sleep(0.01))
                assert len(asked) < 1000
            raise KeyboardInterrupt
        return mq.decode(path, **options)

    monkeypatch.setattr("musiq_ref.scorers.decode", interrupted)
    assert main(["score", "a.png", "b.png", "--checkpoint", "tiny.safetensors", "--csv", "out.csv"]) == 130
    assert "the scores so far are in out.csv.part" in capsys.readouterr().err
    assert not Path("out.csv").exists()


def test_a_link_is_followed_to_its_file(tmp_path):
    (tmp_path / "real.txt").write_text("old")
    (tmp_path / "link.txt").symlink_to("real.txt")
    write_output(tmp_path / "link.txt", "new")
    assert (tmp_path / "link.txt").is_symlink()
    assert (tmp_path / "real.txt").read_text() == "new"


def test_a_table_goes_through_a_link_and_its_part_through_none(folder):
    (folder / "far").mkdir()
    command = ["score", "a.png", "--checkpoint", "tiny.safetensors", "--csv", "out.csv", "--force"]
    Path("out.csv").symlink_to("far/out.csv")
    Path("far/out.csv.part").symlink_to("../other.txt")
    Path("other.txt").write_text("of somebody")
    assert main(command) == 0
    assert Path("out.csv").is_symlink()
    assert [path.name for path in Path("far").iterdir()] == ["out.csv"]
    assert is_ours(Path("far/out.csv"))
    assert Path("other.txt").read_text() == "of somebody"


@pytest.mark.parametrize("name", ["ü" * 125 + ".html", "a" * 250 + ".html", "\udcff" * 250 + ".html"])
@pytest.mark.skipif(sys.platform != "linux", reason="other systems count characters, or take no such bytes")
def test_the_longest_names_are_written(tmp_path, name):
    write_output(tmp_path / name, "new")
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_parts_of_killed_writes_are_cleared(tmp_path):
    old, young, other = (tmp_path / name for name in (".a.txt.1f.part", ".a.txt.2f.part", ".b.txt.1f.part"))
    for path in (old, young, other):
        path.touch()
    for path in (old, other):
        os.utime(path, (time.time() - 2 * HOUR,) * 2)
    write_output(tmp_path / "a.txt", "new")
    assert (old.exists(), young.exists(), other.exists()) == (False, True, True)
    clear_parts(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_an_empty_file_may_be_filled(tmp_path):
    (tmp_path / "a.html").touch()
    check_output(tmp_path / "a.html")
    (tmp_path / "b.csv").write_text("image,score\n")
    with pytest.raises(OutputError, match="was not written by musiq-ref"):
        check_output(tmp_path / "b.csv")


@pytest.mark.parametrize(
    ("text", "ours"),
    [
        ("path,score,height,width,error\r\na.png,1,2,3,\r\n", True),
        ("path,score,height,width,p1,p2,p3,error\n", True),
        ("image,target,score,error\n", True),
        ("path,score,hei", True),  # cut by a killed writer
        ("path,score,height,width,p1,p", True),
        ("path,score,height,width,error,photographer\na.png,1,2,3,,me\n", False),
        ("path,score,height,width,remark,error\n", False),
        ("path,score,height,width,p2,p1,error\n", False),
        ("path,score\na.png,1\n", False),
        ("image,target,score,error,note\n", False),
    ],
)
def test_a_table_of_ours_has_the_whole_header(text, ours, tmp_path):
    (tmp_path / "a.csv").write_text(text, newline="")
    assert is_ours(tmp_path / "a.csv") is ours


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_in_one_sentence(number, code, folder):
    names = [f"{number}.png" for number in range(100)]  # enough that the signal comes before the end
    for name in names:
        Path(name).write_bytes(Path("a.png").read_bytes())
    command = [sys.executable, "-m", "musiq_ref", "score", *names]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
    assert process.returncode == code
    assert err.splitlines()[-1].startswith("musiq-ref score: stopped; ")
    assert "Traceback" not in err


def test_a_fault_of_ours_is_one_sentence(folder, monkeypatch, capsys):
    monkeypatch.setattr("musiq_ref.cli.explain.report", lambda *_: {}["x"])
    assert main(["explain", "a.png"]) == 2
    assert "this is a fault of musiq-ref (KeyError: 'x'); please report it" in capsys.readouterr().err
    monkeypatch.setenv("MUSIQ_REF_TRACEBACK", "1")
    with pytest.raises(KeyError):
        main(["explain", "a.png"])


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="it is Linux that has one")
@pytest.mark.parametrize(
    ("streams", "code", "said"),
    [
        (">&-", 0, ""),
        ("2>&-", 0, ""),
        ("- <&-", 1, "standard input is empty"),
        (">/dev/full", 2, "cannot be used (No space left on device); check"),
        ("2>/dev/full", 2, ""),
    ],
)
def test_standard_streams_that_are_closed_or_full(folder, streams, code, said):
    command = f'"{sys.executable}" -m musiq_ref score a.png {streams}'
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True)
    assert done.returncode == code
    assert said in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert "Errno" not in done.stderr


def test_json_stays_json_when_the_page_fails(folder, monkeypatch, capsys):
    monkeypatch.setattr("musiq_ref.cli.compare.as_page", lambda _: (_ for _ in ()).throw(OSError(28, "full")))
    command = ["compare", "fixture", "fixture", "--no-diagnosis", "--json", "--html", "out.html"]
    assert main(command) == 2
    assert json.loads(capsys.readouterr().out)["passed"]


@pytest.mark.skipif(sys.platform == "win32", reason="folders are not synced there")
def test_a_name_is_on_the_disk_before_the_work_goes_on(tmp_path, monkeypatch):
    synced, fsync = [], os.fsync

    def recorded(descriptor):
        synced.append(os.path.realpath(f"/dev/fd/{descriptor}") if os.path.isdir(f"/dev/fd/{descriptor}/.") else "file")
        fsync(descriptor)

    monkeypatch.setattr("os.fsync", recorded)
    write_output(tmp_path / "a.txt", "new")
    assert [one == "file" for one in synced] == [True, False]  # what is in it, then the folder
