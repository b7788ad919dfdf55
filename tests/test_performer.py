"""The Performer: its random features, what it computes, its gradient, and the weights that it implies."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from test_efficient_attention import IMAGE, VALID, B, D_h, H, N, parts, seen_by
from test_model import SMALL, random_tokens
from test_variants import KINDS

import musiq_ref as mq
from musiq_ref.explain import attention_of_head
from musiq_ref.explain.weights import watch_weights
from musiq_ref.image.tokenize import drop_padding
from musiq_ref.model import performer as favor
from musiq_ref.model.attention import attention
from musiq_ref.model.parameters import map_params, parameter_shapes
from musiq_ref.verify import GradientError, check_vjp, deterministic_image, deterministic_params, trace


def exponentials(draws, q, k):
    """Of every pair (i, n) the estimate of exp(q_i·k_n/√D_h), without ε and with the maxima multiplied back."""
    sides = ((q, None, -1), (k, np.ones((1, 1, 1, 1), bool), None))
    phi_q, phi_k = (favor.features(x[None, None], draws, valid, eps=0.0)[0][0, 0] for x, valid, _ in sides)
    peaks = [np.max(x * x.shape[-1] ** -0.25 @ draws.T, axis=axis, keepdims=True) for x, _, axis in sides]
    return phi_q @ phi_k.T * np.exp(peaks[0] + peaks[1])


def mean_error(draws_of, q, k, count=3000):
    """How many standard errors the mean over draws lies from the exponentials, at the worst pair."""
    found = np.stack([exponentials(draws_of(seed), q, k) for seed in range(count)])
    exact = np.exp(q @ k.T / np.sqrt(q.shape[-1]))
    return np.abs((found.mean(axis=0) - exact) / (found.std(axis=0) / np.sqrt(count))).max()


def as_lapack_returns_them(seed, rank=6, width=4):
    """Draws without the signs that make the rows uniformly distributed."""
    rng = np.random.default_rng(seed)
    rows = [np.linalg.qr(rng.standard_normal((width, width)))[0].T for _ in range(-(-rank // width))]
    return np.concatenate(rows)[:rank] * np.linalg.norm(rng.standard_normal((rank, width)), axis=1, keepdims=True)


def test_the_features_estimate_the_exponential_without_bias(rng):
    q, k = rng.standard_normal((2, 3, 4))
    assert mean_error(lambda seed: favor.random_features(6, 4, seed), q, k) < 4
    assert mean_error(lambda seed: 0.9 * favor.random_features(6, 4, seed), q, k) > 8
    assert mean_error(as_lapack_returns_them, q, k) > 8


def test_the_error_falls_as_one_over_the_root_of_the_features():
    """Of queries and keys that are not long: the variance grows as exp(|q + k|²/√D_h), and long ones need far more."""
    z, params = parts()
    exact = seen_by(attention, 0.3 * z, params)["heads"]

    def rms(rank):
        heads = [seen_by(favor.performer, 0.3 * z, params, rank=rank, seed=s)["heads"] for s in range(40)]
        return np.sqrt(np.mean([(found - exact).swapaxes(1, 2)[VALID] ** 2 for found in heads]))

    errors = [rms(rank) for rank in (32, 128, 512)]
    assert errors[0] / errors[1] == pytest.approx(2, rel=0.15)
    assert errors[1] / errors[2] == pytest.approx(2, rel=0.15)


def test_rows_are_orthogonal_in_blocks_and_as_long_as_gaussian_vectors():
    draws = favor.random_features(4000, 8, 0)
    products = draws.reshape(-1, 8, 8) @ draws.reshape(-1, 8, 8).swapaxes(1, 2)
    assert np.abs(products * (1 - np.eye(8))).max() < 1e-12
    squares = (draws**2).sum(axis=1)  # χ² with 8 degrees of freedom: mean 8, variance 16
    assert squares.mean() == pytest.approx(8, abs=0.3)
    assert squares.var() == pytest.approx(16, rel=0.15)
    assert np.array_equal(draws[:5], favor.random_features(4000, 8, 0)[:5])
    assert not np.array_equal(favor.random_features(5, 8, 1), favor.random_features(5, 8, 0))


def test_it_is_the_authors_formula():
    """Written out for each image and head, with ε and both maxima; a padded key is nowhere."""
    z, params = parts()
    seen = seen_by(favor.performer, z, params, rank=7, seed=2)
    W = favor.random_features(7, D_h, 2).T / D_h**0.25

    def phi(x, peak):
        return (np.exp(x @ W - (x * x).sum(-1, keepdims=True) / (2 * D_h**0.5) - peak) + 1e-6) / 7**0.5

    for b, h in np.ndindex(B, H):
        q, k, v, heads = (seen[name][b, h][VALID[b]] for name in ("query", "key", "value", "heads"))
        weights = phi(q, (q @ W).max(-1, keepdims=True)) @ phi(k, (k @ W).max()).T
        total = weights.sum(-1, keepdims=True)
        assert total.min() > 1e-6
        np.testing.assert_allclose(heads, weights @ v / total, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("eps", [1e-6, 0.0])
def test_a_normaliser_that_is_not_above_epsilon_gets_two_more(eps):
    """Of huge queries and keys nothing but ε² is left of the products; without ε, of some nothing at all."""
    z, params = parts()
    huge = {**params, **{name: map_params(lambda a: 100 * a, params[name]) for name in ("query", "key")}}
    seen = seen_by(favor.performer, z, huge, rank=7, eps=eps)
    products = seen["query_features"] @ seen["key_features"].swapaxes(-1, -2)  # (B, H, N, N)
    total = products.sum(axis=-1, keepdims=True)
    assert total.min() <= eps
    divisor = np.where(total <= eps, total + 2 * eps if eps else 1, total)
    np.testing.assert_allclose(seen["heads"], products @ seen["value"] / divisor, rtol=1e-14, atol=1e-300)
    assert np.isfinite(seen["heads"]).all()


def features_wrong(dy, cache, peak=True, norm=True):
    """`features_backward` with the maximum or |x|²/2 taken as constant."""
    xhat, projection, grown, at_peak, axes = cache
    dlogits = dy * grown / np.sqrt(len(projection))
    dxhat = -xhat * dlogits.sum(-1, keepdims=True) if norm else 0
    if peak:
        dlogits = dlogits - at_peak * dlogits.sum(axes, keepdims=True)
    return (dxhat + dlogits @ projection) * projection.shape[1] ** -0.25


@pytest.mark.parametrize("keys", [False, True])
def test_the_gradient_of_the_features_goes_through_maximum_and_norm(keys, rng):
    """With a large ε, for 1e-6 would hide the maximum's part."""
    draws, valid = favor.random_features(5, 4, 0), VALID[:, None, :, None] if keys else None
    x, run = 0.7 * rng.standard_normal((B, H, N, 4)), partial(favor.features, projection=draws, valid=valid, eps=0.1)
    assert check_vjp(run, favor.features_backward, [x]) < 1e-6
    assert check_vjp(run, features_wrong, [x]) < 1e-6
    for term in ("peak", "norm"):
        with pytest.raises(GradientError):
            check_vjp(run, partial(features_wrong, **{term: False}), [x])


