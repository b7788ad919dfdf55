"""Planting: several mistakes at once, in one place only, and what cannot be planted."""

from __future__ import annotations

import numpy as np
import pytest

from musiq_ref.model.parameters import map_params
from musiq_ref.ops.group_norm import group_norm
from musiq_ref.ops.layer_norm import layer_norm
from musiq_ref.ops.softmax import softmax
from musiq_ref.verify import build_fixture, fingerprint
from musiq_ref.verify.ladder.stages import run_stages
from musiq_ref.verify.mistakes.catalogue import MISTAKES
from musiq_ref.verify.mistakes.mistake import Mistake
from musiq_ref.verify.mistakes.plant import PrivateLibrary, run_planted
from musiq_ref.verify.mistakes.reference import Reference

FIXTURE = build_fixture()
EXACT = run_stages(FIXTURE.params, FIXTURE.image, FIXTURE.config, gradients=False)
SINGLE = map_params(lambda a: a.astype(np.float32), FIXTURE.params)


def planted(*names, **options):
    return run_planted([MISTAKES[n] for n in names], SINGLE, FIXTURE.image, FIXTURE.config, **options)


@pytest.mark.parametrize(
    "names",
    [
        ("GroupNorm of the root with ε 1e-5", "GroupNorm of the bottleneck with ε 1e-3"),  # in one function
        ("half-pixel hash", "transposed hash"),  # the second calls what the first has replaced
        ("missing spatial embedding", "missing scale embedding"),
        ("last token read", "head without bias"),
    ],
)
def test_two_mistakes_that_meet_are_both_planted_in_either_order_and_both_named(names):
    stages, other = planted(*names), planted(*reversed(names))
    for name, array in stages.items():
        np.testing.assert_array_equal(array, other[name], err_msg=name)
    assert sorted(fingerprint(FIXTURE, stages).names) == sorted(names)


def test_both_epsilons_of_the_stem_are_what_they_were_replaced_by():
    library = PrivateLibrary()
    library.plant(
        [MISTAKES[n] for n in ("GroupNorm of the root with ε 1e-5", "GroupNorm of the bottleneck with ε 1e-3")]
    )
    x, ones = np.random.default_rng(0).normal(size=(1, 3, 2, 4)), np.ones(4)
    wrong = library.module("musiq_ref.model.stem").group_norm
    for given, computed in ((1e-6, 1e-5), (1e-4, 1e-3), (1e-2, 1e-2)):
        np.testing.assert_array_equal(wrong(x, ones, ones, given, 2)[0], group_norm(x, ones, ones, computed, 2)[0])


def test_a_mistake_of_one_module_leaves_the_function_right_in_the_others():
    stages = planted("softmax over the queries")
    weights, logits = stages["encoder/block_00/attention/weights"], stages["head/logits"]
    np.testing.assert_allclose(weights.sum(axis=-2), 1, rtol=1e-5)
    np.testing.assert_array_equal(stages["probabilities"], softmax(logits)[0])


def test_a_copy_of_a_listed_mistake_is_planted_like_the_listed_one():
    copied = MISTAKES["transposed hash"]._replace(remedy="")
    both = [MISTAKES["half-pixel hash"], copied]
    stages = run_planted(both, SINGLE, FIXTURE.image, FIXTURE.config)
    np.testing.assert_array_equal(stages["hash_index"], planted("half-pixel hash", "transposed hash")["hash_index"])


def test_the_stem_is_computed_anew_for_a_mistake_whose_place_is_not_said():
    mine = Mistake("mine", "", "group_norm", lambda x, gamma, beta, eps, groups=32: (gamma * x + beta, None))
    run = Reference(FIXTURE).run([mine], until="encoder/input")
    plain = run_stages(FIXTURE.params, FIXTURE.image, FIXTURE.config, until="encoder/input")
    assert np.abs(run["encoder/input"] - plain["encoder/input"]).max() > 1e-3


def test_a_name_means_one_function_of_the_library():
    library = PrivateLibrary().library.values()
    defined = [
        f.__name__
        for m in library
        for f in vars(m).values()
        if getattr(f, "__code__", None) and f.__module__ == m.__name__
    ]
    assert sorted(defined) == sorted(set(defined))


@pytest.mark.parametrize(
    ("op", "where", "says"),
    [
        ("laier_norm", "", "no function of ops, image or model is called 'laier_norm'"),
        ("rowwise", "", "no function of ops, image or model is called 'rowwise'"),  # of backend.py
        ("Tokens", "", "no function of ops, image or model is called 'Tokens'"),
        ("softmax", "atention", "no module of ops, image or model is called 'atention'"),
    ],
)
def test_what_cannot_be_planted_is_refused(op, where, says):
    mine = Mistake("mine", "", op, lambda *x: x, where=where)
    with pytest.raises(ValueError, match=says):
        run_planted([mine], SINGLE, FIXTURE.image, FIXTURE.config)


def test_a_native_image_blurred_as_the_scale_of_its_size_is_no_mix_up_of_the_two():
    stages = planted()
    pixels = {f"pixels/scale_{k}": stages[f"pixels/scale_{min(k, 1)}"] for k in range(3)}
    assert fingerprint(FIXTURE, pixels).names == ["native image blurred"]


def test_fused_query_key_and_value_that_are_right_and_split_wrongly_are_told_from_the_output_on():
    name = "output of the fused query, key and value split as (heads, three, head width)"
    stages = planted(name)
    q, k, v = (EXACT[f"encoder/block_00/attention/{n}"] for n in ("query", "key", "value"))
    flat = np.stack([q, k, v], -2).transpose(0, 2, 3, 1, 4).reshape(*q.shape[:1], q.shape[2], -1)
    q, k, _ = np.moveaxis(flat.reshape(*flat.shape[:2], q.shape[1], 3, q.shape[3]), 3, 0).swapaxes(2, 3)
    logits = stages["encoder/block_00/attention/logits"]
    np.testing.assert_allclose(logits, q @ k.swapaxes(-1, -2) / np.sqrt(q.shape[-1]), rtol=1e-3, atol=1e-4)
    unseen = ("/logits", "/weights", "/heads", "/residual1")
    assert fingerprint(FIXTURE, {n: a for n, a in stages.items() if not n.endswith(unseen)}).names == [name]


