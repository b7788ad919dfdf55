"""The PyTorch port against the recorded run of pyiqa: score, distribution and gradient to the image (SPEC 10)."""

import numpy as np
import pytest
import torch
from agreement import golden

import musiq_ref as mq
from musiq_ref.checkpoint import to_pyiqa
from musiq_ref.config import OFFICIAL, PYIQA, MusiqConfig
from musiq_ref.verify.ladder.deterministic import deterministic_image, deterministic_params
from musiq_ref.verify.torch_port import TorchMusiq, TorchTokens

MODELS = {"pyiqa_tiny_c1_s1": (1, 1), "pyiqa_tiny_c10_s2": (10, 2)}  # name: (outputs, seed of the weights)
SIZES = [(64, 96), (150, 211), (31, 500), (97, 384)]
EVERY_CASE = [(name, h, w) for name in MODELS for h, w in SIZES]
IMAGE_SEED = 3


def port(name, dtype):
    outputs, seed = MODELS[name]
    config = MusiqConfig.preset("tiny", outputs=outputs, conventions=PYIQA)
    model = TorchMusiq(config)
    state = {key: torch.tensor(value) for key, value in to_pyiqa(deterministic_params(config, seed)).items()}
    model.load_state_dict(state)
    return model.to(dtype)


def image_tensor(height, width, dtype):
    pixels = torch.tensor(deterministic_image(IMAGE_SEED, height, width)).permute(2, 0, 1)[None]
    return (pixels.to(dtype) / 255).requires_grad_()


def run(name, height, width, dtype):
    """Score (1,), distribution (C,) and gradient (H, W, 3) of one golden case."""
    model, image = port(name, dtype), image_tensor(height, width, dtype)
    outputs = model.outputs(model.tokenize(image))
    score = model.score(outputs)
    score.sum().backward()
    assert image.grad is not None
    return score.detach().numpy(), outputs.detach().numpy()[0], image.grad[0].permute(1, 2, 0).numpy()


@pytest.fixture
def recorded():
    return golden("pyiqa")


@pytest.mark.parametrize(("name", "height", "width"), EVERY_CASE)
def test_float64_reproduces_pyiqa(recorded, name, height, width):
    case = f"{name}/v{height}x{width}"
    score, distribution, dimage = run(name, height, width, torch.float64)
    sample = np.linspace(0, dimage.size - 1, 257).astype(int)
    np.testing.assert_allclose(score, recorded[f"{case}/mos"], rtol=1e-12)
    np.testing.assert_allclose(distribution, recorded[f"{case}/dist"], rtol=1e-12)
    np.testing.assert_allclose(dimage.ravel()[sample], recorded[f"{case}/dimage_sample"], rtol=0, atol=1e-12)
    np.testing.assert_allclose(np.linalg.norm(dimage), recorded[f"{case}/dimage_norm"], rtol=1e-12)


@pytest.mark.parametrize(("name", "height", "width"), EVERY_CASE)
def test_float32_reproduces_pyiqa(recorded, name, height, width):
    case = f"{name}/v{height}x{width}"
    score, distribution, dimage = run(name, height, width, torch.float32)
    np.testing.assert_allclose(score, recorded[f"{case}/mos_f32"], rtol=2e-6)
    np.testing.assert_allclose(distribution, recorded[f"{case}/dist_f32"], rtol=5e-6)
    np.testing.assert_allclose(np.linalg.norm(dimage), recorded[f"{case}/dimage_norm"], rtol=1e-4)


def test_every_golden_value_is_compared(recorded):
    suffixes = ["mos", "dist", "mos_f32", "dist_f32", "dimage_sample", "dimage_norm"]
    compared = {f"{name}/v{h}x{w}/{suffix}" for name, h, w in EVERY_CASE for suffix in suffixes}
    assert compared == set(recorded)


def test_pytorchs_gradients_are_our_gradients():
    """Two images at once: autograd's gradient of the sum of the scores to every parameter, and ours by hand."""
    config = MusiqConfig.preset("tiny", outputs=10, conventions=PYIQA)
    params = deterministic_params(config, 2, "float64")
    model = port("pyiqa_tiny_c10_s2", torch.float64)
    pictures = [deterministic_image(seed, 60, 130) for seed in (3, 4)]
    images = torch.tensor(np.stack(pictures)).permute(0, 3, 1, 2).double() / 255
    model(images).sum().backward()
    theirs = {name: p.grad.numpy() for name, p in model.named_parameters() if p.grad is not None}

    logits, cache = mq.forward(params, mq.batch([mq.tokenize(p, config, "float64") for p in pictures]), config)
    expected, cache_score = mq.expected_score(logits)
    gradients = mq.backward(mq.expected_score_backward(np.ones_like(expected.score), cache_score), cache)
    ours = to_pyiqa(gradients.params)
    assert set(ours) == set(theirs)
    for name, gradient in ours.items():
        error = np.abs(gradient - theirs[name]).max()
        if name.endswith("key.bias"):  # zero in exact arithmetic: softmax ignores a shift
            assert error < 1e-12
        else:
            assert error < 1e-12 * np.linalg.norm(theirs[name]), name


def test_padding_tokens_change_nothing():
    model = port("pyiqa_tiny_c1_s1", torch.float64)
    with torch.no_grad():
        tokens = model.tokenize(image_tensor(64, 96, torch.float64))
        valid = tokens.mask.bool()
        kept = TorchTokens(tokens.patches[:, valid], *(v[valid] for v in tokens[1:]))
        assert len(kept.mask) < len(tokens.mask)
        torch.testing.assert_close(model.outputs(kept), model.outputs(tokens), rtol=1e-12, atol=0)


def test_images_of_one_size_go_through_together():
    model = port("pyiqa_tiny_c10_s2", torch.float64)
    images = torch.rand(2, 3, 40, 70, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    together, one_by_one = model(images), torch.cat([model(image[None]) for image in images])
    torch.testing.assert_close(together, one_by_one, rtol=1e-12, atol=0)


@pytest.mark.parametrize(("limit", "expected"), [(2, 2), (100, 100), (-1, 6)])
def test_native_patches_are_cut_or_padded_to_the_limit(limit, expected):
    config = MusiqConfig.preset("tiny", conventions=PYIQA, longer_sides=(), max_native_patches=limit)
    tokens = TorchMusiq(config).tokenize(torch.zeros(1, 3, 64, 96))
    assert tokens.patches.shape == (1, expected, 3, 32, 32)
    assert int(tokens.mask.sum()) == min(expected, 6)


def test_other_conventions_are_refused():
    with pytest.raises(ValueError, match="pyiqa's conventions only"):
        TorchMusiq(MusiqConfig.preset("tiny", conventions=OFFICIAL))


def test_a_side_that_vanishes_is_an_error_naming_the_size():
    model = TorchMusiq(MusiqConfig.preset("tiny", conventions=PYIQA))
    with pytest.raises(ValueError, match=r"1 × 600"):
        model(torch.zeros(1, 3, 1, 600))
