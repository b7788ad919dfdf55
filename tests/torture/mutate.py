"""Changes to bytes, to archives and to values; each takes its random numbers as the last argument."""

from __future__ import annotations

import io
import json
import struct
import zipfile
from collections.abc import Callable
from random import Random
from typing import Any

NESTED = "[" * 1000 + "]" * 1000  # what Python can read but hardly write: put in as text
HOSTILE: list[Any] = [10**9, 10**40, -1, 0, 1.5, float("nan"), float("inf"), "x", "", [], {}, None, True, "NESTED"]
HOSTILE += [2**31, [1, "x"], {"x": 1}, "\0", "é" * 300, "1e999", [[]]]
WORDS = [b"\0\0\0\0", b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", b"\x7f\xff\xff\xff", b"\0\0\0\x80", b"\0\1", b"\1\0"]


def place(data: bytes, rng: Random) -> int:
    """A position: every second one near the start or the end, where the structure of most files lies."""
    near = min(len(data), 600)
    return max(0, rng.choice((rng.randrange(len(data)), rng.choice((rng.randrange(near), len(data) - near)))))


def _flip(data: bytearray, rng: Random) -> None:
    for _ in range(rng.choice((1, 1, 1, 2, 8))):
        data[place(data, rng)] ^= 1 << rng.randrange(8)


def _overwrite(data: bytearray, rng: Random) -> None:
    for _ in range(rng.choice((1, 1, 4))):
        data[place(data, rng)] = rng.randrange(256)


def _cut(data: bytearray, rng: Random) -> None:
    del data[place(data, rng) :]


def _take_out(data: bytearray, rng: Random) -> None:
    at = place(data, rng)
    del data[at : at + rng.choice((1, 2, 7, 100, 5000))]


def _insert(data: bytearray, rng: Random) -> None:
    at = place(data, rng)
    data[at:at] = rng.randbytes(rng.choice((1, 2, 7, 100, 5000)))


def _double(data: bytearray, rng: Random) -> None:
    at, size = place(data, rng), rng.choice((1, 8, 100, 5000))
    data[at:at] = data[at : at + size]


def _move(data: bytearray, rng: Random) -> None:
    at, size = place(data, rng), rng.choice((1, 8, 100, 5000))
    chunk = data[at : at + size]
    del data[at : at + size]
    to = rng.randrange(len(data) + 1)
    data[to:to] = chunk


def _word(data: bytearray, rng: Random) -> None:
    at, word = place(data, rng), rng.choice(WORDS)
    data[at : at + len(word)] = word


def _append(data: bytearray, rng: Random) -> None:
    data += rng.choice((b"\0", b"\n", rng.randbytes(1000), bytes(1000), bytes(data[:5000])))


BYTES: tuple[Callable[[bytearray, Random], None], ...] = (
    *(_flip, _flip, _overwrite, _word, _cut, _take_out, _insert, _double, _move, _append),
)


def spoil(data: bytes, rng: Random) -> bytes:
    """The bytes with one or a few changes."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        if changed:
            rng.choice(BYTES)(changed, rng)
    return bytes(changed)


def spoil_zip(data: bytes, rng: Random) -> tuple[bytes, bool]:
    """An archive written anew with other members, all checksums right; and whether its meaning may be another now."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = [(name, archive.read(name)) for name in archive.namelist()]
    how, at = rng.randrange(10), rng.randrange(len(members))
    name, content = members[at]
    method, other = zipfile.ZIP_STORED, False
    if how == 0:
        del members[at]
    elif how == 1:
        members.insert(rng.randrange(len(members) + 1), (name, content))
    elif how == 2:  # the same name again, or as NumPy takes it for the same, with other bytes of the same length
        members.append((rng.choice((name, name.removesuffix(".npy"), "./" + name)), content[:-8] + rng.randbytes(8)))
    elif how == 3:
        members[at] = (rng.choice(("x", "../x.npy", "/etc/x", name + "x", name.upper(), "é" + name, " ")), content)
    elif how == 4:
        method = rng.choice((zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA))
    elif how == 5:
        rng.shuffle(members)
    elif how == 6:
        members.append((rng.choice(("x", "x.npy", "x/data.pkl", ".data/version")), rng.randbytes(100)))
    elif how == 7:
        members[at] = (name, b"")
    else:
        members[at], other = (name, spoil(content, rng)), True
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for one in members:
            archive.writestr(*one)
        archive.comment = b"x" if how == 9 else b""
    return buffer.getvalue(), other


def spoil_header(data: bytes, rng: Random) -> tuple[bytes, bool]:
    """Hostile values in a safetensors header or in the JSON of its metadata; and whether its seal was taken off, too.

    Without its seal it may mean something else.
    """
    (size,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + size])
    metadata = header["__metadata__"]
    unsealed = "seal" in metadata and rng.random() < 0.7
    if unsealed:
        del metadata["seal"], metadata["seal_method"]
    inside = [key for key, text in metadata.items() if text.startswith("{")]
    if inside and rng.random() < 0.7:
        key = rng.choice(inside)
        metadata[key] = as_json(hostile(json.loads(metadata[key]), rng))
        text = json.dumps(header)
    else:
        text = as_json(hostile(header, rng))
    text += " " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text.encode() + data[8 + size :], unsealed


def hostile(value: Any, rng: Random) -> Any:
    """A JSON value of which one part, however deep, is replaced, removed, doubled or renamed."""
    if isinstance(value, dict | list) and value and rng.random() < 0.9:
        keys = list(value) if isinstance(value, dict) else range(len(value))
        key, how = rng.choice(list(keys)), rng.random()
        changed: Any = value.copy()
        if how < 0.8:
            changed[key] = hostile(value[key], rng)
        elif how < 0.9:
            del changed[key]
        elif isinstance(changed, list):
            changed.append(changed[key])
        else:
            changed[rng.choice(("x", f"{key} ", "é", ""))] = changed.pop(key) if rng.random() < 0.5 else 1
        return changed
    return rng.choice(HOSTILE)


def as_json(value: Any, **options: Any) -> str:
    """JSON text, with nan, infinity and what is nested a thousand deep."""
    return json.dumps(value, **options).replace('"NESTED"', NESTED)
