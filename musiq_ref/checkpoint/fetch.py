"""Fetching the published checkpoints: resumable, verified before they are put in place."""

from __future__ import annotations

import hashlib
import http.client
import os
import urllib.error
import urllib.request
from pathlib import Path

from tqdm import tqdm

from musiq_ref.checkpoint.catalogue import CATALOGUE, Release, cache_folder, download_command
from musiq_ref.checkpoint.layout import CheckpointError
from musiq_ref.checkpoint.load import load_checkpoint
from musiq_ref.model.parameters import flatten

TIMEOUT = 30.0
"""Seconds without an answer or a byte after which a server counts as unreachable."""

CHUNK = 2**18


class DownloadError(RuntimeError):
    """A checkpoint that could not be fetched, or was not the published one; the message says what to do by hand.

    >>> issubclass(DownloadError, RuntimeError)
    True
    """


def download(name: str, cache: str | Path | None = None, *, progress: bool = True) -> Path:
    """Fetches a checkpoint of the catalogue into the cache folder and returns its path.

    A file that is there already is verified, not fetched again; an interrupted download continues where it stopped.
    The file is put in place only if it is what was published: its SHA-256 begins as its name says (pyiqa), its tensors
    are MUSIQ's, its parameters as many as SPEC 2 counts. Raises DownloadError.

    >>> download("koniq", cache="/dev/null/nowhere")  # doctest: +IGNORE_EXCEPTION_DETAIL
    Traceback (most recent call last):
    DownloadError: /dev/null/nowhere/koniq_ckpt.npz cannot be written
    """
    if name not in CATALOGUE:
        raise DownloadError(f"{name}: not a published checkpoint; choose one of {', '.join(CATALOGUE)}")
    release = CATALOGUE[name]
    folder = Path(cache) if cache is not None else cache_folder()
    target = folder / release.file
    part = folder / f"{release.file}.part"
    again = download_command(name) + ("" if cache is None else f" --cache {cache}")
    if target.is_file():
        try:
            verify(target, release)
        except CheckpointError as error:
            raise DownloadError(f"{target} is not the published file ({error}); delete it and run: {again}") from None
        return target
    try:
        folder.mkdir(parents=True, exist_ok=True)
        part.open("ab").close()
    except OSError as error:
        raise DownloadError(f"{target} cannot be written ({error.strerror}); choose another --cache folder") from None
    try:
        fetch(release.url, part, progress)
    except (OSError, http.client.HTTPException) as error:
        if not part.stat().st_size:
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
    os.replace(part, target)
    forget(part)
    return target


def reason(error: Exception) -> str:
    """Why a request failed, in a few words.

    >>> reason(TimeoutError())
    'timed out'
    """
    if isinstance(error, urllib.error.HTTPError):
        return f"the server answered {error.code} {error.reason}"
    if isinstance(error, TimeoutError):
        return "timed out"
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

    Starts over when the server cannot continue, or holds another version than before. Raises OSError or HTTPException
    when it fails; what has arrived by then is kept.
    """
    have = part.stat().st_size if part.exists() else 0
    old_tag = tag_file(part).read_text() if have and tag_file(part).exists() else ""
    headers = {"User-Agent": "musiq_ref"}
    if have:
        headers["Range"] = f"bytes={have}-"
        if old_tag:
            headers["If-Range"] = old_tag  # the server sends the whole file (200) when it has changed
    try:
        response = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code != 416 or not have:
            raise
        if error.headers.get("Content-Range") == f"bytes */{have}":
            return  # nothing was missing
        forget(part)
        return fetch(url, part, progress)
    with response:
        tag = response.headers.get("ETag", "")
        continues = response.headers.get("Content-Range", "").startswith(f"bytes {have}-")
        if response.status == 206 and not (continues and (not old_tag or tag == old_tag)):
            forget(part)
            return fetch(url, part, progress)
        start = have if response.status == 206 else 0
        if tag.startswith('"'):  # a weak tag (W/"…") does not promise the same bytes
            tag_file(part).write_text(tag)
        else:
            tag_file(part).unlink(missing_ok=True)
        length = response.headers.get("Content-Length")
        total = start + int(length) if length else None
        bar = tqdm(total=total, initial=start, unit="B", unit_scale=True, desc=part.stem, disable=not progress or None)
        with part.open("ab" if start else "wb") as file, bar:
            try:
                while block := response.read(CHUNK):
                    file.write(block)
                    bar.update(len(block))
            except http.client.IncompleteRead as error:  # how newer versions of Python say that the rest is missing
                file.write(error.partial)
            arrived = file.tell()
    if total is not None and arrived < total:
        raise http.client.HTTPException(f"the connection broke after {arrived:,} of {total:,} bytes")


def verify(path: Path, release: Release) -> None:
    """Raises CheckpointError unless the file is the published one, as far as is known: hash, tensors, their number."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if not digest.startswith(release.sha256):
        raise CheckpointError(f"its SHA-256 begins {digest[:8]} instead of {release.sha256}")
    checkpoint = load_checkpoint(path)
    count = sum(array.size for _, array in flatten(checkpoint.params))
    if checkpoint.format != release.format or count != release.parameters:
        raise CheckpointError(
            f"it holds {count:,} parameters in {checkpoint.format} layout, "
            f"the published one {release.parameters:,} in {release.format} layout"
        )