def test_keys_that_are_equal_share_the_gradient_of_their_maximum(rng):
    """As those of a white wall are. Both move at once, so the maximum has a derivative."""
    draws, x = favor.random_features(5, 4, 0), 0.7 * rng.standard_normal((B, H, N, 4))
    valid = np.ones((B, 1, 2 * N, 1), bool)

    def both(x):
        return favor.features(np.concatenate([x, x], axis=-2), draws, valid, eps=0.1)

    def both_backward(dy, cache):
        dx = favor.features_backward(dy, cache)
        return dx[..., :N, :] + dx[..., N:, :]

    assert check_vjp(both, both_backward, [x]) < 1e-6


def test_the_parameters_of_a_softmax_model_fit_and_none_is_added():
    config, tokens = SMALL.replace(**KINDS["performer"]), mq.batch([random_tokens(SMALL, 8, 0)])
    assert parameter_shapes(config) == parameter_shapes(SMALL)
    assert mq.forward(mq.init_params(SMALL), tokens, config)[0].shape == (1, 3)
    demo, image = mq.load_checkpoint("demo"), deterministic_image(1, 96, 128)
    changes = [{}] + [{"attention": "performer", "attention_rank": rank, "attention_eps": 0} for rank in (4096, 4)]
    scores = [mq.score([image], demo._replace(config=demo.config.replace(**change)))[0].value for change in changes]
    assert abs(scores[1] - scores[0]) < abs(scores[2] - scores[0])


@pytest.mark.parametrize("factor", [1, 300])
def test_a_performers_rollout_is_of_the_weights_it_implies(factor):
    """Of queries and keys that are huge, too, whose normalisers are not above ε and get two more."""
    config = mq.MusiqConfig.preset("tiny", **KINDS["performer"])
    params = deterministic_params(config, 1, "float64")
    own = params["encoder"]["block_00"]["attention"]
    own |= {name: map_params(lambda a: factor * a, own[name]) for name in ("query", "key")}
    tokens, seen = drop_padding(mq.tokenize(IMAGE, config, "float64")), {}
    values, _ = trace(params, mq.batch([tokens]), config)
    watch_weights(params, tokens, config, seen.setdefault)
    assert list(seen) == [0, 1]
    assert (seen[0].sum(axis=-1) < 0.9).any() == (factor > 1)
    for block, weights in seen.items():
        at = f"encoder/block_{block:02d}/attention"
        np.testing.assert_allclose(weights @ values[f"{at}/value"][0], values[f"{at}/heads"][0], rtol=5e-13, atol=1e-15)
    if factor == 1:
        assert 0 < sum(m.sum() for m in mq.attention_rollout(params, tokens, config)) < 1
        row = attention_of_head(IMAGE, params, config, block=0, head=2)
        np.testing.assert_allclose(row, seen[0][2, 0, 1:], rtol=1e-4)  # of tokens in float32
