"""Which self-attention a model has (`MusiqConfig.attention`)."""

from __future__ import annotations

from functools import partial
from typing import Any

from musiq_ref.config import MusiqConfig
from musiq_ref.model.linformer import linformer, linformer_backward
from musiq_ref.model.performer import performer, performer_backward


def efficient_msa(config: MusiqConfig) -> tuple[Any, Any] | None:
    """The pair of a Linformer or a Performer, with the arguments of `attention`; None for softmax attention.

    >>> efficient_msa(MusiqConfig()) is None, efficient_msa(MusiqConfig(attention="linformer"))[0].__name__
    (True, 'linformer')
    """
    if config.attention == "performer":
        options = {"rank": config.attention_rank, "seed": config.attention_seed, "eps": config.attention_eps}
        return partial(performer, **options), performer_backward
    return (linformer, linformer_backward) if config.attention == "linformer" else None
