"""Performer and Linformer: what they compute, their gradients, and that every part of the library knows them."""

from __future__ import annotations

import runpy
import sys
import tracemalloc
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from op_table import random_params
from test_model import SMALL, random_tokens
from test_variants import KINDS, every_kind

import musiq_ref as mq
from musiq_ref.explain import attention_of_head
from musiq_ref.explain.weights import watch_weights
from musiq_ref.image.tokenize import drop_padding, tokenize_backward
from musiq_ref.model import performer as favor
from musiq_ref.model.attention import allowed_keys, allowed_pairs, attention
from musiq_ref.model.efficient import efficient_msa
from musiq_ref.model.linformer import linformer, linformer_backward
from musiq_ref.model.parameters import flatten, map_params, nest, parameter_shapes
from musiq_ref.verify import GradientError, check_vjp, deterministic_image, deterministic_params, trace

B, N, D, H = 2, 9, 12, 3
D_h = D // H
VALID = np.array([[True] * 9, [True, False, True, True, False, False, True, False, False]])
IMAGE = deterministic_image(1, 50, 70)


def parts(**changes):
    """z (B, N, D) and the parameters of one attention, small enough for weights that are not all or nothing."""
    config = mq.MusiqConfig(layers=1, width=D, mlp_width=2, heads=H, **changes)
    params = deterministic_params(config, 5, "float64")["encoder"]["block_00"]["attention"]
    return np.random.default_rng(0).standard_normal((B, N, D)), params


def small(kind, **changes):
    config = SMALL.replace(**{**KINDS[kind], **changes})
    return config, random_params(config)


def tiny(kind, dtype="float32", **changes):
    config = mq.MusiqConfig.preset("tiny", **KINDS[kind], **changes)
    return config, deterministic_params(config, 1, dtype)


def seen_by(run, z, params, valid=VALID, **options):
    """What an attention shows its tap."""
    seen = {}
    run(z, allowed_pairs(valid), params, mq.OFFICIAL, lambda name, a: seen.setdefault(name, a), **options)
    return seen


# ---- Performer


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


# ---- Linformer


def test_with_identities_it_is_softmax_attention():
    z, params = parts()
    allowed, one = allowed_pairs(np.ones((B, N), bool)), np.eye(N, N + 2)
    exact, _ = attention(z, allowed, params, mq.OFFICIAL)
    for given in ({"E": one, "F": one}, {"E": one}):  # shared: F is E
        y, _ = linformer(z, allowed, {**params, **given}, mq.OFFICIAL)
        np.testing.assert_allclose(y, exact, rtol=1e-14, atol=1e-14)
    y, _ = linformer(z, allowed, {**params, "E": one, "F": one[::-1]}, mq.OFFICIAL)
    assert np.abs(y - exact).max() > 1e-2


def test_it_is_the_formula_on_the_valid_tokens_alone():
    z, params = parts(attention="linformer", attention_rank=4, attention_length=11)
    heads = seen_by(linformer, z, params)["heads"]
    for b in range(B):
        q, k, v = (
            np.einsum("nd,dhk->hnk", z[b][VALID[b]], params[n]["kernel"]) + params[n]["bias"][:, None]
            for n in ("query", "key", "value")
        )
        E, F = (params[name][:, : VALID[b].sum()] for name in "EF")
        weights = np.exp(q @ (E @ k).swapaxes(-1, -2) / np.sqrt(D_h))
        expected = weights @ (F @ v) / weights.sum(-1, keepdims=True)
        np.testing.assert_allclose(heads[b][:, VALID[b]], expected, rtol=1e-13, atol=1e-14)


def test_the_gradient_of_a_dropped_weight_is_seen_as_zero():
    z, params = parts(attention="linformer", attention_rank=4, attention_length=11)
    noise, seen = mq.Noise(np.random.default_rng(0), attention_dropout=0.5), {}
    _, cache = linformer(z, allowed_keys(VALID), params, mq.OFFICIAL, noise=noise)
    dropped = cache["factors"][3] == 0
    linformer_backward(np.ones_like(z), cache, lambda name, array: seen.setdefault(name, array))
    assert 0 < dropped.mean() < 1
    assert np.array_equal(seen["compressed_weights"] == 0, dropped)


