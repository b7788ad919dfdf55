"""`verify.op`: it passes the library's own pairs, rejects wrong ones, names the mistake, and shrinks what it shows."""

from __future__ import annotations

import math

import numpy as np
import pytest

from musiq_ref.ops.layer_norm import layer_norm
from musiq_ref.ops.linear import linear, linear_backward
from musiq_ref.ops.max_pool import max_pool
from musiq_ref.ops.softmax import softmax, softmax_backward
from musiq_ref.verify import OpError, op
from musiq_ref.verify.check.catalogue import catalogue
from musiq_ref.verify.mistakes.catalogue import MISTAKES, mistakes_of

OPS = catalogue()
UNSEEN = (
    "ReLU6 for ReLU",  # the inputs are below 6
    "GroupNorm with groups of 32 channels",  # an op has fewer
    "GroupNorm with groups of 16 channels",
    "three times as many heads",  # the inputs have 1 … 3 heads
    "as many as 8 heads",
    "as many as 12 heads",
    "skipped same-size blur",  # shows where an image is resized to its own size, and axes differ in length here
    "sides rounded half up",  # shows at few sizes, which the ladder lists
    "sides rounded half up in float64",
)
WIDE = ", where a kernel is wider than 1 × 1"
MEAN, DEVIATION = "with the mean per output channel", "with the deviation over rows and columns only"
ALIKE = {  # on small inputs: a mistake, and the one that gives the same numbers and is named
    "ReLU6 in the MLP": "ReLU in the MLP",
    "logits filled with the smallest float": "mask multiplied with the logits",
    "GroupNorm with a quarter of the groups": "GroupNorm with half as many groups",
    "GroupNorm with 1 group": "GroupNorm with half as many groups",
    "GroupNorm's statistics per position": "GroupNorm's statistics per position over all channels (LayerNorm)",
    **{
        f"weights standardised {how}{WIDE}": f"weights standardised {how}"
        for how in ("over rows and columns only", f"{DEVIATION}, averaged over input channels")
    },
    f"weights standardised {DEVIATION}{WIDE}": f"weights standardised {MEAN}, the {DEVIATION[9:]}",
    f"weights standardised {DEVIATION}, from the mean per output channel{WIDE}": (
        f"weights standardised {MEAN}, the {DEVIATION[9:]}, from that mean"
    ),
    "weight std with ε 1e-8": "weight std without ε",
    "convolution padded on both sides by repeating the edge": "convolution padded by repeating the edge",
    "hash on a grid of 11 cells": "hash of i·(G − 1)/n",
    "one head for all heads": "half as many heads",
    "post-norm, given after its norms": "post-norm",
    "post-norm in the attention branch, given after its norm": "post-norm in the attention branch",
    "post-norm in the MLP branch, given after its norm": "post-norm in the MLP branch",
    "post-norm, its sums given after its norms": "post-norm",
    "post-norm in the attention branch, its sum given after its norm": "post-norm in the attention branch",
    "norm1 skipped": "attention reads what is not normalised",
    "norm2 skipped": "MLP reads what is not normalised",
    "classes counted down": "probabilities in reverse order",
    "median class": "most likely class",
    "padded with a mirror image (symmetric)": "padded by repeating the edge",
    "sides cut off, not rounded in float64": "sides cut off, not rounded",
    "sides rounded to even numbers": "sides rounded up",
    "sides rounded to even numbers in float64": "sides rounded up",
    "sides rounded to multiples of 32 in float64": "sides rounded to multiples of 32",
}
FORWARDS = [(op, m.name) for op in OPS for m in mistakes_of(op) if m.name not in UNSEEN]
BACKWARDS = [(op, m.name) for op in OPS for m in mistakes_of(f"{op}_backward")]


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", OPS)
def test_the_librarys_own_pair_passes(name, dtype):
    tries = 12 if name in ("stem", "tokenize", "encoder", "block") else 40
    result = op(name, OPS[name].forward, OPS[name].backward, dtype=dtype, tries=tries)
    assert result.passed, str(result)
    assert result.tries == tries


