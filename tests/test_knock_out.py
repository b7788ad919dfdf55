"""benchmarks/knock_out.py against models of which one knows what they rely on."""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np
import pytest

import musiq_ref as mq
from musiq_ref.metrics import srcc
from musiq_ref.pictures.scenes import scene

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture(scope="module")
def knock_out():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        return runpy.run_path(str(BENCHMARKS / "knock_out.py"))


@pytest.fixture(scope="module")
def tokens():
    return mq.tokenize(scene(1, 70, 90, "leaves"), mq.load_checkpoint("demo").config)


def scores(knock_out, tokens, change):
    """{row: score} of the bundled model with changed parameters, in float64."""
    checkpoint = mq.load_checkpoint("demo", dtype="float64")
    change(checkpoint.params)
    rows = knock_out["ablations"](checkpoint.config)
    return {row.name: knock_out["score"](tokens, checkpoint.params, checkpoint.config, row) for row in rows}


def same(found):
    """The rows whose loss changes nothing."""
    return {name for name, score in found.items() if score == pytest.approx(found["nothing"], abs=1e-6)}


def test_every_loss_changes_the_score_of_the_bundled_model(knock_out, tokens):
    found = scores(knock_out, tokens, lambda params: None)
    assert len(found) == 6
    assert same(found) == {"nothing"}


def test_without_places_is_what_a_model_without_a_table_of_places_says(knock_out, tokens):
    def no_places(params):
        params["spatial_embedding"]["table"][:] = 0

    assert same(scores(knock_out, tokens, no_places)) == {"nothing", "places"}


def test_without_choice_is_what_a_model_of_equal_keys_says(knock_out, tokens):
    def equal_keys(params):
        for name, block in params["encoder"].items():
            if name.startswith("block"):
                block["attention"]["key"]["kernel"][:] = 0

    assert same(scores(knock_out, tokens, equal_keys)) == {"nothing", "attention's choice"}


def test_only_the_tokens_of_the_scale_go(knock_out, tokens):
    for scale in range(3):
        left = knock_out["without_scale"](scale)(tokens)
        assert set(left.scale_index[left.mask]) == {0, 1, 2} - {scale}
        assert left.mask.sum() == (tokens.mask & (tokens.scale_index != scale)).sum()
    shuffled = knock_out["without_places"](tokens)
    for scale in range(3):
        at = tokens.mask & (tokens.scale_index == scale)
        assert sorted(shuffled.hash_index[at]) == sorted(tokens.hash_index[at])
        assert (shuffled.hash_index[at] != tokens.hash_index[at]).any()


def test_the_cost_is_what_the_correlation_loses(knock_out):
    severity = np.array([0, 0.25, 0.5, 0.75, 1])
    right, wrong = 100 - severity, np.array([1, 5, 2, 4, 3])
    rows = [knock_out["Ablated"](name, None) for name in ("nothing", "all")]
    pictures = [np.stack([severity, right, without], axis=1) for without in (wrong, right)]
    (whole, none, *_), (without, cost, low, high) = knock_out["costs"](pictures, rows, resamples=200)
    assert (whole, none) == (pytest.approx(-1), 0)
    assert without == pytest.approx(srcc([*severity, *severity], [*wrong, *right]))
    assert cost == pytest.approx(without + 1)
    assert low == pytest.approx(0, abs=1e-12)  # of draws with the second picture twice, a quarter
    assert high == pytest.approx(1 + np.corrcoef(severity, wrong)[0, 1])  # and with the first twice


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({}, ["224", "384", "native"]),
        ({"conventions": mq.PAPER}, ["native", "224", "384"]),
        ({"native": False}, ["224", "384"]),
    ],
)
def test_scales_are_named_in_the_order_of_their_indices(knock_out, change, names):
    rows = knock_out["ablations"](mq.MusiqConfig(**change))[1:-2]
    assert [name in row.name for name, row in zip(names, rows, strict=True)] == [True] * len(names)
