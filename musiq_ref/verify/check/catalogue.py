"""Every forward/backward pair of the library with a way to make inputs of any size for it.

`verify.op` searches these inputs for one on which somebody's own pair is wrong; the library's own tests take them, too.
An entry's inputs are the arguments of the library's function, in its order. Options that have a default are appended
only where they differ from it, so that a function without that option can be checked as well.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from musiq_ref import losses
from musiq_ref.config import NAMED_CONVENTIONS, MusiqConfig
from musiq_ref.image import hash as hashing
from musiq_ref.image import patches, resize, tokenize
from musiq_ref.model import attention, embeddings, encoder, head, linformer, performer, stem
from musiq_ref.model.parameters import init_params, map_params
from musiq_ref.ops import (
    activation,
    convolution,
    dropout,
    embedding,
    group_norm,
    layer_norm,
    linear,
    max_pool,
    softmax,
    weight_standardization,
)

CONVENTIONS = tuple(NAMED_CONVENTIONS)


class Op(NamedTuple):
    """One pair. Without a backward it is a plain function, which returns its result alone.

    axes: {name: (smallest, usual largest)} of the sizes
    options: {name: values}, the simplest first
    inputs: (draw, **sizes and options) -> the arguments
    gradients: names of what the backward returns, in order
    visible: inputs -> a factor that is 0 where the result is padding that nothing reads
    corners: whether the function has corners that rounded inputs would land on
    spread: whether the library's backward takes the parts of the cache as arguments of their own

    >>> catalogue()["softmax"].axes
    {'B': (1, 2), 'H': (1, 3), 'N': (1, 5)}
    """

    forward: Callable[..., Any]
    backward: Callable[..., Any] | None
    axes: dict[str, tuple[int, int]]
    inputs: Callable[..., list[Any]]
    gradients: tuple[str, ...] = ("x",)
    options: dict[str, tuple[Any, ...]] = {}  # noqa: RUF012
    visible: Callable[[list[Any]], np.ndarray] | None = None
    corners: bool = False
    spread: bool = False

    def like_backward(self, function: Any) -> Any:
        """A function with the arguments of the library's backward, as (dy, cache) -> gradients."""
        return (lambda dy, cache: function(dy, *cache)) if self.spread else function


class Draw:
    """Random arrays of one seed.

    >>> Draw(0).normal(2, 3).shape
    (2, 3)
    """

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)

    def normal(self, *shape: int) -> np.ndarray:
        return self.rng.standard_normal(shape)

    def integers(self, high: int, *shape: int) -> np.ndarray:
        return self.rng.integers(0, high, shape)

    def mask(self, *shape: int) -> np.ndarray:
        """True at about two places of three, and at the first."""
        mask = self.rng.random(shape) < 0.65
        mask[..., 0] = True
        return mask

    def params(self, config: MusiqConfig, *path: str) -> dict[str, Any]:
        """Parameters of a part of the model, of which none is zero, in float64."""
        node = init_params(config, dtype="float64")
        for key in path:
            node = node[key]
        return map_params(lambda a: self.normal(*a.shape) * 0.5 + (a != 0), node)

    def shares(self, B: int, C: int) -> np.ndarray:
        return self.rng.dirichlet(np.ones(C), size=B)


def catalogue() -> dict[str, Op]:
    """{name: Op} of everything that can be checked by itself.

    >>> sorted(catalogue())[:3]
    ['attention', 'block', 'compress']
    """
    return {**ELEMENTARY, **COMPOSITE, **LOSSES, **IMAGE}


def _small_config(D_h=4, H=3, M=10, P=8, G=3, C=5, layers=2, **changes) -> MusiqConfig:
    return MusiqConfig(
        layers=layers,
        width=D_h * H,
        mlp_width=M,
        heads=H,
        outputs=C,
        patch_size=P,
        grid_size=G,
        longer_sides=(9, 14),
        **changes,
    )


