"""Ports as people write them: right ones pass with their gradients, and a fault is found where it is."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from habit_ports import Port

from musiq_ref.checkpoint import to_pyiqa
from musiq_ref.model.parameters import flatten
from musiq_ref.verify import build_fixture
from musiq_ref.verify.adapters import bisect, compare_port, single_step
from musiq_ref.verify.torch_adapter import propose_hooks, pyiqa_hooks, torch_port
from musiq_ref.verify.torch_port import TorchMusiq

FIXTURE = build_fixture(conventions="pyiqa")
EYE = torch.eye(FIXTURE.image.shape[1]).bfloat16()
PARAMETERS = len(list(flatten(FIXTURE.params)))
HABITS = [
    "", "mha", "mha, sequence first", "class last", "valid only, chunks", "chunks", "tuple", "dataclass", "checkpoint",
    "reentrant", "encoder", "channels_last",
]  # fmt: skip


def call(module, image):
    return module(image)["score"]


def port_with(habits="", fault=""):
    return Port(FIXTURE.config, habits.split(", "), fault).load(FIXTURE.params)


def compared(result, start):
    return {r.name for r in result.rungs if r.name.startswith(start) and r.status != "missing"}


@pytest.mark.parametrize("habits", HABITS)
def test_a_right_port_passes_with_its_gradients(habits):
    result = compare_port(FIXTURE, torch_port(port_with(habits), call))
    assert result.passed, str(result)
    assert len(compared(result, "dparams/")) == PARAMETERS
    assert len(compared(result, "gradient/")) > 30
    assert not result.notes


@pytest.mark.parametrize(
    "habits", ["", "mha, sequence first", "class last", "valid only, chunks", "chunks", "dataclass"]
)
def test_it_can_be_stepped_and_bisected(habits):
    port = torch_port(port_with(habits), call, gradients=False)
    result = single_step(FIXTURE, port)
    assert result.passed, str(result)
    assert bisect(FIXTURE, port) == ""


FAULTS = [
    ("padding", "tuple", "stem/conv_root"),
    ("groups", "valid only, chunks", "stem/gn2"),
    ("scale", "class last, checkpoint", "encoder/block_01/attention/out"),
    ("eps", "mha, sequence first", "encoder/block_01/norm2"),
    ("gelu", "valid only, chunks, class last", "encoder/block_01/mlp/gelu"),
]


@pytest.mark.parametrize(("fault", "habits", "stage"), FAULTS)
def test_a_fault_is_found_where_it_is(fault, habits, stage):
    port = torch_port(port_with(habits, fault), call, gradients=False)
    assert compare_port(FIXTURE, port, diagnose=False).first.name == stage
    assert [r.name for r in single_step(FIXTURE, port).rungs if r.status == "differs"] == [stage]


def test_a_fault_on_the_way_back_is_found():
    result = compare_port(FIXTURE, torch_port(port_with("mha", "detach"), call), diagnose=False)
    assert result.first.name == "gradient/encoder/block_01/attention/out"


@pytest.mark.parametrize("habit", ["no_grad", "inference"])
def test_gradients_that_a_port_does_not_have_are_a_note(habit):
    result = compare_port(FIXTURE, torch_port(port_with(habit), call))
    assert result.passed
    assert ("no_grad" if habit == "no_grad" else "inference_mode") in result.notes[0]
    assert "gradient/image" not in compared(result, "gradient/")


@pytest.mark.parametrize("wrap", [torch.nn.DataParallel, lambda m: torch.compile(m, backend="eager")])
@pytest.mark.filterwarnings("ignore")  # the compiler's own
def test_wrapped_modules(wrap):
    module = wrap(TorchMusiq(FIXTURE.config))
    result = compare_port(FIXTURE, torch_port(module, lambda m, x: m(x), pyiqa_hooks(FIXTURE.config)))
    assert result.passed, str(result)
    assert compared(result, "encoder/block_01/mlp")
    assert len(compared(result, "dparams/")) == PARAMETERS


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_are_compared(dtype):
    module = port_with("mha" if dtype == torch.float16 else "").to(dtype)
    result = compare_port(FIXTURE, torch_port(module, call), diagnose=False)
    assert result.passed is (dtype == torch.float64)
    assert len(compared(result, "dparams/")) == PARAMETERS
    rungs = {r.name: r for r in result.rungs}
    assert all(rungs[n].distance.cosine > 0.97 for n in ("stem/output", "encoder/block_01/output", "score"))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("habits", ["", "mha"])
def test_a_right_port_in_half_precision_passes_with_its_gradients(habits, dtype):
    """It gets a float32 image, so that its own resize does not lose more than its products do."""
    module = port_with(habits).to(getattr(torch, dtype))
    result = compare_port(FIXTURE, torch_port(module, call), precision=dtype, diagnose=False)
    assert result.passed, str(result)
    assert len(compared(result, "dparams/")) == PARAMETERS
    assert not result.notes


def test_half_precision_code_that_takes_no_float32_image_gets_its_own():
    module = TorchMusiq(FIXTURE.config).bfloat16()

    def score(params, image):
        return torch.func.functional_call(module, params, image * params["conv_root.weight"].new_ones(()) @ EYE)

    params = {name: torch.from_numpy(np.array(a)).bfloat16() for name, a in to_pyiqa(FIXTURE.params).items()}
    result = compare_port(FIXTURE, torch_port(params, score, names=None), precision="bfloat16", diagnose=False)
    assert any("takes no float32 image" in note for note in result.notes)


def test_the_meta_device():
    config = FIXTURE.config
    with torch.device("meta"):
        module = TorchMusiq(config)
    assert compare_port(FIXTURE, torch_port(module, lambda m, x: m(x), pyiqa_hooks(config))).passed
    with torch.device("meta"):
        empty = Port(config)
    with pytest.raises(ValueError, match="is on the meta device, so it holds no numbers"):
        compare_port(FIXTURE, torch_port(empty, call, {}))


def test_functional_code_is_tapped_by_hand():
    module = TorchMusiq(FIXTURE.config)

    def score(params, image, tap):
        handle = module.embedding.register_forward_hook(lambda part, given, x: tap("patch_embedding", x[None])[0])
        try:
            return torch.func.functional_call(module, params, image)
        finally:
            handle.remove()

    params = {name: torch.from_numpy(np.array(a)).float() for name, a in to_pyiqa(FIXTURE.params).items()}
    result = compare_port(FIXTURE, torch_port(params, score, names=None))
    assert result.passed, str(result)
    assert {"patch_embedding", "gradient/patch_embedding"} <= compared(result, ("patch", "gradient/patch"))
    assert len(compared(result, "dparams/")) == PARAMETERS
    assert single_step(FIXTURE, torch_port(params, score, gradients=False)).passed


def test_our_own_names_are_names_too():
    params = {path: torch.zeros(a.shape) for path, a in flatten(FIXTURE.params)}
    port = torch_port(params, lambda p, x: p["head/bias"].sum()[None], names="native")
    result = compare_port(FIXTURE, port, diagnose=False)
    assert result.first.name == "score"
    assert torch.equal(params["head/bias"], torch.from_numpy(FIXTURE.params["head"]["bias"]).float())


def test_what_a_port_lacks_is_a_note():
    class NoScale(TorchMusiq):
        def __init__(self, config):
            super().__init__(config)
            self.transformer_encoder.scaleembed_input = torch.nn.ParameterDict()

    result = compare_port(
        FIXTURE, torch_port(NoScale(FIXTURE.config), lambda m, x: m(x), pyiqa_hooks(FIXTURE.config)), diagnose=False
    )
    assert result.first.name == "encoder/block_00/norm1"
    assert "scaleembed_input.scale_emb" in result.notes[0]
    assert len(compared(result, "dparams/")) == PARAMETERS - 1


def test_weights_that_are_not_the_fixtures_are_a_note():
    torch.manual_seed(0)
    module = Port(FIXTURE.config)
    for p in (module.pos, module.cls):
        torch.nn.init.normal_(p)
    result = compare_port(FIXTURE, torch_port(module, call), diagnose=False)
    assert not result.passed
    assert any("load the weights first" in note for note in result.notes)


def test_a_name_map_says_what_values_do_not():
    module = port_with()
    with torch.no_grad():
        module.fc.weight *= 2
    names = {"fc.weight": "head/kernel"}
    assert any("fc.weight" in n for n in compare_port(FIXTURE, torch_port(module, call), diagnose=False).notes)
    result = compare_port(FIXTURE, torch_port(module, call, parameters=names), diagnose=False)
    assert "dparams/head/kernel" in compared(result, "dparams/")
    assert not result.notes
    with pytest.raises(ValueError, match="no parameter 'head/kernels'"):
        compare_port(FIXTURE, torch_port(module, call, parameters={"fc.weight": "head/kernels"}))


def test_a_name_map_tells_two_parameters_of_the_same_values_apart():
    stem = FIXTURE.params["stem"]
    twins = {**FIXTURE.params, "stem": {**stem, "gn_proj": {**stem["gn_proj"], "bias": stem["gn3"]["bias"]}}}
    fixture, module = FIXTURE._replace(params=twins), TorchMusiq(FIXTURE.config)
    names = {f"block1.{norm}.bias": f"stem/{norm}/bias" for norm in ("gn3", "gn_proj")}
    for parameters, lacking in ((None, 2), (names, 0)):
        port = torch_port(module, lambda m, x: m(x), pyiqa_hooks(fixture.config), parameters=parameters)
        result = compare_port(fixture, port, diagnose=False)
        assert len(compared(result, "dparams/")) == PARAMETERS - lacking
        said = [note for note in result.notes if "of no parameter of the fixture, or of several" in note]
        assert len(said) == bool(lacking)
        assert all(name in note for note in said for name in names)


def test_the_map_of_hooks_is_printed_and_corrected():
    hooks = propose_hooks(port_with("mha"), call, FIXTURE, corrections={"stem": None, "fc": ("head/logits", "")})
    assert hooks["blocks.0.attn:0"] == ("encoder/block_00/attention/out", "")
    assert hooks["stem.root.2#1"] == ("stem/relu1", "NCHW")
    assert "stem" not in hooks
    lines = str(hooks).splitlines()
    assert any(line.split() == ["stem.root.0", "stem/conv_root", "NCHW", "agrees"] for line in lines)
    assert lines[-1].split() == ["fc", "head/logits", "by", "hand"]


@pytest.mark.parametrize(
    ("corrections", "said"),
    [
        ({"stem.rooot.0": None}, "the module has no submodule 'stem.rooot.0'; did you mean 'stem.root.0'?"),
        ({"trunk#1": ("score", "")}, "the module has no submodule 'trunk'; print(module) shows the names"),
        ({"fc": ("head/logit", "")}, "the fixture has no stage 'head/logit'; did you mean 'head/logits'?"),
        ({"fc": ("head/logits", "NCHW")}, "head/logits has no layout 'NCHW'; name its axes in your order"),
        ({"fc": "head/logits"}, "'fc' has 'head/logits'; give (stage, layout)"),
    ],
)
def test_a_correction_that_means_nothing_is_refused(corrections, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        propose_hooks(port_with("mha"), call, FIXTURE, corrections=corrections)
    propose_hooks(port_with("mha"), call, FIXTURE, corrections={"stem.root.2#1": None})


def test_after_a_mistake_the_map_is_as_full_and_shows_it():
    official = build_fixture()
    hooks = propose_hooks(port_with().load(official.params), call, official)
    assert dict(hooks) == dict(propose_hooks(port_with(), call, FIXTURE))
    wrong = {hooks[place][0] for place, error in hooks.errors.items() if error > 1e-3}
    assert wrong == {f"stem/conv{name}" for name in ("_root", "1", "2", "3", "_proj")} - {"stem/conv2"}


def test_hooks_that_do_not_run_are_a_note():
    hooks = {"blocks.0.attn.out_proj": ("encoder/block_00/attention/out", "")}
    result = compare_port(FIXTURE, torch_port(port_with("mha"), call, hooks))
    assert result.passed
    assert "blocks.0.attn.out_proj was not run" in result.notes[0]
    with pytest.raises(ValueError, match="name its axes in your order: batch, sequence, width"):
        compare_port(FIXTURE, torch_port(port_with(), call, {"norm": ("encoder/norm", "NCHW")}))
