"""Layers that are right in themselves, with another input or with another layer's parameters."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from fnmatch import fnmatch
from typing import Any

import numpy as np

from musiq_ref.config import MusiqConfig
from musiq_ref.model.attention import merge, project
from musiq_ref.model.parameters import Params, flatten
from musiq_ref.model.stem import BLOCK_EPS, ROOT_EPS
from musiq_ref.ops.activation import GELU
from musiq_ref.ops.convolution import convolution
from musiq_ref.ops.group_norm import group_norm
from musiq_ref.ops.layer_norm import layer_norm
from musiq_ref.ops.linear import linear
from musiq_ref.ops.weight_standardization import standardize
from musiq_ref.verify.ladder.stages import BACK
from musiq_ref.verify.mistakes.evidence import IMPOSSIBLE

NEAREST = 12  # stages before a layer of which sums of two are tried as its input
Layer = Callable[[Any, Any], Any]


def _convolution(config: MusiqConfig, stride: int) -> Layer:
    ddof = config.conventions.weight_std_ddof
    return lambda x, p: convolution(x, standardize(p["kernel"], ddof)[0], stride)[0]


def _linear(x: Any, p: Any) -> Any:
    return linear(x, p["kernel"], p["bias"])[0]


def layer_of(stage: str, config: MusiqConfig) -> Layer | None:
    """The layer (input, its parameters) -> output that makes a stage; None for what no layer makes.

    >>> layer = layer_of("encoder/block_00/mlp/fc1", MusiqConfig())
    >>> layer(np.ones((1, 2)), {"kernel": np.eye(2), "bias": np.ones(2)})
    array([[2., 2.]])
    """
    if stage.startswith(BACK):
        return None
    gelu = GELU[config.conventions.gelu][0]
    layers: dict[str, Layer] = {
        "encoder/*norm*": lambda x, p: layer_norm(x, p["scale"], p["bias"])[0],
        "stem/gn_root": lambda x, p: group_norm(x, p["scale"], p["bias"], ROOT_EPS)[0],
        "stem/gn*": lambda x, p: group_norm(x, p["scale"], p["bias"], BLOCK_EPS)[0],
        "*/standardized": lambda x, p: standardize(p["kernel"], config.conventions.weight_std_ddof)[0],
        "stem/conv_root": _convolution(config, 2),
        "stem/conv?": _convolution(config, 1),
        "stem/conv_proj": _convolution(config, 1),
        "patch_embedding": lambda x, p: _linear(x.reshape(1, len(x), -1), p),
        "*/attention/[qkv]*": lambda x, p: project(x, p)[0],
        "*/attention/out": lambda x, p: merge(x, p)[0],
        "*/mlp/gelu": lambda x, p: gelu(x)[0],
        "*/mlp/fc?": _linear,
        "head/logits": _linear,
        "stem/relu*": lambda x, p: np.maximum(x, 0),
    }
    return next((layer for pattern, layer in layers.items() if fnmatch(stage, pattern)), None)


def rewired(
    here: str,
    exact: Mapping[str, Any],
    order: list[str],
    params: Params,
    config: MusiqConfig,
    fits: Callable[[np.ndarray], bool],
) -> Iterator[str]:
    """With which other input, or with which other parameters, a layer gives what the port has.

    exact: the stages that lead to it
    order: names of the stages
    fits: whether an array is the port's at the stage
    """
    layer = layer_of(here, config)
    if layer is None:
        return
    flat, path = dict(flatten(params)), here.removesuffix("/logits").removesuffix("/standardized")
    own = {p.rpartition("/")[2]: a for p, a in flat.items() if p.rpartition("/")[0] == path}
    known = [n for n in order if n in exact and np.asarray(exact[n]).dtype.kind == "f"]
    before, after = known[: known.index(here)], known[known.index(here) + 1 :]

    def gives(x: Any, p: Any) -> bool:
        try:
            return fits(layer(x, p))
        except IMPOSSIBLE:  # another shape
            return False

    for name in reversed(before):
        if gives(exact[name], own):
            yield f"it is the right layer with {name} for its input"
            return
    for name in after:
        if gives(exact[name], own):
            yield f"it is the right layer with {name} for its input, which comes later: it runs a second time"
            return
    source = next((n for n in reversed(before) if _right_input(layer, exact, n, own, here)), "")
    for one, other in itertools.combinations(before[-NEAREST:], 2) if not here.startswith("stem/conv") else ():
        if np.shape(exact[one]) == np.shape(exact[other]) and gives(exact[one] + exact[other], own):
            yield f"it is the right layer with {one} + {other} for its input"
            return
    if source:
        yield from _other_parameters(exact[source], own, path, flat, gives)


def _right_input(layer: Layer, exact: Mapping[str, Any], name: str, own: Any, here: str) -> bool:
    """Whether a stage is the input of a layer, which its right output shows."""
    try:
        y = layer(exact[name], own)
        return np.shape(y) == np.shape(exact[here]) and bool(np.allclose(y, exact[here], rtol=1e-6, atol=1e-9))
    except IMPOSSIBLE:
        return False


def _other_parameters(
    x: Any, own: Any, here: str, flat: Mapping[str, Any], gives: Callable[..., bool]
) -> Iterator[str]:
    """Which other parameters of the same shapes give what the port has: another layer's, one array of it, or in another
    order."""
    layers = {p.rpartition("/")[0] for p in flat} - {here}
    for path in sorted(layers):
        theirs = {n: flat.get(f"{path}/{n}") for n in own}
        if all(a is not None and a.shape == own[n].shape for n, a in theirs.items()) and gives(x, theirs):
            yield f"it is the right layer with the parameters of {path}"
            return
    if len({a.shape for a in own.values()}) < len(own) and gives(
        x, dict(zip(own, reversed(own.values()), strict=True))
    ):
        yield f"it is the right layer with its {' and '.join(own)} exchanged"
        return
    for name, array in own.items():
        for path, other in flat.items():
            if path != f"{here}/{name}" and other.shape == array.shape and gives(x, {**own, name: other}):
                yield f"it is the right layer with {path} for its {name}"
                return
        for words, other in _turns(array):
            if other.shape == array.shape and gives(x, {**own, name: other}):
                yield f"it is the right layer with its {name} {words}"
                return


def _turns(array: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """An array as it may be loaded: transposed, reversed, its axes cut in another order."""
    yield "at 0, not loaded", np.zeros_like(array)
    yield "at 1, not loaded", np.ones_like(array)
    for axis in range(array.ndim):
        yield f"in reverse order along axis {axis}", np.flip(array, axis)
    for order in itertools.permutations(range(array.ndim)):
        if order != tuple(range(array.ndim)):
            turned = array.transpose(order)
            yield f"transposed to {order}", turned.reshape(array.shape)
            if turned.shape != array.shape:
                yield f"reshaped as if {order} were its axes", array.reshape(turned.shape).transpose(np.argsort(order))


def terms(here: str, mine: np.ndarray, exact: Mapping[str, Any], order: list[str]) -> Iterator[tuple[str, Any, Any]]:
    """(name, right, the port's) of each term of a stage that is a sum, if the other term is right.

    order: names of the stages
    """
    block = here.rpartition("/")[0]
    inputs = [n for n in order[: order.index(here)] if n == "encoder/input" or fnmatch(n, "encoder/block_??/output")]
    one, other = {
        "residual1": (inputs[-1] if inputs else "", f"{block}/attention/out"),
        "output": (f"{block}/residual1", f"{block}/mlp/fc2"),
        "sum": ("stem/gn3", "stem/gn_proj"),
        "spatial_embedding": ("patch_embedding", "its row of the table"),
        "scale_embedding": ("spatial_embedding", "its row of the table"),
    }.get(here.rpartition("/")[2], ("", ""))
    if one in exact and np.shape(exact[one]) == mine.shape == np.shape(exact[here]):
        first, second = exact[one], exact[here] - exact[one]
        yield one, first, mine - second
        yield other, second, mine - first


def rows_added(here: str, mine: np.ndarray, exact: Mapping[str, Any], params: Params) -> Iterator[str]:
    """Which rows of a table have been added to the tokens, where every token has got one.

    mine: (1, N, D), the port's array of the stage "spatial_embedding" or "scale_embedding"
    """
    before, index = {
        "spatial_embedding": ("patch_embedding", "hash_index"),
        "scale_embedding": ("spatial_embedding", "scale_index"),
    }.get(here, ("", ""))
    if before not in exact or np.shape(exact[before]) != mine.shape:
        return
    table, valid = np.asarray(params[here]["table"]), np.asarray(exact["mask"])[0].astype(bool)
    added, right = (mine - exact[before])[0][valid], np.asarray(exact[index])[0][valid]
    gaps = ((added[:, None] - table[None]) ** 2).sum(-1)
    rows, size = gaps.argmin(1), (table**2).sum(-1).max()
    if gaps.min(1).max() < 1e-4 * size and (rows != right).any():
        shown, expected = (", ".join(map(str, a[:8])) for a in (rows, right))
        yield f"tokens get the rows {shown}, … of the table instead of {expected}, …"
