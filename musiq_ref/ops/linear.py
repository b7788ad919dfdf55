"""y = x·W + b, the projection used by the patch embedding, the attention, the MLP and the head."""

from __future__ import annotations

from musiq_ref.backend import namespace, op


@op
def linear(x, kernel, bias):
    r"""y = x·W + b                                                          (Eq. 6 and 9, the MLP of Eq. 4)

    x: (..., I)
    kernel W: (I, O)
    bias b: (O,)
    y: (..., O)
    """
    rows = x.reshape(-1, x.shape[-1])  # (R, I): one large product instead of many small ones
    y = rows @ kernel + bias  # (R, O)
    return y.reshape(*x.shape[:-1], kernel.shape[-1]), (x, kernel)


@op
def linear_backward(dy, cache):
    r"""dx = dy·Wᵀ;  dW = Σ xᵀ·dy;  db = Σ dy, sums over all rows"""
    x, kernel = cache
    xp = namespace(dy)
    rows, drows = x.reshape(-1, x.shape[-1]), dy.reshape(-1, dy.shape[-1])  # (R, I), (R, O)
    dx = drows @ kernel.T  # (R, I)
    return dx.reshape(x.shape), rows.T @ drows, xp.sum(drows, axis=0)
