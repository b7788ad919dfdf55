"""The model as a whole: its gradient from loss to pixels, and what must hold for every model and every input."""

from __future__ import annotations

import math
import tracemalloc
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from op_table import CONFIG, CONVENTIONS, PARAMS, random_params
from strategies import EVERY, configs, images, seeds

import musiq_ref as mq
from musiq_ref.model.noise import Noise
from musiq_ref.model.parameters import flatten, map_params, parameter_shapes
from musiq_ref.model.stem import stem, stem_backward
from musiq_ref.verify import GradientError, check_vjp, deterministic_params, trace, unit

SMALL = mq.MusiqConfig.preset("tiny", outputs=3, patch_size=8, grid_size=4, longer_sides=(9, 14))


def random_tokens(config, n, seed, dtype="float64"):
    """Tokens of one image that no tokenizer made: any hash, any scale, about a quarter masked out."""
    rng = np.random.default_rng(seed)
    P = config.patch_size
    mask = rng.random(n) > 0.25
    mask[0] = True
    return mq.Tokens(
        rng.standard_normal((n, P, P, 3)).astype(dtype),
        rng.integers(0, config.grid_size**2, n),
        rng.integers(0, config.scales, n),
        mask,
    )


def relative(a, b):
    return np.linalg.norm(a - b) / np.linalg.norm(b)


@pytest.mark.parametrize("spatial", ["learnable", "sinusoidal"])
@pytest.mark.parametrize("conventions", CONVENTIONS)
def test_gradient_from_the_loss_to_the_pixels_and_parameters(conventions, spatial):
    config = CONFIG.replace(conventions=CONVENTIONS[conventions], spatial=spatial)
    params = map_params(np.copy, PARAMS)
    if spatial == "sinusoidal":
        del params["spatial_embedding"]
    target = np.array([2.5])

    def forward(image, params):
        tokens = mq.batch([mq.tokenize(image, config)])
        logits, cache = mq.forward(params, tokens, config)
        expected, cache_score = mq.expected_score(logits)
        error = expected.score - target
        return np.sum(error**2), (error, cache_score, cache, image.shape)

    def backward(dloss, cache_all):
        error, cache_score, cache, shape = cache_all
        dlogits = mq.expected_score_backward(2 * dloss * error, cache_score)
        gradients = mq.backward(dlogits, cache)
        return mq.image.tokenize.tokenize_backward(gradients.patches[0], *shape[:2], config), gradients.params

    image = 0.1 + 0.8 * np.random.default_rng(4).random((13, 19, 3))
    assert check_vjp(forward, backward, [image, params]) < 1e-6
    with pytest.raises(GradientError):
        check_vjp(forward, lambda d, c: (backward(d, c)[0] / 2, backward(d, c)[1]), [image, params])


@pytest.mark.parametrize("conventions", CONVENTIONS)
def test_image_gradient_is_the_derivative_of_the_score(conventions):
    config = SMALL.replace(conventions=CONVENTIONS[conventions])
    params = deterministic_params(config, 5, "float64")
    rng = np.random.default_rng(5)
    image, direction = 0.2 + 0.6 * rng.random((12, 17, 3)), rng.standard_normal((12, 17, 3))
    value, dimage = mq.image_gradient(image, params, config)
    ahead, behind = (mq.image_gradient(image + h * direction, params, config)[0] for h in (1e-6, -1e-6))
    assert (dimage * direction).sum() == pytest.approx((ahead - behind) / 2e-6, rel=1e-6)
    assert isinstance(value, float)


def test_image_gradient_follows_the_parameters_dtype():
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    for dtype in ("float32", "float64"):
        _, dimage = mq.image_gradient(image, deterministic_params(SMALL, 1, dtype), SMALL)
        assert dimage.dtype == dtype
    params = deterministic_params(SMALL, 1, "float64")
    official = mq.image_gradient(image, params, SMALL)[0]
    asked = mq.image_gradient(image, params, SMALL, pixel_dtype="float64")[0]
    assert 0 < abs(official - asked) < 1e-4  # the authors' tokens are float32, whatever the model's dtype


