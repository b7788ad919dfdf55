"""The bundled model: small, a real MUSIQ, and right about pictures that its training never saw (docs/demo-model.md)."""

from __future__ import annotations

from importlib.resources import files

import numpy as np
import pytest
from PIL import Image

import musiq_ref as mq
from musiq_ref.checkpoint.load import DEMO
from musiq_ref.evaluation.rating import rate_synthetic
from musiq_ref.metrics import srcc
from musiq_ref.pictures import synthetic
from musiq_ref.training.settings import recipe

NAMED = ("gaussian_blur", "motion_blur", "white_noise", "poisson_noise", "jpeg", "pixelation")


@pytest.fixture(scope="module")
def held_out():
    return rate_synthetic(mq.scorer("demo"), synthetic.held_out_examples())


def test_the_bundled_model_is_a_small_musiq():
    demo = mq.load_checkpoint("demo")
    assert DEMO.stat().st_size <= 4 * 2**20
    assert (demo.format, demo.config.scales, demo.config.spatial) == ("native", 3, "learnable")
    assert demo.config.conventions == mq.OFFICIAL
    assert demo.config == recipe("demo").config()


def test_scores_follow_the_severity_on_unseen_pictures(held_out):
    scores, targets = ([getattr(one, what) for one in held_out.rated] for what in ("score", "target"))
    assert srcc(scores, targets) >= 0.80
    assert held_out.kinds["scenes"]["srcc"] >= 0.81
    assert held_out.kinds["photographs"]["srcc"] >= 0.77


def test_the_score_falls_as_severity_rises(held_out):
    for name in NAMED:
        assert held_out.order[name] >= 0.9, name  # the sign is such that 1 is best


def test_untouched_pictures_score_above_their_spoilt_versions(held_out):
    """The aim is 95 % of the cases; the model card says where it stands."""
    assert held_out.pristine_best >= 0.84
    assert held_out.kinds["scenes"]["pristine_best"] >= 0.85
    assert held_out.kinds["photographs"]["pristine_best"] >= 0.78


def test_a_photograph_has_about_one_score_at_every_size():
    scorer, apart = mq.scorer("demo"), []
    for path in sorted((files("musiq_ref") / "data" / "photographs").iterdir(), key=str):
        with Image.open(str(path)) as photograph:
            half = photograph.width // 2, photograph.height // 2
            small = photograph.convert("RGB").resize(half, Image.Resampling.LANCZOS)
            apart.append(abs(scorer(photograph).value - scorer(small).value))
    assert np.median(apart) <= 2
    assert sorted(apart)[-2] <= 10
    assert max(apart) <= 26  # the temple, 67 and 92 points, which the model card names; the aim is 20


def test_its_file_is_sealed(tmp_path):
    changed = bytearray(DEMO.read_bytes())
    changed[-1] ^= 1
    (tmp_path / "demo.safetensors").write_bytes(changed)
    with pytest.raises(mq.CheckpointError, match="it was changed after it was written"):
        mq.load_checkpoint(tmp_path / "demo.safetensors")
