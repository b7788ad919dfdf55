"""Files: which kind one is (by content, never by name), and the tensors in it."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np

from musiq_ref.checkpoint.layout import BROKEN, CheckpointError, Tensors, damaged
from musiq_ref.checkpoint.sealed import read_sealed
from musiq_ref.checkpoint.torch_pickle import read_torch

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
        return read_sealed(path)
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
