"""The whole library on a device gives the golden values and NumPy's numbers; with `make gpu`, on a GPU."""

from __future__ import annotations

from contextlib import contextmanager

import numpy as np
import pytest
from agreement import MODELS, PADDED, golden
from cupy_double import BACKEND

import musiq_ref as mq
from musiq_ref.backend import namespace
from musiq_ref.model.inference import predict_packed
from musiq_ref.model.parameters import flatten, map_params
from musiq_ref.training.optimizers import OPTIMIZERS, clip_by_global_norm
from musiq_ref.training.step import batch_gradient
from musiq_ref.verify import bits, deterministic_image, deterministic_params, unit

SMALL = mq.MusiqConfig(
    layers=2, width=24, mlp_width=20, heads=2, outputs=3, patch_size=8, grid_size=3, longer_sides=(32,)
)
TOLERANCE = {"float64": 1e-12, "float32": 2e-5}


def close(here, there, tolerance):
    return np.linalg.norm(there - here) <= tolerance * max(np.linalg.norm(here), 1e-3)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_golden_logits(device, model, dtype):
    (outputs, seed), expected = MODELS[model], golden("model", f"{model}/")
    config = mq.MusiqConfig.preset("tiny", outputs=outputs)
    mask = np.ones((1, 24), bool)
    mask[0, PADDED] = False
    hashes, scales = bits(seed, "tokens/hash", 24)[None] % 100, bits(seed, "tokens/scale", 24)[None] % 3
    tokens = mq.Tokens(unit(seed, "tokens/patches", (1, 24, 32, 32, 3)).astype(dtype), hashes, scales, mask)
    params = map_params(device.from_numpy, deterministic_params(config, seed, dtype))
    logits, _ = mq.forward(params, mq.Tokens(*map(device.from_numpy, tokens)), config)
    assert close(expected["logits"], device.to_numpy(logits)[0], TOLERANCE[dtype])
    predicted = mq.predict(params, mq.Tokens(*(a[0] for a in tokens)), config, device)
    assert close(expected["logits"], device.to_numpy(predicted), TOLERANCE[dtype])


def test_the_gradient_of_a_score_to_the_pixels(device):
    params, image = deterministic_params(SMALL, 1, "float64"), deterministic_image(2, 30, 41)
    value, dimage = mq.image_gradient(image, params, SMALL, "float64")
    value_there, dimage_there = mq.image_gradient(image, map_params(device.from_numpy, params), SMALL, "float64")
    assert value_there == pytest.approx(value, rel=1e-12)
    assert close(dimage, dimage_there, 1e-10)


def test_images_of_one_size_have_scores_of_their_own(device):
    """On a GPU the third is compared with a captured graph, which gives the ones after it."""
    params = deterministic_params(SMALL, 1, "float64")
    there = map_params(device.from_numpy, params)
    for i in range(5):
        tokens = mq.tokenize(deterministic_image(i, 30, 41), SMALL, "float64")
        assert close(
            mq.predict(params, tokens, SMALL), device.to_numpy(mq.predict(there, tokens, SMALL, device)), 1e-12
        )


def test_images_of_different_sizes_scored_together(device):
    params = deterministic_params(SMALL, 1, "float64")
    tokens = [mq.tokenize(deterministic_image(i, 20 + 9 * i, 41), SMALL, "float64") for i in range(11)]
    packed = predict_packed(map_params(device.from_numpy, params), tokens, SMALL, device)
    assert close(np.stack([mq.predict(params, one, SMALL) for one in tokens]), device.to_numpy(packed), 1e-12)


@pytest.mark.parametrize("conventions", [mq.OFFICIAL, mq.PYIQA], ids=["gaussian", "bicubic"])
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_pixels_are_resized_and_cut_where_the_model_is(device, conventions, dtype):
    config, image = SMALL.replace(conventions=conventions, longer_sides=(16, 32)), deterministic_image(1, 70, 45)
    here, there = mq.tokenize(image, config, dtype), mq.tokenize(image, config, dtype, backend=device)
    assert namespace(there.patches) is namespace(device.from_numpy(image))
    assert close(here.patches, device.to_numpy(there.patches), {"float64": 1e-15, "float32": 3e-7}[dtype])
    for one, other in zip(here[1:], there[1:], strict=True):
        np.testing.assert_array_equal(one, other)
    params = deterministic_params(config, 1, dtype)
    score = mq.predict(map_params(device.from_numpy, params), there, config, device)
    assert close(mq.predict(params, here, config), device.to_numpy(score), TOLERANCE[dtype])


