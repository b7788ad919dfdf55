"""The whole model on the stand-in for CuPy: NumPy's numbers, without one value looked at or moved in between.

This is the evidence, on a machine without a GPU, that the model runs on one at full speed.
"""

import cupy_double
import numpy as np
import pytest

import musiq_ref as mq
from musiq_ref.model import attention_fused, inference
from musiq_ref.model.noise import Noise
from musiq_ref.model.parameters import flatten, map_params
from musiq_ref.training import step as step_module
from musiq_ref.training.optimizers import OPTIMIZERS, clip_by_global_norm
from musiq_ref.training.step import batch_gradient

DEVICE = cupy_double.BACKEND
CONVENTIONS = {"official": mq.OFFICIAL, "pyiqa": mq.PYIQA, "paper": mq.PAPER}
IMAGES = [mq.verify.deterministic_image(3, 20, 70), mq.verify.deterministic_image(4, 90, 33)]

every_convention = pytest.mark.parametrize("conventions", CONVENTIONS.values(), ids=CONVENTIONS)
every_dtype = pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-12), ("float32", 1e-6)])


def model(conventions, dtype, **changes):
    """A small model with several outputs, its parameters, and a batch of two images that differ in length."""
    config = mq.MusiqConfig.preset(
        "tiny", outputs=5, conventions=conventions, width=24, mlp_width=20, longer_sides=(32, 64), **changes
    )
    params = mq.verify.deterministic_params(config, seed=1, dtype=dtype)
    tokens = mq.batch([mq.tokenize(image, config, dtype) for image in IMAGES])
    return config, params, tokens


def upload(params, tokens):
    """Both on the device; what happens from here on is counted."""
    on_device = map_params(DEVICE.from_numpy, params), mq.Tokens(*map(DEVICE.from_numpy, tokens))
    cupy_double.counters.reset()
    return on_device


def counted():
    return cupy_double.counters.synchronisations, cupy_double.counters.transfers


def assert_equal(x, expected, tolerance):
    assert type(x) is cupy_double.Double
    assert x.dtype == expected.dtype
    assert x.shape == expected.shape
    scale = max(np.abs(expected).max(), 1.0)
    np.testing.assert_allclose(DEVICE.to_numpy(x) / scale, expected / scale, rtol=0, atol=tolerance)


@every_convention
@every_dtype
def test_forward_and_backward_stay_on_the_device(conventions, dtype, tolerance):
    config, params, tokens = model(conventions, dtype)
    assert not tokens.mask.all()  # the shorter image is padded
    dlogits = mq.verify.unit(2, "dlogits", (2, 5)).astype(dtype)
    logits, cache = mq.forward(params, tokens, config)
    gradients = mq.backward(dlogits, cache)

    params_there, tokens_there = upload(params, tokens)
    dlogits_there = DEVICE.from_numpy(dlogits)
    cupy_double.counters.reset()
    logits_there, cache_there = mq.forward(params_there, tokens_there, config)
    gradients_there = mq.backward(dlogits_there, cache_there)
    assert counted() == (0, 0)

    assert_equal(logits_there, logits, tolerance)
    assert_equal(gradients_there.patches, gradients.patches, tolerance)
    expected, computed = dict(flatten(gradients.params)), dict(flatten(gradients_there.params))
    assert list(computed) == list(expected)
    for path, gradient in expected.items():
        assert_equal(computed[path], gradient, tolerance)


@every_convention
@every_dtype
def test_the_score_and_its_backward_stay_on_the_device(conventions, dtype, tolerance):
    config, params, tokens = model(conventions, dtype)
    logits, _ = mq.forward(params, tokens, config)
    expected, cache = mq.expected_score(logits)
    dlogits = mq.expected_score_backward(np.ones_like(expected.score), cache)

    logits_there, _ = mq.forward(*upload(params, tokens), config)
    expected_there, cache_there = mq.expected_score(logits_there)
    dlogits_there = mq.expected_score_backward(mq.namespace(logits_there).ones_like(expected_there.score), cache_there)
    assert counted() == (0, 0)

    assert_equal(expected_there.score, expected.score, tolerance)
    assert_equal(expected_there.distribution, expected.distribution, tolerance)
    assert_equal(dlogits_there, dlogits, tolerance)


@every_convention
@every_dtype
def test_inference_uploads_the_tokens_once_and_never_waits(conventions, dtype, tolerance):
    config, params, _ = model(conventions, dtype)
    tokens = mq.tokenize(IMAGES[0], config, dtype)
    assert not tokens.mask.all()
    expected = mq.predict(params, tokens, config)

    params_there = map_params(DEVICE.from_numpy, params)
    cupy_double.counters.reset()
    logits = mq.predict(params_there, tokens, config, DEVICE)
    assert counted() == (0, 3)  # patches, hashes and scales
    assert_equal(logits, expected, tolerance)


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
@pytest.mark.parametrize("loss", ["l1", "huber"])
def test_a_training_step_waits_only_for_its_loss(optimizer, loss):
    config, params, _ = model(mq.OFFICIAL, "float64")
    tokens, targets = [mq.tokenize(image, config, "float64") for image in IMAGES], np.array([2.0, 4.5])
    begin, step = OPTIMIZERS[optimizer]

    def train(params, count=lambda: None):
        state = begin(params)
        for _ in range(2):
            count()
            result = batch_gradient(params, tokens, targets, config, loss)
            count()
            clipped, _ = clip_by_global_norm(result.gradients, 1.0)
            params, state = step(params, clipped, state, 0.01)
        count()
        return params, result

    counts = []
    there = map_params(DEVICE.from_numpy, params)
    cupy_double.counters.reset()
    trained_there, result_there = train(there, lambda: counts.append(counted()))
    uploads = len(IMAGES) * (len(mq.Tokens._fields) + 1)  # four arrays and the targets of each image
    gradient = np.diff([(0, 0), *counts], axis=0)
    assert gradient[1].tolist() == gradient[3].tolist() == [1, 1 + uploads]  # and the losses, at once
    assert gradient[2].tolist() == gradient[4].tolist() == [0, 0]  # clipping and the optimiser

    trained, result = train(params)
    assert result_there.loss == pytest.approx(result.loss, rel=1e-12)
    assert_equal(result_there.scores, result.scores, 1e-12)
    there = dict(flatten(trained_there))
    for path, array in flatten(trained):  # softmax ignores the key biases: their gradients are rounding, made large
        assert_equal(there[path], array, 7e-11 if "key/bias" in path and optimizer != "sgd" else 1e-12)


