"""Short reprs for what holds arrays: shapes and counts instead of numbers, as text and as a table in Jupyter."""

from __future__ import annotations

import html
import math
import os
from collections.abc import Iterator
from typing import Any

from musiq_ref.backend import on_host
from musiq_ref.config import MusiqConfig

LONGEST = 400  # characters of a value that none of the rules of `described` is for, and of each end of a line


def short_text(record: Any) -> str:
    """The repr of a NamedTuple: its fields, each as `described` puts it.

    >>> from musiq_ref import init_params, Gradients
    >>> short_text(Gradients(init_params(MusiqConfig.preset("tiny")), None))
    'Gradients(params=914,081 float32 values in 56 arrays, patches=None)'
    """
    fields = ", ".join(f"{name}={described(value)}" for name, value in record._asdict().items())
    return f"{type(record).__name__}({fields})"


def short_table(record: Any) -> str:
    """The same as an HTML table, escaped, which Jupyter shows.

    >>> from musiq_ref import Score
    >>> short_table(Score(3.5, None, "a<b>.png", 48, 64))
    '<table><caption>Score</caption><tr><th>value</th><td>3.5</td></tr>...a&lt;b&gt;.png...</table>'
    """
    rows = "".join(
        f"<tr><th>{html.escape(name)}</th><td>{html.escape(described(value))}</td></tr>"
        for name, value in record._asdict().items()
    )
    return f"<table><caption>{html.escape(type(record).__name__)}</caption>{rows}</table>"


def described(value: Any) -> str:
    """An array by its dtype and shape, a nested dict of arrays by their number, a configuration by its size.

    >>> import numpy as np
    >>> described(np.array([True, False])), described({"head": {"bias": np.zeros(3)}})
    ('bool (2,), 1 True', '3 float64 values in 1 array')
    """
    if isinstance(value, dict):
        return _described_params(value)
    if isinstance(value, MusiqConfig):
        sizes = ", ".join(f"{name}={getattr(value, name)}" for name in ("layers", "width", "heads", "outputs"))
        return f"MusiqConfig({sizes}, …)"
    if getattr(value, "ndim", 0) and hasattr(value, "dtype"):
        valid = f", {int(value.sum())} True" if on_host(value) and value.dtype == bool else ""
        return f"{value.dtype} {tuple(value.shape)}{valid}"
    if isinstance(value, os.PathLike):
        return repr(os.fspath(value))
    text = repr(value)
    return text if isinstance(value, str) or len(text) <= LONGEST else f"{text[:LONGEST]}…"


def shown(text: str) -> str:
    """One line that can be printed: line ends, and bytes of a file's name that are no UTF-8, as escapes; not too long.

    >>> shown("a\\nb\\udcff.png")
    'a\\\\nb\\\\udcff.png'
    """
    escaped = (c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    line = text if text.isprintable() else "".join(escaped)
    return line if len(line) <= 2 * LONGEST else f"{line[:LONGEST]} … {line[-LONGEST:]}"


def _described_params(params: dict) -> str:
    arrays = [array for array in _leaves(params) if hasattr(array, "dtype")]
    values = sum(math.prod(array.shape) for array in arrays)
    dtypes = " and ".join(sorted({str(array.dtype) for array in arrays}))
    return f"{values:,} {dtypes} values in {len(arrays)} array{'' if len(arrays) == 1 else 's'}".replace("  ", " ")


def _leaves(params: dict) -> Iterator[Any]:
    for value in params.values():
        yield from _leaves(value) if isinstance(value, dict) else [value]
