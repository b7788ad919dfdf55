"""Synthetic examples: the same for the same numbers, sharp, diverse, and never a test source in training."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from musiq_ref.pictures import synthetic
from musiq_ref.pictures.distortions import DISTORTIONS
from musiq_ref.pictures.scenes import FAMILIES, scene
from musiq_ref.pictures.synthetic import photograph_crop, score_of, training_example
from musiq_ref.training.datasets import DatasetError
from musiq_ref.training.settings import recipe
from musiq_ref.training.stream import open_stream


@pytest.fixture(scope="module")
def examples():
    return [training_example(1, index, size=64) for index in range(600)]


@pytest.fixture(scope="module")
def held_out():
    return list(synthetic.held_out_examples(size=64, crops=2, scenes=7, severities=(0.25, 0.5, 1.0), mixtures=2))


def sharpness(image):
    """The steepest steps between neighbours, in grey levels."""
    grey = image.astype(float).mean(2)
    return np.percentile(np.abs(np.diff(grey, axis=1)), 99)


def test_an_example_depends_on_seed_and_index_alone():
    for index in (0, 7):
        first, again = training_example(3, index), training_example(3, index)
        assert first[:3] == again[:3]
        np.testing.assert_array_equal(first.image, again.image)
        assert first.image.shape != training_example(4, index).image.shape or first.severity != again.severity


def test_examples_differ(examples):
    assert len({example.image.tobytes() for example in examples}) == len(examples)


def test_sizes_vary_between_96_and_160_unless_asked_for(examples):
    shapes = {training_example(0, index).image.shape for index in range(30)}
    sides = {side for shape in shapes for side in shape[:2]}
    assert sides == set(range(96, 161, 8))
    assert {example.image.shape for example in examples} == {(64, 64, 3)}


def test_every_kind_of_example_comes_up(examples):
    counts = Counter("mixture" if "+" in example.distortion else example.distortion for example in examples)
    assert set(counts) == {*DISTORTIONS, "mixture", "pristine"}
    assert counts["pristine"] / len(examples) == pytest.approx(synthetic.PRISTINE, abs=0.04)
    assert counts["mixture"] / len(examples) == pytest.approx(synthetic.MIXED, abs=0.05)
    assert min(counts.values()) > 20
    photographs = sum(example.source in synthetic.TRAINING_PHOTOGRAPHS for example in examples)
    assert photographs / len(examples) == pytest.approx(synthetic.PHOTOGRAPHED, abs=0.06)


def test_the_score_falls_with_the_severity(examples, held_out):
    for example in (*examples, *held_out):
        assert example.score == score_of(example.severity) == pytest.approx(100 * (1 - example.severity))
        assert (example.severity == 0) == (example.distortion == "pristine")
    severities = np.array([example.severity for example in examples if example.severity])
    assert np.histogram(severities, 5, (0, 1))[0].min() > 60


def test_training_and_test_share_no_source(examples, held_out):
    training = {example.source.split()[0] for example in examples} - {"scene"}
    test = {example.source.split()[0] for example in held_out} - {"scene"}
    assert training == {"astronaut", "coffee", "flower", "hopper", "raccoon", "temple"}
    assert test == {"cat", "rocket"}
    assert not {example.source for example in examples} & {example.source for example in held_out}
    pristine = {scene((synthetic.TRAINING, 0, index, 1), 64, 64).tobytes() for index in range(20)}
    assert not pristine & {example.image.tobytes() for example in held_out}


def test_the_test_set_is_complete_and_ordered_by_damage(held_out):
    sources = {}
    for example in held_out:
        sources.setdefault(example.source, []).append(example)
    assert len(sources) == 2 + len(FAMILIES)
    for group in sources.values():
        assert len(group) == 1 + 3 * len(DISTORTIONS) + 2
        pristine = group[0].image.astype(float)
        for name in DISTORTIONS:
            series = [example for example in group if example.distortion == name]
            assert [example.severity for example in series] == [0.25, 0.5, 1.0]
            damages = [np.mean((example.image - pristine) ** 2) for example in series]
            assert 0 < damages[0] < damages[-1], (group[0].source, name)
        assert sum("+" in example.distortion for example in group) == 2


def test_the_test_set_is_the_same_every_time(held_out):
    again = synthetic.held_out_examples(size=64, crops=2, scenes=7, severities=(0.25, 0.5, 1.0), mixtures=2)
    for example, other in zip(held_out[:40], again, strict=False):
        assert example[:3] == other[:3]
        np.testing.assert_array_equal(example.image, other.image)


@pytest.mark.parametrize("family", FAMILIES)
def test_scenes_are_sharp_diverse_and_repeatable(family):
    scenes = [scene(seed, 96, 130, family) for seed in range(6)]
    assert len({picture.tobytes() for picture in scenes}) == 6
    np.testing.assert_array_equal(scenes[0], scene(0, 96, 130, family))
    for picture in scenes:
        assert picture.shape == (96, 130, 3)
        assert picture.dtype == np.uint8
        assert sharpness(picture) > 20
        assert picture.std() > 15
        blurred = DISTORTIONS["gaussian_blur"](picture, 0.4, np.random.default_rng(0))
        assert sharpness(blurred) < 0.9 * sharpness(picture)


@pytest.mark.parametrize(("height", "width"), [(16, 16), (16, 200), (301, 17), (128, 256)])
def test_scenes_of_any_size(height, width):
    for family in FAMILIES:
        assert scene(5, height, width, family).shape == (height, width, 3)


def test_all_families_come_up():
    assert len({scene(seed, 32, 32).tobytes() for seed in range(30)}) == 30
    drawn = [next(f for f in FAMILIES if np.array_equal(scene(s, 16, 16), scene(s, 16, 16, f))) for s in range(40)]
    assert set(drawn) == set(FAMILIES)


@pytest.mark.parametrize("name", ["astronaut", "cat", "coffee"])
def test_crops_are_as_sharp_as_the_photograph(name):
    whole = synthetic._photograph(name)
    blurred = DISTORTIONS["gaussian_blur"](whole, 0.5, np.random.default_rng(0))
    crops = [photograph_crop(name, np.random.default_rng(seed), 128, 160) for seed in range(12)]
    assert np.median([sharpness(crop) for crop in crops]) > 1.1 * sharpness(blurred)
    assert len({crop.tobytes() for crop in crops}) == 12
    assert all(crop.shape == (128, 160, 3) for crop in crops)


@pytest.mark.parametrize("name", ["astronaut", "cat", "coffee"])
def test_reduced_crops_are_sharper_than_the_photograph(name):
    def typical(*reduction):
        crops = [photograph_crop(name, np.random.default_rng(seed), 96, 128, reduction) for seed in range(12)]
        return np.median([sharpness(crop) for crop in crops])

    assert typical(*synthetic.REDUCTION) > 1.1 * typical(1.0, 1.0)


def test_the_setting_reduces_the_photographs_and_no_scene():
    one, other = (
        open_stream(recipe("synthetic", reduction=reduction, side=64)) for reduction in ([1.0, 1.0], [2.0, 2.0])
    )
    for example in (lambda stream, number: stream.example(0, number), lambda stream, number: stream.validation(number)):
        alike = [np.array_equal(example(one, number)[0], example(other, number)[0]) for number in range(30)]
        assert 8 < sum(alike) < 25  # the scenes
    for number in range(30):
        photographed = training_example(0, number, 64).source in synthetic.TRAINING_PHOTOGRAPHS
        equal = np.array_equal(one.example(0, number)[0], other.example(0, number)[0])
        assert photographed != equal


def test_the_photographs_of_the_test_are_reduced_by_at_least_2():
    first, second = (
        photograph_crop("cat", np.random.default_rng((synthetic.TEST, 0, 0)), 64, 64, reduction)
        for reduction in (synthetic.TEST_REDUCTION, synthetic.REDUCTION)
    )
    example = next(synthetic.held_out_examples(size=64))
    np.testing.assert_array_equal(example.image, first)
    assert not np.array_equal(first, second)


def test_a_crop_that_is_not_reduced_is_not_resampled():
    rows = synthetic._photograph("cat").astype(int).sum(2)  # (300, 451), the same for any order of the channels
    crop = photograph_crop("cat", np.random.default_rng(0), 300, 300).astype(int).sum(2)
    windows = [rows[:, left : left + 300] for left in range(152)]
    assert any(np.array_equal(crop, w) or np.array_equal(crop, w[:, ::-1]) for w in windows)


def test_sizes_and_numbers_out_of_range():
    with pytest.raises(ValueError, match="301 x 301 pixels was asked for; sides go from 1 to 300"):
        photograph_crop("cat", np.random.default_rng(0), 301, 301)
    with pytest.raises(ValueError, match="too small; both sides need at least 16"):
        scene(0, 15, 40)
    with pytest.raises(ValueError, match="no scene family 'sea'; choose one of leaves"):
        scene(0, 40, 40, "sea")
    for size in (15, 301):
        with pytest.raises(ValueError, match=f"size is {size}; .*from 16 to 300"):
            training_example(0, 0, size=size)
        with pytest.raises(ValueError, match=f"size is {size}; .*from 16 to 300"):
            next(synthetic.held_out_examples(size=size))
    with pytest.raises(ValueError, match="seed -1 and index 0; both must be 0 or more"):
        training_example(-1, 0)


def test_a_folder_that_would_not_be_read_is_refused():
    with pytest.raises(DatasetError, match=r"holiday\.csv is no folder of photographs"):
        open_stream(recipe("synthetic"), "holiday.csv")
