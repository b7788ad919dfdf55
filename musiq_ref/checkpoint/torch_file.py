"""PyTorch's files: a zip of a pickle and its storages, and before version 1.6 the same in one stream."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Callable
from typing import Any, BinaryIO

import numpy as np

from musiq_ref.checkpoint.bfloat16 import widen
from musiq_ref.checkpoint.layout import CheckpointError, Tensors, printable
from musiq_ref.checkpoint.torch_pickle import STORAGES, Storage, View, run_pickle

MAGIC = 0x1950A86A20F9469CFC6C  # the first pickle of a stream

SMALL = 64 * 2**20
"""Bytes up to which tensors that share their storage may come to more than what is stored."""

Fetch = Callable[[Storage], bytes]
"""The bytes of a storage, however many there are."""

RESAVE = "load it where you trust it, and save its state dict with torch.save of PyTorch 1.6 or later"


def read_torch_zip(archive: zipfile.ZipFile) -> tuple[Any, Callable[[dict[str, View]], Tensors]]:
    """What the pickle in an opened .pth builds, its tensors as View, and the function that makes arrays of those."""
    names = archive.namelist()
    if any(name.endswith("/constants.pkl") for name in names):
        raise CheckpointError(
            "a TorchScript archive, which is a program and not run; load it where you trust it, and save its weights: "
            "torch.save(torch.jit.load(file).state_dict(), 'weights.pth')"
        )
    pickled = next(name for name in names if f"/{name}".endswith("/data.pkl"))
    folder = pickled.removesuffix("data.pkl")
    order = archive.read(f"{folder}byteorder") if f"{folder}byteorder" in names else b"little"

    def fetch(storage: Storage) -> bytes:
        return archive.read(f"{folder}data/{storage.key}")

    return run_pickle(archive.read(pickled)), lambda views: take(views, fetch, big=order == b"big")


def read_torch_stream(file: BinaryIO, size: int) -> tuple[Any, Callable[[dict[str, View]], Tensors]]:
    """The same of the older files: three pickles of numbers, that of the tensors, one of keys, then the storages."""
    if run_pickle(file) != MAGIC:
        raise CheckpointError(f"a bare pickle, which tells not what it holds; {RESAVE}")
    run_pickle(file)
    big = not run_pickle(file)["little_endian"]
    storages: dict[str, Storage] = {}
    found = run_pickle(file, storages)
    places = {}
    for key in run_pickle(file):
        if key not in storages:
            raise CheckpointError(f"it has a storage of an unknown type; {RESAVE}")
        count = int.from_bytes(file.read(8), "big" if big else "little")
        places[key] = file.tell(), count * letters(storages[key]).itemsize
        if file.seek(places[key][1], 1) > size:
            raise CheckpointError("cut short; download or export it again")

    def fetch(storage: Storage) -> bytes:
        start, length = places[storage.key]
        file.seek(start)
        return file.read(length)

    return found, lambda views: take(views, fetch, big)


def letters(storage: Storage, big: bool = False) -> np.dtype:
    """The data type of a storage."""
    return np.dtype((">" if big else "<") + STORAGES[storage.kind])


def take(views: dict[str, View], fetch: Fetch, big: bool) -> Tensors:
    """The arrays of tensors, read-only views of their storages; bfloat16 as float32.

    Raises CheckpointError where they lie outside their storages, or come to far more than those hold.
    """
    for view in views.values():
        check_view(view)
    stored = sum(s.length * letters(s).itemsize for s in {view.storage for view in views.values()})
    taken = sum(math.prod(view.size) * letters(view.storage).itemsize for view in views.values())
    if taken > max(SMALL, 2 * stored):
        raise CheckpointError(
            f"its tensors share their values so that {stored:,} bytes become {taken:,}; re-save clones of them"
        )
    cache: dict[Storage, np.ndarray] = {}
    for storage in {view.storage: None for view in views.values()}:
        values = np.frombuffer(fetch(storage), letters(storage, big))
        if values.size != storage.length:
            raise CheckpointError(f"storage {printable(storage.key)} does not hold as many values as it claims")
        cache[storage] = widen(values) if storage.kind == "torch.BFloat16Storage" else values
        cache[storage].flags.writeable = False
    return {name: array_of(view, cache[view.storage]) for name, view in views.items()}


def check_view(view: View) -> None:
    """Raises CheckpointError unless every element lies in the storage, which has no fewer values."""
    storage, offset, size, stride = view
    fits = type(size) is type(stride) is tuple and len(size) == len(stride) <= 32
    fits = fits and all(type(n) is int and 0 <= n < 2**60 for n in (storage.length, offset, *size, *stride))
    if fits and math.prod(size):
        last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        fits = math.prod(size) <= storage.length and last < storage.length
    if not fits:
        raise CheckpointError("a tensor in it reaches outside its storage; re-save it with .contiguous(), or delete it")


def array_of(view: View, values: np.ndarray) -> np.ndarray:
    """The array of a checked view of a storage's values; no copy is made.

    >>> array_of(View(Storage("", "", 6), 1, (2, 2), (1, 2)), np.arange(6.0))
    array([[1., 3.],
           [2., 4.]])
    """
    if not math.prod(view.size):
        return np.zeros(view.size, values.dtype)
    width = values.itemsize
    return np.ndarray(view.size, values.dtype, values, view.offset * width, tuple(step * width for step in view.stride))