@settings(max_examples=30)
@given(configs(EVERY), st.integers(2, 12), seeds)
def test_masked_tokens_change_nothing_and_get_no_gradient(config, n, seed):
    params = random_params(config)
    tokens = random_tokens(config, n, seed)
    rng = np.random.default_rng(seed + 1)
    hidden = ~tokens.mask
    other = mq.Tokens(*(array.copy() for array in tokens))
    other.patches[hidden] = rng.standard_normal(other.patches[hidden].shape)
    other.hash_index[hidden] = rng.integers(0, config.grid_size**2, hidden.sum())
    other.scale_index[hidden] = rng.integers(0, config.scales, hidden.sum())
    first, cache = mq.forward(params, mq.batch([tokens]), config)
    second, _ = mq.forward(params, mq.batch([other]), config)
    assert np.array_equal(first, second)
    gradient = mq.backward(rng.standard_normal(first.shape), cache).patches[0]
    assert (gradient[hidden] == 0).all()
    assert np.isfinite(gradient).all()


@settings(max_examples=30)
@given(configs(("softmax", "performer")), st.integers(2, 12), seeds)
def test_order_of_the_tokens_does_not_matter(config, n, seed):
    params, tokens = random_params(config), random_tokens(config, n, seed)
    order = np.random.default_rng(seed).permutation(n)
    shuffled = mq.Tokens(*(array[order] for array in tokens))
    values, _ = trace(params, mq.batch([tokens]), config)
    permuted, _ = trace(params, mq.batch([shuffled]), config)
    np.testing.assert_allclose(permuted["head/logits"], values["head/logits"], rtol=1e-9, atol=1e-12)
    valid = shuffled.mask
    last = f"encoder/block_{config.layers - 1:02d}/output"
    np.testing.assert_allclose(permuted[last][0, 1:][valid], values[last][0, 1:][order][valid], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("conventions", [mq.OFFICIAL, mq.PYIQA, mq.PAPER])
def test_contrast_lost_about_mid_grey_is_invisible_and_about_another_grey_is_not(conventions):
    """Convolutions without bias, padding by 0 and GroupNorm: a factor on a patch leaves only what ε lets through."""
    config = SMALL.replace(conventions=conventions)
    params, tokens = random_params(config), mq.batch([random_tokens(config, 7, 1)])

    def seen(patches):
        values, _ = trace(params, tokens._replace(patches=patches), config)
        return values["stem/output"], values["head/logits"]

    whole = seen(tokens.patches)
    for factor in (0.5, 0.25):
        for found, expected in zip(seen(factor * tokens.patches), whole, strict=True):
            assert relative(found, expected) < 1e-4
    assert relative(seen(0.5 * tokens.patches + 0.5)[0], whole[0]) > 0.1


@settings(max_examples=30)
@given(configs(), st.integers(2, 12), seeds)
def test_attention_rows_sum_to_one_over_valid_keys(config, n, seed):
    tokens = random_tokens(config, n, seed)
    values, _ = trace(random_params(config), mq.batch([tokens]), config)
    valid = np.concatenate([[True], tokens.mask])
    for i in range(config.layers):
        weights = values[f"encoder/block_{i:02d}/attention/weights"][0]
        assert (weights[:, valid][:, :, ~valid] == 0).all()
        np.testing.assert_allclose(weights[:, valid].sum(axis=-1), 1, rtol=1e-12)


@settings(max_examples=30)
@given(configs(EVERY), st.lists(images(), min_size=2, max_size=3), seeds)
def test_batching_and_padding_do_not_change_a_score(config, pictures, seed):
    params = random_params(config)
    tokens = [mq.tokenize(picture, config, "float64") for picture in pictures]
    assume(all(t.mask.any() for t in tokens))
    together, _ = mq.forward(params, mq.batch(tokens), config)
    for t, logits in zip(tokens, together, strict=True):
        alone, _ = mq.forward(params, mq.batch([t]), config)
        np.testing.assert_allclose(logits, alone[0], rtol=1e-9, atol=1e-10)
        np.testing.assert_allclose(mq.predict(params, t, config), alone[0], rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("conventions", CONVENTIONS)
@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-12), ("float32", 1e-5)])
def test_inference_in_many_blocks_equals_the_forward(device, conventions, dtype, tolerance, monkeypatch):
    """The way of arrays of other libraries, and of NumPy's where BLAS cannot be limited (by a team: test_team)."""
    monkeypatch.setattr("musiq_ref.ops.fused.WEIGHTS", 100)  # blocks of a few queries
    monkeypatch.setattr("musiq_ref.model.inference.PATCHES", 5)
    monkeypatch.setattr("musiq_ref.model.inference.PATCHES_ON_DEVICE", 5)
    monkeypatch.setattr("musiq_ref.team._blas", lambda: SimpleNamespace(lib_controllers=(), limit=lambda limits: None))
    config = SMALL.replace(conventions=CONVENTIONS[conventions])
    tokens, params, seen = random_tokens(config, 41, 0), deterministic_params(config, 3, dtype), []
    logits, _ = mq.forward(params, mq.batch([tokens]), config)
    remote = map_params(device.from_numpy, params)
    predicted = device.to_numpy(mq.predict(remote, tokens, config, device, progress=seen.append))
    assert predicted.dtype == dtype
    assert relative(predicted, logits[0]) < tolerance
    assert seen == sorted(seen)
    assert seen[-1] == 1


