"""Taps: functions that see, and may replace, every named intermediate of the forward or backward pass.

`tap(name, array) -> array` is called with a path such as "stem/conv_root" or "encoder/block_03/attention/weights".
In the forward the array is the intermediate, in the backward the gradient of the score (or loss) to it. What the tap
returns is used from there on; an observer returns the array it was given.
"""

from __future__ import annotations

from collections.abc import Callable

from musiq_ref.backend import Array

Tap = Callable[[str, Array], Array]


def no_tap(name: str, array: Array) -> Array:
    """The tap that neither looks nor touches."""
    return array


def checked(tap: Tap) -> Tap:
    """The same tap, which must return an array of the shape it was given; ValueError, naming it, if it does not."""

    def checked_tap(name: str, array: Array) -> Array:
        result = tap(name, array)
        if getattr(result, "shape", None) != array.shape:
            raise ValueError(
                f"the tap returned {getattr(result, 'shape', type(result).__name__)} for {name}, which has shape "
                f"{array.shape}; return the array itself, or another of its shape"
            )
        return result

    return checked_tap


def within(tap: Tap, part: str) -> Tap:
    """The tap for a part of the model: names from inside it get the part's name in front."""
    return tap if tap is no_tap else lambda name, array: tap(f"{part}/{name}", array)