@pytest.mark.parametrize(("name", "mistake"), FORWARDS)
def test_a_wrong_forward_of_the_list_is_found_and_named(name, mistake):
    wrong = MISTAKES[mistake]

    def forward(*inputs):
        y = wrong.function(*inputs)
        y = y[0] if OPS[name].backward and isinstance(y, tuple) else y
        return (y, None) if OPS[name].backward else y

    result = op(name, forward, tries=3000 if OPS[name].backward is None else 60)
    assert not result
    assert (result.what, result.hint) == ("y", MISTAKES[ALIKE.get(mistake, mistake)].sentence)


@pytest.mark.parametrize(("name", "mistake"), BACKWARDS)
def test_a_wrong_backward_of_the_list_is_found_and_named(name, mistake):
    result = op(name, backward=OPS[name].like_backward(MISTAKES[mistake].function))
    assert not result
    assert result.what.startswith("d")
    assert result.hint == MISTAKES[mistake].sentence


@pytest.mark.parametrize("name", [name for name in OPS if OPS[name].backward])
def test_every_gradient_of_every_op_is_compared(name):
    """One gradient after the other is made wrong by one part in ten thousand."""
    entry = OPS[name]
    for i, gradient in enumerate(entry.gradients):
        if (name, gradient) == ("linear_stem", "params"):
            continue  # it has none

        def wrong(dy, cache, i=i):
            gradients = entry.backward(dy, cache)
            gradients = list(gradients) if isinstance(gradients, tuple) else [gradients]
            gradients[i] = scaled(gradients[i], 1 + 1e-4)
            return tuple(gradients)

        result = op(name, backward=wrong, tries=20)
        assert not result, gradient
        assert result.what.split("/")[0] == f"d{gradient}"


def scaled(gradient, factor):
    return {k: scaled(v, factor) for k, v in gradient.items()} if isinstance(gradient, dict) else gradient * factor


@pytest.mark.parametrize("name", OPS)
def test_a_wrong_forward_of_any_op_is_rejected(name):
    entry = OPS[name]

    def wrong(*inputs):
        y, cache = entry.forward(*inputs) if entry.backward else (entry.forward(*inputs), None)
        y = getattr(y, "score", y)
        y = np.asarray(y) * (1 + 1e-5) if np.asarray(y).dtype.kind == "f" else np.asarray(y) + 1
        return (y, cache) if entry.backward else y

    result = op(name, wrong, tries=20)
    assert result.what == "y"


def test_shrinks_to_numbers_one_can_work_with():
    result = op(
        "layer_norm", lambda x, gamma, beta: (gamma * x / np.sqrt((x * x).mean(-1, keepdims=True)) + beta, None)
    )
    assert result.sizes == {"B": 1, "N": 1, "D": 2}
    for value in result.inputs.values():
        assert set(np.asarray(value).ravel()) <= {-1.0, 0.0, 1.0, 0.1}
    assert "smallest failing input found: B = 1, N = 1, D = 2" in str(result)
    assert "y expected" in str(result)


def test_finds_a_fault_that_only_large_numbers_show():
    def naive(x):
        y = np.exp(x) / np.exp(x).sum(-1, keepdims=True)
        return y, y

    result = op("softmax", naive, softmax_backward)
    assert result.sizes["values"] == "large"
    assert "not finite" in result.problem
    assert op("softmax", naive, softmax_backward, values="normal")


def test_finds_a_fault_that_only_ties_show():
    def to_all(dy, cache):
        return MISTAKES["max-pool's gradient to all maxima"].function(dy, cache)

    assert op("max_pool", backward=to_all, values="normal")
    assert not op("max_pool", max_pool, to_all)


def test_the_users_cache_is_the_users_own():
    def forward(x, kernel, bias):
        return linear(x, kernel, bias)[0], {"mine": (x, kernel)}

    def backward(dy, cache):
        return linear_backward(dy, cache["mine"])

    assert op("linear", forward, backward)
    assert "raised" in op("linear", backward=backward).problem  # the reference's cache is another


