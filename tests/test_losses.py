"""Losses: their gradients, PyTorch's and hand-computed values, chunks of a batch, corners and bad input."""

from __future__ import annotations

import math

import numpy as np
import pytest
from op_table import frozen

from musiq_ref.losses import LOSSES, cross_entropy, cross_entropy_backward, emd, emd_backward, huber, l1, l1_backward
from musiq_ref.ops.softmax import softmax_backward
from musiq_ref.verify import GradientError, check_vjp

values = np.random.default_rng(11)
SCORES, TRUE = frozen(values.normal(size=(7, 3))), frozen(values.normal(size=(7, 3)))
LOGITS = frozen(values.normal(size=(7, 5)))
SHARES = frozen(values.dirichlet(np.ones(5), size=7))
LABELS = frozen(np.array([0, 4, 2, 2, 1, 3, 4]))
WEIGHT = frozen(values.random(7))

CASES = {  # name of the pair, predictions, targets, options
    "l1": ("l1", SCORES, TRUE, {}),
    "l1 weighted": ("l1", SCORES, TRUE, {"weight": WEIGHT}),
    "l1 of one output": ("l1", SCORES[:, :1], TRUE[:, 0], {}),
    "mse": ("mse", SCORES, TRUE, {}),
    "mse of a vector": ("mse", SCORES[:, 0], TRUE[:, 0], {"weight": 0.25}),
    "huber": ("huber", SCORES, TRUE, {}),
    "huber narrow": ("huber", SCORES, TRUE, {"delta": 0.3, "weight": WEIGHT}),
    "emd": ("emd", LOGITS, SHARES, {}),
    "emd r=1": ("emd", LOGITS, SHARES, {"r": 1}),
    "emd r=1.5": ("emd", LOGITS, SHARES, {"r": 1.5, "weight": WEIGHT}),
    "emd r=3": ("emd", LOGITS, SHARES, {"r": 3}),
    "emd r=40": ("emd", LOGITS, SHARES, {"r": 40}),
    "cross_entropy of labels": ("cross_entropy", LOGITS, LABELS, {}),
    "cross_entropy smoothed": ("cross_entropy", LOGITS, LABELS, {"smoothing": 0.1, "weight": WEIGHT}),
    "cross_entropy of shares": ("cross_entropy", LOGITS, SHARES, {"smoothing": 0.2}),
    "cross_entropy of rounded shares": ("cross_entropy", LOGITS, frozen(SHARES * (1 + 5e-5)), {}),
}


def with_target(name, target, options):
    """The pair of that name as an op of the predictions alone."""
    forward, backward = LOSSES[name]
    return lambda prediction: forward(prediction, target, **options), backward


@pytest.mark.parametrize("case", CASES)
def test_gradient(case):
    name, prediction, target, options = CASES[case]
    for seed in range(3):
        assert check_vjp(*with_target(name, target, options), [prediction], seed=seed) < 1e-6


def emd_wrong(fault):
    def backward(dloss, cache):
        D, _, e, w, r, cache_softmax = cache
        slope = np.sign(D) * (np.abs(D) / (1 if fault == "no outer root" else e)) ** (r - 1)
        slope = slope / (1 if fault == "no 1/C" else D.shape[-1])
        slope = np.abs(slope) if fault == "no sign" else slope
        order = 1 if fault == "summed from the front" else -1
        dp = np.cumsum((dloss * w * slope)[:, ::order], axis=-1)[:, ::order]
        return dp if fault == "softmax forgotten" else softmax_backward(dp, cache_softmax)

    return backward


