"""What Hypothesis draws for the model's tests: structure. Values come from a seeded generator."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from musiq_ref.config import OFFICIAL, PAPER, PYIQA, MusiqConfig

conventions = st.sampled_from([OFFICIAL, PYIQA, PAPER])
seeds = st.integers(0, 2**32 - 1)


EVERY = ("softmax", "linformer", "performer")


@st.composite
def configs(draw, attention=("softmax",)):
    """Small models of every shape: their widths, heads, grids, scales and patch sizes differ.

    attention: the kinds to choose from
    """
    heads = draw(st.integers(1, 3))
    native = draw(st.booleans())
    stem = draw(st.sampled_from(["resnet", "linear"]))
    sides = draw(st.lists(st.integers(5, 40), min_size=0 if native else 1, max_size=2, unique=True))
    return MusiqConfig(
        layers=draw(st.integers(1, 2)),
        width=heads * draw(st.integers(2, 4)),
        mlp_width=draw(st.integers(3, 9)),
        heads=heads,
        outputs=draw(st.sampled_from([1, 2, 5])),
        patch_size=draw(st.sampled_from([4, 8, 12] if stem == "resnet" else [3, 8])),
        grid_size=draw(st.integers(1, 6)),
        longer_sides=tuple(sorted(sides)),
        native=native,
        max_native_patches=draw(st.sampled_from([-1, 0, 2, 7] if sides else [-1, 2, 7])),
        spatial=draw(st.sampled_from(["learnable", "sinusoidal", "none"])),
        scale_embedding=draw(st.booleans()),
        stem=stem,
        conventions=draw(conventions),
        **({} if attention == ("softmax",) else draw(attentions(attention))),
    )


@st.composite
def attentions(draw, kinds=EVERY):
    """The fields of a configuration that say which self-attention it has."""
    return {
        "attention": draw(st.sampled_from(kinds)),
        "attention_rank": draw(st.integers(1, 7)),
        "attention_seed": draw(st.integers(0, 9)),
        "attention_eps": draw(st.sampled_from([0, 1e-6])),
        "attention_length": draw(st.integers(600, 700)),
        "attention_shared": draw(st.booleans()),
    }


@st.composite
def images(draw, largest=60):
    """uint8 (H, W, 3) of random size and content, not too elongated for a scale of 5 pixels."""
    height, width = draw(st.integers(1, largest)), draw(st.integers(1, largest))
    height, width = max(height, -(-width // 8)), max(width, -(-height // 8))
    return np.random.default_rng(draw(seeds)).integers(0, 256, (height, width, 3), dtype=np.uint8)
