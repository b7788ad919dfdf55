"""Every forward/backward pair with inputs to try it on: the axes of an input all differ in length, none is 1.

The inputs cannot be written to, so an op that changes its arguments fails.
"""

from __future__ import annotations

import copy
from typing import NamedTuple

import numpy as np

from musiq_ref.backend import namespace
from musiq_ref.config import OFFICIAL, PAPER, PYIQA, MusiqConfig
from musiq_ref.model.parameters import init_params, map_params
from musiq_ref.verify.check.catalogue import Draw, catalogue

CONVENTIONS = {"official": OFFICIAL, "pyiqa": PYIQA, "paper": PAPER}
CONFIG = MusiqConfig(
    layers=2, width=12, mlp_width=10, heads=3, outputs=5, patch_size=8, grid_size=3, longer_sides=(9, 14)
)


class Case(NamedTuple):
    """A pair with inputs for `check_vjp`, and `planted`, which makes any backward of that op one of the case."""

    forward: object
    backward: object
    inputs: list
    op: str
    planted: object


def frozen(array):
    array = np.asarray(array)
    array.flags.writeable = False
    return array


def random_params(config=CONFIG, seed=7):
    """Parameters of which none is zero, in float64; the same whichever tests ran before."""
    rng = np.random.default_rng(seed)
    return map_params(
        lambda a: 0.5 * frozen(rng.standard_normal(a.shape)) + (a != 0), init_params(config, dtype="float64")
    )


PARAMS = map_params(frozen, random_params())


def case(name, **changes):
    """A pair of the catalogue, at its usual sizes but for some changes, as functions of its arrays alone.

    Arrays that have a gradient come first, because the gradient check pairs them with the gradients in order. Results
    at padded tokens, which nothing reads, are set to 0; then the cache is (the op's own, the factor that does it).
    """
    op = catalogue()[name]
    sizes = {axis: high for axis, (_, high) in op.axes.items()}
    sizes |= {option: values[0] for option, values in op.options.items()} | changes
    arguments = op.inputs(Draw(8), **sizes)
    arrays = [i for i, x in enumerate(arguments) if isinstance(x, np.ndarray | dict)]
    order = sorted(arrays, key=lambda i: not (isinstance(arguments[i], dict) or arguments[i].dtype.kind == "f"))

    def forward(*inputs):
        filled = list(arguments)
        for i, x in zip(order, inputs, strict=True):
            filled[i] = x
        rest = [filled[i] if i in order else copy.deepcopy(x) for i, x in enumerate(arguments)]
        y, cache = op.forward(*rest)
        if op.visible is None:
            return y, cache
        factor = namespace(y).asarray(op.visible(arguments))
        return y * factor, (cache, factor)

    def planted(backward):
        return backward if op.visible is None else lambda dy, cache: backward(dy * cache[1], cache[0])

    inputs = [map_params(frozen, x) if isinstance(x, dict) else frozen(x) for x in (arguments[i] for i in order)]
    return Case(forward, planted(op.backward), inputs, name, planted)


OPS = {
    **{
        name: case(name)
        for name in (
            "linear",
            "relu",
            "gelu_tanh",
            "gelu_erf",
            "softmax",
            "layer_norm",
            "lookup",
            "dropout",
            "drop_path",
        )
    },
    "gelu_tanh in blocks": case("gelu_tanh", B=3, N=67, D=2),
    "mask_logits add": case("mask_logits", how="add"),
    "mask_logits fill": case("mask_logits", how="fill"),
    "group_norm": case("group_norm", groups=3),
    "standardize ddof 0": case("standardize", k=3),
    "standardize ddof 1": case("standardize", k=3, ddof=1),
    "convolution 1×1": case("convolution", N=2, h=3, w=5, I=4, O=6),
    "convolution 3×3": case("convolution", N=2, h=4, w=7, I=5, O=6, k=3),
    "convolution 7×7/2": case("convolution", k=7, stride=2),
    "max_pool": case("max_pool"),
    "stem": case("stem", P=8),
    "stem pyiqa": case("stem", P=8, conventions="pyiqa"),
    "stem linear": case("linear_stem"),
    "patch_embedding": case("patch_embedding", P=8),
    "embed": case("embed"),
    "embed sinusoidal": case("embed", spatial="sinusoidal"),
    "embed without HSE": case("embed", spatial="none"),
    "embed without SCE": case("embed", scale_embedding=False),
    "embed without HSE, SCE": case("embed", spatial="none", scale_embedding=False),
    "project": case("project"),
    "merge": case("merge"),
    **{f"attention {name}": case("attention", conventions=name) for name in CONVENTIONS},
    "performer": case("performer"),
    "compress": case("compress"),
    "linformer": case("linformer"),
    "linformer shared": case("linformer", attention_shared=True),
    "mlp tanh": case("mlp"),
    "mlp erf": case("mlp", conventions="pyiqa"),
    "block": case("block"),
    "encoder": case("encoder", conventions="pyiqa"),
    "head": case("head"),
    "expected_score": case("expected_score", C=5),
    "expected_score of one output": case("expected_score", C=1),
}

HOST_OPS = {
    **{
        f"resize {kind} {new}": case("resize", kind=kind, height=new[0], width=new[1])
        for kind in ("gaussian", "bicubic")
        for new in ((5, 4), (13, 16), (11, 7))
    },
    "extract_patches": case("extract_patches"),
    **{f"tokenize {name}": case("tokenize", conventions=name) for name in CONVENTIONS},
    "tokenize, cut short": case("tokenize", native=3),
}
"""Pairs that run on the host only: from pixels to patches."""
