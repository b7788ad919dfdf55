"""What is wrong with an array whose values are right, but at other places."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np

from musiq_ref.verify.mistakes.pointwise import Look


def elsewhere(look: Look) -> Iterator[str]:
    """The same values at other places."""
    x, y, axes = look.expected, look.actual, look.axes
    for order in itertools.permutations(range(y.ndim)) if 1 < y.ndim < 6 else ():
        moved = [k for k, o in enumerate(order) if k != o]
        if moved and x.transpose(order).shape == y.shape and y.size > max(y.shape) and look.fits(x.transpose(order)):
            names = [str(k) if axes[k] == f"axis {k}" else axes[k] for k in moved]
            yield f"axes {', '.join(names[:-1])} and {names[-1]} are exchanged"
            return
    long = [axis for axis, n in enumerate(y.shape) if n > 1]
    for turned in (over for count in (1, 2, 3) for over in itertools.combinations(long, count)):
        if look.fits(np.flip(x, turned)):
            yield f"{' and '.join(axes[axis] for axis in turned)} {'are' if turned[1:] else 'is'} in reverse order"
            return
    for axis, n in enumerate(y.shape):
        for by in (1, -1, 2, -2):
            kept = (slice(None),) * axis + (slice(max(by, 0), n + min(by, 0)),)
            inner = Look(x[kept], y[kept], (), look.tolerance)
            if n > 3 and inner.fits(np.roll(x, by, axis)[kept]):
                yield f"it is shifted by {by} along {axes[axis]}"
                return
    for axis, n in enumerate(y.shape):
        if 1 < n <= 512:
            flat_x, flat_y = (np.moveaxis(a, axis, 0).reshape(n, -1)[:, :4096] for a in (x, y))
            gaps = (flat_x**2).sum(1)[None] + (flat_y**2).sum(1)[:, None] - 2 * flat_y @ flat_x.T
            order = gaps.argmin(axis=1)
            if flat_x.shape[1] > 1 and (order != np.arange(n)).any() and look.fits(np.take(x, order, axis)):
                shown = f" ({', '.join(map(str, order[:12]))}{', …' if n > 12 else ''})"
                yield f"{axes[axis]} is in another order{shown}: a permutation, or another index"
                return
    ordered = Look(np.sort(x, None), np.sort(y, None), (), look.tolerance)
    if y.size > 8 and ordered.off <= look.tolerance * np.linalg.norm(y) and ordered.off < 0.05 * look.off:
        yield "it has the right values at other places: an order, a reshape or a transposition"
