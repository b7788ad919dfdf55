"""The diagnosis of ports that are not the library: what it names, what it describes, and what it must not say."""

from __future__ import annotations

import time
from collections import Counter
from functools import partial

import numpy as np
import pytest
from plain_port import tokens  # noqa: F401  (needs PyTorch, as the faults do)
from port_faults import FAULTS, judge, stages_of

from musiq_ref import verify
from musiq_ref.config import MusiqConfig
from musiq_ref.model.parameters import map_params
from musiq_ref.verify import build_fixture, compare
from musiq_ref.verify.comparison.self_test import self_test
from musiq_ref.verify.ladder.fixture import measured_fixture, stored
from musiq_ref.verify.ladder.stages import run_stages
from musiq_ref.verify.mistakes.catalogue import LISTS, MISTAKES
from musiq_ref.verify.mistakes.patterns import patterns
from musiq_ref.verify.mistakes.plant import run_planted
from musiq_ref.verify.mistakes.pointwise import coarse
from musiq_ref.verify.mistakes.structure import of_picture, of_weights
from musiq_ref.verify.mistakes.wiring import rows_added

fingerprint = partial(verify.fingerprint, budget=600.0)  # a slow machine finds as much as a fast one
FIXTURE = build_fixture()
SINGLE = map_params(lambda a: a.astype(np.float32), FIXTURE.params)
PLAIN = run_stages(SINGLE, FIXTURE.image, FIXTURE.config, gradients=False)
SHARES = 12  # the faults in so many shares: one is tested, two are long; benchmarks/measure_diagnosis.py takes all


def planted(*names):
    return run_planted([MISTAKES[n] for n in names], SINGLE, FIXTURE.image, FIXTURE.config)


def edited(*titles):
    return stages_of(FIXTURE, [edit for f in FAULTS if f.title in titles for edit in f.edits])


def test_the_port_itself_is_right():
    result = compare(FIXTURE, stages_of(FIXTURE, ()))
    assert result.passed, str(result)
    assert sum(r.fine for r in result.rungs) > 60


@pytest.mark.parametrize("share", [0, *(pytest.param(k, marks=pytest.mark.long) for k in (1, 2))])
def test_faults_of_a_port_are_named(share):
    """Of the faults that are seen at least 80 % are named or described, and none is given a wrong name."""
    chosen = FAULTS[share::SHARES]
    outcomes = {f.title: judge(fingerprint(FIXTURE, stages_of(FIXTURE, f.edits)), f) for f in chosen}
    counts = Counter(outcome.verdict for outcome in outcomes.values())
    assert counts["WRONG"] == 0, {t: o for t, o in outcomes.items() if o.verdict == "WRONG"}
    assert counts["named"] + counts["described"] >= 0.8 * (len(chosen) - counts["unseen"]), outcomes


@pytest.mark.parametrize(
    "title", ["imagenet in -1..1 order", "unbiased std", "fc2 bias missing", "elu", "classes reversed"]
)
def test_hooks_without_tokens_invent_no_mask(title):
    """Candidates are compared at the reference's valid tokens, never at those of a planted mask."""
    stages = {n: a for n, a in edited(title).items() if n.startswith(("stem/", "encoder/", "head/", "score"))}
    assert not [n for n in fingerprint(FIXTURE, stages).names if "mask" in n or "padding" in n]


def test_a_cause_is_excluded_only_by_what_it_would_change():
    """Neither the hash nor the mask of this picture shows in what arithmetic the sides were rounded."""
    stages = edited("float64 sides")
    kept = {n: stages[n] for n in ("hash_index", "scale_index", "mask", "pixels/scale_0", "patches")}
    assert fingerprint(FIXTURE, kept).names == ["float64 rounding of sides"]


