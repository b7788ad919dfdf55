"""The bundled model: small, a real MUSIQ, and right about pictures that its training never saw (docs/demo-model.md)."""

from __future__ import annotations

import numpy as np
import pytest

import musiq_ref as mq
from musiq_ref.checkpoint.load import DEMO
from musiq_ref.metrics import srcc
from musiq_ref.training import synthetic
from musiq_ref.training.evaluation import rate_synthetic
from musiq_ref.training.settings import recipe

NAMED = ("gaussian_blur", "motion_blur", "white_noise", "poisson_noise", "jpeg", "pixelation")


@pytest.fixture(scope="module")
def held_out():
    """The result, and which of the images are of the photograph that no training saw."""
    examples = list(synthetic.held_out_examples())
    unseen = np.array([example.source.split()[0] in synthetic.TEST_PHOTOGRAPHS for example in examples])
    return rate_synthetic(mq.scorer("demo"), examples), unseen


def test_the_bundled_model_is_a_small_musiq():
    demo = mq.load_checkpoint("demo")
    assert DEMO.stat().st_size <= 4 * 2**20
    assert (demo.format, demo.config.scales, demo.config.spatial) == ("native", 3, "learnable")
    assert demo.config.conventions == mq.OFFICIAL
    assert demo.config == recipe("synthetic").config()


def test_scores_follow_the_severity_on_unseen_pictures(held_out):
    """The aim is 0.90; the model card says where it stands, and that the photograph is what it gets wrong."""
    result, unseen = held_out
    scores, targets = (np.array([getattr(one, what) for one in result.rated]) for what in ("score", "target"))
    assert len(set(targets[unseen])) > 10
    assert srcc(scores, targets) >= 0.80
    assert srcc(scores[~unseen], targets[~unseen]) >= 0.87
    assert srcc(scores[unseen], targets[unseen]) >= 0.82


def test_the_score_falls_as_severity_rises(held_out):
    for name in NAMED:
        assert held_out[0].order[name] >= 0.9, name  # the sign is such that 1 is best


def test_untouched_pictures_score_above_their_spoilt_versions(held_out):
    assert held_out[0].pristine_best >= 0.87  # the aim is 0.95
