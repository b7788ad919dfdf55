"""The same weights under pyiqa's conventions equal to pyiqa: score, distribution, gradient to the image."""

from __future__ import annotations

import numpy as np
import pytest

import musiq_ref as mq
from musiq_ref.verify import deterministic_image, deterministic_params

MODELS = {"tiny_c1_s1": (1, 1), "tiny_c10_s2": (10, 2)}
SIZES = ["64x96", "150x211", "31x500", "97x384"]


def setting(model, size, dtype):
    outputs, seed = MODELS[model]
    config = mq.MusiqConfig.preset("tiny", outputs=outputs, conventions=mq.PYIQA)
    return deterministic_image(3, *map(int, size.split("x"))), deterministic_params(config, seed, dtype), config


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("size", SIZES)
def test_score_and_gradient_to_the_image_in_float64(model, size, golden):
    image, params, config = setting(model, size, "float64")
    expected = {k.rsplit("/", 1)[1]: v for k, v in golden("pyiqa").items() if k.startswith(f"pyiqa_{model}/v{size}/")}
    value, dimage = mq.image_gradient(image, params, config)
    assert value == pytest.approx(expected["mos"][0], rel=1e-12)
    norm, sample = expected["dimage_norm"], dimage.ravel()[np.linspace(0, dimage.size - 1, 257).astype(int)]
    assert np.abs(sample - expected["dimage_sample"]).max() < 1e-12 * norm
    assert np.linalg.norm(dimage) == pytest.approx(norm, rel=1e-12)
    logits = mq.predict(params, mq.tokenize(image, config, "float64"), config)
    score, distribution = mq.expected_score(logits[None])[0]
    assert score[0] == pytest.approx(expected["mos"][0], rel=1e-12)
    if distribution is not None:
        np.testing.assert_allclose(distribution[0], expected["dist"], rtol=1e-12)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("size", SIZES)
def test_score_in_float32(model, size, golden):
    image, params, config = setting(model, size, "float32")
    checkpoint = mq.Checkpoint(params, config, "native", None)
    [result] = mq.score([image], checkpoint)
    assert abs(result.value - golden("pyiqa")[f"pyiqa_{model}/v{size}/mos"][0]) < 2e-5
    assert abs(result.value - golden("pyiqa")[f"pyiqa_{model}/v{size}/mos_f32"][0]) < 2e-5
