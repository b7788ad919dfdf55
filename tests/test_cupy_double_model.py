"""The whole model on the stand-in for CuPy: NumPy's numbers, without one value looked at or moved in between.

This is the evidence, on a machine without a GPU, that the model runs on one at full speed.
"""

import cupy_double
import numpy as np
import pytest

import musiq_ref as mq
from musiq_ref.model.parameters import flatten, map_params

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
    assert counted() == (0, len(tokens))
    assert_equal(logits, expected, tolerance)


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