@settings(max_examples=20)
@given(configs(EVERY), seeds)
def test_nothing_is_written_into_arguments_and_float32_stays(config, seed):
    params = random_params(config)
    tokens = mq.batch([random_tokens(config, 6, seed)])
    for dtype in ("float64", "float32"):
        frozen = map_params(lambda a, dtype=dtype: a.astype(dtype), params)
        for _, array in flatten(frozen):
            array.flags.writeable = False
        for array in tokens:
            array.flags.writeable = False
        logits, cache = mq.forward(frozen, tokens, config)
        dlogits = unit(1, "dlogits", logits.shape).astype(dtype)
        dlogits.flags.writeable = False
        gradients = mq.backward(dlogits, cache)
        assert logits.dtype == gradients.patches.dtype == dtype
        assert {path: g.shape for path, g in flatten(gradients.params)} == parameter_shapes(config)
        assert all(g.dtype == dtype for _, g in flatten(gradients.params))
        assert mq.predict(frozen, mq.Tokens(*(a[0] for a in tokens)), config).dtype == dtype


@pytest.mark.parametrize("conventions", CONVENTIONS)
def test_the_whole_model_on_the_device(device, conventions):
    """Forward, backward and inference with arrays of another library give NumPy's numbers (`make gpu`: on a GPU)."""
    config = SMALL.replace(conventions=CONVENTIONS[conventions])
    params, tokens = random_params(config), [random_tokens(config, n, n) for n in (5, 9)]
    dlogits = np.random.default_rng(0).standard_normal((2, 3))
    logits, cache = mq.forward(params, mq.batch(tokens), config)
    here = {"logits": logits, "patches": mq.backward(dlogits, cache).patches}
    here |= dict(flatten(mq.backward(dlogits, cache).params))

    remote = map_params(device.from_numpy, params)
    logits, cache = mq.forward(remote, mq.Tokens(*map(device.from_numpy, mq.batch(tokens))), config)
    gradients = mq.backward(device.from_numpy(dlogits), cache)
    there = {"logits": logits, "patches": gradients.patches, **dict(flatten(gradients.params))}
    for name, array in here.items():
        error = np.abs(device.to_numpy(there[name]) - array).max()
        assert error <= 1e-10 * max(np.abs(array).max(), 1e-3), name
    alone = device.to_numpy(mq.predict(remote, tokens[0], config, device))
    np.testing.assert_allclose(alone, here["logits"][0], rtol=1e-9)


