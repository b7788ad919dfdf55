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


def within(tap: Tap, part: str) -> Tap:
    """The tap for a part of the model: names from inside it get the part's name in front."""
    return tap if tap is no_tap else lambda name, array: tap(f"{part}/{name}", array)
