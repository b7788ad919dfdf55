"""Hash, patches, scales and batches."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from strategies import configs, images

import musiq_ref as mq
from musiq_ref.image.hash import hash_axis, hash_index
from musiq_ref.image.patches import (
    extract_patches,
    extract_patches_backward,
    flatten_patches,
    patch_grid,
)
from musiq_ref.image.tokenize import drop_padding, normalize, scales_of

lengths, grids = st.integers(1, 700), st.integers(1, 40)
rules = st.sampled_from(["floor", "round"])


@given(lengths, grids, rules)
def test_hash_is_in_range_and_monotone(n, G, rule):
    cell = hash_axis(n, G, rule)
    assert cell[0] == 0
    assert cell.max() <= G - 1
    assert (np.diff(cell) >= 0).all()


@given(lengths, grids)
def test_all_cells_are_hit_or_no_two_patches_collide(n, G):
    cells = set(hash_axis(n, G).tolist())
    if n >= G:
        assert cells == set(range(G))
    if n <= G:
        assert len(cells) == n


@given(lengths, lengths, grids, st.floats(0, 1, exclude_max=True))
def test_a_point_of_the_image_keeps_its_cell_within_one_at_any_resolution(n, m, G, point):
    """The patch that holds the point at relative position p hashes within one cell of ⌊p·G⌋, if there are G patches."""
    assume(n >= G and m >= G)
    for patches in (n, m):
        assert abs(hash_axis(patches, G)[int(point * patches)] - math.floor(point * G)) <= 1


def exact(n, G):
    return [min(i * G // n, G - 1) for i in range(n)]


def test_the_rule_is_float32_where_exact_integers_differ():
    differing = [n for n in range(1, 401) if hash_axis(n, 10).tolist() != exact(n, 10)]
    assert {205, 235, 266, 275, 305} <= set(differing)
    for n in differing:
        product = np.arange(n, dtype="f4") * (np.float32(10) / np.float32(n))
        assert np.array_equal(hash_axis(n, 10), np.minimum(np.floor(product), 9))


def test_rounding_instead_of_flooring_needs_the_clip():
    assert np.rint(np.float32(19) * (np.float32(10) / np.float32(20))) == 10  # G itself: out of range but for the clip
    assert hash_axis(20, 10, "round")[-1] == 9
    assert hash_axis(4, 10, "round").tolist() == [0, 2, 5, 8]  # 7.5 to the even number, where floor gives 7
    assert hash_index(1, 4, 10, "round").tolist() == [0, 2, 5, 8]


def test_hash_index_is_row_times_grid_plus_column():
    assert hash_index(3, 2, 5).tolist() == [0, 2, 5, 7, 15, 17]


@given(images(), st.sampled_from([4, 8, 12, 16]))
def test_patches_hold_every_pixel_once_and_put_it_back(image, P):
    x = image.astype(float) + 1
    cut = extract_patches(x, P)
    rows, columns = patch_grid(*x.shape[:2], P)
    assert cut.shape == (rows * columns, P, P, 3)
    assert cut.sum() == x.sum()
    assert np.array_equal(extract_patches_backward(cut, *x.shape[:2]), x)


def test_padding_puts_the_smaller_half_before():
    x = np.ones((5, 7, 3))
    [patch] = extract_patches(x, 8)
    assert patch[:, :, 0].any(axis=1).tolist() == [False, True, True, True, True, True, False, False]
    assert patch[:, :, 0].any(axis=0).tolist() == [True] * 7 + [False]


def test_flat_patches_in_both_layouts():
    patches = np.arange(2 * 4 * 4 * 3).reshape(2, 4, 4, 3)
    assert flatten_patches(patches)[1, 3 * 5 + 2] == patches[1, 1, 1, 2]
    assert flatten_patches(patches, "channel_row_column")[1, 16 * 2 + 5] == patches[1, 1, 1, 2]
    assert np.array_equal(flatten_patches(patches), patches.reshape(2, -1))
    assert np.array_equal(flatten_patches(patches, "channel_row_column"), patches.transpose(0, 3, 1, 2).reshape(2, -1))
    batch = np.stack([patches, -patches])  # (B, N, P, P, 3)
    for layout in ("row_column_channel", "channel_row_column"):
        assert np.array_equal(flatten_patches(batch, layout)[1], -flatten_patches(patches, layout))


def test_pixels_are_normalized_as_the_authors_do():
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=2)
    x = normalize(levels)
    assert x.dtype == np.float32
    assert np.array_equal(x, np.float32(-1) + np.float32(2) * (levels.astype("f4") / np.float32(255)))
    np.testing.assert_allclose(normalize(levels / 255, "float64"), 2 * (levels / 255) - 1, atol=1e-15)


@given(images(), configs())
def test_tokens_of_any_configuration(image, config):
    height, width = image.shape[:2]
    tokens, scales = mq.tokenize(image, config), scales_of(height, width, config)
    assert len(tokens.mask) == sum(scale.length for scale in scales)
    assert tokens.patches.dtype == np.float32
    start = 0
    for scale in scales:
        part = mq.Tokens(*(array[start : start + scale.length] for array in tokens))
        valid = part.mask
        assert valid.sum() == scale.kept
        assert valid[: scale.kept].all()
        assert (part.scale_index[valid] == scale.scale_index).all()
        whole = hash_index(scale.rows, scale.columns, config.grid_size, config.conventions.hash)
        assert np.array_equal(part.hash_index[valid], whole[: scale.kept])
        for array in part[:3]:
            assert not array[~valid].any()
        start += scale.length
    assert sorted(scale.scale_index for scale in scales) == list(range(config.scales))
    assert len(drop_padding(tokens).mask) == tokens.mask.sum()


def test_order_of_the_scales():
    config = mq.MusiqConfig()
    first = config.replace(conventions=mq.PAPER)
    assert [s.longer_side for s in scales_of(100, 200, config)] == [224, 384, 0]
    assert [(s.longer_side, s.scale_index) for s in scales_of(100, 200, first)] == [(0, 0), (224, 1), (384, 2)]


def test_float_images_in_zero_to_one_are_the_same_picture(rng):
    image = rng.integers(0, 256, (40, 70, 3), dtype=np.uint8)
    a, b = (mq.tokenize(x, mq.MusiqConfig()) for x in (image, (image / 255).astype("f4")))
    assert b.patches.dtype == np.float32
    assert np.abs(a.patches - b.patches).max() < 2e-6


def test_float64_tokens_differ_from_float32_ones_only_at_the_filters_edge(rng):
    image = rng.random((40, 70, 3))
    for conventions, most in ((mq.PYIQA, 5e-5), (mq.OFFICIAL, 0.02)):  # 0.02: a tap of weight 0.009 more or less
        config = mq.MusiqConfig(conventions=conventions)
        a, b = mq.tokenize(image, config), mq.tokenize(image, config, "float32")
        assert (a.patches.dtype, b.patches.dtype) == (np.float64, np.float32)
        assert 0 < np.abs(a.patches - b.patches).max() < most


def test_batch_pads_the_shorter_with_masked_tokens(rng):
    tokens = [
        mq.tokenize(rng.integers(0, 256, size, dtype=np.uint8), mq.MusiqConfig())
        for size in ((64, 64, 3), (200, 300, 3))
    ]
    together = mq.batch(tokens)
    n = len(tokens[0].mask)
    assert together.patches.shape == (2, len(tokens[1].mask), 32, 32, 3)
    assert np.array_equal(together.mask[0, :n], tokens[0].mask)
    assert not together.mask[0, n:].any()
    assert not together.patches[0, n:].any()


def test_batches_that_cannot_be():
    image = np.zeros((40, 40, 3), np.uint8)
    with pytest.raises(ValueError, match="at least one image"):
        mq.batch([])
    with pytest.raises(ValueError, match="share patch shape and dtype"):
        mq.batch([mq.tokenize(image, mq.MusiqConfig()), mq.tokenize(image, mq.MusiqConfig(patch_size=16))])
    with pytest.raises(ValueError, match="share patch shape and dtype"):
        mq.batch([mq.tokenize(image, mq.MusiqConfig()), mq.tokenize(image, mq.MusiqConfig(), "float64")])


def test_tokenize_leaves_its_image_alone():
    image = np.random.default_rng(0).random((50, 60, 3))
    image.flags.writeable = False
    before = image.copy()
    mq.tokenize(image, mq.MusiqConfig())
    assert np.array_equal(image, before)