# ---- both


def run_on(n, **options):
    """A forward of n tokens."""
    return lambda c, params: mq.forward(params, mq.batch([random_tokens(c, n, 0)]), c, **options)[0]


DROPPING = {"noise": mq.Noise(np.random.default_rng(0), attention_dropout=0.5)}
TOO_LONG = r"9 tokens with the class token, .* Linformer takes 8 \(attention_length\)"
NO_WEIGHTS = r"a Linformer has no attention weights from token to token: .* 5 sums"


@pytest.mark.parametrize(
    ("kind", "call", "says"),
    [
        ("linformer", run_on(8), TOO_LONG),
        ("linformer", lambda c, params: mq.predict(params, random_tokens(c, 8, 0), c), TOO_LONG),
        ("linformer", lambda c, params: mq.attention_rollout(params, mq.tokenize(IMAGE, c), c), NO_WEIGHTS),
        ("linformer", lambda c, params: attention_of_head(IMAGE, params, c), NO_WEIGHTS),
        ("performer", run_on(8, **DROPPING), "attention_dropout drops attention weights, which a Performer never"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(kind, call, says):
    config, params = small(kind, attention_length=8)
    with pytest.raises(ValueError, match=says):
        call(config, params)


def test_what_is_just_possible_is_not_refused():
    config, params = small("linformer", attention_length=8)
    assert mq.predict(params, random_tokens(config, 7, 0), config).shape == (3,)
    assert not np.allclose(run_on(7, **DROPPING)(config, params), run_on(7)(config, params))
    z, own = parts(attention="linformer", attention_length=8)
    with pytest.raises(ValueError, match="a sequence of 9 tokens, but E has 8 columns"):
        linformer(z, allowed_pairs(VALID), own, mq.OFFICIAL)


@every_kind
def test_every_token_hears_every_valid_one_and_no_other(kind):
    """Neither is causal; padding reaches nobody, in both forms of the mask; order matters to a Linformer alone."""
    z, params = parts(**KINDS[kind])
    pair = efficient_msa(SMALL.replace(**KINDS[kind]))
    assert pair

    def run(z, valid=VALID, allow=allowed_keys):
        return pair[0](z, allow(valid), params, mq.OFFICIAL)[0]

    for valid in (VALID, VALID[:, ::-1]):
        assert np.array_equal(run(z, valid), run(z, valid, allowed_pairs))
    before = run(z)
    for n in range(N):
        moved = z.copy()
        moved[:, n] += np.random.default_rng(n).standard_normal((B, D))
        changed = np.delete(np.abs(run(moved) - before).max(axis=-1), n, axis=1)
        assert ((changed > 1e-9) == VALID[:, [n]]).all()
        assert not changed[~VALID[:, n]].any()
    order = np.random.default_rng(0).permutation(N)
    error = np.abs((run(z[:, order], VALID[:, order]) - before[:, order])[VALID[:, order]]).max()
    assert error < 1e-12 if kind in ("performer", "without ε") else error > 1e-3


@every_kind
def test_padding_between_and_behind_changes_nothing_in_any_way_to_compute(kind, monkeypatch):
    def never(*arguments, **options):
        raise AssertionError("a team computes softmax attention alone")

    monkeypatch.setattr("musiq_ref.model.inference.logits_by_team", never)
    monkeypatch.setattr("musiq_ref.model.gradient_by_team.gradient_by_team", never)
    (config, params), image = small(kind, outputs=1), deterministic_image(2, 60, 90)
    tokens = mq.tokenize(image, config, "float64")
    assert not tokens.mask.all()
    logits, cache = mq.forward(params, mq.batch([tokens]), config)
    longer = mq.batch([tokens, random_tokens(config, len(tokens.mask) + 9, 1)])
    assert mq.forward(params, longer, config)[0][0] == pytest.approx(logits[0], rel=5e-13)
    assert mq.predict(params, tokens, config) == pytest.approx(logits[0], rel=5e-13)
    value, dimage = mq.image_gradient(image, params, config, pixel_dtype="float64")
    expected = tokenize_backward(mq.backward(np.ones((1, 1)), cache).patches[0], 60, 90, config)
    assert value == pytest.approx(logits[0, 0], rel=5e-13)
    np.testing.assert_allclose(dimage, expected, rtol=1e-12, atol=1e-13 * np.abs(expected).max())
    softmax = {path: a for path, a in flatten(params) if not path.endswith(("/E", "/F"))}
    exact, _ = mq.forward(nest(softmax), mq.batch([tokens]), SMALL.replace(outputs=1))
    assert abs(exact[0, 0] - logits[0, 0]) > 1e-3


@every_kind
def test_keeping_less_gives_the_same(kind):
    config, params = small(kind)
    tokens, results = mq.batch([random_tokens(config, 9, 0), random_tokens(config, 7, 1)]), []
    for recompute in (False, "attention", True):
        noise = mq.Noise(np.random.default_rng(1), dropout=0.1, stochastic_depth=0.2)
        logits, cache = mq.forward(params, tokens, config, noise=noise, recompute=recompute)
        gradients = mq.backward(np.random.default_rng(0).standard_normal((2, 3)), cache)
        results.append([logits, gradients.patches, *(a for _, a in sorted(flatten(gradients.params)))])
    for other in results[1:]:
        assert all(np.allclose(a, b, rtol=1e-12, atol=1e-13) for a, b in zip(results[0], other, strict=True))


@every_kind
def test_no_array_grows_with_the_square_of_the_tokens(kind):
    """Of four times as many tokens four times the memory, as softmax attention's is not."""
    config = mq.MusiqConfig.preset("tiny", patch_size=4, width=8, heads=2, mlp_width=8, layers=1, stem="linear")

    def growth(config):
        peaks = []
        for n in (400, 1600):
            params, tokens = mq.init_params(config), mq.batch([random_tokens(config, n, 0, "float32")])
            tracemalloc.start()
            logits, cache = mq.forward(params, tokens, config)
            mq.backward(logits, cache)
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
        return peaks[1] / peaks[0]

    assert growth(config) > 10
    assert growth(config.replace(**{**KINDS[kind], "attention_length": 1700})) < 4.5


@pytest.mark.parametrize(
    ("kind", "own"),
    [
        ("softmax", {"logits", "weights"}),
        ("performer", {"query_features", "key_features"}),
        ("linformer", {f"compressed_{name}" for name in ("key", "value", "logits", "weights")}),
    ],
)
def test_the_taps_say_what_there_is(kind, own):
    config = SMALL.replace(**KINDS.get(kind, {}))
    values, gradients = trace(random_params(config), mq.batch([random_tokens(config, 6, 1)]), config, np.ones((1, 3)))
    assert {name: a.shape for name, a in values.items()} == {name: a.shape for name, a in gradients.items()}
    found = {name.rpartition("/")[2] for name in values if "block_01/attention/" in name}
    assert found == {"query", "key", "value", "heads", "out"} | own


@pytest.mark.parametrize("factor", [1, 300])
def test_a_performers_rollout_is_of_the_weights_it_implies(factor):
    """Of queries and keys that are huge, too, whose normalisers are not above ε and get two more."""
    config, params = tiny("performer", "float64")
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


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--most", "63"], "--most is 63; the shortest sequence measured has 64 tokens"),
        (["--photographs", "-1"], "--photographs is -1; there are 8"),
        (["-o", __file__], "is a file; name a folder with -o"),
    ],
)
def test_the_benchmark_refuses_what_it_cannot_measure(arguments, says, monkeypatch, capsys):
    script = Path(__file__).resolve().parent.parent / "benchmarks" / "attention.py"
    monkeypatch.setattr(sys, "argv", [str(script), *arguments])
    with pytest.raises(SystemExit, match="2"):
        runpy.run_path(str(script), run_name="__main__")
    assert says in capsys.readouterr().err