def test_gradient_of_a_batch_is_the_sum_over_its_images():
    params = random_params(SMALL)
    tokens = [random_tokens(SMALL, n, n) for n in (5, 9)]
    logits, cache = mq.forward(params, mq.batch(tokens), SMALL)
    dlogits = np.random.default_rng(0).standard_normal(logits.shape)
    together = dict(flatten(mq.backward(dlogits, cache).params))
    parts = []
    for t, d in zip(tokens, dlogits, strict=True):
        _, cache = mq.forward(params, mq.batch([t]), SMALL)
        parts.append(dict(flatten(mq.backward(d[None], cache).params)))
    for path, gradient in together.items():
        np.testing.assert_allclose(gradient, parts[0][path] + parts[1][path], rtol=1e-9, atol=1e-10)


@settings(max_examples=20)
@given(configs(("softmax", "linformer")), st.integers(2, 9), seeds)
def test_recomputing_gives_the_same_bits(config, n, seed):
    params = random_params(config)
    tokens = mq.batch([random_tokens(config, n, seed), random_tokens(config, n + 1, seed)])
    results = []
    for recompute in (False, True):
        noise = mq.Noise(np.random.default_rng(1), dropout=0.1, attention_dropout=0.2, stochastic_depth=0.3)
        logits, cache = mq.forward(params, tokens, config, noise=noise, recompute=recompute)
        gradients = mq.backward(np.ones_like(logits), cache)
        results.append({"logits": logits, "patches": gradients.patches, **dict(flatten(gradients.params))})
    assert all(np.array_equal(results[0][name], results[1][name]) for name in results[0])


def test_recomputing_in_chunks_adds_up(monkeypatch):
    monkeypatch.setattr("musiq_ref.model.recompute.PATCHES", 4)
    tokens, params = mq.batch([random_tokens(SMALL, 11, 0)]), random_params(SMALL)
    logits, cache = mq.forward(params, tokens, SMALL)
    again, cache_again = mq.forward(params, tokens, SMALL, recompute=True)
    np.testing.assert_allclose(again, logits, rtol=1e-12)
    first, second = (mq.backward(np.ones_like(logits), c) for c in (cache, cache_again))
    assert relative(second.patches, first.patches) < 1e-12
    for path, gradient in flatten(first.params):
        np.testing.assert_allclose(dict(flatten(second.params))[path], gradient, rtol=1e-9, atol=1e-11)
    assert mq.backward(np.ones_like(logits), cache_again, want_patches=False).patches is None
    with pytest.raises(ValueError, match="nothing is kept to be tapped"):
        mq.forward(params, tokens, SMALL, tap=lambda name, array: array, recompute=True)


@pytest.mark.parametrize("conventions", CONVENTIONS)
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_attention_in_blocks_is_attention(conventions, dropout, monkeypatch):
    """Of two images, one padded, with a random cotangent; in blocks of two queries."""
    monkeypatch.setattr("musiq_ref.model.attention_in_blocks.WEIGHTS", 23)
    config = SMALL.replace(conventions=CONVENTIONS[conventions])
    params, tokens = random_params(config), mq.batch([random_tokens(config, 9, 0), random_tokens(config, 7, 1)])
    dlogits, results = np.random.default_rng(0).standard_normal((2, 3)), []
    for recompute in (False, "attention"):
        noise = Noise(np.random.default_rng(1), 0.1, dropout, 0.2)
        logits, cache = mq.forward(params, tokens, config, noise=noise, recompute=recompute)
        gradients = mq.backward(dlogits, cache)
        results.append({"logits": logits, "patches": gradients.patches, **dict(flatten(gradients.params))})
    for name, expected in results[0].items():
        scale = max(np.abs(expected).max(), 1e-3)  # that to the bias of the keys is 0 but for rounding
        np.testing.assert_allclose(results[1][name] / scale, expected / scale, rtol=0, atol=1e-11, err_msg=name)