def test_says_what_a_function_raised_or_returned():
    assert op("linear", lambda *a: 1 / 0).problem == "the forward raised ZeroDivisionError: division by zero"
    alone = op("linear", lambda x, w, b: x @ w + b)
    assert "must return the pair (y, cache), not an array of shape (1, 1, 1)" in alone.problem
    assert "y has shape" in op("linear", lambda x, w, b: (x, None)).problem
    assert "returns 1 gradient; it must return dx, dkernel, dbias" in op("linear", backward=lambda dy, c: dy).problem
    assert "no dparams/kernel" in op("head", backward=lambda dy, c: (OPS["head"].backward(dy, c)[0], {})).problem


def test_an_op_must_not_write_into_its_arguments():
    def in_place(x):
        x -= x.max(-1, keepdims=True)
        return softmax(x)

    result = op("softmax", in_place)
    assert "the forward writes into its arguments (output array is read-only); make a copy first" in result.problem


def test_float32_must_stay_float32():
    def gelu(x):
        return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))), x

    assert op("gelu_tanh", gelu)
    result = op("gelu_tanh", gelu, dtype="float32")
    assert "float64 though the inputs are float32" in result.problem
    assert "math.sqrt" in result.hint


PATTERNS = {
    "the sign is turned everywhere": ("linear", lambda g: (-g[0], *g[1:])),
    "it is 2 times what it should be, everywhere": ("linear", lambda g: (2 * g[0], *g[1:])),
    "it is zero everywhere": ("linear", lambda g: (0 * g[0], *g[1:])),
    "it is transposed": ("linear", lambda g: (g[0], g[1].T, g[2])),
    "it equals dbeta: a mix-up": ("layer_norm", lambda g: (g[0], g[2], g[2])),
    "axis 0 is in reverse order": ("linear", lambda g: (g[0][::-1], *g[1:])),
}


@pytest.mark.parametrize("hint", PATTERNS)
def test_patterns_are_named(hint):
    name, change = PATTERNS[hint]
    assert op(name, backward=lambda dy, cache: change(OPS[name].backward(dy, cache))).hint == hint


def test_only_some_places_wrong():
    def forward(x, gamma, beta):
        y = layer_norm(x, gamma, beta)[0].copy()
        y[:, -1] += 1
        return y, None

    assert op("layer_norm", forward, B=2, N=3, D=5).hint == "only indices [2] of axis 1 (of 3) have wrong values"


def test_raises_when_asked_to():
    with pytest.raises(OpError, match="it is zero everywhere"):
        op("relu", backward=lambda dy, cache: 0 * dy, check=True)
    assert op("relu", backward=OPS["relu"].backward, check=True)


def test_finds_the_same_every_time():
    texts = {str(op("softmax", backward=lambda dy, y: y * dy)) for _ in range(2)}
    assert len(texts) == 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: op("sotfmax", softmax), "no op is called 'sotfmax'; choose one of attention"),
        (lambda: op("softmax"), "needs a forward, a backward or both"),
        (lambda: op("hash_index", backward=abs), "hash_index has no backward"),
        (lambda: op("softmax", softmax, stride=2), "no size or option called 'stride'; it has B, H, N, values"),
        (lambda: op("softmax", softmax, dtype="float16"), "choose 'float64' or 'float32'"),
    ],
)
def test_bad_use_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_wrong_integers_are_shown():
    def exact(n, G):
        return np.minimum(np.arange(n) * G // n, G - 1)

    result = op("hash_axis", exact, tries=400)
    assert not result
    assert result.sizes["n"] > 1
    assert math.prod(result.expected.shape) == result.sizes["n"]


def test_rounding_in_a_gradient_that_is_zero_in_exact_arithmetic_is_no_mistake():
    """The key's bias moves all logits of a row alike, so softmax gives it no gradient but rounding."""
    rng = np.random.default_rng(0)

    def rounded(dy, cache):
        dz, dparams = OPS["attention"].backward(dy, cache)
        noise = 1e-12 * np.abs(dz).max() * rng.standard_normal(dparams["key"]["bias"].shape)
        return dz, {**dparams, "key": {**dparams["key"], "bias": dparams["key"]["bias"] + noise}}

    assert op("attention", backward=rounded)
