"""Models without the hash-based spatial or the scale embedding, or with a linear stem: what they are, and gradients."""

from __future__ import annotations

import numpy as np
import pytest
from op_table import CONFIG, random_params
from test_complexity import Counted
from test_model import SMALL, random_tokens

import musiq_ref as mq
from musiq_ref.checkpoint import save_official, save_pyiqa, to_official, to_pyiqa
from musiq_ref.checkpoint.pyiqa import PYIQA_LAYOUT
from musiq_ref.model.parameters import flatten, map_params
from musiq_ref.verify import GradientError, check_vjp, deterministic_image, deterministic_params, trace

ABLATIONS = {
    "no HSE": {"spatial": "none"},
    "no SCE": {"scale_embedding": False},
    "linear stem": {"stem": "linear", "patch_size": 6, "longer_sides": (24, 42)},  # few patches, though they are small
    "all three": {"spatial": "none", "scale_embedding": False, "stem": "linear"},
}
LACKING = {
    "no HSE": {"spatial_embedding"},
    "no SCE": {"scale_embedding"},
    "linear stem": {"stem"},
    "all three": {"spatial_embedding", "scale_embedding", "stem"},
}
every_ablation = pytest.mark.parametrize("name", ABLATIONS)


@every_ablation
def test_the_parameters_lack_what_the_model_lacks(name):
    whole, params = mq.init_params(SMALL), mq.init_params(SMALL.replace(**ABLATIONS[name]))
    assert set(whole) - set(params) == LACKING[name]
    assert set(params) <= set(whole)


@every_ablation
def test_gradient_from_the_logits_to_the_pixels_and_parameters(name):
    """The logits themselves, not one sum of them: where they cancel, rounding would look large beside their sum."""
    config = CONFIG.replace(**ABLATIONS[name])

    def forward(image, params):
        logits, cache = mq.forward(params, mq.batch([mq.tokenize(image, config)]), config)
        return logits, (cache, image.shape)

    def backward(dlogits, caches):
        gradients = mq.backward(dlogits, caches[0])
        return mq.image.tokenize.tokenize_backward(gradients.patches[0], *caches[1][:2], config), gradients.params

    inputs = [0.1 + 0.8 * np.random.default_rng(4).random((13, 19, 3)), random_params(config)]
    assert check_vjp(forward, backward, inputs) < 1e-6
    with pytest.raises(GradientError):
        check_vjp(forward, lambda d, c: (backward(d, c)[0][::-1], backward(d, c)[1]), inputs)


@pytest.mark.parametrize("changes", [*ABLATIONS.values(), {"spatial": "sinusoidal"}], ids=[*ABLATIONS, "sinusoidal"])
def test_pytorchs_scores_and_gradients_are_ours(torch, changes):
    """Two images at once: autograd's gradient of the sum of the scores to every parameter, and ours by hand."""
    from musiq_ref.verify.torch_port import TorchMusiq

    config = mq.MusiqConfig.preset("tiny", outputs=10, conventions=mq.PYIQA, grid_size=4, **changes)
    params = deterministic_params(config, 2, "float64")

    def renamed(nested):
        named = {PYIQA_LAYOUT.name(path): PYIQA_LAYOUT.to_file(path, array) for path, array in flatten(nested)}
        return {name.replace("head.", "head.0."): np.ascontiguousarray(array) for name, array in named.items()}

    model = TorchMusiq(config).double()
    model.load_state_dict({name: torch.tensor(array) for name, array in renamed(params).items()})
    pictures = [deterministic_image(seed, 60, 130) for seed in (3, 4)]
    scores = model(torch.tensor(np.stack(pictures)).permute(0, 3, 1, 2).double() / 255)
    scores.sum().backward()
    theirs = {name: p.grad.numpy() for name, p in model.named_parameters() if p.grad is not None}

    logits, cache = mq.forward(params, mq.batch([mq.tokenize(p, config, "float64") for p in pictures]), config)
    expected, cache_score = mq.expected_score(logits)
    np.testing.assert_allclose(expected.score, scores.detach().numpy(), rtol=1e-12)
    gradients = mq.backward(mq.expected_score_backward(np.ones_like(expected.score), cache_score), cache)
    ours = renamed(gradients.params)
    assert set(ours) == set(theirs)
    for name, gradient in ours.items():
        error = np.abs(gradient - theirs[name]).max()
        # the gradient to the key biases is zero in exact arithmetic: softmax ignores a shift
        assert error < 1e-12 * (1 if name.endswith("key.bias") else np.linalg.norm(theirs[name])), name


def test_without_an_embedding_it_is_the_model_whose_table_is_zero():
    tokens = mq.batch([random_tokens(SMALL, 7, 1)])
    for table, change in (("spatial_embedding", {"spatial": "none"}), ("scale_embedding", {"scale_embedding": False})):
        params = random_params(SMALL)
        params[table]["table"] = np.zeros_like(params[table]["table"])
        whole, _ = mq.forward(params, tokens, SMALL)
        del params[table]
        assert np.array_equal(mq.forward(params, tokens, SMALL.replace(**change))[0], whole)


