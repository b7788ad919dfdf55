"""Tokens equal to those recorded from the authors' code: integers exactly, pixels to 2e-6."""

from __future__ import annotations

import numpy as np
import pytest
from agreement import golden, integers_that_differ, pixel_error, preprocessing, preprocessing_cases

from musiq_ref import MusiqConfig, tokenize
from musiq_ref.image.hash import hash_axis, hash_index
from musiq_ref.image.patches import flatten_patches
from musiq_ref.image.resize import resized_sides
from musiq_ref.verify import deterministic_image

CASES = preprocessing_cases()


def test_there_are_cases():
    assert len(CASES) == 12


@pytest.mark.parametrize("case", CASES)
def test_tokens(case):
    tokens, config, expected = preprocessing(case)
    assert tokens.mask.shape == expected["mask"].shape
    assert integers_that_differ(case) == 0
    patches = flatten_patches(tokens.patches)
    assert patches.dtype == np.float32
    assert patches.shape == tuple(expected["patches_shape"])
    assert pixel_error(case) < 2e-6
    sums = patches.sum(dtype=np.float64), np.abs(patches).sum(dtype=np.float64)
    np.testing.assert_allclose(sums, expected["patches_sum64"], atol=1e-7 * patches.size)
    height, width = map(int, case.rsplit("_", 1)[1].split("x"))
    for i, side in enumerate(config.longer_sides):
        assert resized_sides(height, width, side) == tuple(expected[f"resized{i}_shape"])


def test_whole_patch_array():
    patches = tokenize(deterministic_image(3, 64, 96), MusiqConfig()).patches
    assert np.abs(flatten_patches(patches) - golden("preprocess")["image_64x96/patches"]).max() < 2e-6


@pytest.mark.parametrize("grid_size", [5, 10, 15])
def test_hash_tables(grid_size):
    table = golden("preprocess")[f"hash_table_G{grid_size}"]
    for n in range(1, 401):
        assert np.array_equal(hash_axis(n, grid_size), table[n, :n])
    expected = table[7, :7, None].astype(int) * grid_size + table[13, :13]
    assert np.array_equal(hash_index(7, 13, grid_size), expected.ravel())
