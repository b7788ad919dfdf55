"""Images of different sizes scored together, without padding: each gets the score that it gets alone."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from cupy_double import BACKEND, Double, counters

import musiq_ref as mq
from musiq_ref.backend import NUMPY
from musiq_ref.model.inference import predict_packed
from musiq_ref.model.parameters import map_params
from musiq_ref.model.places import places
from musiq_ref.packing import Packer

CONFIG = mq.MusiqConfig.preset("tiny", outputs=5, width=24, mlp_width=20, longer_sides=(32, 64))
PARAMS = mq.verify.deterministic_params(CONFIG, 1, "float64")
IMAGES = [mq.verify.deterministic_image(i, *size) for i, size in enumerate([(20, 70), (290, 133), (5, 5), (20, 70)])]


@pytest.mark.parametrize("stem", ["resnet", "linear"])
@pytest.mark.parametrize("backend", [NUMPY, BACKEND], ids=["numpy", "double"])
def test_packed_images_have_their_own_logits(backend, stem):
    config = CONFIG.replace(stem=stem)
    params = mq.verify.deterministic_params(config, 1, "float64")
    tokens = [mq.tokenize(image, config, "float64") for image in IMAGES]
    assert not all(one.mask.all() for one in tokens)  # some are padded
    there = map_params(backend.from_numpy, params)
    counters.reset()
    packed = predict_packed(there, tokens, config, backend)
    uploads = len(tokens) + 3 + 3 + 2 * 2  # patches; rows, hashes, scales; places, two of each of two groups
    assert (counters.synchronisations, counters.transfers) == (0, 0 if backend is NUMPY else uploads)
    alone = np.stack([mq.predict(params, one, config) for one in tokens])
    assert not np.allclose(alone[0], alone[1], rtol=1e-6)
    np.testing.assert_allclose(backend.to_numpy(packed), alone, rtol=3e-13)


@pytest.mark.parametrize("counts", [[3, 5, 4, 30, 31, 1], [7], [2, 2], [1, 9, 4, 2]])
def test_tables_hold_every_token_once_and_back_finds_it(counts):
    found, place = places(counts), 0
    sequence, rows = np.arange(len(found.source)), []
    for table, valid in found.groups:
        assert max(valid.sum(axis=1)) <= 2 * min(valid.sum(axis=1))
        rows += [row[kept].tolist() for row, kept in zip(table, valid, strict=True)]
    for count, first in zip(counts, found.first, strict=True):
        assert first == place
        assert sequence[place : place + 1 + count].tolist() in rows
        place += 1 + count
    assert len(rows) == len(counts)
    np.testing.assert_array_equal(np.concatenate([table.ravel() for table, _ in found.groups])[found.back], sequence)


def test_a_device_scores_many_images_as_one_by_one(monkeypatch):
    monkeypatch.setattr("musiq_ref.scorers.get_backend", lambda name: BACKEND if name == "double" else NUMPY)
    checkpoint = mq.Checkpoint(PARAMS, CONFIG, "native", None)
    images = [*IMAGES, "missing.png", *IMAGES]
    [here, there] = [list(mq.scorer(checkpoint, name, "float64").map(images)) for name in ("numpy", "double")]
    for one, other in zip(here, there, strict=True):
        if isinstance(one, Exception) or isinstance(other, Exception):
            assert str(one) == str(other) == "missing.png does not exist; check the path"
        else:
            assert other.value == pytest.approx(one.value, rel=1e-7)  # 8-bit pixels are resized in float32


def test_pixels_that_find_no_memory_on_the_device_become_tokens_here(monkeypatch):
    """They are many; the patches then go there in pieces. What finds none at all is a sentence."""
    sizes = []

    def full(array):
        sizes.append(array.nbytes)
        if array.nbytes > most:
            raise MemoryError("Out of memory allocating 9,000,000,000 bytes")
        return BACKEND.from_numpy(array)

    device = BACKEND._replace(from_numpy=full)
    monkeypatch.setattr("musiq_ref.scorers.get_backend", lambda name: device)
    monkeypatch.setattr("musiq_ref.model.inference.PATCHES_ON_DEVICE", 1)
    image, most = np.concatenate([IMAGES[1]] * 7, axis=1), 10**9
    there = mq.scorer(mq.Checkpoint(PARAMS, CONFIG, "native", None), "double")
    expected = there(image).value
    most = 200_000  # bytes: not the image, but patches of 12 kilobytes
    del sizes[:]
    assert there(image).value == pytest.approx(expected, rel=1e-6)
    assert max(sizes) == image.nbytes > most
    most = 10_000
    with pytest.raises(MemoryError, match=r"^the image: too large for the memory of the GPU; reduce it"):
        there(image)


def tokens_of(*lengths):
    return [mq.Tokens(*[np.ones(length)] * 4) for length in lengths]


def gathered(compute, tokens, most=100):
    """What a packer returns to threads that come while it is busy with another image."""
    packer = Packer(compute, most)
    with ThreadPoolExecutor(len(tokens)) as pool:
        with packer.free:
            futures = []
            for one in tokens:
                futures.append(pool.submit(packer, one))
                while len(packer.waiting) < len(futures):
                    time.sleep(0.001)
        return [future.exception() or future.result() for future in futures]


def test_what_waits_is_computed_together_as_far_as_it_fits():
    packs = []

    def compute(images):
        packs.append([len(one.mask) for one in images])
        return packs[-1]

    assert gathered(compute, tokens_of(40, 50, 10, 20, 300, 7)) == [40, 50, 10, 20, 300, 7]
    assert packs == [[40, 50, 10], [20], [300], [7]]  # 100 fit


def test_an_error_is_that_of_its_image_alone():
    def compute(images):
        if any(len(one.mask) == 13 for one in images):
            raise MemoryError("Out of memory")
        return [len(one.mask) for one in images]

    results = gathered(compute, tokens_of(12, 13, 14))
    assert results[::2] == [12, 14]
    assert type(results[1]) is MemoryError


def test_nothing_to_score_is_said():
    padding = mq.tokenize(IMAGES[0], CONFIG, "float64")._replace(
        mask=np.zeros(len(mq.tokenize(IMAGES[0], CONFIG).mask))
    )
    for tokens in ([], [padding], [mq.tokenize(IMAGES[0], CONFIG, "float64"), padding]):
        with pytest.raises(ValueError, match="there is nothing to score"):
            predict_packed(map_params(Double, PARAMS), tokens, CONFIG, BACKEND)
