"""Ports in other frameworks through the adapters: PyTorch, JAX, ONNX Runtime."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from ports import torch_musiq_port

from musiq_ref.checkpoint import to_pyiqa
from musiq_ref.config import PYIQA
from musiq_ref.verify import build_fixture
from musiq_ref.verify.adapters import bisect, compare_port, single_step
from musiq_ref.verify.framework_adapters import jax_port, onnx_port
from musiq_ref.verify.ladder.descent import build_training_fixture
from musiq_ref.verify.torch_adapter import pyiqa_hooks, torch_port
from musiq_ref.verify.torch_port import TorchMusiq, TorchTokens

OFFICIAL_FIXTURE, PYIQA_FIXTURE = build_fixture(), build_fixture(conventions="pyiqa")


def statuses(result, prefix):
    return {r.status for r in result.rungs if r.name.startswith(prefix) and r.status != "missing"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_pytorch_port_is_pyiqa(dtype):
    port = torch_musiq_port(PYIQA_FIXTURE.config, dtype)
    result = compare_port(PYIQA_FIXTURE, port)
    assert result.passed, str(result)
    for prefix in ("integers/", "patches", "stem/", "encoder/", "score", "gradient/image", "dparams/"):
        assert statuses(result, prefix) <= {"equal", "rounding"}
        assert statuses(result, prefix), prefix
    assert single_step(PYIQA_FIXTURE, port).passed
    assert bisect(PYIQA_FIXTURE, torch_musiq_port(PYIQA_FIXTURE.config, gradients=False)) == ""


def test_the_pytorch_port_differs_from_the_authors_in_exactly_four_conventions():
    result = compare_port(OFFICIAL_FIXTURE, torch_musiq_port(OFFICIAL_FIXTURE.config, gradients=False))
    assert not result.passed
    assert result.diagnosis.names == ["float64 rounding of sides", "bicubic resize", "unbiased std", "erf for tanh"]
    assert {f.kind for f in result.diagnosis.findings} == {"convention"}
    assert result.diagnosis.complete


def test_a_fault_in_a_pytorch_module_is_found_block_by_block():
    config = PYIQA_FIXTURE.config
    module = TorchMusiq(config)
    module.transformer_encoder.transformer["encoderblock_1"].norm2.eps = 1e-2
    port = torch_port(module, lambda m, image: m(image), pyiqa_hooks(config), gradients=False)
    result = single_step(PYIQA_FIXTURE, port)
    assert [r.name for r in result.rungs if r.status == "differs"] == ["encoder/block_01/norm2"]
    assert bisect(PYIQA_FIXTURE, port) == "encoder/block_01"


def test_a_missing_submodule_is_named():
    port = torch_port(TorchMusiq(PYIQA_FIXTURE.config), lambda m, image: m(image), {"nothing": ("score", "")})
    with pytest.raises(ValueError, match="no submodule 'nothing'"):
        compare_port(PYIQA_FIXTURE, port)


@pytest.mark.parametrize("jit", [False, True])
def test_a_jax_function_passes(jax, jit):
    from jax_port import musiq

    result = compare_port(OFFICIAL_FIXTURE, jax_port(musiq, jit=jit, gradients=not jit))
    assert result.passed, str(result)
    assert sum(r.fine for r in result.rungs) > (40 if jit else 90)


def test_a_jax_function_can_be_stepped(jax):
    from jax_port import musiq

    port = jax_port(musiq, gradients=False)
    assert single_step(OFFICIAL_FIXTURE, port).passed
    assert bisect(OFFICIAL_FIXTURE, port) == ""


def test_arrays_of_other_names_and_layouts_are_recognised(jax):
    """As Flax's capture_intermediates gives them."""
    from jax_port import musiq

    def other(params, image, config):
        stages = musiq(params, image, config)
        stem = {f"layers_{name[5:]}": a.transpose(0, 3, 1, 2) for name, a in stages.items() if name.startswith("stem/")}
        blocks = {name.replace("encoder/", "Block"): a for name, a in stages.items() if name.startswith("encoder/")}
        return {**stem, **blocks, "score": stages["score"]}

    result = compare_port(OFFICIAL_FIXTURE, jax_port(other, gradients=False))
    assert result.passed, str(result)
    assert sum(r.fine for r in result.rungs) > 35
    assert not result.notes


