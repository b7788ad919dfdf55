"""Files: which kind one is (by content, never by name), and the tensors in it."""

from __future__ import annotations

import io
import os
import stat
import threading
import warnings
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from musiq_ref.checkpoint.bfloat16 import widen
from musiq_ref.checkpoint.layout import BROKEN, CheckpointError, Layout, Tensors, damaged, printable
from musiq_ref.checkpoint.native import METADATA_KEY, NATIVE_LAYOUT
from musiq_ref.checkpoint.sealed import read_sealed
from musiq_ref.checkpoint.torch_file import RESAVE, read_torch_stream, read_torch_zip
from musiq_ref.checkpoint.torch_pickle import View
from musiq_ref.checkpoint.weights import Weights, find_weights, left_out, locate

MOST_INFLATION = 100
"""A compressed file may unpack to this many times its size (weights hardly shrink at all), or to 64 MiB."""

LARGEST = 2**32
"""Bytes: the large preset with an optimiser's state in float64 has half of that."""
PICTURES = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"RIFF")
"""How files of pictures begin, which may be named by mistake."""
ONE_AT_A_TIME = threading.Lock()
"""The filters of warnings are those of all threads."""


class Contents(NamedTuple):
    """The tensors of the MUSIQ in a file, under its names.

    layout: whose names they are
    metadata: of a safetensors file
    notes: a sentence for everything that was taken away from names or left out
    """

    tensors: Tensors
    layout: Layout
    metadata: dict[str, str]
    notes: tuple[str, ...]


def read_tensors(path: Path) -> Contents:
    """The weights in a .npz, .pth or .safetensors file.

    Nothing of the file is ever executed. Raises CheckpointError, one sentence without the file's name, for anything
    else: a folder, an empty, a cut or another kind of file.
    """
    try:
        with ONE_AT_A_TIME, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of numbers and texts in damaged headers, which are refused anyway
            return without_strays(*read_any(path, first_bytes(path)))
    except CheckpointError:
        raise
    except BROKEN as error:
        raise damaged(error) from None


def first_bytes(path: Path) -> bytes:
    """The start of an ordinary file that is neither empty nor far too large."""
    try:
        status = os.stat(path)
        if stat.S_ISDIR(status.st_mode):
            raise CheckpointError("a folder, not a file; name the checkpoint file in it")
        if not stat.S_ISREG(status.st_mode):
            raise CheckpointError("no ordinary file (a pipe or a device); name a file")
        with path.open("rb") as file:
            start = file.read(512)
    except FileNotFoundError:
        raise CheckpointError("no such file; check the path") from None
    except (OSError, ValueError) as error:
        if isinstance(error, CheckpointError):
            raise
        reason = getattr(error, "strerror", None) or error
        raise CheckpointError(f"cannot be opened ({reason}); check the path and its permissions") from None
    if not start:
        raise CheckpointError("the file is empty; download or export it again")
    if status.st_size > LARGEST:
        raise CheckpointError(f"{status.st_size:,} bytes, which no MUSIQ needs; save the weights alone")
    return start


def read_any(path: Path, start: bytes) -> tuple[Weights, dict[str, str]]:
    """The weights of a file that begins so, and its metadata."""
    if start[:2] == b"PK":
        return read_zip(path), {}
    if start[8:9] == b"{":
        tensors, metadata = read_sealed(path)
        if METADATA_KEY in metadata:
            return Weights(NATIVE_LAYOUT, dict(tensors), ()), metadata
        return find_weights(tensors, np.ndarray), metadata
    if start[:1] == b"\x80":
        with path.open("rb") as file:
            found, take = read_torch_stream(file, path.stat().st_size)
            return taken(find_weights(found, View), take), {}
    if start[257:262] == b"ustar":
        raise CheckpointError(f"a tar archive, such as PyTorch wrote before 0.1.10; {RESAVE}")
    if start.startswith(PICTURES):
        raise CheckpointError("a picture, not a checkpoint; musiq-ref score reads pictures")
    if _is_msgpack(start):
        raise CheckpointError(
            "msgpack, it seems, as Flax writes it; save it as .npz where you have Flax: np.savez(file, "
            "**flax.traverse_util.flatten_dict(params, sep='/'))"
        )
    raise CheckpointError("not a checkpoint (neither .npz, .pth nor .safetensors inside); check which file it is")


