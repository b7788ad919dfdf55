"""musiq_ref: the MUSIQ image-quality transformer in readable NumPy, forward and backward, equal to the authors' code.

>>> import musiq_ref as mq
>>> config = mq.MusiqConfig.preset("small", outputs=10)
>>> mq.complexity(config, (224, 224)).parameters
27129290

Reading order: config, backend, ops/, image/, model/, then what is built on them.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from musiq_ref.version import __version__ as __version__

if TYPE_CHECKING:  # what type checkers and editors read
    from musiq_ref import checkpoint, verify
    from musiq_ref.backend import Backend, BackendError, get_backend, namespace
    from musiq_ref.checkpoint import Checkpoint, CheckpointError, load_checkpoint, save_checkpoint
    from musiq_ref.config import OFFICIAL, PAPER, PYIQA, Conventions, MusiqConfig
    from musiq_ref.counts import Complexity, complexity
    from musiq_ref.explain import attention_rollout
    from musiq_ref.image.decode import ImageError, decode
    from musiq_ref.image.tokenize import Tokens, batch, tokenize
    from musiq_ref.model.head import expected_score, expected_score_backward
    from musiq_ref.model.inference import predict
    from musiq_ref.model.musiq import Gradients, backward, forward
    from musiq_ref.model.noise import Noise
    from musiq_ref.model.parameters import init_params
    from musiq_ref.scoring import Score, image_gradient, score, scorer

__all__ = [
    "OFFICIAL",
    "PAPER",
    "PYIQA",
    "Backend",
    "BackendError",
    "Checkpoint",
    "CheckpointError",
    "Complexity",
    "Conventions",
    "Gradients",
    "ImageError",
    "MusiqConfig",
    "Noise",
    "Score",
    "Tokens",
    "attention_rollout",
    "backward",
    "batch",
    "checkpoint",
    "complexity",
    "decode",
    "expected_score",
    "expected_score_backward",
    "forward",
    "get_backend",
    "image_gradient",
    "init_params",
    "load_checkpoint",
    "namespace",
    "predict",
    "save_checkpoint",
    "score",
    "scorer",
    "tokenize",
    "verify",
]

_MODULES = {
    "musiq_ref.backend": ("Backend", "BackendError", "get_backend", "namespace"),
    "musiq_ref.checkpoint": ("Checkpoint", "CheckpointError", "load_checkpoint", "save_checkpoint"),
    "musiq_ref.config": ("OFFICIAL", "PAPER", "PYIQA", "Conventions", "MusiqConfig"),
    "musiq_ref.counts": ("Complexity", "complexity"),
    "musiq_ref.explain": ("attention_rollout",),
    "musiq_ref.image.decode": ("ImageError", "decode"),
    "musiq_ref.image.tokenize": ("Tokens", "batch", "tokenize"),
    "musiq_ref.model.head": ("expected_score", "expected_score_backward"),
    "musiq_ref.model.inference": ("predict",),
    "musiq_ref.model.musiq": ("Gradients", "backward", "forward"),
    "musiq_ref.model.noise": ("Noise",),
    "musiq_ref.model.parameters": ("init_params",),
    "musiq_ref.scoring": ("Score", "image_gradient", "score", "scorer"),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}

if not TYPE_CHECKING:

    def __getattr__(name):
        """A public name, its module imported when it is first asked for: most programs need few of them."""
        if name in ("checkpoint", "explain", "verify"):
            return import_module(f"musiq_ref.{name}")
        if name in _HOME:
            return getattr(import_module(_HOME[name]), name)
        raise AttributeError(f"module 'musiq_ref' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*__all__, "__version__", "explain"})
