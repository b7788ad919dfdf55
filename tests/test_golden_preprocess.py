"""Tokens equal to those recorded from the authors' code: integers exactly, pixels to 2e-6."""

from __future__ import annotations

import re

import numpy as np
import pytest
from conftest import GOLDEN

from musiq_ref import MusiqConfig, tokenize
from musiq_ref.image.hash import hash_axis, hash_index
from musiq_ref.image.patches import flatten_patches
from musiq_ref.image.resize import resized_sides
from musiq_ref.verify import deterministic_image

with np.load(GOLDEN / "preprocess.npz") as archive:
    CASES = sorted({key.split("/")[0] for key in archive.files if key.endswith("/mask")})


def parse(case):
    """ "variant_G5_P16_l8_L224_64x96" -> configuration, height, width"""
    height, width = map(int, case.rsplit("_", 1)[1].split("x"))
    variant = re.match(r"variant_G(\d+)_P(\d+)_l(-?\d+)_L([^_]+)_", case)
    if not variant:
        return MusiqConfig(), height, width
    G, P, l = map(int, variant.group(1, 2, 3))
    sides = () if variant[4] == "none" else tuple(map(int, variant[4].split("-")))
    config = MusiqConfig(grid_size=G, patch_size=P, max_native_patches=l, longer_sides=sides)
    return config, height, width


@pytest.mark.parametrize("case", CASES)
def test_tokens(case, golden):
    expected = {key.split("/")[1]: value for key, value in golden("preprocess").items() if key.startswith(f"{case}/")}
    config, height, width = parse(case)
    tokens = tokenize(deterministic_image(3, height, width), config)
    for name in ("hash_index", "scale_index", "mask"):
        assert np.array_equal(getattr(tokens, name), expected[name])
    patches = flatten_patches(tokens.patches, config.conventions.patch_layout)
    assert patches.dtype == np.float32
    assert patches.shape == tuple(expected["patches_shape"])
    sample = patches.ravel()[expected["patches_sample_index"]]
    assert np.abs(sample - expected["patches_sample"]).max() < 2e-6
    sums = patches.sum(dtype=np.float64), np.abs(patches).sum(dtype=np.float64)
    np.testing.assert_allclose(sums, expected["patches_sum64"], atol=1e-7 * patches.size)
    for i, side in enumerate(config.longer_sides):
        assert resized_sides(height, width, side) == tuple(expected[f"resized{i}_shape"])


def test_whole_patch_array(golden):
    patches = tokenize(deterministic_image(3, 64, 96), MusiqConfig()).patches
    assert np.abs(flatten_patches(patches) - golden("preprocess")["image_64x96/patches"]).max() < 2e-6


@pytest.mark.parametrize("grid_size", [5, 10, 15])
def test_hash_tables(grid_size, golden):
    table = golden("preprocess")[f"hash_table_G{grid_size}"]
    for n in range(1, 401):
        assert np.array_equal(hash_axis(n, grid_size), table[n, :n])
    expected = table[7, :7, None].astype(int) * grid_size + table[13, :13]
    assert np.array_equal(hash_index(7, 13, grid_size), expected.ravel())
