"""Pictures made to differ before they are spoilt: nothing that is good in them is lost, and their scores stay."""

from __future__ import annotations

import numpy as np
import pytest

from musiq_ref.pictures.scenes import scene
from musiq_ref.pictures.synthetic import photograph_crop
from musiq_ref.pictures.variety import defocused, exposed


@pytest.fixture(scope="module")
def pictures():
    crops = [photograph_crop("raccoon", np.random.default_rng(seed), 96, 128) for seed in range(3)]
    return [*crops, *(scene(1, 96, 128, family) for family in ("leaves", "page", "meadow"))]


def detail(picture):
    return np.abs(np.diff(picture.astype(float), axis=1)).sum()


def test_a_part_stays_sharp_to_the_bit_and_the_rest_is_blurred(pictures):
    for picture in pictures:
        for seed in range(5):
            out = defocused(picture, np.random.default_rng(seed))
            assert (out.dtype, out.shape) == (picture.dtype, picture.shape)
            assert 0.1 < (out == picture).all(axis=2).mean() < 0.9
            assert 0.4 * detail(picture) < detail(out) < 0.97 * detail(picture)


def test_what_has_most_of_the_detail_is_in_focus():
    half = np.full((96, 96, 3), 128, np.uint8)
    half[:, ::2][:, :24] = 0  # stripes on the left
    kept = [detail(defocused(half, np.random.default_rng(seed))) / detail(half) for seed in range(20)]
    assert min(kept) >= 0.5


def test_other_parts_and_other_lenses(pictures):
    blurs = {defocused(pictures[0], np.random.default_rng(seed)).tobytes() for seed in range(10)}
    assert len(blurs) == 10


def test_exposure_keeps_black_and_white_and_the_order():
    ramp = np.arange(256, dtype=np.uint8)[None, :, None].repeat(3, axis=2)
    for gamma in (0.7, 1.8):
        out = exposed(ramp, gamma)[0, :, 0].astype(int)
        assert (out[0], out[255]) == (0, 255)
        assert (np.diff(out) >= 0).all()
        assert np.sign(out[128] - 128) == np.sign(1 - gamma)
