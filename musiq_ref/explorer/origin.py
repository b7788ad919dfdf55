"""What a page was made of, written into it, so that a report links to no page about something else."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import numpy as np

from musiq_ref.checkpoint import Checkpoint
from musiq_ref.checkpoint.native import config_to_json
from musiq_ref.image.decode import ImageLike, decode
from musiq_ref.model.parameters import flatten

END = "</html>\n"


def origin_tag(image: ImageLike, checkpoint: Checkpoint) -> str:
    """A tag for the head of a page: digests of the photograph's pixels and of the model.

    image: whatever `decode` reads
    checkpoint: the model

    >>> import musiq_ref as mq
    >>> origin_tag(np.zeros((2, 3, 3), np.uint8), mq.Checkpoint({}, mq.MusiqConfig(), "native", None))
    '<meta name="origin" content="...">'
    """
    pixels = decode(image)
    photograph, model = hashlib.sha256(f"{pixels.shape} {pixels.dtype.str}".encode()), hashlib.sha256()
    photograph.update(pixels.tobytes())
    model.update(config_to_json(checkpoint.config).encode())
    for name, value in sorted(flatten(checkpoint.params)):
        model.update(f"{name} {value.shape}".encode())
        model.update(np.ascontiguousarray(value, "<f4").tobytes())
    return f'<meta name="origin" content="{photograph.hexdigest()} {model.hexdigest()}">'


def check_page(path: Path) -> None:
    """Raises ValueError, in one sentence, for a file that is no page of `musiq_ref.explorer.page`, or a part of one.

    >>> check_page(Path(__file__))
    Traceback (most recent call last):
    ValueError: ...origin.py is no page that musiq-ref follow wrote; name one, or leave it out
    """
    if not path.is_file() or not _origin_of(path):
        raise ValueError(f"{path} is no page that musiq-ref follow wrote; name one, or leave it out")
    with path.open("rb") as file:
        file.seek(-len(END), 2)
        if file.read() != END.encode():
            raise ValueError(f"{path} is cut short; get a fresh copy, or write it again with musiq-ref follow")


def check_origin(path: Path, image: ImageLike, checkpoint: Checkpoint) -> None:
    """Raises ValueError, in one sentence, for a page about another photograph, or of another model.

    path: a page that has passed `check_page`
    image: the photograph that it should be about
    checkpoint: the model that it should run

    >>> import tempfile, musiq_ref as mq
    >>> black, model = np.zeros((2, 3, 3), np.uint8), mq.Checkpoint({}, mq.MusiqConfig(), "native", None)
    >>> with tempfile.NamedTemporaryFile() as file:
    ...     _ = Path(file.name).write_text(origin_tag(black, model))
    ...     check_origin(Path(file.name), black + 1, model)
    Traceback (most recent call last):
    ValueError: ... follows another photograph than this report is about; ...
    """
    found, wanted = _origin_of(path), _words(origin_tag(image, checkpoint).encode())
    remedy = "name the page that was made of the same, or write one with musiq-ref follow"
    for one, what in enumerate(("follows another photograph", "runs another model")):
        if found[one] != wanted[one]:
            raise ValueError(f"{path} {what} than this report is about; {remedy}")


def _origin_of(path: Path) -> tuple[bytes, ...]:
    """(photograph, model), or () where a file does not begin as a page does."""
    with path.open("rb") as file:
        return _words(file.read(2**12))


def _words(head: bytes) -> tuple[bytes, ...]:
    found = re.search(rb'<meta name="origin" content="([0-9a-f]{64}) ([0-9a-f]{64})">', head)
    return found.groups() if found else ()
