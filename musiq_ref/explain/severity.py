"""How a model's score falls as an image is spoilt more and more."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from musiq_ref.checkpoint import Checkpoint
from musiq_ref.explain.style import new_figure, styled
from musiq_ref.image.decode import decode
from musiq_ref.pictures.distortions import DISTORTIONS
from musiq_ref.scoring import scorer

SEVERITIES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)


def severity_scores(
    image: Any,
    checkpoint: Checkpoint,
    names: Sequence[str] = tuple(DISTORTIONS),
    severities: Sequence[float] = SEVERITIES,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """{distortion: scores, one per severity} of an image spoilt by each of them (musiq_ref.pictures.distortions).

    image: whatever `decode` reads
    names: in DISTORTIONS
    severities: from 0, untouched, to 1

    Raises ValueError for an unknown name or a severity outside [0, 1].

    >>> import musiq_ref as mq
    >>> config = mq.MusiqConfig.preset("tiny")
    >>> checkpoint = mq.Checkpoint(mq.verify.deterministic_params(config, seed=1), config, "native", None)
    >>> image = mq.verify.deterministic_image(3, 48, 64)
    >>> {name: len(scores) for name, scores in severity_scores(image, checkpoint, ["jpeg"], [0, 0.5]).items()}
    {'jpeg': 2}
    """
    pixels, one = decode(image), scorer(checkpoint)
    for name in names:
        if name not in DISTORTIONS:
            raise ValueError(f"there is no distortion {name!r}; choose among {', '.join(DISTORTIONS)}")

    def value(name: str, severity: float) -> float:
        return one(DISTORTIONS[name](pixels, severity, np.random.default_rng(seed))).value

    return {name: np.array([value(name, severity) for severity in severities]) for name in names}


@styled
def severity_curves(scores: dict[str, np.ndarray], severities: Sequence[float] = SEVERITIES) -> Any:
    """A Figure of score against severity, a line per distortion, told apart by marker and style as well as by colour.

    scores: from `severity_scores`
    severities: those it was given

    >>> severity_curves({"jpeg": np.array([3.0, 1.0])}, [0, 1]).axes[0].get_xlabel()
    'severity (0: untouched)'
    """
    figure = new_figure(7.5, 4.2)
    axis = figure.subplots()
    markers, styles = "os^vDPX", ("-", "--", ":")
    for i, (name, values) in enumerate(scores.items()):
        marker, style = markers[i % len(markers)], styles[i // len(markers) % len(styles)]
        axis.plot(severities, values, style, marker=marker, markersize=5, linewidth=1.4, label=name.replace("_", " "))
    axis.set(xlabel="severity (0: untouched)", ylabel="score")
    figure.legend(loc="outside right upper", frameon=False)
    return figure