def _is_msgpack(start: bytes) -> bool:
    """Whether a file begins as a map of MessagePack whose first key is a text."""
    key = start[1:] if 0x81 <= start[0] <= 0x8F else start[{0xDE: 3, 0xDF: 5}.get(start[0], len(start)) :]
    return key[:1] != b"" and (0xA1 <= key[0] <= 0xBF or 0xD9 <= key[0] <= 0xDB)


def read_zip(path: Path) -> Weights:
    """The weights in a zip: PyTorch's if it holds a data.pkl, NumPy's if it holds .npy files."""
    with zipfile.ZipFile(path) as archive:
        members = members_of(archive, path.stat().st_size)
        if any(f"/{name}".endswith("/data.pkl") for name in members):
            found, take = read_torch_zip(archive)
            return taken(find_weights(found, View), take)
        arrays = {name: member for name, member in members.items() if member.filename.endswith(".npy")}
        if not arrays:
            raise CheckpointError(
                "a zip with neither data.pkl nor .npy files in it; unpack it if a checkpoint is in it, "
                "or check which file it is"
            )
        weights = find_weights(arrays, zipfile.ZipInfo)
        return taken(
            weights, lambda chosen: {name: read_npy(archive, chosen[name], locate(name) is None) for name in chosen}
        )


def members_of(archive: zipfile.ZipFile, size: int) -> dict[str, zipfile.ZipInfo]:
    """The members of an archive by name, without ".npy"; size: of the file, in bytes."""
    members = archive.infolist()
    names = [member.filename.removesuffix(".npy") for member in members]
    if len(set(names)) < len(names):
        [(twice, _)] = Counter(names).most_common(1)
        raise CheckpointError(f"it holds {printable(twice)} twice, and which one counts is open; export it again")
    unpacked = sum(member.file_size for member in members)
    if unpacked > max(64 * 2**20, MOST_INFLATION * size):
        raise CheckpointError(f"it claims to unpack to {unpacked:,} bytes, which no checkpoint does; delete it")
    return dict(zip(names, members, strict=True))


def read_arrays(path: Path) -> Tensors:
    """All arrays of a .npz or .safetensors file.  Raises CheckpointError, one sentence without the file's name."""
    start = first_bytes(path)
    try:
        if start[:2] != b"PK":
            return read_sealed(path)[0]
        with zipfile.ZipFile(path) as archive:
            return {
                name: read_npy(archive, member) for name, member in members_of(archive, path.stat().st_size).items()
            }
    except CheckpointError:
        raise
    except BROKEN as error:
        raise damaged(error) from None


def read_npy(archive: zipfile.ZipFile, member: zipfile.ZipInfo, stray: bool = False) -> np.ndarray:
    """The array in a .npy file; bfloat16, which NumPy saves as two bytes without meaning, as float32.

    stray: where it holds Python objects, which are never built, a single None instead of an error
    """
    content = archive.read(member)
    if stray and b"'|O'" in content[:128]:
        return np.array(None)
    array = np.lib.format.read_array(io.BytesIO(content), allow_pickle=False)
    return widen(array.view("<u2")) if array.dtype == np.dtype("V2") else array


def taken(weights: Weights, take: Any) -> Weights:
    """The same with arrays in it."""
    return weights._replace(tensors=take(weights.tensors))


def without_strays(weights: Weights, metadata: dict[str, str]) -> Contents:
    """Without single numbers and whole ones that are none of MUSIQ's, such as the step that training came to."""
    stray = [
        name
        for name, array in weights.tensors.items()
        if (array.ndim == 0 or array.dtype.kind != "f") and locate(name) is None
    ]
    tensors = {name: array for name, array in weights.tensors.items() if name not in stray}
    return Contents(tensors, weights.layout, metadata, (*weights.notes, *left_out(stray)))
