"""Scoring without gradients: the same functions of the same parameters, arranged to need little memory and time.

Nothing is kept for a backward, padded tokens are left out (they are masked, so nothing depends on them), the stem works
through the patches in chunks, and attention through the queries in blocks. NumPy arrays go through `model.by_team`,
faster; those of other libraries, NumPy's where BLAS does not let its threads be counted, and models with a Linformer or
Performer, through the functions below, which call the fused ops that a GPU has kernels for, and take several images at
once.
`model.musiq.forward` says what is computed; the tests compare the two.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

from musiq_ref.backend import NUMPY, Array, Backend, namespace, on_host
from musiq_ref.config import Conventions, MusiqConfig
from musiq_ref.image.tokenize import Tokens
from musiq_ref.model.attention import allowed_keys, project
from musiq_ref.model.by_team import logits_by_team
from musiq_ref.model.check import check_fit, check_tokens
from musiq_ref.model.efficient import efficient_msa
from musiq_ref.model.embeddings import embed, patch_embedding
from musiq_ref.model.encoder import block_names
from musiq_ref.model.folded import Folded, fold
from musiq_ref.model.head import head
from musiq_ref.model.parameters import Params, check_params, flatten
from musiq_ref.model.places import Places, places, valid_tokens
from musiq_ref.model.stem import BLOCK_EPS, ROOT_EPS
from musiq_ref.ops.activation import relu
from musiq_ref.ops.convolution import convolution
from musiq_ref.ops.fused import attend, bias_gelu, bias_residual_layer_norm, group_norm_relu, product
from musiq_ref.ops.group_norm import group_norm
from musiq_ref.ops.layer_norm import layer_norm
from musiq_ref.ops.max_pool import max_pool
from musiq_ref.ops.weight_standardization import standardize
from musiq_ref.team import ONE_THREAD

PATCHES = 32  # patches that the stem takes at a time
PATCHES_ON_DEVICE = 512  # the same on a device, where starting a kernel costs more than a small one takes
REPEATED = 2048  # patches at most of what a device repeats


def predict(
    params: Params | Folded,
    tokens: Tokens,
    config: MusiqConfig,
    backend: Backend = NUMPY,
    progress: Callable[[float], object] | None = None,
    threads: int | None = None,
) -> Array:
    """The logits (C,) of one image, equal to `forward`'s to rounding.

    params: arrays of the backend, or what `model.folded.fold` makes of NumPy arrays, which saves time from the second
        image on
    tokens: (N, …) from `tokenize`: NumPy arrays, of which the patches may lie where the backend is
    progress: called with the share that is done, 0 … 1
    threads: that compute, NumPy alone; None for as many as BLAS may use
    returns an array of the backend

    With the same number of threads the result is the same to the bit, with another the same to rounding.

    >>> import numpy as np
    >>> import musiq_ref as mq
    >>> config = mq.MusiqConfig.preset("tiny", outputs=10)
    >>> tokens = mq.tokenize(np.zeros((60, 80, 3), np.uint8), config)
    >>> predict(mq.init_params(config), tokens, config).shape
    (10,)
    """
    plain = params.params if isinstance(params, Folded) else params
    dtype, say = check_tokens(plain, tokens, config, axes=1), progress or _silent
    if not tokens.mask.any():
        raise ValueError("all tokens are masked; there is nothing to score")
    if on_host(plain["class_token"]) and config.attention == "softmax":
        with ONE_THREAD as before:
            if before:
                folded = params if isinstance(params, Folded) else fold(params, config)
                return logits_by_team(folded, tokens, config, threads or before, say)
    return _packed(plain, [tokens], config, backend, dtype, say)[0]


def predict_packed(params: Params, tokens: Sequence[Tokens], config: MusiqConfig, backend: Backend) -> Array:
    """The logits (B, C) of several images of any sizes at once, one after another and without padding.

    All tokens go through every layer together, but attend only to those of their own image: on a device it takes a few
    launches for every layer, not for every image. The arguments are otherwise those of `predict`.

    >>> import numpy as np
    >>> import musiq_ref as mq
    >>> config = mq.MusiqConfig.preset("tiny", outputs=10)
    >>> tokens = [mq.tokenize(np.zeros((60, 80 + i, 3), np.uint8), config) for i in range(3)]
    >>> predict_packed(mq.init_params(config), tokens, config, NUMPY).shape
    (3, 10)
    """
    dtype = check_params(params, config)
    for one in tokens:
        check_fit(one, config, axes=1)
    if not tokens or not all(one.mask.any() for one in tokens):
        raise ValueError("there is nothing to score: no image, or one of which all tokens are masked")
    return _packed(params, tokens, config, backend, dtype, _silent)


def _packed(params, images: Sequence[Tokens], config: MusiqConfig, backend: Backend, dtype, say):
    """As `predict_packed`. Padding goes to the device, too, where leaving it out takes no time."""
    counts, rows, hashes, scales = valid_tokens(images)
    together = places(counts) if len(images) > 1 else None

    def run(patches, rows, hashes, scales, say=_silent):
        there = together and together.moved(backend.from_numpy)
        return _logits(params, patches, rows, hashes, scales, there, config, dtype, say, backend.from_numpy)

    with backend.guard():
        if backend.repeat and not together and repeatable(config, len(rows)):
            found = backend.repeat(run, (_lying(params), config), (images[0].patches, rows, hashes, scales))
            say(1.0)  # once: `run` may be called twice, or not at all
            return found
        patches = images[0].patches  # what is still here goes there chunk by chunk, while the one before is computed
        if together:
            pieces = [backend.from_numpy(one.patches) for one in images]
            patches = namespace(pieces[0]).concatenate(pieces)
        rows = rows if on_host(patches) else backend.from_numpy(rows)
        return run(patches, rows, backend.from_numpy(hashes), backend.from_numpy(scales), say)


def repeatable(config: MusiqConfig, patches: int) -> bool:
    """Whether it pays, and is right, to let `Backend.repeat` pass so many patches through the model.

    Of many, the kernels take more time than their start; a sinusoidal table and a Performer's draws are uploaded anew.
    """
    return patches <= REPEATED and config.attention == "softmax" and config.spatial != "sinusoidal"


def _lying(params: Params) -> Hashable:
    """Where on a device all parameters lie, and how: a graph holds their addresses, and reads what is there now.

    All, as models share arrays: training that freezes some makes others anew. A freed array's address may be another's.
    """
    return tuple((array.dtype.str, array.data.ptr, array.strides) for _, array in flatten(params))


def _silent(share: float) -> None:
    """Tells nobody."""


def _logits(params: Params, patches, rows, hashes, scales, together: Places | None, config, dtype, say, move):
    """(B, C), in any array library. The images have N tokens together, and with their class tokens T = N + B.

    Biases are added where the next op has a kernel that does it in passing.

    patches: (…, P, P, 3), of which rows (N,) are those of the tokens; both there, or both still to move
    hashes, scales: (N,)
    move: brings arrays there
    """
    encoder, names = params["encoder"], block_names(params["encoder"])
    steps = 1 + len(names)
    x = _patch_embeddings(patches, rows, params, config, dtype, lambda share: say(share / steps), move)  # (N, D)
    z, _ = embed(x[None], hashes[None], scales[None], params, config)  # (1, 1 + N, D)
    if together:
        z = z[:, together.source]  # (1, T, D)
    y, _ = layer_norm(z, *_affine(encoder[names[0]]["norm1"]))
    for i, name in enumerate(names, 1):
        say(i / steps)
        p, norm = encoder[name], encoder[names[i]]["norm1"] if i < len(names) else encoder["norm"]
        x, bias = _attention(y, p["attention"], config, together)
        (z, y), _ = bias_residual_layer_norm(x, bias, z, *_affine(p["norm2"]))
        x, bias = _mlp(y, p["mlp"], config.conventions)
        (z, y), _ = bias_residual_layer_norm(x, bias, z, *_affine(norm))
    logits, _ = head(y[0][together.first][:, None] if together else y, params["head"])
    say(1.0)
    return logits


def _patch_embeddings(patches, rows, params: Params, config: MusiqConfig, dtype, say: Callable[[float], object], move):
    """Stem and patch embedding of some rows, chunk by chunk, in smaller ones if memory does not suffice: (N, D)."""
    kernels = _kernels(params, config)
    size, start, chunks = PATCHES if on_host(params["class_token"]) else PATCHES_ON_DEVICE, 0, []
    while start < len(rows):
        say(start / len(rows))
        try:
            chunk = move(patches[rows[start : start + size]]).astype(dtype)
            features = _stem(chunk, params["stem"], kernels) if kernels else chunk
            chunks.append(patch_embedding(features, params["patch_embedding"])[0])
            start += size
        except MemoryError:
            if size == 1:
                raise
            size //= 2
    return namespace(chunks[0]).concatenate(chunks)


def _kernels(params: Params, config: MusiqConfig) -> dict[str, Array]:
    """The standardised kernels of the stem's convolutions; none of the linear stem."""
    stem = params["stem"] if config.stem == "resnet" else {}
    ddof = config.conventions.weight_std_ddof
    return {name: standardize(p["kernel"], ddof)[0] for name, p in stem.items() if "kernel" in p}