def _values(draw: Draw, kind: str, *shape: int) -> np.ndarray:
    """Normal values; "ties": whole numbers, of which many are equal;  "large": such as overflow in exp."""
    x = draw.normal(*shape)
    return {"normal": x, "ties": np.rint(x), "large": 1000 * x}[kind]


ELEMENTARY = {
    "linear": Op(
        linear.linear,
        linear.linear_backward,
        {"B": (1, 2), "N": (1, 3), "I": (1, 5), "O": (1, 7)},
        lambda draw, B, N, I, O: [draw.normal(B, N, I), draw.normal(I, O), draw.normal(O)],
        ("x", "kernel", "bias"),
    ),
    "relu": Op(
        activation.relu,
        activation.relu_backward,
        {"B": (1, 2), "N": (1, 3), "D": (1, 5)},
        lambda draw, B, N, D: [draw.normal(B, N, D)],
        corners=True,
    ),
    "gelu_tanh": Op(
        activation.gelu_tanh,
        activation.gelu_tanh_backward,
        {"B": (1, 2), "N": (1, 3), "D": (1, 5)},
        lambda draw, B, N, D: [2 * draw.normal(B, N, D)],
    ),
    "gelu_erf": Op(
        activation.gelu_erf,
        activation.gelu_erf_backward,
        {"B": (1, 2), "N": (1, 3), "D": (1, 5)},
        lambda draw, B, N, D: [2 * draw.normal(B, N, D)],
    ),
    "softmax": Op(
        softmax.softmax,
        softmax.softmax_backward,
        {"B": (1, 2), "H": (1, 3), "N": (1, 5)},
        lambda draw, B, H, N, values: [_values(draw, values, B, H, N)],
        options={"values": ("normal", "large")},
    ),
    "mask_logits": Op(
        softmax.mask_logits,
        softmax.mask_logits_backward,
        {"B": (1, 2), "H": (1, 3), "N": (1, 5)},
        lambda draw, B, H, N, how: [
            draw.normal(B, H, N, N),
            attention.allowed_pairs(draw.mask(B, N)),
            how,
            -1e3,
        ],
        options={"how": ("add", "fill")},
    ),
    "layer_norm": Op(
        layer_norm.layer_norm,
        layer_norm.layer_norm_backward,
        {"B": (1, 2), "N": (1, 3), "D": (2, 5)},
        lambda draw, B, N, D: [draw.normal(B, N, D), draw.normal(D), draw.normal(D)],
        ("x", "gamma", "beta"),
    ),
    "group_norm": Op(
        group_norm.group_norm,
        group_norm.group_norm_backward,
        {"N": (1, 2), "h": (1, 3), "w": (1, 5), "C/G": (2, 4)},
        lambda draw, N, h, w, groups, eps, **k: [
            draw.normal(N, h, w, groups * k["C/G"]),
            draw.normal(groups * k["C/G"]),
            draw.normal(groups * k["C/G"]),
            eps,
            groups,
        ],
        ("x", "gamma", "beta"),
        {"groups": (1, 3), "eps": (1e-4, 1e-6)},
    ),
    "standardize": Op(
        weight_standardization.standardize,
        weight_standardization.standardize_backward,
        {"I": (2, 2), "O": (1, 5)},
        lambda draw, I, O, k, ddof: [draw.normal(k, k, I, O), *([ddof] if ddof else [])],
        ("kernel",),
        {"k": (3, 1), "ddof": (0, 1)},  # over what axes a 1 × 1 kernel is standardised shows less
    ),
    "convolution": Op(
        convolution.convolution,
        convolution.convolution_backward,
        {"N": (1, 2), "h": (1, 8), "w": (1, 11), "I": (1, 3), "O": (1, 4)},
        lambda draw, N, h, w, I, O, k, stride: [
            draw.normal(N, h, w, I),
            draw.normal(k, k, I, O),
            *([stride] if stride != 1 else []),
        ],
        ("x", "kernel"),
        {"k": (1, 3, 7), "stride": (1, 2)},
    ),
    "max_pool": Op(
        max_pool.max_pool,
        max_pool.max_pool_backward,
        {"N": (1, 2), "h": (1, 7), "w": (1, 8), "C": (1, 3)},
        lambda draw, N, h, w, C, values: [_values(draw, values, N, h, w, C)],
        options={"values": ("normal", "ties")},
        corners=True,
    ),
    "lookup": Op(
        embedding.lookup,
        embedding.lookup_backward,
        {"R": (1, 9), "B": (1, 2), "N": (1, 5), "D": (1, 4)},
        lambda draw, R, B, N, D: [draw.normal(R, D), draw.integers(R, B, N)],
        ("table",),
    ),
    "dropout": Op(
        dropout.dropout,
        dropout.dropout_backward,
        {"B": (1, 2), "N": (1, 3), "D": (1, 5)},
        lambda draw, B, N, D: [draw.normal(B, N, D), 0.4, np.random.default_rng(3)],
    ),
    "drop_path": Op(
        dropout.drop_path,
        dropout.drop_path_backward,
        {"B": (1, 4), "N": (1, 3), "D": (1, 5)},
        lambda draw, B, N, D: [draw.normal(B, N, D), 0.4, np.random.default_rng(3)],
    ),
    "sinusoidal_table": Op(
        embedding.sinusoidal_table, None, {"G": (1, 7), "D": (1, 12)}, lambda draw, G, D: [G, D], ()
    ),
    "hash_axis": Op(hashing.hash_axis, None, {"n": (1, 320), "G": (1, 12)}, lambda draw, n, G: [n, G], ()),
    "hash_index": Op(
        hashing.hash_index,
        None,
        {"rows": (1, 40), "columns": (1, 60), "G": (1, 12)},
        lambda draw, rows, columns, G: [rows, columns, G],
        (),
    ),
    "resized_sides": Op(
        resize.resized_sides,
        None,
        {"h": (20, 1600), "w": (20, 1600)},
        lambda draw, h, w, longer_side: [h, w, longer_side],
        (),
        {"longer_side": (224, 384)},
    ),
}