FAULTS = {
    "l1: not averaged": ("l1", lambda g, c: l1_backward(g, c) * 7),
    "l1: sign turned": ("l1", lambda g, c: -l1_backward(g, c)),
    "l1: cotangent ignored": ("l1", lambda g, c: l1_backward(1.0, c)),
    "mse: factor 2 forgotten": ("mse", lambda g, c: LOSSES["mse"][1](g, c) / 2),
    "mse: sign of the error only": ("mse", lambda g, c: (g * c[1] * np.sign(c[0])).reshape(c[2])),
    "huber: never clipped": ("huber narrow", lambda g, c: g * WEIGHT[:, None] / 3 * (SCORES - TRUE)),
    "huber: weight forgotten": ("huber narrow", lambda g, c: g * c[0] / 21),
    "cross_entropy: target forgotten": ("cross_entropy of labels", lambda g, c: g * c[2] * np.exp(c[0])),
    "cross_entropy: smoothing forgotten": (
        "cross_entropy smoothed",
        lambda g, c: g * c[2] * (np.exp(c[0]) - np.eye(5)[LABELS]),
    ),
    "cross_entropy: gradient of the mean of another batch": (
        "cross_entropy of shares",
        lambda g, c: cross_entropy_backward(g, c)[::-1],
    ),
    **{
        f"emd: {fault}": ("emd", emd_wrong(fault))
        for fault in ("no outer root", "no 1/C", "no sign", "summed from the front", "softmax forgotten")
    },
}


@pytest.mark.parametrize("fault", FAULTS)
def test_planted_fault_is_rejected(fault):
    case, wrong = FAULTS[fault]
    name, prediction, target, options = CASES[case]
    with pytest.raises(GradientError, match="along"):
        check_vjp(with_target(name, target, options)[0], wrong, [prediction])


def test_the_faulty_emd_is_right_without_its_fault():
    forward, _ = with_target("emd", SHARES, {})
    assert check_vjp(forward, emd_wrong(None), [LOGITS]) < 1e-6


def torch_emd(torch, logits, target, r):
    gap = torch.cumsum(torch.softmax(logits, -1) - target, -1).abs()
    return ((gap**r).mean(-1) ** (1 / r)).mean()


PYTORCH = {
    "l1": (SCORES, TRUE, {}, lambda torch, y, t: torch.nn.functional.l1_loss(y, t)),
    "mse": (SCORES, TRUE, {}, lambda torch, y, t: torch.nn.functional.mse_loss(y, t)),
    "huber": (SCORES, TRUE, {"delta": 0.7}, lambda torch, y, t: torch.nn.functional.huber_loss(y, t, delta=0.7)),
    "emd": (LOGITS, SHARES, {"r": 2}, lambda torch, y, t: torch_emd(torch, y, t, 2)),
    "emd 3": (LOGITS, SHARES, {"r": 3.0}, lambda torch, y, t: torch_emd(torch, y, t, 3)),
    "cross_entropy": (LOGITS, LABELS, {}, lambda torch, y, t: torch.nn.functional.cross_entropy(y, t)),
    "cross_entropy smoothed": (
        LOGITS,
        LABELS,
        {"smoothing": 0.1},
        lambda torch, y, t: torch.nn.functional.cross_entropy(y, t, label_smoothing=0.1),
    ),
    "cross_entropy shares": (
        LOGITS,
        SHARES,
        {"smoothing": 0.3},
        lambda torch, y, t: torch.nn.functional.cross_entropy(y, t, label_smoothing=0.3),
    ),
}


@pytest.mark.parametrize("case", PYTORCH)
def test_agrees_with_pytorch(torch, case):
    prediction, target, options, reference = PYTORCH[case]
    forward, backward = LOSSES[case.split()[0]]
    y = torch.tensor(prediction, requires_grad=True)
    expected = reference(torch, y, torch.tensor(target))
    expected.backward()
    assert y.grad is not None
    loss, cache = forward(prediction, target, **options)
    assert abs(loss - expected.item()) < 1e-12
    np.testing.assert_allclose(backward(1.0, cache), y.grad.numpy(), rtol=1e-12, atol=1e-14)


def test_the_emd_is_the_squared_one_unless_asked():
    assert emd(LOGITS, SHARES)[0] == emd(LOGITS, SHARES, r=2)[0] != emd(LOGITS, SHARES, r=1)[0]


