"""The fused ops, as they are read: their gradients, and what they are made of. Their kernels: test_kernels.py."""

from __future__ import annotations

import numpy as np
import pytest

from musiq_ref.backend import op
from musiq_ref.ops import fused
from musiq_ref.ops.fused import attend, attend_backward
from musiq_ref.ops.group_norm import group_norm
from musiq_ref.ops.layer_norm import layer_norm
from musiq_ref.ops.softmax import softmax
from musiq_ref.verify import check_vjp

RNG = np.random.default_rng(0)
ALLOWED = RNG.random((2, 1, 5, 7)) < 0.7
VALID = np.array([[True, False, True, True, False, True], [False, True, True, True, True, True]])


def stacked(x, bias, residual, gamma, beta):
    (z, y), cache = fused.bias_residual_layer_norm(x, bias, residual, gamma, beta)
    return np.stack([z, y]), cache


def draw(*shapes):
    return [RNG.standard_normal(shape) for shape in shapes]


PAIRS = {
    "bias_residual_layer_norm": (
        stacked,
        lambda dzy, cache: fused.bias_residual_layer_norm_backward(*dzy, cache),
        draw((2, 3, 7), 7, (2, 3, 7), 7, 7),
    ),
    "bias_gelu tanh": (lambda x, b: fused.bias_gelu(x, b, "tanh"), fused.bias_gelu_backward, draw((2, 3, 7), 7)),
    "bias_gelu erf": (lambda x, b: fused.bias_gelu(x, b, "erf"), fused.bias_gelu_backward, draw((2, 3, 7), 7)),
    "masked_softmax": (
        lambda x: fused.masked_softmax(x, ALLOWED, "fill", -1e3),
        lambda dy, cache: (fused.masked_softmax_backward(dy, cache),),
        draw((2, 3, 5, 7)),
    ),
    "group_norm_relu": (
        lambda x, g, b: fused.group_norm_relu(x, g, b, 1e-4, 3),
        fused.group_norm_relu_backward,
        draw((2, 4, 5, 6), 6, 6),
    ),
    "attend": (lambda q, k, v: attend(q, k, v, VALID), attend_backward, draw(*[(2, 3, 6, 4)] * 3)),
    "attend to all": (attend, attend_backward, draw(*[(2, 3, 6, 4)] * 3)),
}


@pytest.mark.parametrize("rows", [1, 2**22])
@pytest.mark.parametrize("name", PAIRS)
def test_gradient(name, rows, monkeypatch):
    monkeypatch.setattr(fused, "WEIGHTS", rows)  # of attention: one query at a time, and all
    for seed in range(3):
        assert check_vjp(*PAIRS[name], seed=seed) < 1e-6


def test_attention_is_its_definition():
    q, k, v = PAIRS["attend"][2]
    y, _ = attend(q, k, v, VALID)
    logits = np.where(VALID[:, None, None, :], q @ k.swapaxes(-1, -2) / 2, -np.inf)
    np.testing.assert_allclose(y, softmax(logits)[0] @ v, rtol=1e-12)


def test_a_kernel_is_for_its_array_type_alone():
    class Mine(np.ndarray):
        pass

    @op
    def twice(x):
        """2·x"""
        return 2 * x

    twice.kernels[Mine] = lambda x: "the kernel's"
    x = np.ones(2)
    assert twice(x.view(Mine)) == "the kernel's"
    assert (twice(x) == 2).all()
    assert (twice(x=x) == 2).all()
    assert twice.__doc__ == "2·x"


def test_epsilon_and_groups_reach_the_norms():
    x, bias, residual, gamma, beta = draw((2, 3, 6), 6, (2, 3, 6), 6, 6)
    (_, y), _ = fused.bias_residual_layer_norm(x, bias, residual, gamma, beta, eps=0.5)
    np.testing.assert_array_equal(y, layer_norm(residual + (x + bias), gamma, beta, 0.5)[0])
    [maps] = draw((2, 4, 5, 6))
    y, _ = fused.group_norm_relu(maps, gamma, beta, 0.5, 3)
    np.testing.assert_array_equal(y, np.maximum(group_norm(maps, gamma, beta, 0.5, 3)[0], 0))
