"""How all figures of the library and the course look: colours that the colour-blind can tell apart, legible text."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

from musiq_ref.extras import needs

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000")  # Okabe and Ito, 2008
SEQUENTIAL = "cividis"  # from little to much
OVERLAY = "magma"  # from little to much, over a grey photograph
DIVERGING = "PuOr"  # from negative over zero to positive

STYLE: Any = {
    "axes.prop_cycle": f"cycler('color', {list(COLOURS)})",
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 10,
    "figure.constrained_layout.use": True,
    "figure.dpi": 90,
    "font.size": 10,
    "image.cmap": SEQUENTIAL,
    "image.interpolation": "nearest",
    "savefig.dpi": 90,
}
"""Settings for `matplotlib.pyplot.rcParams.update` or `matplotlib.rc_context`."""

Draw = TypeVar("Draw", bound=Callable[..., Any])


def styled(draw: Draw) -> Draw:
    """The same drawing function, in this style; ImportError, saying what to install, without matplotlib."""

    @functools.wraps(draw)
    def drawn(*args, **kwargs):
        try:
            from matplotlib import rc_context
        except ImportError:
            raise ImportError(f"pictures need matplotlib; install it with: {needs('pictures')}") from None
        with rc_context(STYLE):
            return draw(*args, **kwargs)

    return drawn  # type: ignore[return-value]


def new_figure(width: float, height: float) -> Any:
    """An empty matplotlib Figure, its size in inches.

    >>> new_figure(4, 3).get_size_inches().tolist()
    [4.0, 3.0]
    """
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")
