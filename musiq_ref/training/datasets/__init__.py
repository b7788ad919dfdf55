"""Data sets of images with human scores, read from the files as their authors distribute them.

A loader takes a folder and returns a Dataset: `koniq10k`, `spaq`, `ava`, `paq2piq`, and `csv_file` for any other.
Nothing is downloaded and no image is opened; `check_images` opens them all. `split` makes the random 80/20 splits of
SPEC 7.
"""

from musiq_ref.training.datasets.dataset import Dataset, DatasetError, Example, Split, check_images, digest, split
from musiq_ref.training.datasets.loaders import LOADERS, ava, csv_file, koniq10k, paq2piq, spaq
from musiq_ref.training.datasets.sizes import SHORTER_SIDES, shrink

__all__ = [
    "LOADERS",
    "SHORTER_SIDES",
    "Dataset",
    "DatasetError",
    "Example",
    "Split",
    "ava",
    "check_images",
    "csv_file",
    "digest",
    "koniq10k",
    "paq2piq",
    "shrink",
    "spaq",
    "split",
]
