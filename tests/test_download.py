"""Downloading, against a small server on this machine: whole, cut and continued, refused, wrong, unreachable."""

import gc
import hashlib
import http.server
import io
import json
import re
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import pytest

from musiq_ref.checkpoint import CATALOGUE, DownloadError, cache_folder, download, fetch, load_checkpoint, save_official
from musiq_ref.checkpoint.catalogue import Release
from musiq_ref.cli import main
from musiq_ref.config import MusiqConfig
from musiq_ref.model.parameters import flatten, init_params


class Server(http.server.ThreadingHTTPServer):
    """Serves `content` at any path, in the manner its other fields say, and keeps the headers it was asked with."""

    daemon_threads = True
    content = b""
    etag: str | None = '"one"'
    ranges = True  # whether Range requests are understood
    check_if_range = True
    shift = 0  # how far off the answered range is
    cut: int | None = None  # bytes after which the connection breaks
    status = 200
    headers: dict  # sent instead of, or beside, the usual ones
    stall = 0.0  # seconds of silence before the connection breaks
    asked: list


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self):
        server, body = self.server, self.server.content
        server.asked.append(dict(self.headers))
        start, status = 0, server.status
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        same = self.headers.get("If-Range") in (None, server.etag) or not server.check_if_range
        if status != 200:
            self.send_response(status)
            for name, value in ({"Content-Length": "0"} | server.headers).items():
                self.send_header(name, value)
            self.end_headers()
            return
        if wanted and server.ranges and same:
            start = int(wanted[1]) + server.shift
            if start >= len(body):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(body)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            status = 206
        self.send_response(status)
        headers = {"Content-Length": str(len(body) - start)}
        if status == 206:
            headers["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
        if server.etag:
            headers["ETag"] = server.etag
        for name, value in (headers | server.headers).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body[start : None if server.cut is None else max(start, server.cut)])
        time.sleep(server.stall)

    def log_message(self, format, *args):
        """Keeps quiet."""


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """The bytes of a small official file, and how many parameters it holds."""
    params = init_params(MusiqConfig.preset("tiny", patch_size=4), seed=3)
    path = tmp_path_factory.mktemp("published") / "a.npz"
    save_official(path, params)
    return path.read_bytes(), sum(array.size for _, array in flatten(params))


