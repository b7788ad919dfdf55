"""What a student's function can return instead of what it should: each gets a sentence of its own, in both checks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from musiq_ref.verify import GradientError, check_vjp, op
from musiq_ref.verify.check.catalogue import catalogue

SHAPES = ((2, 3, 4), (4, 5), (5,))  # of x, kernel, bias
LINEAR = catalogue()["linear"]


def linear(x, kernel, bias):
    return x @ kernel + bias, (x, kernel)


def linear_backward(dy, cache):
    x, kernel = cache
    return dy @ kernel.T, np.einsum("bni,bno->io", x, dy), dy.sum(axis=(0, 1))


def kept(i, f):
    """The backward with its i-th gradient passed through f."""

    def backward(dy, cache):
        gradients = list(linear_backward(dy, cache))
        gradients[i] = f(gradients[i])
        return tuple(gradients)

    return backward


def writes_x(x, kernel, bias):
    x *= 2
    return linear(x, kernel, bias)


def writes_dy(dy, cache):
    dy += 1
    return linear_backward(dy, cache)


def right(f):
    """The forward with what it returns passed through f."""
    return lambda x, kernel, bias: f(*linear(x, kernel, bias))


FORWARDS = {  # {what is wrong: (forward, sentence)}
    "no return": (lambda x, kernel, bias: None, "the forward returns nothing; is `return y, cache` missing?"),
    "y alone": (right(lambda y, c: y), "must return the pair (y, cache), not an array of shape ("),
    "three things": (right(lambda y, c: (y, *c)), "must return the pair (y, cache), not a tuple of 3"),
    "a list of two": (right(lambda y, c: [y, c]), "must return the pair (y, cache), not a list"),
    "wrong order": (right(lambda y, c: (c, y)), "must be y, an array; it is a tuple of 2; the order is (y, cache)"),
    "y is None": (
        right(lambda y, c: (None, c)),
        "the first thing that the forward returns must be y, an array; it is None",
    ),
    "y is a list": (right(lambda y, c: (y.tolist(), c)), "y is a list, not an array; use np.array"),
    "y is text": (right(lambda y, c: (str(y), c)), "y is a str, not an array"),
    "y is complex": (right(lambda y, c: (y + 0j, c)), "y is not an array of real numbers but of complex128"),
    "y is a generator": (right(lambda y, c: ((v for v in y), c)), "y is a generator, not an array"),
    "writes into x": (writes_x, "the forward writes into its arguments"),
    "too few arguments": (lambda x: x, "the forward takes (x); it must take 3 arguments"),
    "not a function": (linear(*map(np.ones, SHAPES)), "the forward is a tuple of 2, not a function"),
    "cut off": (right(lambda y, c: (y.astype(int), c)), "y is "),
    "not finite": (right(lambda y, c: (y / 0, c)), "finite"),
}
BACKWARDS = {
    "no return": (lambda dy, c: None, "the backward returns nothing; is `return dx, dkernel, dbias` missing?"),
    "one gradient": (lambda dy, c: linear_backward(dy, c)[0], "returns 1 gradient; it must return dx, dkernel, dbias"),
    "four": (lambda dy, c: (*linear_backward(dy, c), 1), "returns 4 gradients; it must return dx, dkernel, dbias"),
    "a list": (lambda dy, c: list(linear_backward(dy, c)), "returns a list; it must be a tuple: return dx, dkernel"),
    "wrong order": (
        lambda dy, c: linear_backward(dy, c)[::-1],
        "are the gradients in the order of the arguments?",
    ),
    "None for one": (kept(1, lambda g: None), "dkernel is missing: None was returned in its place"),
    "a list for one": (kept(1, np.ndarray.tolist), "dkernel is a list, not an array; use np.array"),
    "transposed": (kept(1, np.transpose), "as kernel is: it is transposed"),
    "not summed": (kept(2, lambda g: np.ones((2, *g.shape))), "dbias has shape (2, "),
    "a dict": (kept(1, lambda g: {"kernel": g}), "dkernel"),
    "text": (kept(0, str), "dx is a str, not an array"),
    "cut off": (kept(1, lambda g: g.astype(int)), "(it is an array of int64: are its values cut off?)"),
    "not finite": (kept(2, lambda g: g * np.nan), "dbias is "),
    "writes into dy": (writes_dy, "the backward writes into its arguments"),
    "no cache": (lambda dy: dy, "the backward takes (dy); it must take 2 arguments, (dy, cache)"),
}


def said_by_check_vjp(forward, backward):
    rng = np.random.default_rng(0)
    with np.errstate(all="ignore"), pytest.raises(GradientError) as raised:
        check_vjp(forward, backward, [rng.standard_normal(shape) for shape in SHAPES])
    return str(raised.value)


@pytest.mark.parametrize("what", FORWARDS)
def test_a_malformed_forward_is_told(what):
    forward, sentence = FORWARDS[what]
    assert sentence in said_by_check_vjp(forward, linear_backward)
    assert sentence in op("linear", forward).problem


@pytest.mark.parametrize("what", BACKWARDS)
def test_a_malformed_backward_is_told(what):
    backward, sentence = BACKWARDS[what]
    assert sentence in said_by_check_vjp(linear, backward)
    if what != "no cache":  # the library's own is given
        assert sentence in op("linear", linear, backward).problem
    assert sentence in op("linear", backward=backward).problem


def test_a_forgotten_cache_is_told():
    sentence = "the cache that the forward returned is None"
    empty = right(lambda y, c: (y, None))
    assert sentence in said_by_check_vjp(empty, linear_backward)
    assert sentence in op("linear", empty, linear_backward).problem


def test_an_output_of_two_rows_is_not_taken_for_a_pair():
    """Unpacked, an array of two rows would pass as (y, cache)."""
    with pytest.raises(GradientError, match=r"not an array of shape \(2, 3\)"):
        check_vjp(lambda x: 2 * x, lambda dy, c: 2 * dy, [np.ones((2, 3))])


def test_a_cache_in_the_place_of_the_output_is_told():
    result = op("gelu_tanh", lambda x: (x, catalogue()["gelu_tanh"].forward(x)[0]))
    assert result.problem == "the forward returns (cache, y); the order is (y, cache)"


def product(q, k):
    """Two inputs of one shape, so that only numbers can tell which gradient is which."""
    return q * k**2, (q, k)


def product_backward(dy, cache):
    q, k = cache
    return dy * k**2, dy * 2 * q * k


def said_of_product(backward):
    rng = np.random.default_rng(1)
    with pytest.raises(GradientError) as raised:
        check_vjp(product, backward, [rng.standard_normal((2, 3)) for _ in range(2)])
    return str(raised.value)


def test_the_wrong_gradient_is_named_with_its_worst_entry():
    def one_entry(dy, cache):
        dq, dk = product_backward(dy, cache)
        dk[1, 2] += 0.25
        return dq, dk

    said = said_of_product(one_entry)
    assert said.startswith("dk is wrong: along a random direction")
    assert "; right: dq. Most wrong is dk[1, 2]: it is " in said
    got, wanted = (float(said.split(f" {before} ")[-1].split()[0].rstrip(".")) for before in ("it is", "must be"))
    assert got - wanted == pytest.approx(0.25, abs=1e-4)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda dq, dk: (dq, dk / 2), "Hint: it is 0.5 times what it should be, everywhere"),
        (lambda dq, dk: (-dq, dk), "Hint: the sign is turned everywhere"),
        (lambda dq, dk: (dk, dq), "dq is wrong"),
        (lambda dq, dk: (dk, dq), "wrong, too: dk"),
        (lambda dq, dk: (dk, dq), "Hint: it equals dk: a mix-up"),
        (lambda dq, dk: (dq, 0 * dk), "Hint: it is zero everywhere"),
    ],
)
def test_what_is_wrong_with_it_is_told(change, says):
    assert says in said_of_product(lambda dy, cache: change(*product_backward(dy, cache)))


def test_parameters_are_named_by_their_path():
    def forward(x, params):
        return x * params["norm"]["scale"], (x, params["norm"]["scale"])

    inputs = [np.ones(3), {"norm": {"scale": np.array([1.0, 2.0, 3.0])}}]
    right = lambda dy, c: (dy * c[1], {"norm": {"scale": dy * c[0]}})  # noqa: E731
    assert check_vjp(forward, right, inputs) < 1e-6
    for wrong, says in (
        (lambda dy, c: (dy * c[1], {"norm": {"scale": 2 * dy}}), "^dparams/norm/scale is wrong"),
        (lambda dy, c: (dy * c[1], {"norm": {}}), "^dparams/norm/scale is missing"),
        (lambda dy, c: (dy * c[1], dy), r"^dparams is an array of shape \(3,\), not a dict like params"),
    ):
        with pytest.raises(GradientError, match=says):
            check_vjp(forward, wrong, inputs)


def test_inputs_without_a_name_are_counted():
    with pytest.raises(GradientError, match=r"^d\(input 1\) is wrong"):
        check_vjp(lambda *x: (x[0] * x[1], x), lambda dy, x: (dy * x[1], dy), [np.full(2, 3.0), np.full(2, 5.0)])


def test_a_forward_that_draws_anew_is_told():
    rng = np.random.default_rng(0)
    with pytest.raises(GradientError, match="another result when it is called again"):
        check_vjp(lambda x: (x * (rng.random(x.shape) < 0.5), None), lambda dy, c: dy, [np.ones(7)])


def test_what_cannot_be_checked_is_refused():
    with pytest.raises(ValueError, match="needs float64"):
        check_vjp(linear, linear_backward, [np.ones(shape, "f4") for shape in SHAPES])
    with pytest.raises(ValueError, match=r"must be a list of arrays, such as \[x\]"):
        check_vjp(lambda x: (x, None), lambda dy, c: dy, np.ones((3, 2)))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no gradient to check"):
        check_vjp(lambda i: (i / 2, None), lambda dy, c: dy, [np.arange(3)])
    with pytest.raises(GradientError, match="y is float32 though the inputs are float64"):
        check_vjp(lambda x: (x.astype("f4"), None), lambda dy, c: dy, [np.ones(3)])
    with pytest.raises(GradientError, match="y is an array of int64; what is cut off"):
        check_vjp(lambda x: (x.astype(int), None), lambda dy, c: dy, [np.ones(3)])


def test_a_function_that_takes_the_wrong_number_or_stops_keeps_its_own_error():
    with pytest.raises(ZeroDivisionError):
        check_vjp(linear, lambda dy, c: 1 / 0, [np.ones(shape) for shape in SHAPES])


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"rtol": 0}, "rtol is 0; it must be a number above 0 and below 1"),
        ({"rtol": np.inf}, "rtol is inf; it must be"),
        ({"rtol": 1.0}, "rtol is 1.0; it must be"),
        ({"step": 0.0}, "step is 0.0; it must be"),
        ({"step": "small"}, "step is 'small'; it must be"),
        ({"seed": -1}, "seed is -1; it must be a whole number of at least 0"),
    ],
)
def test_no_setting_makes_a_gradient_check_vacuous(change, sentence):
    inputs = [np.ones(shape) for shape in SHAPES]
    with pytest.raises(ValueError, match=sentence):
        check_vjp(linear, kept(0, lambda dx: 0 * dx), inputs, **change)


@pytest.mark.parametrize(
    ("inputs", "sentence"),
    [(3, "a list of arrays, such as .x., and not"), ([np.zeros((0, 3))], r"input 0 has shape \(0, 3\), so no values")],
)
def test_inputs_that_hold_nothing_to_check(inputs, sentence):
    with pytest.raises(ValueError, match=sentence):
        check_vjp(lambda x: (x, None), lambda dy, cache: dy, inputs)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"tries": 0}, "tries is 0; it must be a whole number of at least 1"),
        ({"tries": "many"}, "tries is 'many'; it must be"),
        ({"rtol": np.inf}, "rtol is inf; it must be"),
        ({"seed": -1}, "seed is -1; it must be"),
        ({next(iter(LINEAR.axes)): 0}, "is 0; it must be a whole number of at least 1"),
        ({next(iter(LINEAR.axes)): 1.5}, "is 1.5; it must be"),
    ],
)
def test_no_setting_makes_the_search_vacuous(change, sentence):
    with pytest.raises(ValueError, match=sentence):
        op("linear", linear, kept(0, lambda dx: 0 * dx), **change)


def test_a_forward_that_returns_something_else_later():
    returned: Any = iter([(np.ones(3), None), None])
    with pytest.raises(GradientError, match="with inputs moved by 1e-06: the forward returns nothing"):
        check_vjp(lambda x: next(returned), lambda dy, cache: dy, [np.ones(3)])


def test_a_name_of_another_type_is_no_op():
    with pytest.raises(ValueError, match=r"no op is called \['softmax'\]; choose one of attention"):
        op(["softmax"], linear)  # pyright: ignore[reportArgumentType]
