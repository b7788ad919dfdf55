"""Checkpoints: the authors' .npz, pyiqa's .pth and .safetensors, and our own safetensors (SPEC 6).

Three layouts name and shape the same parameters differently (`official`, `pyiqa`, `native`: one table each). `files`
tells containers apart by content, `torch_file` and `torch_pickle` read PyTorch's without PyTorch, `sealed` those with a
checksum; `weights` finds MUSIQ's names in what they hold, `infer` the configuration, and checks every tensor; `load`,
`convert` and `write` put it together, and `fetch` downloads.
"""

from musiq_ref.checkpoint.catalogue import CATALOGUE, cache_folder
from musiq_ref.checkpoint.convert import from_official, from_pyiqa, to_official, to_pyiqa
from musiq_ref.checkpoint.fetch import DownloadError, download
from musiq_ref.checkpoint.layout import CheckpointError
from musiq_ref.checkpoint.load import Checkpoint, load_checkpoint
from musiq_ref.checkpoint.native import save_checkpoint
from musiq_ref.checkpoint.write import save_official, save_pyiqa

__all__ = [
    "CATALOGUE",
    "Checkpoint",
    "CheckpointError",
    "DownloadError",
    "cache_folder",
    "download",
    "from_official",
    "from_pyiqa",
    "load_checkpoint",
    "save_checkpoint",
    "save_official",
    "save_pyiqa",
    "to_official",
    "to_pyiqa",
]
