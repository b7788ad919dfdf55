"""The first weights of a short training: filters in pairs, an embedding that tells patches apart."""

from __future__ import annotations

import numpy as np
import pytest

from musiq_ref.checkpoint import save_checkpoint
from musiq_ref.config import MusiqConfig
from musiq_ref.image.tokenize import tokenize
from musiq_ref.model.embeddings import patch_embedding
from musiq_ref.model.parameters import flatten, init_params
from musiq_ref.model.stem import stem
from musiq_ref.pictures.synthetic import training_example
from musiq_ref.training.initial import cosine_filters, fit_to_images
from musiq_ref.training.run import first_state
from musiq_ref.training.settings import recipe
from musiq_ref.training.state import fold_targets
from musiq_ref.training.stream import open_stream

CONFIG = MusiqConfig(layers=1, width=40, mlp_width=32, heads=4, patch_size=16, longer_sides=(32,))


@pytest.fixture(scope="module")
def tokens():
    return [tokenize(training_example(0, index, 64).image, CONFIG, "float64") for index in range(40)]


def mean_frequency(filter_):
    """Of the power spectrum of one channel, (7, 7, 3), in cycles per pixel."""
    power = (np.abs(np.fft.fft2(filter_, (28, 28), axes=(0, 1))) ** 2).sum(axis=-1)
    frequency = np.hypot(np.fft.fftfreq(28)[:, None], np.fft.fftfreq(28))
    return (power * frequency).sum() / power.sum()


def test_every_pair_is_a_coarse_and_a_fine_filter():
    kernel = cosine_filters()
    assert len(np.unique(kernel[..., 1::2].reshape(147, 32).round(9), axis=1).T) == 32
    for group in range(32):
        coarse, fine = (mean_frequency(kernel[..., 2 * group + i]) for i in (0, 1))
        assert coarse < 0.9 * fine
    np.testing.assert_allclose(kernel.mean(axis=(0, 1, 2)), 0, atol=1e-15)


def test_the_embedding_starts_white(tokens):
    drawn = init_params(CONFIG, seed=1, dtype="float64")
    params = fit_to_images(drawn, CONFIG, tokens)
    rows = []
    for one in tokens:
        features, _ = stem(one.patches[one.mask], params["stem"], CONFIG.conventions)
        rows.append(patch_embedding(features, params["patch_embedding"])[0])
    covariance = np.cov(np.concatenate(rows).T)
    np.testing.assert_allclose(np.concatenate(rows).mean(axis=0), 0, atol=1e-9)
    np.testing.assert_allclose(covariance - np.diag(np.diag(covariance)), 0, atol=1e-9)
    assert (np.diff(np.diag(covariance)) < 0).all()
    assert np.diag(covariance)[0] == pytest.approx(1, abs=2e-3)
    assert np.diag(covariance).max() < 1


def test_a_linear_stem_starts_white_too(tokens):
    config = CONFIG.replace(stem="linear")
    params = fit_to_images(init_params(config, dtype="float64"), config, tokens)
    rows = np.concatenate([patch_embedding(one.patches[one.mask], params["patch_embedding"])[0] for one in tokens])
    np.testing.assert_allclose(rows.mean(axis=0), 0, atol=1e-9)
    np.testing.assert_allclose(np.cov(rows.T) - np.diag(rows.var(axis=0, ddof=1)), 0, atol=1e-9)
    assert set(params) == set(init_params(config))


def test_nothing_else_changes(tokens):
    drawn = init_params(CONFIG, seed=1)
    params = dict(flatten(fit_to_images(drawn, CONFIG, tokens)))
    changed = {path for path, array in flatten(drawn) if not np.array_equal(array, params[path])}
    assert changed == {"stem/conv_root/kernel", "patch_embedding/kernel", "patch_embedding/bias"}
    assert {array.dtype for array in params.values()} == {np.dtype("float32")}


def test_a_run_starts_so_if_asked():
    model = {"layers": 1, "width": 16, "mlp_width": 16, "heads": 2}
    settings = recipe("synthetic", epochs=1, epoch_images=6, side=64, model=model)
    stream = open_stream(settings)
    assert settings.fit_to_images
    root = first_state(settings, stream).params["stem"]["conv_root"]["kernel"]
    np.testing.assert_allclose(root, cosine_filters(), rtol=1e-6)
    plain = first_state(settings.replace(fit_to_images=False), stream).params["stem"]["conv_root"]["kernel"]
    np.testing.assert_array_equal(plain, init_params(settings.config())["stem"]["conv_root"]["kernel"])


def test_a_checkpoint_that_answers_in_scores_goes_on_with_the_same_scores(tmp_path):
    model = {"layers": 1, "width": 16, "mlp_width": 16, "heads": 2}
    settings = recipe("synthetic", epochs=1, epoch_images=6, side=64, model=model, dtype="float64", fit_to_images=False)
    params = init_params(settings.config(), 3, "float64")
    params["head"] = {"kernel": np.random.default_rng(0).standard_normal((16, 1)), "bias": np.array([60.0])}
    save_checkpoint(tmp_path / "first.safetensors", params, settings.config())
    settings = settings.replace(init=str(tmp_path / "first.safetensors"))
    state = first_state(settings, open_stream(settings))
    assert state.spread != 1
    assert state.params["head"]["bias"] == pytest.approx((60 - state.centre) / state.spread)
    folded = fold_targets(state.params, state.centre, state.spread)["head"]
    np.testing.assert_allclose(folded["kernel"], params["head"]["kernel"], rtol=1e-12)
    np.testing.assert_allclose(folded["bias"], params["head"]["bias"], rtol=1e-12)


def test_photographs_are_those_for_training():
    assert recipe("synthetic").photographs == ["astronaut", "coffee"]
    with pytest.raises(ValueError, match="photographs has 'cat'; choose from astronaut"):
        recipe("synthetic", photographs=["cat"])
    with pytest.raises(ValueError, match="photographs is empty"):
        recipe("synthetic", photographs=[])


@pytest.mark.parametrize("reduction", [[1.5], [0.5, 2.0], [2.0, 1.5]])
def test_photographs_are_only_reduced_and_by_a_range(reduction):
    with pytest.raises(ValueError, match=r"reduction is .*; name the least and the most"):
        recipe("synthetic", reduction=reduction)


def test_not_with_a_checkpoint():
    with pytest.raises(ValueError, match="fit_to_images is for training from scratch, not from the checkpoint 'koniq'"):
        recipe("synthetic", init="koniq")
