"""Where the time of a case goes: a score's by leaving parts out, the text's by the taps of every stage."""

from __future__ import annotations

import io
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from musiq_ref.bench.cases import Case, pictures
from musiq_ref.bench.contender import OURS
from musiq_ref.bench.products import Product, forward_products, products
from musiq_ref.image.decode import decode
from musiq_ref.image.tokenize import batch, tokenize
from musiq_ref.model.musiq import backward, forward

RUNS = 3


class Part(NamedTuple):
    """A part of a case.

    name: what it is
    seconds: that it takes
    macs: its multiply–accumulates; 0 for what is no matrix product
    """

    name: str
    seconds: float
    macs: int = 0


def score_parts(contender: Any, case: Case) -> list[Part]:
    """The parts of a score: the picture is decoded, or only tokenised, or scored by a model of one block.

    contender: with the methods `score` and `tokens`
    """
    config, shallow = case.config(contender.preset), case._replace(layers=1)
    calls = {
        "decode": _decoding(pictures(case)),
        "tokens": contender.tokens(case),
        "one block": contender.score(shallow),
        "all blocks": contender.score(case),
    }
    seconds = _medians(calls)
    one = sum(product.macs for product in products(shallow, shallow.config(contender.preset)))
    every = sum(product.macs for product in products(case, config))
    before, blocks = seconds["one block"] - seconds["tokens"], seconds["all blocks"] - seconds["one block"]
    return [
        Part("decode a JPEG", seconds["decode"]),
        Part("resize, cut into patches", seconds["tokens"]),
        Part("stem, embeddings, one encoder block, head", max(before, 0.0), one),
        Part(f"the other {config.layers - 1} encoder blocks", max(blocks, 0.0), every - one),
    ]


def _decoding(images: list[np.ndarray]) -> Callable[[], Any]:
    files = []
    for image in images:
        files.append(io.BytesIO())
        Image.fromarray(image).save(files[-1], "jpeg", quality=90)
    return lambda: [decode(io.BytesIO(file.getvalue())) for file in files]


def _medians(calls: dict[str, Callable[[], Any]]) -> dict[str, float]:
    """Seconds of each, taken in turn."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for run in range(RUNS + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            if run:  # the first is to warm up
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(taken) for name, taken in seconds.items()}


STAGES = {  # how the name of a stage begins, or what is in it: the part of the table
    "stem/": "stem",
    "patch_embedding": "patch embedding",
    "/attention/": "attention",
    "/mlp/": "MLP",
    "": "LayerNorm, residuals, the rest",
}
COUNTED = {
    "stem": "stem/",
    "patch embedding": "patch_embedding",
    "attention": "encoder/attention",
    "MLP": "encoder/mlp",
}


def text_parts(contender: Any, case: Case) -> list[Part]:
    """The parts of `mq.forward` and `mq.backward`, by a tap that looks at the clock at every stage.

    contender: with the method `checkpoint`
    """
    [image], checkpoint = pictures(case), contender.checkpoint(case)
    params, config = checkpoint.params, checkpoint.config
    tokens = batch([tokenize(image, config)])
    taken: list[dict[str, float]] = []
    for _ in range(RUNS):
        there, back = Stopwatch(), Stopwatch(late=True)
        logits, cache = forward(params, tokens, config, tap=there)
        back.restart()
        backward(np.ones_like(logits), cache, tap=back)
        taken.append(
            {f"{part}, {way}": s for way, w in (("forward", there), ("backward", back)) for part, s in w.parts.items()}
        )
    counted = forward_products(config, case.sizes[0], padded=True)
    return [
        Part(name, statistics.median(one.get(name, 0.0) for one in taken), _macs(name, counted)) for name in taken[0]
    ]


def _macs(name: str, counted: list[Product]) -> int:
    part, _, way = name.rpartition(", ")
    if part not in COUNTED:
        return 0
    return sum(p.macs for p in counted if p.part.startswith(COUNTED[part])) * (2 if way == "backward" else 1)


class Stopwatch:
    """A tap that adds the time since the stage before to the part that the stage belongs to.

    late: to the part of the stage before, as is right in the backward pass, which names what it arrives at
    parts: {part: seconds}

    >>> watch = Stopwatch()
    >>> watch("stem/conv1", "the array")
    'the array'
    >>> list(watch.parts)
    ['stem']
    """

    def __init__(self, late: bool = False) -> None:
        self.late, self.parts, self.before = late, {}, ""
        self.restart()

    def restart(self) -> None:
        """Forgets the time up to now."""
        self.last = time.perf_counter()

    def __call__(self, name: str, array: Any) -> Any:
        now = time.perf_counter()
        of = self.before if self.late else name
        part = next(part for mark, part in STAGES.items() if mark in of)
        self.parts[part] = self.parts.get(part, 0.0) + now - self.last
        self.before = name
        self.restart()
        return array


PARTS = {
    "score-768x1024": (score_parts, (OURS, "PyTorch")),
    "forward-backward-427x640": (text_parts, (OURS,)),
}
"""{case: what finds its parts, and whose}"""
