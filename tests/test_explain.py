"""Attention rollout against its definition, and the picture."""

from __future__ import annotations

import re
import threading
import time
import tracemalloc

import numpy as np
import pytest
from cupy_double import BACKEND, counters
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import musiq_ref as mq
from musiq_ref import scorers
from musiq_ref.backend import NUMPY
from musiq_ref.cli import main
from musiq_ref.explain import picture, report, rollout_by_team
from musiq_ref.image.tokenize import drop_padding, scales_of
from musiq_ref.verify import deterministic_params, trace

CONFIG = mq.MusiqConfig.preset("tiny", outputs=10)
PARAMS = deterministic_params(CONFIG, 4, "float64")


def test_rollout_is_the_product_of_all_layers(rng):
    image = rng.integers(0, 256, (100, 170, 3), dtype=np.uint8)
    tokens = drop_padding(mq.tokenize(image, CONFIG))
    values, _ = trace(PARAMS, mq.batch([tokens]), CONFIG)
    product = np.eye(1 + len(tokens.mask))
    for i in range(CONFIG.layers):
        mixed = 0.5 * values[f"encoder/block_{i:02d}/attention/weights"][0].mean(axis=0) + 0.5 * np.eye(len(product))
        product = mixed @ product
    maps = mq.attention_rollout(PARAMS, mq.tokenize(image, CONFIG), CONFIG)
    np.testing.assert_allclose(np.concatenate([m.ravel() for m in maps]), product[0, 1:], rtol=1e-12)
    assert sum(m.sum() for m in maps) + product[0, 0] == pytest.approx(1)


def test_rollout_of_float32_weights_is_computed_in_float64(rng):
    params = deterministic_params(CONFIG, 4, "float32")
    tokens = drop_padding(mq.tokenize(rng.integers(0, 256, (100, 170, 3), dtype=np.uint8), CONFIG))
    values, _ = trace(params, mq.batch([tokens]), CONFIG)
    flow = np.eye(1 + len(tokens.mask))[:1]
    for i in reversed(range(CONFIG.layers)):
        weights = values[f"encoder/block_{i:02d}/attention/weights"]
        assert weights.dtype == np.float32
        mixed = weights[0].mean(axis=0).astype(np.float64) + np.eye(len(weights[0, 0]))
        flow = flow @ (mixed / mixed.sum(axis=1, keepdims=True))
    maps = mq.attention_rollout(params, tokens, CONFIG)
    np.testing.assert_allclose(np.concatenate([m.ravel() for m in maps]), flow[0, 1:], rtol=1e-12)


@pytest.mark.parametrize("rows", [1, 7, 192])
@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize(("dtype", "rtol"), [("float64", 1e-11), ("float32", 1e-4)])
def test_the_team_rolls_out_the_same(rng, monkeypatch, dtype, rtol, threads, rows):
    monkeypatch.setattr(rollout_by_team, "ROWS", rows)
    params = deterministic_params(CONFIG, 4, dtype)
    tokens = mq.tokenize(rng.integers(0, 256, (100, 170, 3), dtype=np.uint8), CONFIG)
    maps = mq.attention_rollout(params, tokens, CONFIG)
    flow = rollout_by_team.rollout_by_team(params, tokens, CONFIG, threads)
    np.testing.assert_allclose(flow[1:], np.concatenate([m.ravel() for m in maps]), rtol=rtol)
    assert flow.sum() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("change", [{"max_native_patches": 3}, {"stem": "linear"}, {"attention": "performer"}])
def test_the_maps_of_other_models(rng, change):
    config, size = CONFIG.replace(**change), (100, 170)
    params = deterministic_params(config, 4, "float64")
    tokens = mq.tokenize(rng.integers(0, 256, (*size, 3), dtype=np.uint8), config)
    for mine, theirs in zip(
        rollout_by_team.rollout_maps(params, tokens, config, size),
        mq.attention_rollout(params, tokens, config, size),
        strict=True,
    ):
        np.testing.assert_allclose(mine, theirs, rtol=1e-10)


def test_the_team_keeps_no_weights():
    config = CONFIG.replace(patch_size=4, longer_sides=(40,), stem="linear")
    tokens = mq.tokenize(np.full((160, 200, 3), 90, np.uint8), config)
    params, most = deterministic_params(config, 4), len(tokens.mask) ** 2 * 4  # one array of N² numbers
    rollout_by_team.rollout_by_team(params, tokens, config, 1)
    tracemalloc.start()
    rollout_by_team.rollout_by_team(params, tokens, config, 1)
    assert tracemalloc.get_traced_memory()[1] < most
    tracemalloc.stop()


def shapes_agree(config, height, width, size):
    tokens = mq.tokenize(np.zeros((height, width, 3), np.uint8), config)
    maps = mq.attention_rollout(mq.init_params(config), tokens, config, size)
    for scale, weights in zip(scales_of(height, width, config), maps, strict=True):
        assert weights.shape == (scale.rows, scale.columns)
        assert np.isfinite(weights.ravel()[: scale.kept]).all()
        assert np.isnan(weights.ravel()[scale.kept :]).all()