@pytest.mark.parametrize(
    ("p", "q", "r", "expected"),
    [
        ([1, 0, 0], [0, 0, 1], 1, 2 / 3),  # CDFs 1 1 1 and 0 0 1
        ([1, 0, 0], [0, 0, 1], 2, math.sqrt(2 / 3)),
        ([1, 0, 0], [0, 1, 0], 2, math.sqrt(1 / 3)),  # one class apart instead of two
        ([0.5, 0.25, 0.25, 0], [0.25, 0.25, 0.25, 0.25], 2, math.sqrt(3 / 64)),  # D = ¼ ¼ ¼ 0
        ([0.5, 0.25, 0.25, 0], [0.25, 0.25, 0.25, 0.25], 3, (3 / 256) ** (1 / 3)),
        ([0.75, 0.25], [0.25, 0.75], 1, 0.25),
        ([0.75, 0.25], [0.25, 0.75], 500, 0.5 * 0.5 ** (1 / 500)),
    ],
)
def test_hand_computed_emd(p, q, r, expected):
    logits = np.log(np.maximum(p, 1e-300))
    loss, _ = emd(logits[None], np.array([q], float), r=r)
    assert loss == pytest.approx(expected, rel=1e-14)


def test_corners_have_gradient_zero():
    _, cache = l1(np.array([1.0, 2.0]), np.array([1.0, 0.0]))
    assert l1_backward(1.0, cache).tolist() == [0, 0.5]
    q = np.random.default_rng(3).dirichlet(np.ones(6), size=50)
    for logits, target in ((np.zeros((1, 4)), np.full((1, 4), 0.25)), (np.log(q), q), (1e4 * np.eye(3), np.eye(3))):
        for r in (1, 1.5, 2, 7):
            for dtype in ("float32", "float64"):
                loss, cache = emd(logits.astype(dtype), target, r=r)
                assert loss < 1e-6
                assert (emd_backward(1.0, cache) == 0).all()


def test_a_high_power_of_small_differences_does_not_underflow():
    x = np.array([[0.0, 1e-4, 0.0]], "f4")
    loss, cache = emd(x, np.full((1, 3), 1 / 3), r=20.0)  # (1e-5)^20 is 0 in float32
    exact, exact_cache = emd(x.astype("f8"), np.full((1, 3), 1 / 3), r=20.0)
    assert loss == pytest.approx(exact, rel=1e-2)
    np.testing.assert_allclose(emd_backward(1.0, cache), emd_backward(1.0, exact_cache), rtol=0.1)


def test_cross_entropy_of_large_logits_is_finite():
    loss, cache = cross_entropy(np.array([[1e4, 0.0]]), np.array([1]))
    assert loss == 1e4
    assert cross_entropy_backward(1.0, cache).tolist() == [[1, -1]]


def test_huber_joins_mse_and_l1():
    y, t = np.array([0.5, 3.0]), np.zeros(2)
    assert huber(y, t, delta=10.0)[0] == LOSSES["mse"][0](y, t)[0] / 2
    assert huber(y, t, delta=1e-9)[0] / 1e-9 == pytest.approx(l1(y, t)[0], rel=1e-8)


@pytest.mark.parametrize("case", CASES)
def test_chunks_of_a_batch_add_up(case):
    name, prediction, target, options = CASES[case]
    forward, backward = LOSSES[name]
    weight = options.get("weight", 1 / 7)
    whole, cache = forward(prediction, target, **options)
    losses, gradients = [], []
    for part in (slice(0, 2), slice(2, 6), slice(6, 7)):
        w = weight if isinstance(weight, float) else weight[part]
        loss, cache_of_part = forward(prediction[part], target[part], **{**options, "weight": w})
        losses.append(loss)
        gradients.append(backward(1.0, cache_of_part))
    assert sum(losses) == pytest.approx(whole, rel=1e-14)
    np.testing.assert_allclose(np.concatenate(gradients), backward(1.0, cache), rtol=1e-13)