PYIQA = ("float64 rounding of sides", "bicubic resize", "unbiased std", "erf for tanh")


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        (("stem/conv_root", "stem/output", "encoder/block_00/output"), set(PYIQA)),
        (("encoder/norm", "score"), set(PYIQA) - {"unbiased std"}),  # which the norms take out again
    ],
)
def test_the_conventions_of_another_program_are_tried_whole(given, shown):
    """Several of them meet at the first stage of these, where none explains anything alone."""
    stages = planted(*PYIQA)
    found = fingerprint(FIXTURE, {n: stages[n] for n in given})
    assert set(found.names) == shown
    assert found.complete


def test_three_faults_are_three_findings_one_of_them_without_a_name():
    stages = edited("BGR", "eps 1e-5", "exact gelu")
    found = fingerprint(FIXTURE, stages)
    assert found.names == ["BGR", "LayerNorm with ε 1e-5", "erf for tanh"]
    assert found.complete
    unknown = run_planted(
        [MISTAKES["BGR"], MISTAKES["scores 0 … C−1"]._replace()], SINGLE, FIXTURE.image, FIXTURE.config,
        given={"encoder/block_01/attention/out": 1.37 * PLAIN["encoder/block_01/attention/out"][:, ::-1]},
    )  # fmt: skip
    found = fingerprint(FIXTURE, unknown)
    assert found.names == ["BGR", "scores 0 … C−1"]
    assert [f.stage for f in found.findings if f.kind == "unexplained"] == ["encoder/block_01/attention/out"]
    assert found.unexplained == "encoder/block_01/attention/out"
    assert not found.complete
    text = str(compare(FIXTURE, unknown))
    assert "unexplained: no known mistake (first seen at encoder/block_01/attention/out)" in text


def test_a_mistake_of_one_block_is_named_there():
    out = PLAIN["encoder/block_01/attention/out"]
    bias = SINGLE["encoder"]["block_01"]["attention"]["out"]["bias"]
    stages = run_planted(
        [], SINGLE, FIXTURE.image, FIXTURE.config, given={"encoder/block_01/attention/out": out - bias}
    )
    [found] = fingerprint(FIXTURE, stages).findings
    assert (found.name, found.stage) == ("out-projection without bias", "encoder/block_01/attention/out")
    assert found.about.startswith("only from here on")


@pytest.mark.parametrize("block", [0, 1])
def test_who_reads_keys_bias_for_value_and_for_key_has_exchanged_nothing(block):
    place = f"encoder/block_{block:02d}/attention/"
    p = SINGLE["encoder"][f"block_{block:02d}"]["attention"]
    value = PLAIN[f"{place}value"] + (p["key"]["bias"] - p["value"]["bias"])[None, :, None]
    stages = run_planted([], SINGLE, FIXTURE.image, FIXTURE.config, given={f"{place}value": value})
    [found] = fingerprint(FIXTURE, stages).findings
    assert (found.kind, found.stage) == ("unexplained", f"{place}value")
    assert f"the right layer with {place}key/bias for its bias" in found.about


def test_parameters_of_one_layer_that_are_rounded_are_named():
    place, p = "encoder/block_00/attention/value", SINGLE["encoder"]["block_00"]["attention"]["value"]
    kernel, bias = (p[name].astype("float16").astype("float32") for name in ("kernel", "bias"))
    value = np.einsum("bnd,dhe->bhne", PLAIN["encoder/block_00/norm1"], kernel) + bias[None, :, None]
    stages = run_planted([], SINGLE, FIXTURE.image, FIXTURE.config, given={place: value})
    [found] = fingerprint(FIXTURE, stages).findings
    assert (found.name, found.stage) == ("parameters rounded to float16", place)


def test_of_a_score_alone_nothing_is_named_that_something_else_explains_as_well():
    stages = planted("missing scale embedding")
    assert verify.fingerprint(FIXTURE, {"score": stages["score"]}).names in (
        ["missing scale embedding"],
        [],
    )  # [] if slow
    stages = planted("score times 10")
    few = {n: stages[n] for n in ("head/logits", "score")}
    assert fingerprint(FIXTURE, few).names == ["score times 10"]
    wrong = fingerprint(FIXTURE, {"score": PLAIN["score"] * np.float32(1.0123)})
    assert wrong.names == []
    assert wrong.unexplained == "score"


