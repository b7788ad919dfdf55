"""Downloading, against a small server on this machine: whole, cut and continued, refused, wrong, unreachable."""

import hashlib
import http.server
import io
import json
import re
import socket
import threading

import pytest

from musiq_ref.checkpoint import CATALOGUE, DownloadError, cache_folder, download, load_checkpoint, save_official
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
            self.send_header("Content-Length", "0")
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
        if status == 206:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        if server.etag:
            self.send_header("ETag", server.etag)
        self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        self.wfile.write(body[start : None if server.cut is None else max(start, server.cut)])

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
        server.asked, server.content = [], content
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        address = f"http://127.0.0.1:{server.server_address[1]}/folder/koniq_ckpt.npz"
        digest = hashlib.sha256(content).hexdigest()[:8]
        monkeypatch.setitem(CATALOGUE, "koniq", Release(address, "official", count, digest))
        yield server
        server.shutdown()
        thread.join()


def files(tmp_path):
    return sorted(path.name for path in (tmp_path / "cache").iterdir())


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
    assert main(["download", "koniq"]) == 1
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
        assert main(["download", "koniq", "--cache", str(tmp_path)]) == 1
    sentence = capsys.readouterr().err
    assert sentence.startswith(f"musiq-ref download: {address} cannot be fetched (")
    assert f"run: musiq-ref download koniq --cache {tmp_path}\n" in sentence
    assert sentence.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


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
    assert capsys.readouterr().out == f"{path}: verified; use it with --checkpoint koniq\n"
    assert main(["download", "koniq", "--json", "--cache", str(tmp_path / "cache")]) == 0
    assert json.loads(capsys.readouterr().out) == {"name": "koniq", "path": str(path), "format": "official"}
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
