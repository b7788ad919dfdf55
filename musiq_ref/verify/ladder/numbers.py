"""Which arrays hold numbers that can be compared, and why others do not."""

from __future__ import annotations

from typing import Any

import numpy as np

from musiq_ref.checkpoint.bfloat16 import widen
from musiq_ref.verify.ladder.fixture import Stage

REFUSED = {
    "c": "MUSIQ has no complex numbers; give the real part, as float32",
    "U": "text; write the numbers themselves, as float32",
    "S": "text; write the numbers themselves, as float32",
    "O": "Python objects, of lists of unequal lengths perhaps; give one array of numbers",
    "M": "dates; give float32",
    "m": "time spans; give float32",
}
"""{kind of NumPy's data types: what it is, and what to give instead}"""


def as_numbers(stage: Stage, mine: Any) -> np.ndarray:
    """My array, if it holds numbers: integers, floats of any width, bfloat16 (NumPy saves it as values of two bytes).

    Raises ValueError, which says why, for anything else.
    """
    try:
        array = np.asarray(mine)
    except (ValueError, TypeError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{stage.name} is no array ({reason}); give one of shape {stage.shape}") from None
    if array.dtype.kind == "V" and array.dtype.itemsize == 2 and array.dtype.names is None:
        return widen(array.view(np.uint16))
    if array.dtype.kind not in "fiub":
        why = REFUSED.get(array.dtype.kind, "no numbers that NumPy knows; convert them to float32")
        raise ValueError(f"{stage.name} is an array of {array.dtype}: {why}")
    if array.dtype == np.uint16 and stage.array.dtype.kind == "f":
        raise ValueError(f"{stage.name} is an array of uint16; if they are bfloat16, convert them to float32")
    return array
