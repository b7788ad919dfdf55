"""Loading a checkpoint of any kind: what it is told by its content."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from musiq_ref.checkpoint.catalogue import CATALOGUE, cache_folder, download_command
from musiq_ref.checkpoint.files import read_tensors
from musiq_ref.checkpoint.infer import infer_config, to_params
from musiq_ref.checkpoint.layout import CheckpointError
from musiq_ref.checkpoint.native import METADATA_KEY, NATIVE_LAYOUT, config_from_json
from musiq_ref.config import Conventions, MusiqConfig
from musiq_ref.model.parameters import Params
from musiq_ref.reprs import short_table, short_text
from musiq_ref.suggest import did_you_mean

log = logging.getLogger(__name__)
logging.getLogger("musiq_ref").addHandler(logging.NullHandler())  # a program that wants to read it adds its own
DEMO = Path(__file__).parent.parent / "data" / "demo.safetensors"


class Checkpoint(NamedTuple):
    """A model that can be run: parameters and the configuration they belong to.

    params: nested dict of arrays
    config: the MusiqConfig that they belong to
    format: "official", "pyiqa", "native"; "deterministic" for weights that no training made
    path: of the file, or None for weights that come from no file
    notes: a sentence for everything that was found in the file beside the weights, and around their names

    >>> load_checkpoint("demo")  # doctest: +NORMALIZE_WHITESPACE
    Checkpoint(params=862,049 float32 values in 104 arrays,
               config=MusiqConfig(layers=5, width=96, heads=4, outputs=1, …), format='native', path='...', notes=())
    """

    params: Params
    config: MusiqConfig
    format: str
    path: Path | None
    notes: tuple[str, ...] = ()

    @property
    def bundled(self) -> bool:
        """Whether it is the model that comes with the library, which judges distortions and not people's taste."""
        return self.path is not None and self.path.resolve() == DEMO.resolve()

    def __repr__(self) -> str:
        return short_text(self)

    def _repr_html_(self) -> str:
        return short_table(self)


def load_checkpoint(
    path_or_name: str | PathLike[str],
    dtype: str | None = "float32",
    *,
    config: MusiqConfig | None = None,
    conventions: Conventions | None = None,
    heads: int | None = None,
    longer_sides: Sequence[int] | None = None,
) -> Checkpoint:
    """Reads an official .npz, a pyiqa .pth or .safetensors, or a native .safetensors; nothing in it is executed.

    path_or_name: a file, or a name: "demo" comes with the library; "koniq", "spaq", "ava", "paq2piq", "imagenet", and
        the same with "-pyiqa", are the published files that `musiq-ref download` has put into the cache folder
    dtype: of the parameters; None keeps the file's
    config: is checked against the shapes; by default the file's own (native), or inferred from them
    conventions: by default those of the program the file is from (SPEC 5)
    heads: for a pyiqa file of a size that no preset has
    longer_sides: for a pyiqa file with neither 1 nor 3 scales

    Raises CheckpointError, one sentence with the file, the problem and the remedy.

    >>> load_checkpoint("demo", dtype="float64").params["class_token"].dtype
    dtype('float64')
    """
    if not isinstance(path_or_name, str | PathLike):
        raise CheckpointError(f"{path_or_name!r} is neither the path of a checkpoint nor a name; pass one of the two")
    if dtype is not None and not is_floating(dtype):
        raise CheckpointError(f"{path_or_name}: cannot be loaded as {dtype}; choose float32, float64 or float16")
    path = find_checkpoint(path_or_name)
    try:
        tensors, layout, metadata, notes = read_tensors(path)
        tensors = layout.canonical(tensors)
        if config is None and layout is NATIVE_LAYOUT:
            config = stored_config(metadata)
        elif config is None:
            config = infer_config(tensors, layout, heads, longer_sides)
        if conventions is not None:
            config = config.replace(conventions=conventions)
        checkpoint = Checkpoint(to_params(tensors, layout, config, dtype), config, layout.format, path, notes)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None
    log.info("loaded %r", checkpoint)
    return checkpoint


def is_floating(dtype: Any) -> bool:
    """Whether NumPy knows it as a floating type.

    >>> is_floating("float32"), is_floating("int8"), is_floating("banana")
    (True, False, False)
    """
    try:
        return np.dtype(dtype).kind == "f"
    except TypeError:
        return False


def find_checkpoint(path_or_name: str | PathLike[str]) -> Path:
    """The file of a path or of a name in the catalogue.

    Raises CheckpointError when the named one is not downloaded yet, or the name is not known.

    >>> find_checkpoint("a/b.npz").name
    'b.npz'
    """
    if isinstance(path_or_name, str) and path_or_name == "demo":
        return DEMO
    if isinstance(path_or_name, str) and path_or_name in CATALOGUE:
        path = cache_folder() / CATALOGUE[path_or_name].file
        if not path.exists():
            raise CheckpointError(
                f"{path_or_name}: not downloaded yet ({path} is not there); run: {download_command(path_or_name)}"
            )
        return path
    path = Path(path_or_name)
    if path.name == str(path_or_name) and not path.suffix and not os.path.exists(path):  # no error for odd names
        names = ["demo", *CATALOGUE]
        raise CheckpointError(
            f"{path}: neither a file nor the name of a checkpoint (those are {', '.join(names)})"
            + did_you_mean(path.name[:100], names)
        )
    return path


def stored_config(metadata: dict[str, str]) -> MusiqConfig:
    """The configuration in a native file's metadata."""
    if METADATA_KEY not in metadata:
        raise CheckpointError("its metadata hold no configuration; pass config=, or save it with save_checkpoint")
    return config_from_json(metadata[METADATA_KEY])