@pytest.mark.parametrize("fault", ["mask_logits_backward", "softmax_backward"])
def test_a_fault_planted_into_attention_in_blocks_is_caught(fault, monkeypatch):
    monkeypatch.setattr(f"musiq_ref.model.attention_in_blocks.{fault}", lambda dy, cache: 0.999 * dy)
    params, tokens = random_params(SMALL), mq.batch([random_tokens(SMALL, 9, 0)])
    first, second = (
        mq.backward(np.ones((1, 3)), mq.forward(params, tokens, SMALL, recompute=how)[1]).patches
        for how in (False, "attention")
    )
    assert relative(second, first) > 1e-6


def test_attention_in_blocks_keeps_no_weights():
    """Of 600 tokens the weights of two blocks with two heads alone are 11 MB."""
    config = mq.MusiqConfig.preset("tiny", patch_size=4, width=8, heads=2, mlp_width=8, layers=2, stem="linear")
    params, tokens = mq.init_params(config, dtype="float64"), mq.batch([random_tokens(config, 600, 0)])
    kept = []
    for recompute in (False, "attention"):
        tracemalloc.start()
        result = mq.forward(params, tokens, config, recompute=recompute)
        kept.append(tracemalloc.get_traced_memory()[0])
        tracemalloc.stop()
        assert result[0].shape == (1, 1)
    assert kept[0] > 2 * 2 * 601**2 * 8
    assert kept[1] < kept[0] / 3


def test_gradients_of_the_parameters_without_those_of_the_patches():
    tokens, params = mq.batch([random_tokens(SMALL, 6, 0)]), random_params(SMALL)
    logits, cache = mq.forward(params, tokens, SMALL)
    whole, part = (mq.backward(np.ones_like(logits), cache, want_patches=want) for want in (True, False))
    assert part.patches is None
    for path, gradient in flatten(whole.params):
        assert np.array_equal(dict(flatten(part.params))[path], gradient)


def test_the_stem_gives_the_patches_gradient_unless_it_is_not_wanted():
    patches, params = random_tokens(SMALL, 3, 0).patches, random_params(SMALL)["stem"]
    y, cache = stem(patches, params, mq.OFFICIAL)
    dpatches, whole = stem_backward(np.ones_like(y), cache)
    nothing, part = stem_backward(np.ones_like(y), cache, want_patches=False)
    assert dpatches.shape == patches.shape
    assert nothing is None
    assert dict(flatten(whole)).keys() == dict(flatten(part)).keys()
    assert all(np.array_equal(dict(flatten(whole))[path], a) for path, a in flatten(part))


def test_the_patches_gradient_is_not_even_computed_where_it_is_not_wanted(monkeypatch):
    def refuse(dy, cache):
        raise AssertionError("the gradient to the patches was computed")

    patches, params = random_tokens(SMALL, 3, 0).patches, random_params(SMALL)["stem"]
    y, cache = stem(patches, params, mq.OFFICIAL)
    real = mq.model.stem.convolution_backward
    monkeypatch.setattr(
        "musiq_ref.model.stem.convolution_backward",
        lambda dy, c: refuse(dy, c) if c is cache["conv_root"] else real(dy, c),
    )
    stem_backward(np.ones_like(y), cache, want_patches=False)
    with pytest.raises(AssertionError, match="was computed"):
        stem_backward(np.ones_like(y), cache)


