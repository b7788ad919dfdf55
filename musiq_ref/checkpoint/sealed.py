"""safetensors files with a seal: equal contents make equal bytes, and a changed bit is noticed."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import safetensors

from musiq_ref.checkpoint.bfloat16 import widen
from musiq_ref.checkpoint.layout import BROKEN, CheckpointError, Tensors, damaged, write_file

DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "U64": "<u8", "I32": "<i4", "U32": "<u4"}
DTYPES |= {"I16": "<i2", "U16": "<u2", "I8": "|i1", "U8": "|u1", "BOOL": "|b1"}
LETTERS = {letters: name for name, letters in DTYPES.items()}

SEAL, METHOD = "seal", "seal_method"
"""Metadata: the SHA-256 of the whole file with BLANK in the seal's place, and a second word that there is one."""
BLANK = "0" * 64
LONGEST_HEADER = 2**23


def write_sealed(path: str | Path, tensors: Tensors, metadata: dict[str, str]) -> None:
    """Writes a safetensors file, whole or not at all, whose bytes depend on the tensors and the metadata alone.

    Raises CheckpointError when it cannot be written.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_sealed(f"{folder}/a.safetensors", {"b": np.ones(2), "a": np.zeros(3)}, {"made": "today"})
    ...     read_sealed(Path(folder, "a.safetensors"))
    ({'a': array([0., 0., 0.]), 'b': array([1., 1.])}, {'made': 'today'})
    """
    arrays = {name: np.asarray(a, a.dtype.newbyteorder("<")) for name, a in tensors.items()}
    names = sorted(arrays, key=lambda name: (-arrays[name].itemsize, name))  # so that every value is aligned
    header: dict[str, Any] = {"__metadata__": {SEAL: BLANK, METHOD: "sha256", **dict(sorted(metadata.items()))}}
    end = 0
    for name in names:
        start, end = end, end + arrays[name].nbytes
        kind, shape = LETTERS[arrays[name].dtype.str], list(arrays[name].shape)
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    top = len(text).to_bytes(8, "little") + text
    digest = hashlib.sha256(top)
    for name in names:
        digest.update(arrays[name].tobytes())

    def write(part: Path) -> None:
        with part.open("wb") as file:
            file.write(top.replace(BLANK.encode(), digest.hexdigest().encode(), 1))
            for name in names:
                file.write(arrays[name].tobytes())

    write_file(path, write)


def read_sealed(path: Path) -> tuple[Tensors, dict[str, str]]:
    """The tensors (bfloat16 as float32) and the metadata of a safetensors file, its seal checked where it has one.

    Raises CheckpointError, one sentence without the file's name, for a file that is damaged or was changed.
    """
    try:
        content = path.read_bytes()
        length = int.from_bytes(content[:8], "little")
        if length > LONGEST_HEADER:
            raise CheckpointError("cut short or damaged (its header is too long); download or export it again")
        top = content[: 8 + length]
        raw = sorted(safetensors.deserialize(content), key=lambda item: item[0])
        metadata = json.loads(top[8:], object_pairs_hook=once).get("__metadata__") or {}
        check_seal(top, memoryview(content)[8 + length :], metadata)
        return {name: to_array(tensor) for name, tensor in raw}, metadata
    except CheckpointError:
        raise
    except BROKEN as error:
        raise damaged(error) from None


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The dict of a JSON object; a name that is there twice is a ValueError.

    >>> once([("a", 1), ("a", 2)])
    Traceback (most recent call last):
    ValueError: 'a' is there twice
    """
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twice[:80]!r} is there twice")
    return found


def check_seal(top: bytes, data: memoryview, metadata: dict[str, str]) -> None:
    """Takes the seal out of the metadata; raises CheckpointError where it does not fit."""
    seal, method = metadata.pop(SEAL, None), metadata.pop(METHOD, None)
    if seal is method is None:
        return  # another program's, or ours of before there were seals
    digest = hashlib.sha256(top.replace((seal or "").encode(), BLANK.encode(), 1))
    digest.update(data)
    if digest.hexdigest() != seal or method != "sha256":
        raise CheckpointError("it was changed after it was written (its checksum does not fit); use an undamaged copy")


def to_array(tensor: dict[str, Any]) -> np.ndarray:
    """A tensor as safetensors hands it over."""
    kind = tensor["dtype"]
    if kind != "BF16" and kind not in DTYPES:
        raise CheckpointError(f"a tensor in it has data type {kind}; export it as float32")
    values = np.frombuffer(tensor["data"], DTYPES.get(kind, "<u2"))
    return (widen(values) if kind == "BF16" else values).reshape(tensor["shape"])