def test_the_linear_stem_hands_the_patch_flat_to_the_patch_embedding():
    config = SMALL.replace(stem="linear")
    params, tokens = random_params(config), mq.batch([random_tokens(config, 7, 1)])
    values, _ = trace(params, tokens, config)
    P, embedding = config.patch_size, params["patch_embedding"]
    kernel = embedding["kernel"].reshape(P, P, 3, config.width)  # as the kernel of a P×P convolution with stride P
    expected = np.einsum("bnijc,ijcd->bnd", tokens.patches, kernel, optimize=True) + embedding["bias"]
    np.testing.assert_allclose(values["patch_embedding"], expected, rtol=1e-9, atol=1e-9)


@every_ablation
def test_the_taps_see_what_there_is(name):
    config = SMALL.replace(**ABLATIONS[name])
    params, tokens = random_params(config), mq.batch([random_tokens(config, 6, 1)])
    values, gradients = trace(params, tokens, config, np.ones((1, 3)))
    whole, _ = trace(random_params(SMALL), mq.batch([random_tokens(SMALL, 6, 1)]), SMALL)
    assert set(values) == set(gradients)
    missing = {tap for tap in whole if tap.startswith("stem/")} if "stem" in LACKING[name] else set()
    assert set(whole) - set(values) == missing
    if "spatial_embedding" in LACKING[name]:
        assert np.array_equal(values["spatial_embedding"], values["patch_embedding"])
    if "scale_embedding" in LACKING[name]:
        assert np.array_equal(values["scale_embedding"], values["spatial_embedding"])


@every_ablation
def test_counts_are_of_arrays_and_multiplications_that_are_there(name):
    config = mq.MusiqConfig.preset("tiny", outputs=10, **{"longer_sides": (60, 90), **ABLATIONS[name]})
    params = deterministic_params(config, 1)
    counted = mq.complexity(config, (40, 150))
    assert counted.parameters == sum(counted.parameters_by_part.values()) == sum(a.size for _, a in flatten(params))
    tokens = mq.batch([mq.tokenize(np.zeros((40, 150, 3), np.uint8), config)])
    Counted.macs = 0
    tokens = tokens._replace(patches=tokens.patches.view(Counted))
    mq.forward(map_params(lambda a: a.view(Counted), params), tokens, config)
    assert counted.macs == sum(counted.macs_by_part.values()) == Counted.macs


@every_ablation
def test_the_native_file_holds_it_and_inference_scores_it(name, tmp_path):
    config = mq.MusiqConfig.preset("tiny", **ABLATIONS[name])
    params = deterministic_params(config, 1)
    mq.save_checkpoint(tmp_path / "a.safetensors", params, config)
    loaded = mq.load_checkpoint(tmp_path / "a.safetensors")
    assert loaded.config == config
    assert list(flatten(loaded.params)) != []
    for (path, before), (again, after) in zip(flatten(params), flatten(loaded.params), strict=True):
        assert path == again
        assert np.array_equal(before, after)
    image = deterministic_image(1, 50, 70)
    [score] = mq.score([image], loaded)
    logits, _ = mq.forward(params, mq.batch([mq.tokenize(image, config)]), config)
    assert score.value == pytest.approx(float(logits[0, 0]), rel=1e-5, abs=1e-6)


@every_ablation
def test_on_the_device_too(device, name):
    config = SMALL.replace(**ABLATIONS[name])
    params, tokens = random_params(config), mq.batch([random_tokens(config, 6, 1)])
    dlogits = np.random.default_rng(0).standard_normal((1, 3))
    here, cache = mq.forward(params, tokens, config)
    gradients = mq.backward(dlogits, cache)
    there, cache = mq.forward(map_params(device.from_numpy, params), mq.Tokens(*map(device.from_numpy, tokens)), config)
    remote = mq.backward(device.from_numpy(dlogits), cache)
    np.testing.assert_allclose(device.to_numpy(there), here, rtol=1e-9, atol=1e-9)
    for (path, a), (again, b) in zip(flatten(gradients.params), flatten(remote.params), strict=True):
        assert path == again
        assert np.abs(device.to_numpy(b) - a).max() <= 1e-10 * max(np.abs(a).max(), 1e-3), path


@pytest.mark.parametrize(("change", "part"), [({"stem": "linear"}, "stem"), ({"scale_embedding": False}, "scale_")])
def test_what_other_layouts_cannot_say_is_refused(change, part, tmp_path):
    params = mq.init_params(mq.MusiqConfig.preset("tiny", **change))
    for convert in (to_official, to_pyiqa):
        with pytest.raises(mq.CheckpointError, match=rf"have no {part}.*keep this model in the native layout"):
            convert(params)
    for save in (save_official, save_pyiqa):
        with pytest.raises(mq.CheckpointError, match=rf"have no {part}"):
            save(tmp_path / "a.npz", params)
    assert not list(tmp_path.iterdir())


def test_parameters_and_files_of_the_whole_model_do_not_fit(tmp_path):
    params, tokens = random_params(SMALL), mq.batch([random_tokens(SMALL, 6, 3)])
    for change, message in (
        ({"spatial": "none"}, "spatial_embedding/table is unexpected"),
        ({"scale_embedding": False}, "scale_embedding/table is unexpected"),
        ({"stem": "linear"}, r"patch_embedding/kernel has shape \(1024, 48\); this configuration needs \(192, 48\)"),
    ):
        with pytest.raises(ValueError, match=message):
            mq.forward(params, tokens, SMALL.replace(**change))
        with pytest.raises(mq.CheckpointError, match="not written"):
            mq.save_checkpoint(tmp_path / "a.safetensors", params, SMALL.replace(**change))
