"""Writing other programs' files, whole or not at all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from safetensors.numpy import save

from musiq_ref.checkpoint.convert import to_official, to_pyiqa
from musiq_ref.checkpoint.layout import Tensors, write_file
from musiq_ref.checkpoint.official import PREFIX
from musiq_ref.model.parameters import Params


def save_official(path: str | Path, params: Params) -> None:
    """Writes params as the authors' .npz, names with the prefix "opt/target/" (SPEC 6); their conventions are implied.

    Raises CheckpointError when the params are not MUSIQ's, or the file cannot be written.

    >>> import tempfile
    >>> from musiq_ref import MusiqConfig, init_params
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_official(f"{folder}/tiny.npz", init_params(MusiqConfig.preset("tiny")))
    ...     np.load(f"{folder}/tiny.npz")["opt/target/head/kernel"].shape
    (48, 1)
    """
    tensors = {PREFIX + name: array for name, array in to_official(params).items()}
    write_file(path, lambda part: write_npz(part, tensors))


def save_pyiqa(path: str | Path, params: Params) -> None:
    """Writes params as safetensors with pyiqa's names (SPEC 6): its model takes what `safetensors.torch` loads of it.

    Raises CheckpointError when the params are not MUSIQ's, or the file cannot be written.

    >>> import tempfile
    >>> from musiq_ref import MusiqConfig, init_params, load_checkpoint
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_pyiqa(f"{folder}/tiny.safetensors", init_params(MusiqConfig.preset("tiny")))
    ...     load_checkpoint(f"{folder}/tiny.safetensors").format
    'pyiqa'
    """
    tensors = to_pyiqa(params)
    content = save(tensors, {"format": "pt"})  # save_file makes a file that its owner alone may read
    write_file(path, lambda part: part.write_bytes(content))


def write_npz(path: Path, tensors: Tensors) -> None:
    """`numpy.savez` to exactly this path, whatever its extension."""
    with path.open("wb") as file:
        np.savez(file, **tensors)  # pyright: ignore[reportArgumentType]
