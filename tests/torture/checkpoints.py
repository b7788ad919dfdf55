"""Checkpoints: the authors' .npz, .pth, and safetensors of pyiqa's layout and of our own."""

from __future__ import annotations

import io
import json
import pickle
import struct
import tempfile
import zipfile
from collections import OrderedDict
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import numpy as np

import musiq_ref as mq
from musiq_ref.checkpoint import CheckpointError, save_official, save_pyiqa, to_pyiqa
from musiq_ref.model.parameters import flatten

from .core import Kind, judge
from .mutate import as_json, hostile, spoil, spoil_zip

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
        data = spoil_header(data, rng)
    else:
        data, other = spoil_zip(data, rng)
    path = folder / name
    path.write_bytes(data)

    def right(found: mq.Checkpoint) -> bool:
        if other or equal(found, prepared.right[name]):
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


def spoil_header(data: bytes, rng: Random) -> bytes:
    """Hostile values in a safetensors header, or in the configuration that it holds."""
    (size,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + size])
    inside = [key for key, text in header["__metadata__"].items() if text.startswith("{")]
    if inside and rng.random() < 0.7:
        key = rng.choice(inside)
        header["__metadata__"][key] = as_json(hostile(json.loads(header["__metadata__"][key]), rng))
        text = json.dumps(header)
    else:
        text = as_json(hostile(header, rng))
    text += " " * (-len(text.encode()) % 8)
    return struct.pack("<Q", len(text.encode())) + text.encode() + data[8 + size :]


# ---- what torch.save writes, without PyTorch


class Pickler(pickle._Pickler):  # the one in Python, which can be told how to write a tensor
    def save(self, obj: Any, save_persistent_id: bool = True) -> None:
        if isinstance(obj, Global):
            self.write(f"c{obj.module}\n{obj.name}\n".encode())
        else:
            super().save(obj, save_persistent_id)

    def persistent_id(self, obj: Any) -> Any:
        return obj.id if isinstance(obj, Storage) else None


class Global(NamedTuple):
    module: str
    name: str


class Storage(NamedTuple):
    id: tuple


def pth(tensors: dict[str, np.ndarray]) -> bytes:
    """A state dict of float32 tensors as PyTorch saves it."""
    buffer, stream = io.BytesIO(), io.BytesIO()
    pickler = Pickler(stream, protocol=2)
    pickler.write(b"\x80\x02")
    pickler.save(OrderedDict)
    pickler.write(b")R(")
    with zipfile.ZipFile(buffer, "w") as archive:
        for number, (name, array) in enumerate(tensors.items()):
            pickler.save(name)
            pickler.save(Global("torch._utils", "_rebuild_tensor_v2"))
            pickler.write(b"(")
            pickler.save(Storage(("storage", Global("torch", "FloatStorage"), str(number), "cpu", array.size)))
            strides = tuple(stride // array.itemsize for stride in np.ascontiguousarray(array).strides)
            for part in (0, array.shape, strides, False):
                pickler.save(part)
            pickler.save(OrderedDict)
            pickler.write(b")RtR")
        pickler.write(b"u.")
        archive.writestr("model/data.pkl", stream.getvalue())
        archive.writestr("model/byteorder", "little")
        for number, array in enumerate(tensors.values()):
            archive.writestr(f"model/data/{number}", np.ascontiguousarray(array, "<f4").tobytes())
        archive.writestr("model/version", "3\n")
    return buffer.getvalue()


KIND = Kind(prepare, case)