KERNELS = ("conv_root", "conv1", "conv2", "conv3", "conv_proj")


@pytest.mark.parametrize(
    ("mean", "deviation", "wide", "name"),
    [
        ((0, 1), (0, 1), False, "over rows and columns only"),
        ((2, 3), (2, 3), False, "over input channels and output channels only"),
        ((0, 2, 3), (0, 1, 2), False, "with the mean over rows, input channels and output channels only, "
         "the deviation per output channel"),
        ((0, 1, 2), (0, 1, 3), False, "with the mean per output channel, the deviation per input channel"),
        ((0, 1, 2), (0, 1), True, "with the deviation over rows and columns only, where a kernel is wider than 1 × 1"),
    ],
)  # fmt: skip
def test_wrong_axes_of_the_weight_standardisation_are_named(mean, deviation, wide, name):
    stages = {"patches": EXACT["patches"]}  # before which nothing need be tried
    for conv in KERNELS:
        kernel = SINGLE["stem"][conv]["kernel"]
        right = wide and len(kernel) == 1
        centred = kernel - kernel.mean((0, 1, 2) if right else mean, keepdims=True)
        std = kernel.std((0, 1, 2) if right else deviation, keepdims=True)
        stages[f"stem/{conv}/standardized"] = centred / (std + np.float32(1e-5))
    assert fingerprint(FIXTURE, stages).names == [f"weights standardised {name}"]


def normalised(z, params):
    return layer_norm(z, params["scale"], params["bias"])[0]


def test_a_norm_that_is_run_once_more_after_it_was_shown_is_named():
    stages = {name: a for name, a in EXACT.items() if name == "encoder/norm"}
    twice = normalised(stages["encoder/norm"][:, 0], FIXTURE.params["encoder"]["norm"])
    stages["head/logits"] = twice @ FIXTURE.params["head"]["kernel"] + FIXTURE.params["head"]["bias"]
    assert fingerprint(FIXTURE, stages).names == ["final norm applied twice, given after the first time"]


@pytest.mark.parametrize("name", ["norm2", "gn1"])
def test_what_is_applied_twice_is_told_where_it_is_shown_and_where_it_is_not(name):
    once, twice = (f"{name} applied twice{words}" for words in (", given after the first time", ""))
    stage = "encoder/block_00/norm2" if name == "norm2" else "stem/gn1"
    first, second = planted(once), planted(twice)
    np.testing.assert_allclose(first[stage][:, 0], EXACT[stage][:, 0], rtol=1e-3, atol=1e-4)
    assert np.abs(second[stage][:, 0] - EXACT[stage][:, 0]).max() > 1e-2
    assert [fingerprint(FIXTURE, stages).names for stages in (first, second)] == [[once], [twice]]


def test_of_a_block_that_runs_every_time_the_first_run_is_seen():
    """As hooks of a module that is called twice see it, under the name of whose parameters it has."""
    stages = planted("last block run every time")
    first = normalised(EXACT["encoder/input"], FIXTURE.params["encoder"]["block_01"]["norm1"])
    np.testing.assert_allclose(stages["encoder/block_01/norm1"], first, rtol=1e-3, atol=1e-4)
    assert fingerprint(FIXTURE, stages).names == ["last block run every time"]


def test_post_norm_of_one_branch_is_named():
    name = "post-norm in the attention branch, given after its norm"
    stages = planted(name)
    z = EXACT["encoder/input"] + stages["encoder/block_00/attention/out"]
    shown = normalised(z, FIXTURE.params["encoder"]["block_00"]["norm1"])
    np.testing.assert_allclose(stages["encoder/block_00/norm1"], shown, rtol=1e-3, atol=1e-4)
    norm2 = normalised(shown, FIXTURE.params["encoder"]["block_00"]["norm2"])
    np.testing.assert_allclose(stages["encoder/block_00/norm2"], norm2, rtol=1e-3, atol=1e-4)
    assert fingerprint(FIXTURE, stages).names == [name]


def test_kernels_of_a_loader_that_are_exchanged_without_their_biases_are_named():
    block, norm1 = FIXTURE.params["encoder"]["block_00"]["attention"], EXACT["encoder/block_00/norm1"]
    stages = {"encoder/block_00/norm1": norm1}
    for mine, theirs in (("query", "key"), ("key", "query")):
        heads = np.einsum("bnd,dhe->bhne", norm1, block[theirs]["kernel"])
        stages[f"encoder/block_00/attention/{mine}"] = heads + block[mine]["bias"][:, None]
    assert fingerprint(FIXTURE, stages).names == ["kernels of query and key exchanged"]


def test_that_a_mistake_begins_at_a_stage_is_said_only_where_an_earlier_place_is_right(rng):
    norm = EXACT["encoder/norm"].copy()
    norm[:, 1:][:, FIXTURE.mask == 0] = rng.normal(size=norm.shape[-1])  # padding, of which a port may make anything
    logits = norm[:, 1:].mean(1) @ FIXTURE.params["head"]["kernel"] + FIXTURE.params["head"]["bias"]
    [found] = fingerprint(FIXTURE, {"encoder/norm": norm, "head/logits": logits}).findings
    assert found.name == "mean of all tokens, padding included"
    assert found.about == MISTAKES[found.name].remedy
