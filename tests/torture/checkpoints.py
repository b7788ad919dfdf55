"""Checkpoints: the authors' .npz, .pth, and safetensors of pyiqa's layout and of our own."""

from __future__ import annotations

import io
import json
import struct
import tempfile
import zipfile
from pathlib import Path
from random import Random
from typing import NamedTuple

import numpy as np

import musiq_ref as mq
from musiq_ref.checkpoint import CheckpointError, save_official, save_pyiqa, to_pyiqa
from musiq_ref.model.parameters import check_params, flatten

from .core import Kind, judge
from .mutate import spoil, spoil_header, spoil_zip

CONFIG = mq.MusiqConfig(
    layers=1, width=8, mlp_width=8, heads=2, outputs=1, patch_size=8, grid_size=4, longer_sides=(224, 384)
)


class Prepared(NamedTuple):
    files: dict[str, bytes]
    right: dict[str, mq.Checkpoint]


def prepare() -> Prepared:
    """Every kind of file, of one small model."""
    params = mq.init_params(CONFIG, seed=1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        mq.save_checkpoint(folder / "native.safetensors", params, CONFIG)
        save_pyiqa(folder / "pyiqa.safetensors", params)
        save_official(folder / "official.npz", params)
        with np.load(folder / "official.npz") as arrays:
            np.savez_compressed(folder / "compressed.npz", **arrays)
        (folder / "torch.pth").write_bytes(pth(to_pyiqa(params)))
        files = {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
        right = {path.name: mq.load_checkpoint(path, heads=2) for path in folder.iterdir()}
    return Prepared(files, right)


def case(prepared: Prepared, rng: Random, folder: Path) -> tuple[str, str]:
    name = rng.choice(list(prepared.files))
    data, other = prepared.files[name], False
    if rng.random() < 0.6:
        data = spoil(data, rng)
    elif name.endswith(".safetensors"):
        data, other = spoil_header(data, rng)
    else:
        data, other = spoil_zip(data, rng)
    path = folder / name
    path.write_bytes(data)

    def right(found: mq.Checkpoint) -> bool:
        if other:
            return check_params(found.params, found.config) is not None
        if equal(found, prepared.right[name]):
            return True
        return name == "pyiqa.safetensors" and as_it_says(data, found)

    return judge(lambda: mq.load_checkpoint(path, heads=2), right, (CheckpointError,), name)


def equal(a: mq.Checkpoint, b: mq.Checkpoint) -> bool:
    """Whether two are the same, to the bit."""
    one, two = dict(flatten(a.params)), dict(flatten(b.params))
    same = one.keys() == two.keys() and all(one[k].tobytes() == two[k].tobytes() for k in one)
    return same and all(one[k].shape == two[k].shape for k in one) and a.config == b.config


def as_it_says(data: bytes, found: mq.Checkpoint) -> bool:
    """Whether a safetensors file without checksums says what was found, by a strict reading of its bytes."""
    try:
        (size,) = struct.unpack("<Q", data[:8])
        header, body = json.loads(data[8 : 8 + size]), data[8 + size :]
        tensors, end = {}, 0
        for name, entry in header.items():
            if name != "__metadata__":
                start, stop = entry["data_offsets"]
                dtype = {"F32": "<f4", "F64": "<f8", "F16": "<f2", "I32": "<i4"}[entry["dtype"]]
                tensors[name] = np.frombuffer(body[start:stop], dtype).reshape(entry["shape"])
                end = max(end, stop)
        written = to_pyiqa(found.params)
        same = [np.array_equal(tensors[name].astype(np.float32), written[name]) for name in written]
    except (ValueError, KeyError, TypeError, AttributeError):
        return False
    return end == len(body) and all(same) and found.config == CONFIG.replace(conventions=mq.PYIQA)


def pth(tensors: dict[str, np.ndarray]) -> bytes:
    """A state dict of float32 tensors as torch.save writes it, opcode by opcode; without PyTorch."""

    def text(value: str) -> bytes:
        return b"X" + struct.pack("<I", len(value)) + value.encode()

    def whole(*values: int) -> bytes:
        return b"".join(b"J" + struct.pack("<i", value) for value in values)

    program, buffer = b"\x80\x02}(", io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for number, (name, array) in enumerate(tensors.items()):
            strides = (stride // 4 for stride in np.empty(array.shape, "<f4").strides)
            program += text(name) + b"ctorch._utils\n_rebuild_tensor_v2\n((" + text("storage")
            program += (
                b"ctorch\nFloatStorage\n" + text(str(number)) + text("cpu") + whole(array.size) + b"tQ" + whole(0)
            )
            program += b"(" + whole(*array.shape) + b"t(" + whole(*strides) + b"t\x89ccollections\nOrderedDict\n)RtR"
            archive.writestr(f"model/data/{number}", array.astype("<f4").tobytes())
        archive.writestr("model/data.pkl", program + b"u.")
        archive.writestr("model/version", "3\n")
    return buffer.getvalue()


KIND = Kind(prepare, case)
