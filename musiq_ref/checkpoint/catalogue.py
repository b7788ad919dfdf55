"""The published checkpoints: where they are, what they must be, and the folder they are kept in (SPEC 2 and 6)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

OFFICIAL_URL = "https://storage.googleapis.com/gresearch/musiq/"
PYIQA_URL = "https://github.com/chaofengc/IQA-PyTorch/releases/download/v0.1-weights/"

ONE_OUTPUT, AVA, IMAGENET = 27_125_825, 27_129_290, 27_510_440  # parameters with 1, 10 and 1000 outputs (SPEC 2)


class Release(NamedTuple):
    """One published file.

    >>> CATALOGUE["koniq"].file
    'koniq_ckpt.npz'
    """

    url: str
    format: str
    parameters: int
    sha256: str  # the first hex digits; "" where none are published

    @property
    def file(self) -> str:
        """The file's name, here and there."""
        return self.url.rpartition("/")[2]

    @property
    def evidence(self) -> str:
        """What "verified" means for this file, in words.

        >>> CATALOGUE["ava-pyiqa"].evidence
        'its SHA-256 begins e8d3f067, as its name says, and it holds the 27,129,290 parameters of MUSIQ'
        """
        holds = f"it holds the {self.parameters:,} parameters of MUSIQ"
        if self.sha256:
            return f"its SHA-256 begins {self.sha256}, as its name says, and {holds}"
        return f"{holds}, intact by the checksums of its zip, and nothing beside; its authors publish no SHA-256"


CATALOGUE = {
    "koniq": Release(f"{OFFICIAL_URL}koniq_ckpt.npz", "official", ONE_OUTPUT, ""),
    "spaq": Release(f"{OFFICIAL_URL}spaq_ckpt.npz", "official", ONE_OUTPUT, ""),
    "ava": Release(f"{OFFICIAL_URL}ava_ckpt.npz", "official", AVA, ""),
    "paq2piq": Release(f"{OFFICIAL_URL}paq2piq_ckpt.npz", "official", ONE_OUTPUT, ""),
    "imagenet": Release(f"{OFFICIAL_URL}imagenet_pretrain.npz", "official", IMAGENET, ""),
    "koniq-pyiqa": Release(f"{PYIQA_URL}musiq_koniq_ckpt-e95806b9.pth", "pyiqa", ONE_OUTPUT, "e95806b9"),
    "spaq-pyiqa": Release(f"{PYIQA_URL}musiq_spaq_ckpt-358bb6af.pth", "pyiqa", ONE_OUTPUT, "358bb6af"),
    "ava-pyiqa": Release(f"{PYIQA_URL}musiq_ava_ckpt-e8d3f067.pth", "pyiqa", AVA, "e8d3f067"),
    "paq2piq-pyiqa": Release(f"{PYIQA_URL}musiq_paq2piq_ckpt-364c0c84.pth", "pyiqa", ONE_OUTPUT, "364c0c84"),
    "imagenet-pyiqa": Release(f"{PYIQA_URL}musiq_imagenet_pretrain-51d9b0a5.pth", "pyiqa", IMAGENET, "51d9b0a5"),
}
"""{name: what is published under it}; a plain name is the authors' file, "-pyiqa" the PyTorch port's."""


def cache_folder() -> Path:
    """Where downloads are kept: $MUSIQ_REF_CACHE, else $XDG_CACHE_HOME/musiq_ref, else ~/.cache/musiq_ref.

    >>> cache_folder().is_absolute() or "MUSIQ_REF_CACHE" in os.environ
    True
    """
    if chosen := os.environ.get("MUSIQ_REF_CACHE"):
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "musiq_ref"


def download_command(name: str) -> str:
    """The command line that downloads a name of the catalogue.

    >>> download_command("ava-pyiqa")
    'musiq-ref download ava --format pyiqa'
    """
    plain = name.removesuffix("-pyiqa")
    return f"musiq-ref download {plain}" + ("" if plain == name else " --format pyiqa")
