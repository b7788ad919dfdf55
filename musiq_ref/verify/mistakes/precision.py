"""Numbers kept in a coarser format than float32."""

from __future__ import annotations

import numpy as np

from musiq_ref.verify.ladder.precision import round_to
from musiq_ref.verify.mistakes.mistake import Mistake, family
from musiq_ref.verify.mistakes.pointwise import coarse
from musiq_ref.verify.mistakes.weights import everywhere


def kept_in(fmt):
    """A tap that keeps every stage in a coarser format."""
    return lambda name, array, seen, config: (
        round_to(array, fmt.lower()).astype(array.dtype) if array.dtype.kind == "f" else array
    )


def looks_kept_in(fmt):
    """Whether all numbers are of a format, and near the right ones, which are not of it."""
    formats = (fmt, "float16", "bfloat16") if fmt == "TF32" else (fmt,)  # whose numbers are TF32's, too

    def looks(reference, mine):
        far = np.abs(mine - reference).max(initial=0) > 0.1 * np.abs(reference).max(initial=0)
        return bool(not far and coarse(mine) in formats and not coarse(reference))

    return looks


MISTAKES = [
    *family("parameters rounded to {}", "keep the parameters in float32", ("float16", "bfloat16", "tf32", "int8"),
            stage="*", load=lambda fmt: everywhere(
                "*kernel" if fmt == "int8" else "*", lambda a: round_to(a, fmt).astype(a.dtype))),
    *[Mistake(f"kept in {fmt}", "compute in float32", stage="*", tap=kept_in(fmt), recognise=looks_kept_in(fmt))
      for fmt in ("bfloat16", "float16", "TF32")],
]  # fmt: skip
