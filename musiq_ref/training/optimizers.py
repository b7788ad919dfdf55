"""Optimisers: functions from (parameters, gradients, state) to new parameters and a new state, as PyTorch defines them.

A state is a nested dict of arrays, like the parameters: {"step": …, "momentum": {…}}. So `flatten` turns it into
{path: array} for a file, and `nest` restores it exactly. No function writes into its arguments.

`groups` changes the settings of some parameters (`training.groups`). A parameter with lr_scale 0 is frozen: it, and
what the state holds for it, are handed on as they are.
"""

from __future__ import annotations

import math

import numpy as np

from musiq_ref.backend import Array, namespace, on_host, op
from musiq_ref.model.parameters import EndToEnd, Params, flatten, map_params, nest
from musiq_ref.training.groups import Groups, Setting, group_settings


def sgd_init(params: Params) -> Params:
    """The state before the first step of `sgd`.

    >>> sgd_init({"head": {"bias": np.ones(2)}})
    {'step': array(0), 'momentum': {'head': {'bias': array([0., 0.])}}}
    """
    return {"step": np.array(0), "momentum": map_params(_zeros, params)}


def sgd(params, grads, state, lr, *, momentum=0.0, nesterov=False, weight_decay=0.0, groups=None):
    r"""g ← g + λ·θ;  m ← μ·m + g;  θ ← θ − η·m, or θ − η·(g + μ·m) with Nesterov's   (torch.optim.SGD; SPEC 7)

    params θ, grads g: the same nested dict of arrays
    lr η, momentum μ, weight_decay λ: numbers
    returns (params, state)

    Raises ValueError for gradients or a state that do not fit the parameters, and for groups that fit none of them.

    >>> params = {"w": np.array([1.0])}
    >>> params, state = sgd(params, {"w": np.array([2.0])}, sgd_init(params), lr=0.1, momentum=0.9)
    >>> params["w"], state["step"]
    (array([0.8]), array(1))
    """

    def update(theta, g, eta, decay, m):
        return sgd_step(theta, g, m, eta, decay, momentum, nesterov)

    return _update(update, params, grads, state, ("momentum",), lr, weight_decay, groups)


@op
def sgd_step(theta, g, m, eta, decay, momentum, nesterov):
    """The equation of `sgd` for one array; returns (θ, m)."""
    g = g + decay * theta
    if not momentum:
        return theta - eta * g, m
    m = momentum * m + g
    return theta - eta * (g + momentum * m if nesterov else m), m


def adam_init(params: Params) -> Params:
    """The state before the first step of `adam` or `adamw`.

    >>> [path for path, _ in flatten(adam_init({"w": np.ones(2)}))]
    ['step', 'mean/w', 'square/w']
    """
    return {"step": np.array(0), "mean": map_params(_zeros, params), "square": map_params(_zeros, params)}


def adam(params, grads, state, lr, *, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.0, groups=None, decoupled=False):
    r"""g ← g + λ·θ;  m ← β₁·m + (1 − β₁)·g;  v ← β₂·v + (1 − β₂)·g²;  θ ← θ − η·m̂/(√v̂ + ε)      (torch.optim.Adam)

    m̂ = m/(1 − β₁ᵗ), v̂ = v/(1 − β₂ᵗ), t = 1 at the first step.  Arguments, result and errors are those of `sgd`.

    t counts the steps of all parameters together. Begin a new state when you release a parameter that was frozen for
    long: its first steps would be (1 − β₁)/√(1 − β₂), about 3 times, too long.

    >>> params = {"w": np.array([1.0])}
    >>> params, state = adam(params, {"w": np.array([2.0])}, adam_init(params), lr=0.1)
    >>> params["w"].round(6)
    array([0.9])
    """
    t = int(state["step"]) + 1

    def update(theta, g, eta, decay, m, v):
        return adam_step(theta, g, m, v, t, eta, decay, beta1, beta2, eps, decoupled)

    return _update(update, params, grads, state, ("mean", "square"), lr, weight_decay, groups)


@op
def adam_step(theta, g, m, v, t, eta, decay, beta1, beta2, eps, decoupled):
    """The equation of `adam` or `adamw` for one array; returns (θ, m, v)."""
    if decoupled:
        theta = theta * (1 - eta * decay)
    else:
        g = g + decay * theta
    m = m + (1 - beta1) * (g - m)
    v = beta2 * v + (1 - beta2) * g * g
    root = namespace(v).sqrt(v) / math.sqrt(1 - beta2**t)
    return theta - eta / (1 - beta1**t) * m / (root + eps), m, v


