"""What every checkpoint layout has in common: the error, and the five facts that turn its tensors into ours."""

from __future__ import annotations

import struct
import tokenize
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from safetensors import SafetensorError

from musiq_ref.config import Conventions
from musiq_ref.outputs import OutputError, write_output

Tensors = dict[str, np.ndarray]
"""A checkpoint as files hold it: one flat dict from a tensor's name to its values."""


class CheckpointError(ValueError):
    """A checkpoint that cannot be read, or does not fit; the message names the file, the problem and the remedy.

    >>> from musiq_ref.checkpoint import load_checkpoint
    >>> load_checkpoint("nowhere.npz")
    Traceback (most recent call last):
    musiq_ref.checkpoint.layout.CheckpointError: nowhere.npz: no such file; check the path
    """


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
BROKEN += (zipfile.BadZipFile, tokenize.TokenError, zlib.error, struct.error, SafetensorError)
"""What the readers of NumPy, zipfile and safetensors raise on bytes that are not what they should be."""


class Layout(NamedTuple):
    """How one program names and shapes the parameters (SPEC 6).

    A native path, such as "encoder/block_03/mlp/fc1/kernel", is what the parameter is called in musiq_ref.

    >>> from musiq_ref.checkpoint.official import OFFICIAL_LAYOUT
    >>> OFFICIAL_LAYOUT.name("encoder/block_00/mlp/fc1/kernel")
    'Transformer/encoderblock_0/MlpBlock_3/Dense_0/kernel'
    """

    format: str
    conventions: Conventions  # of the program that writes such files
    block: str  # regular expression that finds the number of an encoder block in a tensor's name
    name: Callable[[str], str]  # native path -> name in the file
    canonical: Callable[[Tensors], Tensors]  # takes away prefixes and whatever else varies between files
    to_file: Callable[[str, np.ndarray], np.ndarray]  # (native path, our array) -> the file's array
    to_native: Callable[[str, np.ndarray, tuple[int, ...]], np.ndarray]  # (path, the file's array, our shape) -> ours


def listed(items: list[str], most: int = 3) -> str:
    """The first few of a list, and how many more there are.

    >>> listed(["a", "b", "c", "d", "e"])
    'a, b, c and 2 more'
    """
    more = f" and {len(items) - most} more" if len(items) > most else ""
    return ", ".join(items[:most]) + more


def printable(name: object) -> str:
    r"""A name out of an unknown file, safe to print: one line of ASCII, not too long.

    >>> print(printable("two\nlines"))
    two\nlines
    """
    text = name if isinstance(name, str) else type(name).__name__
    return text[:200].encode("unicode_escape").decode("ascii")[:90]


def damaged(error: Exception) -> CheckpointError:
    """The sentence for a file whose start is right and whose rest is not."""
    reason = printable(" ".join(str(error).split())) or type(error).__name__
    return CheckpointError(f"cut short, damaged or not plain numbers ({reason}); download or export it again")


def write_file(path: str | Path, write: Callable[[Path], object]) -> None:
    """`outputs.write_output`, whose error becomes a CheckpointError."""
    try:
        write_output(path, write)
    except OutputError as error:
        raise CheckpointError(str(error)) from None
