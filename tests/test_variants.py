"""Models without an embedding, with a linear stem, or with other attention: every part of the library knows them."""

from __future__ import annotations

import numpy as np
import pytest
from op_table import CONFIG, random_params
from test_complexity import Counted
from test_model import SMALL, random_tokens

import musiq_ref as mq
from musiq_ref.checkpoint.pyiqa import PYIQA_LAYOUT
from musiq_ref.image.tokenize import tokenize_backward
from musiq_ref.model.parameters import add_params, flatten, map_params
from musiq_ref.training.run import train
from musiq_ref.training.settings import Settings
from musiq_ref.verify import GradientError, check_vjp, deterministic_image, deterministic_params, trace

ABLATIONS = {
    "no HSE": {"spatial": "none"},
    "no SCE": {"scale_embedding": False},
    "linear stem": {"stem": "linear", "patch_size": 6, "longer_sides": (24, 42)},  # few patches, though they are small
    "all three": {"spatial": "none", "scale_embedding": False, "stem": "linear"},
}
PARTS = {"spatial": "spatial_embedding", "scale_embedding": "scale_embedding", "stem": "stem"}
LACKING = {name: {PARTS[field] for field in PARTS if field in changes} for name, changes in ABLATIONS.items()}
LONG = {"attention": "linformer", "attention_rank": 5, "attention_length": 700}
KINDS = {
    "performer": {"attention": "performer", "attention_rank": 6, "attention_seed": 3},
    "without ε": {"attention": "performer", "attention_rank": 6, "attention_eps": 0.0},
    "linformer": LONG,
    "shared": {**LONG, "attention_shared": True},
}
every_ablation = pytest.mark.parametrize("name", ABLATIONS)
VARIANTS = ABLATIONS | KINDS
every_variant = pytest.mark.parametrize("name", VARIANTS)
every_kind = pytest.mark.parametrize("kind", KINDS)


def paired(one, other):
    """(path, array, array) of every parameter of two models that have the same."""
    arrays = dict(flatten(other))
    assert [path for path, _ in flatten(one)] == list(arrays) != []
    return [(path, array, arrays[path]) for path, array in flatten(one)]


@every_ablation
def test_the_parameters_lack_what_the_model_lacks(name):
    whole, params = mq.init_params(SMALL), mq.init_params(SMALL.replace(**ABLATIONS[name]))
    assert set(whole) - set(params) == LACKING[name]
    assert set(params) <= set(whole)


@every_variant
def test_gradient_from_the_logits_to_the_pixels_and_parameters(name):
    """The logits themselves, not one sum of them: where they cancel, rounding would look large beside their sum."""
    config = CONFIG.replace(**{**VARIANTS[name], "attention_length": 17})

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


@pytest.mark.parametrize("changes", [*VARIANTS.values(), {"spatial": "sinusoidal"}], ids=[*VARIANTS, "sinusoidal"])
def test_pytorchs_scores_and_gradients_are_ours(torch, changes):
    """Two images at once: autograd's gradient of the sum of the scores to every parameter, and ours by hand."""
    from musiq_ref.verify.torch_port import TorchMusiq

    shapes = {"patch_size": 8, "longer_sides": (20,), "grid_size": 4, **changes}
    config = mq.MusiqConfig.preset("tiny", outputs=10, conventions=mq.PYIQA, **shapes)
    params = deterministic_params(config, 2, "float64")

    def renamed(nested):
        named = {}
        for path, array in flatten(nested):
            if path.endswith(("/E", "/F")):
                name = PYIQA_LAYOUT.name(path[:-1] + "query/bias").replace("query.bias", path[-1])
            else:
                name, array = PYIQA_LAYOUT.name(path).replace("head.", "head.0."), PYIQA_LAYOUT.to_file(path, array)
            named[name] = np.ascontiguousarray(array)
        return named

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
        # the gradient to the key biases is zero in exact arithmetic where a softmax ignores a shift of all keys
        shifted = config.attention == "softmax" and name.endswith("key.bias")
        assert error < 5e-14 * (1 if shifted else max(np.linalg.norm(theirs[name]), 1e-3)), name


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
    configs = SMALL.replace(**ABLATIONS[name]), SMALL
    traces = [trace(random_params(c), mq.batch([random_tokens(c, 6, 1)]), c, np.ones((1, 3))) for c in configs]
    (values, gradients), (whole, _) = traces
    assert set(values) == set(gradients)
    missing = {tap for tap in whole if tap.startswith("stem/")} if "stem" in LACKING[name] else set()
    assert set(whole) - set(values) == missing
    if "spatial_embedding" in LACKING[name]:
        assert np.array_equal(values["spatial_embedding"], values["patch_embedding"])
    if "scale_embedding" in LACKING[name]:
        assert np.array_equal(values["scale_embedding"], values["spatial_embedding"])


