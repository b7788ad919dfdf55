"""The floors of the library in reading order; each imports only what is above it (tests/test_floors.py, draw.py)."""

from __future__ import annotations

from typing import NamedTuple


class Floor(NamedTuple):
    """One floor.

    paths: below musiq_ref/, files and folders; of two that fit a file, the longer counts
    what: what is there
    colour: number in explain.style.COLOURS
    """

    paths: tuple[str, ...]
    what: str
    colour: int


FLOORS = (
    Floor(
        ("config.py", "backend.py", "team.py", "ordered.py"),
        "what varies between models and programs; which array library; threads",
        4,
    ),
    Floor(
        ("version.py", "extras.py", "suggest.py", "reprs.py", "outputs.py"),
        "words that several floors use; writing files",
        4,
    ),
    Floor(("ops/",), "linear, GELU, softmax, norms, convolution, pooling: a pair a file", 1),
    Floor(("image/",), "pixels to tokens: decode, resize, patches, hash, tokenize", 1),
    Floor(("model/",), "stem, embeddings, attention, encoder, head, the whole (Eq. 1–11)", 1),
    Floor(
        ("losses.py", "loss_inputs.py", "metrics.py"), "L1, MSE, Huber, EMD, cross-entropy; SRCC, PLCC, KRCC, RMSE", 1
    ),
    Floor(("checkpoint/",), "the authors' files, pyiqa's, our own; download", 2),
    Floor(
        ("packing.py", "scorers.py", "scoring.py", "score_table.py", "cluster.py", "counts.py"),
        "scores of photographs, of folders, on clusters; parameters and multiply–accumulates",
        2,
    ),
    Floor(("pictures/",), "scenes, distortions, the synthetic set", 2),
    Floor(("training/",), "data sets, optimisers, schedules, the loop", 2),
    Floor(("evaluation/",), "how well scores follow people's, on a data set", 2),
    Floor(("ablations/",), "the appendix's tables, in small", 2),
    Floor(("explain/",), "attention rollout, figures, the page about a photograph", 3),
    Floor(("explorer/",), "the page on which the model runs, in JavaScript, forward and backward", 3),
    Floor(("verify/ladder/",), "every stage of an image's way, tolerances, fixtures", 0),
    Floor(("verify/mistakes/",), "one list of mistakes; planting; the diagnosis", 0),
    Floor(("verify/check/",), "one gradient, one op", 0),
    Floor(("verify/comparison/",), "a port against a fixture; reports", 0),
    Floor(("verify/",), "adapters for PyTorch and other frameworks, a port in PyTorch", 0),
    Floor(("bench/",), "how fast this machine is, beside PyTorch and the products alone", 2),
    Floor(("cli/",), "one file a subcommand, no logic of its own", 5),
    Floor(("__init__.py", "__main__.py"), "the public names", 5),
)