@given(st.integers(1, 300), st.integers(1, 300), st.integers(1, 10), st.sampled_from([-1, 3]))
def test_maps_have_the_shape_of_their_scale(height, width, grid_size, most):
    config = mq.MusiqConfig(
        layers=1,
        width=4,
        heads=2,
        mlp_width=3,
        patch_size=12,
        grid_size=grid_size,
        longer_sides=(40,),
        max_native_patches=most,
    )
    height, width = max(height, -(-width // 20)), max(width, -(-height // 20))
    shapes_agree(config, height, width, (height, width))
    if grid_size > 1 and most < 0:
        shapes_agree(config, height, width, None)


@pytest.mark.parametrize("change", [{"grid_size": 1}, {"max_native_patches": 3}])
def test_what_cannot_be_laid_out_asks_for_the_size(change):
    config = CONFIG.replace(**change)
    with pytest.raises(ValueError, match="pass size="):
        mq.attention_rollout(mq.init_params(config), mq.tokenize(np.zeros((60, 60, 3), np.uint8), config), config)


def test_the_picture_is_written(tmp_path, rng, capsys):
    photograph, out = tmp_path / "a.png", tmp_path / "out.png"
    Image.fromarray(rng.integers(0, 256, (80, 120, 3), dtype=np.uint8)).save(photograph)
    mq.save_checkpoint(tmp_path / "tiny.safetensors", deterministic_params(CONFIG, 4), CONFIG)
    assert main(["explain", str(photograph), "-o", str(out), "--checkpoint", str(tmp_path / "tiny.safetensors")]) == 0
    assert str(out) in capsys.readouterr().out
    with Image.open(out) as drawn:
        pixels = np.asarray(drawn)
    assert pixels.shape[1] > 1000
    assert pixels.std() > 10


def test_a_photograph_with_many_patches_is_explained(tmp_path, rng, capsys):
    Image.fromarray(rng.integers(0, 256, (1700, 1700, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    mq.save_checkpoint(tmp_path / "tiny.safetensors", deterministic_params(CONFIG, 4), CONFIG)
    out = tmp_path / "out.html"
    command = ["explain", str(tmp_path / "a.png"), "-o", str(out), "--checkpoint", str(tmp_path / "tiny.safetensors")]
    assert main(command) == 0
    assert "54×54" in out.read_text("utf-8")
    assert "has 3109 patches, and the time grows with their square" in capsys.readouterr().err


@pytest.mark.parametrize(("attention", "backend"), [("performer", "numpy"), ("softmax", "cupy")])
def test_what_is_kept_whole_has_a_limit_and_the_refusal_names_a_size(attention, backend):
    checkpoint = mq.Checkpoint({}, mq.MusiqConfig(attention=attention), "native", None)
    with pytest.raises(ValueError, match=r"23631 patches; .* reduce it to 1\d\d\d×1\d\d\d pixels, say$") as refused:
        report.check_patches(4000, 6000, checkpoint, backend)
    height, width = map(int, re.findall(r"(\d+)×(\d+)", str(refused.value))[1])
    report.check_patches(height, width, checkpoint, backend)
    with pytest.raises(ValueError, match="patches"):
        report.check_patches(int(1.05 * height), int(1.05 * width), checkpoint, backend)


def test_what_no_reduction_makes_small_enough_is_refused_without_a_size():
    checkpoint = mq.Checkpoint({}, mq.MusiqConfig(patch_size=8), "native", None)
    with pytest.raises(ValueError, match=r"the resized scales alone have too many$"):
        report.check_patches(900, 900, checkpoint, "cupy")


def test_the_picture_of_made_up_weights_says_so(tmp_path, monkeypatch, capsys):
    made_up = mq.Checkpoint(deterministic_params(CONFIG, 4), CONFIG, "deterministic", None)
    monkeypatch.setattr("musiq_ref.cli.explain.load_checkpoint", lambda name: made_up)
    Image.new("RGB", (80, 60), "green").save(tmp_path / "a.png")
    assert main(["explain", str(tmp_path / "a.png"), "-o", str(tmp_path / "out.png")]) == 0
    assert "MEAN NOTHING" in capsys.readouterr().err


@pytest.mark.parametrize("made", ["report", "picture"])
def test_score_and_gradient_may_come_from_a_device(monkeypatch, made):
    for module in (report, picture, scorers):
        monkeypatch.setattr(f"{module.__name__}.get_backend", lambda name: BACKEND if name == "double" else NUMPY)
    checkpoint, image = mq.Checkpoint(PARAMS, CONFIG, "native", None), np.full((60, 80, 3), 90, np.uint8)
    pages = []
    for backend in ("numpy", "double"):
        counters.reset()
        if made == "report":
            pages.append(report.report(image, checkpoint, backend=backend))
        else:
            pages.append(picture.picture(image, checkpoint, backend).axes[0].get_title())
        assert (counters.synchronisations > 0) == (backend == "double")
    shown = [re.findall(r"[Ss]core (?:<[^>]*>)?([0-9.]+)", page)[:1] for page in pages]
    assert shown[0] == shown[1] != []


def test_a_picture_takes_no_links(tmp_path, capsys):
    out = tmp_path / "out.png"
    assert main(["explain", "photo.png", "-o", str(out), "--follow", "page.html"]) == 2
    assert "--follow puts links into a page" in capsys.readouterr().err


def test_where_a_member_of_the_rollouts_team_fails_the_others_stop(monkeypatch):
    calls = []

    def mlp(x, *_):
        if threading.current_thread() is not threading.main_thread():
            raise MemoryError("no room")
        calls.append(len(x))
        time.sleep(0.02)

    monkeypatch.setattr(rollout_by_team, "mlp", mlp)
    monkeypatch.setattr(rollout_by_team, "ROWS", 1)
    tokens = mq.tokenize(np.zeros((96, 128, 3), np.uint8), CONFIG)
    with pytest.raises(MemoryError, match="no room"):
        rollout_by_team.rollout_by_team(PARAMS, tokens, CONFIG, 2)
    assert len(calls) < 40  # of 81 in the first block
