"""The two resizes: what any linear filter must do, the authors' corners, and the exact transpose as backward."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from musiq_ref.image.resize import FILTER, bicubic_matrix, gaussian_matrix, resize, resize_backward, resized_sides

kinds = st.sampled_from(["gaussian", "bicubic"])
sides = st.integers(1, 90)


def dense(kind, n_in, n_out, dtype="float64"):
    return FILTER[kind](n_in, n_out, dtype).toarray()


@given(kinds, sides, sides, st.sampled_from(["float32", "float64"]))
def test_constants_stay(kind, n_in, n_out, dtype):
    matrix = dense(kind, n_in, n_out, dtype)
    assert matrix.dtype == dtype
    assert matrix.shape == (n_out, n_in)
    np.testing.assert_allclose(matrix.sum(axis=1), 1, rtol=10 * np.finfo(dtype).eps)


@given(kinds, sides, sides, sides, sides, st.integers(0, 99))
def test_it_is_linear_and_the_backward_is_its_exact_transpose(kind, h, w, new_h, new_w, seed):
    rng = np.random.default_rng(seed)
    a, b, dy = rng.normal(size=(h, w, 3)), rng.normal(size=(h, w, 3)), rng.normal(size=(new_h, new_w, 3))
    ya, yb, yab = (resize(x, new_h, new_w, kind) for x in (a, b, 2 * a - 3 * b))
    np.testing.assert_allclose(yab, 2 * ya - 3 * yb, atol=1e-12)
    dx = resize_backward(dy, a.shape, kind)
    assert dx.shape == a.shape
    assert (dx * a).sum() == pytest.approx((dy * ya).sum(), rel=1e-11, abs=1e-10)


def at_the_edge_of_the_filter(n_in, n_out):
    """Whether some tap lies so near the filter's edge, 1.5 pixels off, that rounding decides if it counts."""
    centre = (np.arange(n_out) + 0.5) * n_in / n_out
    return (np.abs((centre + 0.5) % 1 - 0.5) < 1e-4).any()


@given(kinds, sides, sides, sides, sides, st.integers(0, 99))
def test_it_commutes_with_flips(kind, h, w, new_h, new_w, seed):
    assume(kind == "bicubic" or not (at_the_edge_of_the_filter(h, new_h) or at_the_edge_of_the_filter(w, new_w)))
    x = np.random.default_rng(seed).normal(size=(h, w, 3))
    y = resize(x, new_h, new_w, kind)
    np.testing.assert_allclose(resize(x[::-1], new_h, new_w, kind)[::-1], y, atol=1e-12)
    np.testing.assert_allclose(resize(x[:, ::-1], new_h, new_w, kind)[:, ::-1], y, atol=1e-12)


def test_a_float32_tie_at_the_filters_edge_breaks_the_flip():
    """From 14 pixels to 1 the centre is at 7, so that pixels 5 and 8 have their centres exactly 1.5 away: weight 0.

    In float32, 1/(1/14) is a little less than 14, so pixel 5 slips in and its mirror image, pixel 8, does not.
    """
    single, double = dense("gaussian", 14, 1, "float32")[0], dense("gaussian", 14, 1)[0]
    assert np.float32(0.5) * (1 / (np.float32(1) / np.float32(14))) < 7
    assert single[5] == pytest.approx(0.0091, abs=1e-4)
    assert single[8] == 0
    assert np.abs(single - single[::-1]).max() > 0.009
    assert np.array_equal(double, double[::-1])


@given(kinds, sides, sides)
def test_rows_and_columns_are_treated_alike(kind, n_in, n_out):
    x = np.random.default_rng(n_in).normal(size=(n_in, n_in, 3))
    transposed = resize(x.swapaxes(0, 1), n_out, n_out, kind).swapaxes(0, 1)
    np.testing.assert_allclose(transposed, resize(x, n_out, n_out, kind), atol=1e-12)


def test_gaussian_of_the_same_size_blurs_and_bicubic_does_not():
    x = np.random.default_rng(0).normal(size=(7, 9, 3))
    assert np.array_equal(resize(x, 7, 9, "bicubic"), x)
    weights = gaussian_matrix(9, 9, "float64").toarray()
    np.testing.assert_allclose(weights[4, 3:6], [0.1065, 0.7870, 0.1065], atol=5e-5)
    np.testing.assert_allclose(bicubic_matrix(9, 9).toarray(), np.eye(9), atol=1e-15)


def test_the_gaussian_written_out_for_one_position():
    """Position 2 of 5 to 3 pixels, by the definition: s = 2.5·5/3 = 4.1667, taps 3 and 4 (5 is beyond the edge)."""
    s = 2.5 * 5 / 3
    e = np.exp(-2 * (np.arange(5) + 0.5 - s) ** 2) * (np.abs(np.arange(5) + 0.5 - s) < 1.5)
    np.testing.assert_allclose(dense("gaussian", 5, 3)[2], e / e.sum(), rtol=1e-12)
    assert (e[:3] == 0).all()


@given(sides, sides, sides, sides)
def test_bicubic_is_pytorchs(torch, h, w, new_h, new_w):
    x = np.random.default_rng(h).normal(size=(h, w, 3))
    theirs = torch.nn.functional.interpolate(
        torch.tensor(x).permute(2, 0, 1)[None], (new_h, new_w), mode="bicubic", align_corners=False
    )
    np.testing.assert_allclose(resize(x, new_h, new_w, "bicubic"), theirs[0].permute(1, 2, 0), atol=1e-12)


def test_sides_in_float32_differ_from_float64_where_known():
    for size, longer in (((1375, 1600), 224), ((715, 832), 224), ((735, 1280), 384)):
        assert resized_sides(*size, longer) != resized_sides(*size, longer, "float64")
    assert resized_sides(480, 640, 224) == resized_sides(480, 640, 224, "float64") == (168, 224)


@given(st.integers(1, 5000), st.integers(1, 5000), st.sampled_from([224, 384]))
def test_the_longer_side_becomes_what_was_asked(height, width, longer):
    assume(max(height, width) < 400 * min(height, width))
    new = resized_sides(height, width, longer)
    assert max(new) == longer
    assert abs(min(new) - min(height, width) * longer / max(height, width)) <= 0.5 + 1e-3


def test_too_elongated_is_one_sentence():
    with pytest.raises(ValueError, match="1×500 pixels is too elongated: resized to a longer side of 224"):
        resized_sides(1, 500, 224)
    assert resized_sides(1, 447, 224) == (1, 224)