def adamw(params, grads, state, lr, *, weight_decay=0.01, **options):
    r"""θ ← θ − η·λ·θ first, and no λ·θ in g; all else, options too, as `adam`                  (torch.optim.AdamW)

    >>> params = {"w": np.array([1.0])}
    >>> adamw(params, {"w": np.array([0.0])}, adam_init(params), lr=0.1, weight_decay=0.5)[0]
    {'w': array([0.95])}
    """
    return adam(params, grads, state, lr, weight_decay=weight_decay, decoupled=True, **options)


OPTIMIZERS = {"sgd": (sgd_init, sgd), "adam": (adam_init, adam), "adamw": (adam_init, adamw)}


def clip_by_global_norm(grads: Params, max_norm: float, groups: Groups | None = None) -> tuple[Params, Array]:
    r"""(g·min(1, max_norm/(‖g‖ + 1e-6)), ‖g‖), ‖g‖ over all gradients at once   (torch.nn.utils.clip_grad_norm_)

    The norm is a float64 without axes. Frozen parameters of `groups` do not count in it, and keep their gradients.
    Raises ValueError, naming it, when a gradient is not finite (looked at on the host only).

    >>> clipped, norm = clip_by_global_norm({"a": np.array([3.0]), "b": np.array([4.0])}, 2.5)
    >>> clipped["a"].round(3), float(norm)
    (array([1.5]), 5.0)
    """
    given = dict(flatten(grads))
    settings = group_settings(given, groups)
    live = {path: g for path, g in given.items() if settings[path].lr_scale != 0}
    if not max_norm > 0 or not live:
        raise ValueError(f"{len(live)} gradients cannot be clipped to the norm {max_norm}; both must be above 0")
    for path, g in live.items():
        if on_host(g) and not np.isfinite(g).all():
            raise ValueError(f"the gradient of parameter {path} is not finite; lower the learning rate")
    whole = EndToEnd(live)
    vectors = whole.join(live)
    xp = namespace(vectors[0])
    norm = xp.sqrt(sum(xp.sum(xp.square(g, dtype="float64")) for g in vectors))
    factor = xp.minimum(1.0, max_norm / (norm + 1e-6))
    return nest(given | whole.cut([g * factor.astype(g.dtype) for g in vectors])), norm


def ema(average: Params, params: Params, decay: float) -> Params:
    r"""a ← d·a + (1 − d)·θ, the exponential moving average of the parameters; it starts as the parameters themselves.

    >>> ema({"w": np.array([1.0])}, {"w": np.array([2.0])}, decay=0.75)
    {'w': array([1.25])}
    """
    averages = dict(flatten(average))
    whole = EndToEnd(averages)
    pairs = zip(whole.join(averages), whole.join(dict(flatten(params))), strict=True)
    return nest(whole.cut([a + (1 - decay) * (theta - a) for a, theta in pairs]))


def _zeros(a):
    return namespace(a).zeros(a.shape, dtype=a.dtype)  # in C order whatever the order of a: safetensors needs it


def _update(update, params, grads, state, slots, lr, weight_decay, groups):
    """One step: θ, *kept = update(θ, g, η, λ, *kept) for all parameters of a setting at once, but for frozen ones."""
    if not 0 <= lr < math.inf:
        raise ValueError(f"the learning rate is {lr}; it must be finite and at least 0")
    new = dict(flatten(params))
    settings = group_settings(new, groups, weight_decay)
    given = {"gradient": dict(flatten(grads)), **{slot: dict(flatten(state.get(slot, {}))) for slot in slots}}
    alike: dict[Setting, dict[str, Array]] = {}
    for path, theta in new.items():
        if settings[path].lr_scale == 0:
            continue
        for what, arrays in given.items():
            if path not in arrays or arrays[path].shape != theta.shape or arrays[path].dtype != theta.dtype:
                raise ValueError(f"there is no {what} of {theta.dtype} {theta.shape} for parameter {path}")
        alike.setdefault(settings[path], {})[path] = theta
    for (scale, decay), thetas in alike.items():
        whole = EndToEnd(thetas)
        rows = zip(*(whole.join(arrays) for arrays in (thetas, *given.values())), strict=True)
        made = zip(*(update(theta, g, float(lr) * scale, decay, *kept) for theta, g, *kept in rows), strict=True)
        for arrays, vectors in zip((new, *(given[slot] for slot in slots)), made, strict=True):
            arrays.update(whole.cut(vectors))
    return nest(new), {"step": np.array(int(state["step"]) + 1), **{slot: nest(given[slot]) for slot in slots}}
