"""bfloat16, which NumPy does not have: the upper half of a float32's bits."""

from __future__ import annotations

import numpy as np


def widen(bits: np.ndarray) -> np.ndarray:
    """The float32 values of bfloat16 bit patterns (uint16), exactly.

    >>> widen(np.array([0x3F80, 0xC040], dtype=np.uint16))
    array([ 1., -3.], dtype=float32)
    """
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)
