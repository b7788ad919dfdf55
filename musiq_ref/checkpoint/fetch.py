"""Fetching the published checkpoints: resumable, verified before they are put in place.

Pooch, the usual library for this, begins every download anew; of files of 110 to 240 MB on a poor line that matters.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
import re
import shlex
import stat
import struct
import sys
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tqdm import tqdm

from musiq_ref.checkpoint.catalogue import CATALOGUE, Release, cache_folder, download_command
from musiq_ref.checkpoint.files import BROKEN, damaged
from musiq_ref.checkpoint.layout import CheckpointError, printable
from musiq_ref.checkpoint.load import load_checkpoint
from musiq_ref.model.parameters import flatten
from musiq_ref.outputs import sync_folder

TIMEOUT = 30.0
"""Seconds without an answer or a byte after which a server counts as unreachable."""

CHUNK = 2**18
MOST = 2**30  # bytes, more than any published file has: a server that never ends does not fill the disk
STRONG_TAG = re.compile(r'"[\x21\x23-\x7e]{1,200}"')  # a weak one (W/"…") does not promise the same bytes
RANGE = re.compile(r"bytes (\d{1,18})-\d{1,18}/(\d{1,18}|\*)")


class DownloadError(RuntimeError):
    """A checkpoint that could not be fetched, or was not the published one; the message says what to do by hand.

    >>> issubclass(DownloadError, RuntimeError)
    True
    """


def download(name: str, cache: str | Path | None = None, *, progress: bool = True) -> Path:
    """Fetches a checkpoint of the catalogue into the cache folder and returns its path.

    A file that is there already is verified, not fetched again; an interrupted download continues where it stopped; of
    two at a time the second waits for the first. The file is put in place only if `verify` finds it to be the published
    one. Raises DownloadError.

    >>> download("koniq", cache="/dev/null/nowhere")  # doctest: +IGNORE_EXCEPTION_DETAIL
    Traceback (most recent call last):
    DownloadError: /dev/null/nowhere/koniq_ckpt.npz cannot be written
    """
    if name not in CATALOGUE:
        raise DownloadError(f"{name}: not a published checkpoint; choose one of {', '.join(CATALOGUE)}")
    release = CATALOGUE[name]
    target = (Path(cache) if cache is not None else cache_folder()) / release.file
    again = download_command(name) + ("" if cache is None else f" --cache {shlex.quote(str(cache))}")
    if not _is_there(target, release, again):
        part = target.with_name(f"{release.file}.part")
        with _alone(part):
            if not _is_there(target, release, again):  # another process may just have fetched it
                _fetch_verified(part, target, release, again, progress)
    return target


def _is_there(target: Path, release: Release, again: str) -> bool:
    """Whether the file is in place. Raises DownloadError if something else is."""
    if not os.path.lexists(target):
        return False
    try:
        verify(target, release)
    except (CheckpointError, OSError) as error:
        raise DownloadError(f"{target} is not the published file ({error}); delete it and run: {again}") from None
    return True


@contextlib.contextmanager
def _alone(part: Path) -> Iterator[None]:
    """Nobody else works on a partial file meanwhile; it, its tag and its lock are plain files, or are made."""
    from filelock import FileLock, Timeout  # here: what is not downloaded does without it

    try:
        part.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(part.with_name(f".{part.name}.lock"))
        for path in (part, tag_file(part), Path(lock.lock_file)):
            if os.path.lexists(path) and not stat.S_ISREG(path.lstat().st_mode):
                raise DownloadError(f"{path} is a link, or no file at all, and would be written to; remove it")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            print(f"{part} is being fetched by another process; waiting for it", file=sys.stderr)
            lock.acquire()
    except (OSError, NotImplementedError) as error:
        raise DownloadError(
            f"{part.with_suffix('')} cannot be written ({getattr(error, 'strerror', 'its file system has no locks')}); "
            f"choose another --cache folder"
        ) from None
    try:
        yield
    finally:
        lock.release()


def _fetch_verified(part: Path, target: Path, release: Release, again: str, progress: bool) -> None:
    try:
        fetch(release.url, part, progress)
    except (OSError, http.client.HTTPException, ValueError) as error:
        if part.exists() and not part.stat().st_size:
            forget(part)
        raise DownloadError(
            f"{release.url} cannot be fetched ({reason(error)}); check the network and run it again, which continues "
            f"where it stopped, or fetch that address by other means, put the file at {target} and run: {again}"
        ) from None
    try:
        verify(part, release)
    except CheckpointError as error:
        forget(part)
        raise DownloadError(
            f"what {release.url} sent is not the published file ({error}), so it was deleted and nothing put in place; "
            f"run it again, or fetch that address by other means and put the file at {target}"
        ) from None
    with _disk(target):
        os.replace(part, target)
        forget(part)
        sync_folder(target.parent)


def reason(error: Exception) -> str:
    """Why a request failed, in a few words.

    >>> reason(TimeoutError())
    'timed out'
    """
    if isinstance(error, urllib.error.HTTPError):
        return f"the server answered {error.code} {error.reason}"
    if isinstance(error, TimeoutError):
        return "timed out"
    if isinstance(error, http.client.IncompleteRead):
        return "the connection broke"
    return " ".join(str(getattr(error, "reason", error)).split()) or type(error).__name__


def tag_file(part: Path) -> Path:
    """Where the server's version tag of a partial file is kept."""
    return part.with_name(f"{part.name}.etag")


