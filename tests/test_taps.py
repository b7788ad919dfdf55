"""Every intermediate can be seen and replaced by name, on the way forward and on the way back."""

from __future__ import annotations

import numpy as np
import pytest
from test_model import SMALL, random_tokens

import musiq_ref as mq
from musiq_ref.model.parameters import flatten
from musiq_ref.verify import check_vjp, deterministic_params, trace

PARAMS = deterministic_params(SMALL, 2, "float64")
TOKENS = mq.batch([random_tokens(SMALL, 6, 1), random_tokens(SMALL, 8, 2)])
DLOGITS = np.random.default_rng(0).standard_normal((2, 3))
VALUES, GRADIENTS = trace(PARAMS, TOKENS, SMALL, DLOGITS)


def test_forward_and_backward_name_the_same_intermediates_in_reverse():
    assert set(VALUES) == set(GRADIENTS)
    assert all(VALUES[name].shape == GRADIENTS[name].shape for name in VALUES)
    order = [name for name in VALUES if name.startswith("encoder/block")]
    assert [name for name in GRADIENTS if name.startswith("encoder/block") and "/attention/" not in name] == [
        name for name in reversed(order) if "/attention/" not in name
    ]
    for name in ("stem/conv_root", "encoder/block_01/attention/weights", "head/logits"):
        assert name in VALUES


@pytest.mark.parametrize("name", VALUES)
def test_replacing_an_intermediate_moves_the_logits_as_its_gradient_says(name):
    """Planting v + h·d at the tap must change Σ dlogits·logits by ⟨gradient at the tap, d⟩."""
    direction = np.random.default_rng(1).standard_normal(VALUES[name].shape)
    if name.startswith("encoder") and not name.endswith("standardized"):
        direction = direction * _rows(name, VALUES[name].ndim)
    if name == "stem/relu_root":
        direction = direction * (VALUES[name] > 0)  # pooling has no derivative where zeros tie
    totals = []
    for h in (1e-6, -1e-6):
        logits, _ = mq.forward(PARAMS, TOKENS, SMALL, tap=lambda n, a, h=h: a + h * direction if n == name else a)
        totals.append((logits * DLOGITS).sum())
    numeric = (totals[0] - totals[1]) / 2e-6
    assert (GRADIENTS[name] * direction).sum() == pytest.approx(numeric, rel=1e-5, abs=1e-8)


def _rows(name, axes):
    """1 at valid tokens, 0 at padded ones, whose rows nothing reads (and −1e10 has rounded)."""
    valid = np.pad(TOKENS.mask, ((0, 0), (1, 0)), constant_values=True).astype(float)
    if axes == 3:
        return valid[..., None]
    return valid[:, None, :, None]


def test_replacing_with_the_same_value_changes_nothing():
    logits, _ = mq.forward(PARAMS, TOKENS, SMALL, tap=lambda name, array: VALUES[name].copy())
    assert np.array_equal(logits, VALUES["head/logits"])


def test_teacher_forcing_repairs_a_fault_downstream():
    def forced(name, array):
        return VALUES[name] if name == "encoder/block_00/output" else array

    broken = {**PARAMS, "stem": deterministic_params(SMALL, 9, "float64")["stem"]}
    assert not np.allclose(mq.forward(broken, TOKENS, SMALL)[0], VALUES["head/logits"])
    assert np.array_equal(mq.forward(broken, TOKENS, SMALL, tap=forced)[0], VALUES["head/logits"])


def test_stopping_a_gradient_on_the_way_back():
    _, cache = mq.forward(PARAMS, TOKENS, SMALL)
    gradients = mq.backward(DLOGITS, cache, tap=lambda name, d: d * (name != "encoder/input"))
    assert not gradients.patches.any()
    assert not any(g.any() for _, g in flatten(gradients.params["stem"]))
    assert gradients.params["encoder"]["block_00"]["mlp"]["fc1"]["kernel"].any()


@pytest.mark.parametrize("name", [name for name in GRADIENTS if name != "patches"])
def test_replacing_a_gradient_on_the_way_back_reaches_what_comes_before(name):
    """Twice the gradient at one tap must change some gradient behind it, and leave the logits' own alone."""
    _, cache = mq.forward(PARAMS, TOKENS, SMALL)
    doubled = mq.backward(DLOGITS, cache, tap=lambda n, d: 2 * d if n == name else d)
    plain = mq.backward(DLOGITS, cache)
    after, before = dict(flatten(doubled.params)), dict(flatten(plain.params))
    changed = [path for path in before if not np.allclose(after[path], before[path], rtol=1e-6, atol=1e-14)]
    assert changed or not np.allclose(doubled.patches, plain.patches)


@pytest.mark.parametrize("at", ["attention/weights", "attention/value", "mlp/gelu", "norm2", "residual1"])
def test_a_replaced_intermediate_is_what_the_backward_uses(at):
    """With a tap that changes an intermediate, the gradients are those of the changed model."""

    def tap(name, array):
        return 1.5 * array * array if name == f"encoder/block_01/{at}" else array

    def tap_backward(name, d):
        return d * 3 * VALUES_BEFORE[name] if name == f"encoder/block_01/{at}" else d

    VALUES_BEFORE = VALUES

    def forward(params):
        return mq.forward(params, TOKENS, SMALL, tap=tap)

    assert check_vjp(forward, lambda d, cache: (mq.backward(d, cache, tap=tap_backward).params,), [PARAMS]) < 1e-6


def test_a_tap_must_return_the_array_or_one_of_its_shape():
    with pytest.raises(ValueError, match=r"the tap returned NoneType for patches"):
        mq.forward(PARAMS, TOKENS, SMALL, tap=lambda name, array: None)
    with pytest.raises(ValueError, match=r"returned \(8, 3\) for patches, which has shape \(2, 8, 8, 8, 3\)"):
        mq.forward(PARAMS, TOKENS, SMALL, tap=lambda name, array: array[0, 0, 0])