def test_a_conventions_difference_shows_in_the_score():
    params = deterministic_params(SMALL, 1, "float64")
    image = np.random.default_rng(1).integers(0, 256, (50, 77, 3), dtype=np.uint8)
    official = mq.image_gradient(image, params, SMALL, "float64")[0]
    for change, least, most in (
        ({"gelu": "erf"}, 1e-7, 1e-2),
        ({"weight_std_ddof": 1}, 1e-10, 1e-3),
        ({"resize": "bicubic"}, 1e-5, 1),
        ({"hash": "round"}, 1e-4, 1),
        ({"scale_order": "native_first"}, 1e-4, 2),
        ({"mask_value": -math.inf}, 0, 1e-9),
        ({"mask": "fill", "mask_value": -1e3}, 0, 1e-9),
        ({"patch_layout": "channel_row_column"}, 0, 0),
    ):
        config = SMALL.replace(conventions=mq.Conventions(**change))
        gap = abs(mq.image_gradient(image, params, config, "float64")[0] - official)
        assert least <= gap <= most, (change, gap)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t._replace(mask=t.mask[0]), r"mask has shape \(6,\), but 2 axes are needed; pass musiq_ref\.batch"),
        (lambda t: t._replace(patches=t.patches[..., :4, :]), r"patches has shape .* needs \(1, 6, 8, 8, 3\)"),
        (lambda t: t._replace(hash_index=t.hash_index + 9), r"hash_index runs from .* rows 0 to 15"),
        (lambda t: t._replace(scale_index=t.scale_index - 1), r"scale_index runs from -1 .* rows 0 to 2"),
    ],
)
def test_tokens_that_do_not_fit_are_refused(change, message):
    tokens = mq.batch([random_tokens(SMALL, 6, 3)])
    tokens = change(tokens._replace(hash_index=np.arange(6)[None] + 5, scale_index=np.arange(6)[None] % 3))
    with pytest.raises(ValueError, match=message):
        mq.forward(deterministic_params(SMALL, 0), tokens, SMALL)


def test_parameters_that_do_not_fit_are_refused():
    tokens = mq.batch([random_tokens(SMALL, 6, 3)])
    params = deterministic_params(SMALL, 0)
    with pytest.raises(ValueError, match=r"head/kernel has shape \(48, 3\); this configuration needs \(48, 4\)"):
        mq.forward(params, tokens, SMALL.replace(outputs=4))
    with pytest.raises(ValueError, match="encoder/block_02/norm1/scale is missing"):
        mq.forward(params, tokens, SMALL.replace(layers=3))
    with pytest.raises(ValueError, match="encoder/block_01/norm1/scale is unexpected"):
        mq.forward(params, tokens, SMALL.replace(layers=1))
    with pytest.raises(ValueError, match="spatial_embedding/table is unexpected"):
        mq.forward(params, tokens, SMALL.replace(spatial="sinusoidal"))
    with pytest.raises(ValueError, match="head/kernel is float64; make all parameters float32, or all float64"):
        mq.forward({**params, "head": map_params(lambda a: a.astype("f8"), params["head"])}, tokens, SMALL)


def test_initial_values_are_drawn_as_the_authors_draw_them():
    params = dict(flatten(mq.init_params(mq.MusiqConfig(layers=2), seed=3, dtype="float64")))
    zero = {path for path, a in params.items() if not a.any()}
    assert {"class_token", "head/kernel", "head/bias", "stem/gn3/scale"} <= zero
    assert (params["stem/gn_proj/scale"] == 1).all()
    assert params["spatial_embedding/table"].std() == pytest.approx(0.02, rel=0.01)
    assert params["scale_embedding/table"].std() == pytest.approx(0.02, rel=0.05)
    assert params["encoder/block_00/mlp/fc1/bias"].std() == pytest.approx(1e-6, rel=0.05)
    assert params["patch_embedding/kernel"].std() == pytest.approx((8 * 8 * 256) ** -0.5, rel=0.01)
    assert params["stem/conv2/kernel"].std() == pytest.approx((9 * 64) ** -0.5, rel=0.02)
    bound = math.sqrt(6 / (384 + 1152))
    assert np.abs(params["encoder/block_01/mlp/fc1/kernel"]).max() == pytest.approx(bound, rel=1e-3)
    assert np.abs(params["encoder/block_01/attention/query/kernel"]).max() == pytest.approx(
        math.sqrt(6 / (384 + 384)), rel=1e-3
    )
    again = dict(flatten(mq.init_params(mq.MusiqConfig(layers=2), seed=3, dtype="float64")))
    other = dict(flatten(mq.init_params(mq.MusiqConfig(layers=2), seed=4, dtype="float64")))
    assert all(np.array_equal(params[path], again[path]) for path in params)
    assert not np.array_equal(params["stem/conv2/kernel"], other["stem/conv2/kernel"])