def test_the_loss_is_read_after_all_images_have_been_started(monkeypatch):
    config, params, _ = model(mq.OFFICIAL, "float64")
    tokens, waits = [mq.tokenize(image, config, "float64") for image in IMAGES], []
    real = step_module.backward

    def watched(*args, **options):
        waits.append(cupy_double.counters.synchronisations)
        return real(*args, **options)

    monkeypatch.setattr(step_module, "backward", watched)
    params = map_params(DEVICE.from_numpy, params)
    cupy_double.counters.reset()
    batch_gradient(params, tokens, np.array([2.0, 4.5]), config)
    assert waits == [0, 0]


@every_convention
def test_where_there_are_many_weights_they_are_not_kept(conventions, monkeypatch):
    config, params, tokens = model(conventions, "float64")
    dlogits = mq.verify.unit(2, "dlogits", (2, 5))
    logits, cache = mq.forward(params, tokens, config)
    gradients = dict(flatten(mq.backward(dlogits, cache).params))
    params_there, tokens_there = upload(params, tokens)
    _, cache = mq.forward(params_there, tokens_there, config)
    weights = cache["encoder"]["block_00"]["attention"]["factors"][3]  # (B, H, N, N), which are few enough
    monkeypatch.setattr(attention_fused, "KEPT", weights.size - 1)
    dlogits_there = DEVICE.from_numpy(dlogits)
    cupy_double.counters.reset()
    logits_there, cache = mq.forward(params_there, tokens_there, config)
    gradients_there = mq.backward(dlogits_there, cache)
    assert counted() == (0, 0)
    assert "factors" not in cache["encoder"]["block_00"]["attention"]
    assert_equal(logits_there, logits, 1e-12)
    for path, gradient in flatten(gradients_there.params):
        assert_equal(gradient, gradients[path], 1e-12)


def test_dropout_of_the_weights_draws_the_same_on_a_device():
    config, params, tokens = model(mq.OFFICIAL, "float64")
    dlogits, found = mq.verify.unit(2, "dlogits", (2, 5)), []
    for place in (lambda a: a, DEVICE.from_numpy):
        noise = Noise(np.random.default_rng(1), 0.1, 0.3, 0.2)
        logits, cache = mq.forward(map_params(place, params), mq.Tokens(*map(place, tokens)), config, noise=noise)
        found.append({"logits": logits, **dict(flatten(mq.backward(place(dlogits), cache).params))})
    for name, expected in found[0].items():
        assert_equal(found[1][name], expected, 1e-12)


def test_where_memory_does_not_suffice_the_stem_takes_fewer_patches_at_a_time(monkeypatch):
    config, params, _ = model(mq.OFFICIAL, "float64")
    tokens = mq.tokenize(mq.verify.deterministic_image(3, 20, 70), config, "float64")
    expected, seen, stem = mq.predict(params, tokens, config), [], inference._stem

    def limited(patches, *others):
        seen.append(len(patches))
        if len(patches) > 2:
            raise MemoryError("Out of memory allocating 1,000,000 bytes")
        return stem(patches, *others)

    monkeypatch.setattr(inference, "_stem", limited)
    there = map_params(DEVICE.from_numpy, params)
    assert_equal(mq.predict(there, tokens, config, DEVICE), expected, 1e-12)
    assert max(seen) > 2
    assert seen[-1] <= 2


def test_a_sinusoidal_table_is_uploaded_once_a_forward():
    config, params, tokens = model(mq.OFFICIAL, "float64", spatial="sinusoidal")
    logits, _ = mq.forward(params, tokens, config)
    logits_there, _ = mq.forward(*upload(params, tokens), config)
    assert counted() == (0, 1)
    assert_equal(logits_there, logits, 1e-12)


def test_a_look_at_a_value_would_be_noticed():
    config, params, tokens = model(mq.OFFICIAL, "float64")

    def curious(name, array):
        if name == "head/logits":
            print(float(array[0, 0]))
        return array

    mq.forward(*upload(params, tokens), config, tap=curious)
    assert counted() == (1, 1)


def test_a_detour_through_the_host_would_be_noticed():
    config, params, tokens = model(mq.OFFICIAL, "float64")

    def detour(name, array):
        return DEVICE.from_numpy(DEVICE.to_numpy(array)) if name == "encoder/input" else array

    mq.forward(*upload(params, tokens), config, tap=detour)
    assert counted() == (1, 2)


def test_a_numpy_array_among_the_parameters_is_refused():
    config, params, tokens = model(mq.OFFICIAL, "float64")
    params_there, tokens_there = upload(params, tokens)
    params_there["head"]["bias"] = params["head"]["bias"]
    with pytest.raises(TypeError, match="NumPy array"):
        mq.forward(params_there, tokens_there, config)