def test_the_budget_holds_and_what_was_not_tried_is_said():
    told, start = [], time.perf_counter()
    wrong = {"score": PLAIN["score"] * np.float32(1.0123)}
    found = fingerprint(FIXTURE, wrong, budget=0.3, progress=lambda *news: told.append(news))
    assert time.perf_counter() - start < 5
    assert found.untried > 100
    assert told[0][0] == "score"
    assert told[0][1] <= told[0][2]


RNG = np.random.default_rng(0)
X = RNG.normal(size=(2, 6, 5, 4)).astype(np.float32)
TURN = np.random.default_rng(1).normal(size=(4, 4))
BIAS, OTHER = RNG.normal(size=4), RNG.normal(size=X.shape)
CHANGES = {  # what a hint says: the change
    "it is 0.5 times": lambda x: x * 0.5,
    "the sign is turned everywhere": lambda x: -x,
    "it is 255 times": lambda x: x * 255,
    "it is 1/√D times": lambda x: x / np.sqrt(12),
    "it is 2 times what it should be, plus 1": lambda x: 2 * x + 1,
    "axes row and column are exchanged": lambda x: x[:, :5].swapaxes(1, 2),
    "channel is in reverse order": lambda x: x[..., ::-1],
    "channel is in another order (1, 0, 3, 2)": lambda x: x[..., [1, 0, 3, 2]],
    "it is shifted by 1 along row": lambda x: np.roll(x, 1, axis=1),
    "it has the right values at other places": lambda x: x.reshape(2, 4, 5, 6).transpose(0, 3, 2, 1),
    "bias is not added": lambda x: x - BIAS,
    "bias is added once too often": lambda x: x + BIAS,
    "other is not added": lambda x: x - OTHER,
    "it is right plus 0.5 times other": lambda x: x + 0.5 * OTHER,
    "it equals other: a mix-up": lambda x: OTHER,
    "every channel is off by a constant of its own": lambda x: x + np.array([1.0, 2, 3, 5]),
    "every token is off by a factor of its own": lambda x: x * np.array([2.0, 3]).reshape(2, 1, 1, 1),
    "every token is off by a factor and a constant": lambda x: x * np.array([2.0, 3]).reshape(2, 1, 1, 1) - 1,
    "all that is below 0 is 0": lambda x: np.maximum(x, 0),
    "it is cut off at 0 and 1": lambda x: np.clip(x, 0, 1),
    "it is rounded to 8 bit": lambda x: np.clip(np.rint((x + 1) * 127.5), 0, 255) / 127.5 - 1,
    "it is rounded to integers": np.rint,
    "only indices [0, 5] (the border) of row (of 6) have wrong values": lambda x: changed(x, (slice(None), [0, 5]), 7),
    "only indices [1] of token (of 2) have wrong values": lambda x: changed(x, 1, 3),
    "all values are numbers of float16": lambda x: x.astype(np.float16),
    "it looks like bfloat16": lambda x: x * (1 + 2e-3 * RNG.uniform(-1, 1, x.shape)),
    "it looks like float16 or TF32": lambda x: x * (1 + 2e-4 * RNG.uniform(-1, 1, x.shape)),
    "it is zero everywhere": lambda x: 0 * x,
    "what is below -0.7 or above 1.1 is cut off": lambda x: np.clip(x, -0.7, 1.1),
    "it was rounded to": lambda x: np.rint(x * 20) / 20,
    "it is 0.99 times what it should be without bias, which is right": lambda x: 0.99 * (x - BIAS) + BIAS,
    "every channel is a mixture of the right ones": lambda x: x @ TURN[:, ::-1] + 1,
    "every vector along channel has the right length, but another direction": lambda x: turned(x),
    "1 of 240 values are not finite": lambda x: changed(x, (0, 0, 0, 0), np.nan),
}