def _stem(patches, params: Params, kernels: dict[str, Array]):
    """`stem` of (N, P, P, 3), keeping nothing, with GroupNorm and the ReLU after it as one op."""

    def norm(number: str, x, op=group_norm_relu, stride=1, eps=BLOCK_EPS):
        return op(convolution(x, kernels[f"conv{number}"], stride)[0], *_affine(params[f"gn{number}"]), eps)[0]

    x, _ = max_pool(norm("_root", patches, stride=2, eps=ROOT_EPS))  # (N, P/4, P/4, 64)
    shortcut = norm("_proj", x, group_norm)  # (N, P/4, P/4, 256)
    x = norm("3", norm("2", norm("1", x)), group_norm)
    return relu(x + shortcut)[0]


def _affine(norm: Params):
    return norm["scale"], norm["bias"]


def _mlp(z, params: Params, conventions: Conventions):
    """MLP of (1, T, D) but for its last bias, and that."""
    active, _ = bias_gelu(product(z, params["fc1"]["kernel"]), params["fc1"]["bias"], conventions.gelu)
    return product(active, params["fc2"]["kernel"]), params["fc2"]["bias"]


def _attention(z, params: Params, config: MusiqConfig, together: Places | None):
    """MSA of (1, T, D) but for its last bias, and that, each image by itself."""
    xp, bias = namespace(z), params["out"]["bias"]
    msa = efficient_msa(config)

    def attended(z, valid):
        """Heads side by side of (b, M, D): (b, M, H·D_h); with a Linformer or Performer, MSA but for its last bias."""
        if msa:
            without = {**params, "out": {**params["out"], "bias": xp.zeros_like(bias)}}
            allowed = allowed_keys(xp.ones(z.shape[:2], bool) if valid is None else valid)
            return msa[0](z, allowed, without, config.conventions)[0]
        q, k, v = (project(z, params[name])[0] for name in ("query", "key", "value"))  # (b, H, M, D_h)
        heads, _ = attend(q, k, v, valid)
        return heads.swapaxes(1, 2).reshape(*z.shape[:2], -1)

    if together:
        groups = [attended(z[0][table], valid) for table, valid in together.groups]
        y = xp.concatenate([y.reshape(-1, y.shape[-1]) for y in groups])[together.back][None]
    else:
        y = attended(z, None)
    return (y if msa else product(y, params["out"]["kernel"].reshape(-1, y.shape[-1]))), bias
