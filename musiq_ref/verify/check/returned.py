"""What somebody's forward and backward returned, in the form that a check needs, or one sentence on what is wrong."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np


class MalformedError(Exception):
    """A function cannot be checked; the message is the sentence that says why.

    what: the result that is concerned: "y", "dx", "forward", …
    kind: what kind of trouble

    >>> str(MalformedError("y", "shape", "y has shape (2,)"))
    'y has shape (2,)'
    """

    def __init__(self, what: str, kind: str, sentence: str) -> None:
        super().__init__(sentence)
        self.what, self.kind = what, kind


def require_positive(name: str, value: Any, below: float = math.inf) -> None:
    """ValueError for what is no number above 0 and below a bound.

    >>> require_positive("rtol", 0, 1)
    Traceback (most recent call last):
    ValueError: rtol is 0; it must be a number above 0 and below 1
    """
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not 0 < value < below:
        raise ValueError(f"{name} is {value!r}; it must be a number above 0 and below {below:g}")


def require_whole(name: str, value: Any, least: int) -> None:
    """ValueError for what is no whole number of at least `least`.

    >>> require_whole("tries", 0, 1)
    Traceback (most recent call last):
    ValueError: tries is 0; it must be a whole number of at least 1
    """
    if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name} is {value!r}; it must be a whole number of at least {least}")


def call(what: str, f: Callable[..., Any], *args: Any) -> Any:
    """f(*args); MalformedError if it is no function, takes other arguments or writes into them.

    >>> call("backward", lambda dy: dy, 1, 2)
    Traceback (most recent call last):
    musiq_ref.verify.check.returned.MalformedError: the backward takes (dy); it must take 2 arguments, (dy, cache)
    """
    if not callable(f):
        raise MalformedError(
            what, "raised", f"the {what} is {kind(f)}, not a function; give its name, without parentheses"
        )
    try:
        signature = inspect.signature(f)
    except (TypeError, ValueError):  # written in C
        signature = None
    if signature:
        try:
            signature.bind(*args)
        except TypeError:
            wanted = f"{len(args)} argument{'s' * (len(args) != 1)}" + ", (dy, cache)" * (what == "backward")
            sentence = f"the {what} takes {signature}; it must take {wanted}"
            raise MalformedError(what, "raised", sentence) from None
    try:
        return f(*args)
    except ValueError as error:
        if "read-only" not in str(error):
            raise
        sentence = f"the {what} writes into its arguments ({error}); make a copy first"
        raise MalformedError(what, "raised", sentence) from error
    except TypeError as error:
        if what != "backward" or args[1] is not None or "NoneType" not in str(error):
            raise
        sentence = f"the backward raised TypeError: {error}; the cache that the forward returned is None"
        raise MalformedError(what, "raised", sentence) from error


def pair(given: Any) -> tuple[Any, Any]:
    """(y, cache) as a forward returned them.

    >>> pair(None)
    Traceback (most recent call last):
    musiq_ref.verify.check.returned.MalformedError: the forward returns nothing; is `return y, cache` missing?
    """
    if given is None:
        raise MalformedError("y", "pair", "the forward returns nothing; is `return y, cache` missing?")
    if not (isinstance(given, tuple) and len(given) == 2):
        sentence = f"the forward must return the pair (y, cache), not {kind(given)}"
        raise MalformedError("y", "pair", sentence)
    y, cache = given
    if isinstance(y, tuple | dict | None) and not hasattr(y, "score"):
        sentence = f"the first thing that the forward returns must be y, an array; it is {kind(y)}"
        raise MalformedError("y", "pair", sentence + "; the order is (y, cache)" * (y is not None))
    return y, cache


def gradients_of(given: Any, names: Sequence[str], least: int | None = None) -> tuple[Any, ...]:
    """The gradients that a backward returned: one for each name, or for as many of them as it must.

    names: "dx", "dkernel", …
    least: how many there must be; by default all

    >>> gradients_of([1, 2], ["dx", "dkernel"])
    Traceback (most recent call last):
    musiq_ref.verify.check.returned.MalformedError: the backward returns a list; it must be a tuple: return dx, dkernel
    """
    least = len(names) if least is None else least
    wanted = ", ".join(names[:least])
    if given is None:
        raise MalformedError("gradients", "count", f"the backward returns nothing; is `return {wanted}` missing?")
    if isinstance(given, list) and least > 1:
        raise MalformedError("gradients", "count", f"the backward returns a list; it must be a tuple: return {wanted}")
    found = given if isinstance(given, tuple) else (given,)
    if not least <= len(found) <= len(names):
        number = f"{len(found)} gradient{'s' * (len(found) != 1)}"
        raise MalformedError("gradients", "count", f"the backward returns {number}; it must return {wanted}")
    return found


def array(what: str, value: Any) -> np.ndarray:
    """A result as an array of numbers.

    >>> array("dx", [1.0, 2.0])
    Traceback (most recent call last):
    musiq_ref.verify.check.returned.MalformedError: dx is a list, not an array; use np.array
    """
    if isinstance(value, list):
        raise MalformedError(what, "kind", f"{what} is a list, not an array; use np.array")
    if value is None:
        raise MalformedError(what, "missing", f"{what} is missing: None was returned in its place")
    if isinstance(value, tuple | dict | str):
        raise MalformedError(what, "kind", f"{what} is {kind(value)}, not an array")
    numbers = np.asarray(value)
    if numbers.dtype.kind not in "fiub":
        of = kind(value) if numbers.dtype == object and not isinstance(value, np.ndarray) else ""
        sentence = f"{what} is {of or f'not an array of real numbers but of {numbers.dtype}'}"
        raise MalformedError(what, "kind", sentence + ", not an array" * bool(of))
    return numbers


def wrong_shape(what: str, shape: tuple[int, ...], wanted: tuple[int, ...], others: dict[str, tuple[int, ...]]) -> str:
    """The sentence on a shape that is not the wanted one.

    others: {what: shape} of the other gradients, with which it may have been exchanged

    >>> wrong_shape("dk", (4, 3), (3, 4), {})
    'dk has shape (4, 3); it must be (3, 4), as k is: it is transposed'
    """
    like = f", as {what.removeprefix('d')} is" if what.startswith("d") else ""
    sentence = f"{what} has shape {shape}; it must be {wanted}{like}"
    if same := [name for name, other in others.items() if other == shape]:
        return f"{sentence}: {same[0]} has this shape; are the gradients in the order of the arguments?"
    return sentence + ": it is transposed" * (shape == wanted[::-1] and len(shape) == 2)


def whole(numbers: np.ndarray) -> str:
    """A remark on an array of whole numbers, which a wrong result may be because of it."""
    return f" (it is an array of {numbers.dtype}: are its values cut off?)" if numbers.dtype.kind in "iub" else ""


def kind(x: Any) -> str:
    """What something is, for a sentence.

    >>> kind((1, 2)), kind(np.ones(3)), kind(None)
    ('a tuple of 2', 'an array of shape (3,)', 'None')
    """
    if x is None:
        return "None"
    if isinstance(x, tuple):
        return f"a tuple of {len(x)}"
    if isinstance(x, np.ndarray):
        return f"an array of shape {x.shape}"
    name = type(x).__name__
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"