def turned(x):
    """Pairs of channels turned by an angle that grows along the rows, as a rotary embedding does."""
    angle = 0.3 * np.arange(x.shape[1])[None, :, None, None]
    one, two = x[..., :2], x[..., 2:]
    parts = one * np.cos(angle) - two * np.sin(angle), one * np.sin(angle) + two * np.cos(angle)
    return np.concatenate(parts, axis=-1)


def changed(x, at, value):
    x = x.copy()
    x[at] = x[at] * value + 1
    return x


@pytest.mark.parametrize("says", CHANGES)
def test_a_kind_of_error_is_told_in_float32(says):
    right = X[:, :5] if says.startswith("axes") else X
    wrong = np.asarray(CHANGES[says](X), np.float32) * (1 + 1e-7 * RNG.uniform(-1, 1, right.shape))
    wrong = CHANGES[says](X) if "numbers of" in says else wrong.astype(np.float32)
    axes = ("token", "row", "column", "channel")
    found = patterns(right, wrong, {"bias": BIAS, "other": OTHER}, 2e-6, axes, {"√D": np.sqrt(12), "255": 255.0})
    assert any(hint.startswith(says) or says in hint for hint in found), says


def test_right_numbers_have_no_kind_of_error():
    assert coarse(X) == ""
    assert list(patterns(X, X * np.float32(1 + 1e-7), {}, 2e-6)) in (
        [],
        ["it is 1 times what it should be, everywhere"],
    )


@pytest.mark.parametrize("stage", ["stem/gn_root", "encoder/block_00/norm1", "encoder/block_01/output"])
def test_of_a_stage_that_is_kept_in_part_the_port_may_give_that_part(stage, rng):
    fixture = measured_fixture(FIXTURE.config, FIXTURE.params, FIXTURE.image, {}, whole=300, sample=101)
    taken = {name: kept.sample for name, kept in fixture.stages.items() if kept.sample}
    mine = {name: stored(a, 300, 101)[0] if name in taken else a for name, a in PLAIN.items()}
    assert stage in taken
    assert not fingerprint(fixture, mine).findings
    mine[stage] = mine[stage] + 0.3 * rng.standard_normal(mine[stage].shape)
    [finding] = fingerprint(fixture, mine).findings
    assert (finding.kind, finding.stage) == ("unexplained", stage)


@pytest.mark.parametrize("fmt", ["bfloat16", "float16", "TF32"])
def test_a_format_is_named_once_for_all_stages(fmt):
    """TF32 and float16 share numbers, and the ten logits are few: neither is another finding."""
    [row] = self_test(FIXTURE, [f"kept in {fmt}"])
    assert row.named
    assert row.names == (f"kept in {fmt}",)


def test_names_are_many_and_each_means_one_thing():
    names = [mistake.name for part in LISTS for mistake in part.MISTAKES]
    assert [n for n, count in Counter(names).items() if count > 1] == []
    assert sum(m.stage is not None and m.applies(MusiqConfig()) for m in MISTAKES.values()) >= 150
    assert all(m.remedy and "{" not in m.sentence for m in MISTAKES.values())


def test_a_mistake_is_found_from_its_own_stage_alone():
    """The stages before it, which could exclude others, are not needed."""
    name = "features flattened channel first"
    assert fingerprint(FIXTURE, {"patch_embedding": planted(name)["patch_embedding"]}).names == [name]


BLOCK = "encoder/block_01/"
REWIRED = [  # a stage, what is there instead, what is told
    ("mlp/fc1", lambda run: linear(run["encoder/block_01/residual1"], **fc1(1)), "residual1 for its input"),
    ("mlp/fc1", lambda run: linear(run["encoder/block_01/norm2"], **fc1(0)), "parameters of encoder/block_00/mlp/fc1"),
    ("mlp/fc1", lambda run: linear(run["encoder/block_01/norm2"], **fc1(1) | {"b": fc1(0)["b"]}), "00/mlp/fc1/bias"),
    ("norm2", lambda run: normalised(run["encoder/block_00/output"] + run["encoder/block_01/norm1"]), "for its input"),
    ("norm2", lambda run: normalised(run["encoder/block_01/output"]), "its input, which comes later"),
]  # fmt: skip


