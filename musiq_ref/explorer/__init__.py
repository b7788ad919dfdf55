"""The explorer: one page on which the model runs in the browser, in plain JavaScript, forward and backward.

engine/ computes, beside ops/, image/ and model/, with their names; page/ shows. Here they are put together.
"""

from __future__ import annotations

from importlib.resources import files

ENGINE = ("product", "ops", "convolution", "image", "stem", "encoder", "musiq", "session", "terms", "terms_back", "maps", "worker")
"""The files of engine/, each after those that it uses."""


def source(folder: str, name: str) -> str:
    """A file of the explorer.

    >>> source("engine", "ops.js").startswith("// The elementary")
    True
    """
    return (files(__name__) / folder / name).read_text(encoding="utf-8")


def engine() -> str:
    """The engine as one script: what the page's worker runs, and Node.js, too.

    >>> "function layer_norm_backward(" in engine()
    True
    """
    return "\n".join(source("engine", f"{name}.js") for name in ENGINE)
