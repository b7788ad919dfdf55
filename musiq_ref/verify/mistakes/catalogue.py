"""The one list of what real ports do otherwise, in the order of the ladder: `verify.op` takes its hints from it, the
diagnosis its names, and the tests their planted faults.
"""

from __future__ import annotations

from musiq_ref.verify.mistakes import (
    attention,
    efficient,
    embeddings,
    encoder,
    gradients,
    head,
    image,
    precision,
    standardization,
    stem,
    tokens,
    twice,
)
from musiq_ref.verify.mistakes.mistake import Mistake

LISTS = (
    image, tokens, standardization, stem, embeddings, encoder, precision, attention, twice, head, gradients, efficient,
)  # fmt: skip
MISTAKES: dict[str, Mistake] = {mistake.name: mistake for part in LISTS for mistake in part.MISTAKES}
"""{name: Mistake}."""
HOME: dict[str, str] = {mistake.name: part.__name__ for part in LISTS for mistake in part.MISTAKES}
"""{name: the module of which the list has it}"""


def mistakes_of(function: str) -> list[Mistake]:
    """The ways to get a function of the library wrong.

    function: its name, such as "layer_norm" or "layer_norm_backward"

    >>> [mistake.name for mistake in mistakes_of("head")][:2]
    ['last token read', 'head without bias']
    """
    return [m for m in MISTAKES.values() if m.function and function in m.op.split()]
