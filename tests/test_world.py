"""Training pictures made of a folder of photographs: sharp, of all sizes, never what validates, the same each time."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from musiq_ref.pictures.flaws import score_of
from musiq_ref.pictures.photographs import (
    SHARP,
    Photograph,
    sharpened_by_reduction,
    sharpness,
    view,
)
from musiq_ref.pictures.scenes import scene
from musiq_ref.pictures.synthetic import PHOTOGRAPHS
from musiq_ref.pictures.world import GREY, MIXED, SCENES, TEXTURES, UNTOUCHED, drawn_side, untouched, world_example
from musiq_ref.training.datasets import DatasetError
from musiq_ref.training.settings import recipe
from musiq_ref.training.stream import open_stream


@pytest.fixture(scope="module")
def photographs():
    return tuple(Photograph(f"p{i}", scene(i, 300, 420, "leaves")) for i in range(3))


@pytest.fixture(scope="module")
def examples(photographs):
    return [world_example(0, index, photographs, 160) for index in range(300)]


def test_a_soft_photograph_is_reduced_until_it_is_sharp():
    sharp = scene(4, 320, 400, "leaves")
    assert sharpened_by_reduction(sharp) is sharp
    soft = ndimage.gaussian_filter(np.kron(sharp, np.ones((2, 2, 1), np.uint8)), (1, 1, 0))
    assert sharpness(soft) < SHARP <= sharpness(sharp)
    out = sharpened_by_reduction(soft)
    assert sharpness(out) >= SHARP
    assert 150 < out.shape[0] < 400  # the sharp picture has 320
    assert out.shape[0] / out.shape[1] == pytest.approx(0.8, abs=0.01)


def test_a_view_that_is_only_cut_shows_detail(monkeypatch):
    monkeypatch.setattr("musiq_ref.pictures.photographs.NATIVE", 1.0)
    pixels = np.full((128, 512, 3), 99, np.uint8)
    pixels[:, 400:] = np.random.default_rng(0).integers(0, 256, (128, 112, 3))
    views = [view(Photograph("half flat", pixels), np.random.default_rng(seed), 96) for seed in range(60)]
    assert sum(one.std() > 0 for one in views) > 35  # of three places; of one it were 17


def test_every_picture_comes_twice_with_flaws_of_its_own(photographs, examples):
    pairs = list(zip(examples[::2], examples[1::2], strict=True))
    assert all(a.source == b.source and a.image.shape == b.image.shape for a, b in pairs)
    as_they_are = [(a.image, b.image) for a, b in pairs if a.score == b.score == 100]
    assert as_they_are
    assert all(np.array_equal(a, b) for a, b in as_they_are)
    assert np.mean([a.score == b.score for a, b in pairs]) < 2 * UNTOUCHED**2 + 0.05
    assert len({one.image.shape for one, _ in pairs}) > len(pairs) / 2


def test_another_seed_has_other_pictures_and_other_flaws(photographs, examples):
    others = [world_example(1, index, photographs, 160) for index in range(0, 40, 2)]
    pairs = list(zip(examples[:40:2], others, strict=True))
    assert sum(a.image.shape != b.image.shape for a, b in pairs) > 10
    assert sum(a.severity != b.severity for a, b in pairs) > 10


def test_some_photographs_are_black_and_white(photographs):
    drawn = [untouched(np.random.default_rng(seed), photographs, 96)[1] for seed in range(300)]
    assert 0 < np.mean([(one == one[..., :1]).all() for one in drawn]) < 2 * GREY


def test_views_are_parts_of_the_photograph_never_enlarged(photographs):
    shapes, native = set(), 0
    whole = photographs[0].pixels
    flips = [np.rot90(whole, turn)[:, ::step] for turn in (0, 1, 3) for step in (1, -1)]
    for seed in range(60):
        out = view(photographs[0], np.random.default_rng(seed), 128)
        assert (out.dtype, min(out.shape[:2])) == (np.uint8, 128)
        assert max(out.shape[:2]) <= round(1.6 * 128)
        shapes.add(out.shape)
        if seed < 15:
            native += any(_found(one, out) for one in flips)
    assert len(shapes) > 30
    assert native >= 1
    assert min(view(photographs[0], np.random.default_rng(0), 1000).shape[:2]) <= 300


def _found(whole, part):
    """Whether the part is in the whole, pixel for pixel."""
    (h, w), places = part.shape[:2], np.argwhere((whole == part[0, 0]).all(axis=2))
    return any(np.array_equal(whole[y : y + h, x : x + w], part) for y, x in places)


def test_an_example_depends_on_seed_and_index_alone(photographs):
    for index in (0, 3):
        first, again, other = (world_example(seed, index, photographs, 160) for seed in (5, 5, 6))
        assert first[:3] == again[:3]
        np.testing.assert_array_equal(first.image, again.image)
        assert first.image.shape != other.image.shape or not np.array_equal(first.image, other.image)


def test_every_kind_of_example_comes_up(examples, photographs):
    untouched = [one for one in examples if one.distortion == "pristine"]
    assert len(untouched) / len(examples) == pytest.approx(UNTOUCHED, abs=0.07)
    assert {one.score for one in untouched} == {100.0}
    mixed = sum("+" in one.distortion for one in examples)
    assert mixed / (len(examples) - len(untouched)) == pytest.approx(MIXED, abs=0.08)
    scenes = sum(one.source not in {p.name for p in photographs} for one in examples)
    assert scenes / len(examples) == pytest.approx(SCENES, abs=0.08)
    assert set(TEXTURES) <= {one.source for one in examples}
    assert all(one.score == score_of(one.severity) for one in examples)
    twice = sum(a.score == b.score == 100 for a, b in zip(examples[::2], examples[1::2], strict=True))
    assert len({one.image.tobytes() for one in examples}) >= len(examples) - twice - 1  # two may be all black


def test_sizes_go_from_96_to_the_largest_and_small_ones_are_most():
    sides = np.array([drawn_side(np.random.default_rng(seed), 1024) for seed in range(4000)])
    assert sides.min() == 96
    assert sides.max() > 700
    assert np.mean(sides > 192) == pytest.approx(2**-2.5, abs=0.02)
    flat = np.array([drawn_side(np.random.default_rng(seed), 384, power=1) for seed in range(4000)])
    assert np.mean(flat > 192) == pytest.approx(1 / 3, abs=0.03)
    assert flat.max() <= 384


@pytest.fixture
def folder(tmp_path):
    for part, seeds in (("training", (1, 2)), ("validation", (3,))):
        (tmp_path / part).mkdir()
        for seed in seeds:
            Image.fromarray(scene(seed, 120, 160, "meadow")).save(tmp_path / part / f"{seed}.png")
    return tmp_path


def test_a_folder_of_photographs_is_trained_on_but_for_what_validates(folder, monkeypatch):
    seen = []

    def noted(seed, index, found, largest, **more):
        seen.append({one.name for one in found})
        return world_example(seed, index, found, 100)

    monkeypatch.setattr("musiq_ref.training.stream.world_example", noted)
    stream = open_stream(recipe("demo", epoch_images=8), folder)
    assert (stream.length, stream.validation_length) == (8, 8)
    stream.example(0, 0)
    stream.validation(0)
    assert {"1.png", "2.png", "raccoon.png"} <= seen[0]
    assert seen[1] == {"3.png"}
    flat = open_stream(recipe("demo", epoch_images=8), folder / "training")
    flat.example(0, 0)
    flat.validation(0)
    assert not seen[2] & seen[3]


def test_a_run_notices_that_its_photographs_have_changed(folder):
    marks = [open_stream(recipe("demo"), folder).data]
    assert open_stream(recipe("demo"), folder).data == marks[0]
    Image.fromarray(scene(9, 120, 160, "page")).save(folder / "training" / "9.png")
    assert open_stream(recipe("demo"), folder).data != marks[0]


def test_what_is_no_folder_of_photographs_is_refused(tmp_path):
    with pytest.raises(DatasetError, match=r"holiday\.csv is no folder"):
        open_stream(recipe("demo"), "holiday.csv")
    with pytest.raises(DatasetError, match="no images"):
        open_stream(recipe("demo"), tmp_path)
    assert PHOTOGRAPHS.is_dir()