def noise(seed=0, **rates):
    return mq.Noise(np.random.default_rng(seed), **rates)


def test_noise_that_is_not_asked_for_is_none():
    tokens = mq.batch([random_tokens(CONFIG, 5, 0)])
    assert Noise(np.random.default_rng(0))[1:] == (0, 0, 0)
    assert np.array_equal(mq.forward(PARAMS, tokens, CONFIG, noise=noise())[0], mq.forward(PARAMS, tokens, CONFIG)[0])


def test_branches_are_dropped_more_often_in_later_blocks():
    assert [noise(stochastic_depth=0.3).path_rate(i, 4) for i in range(4)] == pytest.approx([0, 0.1, 0.2, 0.3])
    assert noise(stochastic_depth=0.3).path_rate(0, 1) == 0


@pytest.mark.parametrize("rates", [{"dropout": 0.3}, {"attention_dropout": 0.3}, {"stochastic_depth": 0.6}])
def test_regularisation_has_the_right_gradient_and_is_reproducible(rates):
    tokens = mq.batch([random_tokens(CONFIG, 5, 0), random_tokens(CONFIG, 7, 1)])

    def forward(patches, params):
        return mq.forward(params, tokens._replace(patches=patches), CONFIG, noise=noise(**rates))

    def backward(dlogits, cache):
        gradients = mq.backward(dlogits, cache)
        return gradients.patches, gradients.params

    assert check_vjp(forward, backward, [tokens.patches, PARAMS]) < 1e-6
    logits = [forward(tokens.patches, PARAMS)[0] for _ in range(2)]
    plain, _ = mq.forward(PARAMS, tokens, CONFIG)
    assert np.array_equal(logits[0], logits[1])
    assert not np.allclose(logits[0], plain)


def test_no_noise_is_no_noise():
    tokens = mq.batch([random_tokens(CONFIG, 5, 0)])
    assert np.array_equal(mq.forward(PARAMS, tokens, CONFIG, noise=noise())[0], mq.forward(PARAMS, tokens, CONFIG)[0])


def test_dropout_acts_on_the_embedded_tokens_and_on_the_mlps_output():
    config = CONFIG.replace(layers=1)
    params, tokens = random_params(config), mq.batch([random_tokens(config, 9, 3)])
    seen = {}
    mq.forward(params, tokens, config, noise=noise(dropout=0.5), tap=lambda n, a: (seen.__setitem__(n, a), a)[1])
    assert 0.3 < (seen["encoder/input"] == 0).mean() < 0.7
    added = seen["encoder/block_00/output"] - seen["encoder/block_00/residual1"]
    assert 0.3 < (added == 0).mean() < 0.7


def test_dropout_acts_on_the_attentions_output():
    config = CONFIG.replace(layers=1)
    params, tokens = random_params(config), mq.batch([random_tokens(config, 9, 3)])
    seen = {}

    def tap(name, array):
        seen[name] = array
        return np.zeros_like(array) if name == "encoder/input" else array

    mq.forward(params, tokens, config, noise=noise(dropout=0.5), tap=tap)
    assert (seen["encoder/block_00/attention/out"] != 0).all()
    assert 0.3 < (seen["encoder/block_00/residual1"] == 0).mean() < 0.7


def test_stochastic_depth_grows_with_depth_and_drops_both_branches():
    config = CONFIG.replace(layers=3)
    params, tokens = random_params(config), mq.batch([random_tokens(config, 9, 3)])
    seen = {}
    always = noise(stochastic_depth=1.0)
    mq.forward(params, tokens, config, noise=always, tap=lambda n, a: (seen.__setitem__(n, a), a)[1])
    first, middle, last = (f"encoder/block_{i:02d}" for i in range(3))
    assert np.array_equal(seen[f"{last}/output"], seen[f"{middle}/output"])
    assert np.array_equal(seen[f"{last}/residual1"], seen[f"{middle}/output"])
    assert not np.array_equal(seen[f"{first}/residual1"], seen["encoder/input"])
    assert not np.array_equal(seen[f"{first}/output"], seen[f"{first}/residual1"])


