"""Norms and activations that are applied twice in a row."""

from __future__ import annotations

from fnmatch import fnmatch

from musiq_ref.model.stem import BLOCK_EPS, ROOT_EPS
from musiq_ref.ops.group_norm import group_norm
from musiq_ref.ops.layer_norm import layer_norm
from musiq_ref.ops.softmax import softmax
from musiq_ref.verify.mistakes.mistake import Mistake


def again(places):
    """A tap that applies once more what has given a stage."""

    def tap(name, array, seen, config):
        if not fnmatch(name, places):
            return array
        if name.endswith("attention/weights"):
            return softmax(array)[0]
        p = seen[f"{name}/scale"], seen[f"{name}/bias"]
        if name.startswith("stem/"):
            return group_norm(array, *p, ROOT_EPS if name.endswith("root") else BLOCK_EPS)[0]
        return layer_norm(array, *p)[0]

    return tap


BLOCKS = "encoder/block_*/"
PLACES = {  # what is applied twice: (the stages that it gives, those that read them)
    "LayerNorm": ("encoder/*norm*", BLOCKS + "attention/[qkv]*"), "final norm": ("encoder/norm", "head/class_token"),
    "norm1": (BLOCKS + "norm1", BLOCKS + "attention/[qkv]*"), "norm2": (BLOCKS + "norm2", BLOCKS + "mlp/fc1"),
    "GroupNorm": ("stem/gn*", "stem/relu_root"), "gn_root": ("stem/gn_root", "stem/relu_root"),
    "gn1": ("stem/gn1", "stem/relu1"), "gn2": ("stem/gn2", "stem/relu2"),
    "gn3": ("stem/gn3", "stem/sum"), "gn_proj": ("stem/gn_proj", "stem/sum"),
}  # fmt: skip
SOFTMAX = (BLOCKS + "attention/weights", BLOCKS + "attention/heads")
ONCE = "apply it once"

MISTAKES = [
    *[Mistake(f"{name} applied twice", ONCE, stage=given, tap=again(given)) for name, (given, _) in PLACES.items()],
    *[Mistake(f"{name} applied twice, given after the first time", ONCE, stage=read, tap=again(given), unseen=True)
      for name, (given, read) in {**PLACES, "the attention's softmax": SOFTMAX}.items()],
]  # fmt: skip
