"""Arrays of ports are recognised whatever their names, axes and tokens are, and nothing else is."""

from __future__ import annotations

import numpy as np
import pytest

from musiq_ref.model.parameters import flatten, nest
from musiq_ref.verify import build_fixture, compare
from musiq_ref.verify.adapters import compare_port
from musiq_ref.verify.ladder.stages import run_stages
from musiq_ref.verify.proposal import HookMap, propose
from musiq_ref.verify.recognition import Placement, axes_and_order, match_parameters

FIXTURE = build_fixture()
EXACT = run_stages(FIXTURE.params, FIXTURE.image, FIXTURE.config, gradients=False)
VALID = FIXTURE.mask.astype(bool)
SEEN = np.concatenate([[True], VALID])
BLOCK = "encoder/block_01"
QKV = np.stack([EXACT[f"{BLOCK}/attention/{part}"] for part in ("query", "key", "value")])  # 3, B, H, N, D_h

LAYOUTS = [
    ("stem/conv1", lambda a: a.transpose(0, 3, 1, 2), "NCHW"),
    ("stem/output", lambda a: a.transpose(0, 3, 1, 2).reshape(1, 19, -1), "NCHW"),
    ("stem/output", lambda a: a[VALID].transpose(0, 3, 1, 2), "NCHW; no padding"),
    ("patches", lambda a: a.transpose(0, 1, 4, 2, 3)[0], "NCHW"),
    ("pixels/scale_0", lambda a: a.transpose(2, 0, 1)[None], "NCHW"),
    (f"{BLOCK}/attention/query", lambda a: a.swapaxes(1, 2).reshape(20, 48), "heads"),
    (f"{BLOCK}/attention/key", lambda a: a.swapaxes(2, 3), "batch, head, head_width, sequence"),
    (f"{BLOCK}/attention/qkv", lambda _: QKV.transpose(1, 3, 0, 2, 4).reshape(1, 20, 144), ""),
    (f"{BLOCK}/attention/qkv", lambda _: QKV.transpose(1, 3, 2, 0, 4), "batch, sequence, head, part, head_width"),
    (f"{BLOCK}/output", lambda a: np.roll(a, -1, 1)[0], "class last"),
    (f"{BLOCK}/output", lambda a: np.roll(a[:, SEEN], -1, 1), "class last; no padding"),
    (f"{BLOCK}/norm1", lambda a: a.swapaxes(1, 2), "batch, width, sequence"),
    (f"{BLOCK}/attention/weights", lambda a: a[0][:, SEEN][:, :, SEEN], "no padding"),
]


@pytest.mark.parametrize(("stage", "change", "layout"), LAYOUTS, ids=range(len(LAYOUTS)))
def test_a_layout_is_recognised_and_undone(stage, change, layout):
    exact = QKV if stage.endswith("/qkv") else EXACT[stage]
    theirs = change(exact).astype(np.float32)
    hooks = propose([("theirs", theirs)], FIXTURE)
    assert hooks["theirs"] == (stage, layout)
    stages = hooks.stages({"theirs": theirs}, FIXTURE)
    assert compare(FIXTURE, stages).passed
    place = Placement(FIXTURE, *hooks["theirs"])
    index = place.locate(theirs.size)
    np.testing.assert_array_equal(
        place.theirs(place.put(place.ours(theirs, index), index), index, theirs.shape), theirs
    )


def test_every_stage_is_recognised_by_its_values_alone():
    floats = {n: a for n, a in EXACT.items() if a.dtype.kind == "f" and a.size > 1}
    hooks = propose([(f"array {n}", a) for n, a in floats.items()], FIXTURE)
    assert {place: stage for place, (stage, _) in hooks.items()} == {f"array {n}": n for n in floats}


@pytest.mark.parametrize(
    ("stage", "change"),
    [
        (f"{BLOCK}/attention/weights", lambda a: a.swapaxes(2, 3)),
        ("stem/conv1", lambda a: a.swapaxes(1, 2)),
        (f"{BLOCK}/norm1", lambda a: a + 1),
        (f"{BLOCK}/norm1", lambda a: a * np.nan),
        (f"{BLOCK}/norm1", lambda a: a[:, :7]),
    ],
)
def test_what_is_wrong_is_no_layout(stage, change):
    assert not propose([("theirs", change(EXACT[stage]))], FIXTURE)