@pytest.mark.parametrize("case", CASES)
def test_float32_stays_float32_and_is_close(case):
    name, prediction, target, options = CASES[case]
    forward, backward = LOSSES[name]
    exact, exact_cache = forward(prediction, target, **options)
    loss, cache = forward(prediction.astype("f4"), target, **options)  # targets and weights in float64
    gradient = backward(1.0, cache)
    assert (loss.dtype, gradient.dtype) == (np.float32, np.float32)
    assert loss == pytest.approx(exact, rel=1e-4)
    np.testing.assert_allclose(gradient, backward(1.0, exact_cache), rtol=1e-2, atol=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_same_numbers_on_the_device(case, device):
    name, prediction, target, options = CASES[case]
    forward, backward = LOSSES[name]
    here, cache = forward(prediction, target, **options)
    there_options = {k: device.from_numpy(v) if isinstance(v, np.ndarray) else v for k, v in options.items()}
    there, there_cache = forward(device.from_numpy(prediction), device.from_numpy(target), **there_options)
    np.testing.assert_allclose(device.to_numpy(there), here, rtol=1e-12)
    np.testing.assert_allclose(device.to_numpy(backward(1.0, there_cache)), backward(1.0, cache), rtol=1e-12)


def bad(array, index, value):
    array = np.array(array)
    array[index] = value
    return array


@pytest.mark.parametrize(
    ("name", "prediction", "target", "options", "message"),
    [
        ("l1", SCORES, TRUE[:, :2], {}, r"targets have shape \(7, 2\); predictions of shape \(7, 3\)"),
        ("mse", SCORES, TRUE[:, 0], {}, "the same"),
        ("l1", SCORES[:, 0], TRUE[:, :1], {}, "the same"),
        ("l1", SCORES[:0], TRUE[:0], {}, "of a batch"),
        ("l1", np.arange(3), np.arange(3), {}, "must be floating"),
        ("l1", bad(SCORES, (4, 1), np.nan), TRUE, {}, "the prediction of example 4 is .*nan.*must be finite"),
        ("mse", SCORES, bad(TRUE, (2, 0), np.inf), {}, "the target of example 2 is .*inf"),
        ("l1", SCORES, TRUE, {"weight": WEIGHT[:3]}, r"weights have shape \(3,\); 7 examples"),
        ("l1", SCORES, TRUE, {"weight": bad(WEIGHT, 5, np.nan)}, "the weight of example 5 is nan"),
        ("l1", SCORES, TRUE, {"weight": math.nan}, "the weight .*nan"),
        ("huber", SCORES, TRUE, {"delta": 0.0}, "delta of the Huber loss is 0"),
        ("emd", LOGITS, SHARES, {"r": 0.5}, "r of the EMD is 0.5; it must be a number of at least 1"),
        ("emd", LOGITS, SHARES, {"r": math.inf}, "r of the EMD is inf"),
        ("emd", LOGITS[:, :4], SHARES, {}, r"shape \(7, 5\) and the logits \(7, 4\)"),
        ("emd", LOGITS[:, :1], SHARES[:, :1], {}, "at least 2 classes"),
        ("emd", LOGITS, 210 * SHARES, {}, "the target of example 0 is no distribution.*sum to 1, not to 210"),
        (
            "emd",
            LOGITS,
            bad(SHARES, (6, slice(2)), [-1, 1 + SHARES[6, :2].sum()]),
            {},
            "example 6 is no distribution.*smallest of -1",
        ),
        ("emd", LOGITS, bad(SHARES, (3, 0), np.nan), {}, "the target of example 3 .*nan"),
        ("cross_entropy", bad(LOGITS, 0, -np.inf), LABELS, {}, "the prediction of example 0"),
        (
            "cross_entropy",
            LOGITS,
            bad(LABELS, 2, 5),
            {},
            "label of example 2 is 5; with 5 classes it must lie in 0 …",
        ),
        ("cross_entropy", LOGITS, bad(LABELS, 1, -1), {}, "label of example 1 is -1"),
        ("cross_entropy", LOGITS, LABELS.astype(float), {}, "labels are float64"),
        ("cross_entropy", LOGITS, LABELS[:4], {}, r"need one integer for each row"),
        ("cross_entropy", LOGITS, 2 * SHARES, {}, "no distribution"),
        ("cross_entropy", LOGITS, LABELS, {"smoothing": 1.5}, "label smoothing is 1.5"),
    ],
)
def test_bad_input_gets_one_clear_sentence(name, prediction, target, options, message):
    with pytest.raises(ValueError, match=message) as error:
        LOSSES[name][0](prediction, target, **options)
    assert "\n" not in str(error.value)


def test_lists_are_refused():
    with pytest.raises(TypeError, match=r"numpy\.asarray"):
        l1(np.zeros(2), [0.0, 0.0])