def _visible_tokens(inputs: list[Any]) -> np.ndarray:
    """1 at valid tokens, 0 at padded ones.

    In the authors' convention a padded query's logits are rounded to multiples of 2e-6 by the added −1e10.
    """
    allowed = next(a for a in inputs if isinstance(a, np.ndarray) and a.dtype == bool)
    return np.expand_dims(allowed if allowed.ndim == 2 else allowed[:, 0].any(axis=-1), -1)


def _of_block(*path: str, tokens: Callable[..., list[Any]], conventions: bool, **changes: Any):
    """Inputs (z, [allowed or valid], params, [conventions]) for a part of an encoder block.

    changes: of the configuration
    """

    def inputs(draw, B, N, D_h=4, H=3, M=10, **k):
        config = _small_config(D_h, H, M, **changes, **{name: k[name] for name in k if name.startswith("attention_")})
        chosen = [NAMED_CONVENTIONS[k.get("conventions", "official")]] if conventions else []
        return [draw.normal(B, N, D_h * H), *tokens(draw, B, N), draw.params(config, *path), *chosen]

    return inputs


def _no_mask(draw, B, N):
    return []


def _allowed(draw, B, N):
    return [attention.allowed_pairs(draw.mask(B, N))]


def _valid(draw, B, N):
    return [draw.mask(B, N)]


def _embed(draw, B, N, D, G, spatial, scale_embedding):
    config = _small_config(D, 1, G=G, spatial=spatial, scale_embedding=scale_embedding)
    params = draw.params(config)
    chosen = {k: params[k] for k in ("class_token", "scale_embedding", "spatial_embedding") if k in params}
    return [draw.normal(B, N, D), draw.integers(G * G, B, N), draw.integers(3, B, N), chosen, config]


def _expected_score(logits):
    expected, cache = head.expected_score(logits)
    return expected.score, cache


