"""Counts against the paper, against arrays that exist, and against multiplications that happen."""

from __future__ import annotations

import json

import numpy as np
import pytest

import musiq_ref as mq
from musiq_ref.cli import main
from musiq_ref.model.parameters import flatten
from musiq_ref.verify import deterministic_params

SMALL = mq.MusiqConfig()


@pytest.mark.parametrize(
    ("config", "parameters"),
    [
        (SMALL, 27_125_825),
        (SMALL.replace(outputs=10), 27_129_290),
        (SMALL.replace(outputs=1000), 27_510_440),
        (SMALL.replace(longer_sides=()), 27_125_057),
    ],
)
def test_published_parameter_counts(config, parameters):
    assert mq.complexity(config, (224, 224)).parameters == parameters


@pytest.mark.parametrize(("name", "spatial"), [("tiny", "learnable"), ("tiny", "sinusoidal"), ("medium", "learnable")])
def test_parameters_are_counted_as_they_are(name, spatial):
    config = mq.MusiqConfig.preset(name, outputs=3, spatial=spatial)
    counted = mq.complexity(config, (50, 60))
    assert counted.parameters == sum(a.size for _, a in flatten(mq.init_params(config)))
    assert counted.parameters == sum(counted.parameters_by_part.values())
    assert counted.macs == sum(counted.macs_by_part.values())


def test_parameters_are_in_the_row_of_their_part():
    counted = mq.complexity(mq.MusiqConfig(layers=2, width=12, mlp_width=10, heads=3, grid_size=3), (50, 60))
    D, M, layers = 12, 10, 2
    stem = 7 * 7 * 3 * 64 + 64 * (64 + 9 * 64 + 256 + 256) + 2 * (3 * 64 + 2 * 256)  # kernels; scales and biases
    assert counted.parameters_by_part == {
        "stem": stem,
        "patch_embedding": 8 * 8 * 256 * D + D,
        "spatial_embedding": 3 * 3 * D,
        "scale_embedding": 3 * D,
        "class_token": D,
        "encoder/attention": layers * (4 * D * D + 4 * D),
        "encoder/mlp": layers * (2 * D * M + M + D),
        "encoder/norms": (2 * layers + 1) * 2 * D,
        "head": D + 1,
    }


def test_section_g():
    counted = mq.complexity(SMALL, (224, 224))
    assert round(counted.macs / 1e9, 3) == 8.899
    assert counted.tokens == 49 + 49 + 144


class Counted(np.ndarray):
    """An array that counts the multiply–accumulates of the matrix products it takes part in."""

    macs = 0

    def __matmul__(self, other):
        return count(self, other)

    def __rmatmul__(self, other):
        return count(other, self)


def count(a, b):
    y = np.asarray(a) @ np.asarray(b)
    Counted.macs += y.size * a.shape[-1]
    return y.view(Counted)


@pytest.mark.parametrize("size", [(224, 224), (40, 150)])
@pytest.mark.parametrize("padded", [True, False])
def test_every_multiplication_is_counted(size, padded):
    """Run the model on arrays that count: convolutions, projections and attention are all matrix products here."""
    config = mq.MusiqConfig.preset("tiny", outputs=10, longer_sides=(60, 90))
    params = mq.model.parameters.map_params(lambda a: a.view(Counted), deterministic_params(config, 1))
    tokens = mq.tokenize(np.zeros((*size, 3), np.uint8), config)
    if not padded:
        tokens = mq.image.tokenize.drop_padding(tokens)
    tokens = mq.batch([tokens])
    Counted.macs = 0
    mq.forward(params, tokens._replace(patches=tokens.patches.view(Counted)), config)
    assert mq.complexity(config, size, padded).macs == Counted.macs


def test_summary_prints_the_papers_numbers_beside_its_own(capsys):
    assert main(["summary"]) == 0
    out = capsys.readouterr().out
    for text in ("27,125,825", "27M", "60,674,033", "61M", "97,804,865", "98M", "8,898,624,384", "8,860,000,000"):
        assert text in out


def test_summary_of_a_checkpoint(capsys, tmp_path):
    config = mq.MusiqConfig.preset("tiny", layers=3, outputs=10)
    mq.save_checkpoint(tmp_path / "small.safetensors", mq.init_params(config), config)
    assert main(["summary", "--checkpoint", str(tmp_path / "small.safetensors")]) == 0
    out = capsys.readouterr().out
    total = f"{mq.complexity(config, (224, 224)).parameters:,}"
    assert f"small.safetensors      3    48    96     4 {total:>12}        - " in out
    assert "27,125,825" in out  # the variant of that name, too
    assert out[out.index("small.safetensors: parameters") :].count(total) == 1


def test_a_checkpoint_called_as_a_variant_takes_nobodys_row(capsys, tmp_path):
    config = mq.MusiqConfig.preset("tiny", layers=3)
    mq.save_checkpoint(tmp_path / "small", mq.init_params(config), config)
    assert main(["summary", "--json", "--checkpoint", str(tmp_path / "small")]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["small"]["parameters"] == 27_125_825
    assert found["small (file)"]["parameters"] == mq.complexity(config, (224, 224)).parameters
    assert main(["summary", "--checkpoint", ""]) == 2


def test_summary_as_json(capsys):
    assert main(["summary", "--json", "--size", "480x640", "--outputs", "10"]) == 0
    counts = json.loads(capsys.readouterr().out)
    assert counts["small"]["parameters"] == 27_129_290
    assert counts["small"]["macs"] == mq.complexity(SMALL.replace(outputs=10), (480, 640)).macs
    assert counts["unpadded"]["macs"] < counts["small"]["macs"]


def test_a_size_that_is_none(capsys):
    assert main(["summary", "--size", "large"]) == 2
    assert "write height x width, for example 480x640" in capsys.readouterr().err
