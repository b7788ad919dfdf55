"""Files: which kind one is (by content, never by name), and the tensors in it."""

from __future__ import annotations

import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
import safetensors

from musiq_ref.checkpoint.bfloat16 import widen
from musiq_ref.checkpoint.layout import CheckpointError, Tensors
from musiq_ref.checkpoint.torch_pickle import read_torch

SAFETENSORS_DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "I64": "<i8", "U64": "<u8"}
SAFETENSORS_DTYPES |= {"I32": "<i4", "U32": "<u4", "I16": "<i2", "U16": "<u2", "I8": "i1", "U8": "u1", "BOOL": "?"}

BROKEN = (
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    SyntaxError,
    EOFError,
    OSError,
    RuntimeError,
    MemoryError,
)
BROKEN += (zipfile.BadZipFile, zlib.error, struct.error, safetensors.SafetensorError)
"""What the readers of NumPy, zipfile and safetensors raise on bytes that are not what they should be."""

MOST_INFLATION = 100
"""A compressed .npz may unpack to this many times its size (weights hardly shrink at all), or to 64 MiB."""


def read_tensors(path: Path) -> tuple[Tensors, dict[str, str]]:
    """The tensors of a .npz, .pth or .safetensors file, and its metadata (safetensors only).

    Nothing of the file is ever executed. Raises CheckpointError, one sentence without the file's name, for anything
    else: a folder, an empty, a cut or another kind of file.
    """
    try:
        if path.is_dir():
            raise CheckpointError("a folder, not a file; name the checkpoint file in it")
        with path.open("rb") as file:
            start = file.read(9)
    except FileNotFoundError:
        raise CheckpointError("no such file; check the path") from None
    except OSError as error:
        raise CheckpointError(f"cannot be opened ({error.strerror}); check the path and its permissions") from None
    if not start:
        raise CheckpointError("the file is empty; download or export it again")
    if start[:2] == b"PK":
        return read_zip(path), {}
    if start[8:] == b"{":
        return read_safetensors(path)
    if start[:1] == b"\x80":
        raise CheckpointError(
            "a bare pickle, such as PyTorch wrote before 1.6, and those are not read; load it in a trusted place and "
            "re-save it with torch.save of PyTorch 1.6 or later"
        )
    raise CheckpointError("not a checkpoint (neither .npz, .pth nor .safetensors inside); check which file it is")


def read_zip(path: Path) -> Tensors:
    """The tensors of a zip: PyTorch's if it holds a data.pkl, NumPy's if it holds .npy files."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            if any(name.endswith("data.pkl") for name in names):
                return read_torch(archive, path.stat().st_size)
            if not any(name.endswith(".npy") for name in names):
                raise CheckpointError("a zip with neither data.pkl nor .npy files in it; check which file it is")
            unpacked = sum(info.file_size for info in archive.infolist())
            if unpacked > max(64 * 2**20, MOST_INFLATION * path.stat().st_size):
                raise CheckpointError(f"it claims to unpack to {unpacked:,} bytes, which no checkpoint does; delete it")
        with np.load(path, allow_pickle=False) as arrays:
            found = {name: arrays[name] for name in arrays.files}
        return {name: array for name, array in found.items() if isinstance(array, np.ndarray)}
    except CheckpointError:
        raise
    except BROKEN as error:
        raise damaged(error) from None


def read_safetensors(path: Path) -> tuple[Tensors, dict[str, str]]:
    """The tensors of a safetensors file (bfloat16 as float32) and its metadata."""
    try:
        with safetensors.safe_open(path, framework="np") as file:
            metadata = file.metadata() or {}
        tensors = {}
        for name, raw in safetensors.deserialize(path.read_bytes()):
            if raw["dtype"] not in SAFETENSORS_DTYPES:
                raise CheckpointError(f"a tensor in it has data type {raw['dtype']}; export it as float32")
            values = np.frombuffer(raw["data"], SAFETENSORS_DTYPES[raw["dtype"]])
            values = widen(values) if raw["dtype"] == "BF16" else values
            tensors[name] = values.reshape(raw["shape"])
        return tensors, metadata
    except CheckpointError:
        raise
    except BROKEN as error:
        raise damaged(error) from None


def damaged(error: Exception) -> CheckpointError:
    """The sentence for a file whose start is right and whose rest is not."""
    reason = " ".join(str(error).split())[:160] or type(error).__name__
    return CheckpointError(f"cut short, damaged or not plain numbers ({reason}); download or export it again")