BLOCK_AXES = {"B": (1, 2), "N": (1, 5), "D_h": (1, 4), "H": (1, 3)}

COMPOSITE = {
    "project": Op(
        attention.project,
        attention.project_backward,
        BLOCK_AXES,
        _of_block("encoder", "block_00", "attention", "query", tokens=_no_mask, conventions=False),
        ("z", "params"),
    ),
    "merge": Op(
        attention.merge,
        attention.merge_backward,
        BLOCK_AXES,
        lambda draw, B, N, D_h, H: [
            draw.normal(B, H, N, D_h),
            draw.params(_small_config(D_h, H), "encoder", "block_00", "attention", "out"),
        ],
        ("heads", "params"),
    ),
    "attention": Op(
        attention.attention,
        attention.attention_backward,
        BLOCK_AXES,
        _of_block("encoder", "block_00", "attention", tokens=_allowed, conventions=True),
        ("z", "params"),
        {"conventions": CONVENTIONS},
        _visible_tokens,
    ),
    "performer": Op(
        performer.performer,
        performer.performer_backward,
        BLOCK_AXES,
        _of_block("encoder", "block_00", "attention", tokens=_allowed, conventions=True),
        ("z", "params"),
        visible=_visible_tokens,
    ),
    "compress": Op(
        linformer.compress,
        linformer.compress_backward,
        {**BLOCK_AXES, "m": (1, 6), "unused": (0, 2)},
        lambda draw, B, N, D_h, H, m, unused: [
            draw.normal(B, H, N, D_h),
            draw.normal(m, N + unused),
            draw.mask(B, 1, N),
        ],
        ("x", "E"),
    ),
    "linformer": Op(
        linformer.linformer,
        linformer.linformer_backward,
        BLOCK_AXES,
        _of_block(
            "encoder",
            "block_00",
            "attention",
            tokens=_allowed,
            conventions=True,
            attention="linformer",
            attention_rank=6,
            attention_length=7,
        ),
        ("z", "params"),
        {"attention_shared": (False, True)},
        _visible_tokens,
    ),
    "mlp": Op(
        encoder.mlp,
        encoder.mlp_backward,
        {**BLOCK_AXES, "M": (1, 10)},
        _of_block("encoder", "block_00", "mlp", tokens=_no_mask, conventions=True),
        ("z", "params"),
        {"conventions": CONVENTIONS},
    ),
    "block": Op(
        encoder.block,
        encoder.block_backward,
        {**BLOCK_AXES, "D_h": (2, 4), "M": (1, 10)},
        _of_block("encoder", "block_00", tokens=_allowed, conventions=True),
        ("z", "params"),
        {"conventions": CONVENTIONS},
        _visible_tokens,
    ),
    "encoder": Op(
        encoder.encoder,
        encoder.encoder_backward,
        {**BLOCK_AXES, "D_h": (2, 4), "M": (1, 10)},
        _of_block("encoder", tokens=_valid, conventions=True),
        ("z", "params"),
        {"conventions": CONVENTIONS},
        _visible_tokens,
    ),
    "stem": Op(
        stem.stem,
        stem.stem_backward,
        {"N": (1, 2)},
        lambda draw, N, P, conventions: [
            draw.normal(N, P, P, 3),
            draw.params(_small_config(), "stem"),
            NAMED_CONVENTIONS[conventions],
        ],
        ("patches", "params"),
        {"P": (4, 8), "conventions": CONVENTIONS},
        corners=True,
    ),
    "linear_stem": Op(
        stem.linear_stem,
        stem.linear_stem_backward,
        {"N": (1, 2), "P": (1, 5)},
        lambda draw, N, P: [draw.normal(N, P, P, 3), {}, NAMED_CONVENTIONS["official"]],
        ("patches", "params"),
    ),
    "patch_embedding": Op(
        embeddings.patch_embedding,
        embeddings.patch_embedding_backward,
        {"N": (1, 3), "D": (1, 12)},
        lambda draw, N, D, P: [
            draw.normal(N, P // 4, P // 4, 256),
            draw.params(_small_config(D, 1, P=P), "patch_embedding"),
        ],
        ("features", "params"),
        {"P": (4, 8)},
    ),
    "embed": Op(
        embeddings.embed,
        embeddings.embed_backward,
        {"B": (1, 2), "N": (1, 5), "D": (1, 12), "G": (1, 3)},
        _embed,
        ("x", "params"),
        {"spatial": ("learnable", "sinusoidal", "none"), "scale_embedding": (True, False)},
    ),
    "head": Op(
        head.head,
        head.head_backward,
        {"B": (1, 2), "N": (1, 3), "D": (1, 12), "C": (1, 5)},
        lambda draw, B, N, D, C: [draw.normal(B, N, D), draw.params(_small_config(D, 1, C=C), "head")],
        ("y", "params"),
    ),
    "expected_score": Op(
        _expected_score,
        head.expected_score_backward,
        {"B": (1, 3), "C": (1, 5)},
        lambda draw, B, C: [draw.normal(B, C)],
        ("logits",),
    ),
}

SCORE_AXES, CLASS_AXES = {"B": (1, 7), "K": (1, 3)}, {"B": (1, 7), "C": (2, 5)}


def _loss(name: str, gradient: str, axes, inputs, options=None, corners=False) -> Op:
    return Op(losses.LOSSES[name][0], losses.LOSSES[name][1], axes, inputs, (gradient,), options or {}, corners=corners)


def _scores(draw, B, K):
    return [draw.normal(B, K), draw.normal(B, K)]


LOSSES = {
    "l1": _loss("l1", "prediction", SCORE_AXES, _scores, corners=True),
    "mse": _loss("mse", "prediction", SCORE_AXES, _scores),
    "huber": _loss("huber", "prediction", SCORE_AXES, _scores, corners=True),
    "emd": _loss("emd", "logits", CLASS_AXES, lambda draw, B, C: [draw.normal(B, C), draw.shares(B, C)]),
    "cross_entropy": _loss(
        "cross_entropy",
        "logits",
        CLASS_AXES,
        lambda draw, B, C, target: [
            draw.normal(B, C),
            draw.integers(C, B) if target == "labels" else draw.shares(B, C),
        ],
        {"target": ("labels", "shares")},
    ),
}


def _resize(image, height, width, kind):
    return resize.resize(image, height, width, kind), (image.shape, kind)


def _extract_patches(image, patch_size):
    return patches.extract_patches(image, patch_size), image.shape[:2]


def _tokenize(image, config):
    return tokenize.tokenize(image, config).patches, (*image.shape[:2], config)


IMAGE = {
    "resize": Op(
        _resize,
        lambda dy, cache: resize.resize_backward(dy, *cache),
        {"h": (1, 11), "w": (1, 7), "height": (1, 13), "width": (1, 16)},
        lambda draw, h, w, height, width, kind: [draw.normal(h, w, 3), height, width, kind],
        ("image",),
        {"kind": ("gaussian", "bicubic")},
        spread=True,
    ),
    "extract_patches": Op(
        _extract_patches,
        lambda dy, cache: patches.extract_patches_backward(dy, *cache),
        {"h": (1, 7), "w": (1, 10)},
        lambda draw, h, w, P: [draw.normal(h, w, 3), P],
        ("image",),
        {"P": (4, 8)},
        spread=True,
    ),
    "tokenize": Op(
        _tokenize,
        lambda dy, cache: tokenize.tokenize_backward(dy, *cache),
        {"h": (4, 11), "w": (4, 17)},
        lambda draw, h, w, conventions, native: [
            draw.rng.random((h, w, 3)),
            _small_config(conventions=NAMED_CONVENTIONS[conventions], max_native_patches=native),
        ],
        ("image",),
        {"conventions": CONVENTIONS, "native": (-1, 3)},
        spread=True,
    ),
}