@pytest.mark.parametrize("rates", [{"dropout": 1.0}, {"dropout": -0.1}, {"stochastic_depth": 2}])
def test_rates_that_are_none_are_refused(rates):
    with pytest.raises(ValueError, match=rf"Noise\.{next(iter(rates))} is"):
        mq.forward(PARAMS, mq.batch([random_tokens(CONFIG, 5, 0)]), CONFIG, noise=noise(**rates))


def test_sinusoidal_is_the_learnable_model_that_holds_its_table():
    from musiq_ref.ops.embedding import sinusoidal_table

    params, tokens = random_params(CONFIG), mq.batch([random_tokens(CONFIG, 6, 1)])
    params["spatial_embedding"]["table"] = sinusoidal_table(CONFIG.grid_size, CONFIG.width)
    learnable, _ = mq.forward(params, tokens, CONFIG)
    del params["spatial_embedding"]
    sinusoidal, _ = mq.forward(params, tokens, CONFIG.replace(spatial="sinusoidal"))
    assert np.array_equal(learnable, sinusoidal)


def test_a_pair_is_allowed_only_if_both_are_valid():
    from musiq_ref.model.attention import allowed_pairs

    valid = np.array([[True, False, True]])
    assert allowed_pairs(valid)[0, 0].tolist() == [[True, False, True], [False] * 3, [True, False, True]]


def test_every_initial_spread():
    config = mq.MusiqConfig(layers=1, heads=4)
    spread = {path: a.std() for path, a in flatten(mq.init_params(config, 5, "float64"))}
    xavier = math.sqrt(2 / (384 + 384))
    for path, expected in {
        "stem/conv_root/kernel": (7 * 7 * 3) ** -0.5,
        "stem/conv1/kernel": 64**-0.5,
        "scale_embedding/table": 0.02,
        "encoder/block_00/attention/value/kernel": xavier,
        "encoder/block_00/attention/out/kernel": xavier,
        "encoder/block_00/mlp/fc2/kernel": math.sqrt(2 / (384 + 1152)),
        "encoder/block_00/mlp/fc1/bias": 1e-6,
        "encoder/block_00/mlp/fc2/bias": 1e-6,
    }.items():
        assert spread[path] == pytest.approx(expected, rel=0.08), path
    zero = {path for path, s in spread.items() if path.endswith("bias") and "mlp" not in path and s != 0}
    assert not zero


def test_gradients_follow_the_parameters_not_the_cotangent():
    params, tokens = deterministic_params(SMALL, 1), mq.batch([random_tokens(SMALL, 5, 0)])
    logits, cache = mq.forward(params, tokens, SMALL)
    gradients = mq.backward(np.ones(logits.shape), cache)  # float64
    assert {g.dtype for _, g in flatten(gradients.params)} == {np.dtype("float32")}
    with pytest.raises(ValueError, match=r"dlogits has shape \(3,\); the logits have \(1, 3\)"):
        mq.backward(np.ones(3), cache)


@pytest.mark.parametrize("threads", [1, 3])
def test_inference_needs_memory_in_proportion_to_the_image(threads):
    """Twice the tokens: about twice the memory, not four times; and far less than the forward keeps."""
    config = mq.MusiqConfig.preset("tiny", patch_size=4, width=8, heads=2, mlp_width=8, longer_sides=())
    params = mq.init_params(config)
    peaks = []
    for side in (90, 180):
        tokens = mq.tokenize(np.zeros((side, 4 * side, 3), np.uint8), config)
        tracemalloc.start()
        mq.predict(params, tokens, config, threads=threads)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 5 * peaks[0]  # four times the tokens; attention weights of all pairs would be 16 times as many
