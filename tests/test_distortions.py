"""The distortions: untouched at severity 0, worse with every step, comparable to one another."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from musiq_ref.pictures import synthetic
from musiq_ref.pictures.distortions import DISTORTIONS, KINDS, LIGHT, PARAMETERS, SEVERITIES, parameter
from musiq_ref.pictures.mixtures import mixture_parts


def mixture(image, severity, rng):
    for name, part in mixture_parts(severity, rng):
        image = DISTORTIONS[name](image, part, rng)
    return image


ALL = {**DISTORTIONS, "mixture": mixture}
PHOTOGRAPHS = ("astronaut", "cat", "coffee")


@pytest.fixture(scope="module")
def crops():
    return {name: synthetic.photograph_crop(name, np.random.default_rng(7), 224, 224) for name in PHOTOGRAPHS}


def damage(name, image, severity, seed=3):
    spoilt = ALL[name](image, severity, np.random.default_rng(seed))
    return np.mean((spoilt.astype(float) - image) ** 2)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("photograph", PHOTOGRAPHS)
def test_more_severity_is_more_damage(crops, name, photograph):
    damages = [damage(name, crops[photograph], severity) for severity in np.linspace(0, 1, 11)]
    assert damages[0] == 0
    assert (np.diff(damages) > 0).all(), damages


@pytest.mark.parametrize("name", ALL)
def test_severity_one_is_bad_and_a_tenth_is_mild(crops, name):
    for image in crops.values():
        assert damage(name, image, 0.1) < 0.4 * damage(name, image, 1.0)
        assert damage(name, image, 1.0) > 80  # below 29 dB


@pytest.mark.parametrize("name", ALL)
@given(height=st.integers(1, 40), width=st.integers(1, 40), severity=st.floats(0, 1), seed=st.integers(0, 99))
def test_every_size_and_severity(name, height, width, severity, seed):
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    before = image.copy()
    image.setflags(write=False)
    first, again = (ALL[name](image, severity, np.random.default_rng(seed)) for _ in range(2))
    assert first.dtype == np.uint8
    assert first.shape == image.shape
    assert first.flags.writeable
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(image, before)
    assert not np.shares_memory(first, image)


@pytest.mark.parametrize("name", sorted(set(ALL) - {"white_noise", "poisson_noise", "contrast", "mixture"}))
def test_mid_grey_stays(name):
    grey = np.full((48, 40, 3), 128, np.uint8)
    spoilt = DISTORTIONS[name](grey, 1.0, np.random.default_rng(0))
    np.testing.assert_allclose(spoilt.astype(int), 128, atol=2 if name == "webp" else 0)  # WebP's grey is coarser


def test_noise_has_the_deviation_of_its_table():
    grey = np.full((300, 300, 3), 128, np.uint8)
    for severity in (0.1, 0.3, 0.6):
        noise = DISTORTIONS["white_noise"](grey, severity, np.random.default_rng(0)).std()
        assert noise == pytest.approx(parameter("white_noise", severity), rel=0.02)
        shot = DISTORTIONS["poisson_noise"](grey, severity, np.random.default_rng(0)).std()
        assert shot == pytest.approx(255 * parameter("poisson_noise", severity) * np.sqrt(128 / 255), rel=0.02)


def test_gaussian_blur_has_the_sigma_of_its_table():
    point = np.zeros((61, 61, 3), np.uint8)
    point[30] = 255  # a line, whose profile is the kernel
    profile = DISTORTIONS["gaussian_blur"](point, 0.8, np.random.default_rng(0))[:, 30, 0].astype(float)
    spread = np.sqrt(np.sum(profile * (np.arange(61) - 30) ** 2) / profile.sum())
    assert spread == pytest.approx(2.4, rel=0.05)


def test_motion_blur_smears_a_point_to_its_length_in_the_direction_it_draws():
    point = np.zeros((65, 65, 3), np.uint8)
    point[30:35, 30:35] = 255
    for seed in range(4):
        angle = np.random.default_rng(seed).uniform(0, np.pi)
        smear = DISTORTIONS["motion_blur"](point, 1.0, np.random.default_rng(seed))[:, :, 0].astype(float)
        smear[smear < 10] = 0  # faint ripples
        y, x = np.mgrid[-32:33, -32:33]
        along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
        spread = [np.sqrt(np.sum(smear * axis**2) / smear.sum()) for axis in (along, across)]
        assert spread[0] == pytest.approx(np.sqrt(parameter("motion_blur", 1.0) ** 2 / 12 + 2), rel=0.1)
        assert spread[1] < 2.0


def test_haze_scales_the_contrast_and_lifts_the_dark(crops):
    for image in crops.values():
        spoilt = DISTORTIONS["contrast"](image, 0.7, np.random.default_rng(0))
        left, light = parameter("contrast", 0.7), np.random.default_rng(0).uniform(*LIGHT)
        assert spoilt.std() == pytest.approx(image.std() * left, rel=0.02)
        assert spoilt.mean() == pytest.approx(left * image.mean() + (1 - left) * light, abs=0.5)


def test_few_levels_are_left_by_banding(crops):
    assert len(np.unique(DISTORTIONS["banding"](crops["cat"], 1.0, np.random.default_rng(0)))) <= 3


@given(severity=st.floats(0, 1), seed=st.integers(0, 999))
def test_a_mixture_is_of_two_kinds_in_order_and_adds_up(severity, seed):
    (name1, s1), (name2, s2) = mixture_parts(severity, np.random.default_rng(seed))
    kinds = [next(i for i, kind in enumerate(KINDS) if DISTORTIONS[name] in kind) for name in (name1, name2)]
    assert kinds[0] < kinds[1]
    assert 1 - (1 - s1) * (1 - s2) == pytest.approx(severity, abs=1e-12)
    assert max(s1, s2) <= severity + 1e-12
    assert min(s1, s2) > 0 or severity < 1e-12


def test_mixtures_use_every_distortion():
    names = {name for seed in range(200) for name, _ in mixture_parts(0.5, np.random.default_rng(seed))}
    assert names == set(DISTORTIONS)


def test_tables_are_monotone_and_start_untouched():
    assert set(PARAMETERS) == set(DISTORTIONS)
    for name, table in PARAMETERS.items():
        assert len(table) == len(SEVERITIES)
        steps = np.diff(table)
        assert (steps > 0).all() or (steps < 0).all(), name


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("severity", [-0.01, 1.01, float("nan")])
def test_severity_out_of_range(name, severity):
    with pytest.raises(ValueError, match=r"severity .*; it goes from 0"):
        ALL[name](np.zeros((8, 8, 3), np.uint8), severity, np.random.default_rng(0))


@pytest.mark.parametrize("name", DISTORTIONS)
@pytest.mark.parametrize("image", [np.zeros((8, 8, 3)), np.zeros((8, 8), np.uint8), np.zeros((8, 8, 4), np.uint8)])
def test_other_images_are_refused(name, image):
    with pytest.raises(ValueError, match=f"{name} got .*pass uint8"):
        DISTORTIONS[name](image, 0.5, np.random.default_rng(0))