def test_what_belongs_to_a_submodule_tells_after_a_mistake():
    theirs = np.random.default_rng(0).normal(size=(1, 20, 48))
    paths = {f"{BLOCK}/attention/{part}/bias" for part in ("query", "key", "value", "out")}
    assert propose([("a", theirs)], FIXTURE, {"a": paths})["a"] == (f"{BLOCK}/attention/out", "")
    assert not propose([("a", theirs)], FIXTURE, {"a": {"spatial_embedding/table"}})


def test_of_what_is_wrong_everywhere_the_class_token_stays_where_it_was_before():
    out, norm = f"{BLOCK}/attention/out", EXACT[f"{BLOCK}/norm1"]
    theirs = 0.2 * np.roll(EXACT[out], -1, 1) + np.random.default_rng(0).normal(size=norm.shape)
    paths = {f"{BLOCK}/attention/out/{part}" for part in ("kernel", "bias")}
    for before, layout in ((norm, ""), (np.roll(norm, -1, 1), "class last")):
        hooks = propose([("a", before), ("b", theirs)], FIXTURE, {"b": paths})
        assert hooks == {"a": (f"{BLOCK}/norm1", layout), "b": (out, layout)}


def parameters(block, part):
    return np.stack([FIXTURE.params["encoder"][block]["attention"][p]["kernel"] for p in part])


MATCHES = [
    (lambda p: p["stem"]["conv2"]["kernel"].transpose(3, 2, 0, 1), ["stem/conv2/kernel"]),
    (lambda p: p["patch_embedding"]["kernel"].reshape(8, 8, 256, 48).transpose(3, 2, 0, 1), ["patch_embedding/kernel"]),
    (lambda p: p["class_token"][None, None], ["class_token"]),
    (
        lambda p: parameters("block_00", ("query", "key", "value")).transpose(2, 0, 3, 1).reshape(144, 48),
        [f"encoder/block_00/attention/{part}/kernel" for part in ("query", "key", "value")],
    ),
    (
        lambda p: parameters("block_01", ("key", "value")).transpose(1, 0, 2, 3).reshape(48, 96),
        [f"encoder/block_01/attention/{part}/kernel" for part in ("key", "value")],
    ),
    (
        lambda p: np.stack([p["encoder"][f"block_0{i}"]["mlp"]["fc1"]["kernel"].T for i in (0, 1)]),
        [f"encoder/block_0{i}/mlp/fc1/kernel" for i in (0, 1)],
    ),
]


@pytest.mark.parametrize(("change", "paths"), MATCHES, ids=range(len(MATCHES)))
def test_parameters_are_recognised_and_their_gradients_undone(change, paths):
    found = match_parameters({"theirs": change(FIXTURE.params)}, FIXTURE.params, FIXTURE.config)["theirs"]
    assert list(found.paths) == paths
    twice = nest({path: 2 * a for path, a in flatten(FIXTURE.params)})
    expected = dict(flatten(twice))
    for path, array in found.ours(2 * change(FIXTURE.params)).items():
        np.testing.assert_array_equal(array.reshape(expected[path].shape), expected[path])


def test_two_parameters_of_one_value_are_not_guessed():
    leaves = dict(flatten(FIXTURE.params))
    leaves |= {f"{BLOCK}/norm{i}/scale": np.ones(48) for i in (1, 2)}
    theirs = {"ln.weight": np.ones(48)}
    assert not match_parameters(theirs, nest(leaves), FIXTURE.config)
    known = {"ln.weight": f"{BLOCK}/norm2/scale"}
    assert match_parameters(theirs, nest(leaves), FIXTURE.config, known)["ln.weight"].paths == (f"{BLOCK}/norm2/scale",)


def test_parameters_of_other_names_end_in_a_report():
    stages = {n: s.array for n, s in FIXTURE.stages.items() if n in ("score", "dparams/class_token")}
    own = {"score": stages["score"], "dparams/fc.weight": np.ones(3), "dparams/head.0.bias": np.ones(10)}
    result = compare(FIXTURE, own, diagnose=False)
    assert result.first.name == "dparams/head/bias"
    assert "dparams/fc.weight: an unknown name, not compared" in result.layouts
    assert compare_port(FIXTURE, lambda fixture, tap: {"score": stages["score"], "notes": ["so"]}).notes[0] == "so"


def test_a_wrong_layout_is_refused_in_a_sentence():
    with pytest.raises(ValueError, match="name its axes in your order: batch, head, sequence, head_width"):
        axes_and_order(f"{BLOCK}/attention/query", "batch, width")
    assert dict(HookMap({"a": ("score", ""), "b": ("patches", "")}).corrected({"b": None})) == {"a": ("score", "")}
