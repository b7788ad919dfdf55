"""Tests of the test: wrong backwards, as people really write them, must each be rejected by the gradient check."""

from __future__ import annotations

import numpy as np
import pytest
from op_table import HOST_OPS, OPS

from musiq_ref.verify import GradientError, check_vjp
from musiq_ref.verify.check.catalogue import catalogue
from musiq_ref.verify.mistakes.catalogue import MISTAKES

CASES = {**OPS, **HOST_OPS}
UNSEEN = ("max-pool's gradient to all maxima",)  # shows at ties, where there is no derivative; `verify.op` finds it
BACKWARDS = [m for m in MISTAKES.values() if m.side == "backward" and m.name not in UNSEEN]


def cases_of(op):
    """The cases of an op: "attention" has "attention official", "attention pyiqa", …"""
    return {name: case for name, case in CASES.items() if case.op == op}


@pytest.mark.parametrize("name", [m.name for m in BACKWARDS])
def test_a_wrong_backward_of_the_list_is_rejected(name):
    op = MISTAKES[name].op.removesuffix("_backward")
    wrong = catalogue()[op].like_backward(MISTAKES[name].function)
    rejected = []
    for case in cases_of(op).values():
        assert check_vjp(case.forward, case.backward, case.inputs) < 1e-6
        try:
            check_vjp(case.forward, case.planted(wrong), case.inputs)
        except GradientError as error:
            rejected.append(str(error))
    assert rejected, f"none of {list(cases_of(op))} shows it"
    assert all("is wrong: along a random direction" in m or "it must return" in m for m in rejected), rejected


def changed(name, f):
    """The op's own backward with its result passed through f (a list of the gradients)."""

    def backward(dy, cache):
        gradients = CASES[name].backward(dy, cache)
        return tuple(f(list(gradients))) if isinstance(gradients, tuple) else f([gradients])[0]

    return name, backward


def mapped(path, f):
    """Changes one leaf of the gradients to the parameters."""

    def change(gradients):
        *parents, last = path.split("/")
        node = gradients[1]
        for key in parents:
            node = node[key]
        node[last] = f(node[last])
        return gradients

    return change


NUMBERS = {  # wrong numbers that are nobody's mistake in particular
    "zero gradient": changed("softmax", lambda g: [0 * g[0]]),
    "kernel's gradient in reverse order": changed("linear", lambda g: [g[0], g[1][::-1], g[2]]),
    "input gradient dropped": changed("linear", lambda g: [0 * g[0], *g[1:]]),
    "gradients in the wrong order": changed("linear", lambda g: [g[0], g[2], g[1]]),
    "query bias wrong": changed("attention official", mapped("query/bias", lambda g: g + 0.01)),
    "a bias's sign": changed("block", mapped("mlp/fc1/bias", lambda g: -g)),
    "scales' gradient zero": changed("embed without HSE", mapped("scale_embedding/table", np.zeros_like)),
    "places' gradient of other rows": changed(
        "embed without SCE", mapped("spatial_embedding/table", lambda g: np.roll(g, 1, axis=0))
    ),
    "class token's gradient to a patch": changed("embed without HSE, SCE", lambda g: [np.roll(g[0], 1, axis=1), g[1]]),
    "rows and channels exchanged": changed("stem linear", lambda g: [g[0][..., ::-1]]),
    "halved": changed("expected_score", lambda g: [g[0] / 2]),
    "padding on the wrong side": changed("extract_patches", lambda g: [np.roll(g[0], 1, axis=0)]),
    "spread without weights": (
        "resize gaussian (5, 4)",
        lambda dy, c: np.repeat(np.repeat(dy, 3, 0), 2, 1)[:11, :7] / 6,
    ),
}


@pytest.mark.parametrize("numbers", NUMBERS)
def test_wrong_numbers_are_rejected(numbers):
    name, wrong = NUMBERS[numbers]
    case = CASES[name]
    assert check_vjp(case.forward, case.backward, case.inputs) < 1e-6
    with pytest.raises(GradientError, match=r"along|gradient"):
        check_vjp(case.forward, wrong, case.inputs)


def test_there_are_enough_faults():
    assert len(BACKWARDS) + len(NUMBERS) >= 52


@pytest.mark.parametrize("size", [1e-2, 1e-4])
def test_small_relative_faults_are_rejected(size):
    case = OPS["layer_norm"]
    with pytest.raises(GradientError, match="along"):
        check_vjp(case.forward, lambda dy, c: tuple(g * (1 + size) for g in case.backward(dy, c)), case.inputs)


def test_a_cotangent_of_ones_would_miss_it():
    """Why the cotangent is random: the rows of a softmax sum to 1, so ones hide a backward that returns zeros."""
    case = OPS["softmax"]
    y, cache = case.forward(*case.inputs)
    assert np.abs(case.backward(np.ones_like(y), cache)).max() < 1e-15


def test_what_cannot_be_checked_is_refused():
    case = OPS["softmax"]
    with pytest.raises(ValueError, match="needs float64"):
        check_vjp(case.forward, case.backward, [case.inputs[0].astype("f4")])
    with pytest.raises(ValueError, match="no gradient to check"):
        check_vjp(case.forward, case.backward, [np.arange(3)])
