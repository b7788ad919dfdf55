"""Pictures made to differ before they are spoilt: nothing that is good in them is lost, and their scores stay."""

from __future__ import annotations

import numpy as np
import pytest

from musiq_ref.pictures import variety
from musiq_ref.pictures.scenes import scene
from musiq_ref.pictures.synthetic import photograph_crop, training_example
from musiq_ref.pictures.variety import defocused, exposed, varied
from musiq_ref.training.settings import recipe
from musiq_ref.training.stream import open_stream


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
    for gamma in variety.GAMMA:
        out = exposed(ramp, gamma)[0, :, 0].astype(int)
        assert (out[0], out[255]) == (0, 255)
        assert (np.diff(out) >= 0).all()
        assert np.sign(out[128] - 128) == np.sign(1 - gamma)


def test_scenes_are_defocused_and_nothing_else(pictures, monkeypatch):
    same = [np.array_equal(varied(pictures[3], np.random.default_rng(s), False), pictures[3]) for s in range(200)]
    assert np.mean(same) == pytest.approx(1 - variety.DEFOCUSED, abs=0.1)
    monkeypatch.setattr(variety, "DEFOCUSED", 1)
    assert not np.array_equal(varied(pictures[3], np.random.default_rng(0), False), pictures[3])


def test_photographs_are_turned_and_exposed_otherwise(pictures, monkeypatch):
    monkeypatch.setattr(variety, "DEFOCUSED", 0)
    picture, turns, brightness = pictures[0], set(), []
    for seed in range(40):
        out = varied(picture, np.random.default_rng(seed), True)
        brightness.append(out.mean() / picture.mean())
        for turn in range(4):
            darkest, lightest = (exposed(np.rot90(picture, turn), gamma) for gamma in reversed(variety.GAMMA))
            if out.shape == darkest.shape and (darkest <= out).all() and (out <= lightest).all():
                turns.add(turn)
    assert turns == {0, 1, 2, 3}
    assert min(brightness) < 0.8 < 1.1 < max(brightness)


def test_the_setting_changes_pictures_and_no_score():
    plain, other = (open_stream(recipe("synthetic", variety=on, side=64)) for on in (False, True))
    for example in (lambda stream, number: stream.example(0, number), lambda stream, number: stream.validation(number)):
        pairs = [(example(plain, number), example(other, number)) for number in range(40)]
        assert all(one[1] == two[1] for one, two in pairs)
        assert 8 < sum(np.array_equal(one[0], two[0]) for one, two in pairs) < 30  # the scenes in focus


def test_pictures_are_varied_before_they_are_spoilt(monkeypatch):
    monkeypatch.setattr(variety, "DEFOCUSED", 1)
    examples = (training_example(0, number, 64, variety=True) for number in range(400))
    blocks = [e.image.astype(int) for e in examples if e.distortion == "pixelation" and e.severity > 0.7]
    assert len(blocks) > 2
    for image in blocks:
        assert (np.diff(image, axis=0) == 0).mean() > 0.4  # flat: no blur came after