def fc1(k):
    return {"W": SINGLE["encoder"][f"block_{k:02d}"]["mlp"]["fc1"]["kernel"],
            "b": SINGLE["encoder"][f"block_{k:02d}"]["mlp"]["fc1"]["bias"]}  # fmt: skip


def linear(x, W, b):
    return x @ W + b


def normalised(x):
    p = SINGLE["encoder"]["block_01"]["norm2"]
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6) * p["scale"] + p["bias"]


@pytest.mark.parametrize(("stage", "instead", "told"), REWIRED)
def test_a_layer_with_another_input_or_other_parameters_is_told(stage, instead, told):
    mine = PLAIN | {BLOCK + stage: instead(PLAIN)}
    kept = {n: mine[n] for n in list(PLAIN)[: list(PLAIN).index(BLOCK + stage) + 1]}
    [hint, *_] = verify.fingerprint(FIXTURE, kept, budget=0.0).hints
    assert told in hint, hint


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda a: np.where(np.tri(a.shape[-1]), a, 0), "every key after the query (a causal mask)"),
        (lambda a: np.where(np.eye(a.shape[-1]), 0, a), "every token from itself"),
        (lambda a: np.where(np.arange(a.shape[-1]) == 5, 0, a), "keys [5] from all"),
        (lambda a: 0.5 * a, "rows do not sum to 1 but to 0.5"),
        (lambda a: np.where(a > 0, 0.9 * a, 0.1 / 5), "padded tokens are seen"),
    ],
)
def test_attention_weights_are_told_by_their_pairs(change, told):
    right, valid = PLAIN["encoder/block_00/attention/weights"], np.r_[True, PLAIN["mask"][0] > 0]
    assert any(told in hint for hint in of_weights(right, change(right), valid))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda x: ((x + 1) / 2) ** 2.2 * 2 - 1, "another brightness curve"),
        (lambda x: (x + np.roll(x, 1, 0) + np.roll(x, -1, 0)) / 3, "it is softer"),
        (lambda x: 1.4 * x - 0.2 * (np.roll(x, 1, 0) + np.roll(x, -1, 0)), "it is sharper"),
    ],
)
def test_pictures_are_told_by_brightness_and_sharpness(change, told):
    y, x = np.mgrid[:40, :60]
    picture = (np.sin(x / 9) * np.cos(y / 7))[..., None] * [0.6, 0.7, 0.5] + 0.2 * RNG.normal(size=(40, 60, 3))
    picture = np.clip(picture, -1, 1)
    [hint] = of_picture(picture, change(picture))
    assert told in hint


def test_the_rows_of_a_table_that_were_added_are_told():
    table, index = SINGLE["scale_embedding"]["table"], PLAIN["scale_index"]
    mine = PLAIN["spatial_embedding"] + table[np.minimum(index + 1, 2)]
    [hint] = rows_added("scale_embedding", mine, PLAIN, SINGLE)
    assert "rows 1, 1, " in hint
    assert "instead of 0, 0, " in hint


def test_a_port_with_fewer_tokens_is_told_once():
    """What has another shape only because an earlier stage has is no finding of its own."""
    fewer = {n: a[:, :-3] if n in ("hash_index", "scale_index", "mask", "patches") else a for n, a in PLAIN.items()}
    fewer = {n: a for n, a in fewer.items() if n in ("hash_index", "scale_index", "mask", "patches")}
    found = verify.fingerprint(FIXTURE, fewer, budget=0.0).findings
    assert [f.stage for f in found] == ["hash_index"]
    assert "along token" in found[0].about