def test_a_batch_of_tokens_whose_patches_are_there(device):
    params, images = (
        deterministic_params(SMALL, 1, "float64"),
        [deterministic_image(i, 30, 41 + 30 * i) for i in (0, 1)],
    )
    here, there = ([mq.tokenize(i, SMALL, "float64", backend=at) for i in images] for at in (mq.get_backend(), device))
    batches = mq.batch(here), mq.Tokens(*map(device.from_numpy, mq.batch(there)))
    assert not batches[0].mask.all()
    assert close(batches[0].patches, device.to_numpy(batches[1].patches), 1e-14)
    logits, _ = mq.forward(map_params(device.from_numpy, params), batches[1], SMALL)
    assert close(mq.forward(params, batches[0], SMALL)[0], device.to_numpy(logits), 1e-12)
    gradients = [
        batch_gradient(map_params(at.from_numpy, params), tokens, np.array([1.0, 2.0]), SMALL, micro_batch=2).gradients
        for at, tokens in ((mq.get_backend(), here), (device, there))
    ]
    for one, other in zip(*(dict(flatten(g)).values() for g in gradients), strict=True):
        assert close(one, device.to_numpy(other), 1e-10)


def test_a_batch_of_tokens_from_two_places_is_refused():
    both = [mq.tokenize(deterministic_image(0, 30, 41), SMALL, backend=at) for at in (mq.get_backend(), BACKEND)]
    with pytest.raises(ValueError, match="on one device; make all of them with the same backend"):
        mq.batch(both)


def test_a_device_that_fails_while_it_makes_tokens_is_guarded(device):
    @contextmanager
    def guard():
        with pytest.raises(RuntimeError, match="cudaErrorDevicesUnavailable"):
            yield
        raise mq.BackendError("the GPU stopped working")

    def gone(array):
        raise RuntimeError("cudaErrorDevicesUnavailable")

    with pytest.raises(mq.BackendError, match="stopped working"):
        mq.tokenize(deterministic_image(0, 30, 41), SMALL, backend=device._replace(from_numpy=gone, guard=guard))


def test_a_backends_name_is_no_backend():
    with pytest.raises(TypeError, match=r"backend is 'cupy'; pass what .*get_backend gives"):
        mq.tokenize(deterministic_image(1, 20, 20), SMALL, backend="cupy")


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_training_run(device, optimizer):
    images = [deterministic_image(i, 20 + 5 * i, 44 - 7 * i) for i in range(4)]
    tokens, targets = [mq.tokenize(image, SMALL, "float64") for image in images], np.array([1.0, 1.5, 2.5, 3.0])
    begin, step = OPTIMIZERS[optimizer]

    def run(params):
        state, losses = begin(params), []
        for i in range(6):
            some = slice(2 * (i % 2), 2 * (i % 2) + 2)
            result = batch_gradient(params, tokens[some], targets[some], SMALL, "huber")
            params, state = step(params, clip_by_global_norm(result.gradients, 1.0)[0], state, 0.01)
            losses.append(result.loss)
        return params, losses

    start = deterministic_params(SMALL, 4, "float64")
    trained, losses = run(start)
    trained_there, losses_there = run(map_params(device.from_numpy, start))
    np.testing.assert_allclose(losses_there, losses, rtol=1e-9)
    assert losses[-1] != losses[1]
    there = dict(flatten(trained_there))
    # Softmax ignores the key biases: their gradients are rounding, which Adam makes as large as all others.
    assert all(close(a, device.to_numpy(there[path]), 1e-7) for path, a in flatten(trained) if "key/bias" not in path)
