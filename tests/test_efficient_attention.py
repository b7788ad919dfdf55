"""Performer and Linformer together, and a Linformer by itself: what they compute, and their gradients."""

from __future__ import annotations

import runpy
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from op_table import random_params
from test_model import SMALL, random_tokens
from test_variants import KINDS, every_kind

import musiq_ref as mq
from musiq_ref.explain import attention_of_head
from musiq_ref.image.tokenize import tokenize_backward
from musiq_ref.model.attention import allowed_keys, allowed_pairs, attention
from musiq_ref.model.efficient import efficient_msa
from musiq_ref.model.linformer import linformer, linformer_backward
from musiq_ref.model.parameters import flatten, nest
from musiq_ref.verify import deterministic_image, deterministic_params, trace

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


def seen_by(run, z, params, valid=VALID, **options):
    """What an attention shows its tap."""
    seen = {}
    run(z, allowed_pairs(valid), params, mq.OFFICIAL, lambda name, a: seen.setdefault(name, a), **options)
    return seen


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
