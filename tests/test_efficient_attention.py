"""Performer and Linformer: what they compute, their gradients, and that every part of the library knows them."""

from __future__ import annotations

import json
import runpy
import sys
import tracemalloc
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from op_table import CONFIG, random_params
from safetensors.numpy import load_file, save_file
from test_complexity import Counted
from test_model import SMALL, random_tokens

import musiq_ref as mq
from musiq_ref.checkpoint import to_official
from musiq_ref.checkpoint.pyiqa import PYIQA_LAYOUT
from musiq_ref.cli import main
from musiq_ref.explain import attention_of_head
from musiq_ref.explain.weights import watch_weights
from musiq_ref.image.tokenize import drop_padding, tokenize_backward
from musiq_ref.model import performer as favor
from musiq_ref.model.attention import allowed_keys, allowed_pairs, attention
from musiq_ref.model.efficient import efficient_msa
from musiq_ref.model.linformer import linformer, linformer_backward
from musiq_ref.model.parameters import add_params, flatten, map_params, nest, parameter_shapes
from musiq_ref.training.run import train
from musiq_ref.training.settings import Settings
from musiq_ref.verify import GradientError, check_vjp, compare, deterministic_image, deterministic_params, trace
from musiq_ref.verify.ladder.fixture import build_fixture, write_fixture
from musiq_ref.verify.ladder.stages import run_stages

KINDS = {
    "performer": {"attention": "performer", "attention_rank": 6, "attention_seed": 3},
    "without ε": {"attention": "performer", "attention_rank": 6, "attention_eps": 0.0},
    "linformer": {"attention": "linformer", "attention_rank": 5, "attention_length": 700},
    "shared": {"attention": "linformer", "attention_rank": 5, "attention_length": 700, "attention_shared": True},
}
every_kind = pytest.mark.parametrize("kind", KINDS)
B, N, D, H = 2, 9, 12, 3
VALID = np.array([[True] * 9, [True, False, True, True, False, False, True, False, False]])


def parts(seed=0, **changes):
    """z (B, N, D) and the parameters of one attention, small enough for weights that are not all or nothing."""
    config = mq.MusiqConfig(layers=1, width=D, mlp_width=2, heads=H, **changes)
    params = deterministic_params(config, 5, "float64")["encoder"]["block_00"]["attention"]
    return np.random.default_rng(seed).standard_normal((B, N, D)), params


def msa_of(kind):
    pair = efficient_msa(SMALL.replace(**KINDS[kind]))
    assert pair
    return pair[0]


def heads_of(pair, *arguments, **options):
    seen = {}
    pair(*arguments, tap=lambda name, array: seen.setdefault(name, array), **options)
    return seen["heads"]


# ---- Performer