def test_a_jax_function_with_another_gelu_is_named(jax, monkeypatch):
    import jax_port as port

    exact = jax.nn.gelu
    monkeypatch.setattr(port.jax.nn, "gelu", lambda x, approximate: exact(x, approximate=False))
    result = compare_port(OFFICIAL_FIXTURE, jax_port(port.musiq, gradients=False))
    assert result.diagnosis.names == ["erf for tanh"]


class FromTokens(torch.nn.Module):
    """What is exported: tokens in, logits' distribution and score out."""

    def __init__(self, model, tokens):
        super().__init__()
        self.model, self.tokens = model, tokens

    def forward(self, patches):
        p = self.model.outputs(TorchTokens(patches, *self.tokens[1:]))
        return p, self.model.score(p)


def exported(path, fault=""):
    config = PYIQA_FIXTURE.config
    model = TorchMusiq(config.replace(conventions=PYIQA)).eval()
    if fault:
        model.transformer_encoder.transformer["encoderblock_1"].norm2.eps = 1.0
    model.load_state_dict({k: torch.from_numpy(np.array(v)).float() for k, v in to_pyiqa(PYIQA_FIXTURE.params).items()})
    image = torch.from_numpy(PYIQA_FIXTURE.image.copy()).permute(2, 0, 1)[None].float() / 255
    tokens = model.tokenize(image)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own
        torch.onnx.export(
            FromTokens(model, tokens), (tokens.patches,), str(path), input_names=["patches"],
            output_names=["probabilities", "score"], dynamo=False,
        )  # fmt: skip
    return path


@pytest.fixture(scope="module")
def graph(onnxruntime, tmp_path_factory):
    return exported(tmp_path_factory.mktemp("onnx") / "musiq.onnx")


@pytest.fixture
def session(onnxruntime, graph):
    return onnxruntime.InferenceSession(str(graph), providers=["CPUExecutionProvider"])


def patches_of(fixture):
    return {"patches": fixture.stages["patches"].array.transpose(0, 1, 4, 2, 3)}


def test_every_tensor_inside_an_onnx_graph_is_compared(graph, tmp_path):
    result = compare_port(PYIQA_FIXTURE, onnx_port(graph, patches_of))
    assert result.passed, str(result)
    for stage in ("stem/conv_root", "stem/output", "encoder/block_00/attention/weights", "encoder/block_01/output"):
        assert statuses(result, stage), stage
    assert sum(r.fine for r in result.rungs) > 35
    wrong = onnx_port(exported(tmp_path / "wrong.onnx", "eps"), patches_of)
    assert compare_port(PYIQA_FIXTURE, wrong, diagnose=False).first.name == "encoder/block_01/norm2"


def test_an_exported_onnx_graph_passes(session):
    port = onnx_port(session, patches_of, {"probabilities": "probabilities", "score": "score"})
    result = compare_port(PYIQA_FIXTURE, port)
    assert result.passed, str(result)
    assert sum(r.fine for r in result.rungs) == 2


def test_an_onnx_graph_with_the_wrong_input_is_found(session):
    def inputs(fixture):
        return {"patches": fixture.stages["patches"].array.transpose(0, 1, 4, 2, 3)[:, :, ::-1].copy()}

    result = compare_port(PYIQA_FIXTURE, onnx_port(session, inputs, {"score": "score"}))
    assert not result.passed
    assert "BGR" in result.diagnosis.names
    with pytest.raises(ValueError, match="input 'patches' that gets no array"):
        compare_port(PYIQA_FIXTURE, onnx_port(session, lambda fixture: {}, {"score": "score"}))


def test_a_fixture_of_training_is_no_ladder():
    fixture = build_training_fixture("pyiqa")
    with pytest.raises(ValueError, match="has two pictures, and no adapter a training loop; write a function"):
        compare_port(fixture, torch_musiq_port(fixture.config))
