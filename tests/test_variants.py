"""Models without an embedding, with a linear stem, or with other attention: every part of the library knows them."""

from __future__ import annotations

import json

import numpy as np
import pytest
from op_table import CONFIG, random_params
from safetensors.numpy import load_file, save_file
from test_complexity import Counted
from test_model import SMALL, random_tokens

import musiq_ref as mq
from musiq_ref.checkpoint import save_official, save_pyiqa, to_official, to_pyiqa
from musiq_ref.checkpoint.pyiqa import PYIQA_LAYOUT
from musiq_ref.cli import main
from musiq_ref.image.tokenize import tokenize_backward
from musiq_ref.model.parameters import add_params, flatten, map_params
from musiq_ref.training.run import train
from musiq_ref.training.settings import Settings
from musiq_ref.verify import GradientError, check_vjp, compare, deterministic_image, deterministic_params, trace
from musiq_ref.verify.ladder.fixture import build_fixture, write_fixture
from musiq_ref.verify.ladder.stages import run_stages

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


@every_ablation
def test_the_parameters_lack_what_the_model_lacks(name):
    whole, params = mq.init_params(SMALL), mq.init_params(SMALL.replace(**ABLATIONS[name]))
    assert set(whole) - set(params) == LACKING[name]
    assert set(params) <= set(whole)


@every_variant
def test_gradient_from_the_logits_to_the_pixels_and_parameters(name):
    """The logits themselves, not one sum of them: where they cancel, rounding would look large beside their sum."""
    config = CONFIG.replace(**VARIANTS[name])
    if config.attention == "linformer":
        config = config.replace(attention_length=17)

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
                query = PYIQA_LAYOUT.name(path[:-1] + "query/bias")
                named[query.replace("query.bias", path[-1])] = array
            else:
                named[PYIQA_LAYOUT.name(path).replace("head.", "head.0.")] = PYIQA_LAYOUT.to_file(path, array)
        return {name: np.ascontiguousarray(array) for name, array in named.items()}

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
def test_the_native_file_holds_it_and_inference_scores_it(name, tmp_path):
    config = mq.MusiqConfig.preset("tiny", **VARIANTS[name])
    params, image = deterministic_params(config, 1), deterministic_image(1, 50, 70)
    mq.save_checkpoint(tmp_path / "a.safetensors", params, config)
    loaded = mq.load_checkpoint(tmp_path / "a.safetensors")
    assert loaded.config == config
    assert list(flatten(loaded.params)) != []
    for (path, before), (again, after) in zip(flatten(params), flatten(loaded.params), strict=True):
        assert path == again
        assert np.array_equal(before, after)
    logits, _ = mq.forward(params, mq.batch([mq.tokenize(image, config)]), config)
    near = 2e-7 if name in KINDS else 1e-6  # without an embedding a score is near 0, the difference of larger numbers
    assert mq.score([image], loaded)[0].value == pytest.approx(float(logits[0, 0]), rel=2e-6, abs=near)


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
    for (path, a), (again, b) in zip(flatten(gradients.params), flatten(far.params), strict=True):
        assert path == again
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


@every_kind
def test_a_fixture_carries_the_fields_and_is_its_own_port(kind, tmp_path):
    config, image = mq.MusiqConfig.preset("tiny", **KINDS[kind], longer_sides=(40,)), deterministic_image(2, 40, 50)
    mq.save_checkpoint(tmp_path / "a.safetensors", deterministic_params(config, 1), config)
    fixture, folder = build_fixture(checkpoint=tmp_path / "a.safetensors", image=image), tmp_path / "fixture"
    assert fixture.config == config
    write_fixture(folder, fixture)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert {name: manifest["config"][name] for name in KINDS[kind]} == KINDS[kind]
    stages = run_stages(map_params(np.float32, fixture.params), image, config)
    assert compare(folder, stages, diagnose=False).passed
    if config.attention == "performer":
        other = run_stages(fixture.params, image, config.replace(attention_seed=9))
        result = compare(folder, other, diagnose=False)
        assert not result.passed
        assert result.first
        assert result.first.name == "encoder/block_00/attention/query_features"


# ---- files of other attention


@every_kind
def test_other_formats_refuse_other_attention(kind, tmp_path, capsys):
    config, path = mq.MusiqConfig.preset("tiny", **KINDS[kind]), tmp_path / "a.safetensors"
    params = deterministic_params(config, 1)
    mq.save_checkpoint(path, params, config)
    assert main(["convert", str(path), str(tmp_path / "a.npz")]) == 2
    performer = config.attention == "performer"
    says = "attention = performer, and loads with softmax" if performer else "attention/E"
    assert says in capsys.readouterr().err
    if not performer:
        with pytest.raises(mq.CheckpointError, match="keep this model in the native layout"):
            to_official(params)
    assert not (tmp_path / "a.npz").exists()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"attention": "softmax"}, "2 unexpected|4 unexpected"),
        ({"attention_shared": True}, "unexpected"),
        ({"attention_rank": 4}, "misshapen"),
    ],
)
def test_a_linformers_matrices_are_loaded_strictly(change, says, tmp_path):
    config = mq.MusiqConfig.preset("tiny", **KINDS["linformer"])
    mq.save_checkpoint(tmp_path / "a.safetensors", deterministic_params(config, 1), config)
    with pytest.raises(mq.CheckpointError, match=says):
        mq.load_checkpoint(tmp_path / "a.safetensors", config=config.replace(**change))
    with pytest.raises(mq.CheckpointError, match=r"missing \(.*attention/E"):
        mq.load_checkpoint("demo", config=mq.load_checkpoint("demo").config.replace(attention="linformer"))


def test_files_from_before_there_was_a_choice_are_softmax(tmp_path):
    config, path = mq.MusiqConfig.preset("tiny"), tmp_path / "a.safetensors"
    values = {k: v for k, v in config.to_dict().items() if not k.startswith("attention")}
    mq.save_checkpoint(path, deterministic_params(config, 1), config)
    metadata = {"format": "musiq_ref", "musiq_ref_config": json.dumps(values)}
    save_file(load_file(path), tmp_path / "old.safetensors", metadata=metadata)
    assert mq.load_checkpoint(tmp_path / "old.safetensors").config == config


# ---- files of less


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