def exponentials(draws, q, k):
    """Of every pair (i, n) the estimate of exp(q_i·k_n/√D_h), without ε and with the maxima multiplied back."""
    phi = [
        favor.features(x[None, None], draws, valid, eps=0.0)
        for x, valid in ((q, None), (k, np.ones((1, 1, 1, 1), bool)))
    ]
    peaks = [np.max(x * x.shape[-1] ** -0.25 @ draws.T, axis=axis, keepdims=True) for x, axis in ((q, -1), (k, None))]
    return phi[0][0][0, 0] @ phi[1][0][0, 0].T * np.exp(peaks[0] + peaks[1])


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
    z = 0.3 * z
    exact = heads_of(attention, z, allowed_pairs(VALID), params, mq.OFFICIAL)

    def rms(rank):
        found = [
            heads_of(favor.performer, z, allowed_pairs(VALID), params, mq.OFFICIAL, rank=rank, seed=s)
            for s in range(40)
        ]
        return np.sqrt(np.mean([(heads - exact).swapaxes(1, 2)[VALID] ** 2 for heads in found]))

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
    """Written out with loops, ε and both maxima; a padded key is nowhere."""
    z, params = parts()
    seen = {}
    favor.performer(z, allowed_pairs(VALID), params, mq.OFFICIAL, lambda n, a: seen.setdefault(n, a), rank=7, seed=2)
    W, D_h = favor.random_features(7, D // H, 2), D // H
    for b in range(B):
        for h in range(H):
            q, v = seen["query"][b, h], seen["value"][b, h][VALID[b]]
            k = seen["key"][b, h][VALID[b]]
            stable = max(w @ x / D_h**0.25 for w in W for x in k)

            def phi(x, peak, W=W, D_h=D_h):
                return np.array([np.exp(w @ x / D_h**0.25 - x @ x / (2 * D_h**0.5) - peak) + 1e-6 for w in W]) / 7**0.5

            for i in np.flatnonzero(VALID[b]):
                mine = phi(q[i], max(w @ q[i] / D_h**0.25 for w in W))
                weights = np.array([mine @ phi(x, stable) for x in k])
                assert weights.sum() > 1e-6
                np.testing.assert_allclose(seen["heads"][b, h, i], weights @ v / weights.sum(), rtol=1e-13, atol=1e-14)


def test_a_normaliser_that_is_not_above_epsilon_gets_two_more():
    """Of huge queries and keys nothing but ε² is left of the products; without ε, of some nothing at all."""
    z, params = parts()
    huge = {**params, **{name: map_params(lambda a: 100 * a, params[name]) for name in ("query", "key")}}
    for eps in (1e-6, 0.0):
        seen = {}
        favor.performer(
            z, allowed_pairs(VALID), huge, mq.OFFICIAL, lambda n, a, seen=seen: seen.setdefault(n, a), rank=7, eps=eps
        )
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
    x = 0.7 * rng.standard_normal((B, H, N, 4))
    run = lambda x: favor.features(x, draws, valid, eps=0.1)  # noqa: E731
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
    config = SMALL.replace(**KINDS["performer"])
    params, tokens = mq.init_params(SMALL), mq.batch([random_tokens(SMALL, 8, 0)])
    assert parameter_shapes(config) == parameter_shapes(SMALL)
    assert mq.forward(params, tokens, config)[0].shape == (1, 3)
    loaded = mq.load_checkpoint("demo")
    image = deterministic_image(1, 96, 128)
    exact, near, far = (
        mq.score([image], loaded._replace(config=loaded.config.replace(**changes)))[0].value
        for changes in (
            {},
            *({"attention": "performer", "attention_rank": rank, "attention_eps": 0} for rank in (4096, 4)),
        )
    )
    assert abs(near - exact) < abs(far - exact)


# ---- Linformer


def test_with_identities_it_is_softmax_attention():
    z, params = parts()
    allowed = allowed_pairs(np.ones((B, N), bool))
    identities = {**params, "E": np.eye(N, N + 2), "F": np.eye(N, N + 2)}
    exact, _ = attention(z, allowed, params, mq.OFFICIAL)
    for given in (identities, {**params, "E": np.eye(N, N + 2)}):  # shared: F is E
        y, _ = linformer(z, allowed, given, mq.OFFICIAL)
        np.testing.assert_allclose(y, exact, rtol=1e-14, atol=1e-14)
    y, _ = linformer(z, allowed, {**identities, "F": np.eye(N, N + 2)[::-1]}, mq.OFFICIAL)
    assert np.abs(y - exact).max() > 1e-2


def test_it_is_the_formula_on_the_valid_tokens_alone():
    z, params = parts(attention="linformer", attention_rank=4, attention_length=11)
    heads = heads_of(linformer, z, allowed_pairs(VALID), params, mq.OFFICIAL)
    for b in range(B):
        q, k, v = (
            np.einsum("nd,dhk->hnk", z[b][VALID[b]], params[n]["kernel"]) + params[n]["bias"][:, None]
            for n in ("query", "key", "value")
        )
        E, F = (params[name][:, : VALID[b].sum()] for name in "EF")
        logits = q @ (E @ k).swapaxes(-1, -2) / np.sqrt(D // H)
        weights = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
        np.testing.assert_allclose(heads[b][:, VALID[b]], weights @ (F @ v), rtol=1e-13, atol=1e-14)


def test_longer_than_its_matrices_is_refused_in_a_sentence():
    config = SMALL.replace(attention="linformer", attention_rank=3, attention_length=8)
    params = random_params(config)
    for call in (
        lambda: mq.forward(params, mq.batch([random_tokens(config, 8, 0)]), config),
        lambda: mq.predict(params, random_tokens(config, 8, 0), config),
    ):
        with pytest.raises(
            ValueError, match=r"9 tokens with the class token, .* Linformer takes 8 \(attention_length\)"
        ):
            call()
    assert mq.predict(params, random_tokens(config, 7, 0), config).shape == (3,)
    z, own = parts(attention="linformer", attention_length=8)
    with pytest.raises(ValueError, match="a sequence of 9 tokens, but E has 8 columns"):
        linformer(z, allowed_pairs(VALID), own, mq.OFFICIAL)


def test_the_gradient_of_a_dropped_weight_is_seen_as_zero():
    z, params = parts(attention="linformer", attention_rank=4, attention_length=11)
    noise, seen = mq.Noise(np.random.default_rng(0), attention_dropout=0.5), {}
    _, cache = linformer(z, allowed_keys(VALID), params, mq.OFFICIAL, noise=noise)
    dropped = cache["factors"][3] == 0
    linformer_backward(np.ones_like(z), cache, lambda name, array: seen.setdefault(name, array))
    assert 0 < dropped.mean() < 1
    assert np.array_equal(seen["compressed_weights"] == 0, dropped)


# ---- both


@every_kind
def test_gradient_from_the_logits_to_the_pixels_and_parameters(kind):
    config = CONFIG.replace(**{**KINDS[kind], "attention_length": 17})

    def forward(image, params):
        logits, cache = mq.forward(params, mq.batch([mq.tokenize(image, config)]), config)
        return logits, (cache, image.shape)

    def backward(dlogits, caches):
        gradients = mq.backward(dlogits, caches[0])
        return tokenize_backward(gradients.patches[0], caches[1][0], caches[1][1], config), gradients.params

    inputs = [0.1 + 0.8 * np.random.default_rng(4).random((13, 19, 3)), random_params(config)]
    assert check_vjp(forward, backward, inputs) < 1e-6
    with pytest.raises(GradientError):
        check_vjp(forward, lambda d, c: (backward(d, c)[0][::-1], backward(d, c)[1]), inputs)


@every_kind
def test_the_mask_of_pairs_and_the_mask_of_keys_are_the_same(kind):
    z, params = parts(**KINDS[kind])
    run = msa_of(kind)
    for valid in (VALID, VALID[:, ::-1]):
        pairs, keys = (run(z, allow(valid), params, mq.OFFICIAL)[0] for allow in (allowed_pairs, allowed_keys))
        assert np.array_equal(pairs, keys)


@every_kind
def test_every_token_depends_on_every_valid_one_and_on_no_other(kind):
    """No causality: the first on the last as well as the last on the first; padding reaches nobody."""
    z, params = parts(**KINDS[kind])
    run = msa_of(kind)
    before, _ = run(z, allowed_keys(VALID), params, mq.OFFICIAL)
    for n in range(N):
        moved = z.copy()
        moved[:, n] += np.random.default_rng(n).standard_normal((B, D))
        after, _ = run(moved, allowed_keys(VALID), params, mq.OFFICIAL)
        others = np.arange(N) != n
        changed = np.abs(after - before).max(axis=-1)[:, others]
        for b in range(B):
            assert (changed[b] > 1e-9).all() if VALID[b, n] else (changed[b] == 0).all()


def test_the_order_of_tokens_matters_to_a_linformer_alone():
    order = np.random.default_rng(0).permutation(N)
    for kind, same in (("performer", True), ("linformer", False), ("shared", False)):
        z, params = parts(**KINDS[kind])
        run = msa_of(kind)
        straight, _ = run(z, allowed_keys(VALID), params, mq.OFFICIAL)
        shuffled, _ = run(z[:, order], allowed_keys(VALID[:, order]), params, mq.OFFICIAL)
        error = np.abs((shuffled - straight[:, order])[VALID[:, order]]).max()
        assert (error < 1e-12) == same
        assert same or error > 1e-3


@every_kind
def test_padding_between_and_behind_changes_nothing_in_any_way_to_compute(kind, monkeypatch):
    def never(*arguments, **options):
        raise AssertionError("a team computes softmax attention alone")

    monkeypatch.setattr("musiq_ref.model.inference.logits_by_team", never)
    monkeypatch.setattr("musiq_ref.model.gradient_by_team.gradient_by_team", never)
    config = SMALL.replace(**KINDS[kind], outputs=1)
    params, image = random_params(config), deterministic_image(2, 60, 90)
    tokens = mq.tokenize(image, config, "float64")
    assert not tokens.mask.all()
    logits, cache = mq.forward(params, mq.batch([tokens]), config)
    longer = mq.batch([tokens, random_tokens(config, len(tokens.mask) + 9, 1)])
    assert mq.forward(params, longer, config)[0][0] == pytest.approx(logits[0], rel=5e-13)
    assert mq.predict(params, tokens, config) == pytest.approx(logits[0], rel=5e-13)
    value, dimage = mq.image_gradient(image, params, config, pixel_dtype="float64")
    dpatches = mq.backward(np.ones((1, 1)), cache).patches[0]
    expected = tokenize_backward(dpatches, 60, 90, config)
    assert value == pytest.approx(logits[0, 0], rel=5e-13)
    np.testing.assert_allclose(dimage, expected, rtol=1e-12, atol=1e-13 * np.abs(expected).max())
    softmax = {path: a for path, a in flatten(params) if not path.endswith(("/E", "/F"))}
    exact, _ = mq.forward(nest(softmax), mq.batch([tokens]), SMALL.replace(outputs=1))
    assert abs(exact[0, 0] - logits[0, 0]) > 1e-3


@every_kind
def test_keeping_less_gives_the_same(kind):
    config = SMALL.replace(**KINDS[kind])
    params, tokens = random_params(config), mq.batch([random_tokens(config, 9, 0), random_tokens(config, 7, 1)])
    dlogits, results = np.random.default_rng(0).standard_normal((2, 3)), []
    for recompute in (False, "attention", True):
        noise = mq.Noise(np.random.default_rng(1), dropout=0.1, stochastic_depth=0.2)
        logits, cache = mq.forward(params, tokens, config, noise=noise, recompute=recompute)
        gradients = mq.backward(dlogits, cache)
        results.append([logits, gradients.patches, *(a for _, a in sorted(flatten(gradients.params)))])
    for other in results[1:]:
        assert all(np.allclose(a, b, rtol=1e-12, atol=1e-13) for a, b in zip(results[0], other, strict=True))


def test_dropped_attention_weights_need_weights():
    noise, tokens = mq.Noise(np.random.default_rng(0), attention_dropout=0.5), mq.batch([random_tokens(SMALL, 8, 0)])
    config = SMALL.replace(**KINDS["performer"])
    with pytest.raises(ValueError, match="attention_dropout drops attention weights, which a Performer never computes"):
        mq.forward(random_params(config), tokens, config, noise=noise)
    config = SMALL.replace(**KINDS["linformer"])
    dropped, _ = mq.forward(random_params(config), tokens, config, noise=noise)
    assert not np.allclose(dropped, mq.forward(random_params(config), tokens, config)[0])


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


@every_kind
def test_counts_are_of_arrays_and_multiplications_that_are_there(kind):
    config = mq.MusiqConfig.preset("tiny", outputs=10, longer_sides=(60, 90), **KINDS[kind])
    params = deterministic_params(config, 1)
    counted = mq.complexity(config, (40, 150))
    assert counted.parameters == sum(counted.parameters_by_part.values()) == sum(a.size for _, a in flatten(params))
    tokens = mq.batch([mq.tokenize(np.zeros((40, 150, 3), np.uint8), config)])
    Counted.macs = 0
    tokens = tokens._replace(patches=tokens.patches.view(Counted))
    mq.forward(map_params(lambda a: a.view(Counted), params), tokens, config)
    assert counted.macs == sum(counted.macs_by_part.values()) == Counted.macs


def test_the_taps_say_what_there_is():
    both = {"query", "key", "value", "heads", "out"}
    own = {
        "softmax": {"logits", "weights"},
        "performer": {"query_features", "key_features"},
        "linformer": {f"compressed_{name}" for name in ("key", "value", "logits", "weights")},
    }
    for kind, names in own.items():
        config = SMALL.replace(**KINDS.get(kind, {}))
        values, gradients = trace(
            random_params(config), mq.batch([random_tokens(config, 6, 1)]), config, np.ones((1, 3))
        )
        assert set(values) == set(gradients)
        found = {name.rpartition("/")[2] for name in values if "block_01/attention/" in name}
        assert found == both | names
        assert all(values[name].shape == gradients[name].shape for name in values)


@every_kind
def test_a_native_file_holds_it_and_others_refuse_it(kind, tmp_path, capsys):
    config = mq.MusiqConfig.preset("tiny", **KINDS[kind])
    params, path = deterministic_params(config, 1), tmp_path / "a.safetensors"
    mq.save_checkpoint(path, params, config)
    loaded = mq.load_checkpoint(path)
    assert loaded.config == config
    assert all(np.array_equal(a, b) for (_, a), (_, b) in zip(flatten(params), flatten(loaded.params), strict=True))
    image = deterministic_image(1, 50, 70)
    logits, _ = mq.forward(params, mq.batch([mq.tokenize(image, config)]), config)
    assert mq.score([image], loaded)[0].value == pytest.approx(float(logits[0, 0]), rel=2e-6, abs=2e-7)
    assert main(["convert", str(path), str(tmp_path / "a.npz")]) == 2
    message = capsys.readouterr().err
    if config.attention == "performer":
        assert "attention = performer, and loads with softmax" in message
    else:
        assert "attention/E" in message
        with pytest.raises(mq.CheckpointError, match="keep this model in the native layout"):
            to_official(params)
    assert not (tmp_path / "a.npz").exists()


def test_a_linformers_matrices_are_loaded_strictly(tmp_path):
    config = mq.MusiqConfig.preset("tiny", **KINDS["linformer"])
    params = deterministic_params(config, 1)
    for change, message in (
        ({"attention": "softmax"}, "2 unexpected|4 unexpected"),
        ({"attention_shared": True}, "unexpected"),
        ({"attention_rank": 4}, "misshapen"),
    ):
        mq.save_checkpoint(tmp_path / "a.safetensors", params, config)
        with pytest.raises(mq.CheckpointError, match=message):
            mq.load_checkpoint(tmp_path / "a.safetensors", config=config.replace(**change))
    with pytest.raises(mq.CheckpointError, match=r"missing \(.*attention/E"):
        mq.load_checkpoint("demo", config=mq.load_checkpoint("demo").config.replace(attention="linformer"))


def test_files_from_before_there_was_a_choice_are_softmax(tmp_path):
    config, path = mq.MusiqConfig.preset("tiny"), tmp_path / "a.safetensors"
    values = {k: v for k, v in config.to_dict().items() if not k.startswith("attention")}
    mq.save_checkpoint(path, deterministic_params(config, 1), config)
    metadata = {"format": "musiq_ref", "musiq_ref_config": json.dumps(values)}
    save_file(load_file(path), tmp_path / "old.safetensors", metadata=metadata)
    assert mq.load_checkpoint(tmp_path / "old.safetensors").config == config


@every_kind
def test_on_the_device_too(device, kind):
    config = SMALL.replace(**KINDS[kind])
    params, tokens = random_params(config), [random_tokens(config, n, n) for n in (6, 9)]
    dlogits = np.random.default_rng(0).standard_normal((2, 3))
    here, cache = mq.forward(params, mq.batch(tokens), config)
    gradients = mq.backward(dlogits, cache)
    remote = map_params(device.from_numpy, params)
    there, cache = mq.forward(remote, mq.Tokens(*map(device.from_numpy, mq.batch(tokens))), config)
    far = mq.backward(device.from_numpy(dlogits), cache)
    np.testing.assert_allclose(device.to_numpy(there), here, rtol=1e-9, atol=1e-9)
    for (path, a), (again, b) in zip(flatten(gradients.params), flatten(far.params), strict=True):
        assert path == again
        assert np.abs(device.to_numpy(b) - a).max() <= 1e-10 * max(np.abs(a).max(), 1e-3), path
    alone = device.to_numpy(mq.predict(remote, tokens[0], config, device))
    np.testing.assert_allclose(alone, here[0], rtol=1e-9)


def test_a_performers_rollout_is_of_the_weights_it_implies():
    config = mq.MusiqConfig.preset("tiny", **KINDS["performer"])
    params = deterministic_params(config, 1, "float64")
    tokens = drop_padding(mq.tokenize(deterministic_image(1, 50, 70), config, "float64"))
    values, _ = trace(params, mq.batch([tokens]), config)
    seen = {}
    watch_weights(params, tokens, config, seen.setdefault)
    assert list(seen) == [0, 1]
    for block, weights in seen.items():
        at = f"encoder/block_{block:02d}/attention"
        np.testing.assert_allclose(weights @ values[f"{at}/value"][0], values[f"{at}/heads"][0], rtol=5e-13, atol=1e-15)
    maps = mq.attention_rollout(params, tokens, config)
    assert 0 < sum(m.sum() for m in maps) < 1
    row = attention_of_head(deterministic_image(1, 50, 70), params, config, block=0, head=2)
    np.testing.assert_allclose(row, seen[0][2, 0, 1:], rtol=1e-4)  # of tokens in float32


def test_weights_whose_normaliser_is_not_above_epsilon_are_those_that_are_used():
    config = mq.MusiqConfig.preset("tiny", **KINDS["performer"])
    params = deterministic_params(config, 1, "float64")
    tokens = drop_padding(mq.tokenize(deterministic_image(1, 50, 70), config, "float64"))
    own = params["encoder"]["block_00"]["attention"]
    for name in ("query", "key"):  # of huge ones the normalisers are not above ε, and get two more
        own[name] = map_params(lambda a: 300 * a, own[name])
    values, _ = trace(params, mq.batch([tokens]), config)
    rows = []
    watch_weights(params, tokens, config, lambda _, weights: rows.append(weights))
    assert (rows[0].sum(axis=-1) < 0.9).any()
    at = "encoder/block_00/attention"
    np.testing.assert_allclose(rows[0] @ values[f"{at}/value"][0], values[f"{at}/heads"][0], rtol=1e-13, atol=1e-15)


def test_a_linformer_has_no_weights_to_roll_out():
    config = mq.MusiqConfig.preset("tiny", **KINDS["linformer"])
    params, image = deterministic_params(config, 1), deterministic_image(1, 50, 70)
    for call in (
        lambda: mq.attention_rollout(params, mq.tokenize(image, config), config),
        lambda: attention_of_head(image, params, config),
    ):
        with pytest.raises(ValueError, match=r"a Linformer has no attention weights from token to token: .* 5 sums"):
            call()


@every_kind
def test_training_changes_what_there_is_to_learn(kind, tmp_path):
    model = {"layers": 1, "width": 8, "mlp_width": 6, "heads": 2, "patch_size": 8, "grid_size": 3}
    model |= {"longer_sides": [16], **KINDS[kind]}
    settings = Settings(model=model, dataset="synthetic", side=24, epochs=2, epoch_images=12, batch=4, warmup=0)
    settings = settings.replace(optimizer="adam", learning_rate=0.001, ema=0.0, threads=1, loss="huber", seed=2)
    whole = train(settings, tmp_path / "whole", progress=False)
    first = mq.init_params(settings.config(), seed=2)
    last = mq.load_checkpoint(whole.last)
    assert last.config.attention == KINDS[kind]["attention"]
    for name in ("E", "F") if kind == "linformer" else ("E",) if kind == "shared" else ():
        before, after = (p["encoder"]["block_00"]["attention"][name] for p in (first, last.params))
        assert before.shape == after.shape
        assert not np.array_equal(before, after)


@every_kind
def test_a_few_steps_learn_a_batch_by_heart(kind):
    config = SMALL.replace(**KINDS[kind], outputs=1)
    params = deterministic_params(config, 4, "float64")
    tokens, targets = mq.batch([random_tokens(config, n, n) for n in (6, 8, 9)]), np.array([[0.3], [-0.4], [0.1]])
    losses = []
    for _ in range(30):
        logits, cache = mq.forward(params, tokens, config)
        losses.append(np.sum((logits - targets) ** 2))
        step = map_params(lambda g: -0.002 * g, mq.backward(2 * (logits - targets), cache, want_patches=False).params)
        params = add_params(params, step)
    assert losses[-1] < 0.2 * losses[0]


@every_kind
def test_a_fixture_carries_the_fields_and_is_its_own_port(kind, tmp_path):
    config = mq.MusiqConfig.preset("tiny", **KINDS[kind], longer_sides=(40,))
    mq.save_checkpoint(tmp_path / "a.safetensors", deterministic_params(config, 1), config)
    image = deterministic_image(2, 40, 50)
    fixture = build_fixture(checkpoint=tmp_path / "a.safetensors", image=image)
    assert fixture.config == config
    write_fixture(tmp_path / "fixture", fixture)
    manifest = json.loads((tmp_path / "fixture" / "manifest.json").read_text())
    assert {name: manifest["config"][name] for name in KINDS[kind]} == KINDS[kind]
    stages = run_stages(map_params(np.float32, fixture.params), image, config)
    assert compare(tmp_path / "fixture", stages, diagnose=False).passed
    if config.attention == "performer":
        other = run_stages(fixture.params, image, config.replace(attention_seed=9))
        result = compare(tmp_path / "fixture", other, diagnose=False)
        assert not result.passed
        assert result.first
        assert result.first.name == "encoder/block_00/attention/query_features"


@every_kind
def test_pytorchs_scores_and_gradients_are_ours(torch, kind):
    """Two images at once: autograd's gradient of the sum of the scores to every parameter, and ours by hand."""
    from musiq_ref.verify.torch_port import TorchMusiq

    small = {"patch_size": 8, "longer_sides": (20,), "grid_size": 4}
    config = mq.MusiqConfig.preset("tiny", outputs=10, conventions=mq.PYIQA, **small, **KINDS[kind])
    params = deterministic_params(config, 2, "float64")

    def renamed(nested):
        named = {}
        for path, array in flatten(nested):
            if path.endswith(("/E", "/F")):
                query = PYIQA_LAYOUT.name(path[:-1] + "query/bias")
                named[query.replace("query.bias", path[-1])] = array
            else:
                named[PYIQA_LAYOUT.name(path).replace("head.", "head.0.")] = PYIQA_LAYOUT.to_file(path, array)
        return {name: np.ascontiguousarray(array) for name, array in named.items()}

    model = TorchMusiq(config).double()
    model.load_state_dict({name: torch.tensor(array) for name, array in renamed(params).items()})
    pictures = [deterministic_image(seed, 20, 43) for seed in (3, 4)]
    scores = model(torch.tensor(np.stack(pictures)).permute(0, 3, 1, 2).double() / 255)
    scores.sum().backward()
    theirs = {name: p.grad.numpy() for name, p in model.named_parameters() if p.grad is not None}
    logits, cache = mq.forward(params, mq.batch([mq.tokenize(p, config, "float64") for p in pictures]), config)
    expected, cache_score = mq.expected_score(logits)
    np.testing.assert_allclose(expected.score, scores.detach().numpy(), rtol=1e-14)
    gradients = mq.backward(mq.expected_score_backward(np.ones_like(expected.score), cache_score), cache)
    ours = renamed(gradients.params)
    assert set(ours) == set(theirs)
    for name, gradient in ours.items():
        error = np.abs(gradient - theirs[name]).max()
        assert error < 5e-14 * max(np.linalg.norm(theirs[name]), 1e-3), name


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
