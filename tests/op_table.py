"""Every forward/backward pair with inputs to try it on: the axes of an input all differ in length, none is 1.

The inputs cannot be written to, so an op that changes its arguments fails.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from musiq_ref.config import OFFICIAL, PAPER, PYIQA, MusiqConfig
from musiq_ref.image import patches, resize, tokenize
from musiq_ref.model import attention, embeddings, encoder, head, stem
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

CONVENTIONS = {"official": OFFICIAL, "pyiqa": PYIQA, "paper": PAPER}
CONFIG = MusiqConfig(
    layers=2, width=12, mlp_width=10, heads=3, outputs=5, patch_size=8, grid_size=3, longer_sides=(9, 14)
)
rng = np.random.default_rng(7)


class Case(NamedTuple):
    forward: object
    backward: object
    inputs: list


def frozen(array):
    array = np.asarray(array)
    array.flags.writeable = False
    return array


def normal(*shape):
    return frozen(rng.standard_normal(shape))


def random_params(config=CONFIG):
    """Parameters of which none is zero, in float64."""
    return map_params(lambda a: normal(*a.shape) * 0.5 + (a != 0), init_params(config, dtype="float64"))


PARAMS = map_params(frozen, random_params())
BLOCK = PARAMS["encoder"]["block_00"]
VALID = frozen(np.array([[True, True, False, True, True], [True, False, True, True, False]]))
ALLOWED = frozen(attention.allowed_pairs(VALID))
HASH, SCALE = frozen(rng.integers(0, 9, (2, 5))), frozen(rng.integers(0, 3, (2, 5)))


def seeded(op, rate):
    """Dropout with the same draw every time it is called."""
    return lambda x: op(x, rate, np.random.default_rng(3))


def score_only(logits):
    expected, cache = head.expected_score(logits)
    return expected.score, cache


def pixels_to_patches(config):
    def forward(image):
        return tokenize.tokenize(image, config).patches, image.shape

    def backward(dpatches, shape):
        return tokenize.tokenize_backward(dpatches, *shape[:2], config)

    return Case(forward, backward, [frozen(rng.random((11, 17, 3)))])


def masked(how, value):
    return Case(
        lambda x, allowed: softmax.mask_logits(x, allowed, how, value),
        softmax.mask_logits_backward,
        [normal(2, 3, 5, 5), ALLOWED],
    )


def of_valid_rows(forward, backward, params):
    """A pair on (z, params, valid) whose outputs at padded tokens, which nothing reads, are set to 0.

    In the authors' convention a padded query's logits are rounded to multiples of 2e-6 by the added −1e10, so that its
    row has no derivative.
    """

    def masked_forward(z, params, valid):
        y, cache = forward(z, valid, params)
        return y * valid[..., None], (cache, valid)

    return Case(
        masked_forward,
        lambda dy, cache: backward(dy * cache[1][..., None], cache[0]),
        [normal(2, 5, 12), params, VALID],
    )


def with_conventions(f, *fixed, **named):
    return lambda *inputs: f(*inputs, *fixed, **named)


OPS = {
    "linear": Case(linear.linear, linear.linear_backward, [normal(2, 3, 5), normal(5, 7), normal(7)]),
    "relu": Case(activation.relu, activation.relu_backward, [normal(2, 3, 5)]),
    "gelu_tanh": Case(activation.gelu_tanh, activation.gelu_tanh_backward, [2 * normal(2, 3, 5)]),
    "gelu_tanh in blocks": Case(activation.gelu_tanh, activation.gelu_tanh_backward, [normal(3, 67, 2)]),
    "gelu_erf": Case(activation.gelu_erf, activation.gelu_erf_backward, [2 * normal(2, 3, 5)]),
    "softmax": Case(softmax.softmax, softmax.softmax_backward, [normal(2, 3, 5)]),
    "mask_logits add": masked("add", -1e3),
    "mask_logits fill": masked("fill", -1e3),
    "layer_norm": Case(layer_norm.layer_norm, layer_norm.layer_norm_backward, [normal(2, 3, 5), normal(5), normal(5)]),
    "group_norm": Case(
        with_conventions(group_norm.group_norm, 1e-4, 3),
        group_norm.group_norm_backward,
        [normal(2, 3, 5, 12), normal(12), normal(12)],
    ),
    "standardize ddof 0": Case(
        weight_standardization.standardize, weight_standardization.standardize_backward, [normal(3, 3, 2, 5)]
    ),
    "standardize ddof 1": Case(
        with_conventions(weight_standardization.standardize, 1),
        weight_standardization.standardize_backward,
        [normal(3, 3, 2, 5)],
    ),
    "convolution 1×1": Case(
        convolution.convolution, convolution.convolution_backward, [normal(2, 3, 5, 4), normal(1, 1, 4, 6)]
    ),
    "convolution 3×3": Case(
        convolution.convolution, convolution.convolution_backward, [normal(2, 4, 7, 5), normal(3, 3, 5, 6)]
    ),
    "convolution 7×7/2": Case(
        with_conventions(convolution.convolution, 2),
        convolution.convolution_backward,
        [normal(2, 8, 11, 3), normal(7, 7, 3, 4)],
    ),
    "max_pool": Case(max_pool.max_pool, max_pool.max_pool_backward, [normal(2, 7, 8, 3)]),
    "lookup": Case(embedding.lookup, embedding.lookup_backward, [normal(9, 4), HASH]),
    "dropout": Case(seeded(dropout.dropout, 0.4), dropout.dropout_backward, [normal(2, 3, 5)]),
    "drop_path": Case(seeded(dropout.drop_path, 0.4), dropout.drop_path_backward, [normal(4, 3, 5)]),
    "stem": Case(with_conventions(stem.stem, OFFICIAL), stem.stem_backward, [normal(2, 8, 8, 3), PARAMS["stem"]]),
    "stem pyiqa": Case(with_conventions(stem.stem, PYIQA), stem.stem_backward, [normal(2, 8, 8, 3), PARAMS["stem"]]),
    "stem linear": Case(
        lambda patches: stem.linear_stem(patches, {}, OFFICIAL),
        lambda dy, cache: stem.linear_stem_backward(dy, cache)[0],
        [normal(2, 5, 7, 3)],
    ),
    "patch_embedding": Case(
        embeddings.patch_embedding,
        embeddings.patch_embedding_backward,
        [normal(3, 2, 2, 256), PARAMS["patch_embedding"]],
    ),
    "embed": Case(
        lambda x, params, place, scale: embeddings.embed(x, place, scale, params, CONFIG),
        embeddings.embed_backward,
        [
            normal(2, 5, 12),
            {k: PARAMS[k] for k in ("class_token", "spatial_embedding", "scale_embedding")},
            HASH,
            SCALE,
        ],
    ),
    "embed sinusoidal": Case(
        lambda x, params, place, scale: embeddings.embed(x, place, scale, params, CONFIG.replace(spatial="sinusoidal")),
        embeddings.embed_backward,
        [normal(2, 5, 12), {k: PARAMS[k] for k in ("class_token", "scale_embedding")}, HASH, SCALE],
    ),
    **{
        f"embed without {', '.join(left_out)}": Case(
            lambda x, params, place, scale, config=config: embeddings.embed(x, place, scale, params, config),
            embeddings.embed_backward,
            [normal(2, 5, 12), {"class_token": PARAMS["class_token"], **{k: PARAMS[k] for k in kept}}, HASH, SCALE],
        )
        for left_out, kept, config in (
            (["HSE"], ["scale_embedding"], CONFIG.replace(spatial="none")),
            (["SCE"], ["spatial_embedding"], CONFIG.replace(scale_embedding=False)),
            (["HSE", "SCE"], [], CONFIG.replace(spatial="none", scale_embedding=False)),
        )
    },
    **{
        f"attention {name}": of_valid_rows(
            lambda z, valid, params, conventions=conventions: attention.attention(
                z, attention.allowed_pairs(valid), params, conventions
            ),
            attention.attention_backward,
            BLOCK["attention"],
        )
        for name, conventions in CONVENTIONS.items()
    },
    "mlp tanh": Case(with_conventions(encoder.mlp, OFFICIAL), encoder.mlp_backward, [normal(2, 5, 12), BLOCK["mlp"]]),
    "mlp erf": Case(with_conventions(encoder.mlp, PYIQA), encoder.mlp_backward, [normal(2, 5, 12), BLOCK["mlp"]]),
    "block": of_valid_rows(
        lambda z, valid, params: encoder.block(z, attention.allowed_pairs(valid), params, OFFICIAL),
        encoder.block_backward,
        BLOCK,
    ),
    "encoder": of_valid_rows(
        lambda z, valid, params: encoder.encoder(z, valid, params, PYIQA), encoder.encoder_backward, PARAMS["encoder"]
    ),
    "head": Case(head.head, head.head_backward, [normal(2, 3, 12), PARAMS["head"]]),
    "expected_score": Case(score_only, head.expected_score_backward, [normal(2, 5)]),
    "expected_score of one output": Case(score_only, head.expected_score_backward, [normal(3, 1)]),
}

HOST_OPS = {
    **{
        f"resize {kind} {new}": Case(
            lambda x, kind=kind, new=new: (resize.resize(x, *new, kind), x.shape),
            lambda dy, shape, kind=kind: resize.resize_backward(dy, shape, kind),
            [normal(11, 7, 3)],
        )
        for kind in ("gaussian", "bicubic")
        for new in ((5, 4), (13, 16), (11, 7))
    },
    "extract_patches": Case(
        lambda x: (patches.extract_patches(x, 4), x.shape[:2]),
        lambda dy, size: patches.extract_patches_backward(dy, *size),
        [normal(7, 10, 3)],
    ),
    **{
        f"tokenize {name}": pixels_to_patches(CONFIG.replace(conventions=conventions))
        for name, conventions in CONVENTIONS.items()
    },
    "tokenize, cut short": pixels_to_patches(CONFIG.replace(max_native_patches=3)),
}
"""Pairs that run on the host only: from pixels to patches."""