def forget(part: Path) -> None:
    """Removes a partial file and its version tag."""
    part.unlink(missing_ok=True)
    tag_file(part).unlink(missing_ok=True)


def fetch(url: str, part: Path, progress: bool = True) -> None:
    """Brings `part` up to the whole of what `url` holds, asking only for the bytes that are not there yet.

    Starts over, once, when the server cannot continue or holds another version than before. Raises OSError or
    HTTPException when it fails, DownloadError when `part` cannot be written; what has arrived by then is kept.
    """
    while True:
        have = part.stat().st_size if part.exists() else 0
        tag = _strong(tag_file(part).read_bytes().decode("latin-1")) if have and tag_file(part).exists() else ""
        with _ask(url, have, tag) as answer:
            if answer.status == 416 and answer.headers.get("Content-Range") == f"bytes */{have}":
                return  # nothing was missing
            now, found = answer.headers.get("ETag", ""), RANGE.fullmatch(answer.headers.get("Content-Range", ""))
            continues = answer.status == 206 and have and found and int(found[1]) == have and tag in ("", now)
            if continues or answer.status == 200:
                start, length = (have if continues else 0), answer.length
                total = None if length is None else start + length
                if continues and found and found[2] != "*":
                    total = int(found[2])
                return _receive(answer, part, start, total, _strong(now), progress)
        if not have:
            raise http.client.HTTPException(f"the server answered {answer.status} with what was not asked for")
        forget(part)


def _strong(tag: str) -> str:
    return tag if STRONG_TAG.fullmatch(tag) else ""