@pytest.fixture
def server(monkeypatch, tmp_path, published):
    """A running server whose file is "koniq" in the catalogue; the cache folder is tmp_path/cache."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("MUSIQ_REF_CACHE", str(tmp_path / "cache"))
    content, count = published
    with Server(("127.0.0.1", 0), Handler) as server:
        server.asked, server.headers, server.content = [], {}, content
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        address = f"http://127.0.0.1:{server.server_address[1]}/folder/koniq_ckpt.npz"
        digest = hashlib.sha256(content).hexdigest()[:8]
        monkeypatch.setitem(CATALOGUE, "koniq", Release(address, "official", count, digest))
        yield server
        server.shutdown()
        thread.join()


LOCK = ".koniq_ckpt.npz.part.lock"


def files(tmp_path):
    return sorted(path.name for path in (tmp_path / "cache").iterdir() if path.name != LOCK)


def assert_in_place(path, server, tmp_path):
    assert path == tmp_path / "cache" / "koniq_ckpt.npz"
    assert path.read_bytes() == server.content
    assert files(tmp_path) == ["koniq_ckpt.npz"]


def cut_after(server, count):
    """Lets a download break off after `count` bytes."""
    server.cut = count
    with pytest.raises(DownloadError, match=f"connection broke after {count:,} of {len(server.content):,} bytes"):
        download("koniq")
    server.cut = None


def test_a_whole_download_is_verified_and_found_by_name(server, tmp_path):
    assert_in_place(download("koniq"), server, tmp_path)
    assert load_checkpoint("koniq").config == MusiqConfig.preset("tiny", patch_size=4)
    assert "Range" not in server.asked[0]


def test_what_is_there_is_not_fetched_again(server, tmp_path):
    path = download("koniq")
    assert download("koniq") == path
    assert len(server.asked) == 1
    path.write_bytes(server.content[:-1] + b"x")
    with pytest.raises(DownloadError, match=r"is not the published file.*delete it and run: musiq-ref download koniq$"):
        download("koniq")


@pytest.mark.parametrize("etag", ['"one"', 'W/"one"', None])
def test_a_cut_download_continues(server, tmp_path, etag):
    server.etag = etag
    cut_after(server, 5000)
    assert (tmp_path / "cache" / "koniq_ckpt.npz.part").stat().st_size == 5000
    cut_after(server, 9000)
    assert_in_place(download("koniq"), server, tmp_path)
    assert [asked.get("Range") for asked in server.asked] == [None, "bytes=5000-", "bytes=9000-"]
    assert server.asked[1].get("If-Range") == ('"one"' if etag == '"one"' else None)


def test_a_server_without_range(server, tmp_path):
    cut_after(server, 5000)
    server.ranges = False
    assert_in_place(download("koniq"), server, tmp_path)


@pytest.mark.parametrize("check_if_range", [True, False])
def test_a_file_that_changed_in_between(server, tmp_path, published, check_if_range):
    server.content = bytes(len(server.content))
    server.check_if_range = check_if_range
    cut_after(server, 5000)
    server.content, server.etag = published[0], '"two"'
    assert_in_place(download("koniq"), server, tmp_path)


def test_an_answer_with_another_range(server, tmp_path):
    cut_after(server, 5000)
    server.shift = 7
    assert_in_place(download("koniq"), server, tmp_path)


def test_nothing_was_missing(server, tmp_path):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "koniq_ckpt.npz.part").write_bytes(server.content)
    assert_in_place(download("koniq"), server, tmp_path)
    assert len(server.asked) == 1


def test_more_than_there_is(server, tmp_path):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "koniq_ckpt.npz.part").write_bytes(server.content + b"too much")
    assert_in_place(download("koniq"), server, tmp_path)
    assert len(server.asked) == 2


def test_at_most_two_requests_for_a_wrong_range(server, tmp_path):
    cut_after(server, 5000)
    server.status, server.headers = 206, {"Content-Range": "bytes 7-10000/10001"}
    sentence = refused("cannot be fetched (the server answered 206 with what was not asked for)")
    assert "\n" not in sentence
    assert len(server.asked) == 3
    assert files(tmp_path) == []


def test_out_of_range_both_times(server, tmp_path):
    cut_after(server, 5000)
    server.status, server.headers = 416, {"Content-Range": "bytes */17"}
    refused("cannot be fetched (the server answered 416")
    assert len(server.asked) == 3


@pytest.mark.parametrize("length", ["abc", "-5", "1" * 30, ""])
def test_a_length_that_is_none(server, tmp_path, length):
    server.headers = {"Content-Length": length}
    if length.startswith("1"):
        refused("the connection broke after")
        server.headers = {}
    assert_in_place(download("koniq"), server, tmp_path)


@pytest.mark.parametrize("tag", [b"\xff\xfe", b'"one"\r\nX-Evil: 1', b'"' + b"a" * 5000 + b'"', b"", b"\0"])
def test_a_damaged_tag_is_not_sent(server, tmp_path, tag):
    cut_after(server, 5000)
    (tmp_path / "cache" / "koniq_ckpt.npz.part.etag").write_bytes(tag)
    assert_in_place(download("koniq"), server, tmp_path)
    assert server.asked[1].get("If-Range") is None
    assert server.asked[1]["Range"] == "bytes=5000-"


@pytest.mark.parametrize("place", ["file:///etc/hostname", "ftp://127.0.0.1/a", "gopher://x", "//[", "http://\u00e9"])
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_redirect_to_something_else(server, tmp_path, place):
    server.status, server.headers = 302, {"Location": place}
    sentence = refused("cannot be fetched")
    assert "\n" not in sentence
    assert files(tmp_path) == []
    gc.collect()  # urllib leaves the answer open where it cannot read the place


def test_a_circle_of_redirects(server):
    server.status, server.headers = 302, {"Location": "/elsewhere"}
    refused("cannot be fetched (the server answered 302")
    assert len(server.asked) < 12


def test_a_redirect_from_https_to_http():
    request = urllib.request.Request("https://example.org/a")
    redirect = fetch._SameScheme().redirect_request
    with pytest.raises(OSError, match=r"redirecting to http://example\.org/b, which is not safe"):
        redirect(request, io.BytesIO(), 302, "", {}, "http://example.org/b")
    assert redirect(request, io.BytesIO(), 302, "", {}, "https://example.com/b").full_url == "https://example.com/b"


ODD = {
    "after": (lambda content: content + bytes(1000), "bytes after its end"),
    "comment": (lambda content: content[:-2] + b"\3\0abc", "bytes after its end"),
    "before": (lambda content: b"#!/bin/sh\n" + content, "not a checkpoint"),
    "a zip before": (lambda content: b"PK\3\4" + bytes(60) + content, "64 bytes in it belong to nothing"),
    "between": (lambda content: zip_with_a_gap(content), "9 bytes in it belong to nothing"),
}


def zip_with_a_gap(content):
    """A zip with nine bytes between its last member and its list of members."""
    start = int.from_bytes(content[-6:-2], "little")
    moved = content[:start] + b"nothing.." + content[start:]
    return moved[:-6] + (start + 9).to_bytes(4, "little") + moved[-2:]


@pytest.mark.parametrize("name", ODD)
def test_more_in_the_file_than_a_checkpoint(server, tmp_path, monkeypatch, name):
    change, message = ODD[name]
    monkeypatch.setitem(CATALOGUE, "koniq", CATALOGUE["koniq"]._replace(sha256=""))
    assert_in_place(download("koniq"), server, tmp_path)
    (tmp_path / "cache" / "koniq_ckpt.npz").unlink()
    server.content = change(server.content)
    refused(message)
    assert files(tmp_path) == []


@pytest.mark.parametrize("end", [".part", ".part.etag", ".part.lock"])
def test_links_are_not_followed(server, tmp_path, end):
    (tmp_path / "cache").mkdir()
    mine = tmp_path / "mine.txt"
    mine.write_text("precious")
    link = tmp_path / "cache" / ("." * (end == ".part.lock") + f"koniq_ckpt.npz{end}")
    link.symlink_to(mine)
    refused(f"{link} is a link, or no file at all")
    assert mine.read_text() == "precious"
    link.unlink()
    (tmp_path / "cache" / "koniq_ckpt.npz").symlink_to(tmp_path / "new")
    refused("is not the published file")
    assert not (tmp_path / "new").exists()


def test_a_server_that_stalls(server, tmp_path, monkeypatch):
    monkeypatch.setattr("musiq_ref.checkpoint.fetch.TIMEOUT", 0.2)
    server.cut, server.stall = 5000, 1.0
    refused("timed out")
    assert (tmp_path / "cache" / "koniq_ckpt.npz.part").stat().st_size == 5000
    server.cut, server.stall = None, 0.0
    assert_in_place(download("koniq"), server, tmp_path)
    assert server.asked[1]["Range"] == "bytes=5000-"


def test_a_server_that_never_ends(server, tmp_path, monkeypatch):
    monkeypatch.setattr("musiq_ref.checkpoint.fetch.MOST", 6000)
    refused("it sends more than 6,000 bytes")


def test_a_full_disk_keeps_what_is_there(server, tmp_path):
    """A process that may write no file beyond 9,000 bytes, then one that may."""
    command = f"""
