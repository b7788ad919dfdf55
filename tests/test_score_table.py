"""The table of `score --csv`: rows exactly once, whatever stops a run, and nothing of another model among them."""

from __future__ import annotations

import csv
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import musiq_ref as mq
from musiq_ref.cli import main
from musiq_ref.outputs import OutputError
from musiq_ref.score_table import model_mark, open_table, table_key
from musiq_ref.verify import deterministic_params

SIZES = {"layers": 1, "width": 8, "mlp_width": 6, "heads": 2, "patch_size": 8, "grid_size": 3, "longer_sides": [12]}
CONFIG = mq.MusiqConfig(**SIZES)
MARK = "0123456789ab official float32"
ODD = ["a.png", 'quote".png', "comma,.png", "two\nlines.png", "\r\n.png", "\udcff.png", "ü.png", '"', " ", "=1+1"]
COMMAND = [sys.executable, "-m", "musiq_ref", "score", ".", "--checkpoint", "m.safetensors", "--csv", "s.csv"]
UNIX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits of processes are Linux's")


def row(name, score=0.5, error=None):
    return {"path": name, "score": score, "height": 3, "width": 4, "distribution": None, "error": error}


def read(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def paths(path):
    return [one["path"] for one in read(path)]


@pytest.fixture
def table(tmp_path):
    """A whole table of odd names, one of them without a score."""
    path = tmp_path / "s.csv"
    with open_table(path, 1, MARK) as one:
        for i, name in enumerate(ODD):
            one.write(row(name, i / 3) if i != 3 else row(name, None, 'no picture, "at all"'))
    return path


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Twelve pictures and a model, in the current folder."""
    rng = np.random.default_rng(0)
    for i in range(12):
        Image.fromarray(rng.integers(0, 256, (20 + i, 30, 3), dtype=np.uint8)).save(tmp_path / f"{i:02}.png")
    mq.save_checkpoint(tmp_path / "m.safetensors", deterministic_params(CONFIG, 4), CONFIG)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def score(capsys):
    def run(*options, images=".", table="s.csv"):
        code = main(["score", images, "--checkpoint", "m.safetensors", "--csv", table, *options])
        return code, capsys.readouterr().err

    return run


# ---- kills


def test_a_table_cut_at_any_byte_goes_on_without_losing_or_doubling_a_row(table, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda _: None)  # takes time
    whole, rows = table.read_bytes(), read(table)
    assert [one["path"] for one in rows] == [table_key(name) for name in ODD]
    for size in range(len(whole) + 1):
        table.write_bytes(whole[:size])
        with open_table(table, 1, MARK, resume=True, names=ODD) as one:
            left = [i for i, name in enumerate(ODD) if table_key(name) not in one.done]
            for i in left:
                one.write(row(ODD[i], i / 3) if i != 3 else row(ODD[i], None, 'no picture, "at all"'))
        assert sorted(map(str, read(table))) == sorted(map(str, rows)), size
        assert len(left) >= whole[size:].count(b"float32\r\n"), size


@UNIX
@pytest.mark.parametrize("byte", [1, 300])
def test_a_run_killed_in_the_middle_of_a_write_goes_on(folder, score, byte):
    program = f"""if True:
        import resource, signal, sys
        from musiq_ref.cli import main
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, ({byte}, {byte}))
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        main(sys.argv[1:])"""
    killed = subprocess.run([sys.executable, "-c", program, *COMMAND[3:], "--resume"], capture_output=True)
    assert killed.returncode == -signal.SIGXFSZ
    assert os.path.getsize("s.csv") == byte
    assert score("--resume")[0] == 0
    assert sorted(paths("s.csv")) == [f"{i:02}.png" for i in range(12)]


def test_runs_killed_at_any_moment_go_on(folder, score):
    rng = random.Random(2)
    for number in range(20):
        (folder / f"more-{number}.png").write_bytes((folder / "00.png").read_bytes())
    for _ in range(2):
        with subprocess.Popen([*COMMAND, "--resume"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
            assert process.stdout
            for _ in range(rng.randrange(1, 15)):
                process.stdout.readline()
            process.kill()
        assert max(Counter(paths("s.csv")).values(), default=1) == 1
    assert 2 <= len(paths("s.csv")) < 32
    assert score("--resume")[0] == 0
    assert len(set(paths("s.csv"))) == len(paths("s.csv")) == 32


@UNIX
def test_a_full_disk_leaves_whole_rows_and_the_same_command_goes_on(folder, score):
    import resource

    def fill():
        resource.setrlimit(resource.RLIMIT_FSIZE, (400, 400))

    for options in ([], ["--resume"]):  # the second finds no more space than the first
        full = subprocess.run([*COMMAND, *options], preexec_fn=fill, capture_output=True, text=True)
        assert full.returncode == 2
        where = "s.csv" if options else "s.csv.part"
        said = full.stderr.splitlines()[-2:]
        assert said[0] == f"the scores so far are in {where}"
        assert said[1] == "musiq-ref score: s.csv cannot be written (File too large); make space, or name another"
        assert Path(where).read_bytes().endswith(b"float32\r\n")
    assert score("--resume")[0] == 0
    assert paths("s.csv") == [f"{i:02}.png" for i in range(12)]


def test_ctrl_c_says_how_to_go_on_and_what_has_a_score_is_not_opened_again(folder, score, monkeypatch):
    opened = []

    def interrupted(path, **options):
        opened.append(path.name)
        if len(opened) == 6:
            raise KeyboardInterrupt
        return mq.decode(path, **options)

    monkeypatch.setattr("musiq_ref.scorers.decode", interrupted)
    code, err = score()
    assert code == 130
    assert "the scores so far are in s.csv.part" in err
    assert "stopped; the same command with --resume goes on where this one stopped" in err
    assert len(paths("s.csv.part")) == 5
    code, err = score("--resume")
    assert code == 0
    assert "5 of 12 images have their scores in s.csv" in err
    assert sorted(opened[-7:]) == [f"{i:02}.png" for i in range(5, 12)]
    assert paths("s.csv") == [f"{i:02}.png" for i in range(12)]
    assert not Path("s.csv.part").exists()
    code, err = score("--resume")
    assert (code, err.splitlines()[-1]) == (0, "12 of 12 images have their scores in s.csv")


def test_where_both_tables_are_there_the_user_decides(folder, score, monkeypatch):
    assert score()[0] == 0
    before = Path("s.csv").read_bytes()
    monkeypatch.setattr("musiq_ref.scorers.decode", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
    assert "the same command with --resume, once s.csv is moved away, goes on" in score()[1]
    code, err = score("--resume")
    assert (code, Path("s.csv").read_bytes()) == (2, before)
    assert "both s.csv and s.csv.part, of a run that was stopped, are there; remove the one not to go on with" in err


# ---- what is taken up, and what is not


def test_failed_images_are_scored_again(folder, score):
    good = Path("03.png").read_bytes()
    Path("03.png").write_bytes(b"no picture")
    Path("elsewhere.png").write_bytes(b"no picture")
    assert score("--resume")[0] == 1
    assert [one["path"] for one in read("s.csv") if one["error"]] == ["03.png", "elsewhere.png"]
    Path("03.png").write_bytes(good)
    Path("elsewhere.png").rename("elsewhere.txt")
    code, err = score("--resume")
    assert (code, err.splitlines()[-1]) == (0, "11 of 12 images have their scores in s.csv")
    assert Counter(paths("s.csv")) == Counter([*(f"{i:02}.png" for i in range(12)), "elsewhere.png"])
    assert [one["path"] for one in read("s.csv") if one["error"]] == ["elsewhere.png"]  # it was not named


EDITS = {
    "columns in another order": (lambda t: t.replace("path,score", "score,path"), "was not written by musiq-ref"),
    "of an older version": (
        lambda t: t.replace(",model\r", "\r", 1),
        "has the columns path, score, height, width, err",
    ),
    "of a model with votes": (lambda t: t.replace("width,", "width,p1,p2,", 1), "of another model or version, so name"),
    "a row that lost a field": (lambda t: t.replace(",30,", ",", 1), "row 2, has 5 fields instead of 6"),
    "a row without a score": (lambda t: t.replace("00.png,", "00.png,x"), "row 2, has neither a score nor an error"),
    "an open quotation mark": (lambda t: t.replace("\n02", '\n"02'), 'has a quotation mark (") that is not closed'),
    "another model": (lambda t: t.replace("official", "pyiqa"), "row 2, was scored with conventions pyiqa and not off"),
    "no model": (lambda t: t.replace(" official", "", 1), "row 2, does not say what made it"),
}


@pytest.mark.parametrize("edit", EDITS)
def test_a_table_that_was_edited_is_refused_as_it_is(edit, folder, score):
    change, sentence = EDITS[edit]
    assert score()[0] == 0
    text = Path("s.csv").read_bytes().decode()
    assert change(text) != text
    Path("s.csv").write_bytes(change(text).encode())
    code, err = score("--resume")
    assert (code, Path("s.csv").read_bytes().decode()) == (2, change(text))
    assert sentence in err.splitlines()[-1]
    assert sorted(os.listdir())[-1] == "s.csv"
    assert len([name for name in os.listdir() if name.startswith((".", "s.csv"))]) == 1


def test_sorted_and_shortened_tables_are_taken_up(folder, score):
    assert score()[0] == 0
    header, *rows = Path("s.csv").read_bytes().splitlines(keepends=True)
    kept = [line.replace(b"\r\n", b"\n") for line in rows[::-2]]
    Path("s.csv").write_bytes(b"".join([header, *kept]).rstrip(b"\n"))  # the end of the last line was taken, too
    assert "5 of 12 images have their scores" in score("--resume")[1]
    assert sorted(paths("s.csv")) == [f"{i:02}.png" for i in range(12)]


def test_another_model_conventions_or_dtype_is_refused_and_another_name_of_the_model_is_not(folder, score, capsys):
    assert score()[0] == 0
    os.rename("m.safetensors", "same.safetensors")
    assert main(["score", ".", "--checkpoint", "same.safetensors", "--csv", "s.csv", "--resume"]) == 0
    mq.save_checkpoint("m.safetensors", deterministic_params(CONFIG, 5), CONFIG)
    for options, what in (
        ([], r"model \w{12} and not \w{12};"),
        (["--checkpoint", "same.safetensors", "--conventions", "paper"], "conventions official and not paper;"),
        (["--checkpoint", "same.safetensors", "--dtype", "float64"], "dtype float32 and not float64;"),
    ):
        code, err = score("--resume", *options)
        assert code == 2
        with pytest.raises(OutputError, match=rf"was scored with {what} choose the same for this run, or name another"):
            raise OutputError(err)


def test_the_mark_of_a_model_does_not_depend_on_how_it_is_loaded():
    loaded = mq.load_checkpoint("demo")
    double = mq.load_checkpoint("demo", "float64")
    other = mq.Checkpoint(loaded.params, loaded.config.replace(heads=2), "native", None)
    marks = [model_mark(one, None, "float32") for one in (loaded, double, other)]
    assert marks[0] == marks[1] != marks[2]
    assert model_mark(loaded, mq.PYIQA, "float32").split()[::2] == marks[0].split()[::2]
    custom = loaded.config.conventions.replace(gelu="erf") if hasattr(mq.OFFICIAL, "replace") else mq.PAPER
    assert model_mark(loaded, custom, "float32") != marks[0]


def test_two_processes_cannot_write_one_table(table, folder, score):
    with open_table(table, 1, MARK, resume=True):
        before = table.read_bytes()
        for options in ((), ("--resume",)):
            code, err = score(*options)
            assert (code, table.read_bytes()) == (2, before)
            assert err.endswith("another musiq-ref is writing s.csv; wait for it, or name another file\n")
    assert not list(folder.glob(".*"))


def test_one_file_under_two_names_has_two_rows_and_one_name_given_twice_has_one(folder, score):
    os.link("00.png", "link.png")
    main(["score", "00.png", "link.png", "./00.png", "--checkpoint", "m.safetensors", "--csv", "s.csv", "--resume"])
    assert paths("s.csv") == ["00.png", "link.png"]


def test_names_that_are_not_text(folder, score):
    odd = ["two\nlines.png", 'a,"b".png', *(["\udcff.png"] if sys.platform == "linux" else [])]
    for name in odd:
        Path(name).write_bytes(Path("00.png").read_bytes())
    assert score("--resume")[0] == 0
    assert {table_key(name) for name in odd} < set(paths("s.csv"))
    before = Path("s.csv").read_bytes()
    assert "15 of 15" in score("--resume")[1] or sys.platform != "linux"
    assert Path("s.csv").read_bytes() == before


# ---- shares


def test_the_shares_are_disjoint_and_all_of_it_and_do_not_move(folder, score):
    for number in range(20):
        (folder / f"more-{number}.png").write_bytes((folder / "00.png").read_bytes())
    shares = []
    for i in (1, 2, 3):
        assert score("--shard", f"{i}/3", table=f"{i}.csv")[0] == 0
        shares.append(paths(f"{i}.csv"))
    assert min(map(len, shares)) > 3
    assert sorted([*shares[0], *shares[1], *shares[2]]) == sorted(one.name for one in folder.glob("*.png"))
    for name in shares[0][::2]:
        os.remove(name)
    assert score("--shard", "1/3", "--resume")[0] == 0
    assert paths("s.csv") == shares[0][1::2]
    for i in (1, 2, 3, 3):
        assert score("--shard", f"{i}/3", "--resume")[0] == 0
    assert len(paths("s.csv")) == len(set(paths("s.csv"))) == len(list(folder.glob("*.png")))


@pytest.mark.parametrize("share", ["0/3", "4/3", "1", "a/b", "1/0", "-1/3"])
def test_what_is_no_share(share, capsys):
    with pytest.raises(SystemExit):
        main(["score", "a.png", f"--shard={share}"])
    assert f"'{share}' is no share; give for example 2/5, the second of five" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--resume"], "--resume goes on with a table; name it: --csv FILE"),
        (["--resume", "--csv", "s.csv", "--json"], "--json and --html show what one run scores; leave them out"),
        (["--resume", "--csv", "s.csv", "--html", "a.html"], "--json and --html show what one run scores"),
    ],
)
def test_options_that_do_not_go_together(options, message, folder, capsys):
    assert main(["score", "00.png", *options]) == 2
    assert message in capsys.readouterr().err


def test_rows_are_on_the_disk_within_a_second(tmp_path, monkeypatch):
    synced, now = [], [time.monotonic()]
    monkeypatch.setattr("musiq_ref.score_table.os.fsync", lambda _: synced.append(now[0]))
    monkeypatch.setattr("musiq_ref.score_table.time.monotonic", lambda: now[0])
    with open_table(tmp_path / "s.csv", 1, MARK, resume=True) as table:
        for i in range(30):
            now[0] += 0.1
            table.write(row(str(i)))
    assert 3 <= len(synced) <= 6


def test_an_image_called_path_does_not_cost_the_header(tmp_path):
    failed = {"path": "path", "score": None, "height": None, "width": None, "distribution": None, "error": "no image"}
    with open_table(tmp_path / "a.csv", 1, "a b c") as table:
        table.write(failed)
        table.write({**failed, "path": "b.png", "score": 1.0, "error": None})
    with open_table(tmp_path / "a.csv", 1, "a b c", resume=True, names=["path"]) as table:
        table.write(failed)
    assert (tmp_path / "a.csv").read_text().split("\n")[:1] == ["path,score,height,width,error,model"]