class _SameScheme(urllib.request.HTTPRedirectHandler):
    """A redirect must not lead from https to what can be listened to or altered on the way."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        if urlsplit(newurl).scheme not in (urlsplit(req.full_url).scheme, "https"):
            fp.close()
            raise urllib.error.URLError(f"the server answered {code}, redirecting to {newurl[:200]}, which is not safe")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _ask(url: str, have: int, tag: str) -> Any:
    """The server's answer; that nothing comes after the first `have` bytes (416) is one, too."""
    headers = {"User-Agent": "musiq_ref"}
    if have:
        headers["Range"] = f"bytes={have}-"
        if tag:
            headers["If-Range"] = tag  # the server sends the whole file (200) when it has changed
    try:
        opener = urllib.request.build_opener(_SameScheme)
        return opener.open(urllib.request.Request(url, headers=headers), timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == 416 and have:
            return error
        error.close()
        raise


def _receive(answer: Any, part: Path, start: int, total: int | None, tag: str, progress: bool) -> None:
    """Appends the answer to the first `start` bytes of a partial file, or replaces it."""
    with _disk(part):
        file = open(part, "ab" if start else "wb", buffering=0, opener=_not_a_link)  # noqa: SIM115
    bar = tqdm(total=total, initial=start, unit="B", unit_scale=True, desc=part.stem, disable=not progress or None)
    with file, bar:
        with _disk(part):
            tag_file(part).write_text(tag)
        arrived = start
        while block := answer.read1(CHUNK):
            arrived += len(block)
            if arrived > MOST:
                raise http.client.HTTPException(f"it sends more than {MOST:,} bytes")
            bar.update(len(block))
            with _disk(part):
                while block:
                    block = block[file.write(block) :]
        with _disk(part):
            os.fsync(file.fileno())
    if total is not None and arrived < total:
        raise http.client.HTTPException(f"the connection broke after {arrived:,} of {total:,} bytes")


def _not_a_link(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)


@contextlib.contextmanager
def _disk(path: Path) -> Iterator[None]:
    """What goes wrong in its block is the disk's fault and not the network's."""
    try:
        yield
    except OSError as error:
        raise DownloadError(
            f"{path} cannot be written ({error.strerror}); free some space and run it again, which continues where it "
            f"stopped, or choose another --cache folder"
        ) from None


def sha256(path: Path) -> str:
    """A file's SHA-256 in hexadecimal, to compare with other people's.

    >>> len(sha256(Path(__file__)))
    64
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def verify(path: Path, release: Release) -> None:
    """Raises CheckpointError unless the file is the published one, as far as is known: `Release.evidence` says how far.

    >>> verify(Path("nowhere.npz"), CATALOGUE["koniq"])
    Traceback (most recent call last):
    musiq_ref.checkpoint.layout.CheckpointError: nowhere.npz: no such file; check the path
    """
    if release.sha256 and path.is_file() and not (digest := sha256(path)).startswith(release.sha256):
        raise CheckpointError(f"its SHA-256 begins {digest[:8]} instead of {release.sha256}")
    checkpoint = load_checkpoint(path)
    count = sum(array.size for _, array in flatten(checkpoint.params))
    if checkpoint.format != release.format or count != release.parameters:
        raise CheckpointError(
            f"it holds {count:,} parameters in {checkpoint.format} layout, "
            f"the published one {release.parameters:,} in {release.format} layout"
        )
    if not release.sha256:
        _check_zip(path)


def _check_zip(path: Path) -> None:
    """Raises CheckpointError unless a zip is its members, one after the other, their list and nothing else."""
    try:
        with zipfile.ZipFile(path) as archive, path.open("rb") as file:
            if broken := archive.testzip():
                raise CheckpointError(f"the checksum of {printable(broken)} in it is wrong")
            at = 0
            for member in sorted(archive.infolist(), key=lambda member: member.header_offset):
                _check_gap(at, member.header_offset)
                file.seek(member.header_offset + 26)
                name, extra = struct.unpack("<HH", file.read(4))  # their lengths
                at = member.header_offset + 30 + name + extra + member.compress_size
            _check_gap(at, archive.start_dir)
            file.seek(archive.start_dir)
            listed = file.read()
    except BROKEN as error:
        raise error if isinstance(error, CheckpointError) else damaged(error) from None
    end = listed[-22:]  # "PK", 5, 6, …, the length of the list, where it begins, and that no comment follows
    if end[:4] != b"PK\5\6" or end[12:16] != struct.pack("<I", len(listed) - 22) or end[20:] != b"\0\0":
        raise CheckpointError("there are bytes after its end")


def _check_gap(end: int, start: int) -> None:
    if start - end not in (0, 12, 16, 20, 24):  # a member's checksum and sizes may follow it
        raise CheckpointError(f"{abs(start - end):,} bytes in it belong to nothing")