@every_variant
def test_counts_are_of_arrays_and_multiplications_that_are_there(name):
    config = mq.MusiqConfig.preset("tiny", outputs=10, **{"longer_sides": (60, 90), **VARIANTS[name]})
    params = deterministic_params(config, 1)
    counted = mq.complexity(config, (40, 150))
    assert counted.parameters == sum(counted.parameters_by_part.values()) == sum(a.size for _, a in flatten(params))
    tokens = mq.batch([mq.tokenize(np.zeros((40, 150, 3), np.uint8), config)])
    Counted.macs = 0
    tokens = tokens._replace(patches=tokens.patches.view(Counted))
    mq.forward(map_params(lambda a: a.view(Counted), params), tokens, config)
    assert counted.macs == sum(counted.macs_by_part.values()) == Counted.macs


@every_variant
def test_on_the_device_too(device, name):
    config = SMALL.replace(**VARIANTS[name])
    params, tokens = random_params(config), [random_tokens(config, n, n) for n in (6, 9)]
    dlogits = np.random.default_rng(0).standard_normal((2, 3))
    here, cache = mq.forward(params, mq.batch(tokens), config)
    gradients = mq.backward(dlogits, cache)
    remote = map_params(device.from_numpy, params)
    there, cache = mq.forward(remote, mq.Tokens(*map(device.from_numpy, mq.batch(tokens))), config)
    far = mq.backward(device.from_numpy(dlogits), cache)
    np.testing.assert_allclose(device.to_numpy(there), here, rtol=1e-9, atol=1e-9)
    for path, a, b in paired(gradients.params, far.params):
        assert np.abs(device.to_numpy(b) - a).max() <= 1e-10 * max(np.abs(a).max(), 1e-3), path
    alone = device.to_numpy(mq.predict(remote, tokens[0], config, device))
    np.testing.assert_allclose(alone, here[0], rtol=1e-9)


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
def test_training_changes_what_there_is_to_learn(kind, tmp_path):
    model = {"layers": 1, "width": 8, "mlp_width": 6, "heads": 2, "patch_size": 8, "grid_size": 3}
    model |= {"longer_sides": [16], **KINDS[kind]}
    settings = Settings(model=model, dataset="synthetic", side=24, epochs=2, epoch_images=12, batch=4, warmup=0)
    settings = settings.replace(optimizer="adam", learning_rate=0.001, ema=0.0, threads=1, loss="huber", seed=2)
    last = mq.load_checkpoint(train(settings, tmp_path / "whole", progress=False).last)
    assert last.config.attention == KINDS[kind]["attention"]
    first = mq.init_params(settings.config(), seed=2)
    before, after = (p["encoder"]["block_00"]["attention"] for p in (first, last.params))
    for name in {"linformer": ("E", "F"), "shared": ("E",)}.get(kind, ()):
        assert before[name].shape == after[name].shape
        assert not np.array_equal(before[name], after[name])