import resource
from musiq_ref.checkpoint.catalogue import CATALOGUE, Release
from musiq_ref.cli import main
CATALOGUE["koniq"] = Release{tuple(CATALOGUE["koniq"])!r}
resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000))
raise SystemExit(main(["download", "koniq"]))
"""
    done = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True)
    assert done.returncode == 2
    assert re.fullmatch(
        r".*koniq_ckpt\.npz\.part cannot be written \(File too large\); free some space.*\n", done.stderr
    )
    assert (tmp_path / "cache" / "koniq_ckpt.npz.part").stat().st_size == 9000
    assert_in_place(download("koniq"), server, tmp_path)
    assert server.asked[1]["Range"] == "bytes=9000-"


def test_two_at_a_time(server, tmp_path, capsys):
    server.stall = 0.3
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda _: download("koniq"), range(2))
    assert first == second
    assert_in_place(first, server, tmp_path)
    assert len(server.asked) == 1
    assert "is being fetched by another process; waiting for it" in capsys.readouterr().err


def refused(words):
    """The sentence of a download that fails, in which those words are."""
    with pytest.raises(DownloadError) as caught:
        download("koniq")
    assert words in str(caught.value)
    return str(caught.value)


def official_bytes(config, tmp_path):
    save_official(tmp_path / "other.npz", init_params(config))
    return (tmp_path / "other.npz").read_bytes()


WRONG = {
    "hash": ("zzzzzzzz", lambda content, tmp_path: content, "its SHA-256 begins .* instead of zzzzzzzz"),
    "page": ("", lambda content, tmp_path: b"<html>please log in</html>", "not a checkpoint"),
    "empty": ("", lambda content, tmp_path: b"", "the file is empty"),
    "damaged": ("", lambda content, tmp_path: content[:-40], "cut short"),
    "larger": (
        "",
        lambda content, tmp_path: official_bytes(MusiqConfig.preset("tiny", patch_size=4, outputs=10), tmp_path),
        "parameters in official layout, the published one",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_file_is_not_put_in_place(server, tmp_path, monkeypatch, name):
    digest, change, message = WRONG[name]
    server.content = change(server.content, tmp_path)
    monkeypatch.setitem(CATALOGUE, "koniq", CATALOGUE["koniq"]._replace(sha256=digest))
    with pytest.raises(DownloadError, match=f"is not the published file .*{message}.*nothing put in place"):
        download("koniq")
    assert files(tmp_path) == []


@pytest.mark.parametrize(
    ("status", "reason"), [(404, "404 Not Found"), (500, "500 Internal Server Error"), (403, "403")]
)
def test_refusals(server, tmp_path, capsys, status, reason):
    cut_after(server, 5000)
    server.status = status
    assert main(["download", "koniq"]) == 2
    sentence = capsys.readouterr().err
    assert reason in sentence
    assert CATALOGUE["koniq"].url in sentence
    assert f"put the file at {tmp_path / 'cache' / 'koniq_ckpt.npz'} and run: musiq-ref download koniq" in sentence
    assert "koniq_ckpt.npz.part" in files(tmp_path)


def test_no_network(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound but not listening: connections are refused
        address = f"http://127.0.0.1:{taken.getsockname()[1]}/koniq_ckpt.npz"
        monkeypatch.setitem(CATALOGUE, "koniq", CATALOGUE["koniq"]._replace(url=address))
        assert main(["download", "koniq", "--cache", str(tmp_path)]) == 2
    sentence = capsys.readouterr().err
    assert sentence.startswith(f"musiq-ref download: {address} cannot be fetched (")
    assert f"run: musiq-ref download koniq --cache {tmp_path}\n" in sentence
    assert sentence.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == [LOCK]


def test_a_silent_server(monkeypatch, tmp_path):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr("musiq_ref.checkpoint.fetch.TIMEOUT", 0.2)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        address = f"http://127.0.0.1:{silent.getsockname()[1]}/koniq_ckpt.npz"
        monkeypatch.setitem(CATALOGUE, "koniq", CATALOGUE["koniq"]._replace(url=address))
        with pytest.raises(DownloadError, match="timed out"):
            download("koniq", tmp_path)


def test_an_unknown_name(tmp_path):
    with pytest.raises(DownloadError, match="tid2013: not a published checkpoint; choose one of koniq, spaq"):
        download("tid2013", tmp_path)


def test_a_folder_that_cannot_be(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DownloadError, match=r"cannot be written .*choose another --cache"):
        download("koniq", tmp_path / "file")


def test_command_line(server, tmp_path, capsys):
    assert main(["download", "koniq"]) == 0
    path = tmp_path / "cache" / "koniq_ckpt.npz"
    digest = hashlib.sha256(server.content).hexdigest()
    first, checked, last = capsys.readouterr().out.splitlines()
    assert first == f"{path}: verified; use it with --checkpoint koniq"
    assert checked == f"checked: {CATALOGUE['koniq'].evidence}"
    assert last == f"SHA-256: {digest}"
    assert main(["download", "koniq", "--json", "--cache", str(tmp_path / "cache")]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found.pop("checked") == CATALOGUE["koniq"].evidence
    assert found == {"name": "koniq", "path": str(path), "format": "official", "sha256": digest}
    with pytest.raises(SystemExit) as caught:
        main(["download", "tid2013"])
    assert caught.value.code == 2


def test_a_progress_bar_on_a_terminal(server, monkeypatch):
    screen = io.StringIO()
    screen.isatty = lambda: True
    monkeypatch.setattr("sys.stderr", screen)
    download("koniq")
    assert "koniq_ckpt.npz" in screen.getvalue()
    assert "100%" in screen.getvalue()


def test_the_cache_folder(monkeypatch, tmp_path):
    monkeypatch.delenv("MUSIQ_REF_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "musiq_ref"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "musiq_ref"
    monkeypatch.setenv("MUSIQ_REF_CACHE", "~/mine")
    assert cache_folder() == tmp_path / "mine"


def test_the_catalogue_is_the_published_one():
    assert len(CATALOGUE) == 10
    for name, release in CATALOGUE.items():
        pyiqa = name.endswith("-pyiqa")
        assert release.format == ("pyiqa" if pyiqa else "official")
        assert release.parameters == {"ava": 27_129_290, "imagenet": 27_510_440}.get(
            name[: len(name) - 6 * pyiqa], 27_125_825
        )
        assert release.file.endswith(f"-{release.sha256}.pth") if pyiqa else release.sha256 == ""
    assert CATALOGUE["koniq"].url == "https://storage.googleapis.com/gresearch/musiq/koniq_ckpt.npz"
