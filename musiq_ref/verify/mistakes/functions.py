"""The library's functions as people get them wrong; each has the signature of the one it stands in for."""

from __future__ import annotations

import math

import numpy as np
from scipy.sparse import csr_array

from musiq_ref.image import hash as hashing
from musiq_ref.image import patches, resize, tokenize
from musiq_ref.model import attention, embeddings, encoder, head
from musiq_ref.ops import activation, convolution, group_norm, layer_norm, linear, max_pool, softmax
from musiq_ref.ops import weight_standardization as standardization

# The library's own functions, because some names of theirs are replaced while a fault is planted.
_MERGE, _EXPECTED_SCORE, _BLOCK_NAMES = attention.merge, head.expected_score, encoder.block_names
_TOKENIZE_BACKWARD = tokenize.tokenize_backward

# --- pixels ---------------------------------------------------------------------------------------------------------


def filter_matrix(kernel, support: float, antialias: bool):
    """A function (n_in, n_out, dtype) -> matrix for any filter kernel at half-pixel centres."""

    def matrix(n_in, n_out, dtype="float64"):
        wide = max(n_in / n_out, 1) if antialias else 1
        centre = (np.arange(n_out) + 0.5) * (n_in / n_out) - 0.5
        tap = np.floor(centre)[:, None].astype(int) + np.arange(
            -math.ceil(support * wide), math.ceil(support * wide) + 2
        )
        weight = kernel((tap - centre[:, None]) / wide)
        if antialias:
            weight = np.where((tap < 0) | (tap >= n_in), 0, weight)
        weight = (weight / weight.sum(axis=1, keepdims=True)).astype(dtype)
        rows = np.repeat(np.arange(n_out), tap.shape[1])
        return csr_array((weight.ravel(), (rows, np.clip(tap, 0, n_in - 1).ravel())), shape=(n_out, n_in))

    return matrix


def triangle(d):
    return np.maximum(1 - np.abs(d), 0)


def box(d):
    return ((d >= -0.5) & (d < 0.5)).astype(float)


def cubic(a: float):
    def kernel(d):
        d = np.abs(d)
        near = ((a + 2) * d - (a + 3)) * d * d + 1
        return np.where(d <= 1, near, np.where(d < 2, ((a * d - 5 * a) * d + 8 * a) * d - 4 * a, 0))

    return kernel


def gaussian(d):
    return np.where(np.abs(d) < 1.5, np.exp(-2 * d * d), 0)


def corner_aligned(n_in, n_out, dtype="float64"):
    """Bilinear with align_corners=True."""
    centre = np.arange(n_out) * ((n_in - 1) / max(n_out - 1, 1))
    left = np.minimum(np.floor(centre).astype(int), max(n_in - 2, 0))
    t = centre - left
    rows = np.repeat(np.arange(n_out), 2)
    tap = np.stack([left, np.minimum(left + 1, n_in - 1)], axis=1)
    return csr_array((np.stack([1 - t, t], 1).astype(dtype).ravel(), (rows, tap.ravel())), shape=(n_out, n_in))


def resize_unless_same(image, height, width, kind="gaussian"):
    return image if image.shape[:2] == (height, width) else resize.resize(image, height, width, kind)


def resize_in_8_bit(image, height, width, kind="gaussian"):
    levels = resize.resize((image + 1) * image.dtype.type(127.5), height, width, kind)
    return np.clip(np.rint(levels), 0, 255) / image.dtype.type(127.5) - 1


def in_0_1(image, dtype="float32"):
    return image.astype(dtype) / np.dtype(dtype).type(255)


def in_0_255(image, dtype="float32"):
    return image.astype(dtype)


def imagenet_normalised(image, dtype="float32"):
    mean, std = np.array([0.485, 0.456, 0.406], dtype), np.array([0.229, 0.224, 0.225], dtype)
    return (in_0_1(image, dtype) - mean) / std


def bgr(image, dtype="float32"):
    return -1 + 2 * in_0_1(image[..., ::-1], dtype)


def sides_with(rounding):
    """`resized_sides` in float64 with another rounding."""

    def sides(height, width, longer_side, arithmetic="float32"):
        ratio = longer_side / max(height, width)
        return max(int(rounding(height * ratio)), 1), max(int(rounding(width * ratio)), 1)

    return sides


# --- patches and tokens ---------------------------------------------------------------------------------------------


def padded_at_the_end(image, patch_size):
    P = patch_size
    h, w = (-(-n // P) * P for n in image.shape[:2])
    return patches.extract_patches(np.pad(image, ((0, h - image.shape[0]), (0, w - image.shape[1]), (0, 0))), P)


def padded_with_black(image, patch_size):
    """Zero padding before the normalisation, which makes it −1."""
    return patches.extract_patches(image + 1, patch_size) - 1


def padded_with_edge(image, patch_size):
    sides = [patches.same_padding(n, patch_size, patch_size) for n in image.shape[:2]]
    return patches.extract_patches(np.pad(image, (*sides, (0, 0)), mode="edge"), patch_size)


def without_padding(image, patch_size):
    """Pixels beyond the last whole patch are thrown away and come back as zeros: a floor instead of a ceil."""
    h, w = (max(n // patch_size, 1) * patch_size for n in image.shape[:2])
    kept = np.zeros_like(image)
    kept[:h, :w] = image[:h, :w]
    return patches.extract_patches(kept, patch_size)


def channel_first(image, patch_size):
    """Values laid out channel, row, column, and read as row, column, channel."""
    tiles = patches.extract_patches(image, patch_size)
    return np.moveaxis(tiles, -1, -3).reshape(tiles.shape)


def columns_first(image, patch_size):
    """Patches column by column."""
    tiles = patches.extract_patches(image, patch_size)
    rows, columns = patches.patch_grid(image.shape[0], image.shape[1], patch_size)
    return tiles.reshape(rows, columns, *tiles.shape[1:]).swapaxes(0, 1).reshape(tiles.shape)


def scales_changed(change):
    """`scales_of` with its list passed through `change`."""
    original = tokenize.scales_of
    return lambda height, width, config: change(original(height, width, config))


def half_pixel_hash(n, grid_size, rule="floor"):
    return np.minimum(((np.arange(n) + 0.5) * grid_size / n).astype(np.int64), grid_size - 1)


def integer_hash(n, grid_size, rule="floor"):
    return np.minimum(np.arange(n) * grid_size // n, grid_size - 1)


def corner_hash(n, grid_size, rule="floor"):
    """First patch in the first cell, last patch in the last."""
    return np.rint(np.arange(n) * ((grid_size - 1) / max(n - 1, 1))).astype(np.int64)


def transposed_hash(rows, columns, grid_size, rule="floor"):
    t_row, t_column = hashing.hash_axis(rows, grid_size, rule), hashing.hash_axis(columns, grid_size, rule)
    return (t_column[None] * grid_size + t_row[:, None]).ravel()


def batch_changed(change):
    """`batch` with its tokens passed through `change`."""
    original = tokenize.batch
    return lambda tokens: change(original(tokens))


def padding_last(tokens):
    order = np.argsort(~tokens.mask[0].astype(bool), kind="stable")
    return tokenize.Tokens(*(a[:, order] for a in tokens))


def nothing_masked(tokens):
    return tokens._replace(mask=np.ones_like(tokens.mask))


def mask_upside_down(tokens):
    return tokens._replace(mask=~tokens.mask.astype(bool))


# --- stem -----------------------------------------------------------------------------------------------------------


def not_standardised(kernel, ddof=0):
    return kernel, None


def only_centred(kernel, ddof=0):
    return kernel - kernel.mean(axis=(0, 1, 2), keepdims=True), None


def standardised_without_eps(kernel, ddof=0):
    centred = kernel - kernel.mean(axis=(0, 1, 2), keepdims=True)
    return centred / np.sqrt((centred * centred).mean(axis=(0, 1, 2), keepdims=True)), None


def standardised_as_a_whole(kernel, ddof=0):
    return (kernel - kernel.mean()) / (kernel.std() + standardization.EPS), None


def standardised_with_eps_inside(kernel, ddof=0):
    """ε under the root, as BatchNorm has it: 1e-5 is then a variance."""
    centred = kernel - kernel.mean(axis=(0, 1, 2), keepdims=True)
    return centred / np.sqrt((centred * centred).mean(axis=(0, 1, 2), keepdims=True) + standardization.EPS), None


def evenly_padded(x, kernel, stride=1):
    """padding=size//2 on both sides, as a PyTorch layer has it."""
    size = kernel.shape[0]
    if size == 1:
        return convolution.convolution(x, kernel, stride)
    padded = np.pad(x, ((0, 0), (size // 2,) * 2, (size // 2,) * 2, (0, 0)))
    columns = convolution.windows(padded, size, stride)
    y = columns.reshape(-1, size * size * x.shape[-1]) @ kernel.reshape(-1, kernel.shape[-1])
    return y.reshape(*columns.shape[:3], -1), None


def flipped(x, kernel, stride=1):
    return convolution.convolution(x, kernel[::-1, ::-1], stride)


def pool_evenly_padded(x, size=3, stride=2):
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-math.inf)
    return convolution.windows(padded, size, stride).max(axis=(3, 4)), None


def average_pool(x, size=3, stride=2):
    view = convolution.windows(convolution.pad_same(x, size, stride), size, stride)
    return view.mean(axis=(3, 4)), None


def groups(count):
    return lambda x, gamma, beta, eps, groups=32: group_norm.group_norm(x, gamma, beta, eps, count)


def strided_groups(x, gamma, beta, eps, groups=32):
    """A group is channels c, c + G, c + 2G, …"""
    order = np.arange(x.shape[-1]).reshape(-1, groups).T.ravel()
    back = np.argsort(order)
    y, _ = group_norm.group_norm(x[..., order], np.ones_like(gamma), np.zeros_like(beta), eps, groups)
    return gamma * y[..., back] + beta, None


# --- embeddings -----------------------------------------------------------------------------------------------------


def features_channel_first(features, params):
    """Features flattened as channel, row, column before the linear layer."""
    flat = np.moveaxis(features, -1, -3).reshape(*features.shape[:-3], -1)
    return linear.linear(flat, params["kernel"], params["bias"])[0], None


def embed_without(what):
    """`embed` with one of its tables taken as zero."""

    def embed(x, hash_index, scale_index, params, config, tap=None, noise=None):
        zeroed = {**params, what: {"table": 0 * params[what]["table"]}} if what in params else params
        return embeddings.embed(x, hash_index, scale_index, zeroed, config, tap or (lambda n, a: a), noise)

    return embed


def class_token_placed(x, hash_index, scale_index, params, config, tap=None, noise=None):
    """The class token gets the first row of both tables, too."""
    extra = params["spatial_embedding"]["table"][0] + params["scale_embedding"]["table"][0]
    changed = {**params, "class_token": params["class_token"] + extra}
    return embeddings.embed(x, hash_index, scale_index, changed, config, tap or (lambda n, a: a), noise)


# --- encoder --------------------------------------------------------------------------------------------------------


def norm_with(eps=1e-6, ddof=0, root_then_eps=False):
    """`layer_norm` with another ε or divisor."""

    def norm(x, gamma, beta, _eps=1e-6):
        if not ddof and not root_then_eps:
            return layer_norm.layer_norm(x, gamma, beta, eps)
        centred = x - x.mean(axis=-1, keepdims=True)
        sigma = np.sqrt(
            (centred * centred).sum(axis=-1, keepdims=True) / (x.shape[-1] - ddof) + (0 if root_then_eps else eps)
        )
        return gamma * centred / (sigma + (eps if root_then_eps else 0)) + beta, None

    return norm


def post_norm_block(z, allowed, params, conventions, tap=None, noise=None, rate=0.0):
    """z′ = LN(MSA(z) + z);  z″ = LN(MLP(z′) + z′): the original Transformer's order."""
    tap = tap or (lambda name, array: array)
    inner = lambda part: lambda name, array: tap(f"{part}/{name}", array)  # noqa: E731
    x, _ = attention.attention(tap("norm1", z), allowed, params["attention"], conventions, inner("attention"))
    z, _ = encoder.norm(tap("residual1", z + x), params["norm1"])
    x, _ = encoder.mlp(tap("norm2", z), params["mlp"], conventions, inner("mlp"))
    z, _ = encoder.norm(z + x, params["norm2"])
    return tap("output", z), None


def residual_from_the_norm(z, allowed, params, conventions, tap=None, noise=None, rate=0.0):
    """z′ = MSA(n) + n,  n = LN(z): the branch is added to the normalised input."""
    tap = tap or (lambda name, array: array)
    inner = lambda part: lambda name, array: tap(f"{part}/{name}", array)  # noqa: E731
    n, _ = encoder.norm(z, params["norm1"])
    x, _ = attention.attention(tap("norm1", n), allowed, params["attention"], conventions, inner("attention"))
    z = tap("residual1", n + x)
    n, _ = encoder.norm(z, params["norm2"])
    x, _ = encoder.mlp(tap("norm2", n), params["mlp"], conventions, inner("mlp"))
    return tap("output", n + x), None


def heads_interleaved(z, params):
    """The width split into (D_h, H) instead of (H, D_h)."""
    D, H, D_h = params["kernel"].shape
    y, _ = linear.linear(z, params["kernel"].reshape(D, -1), params["bias"].reshape(-1))
    return np.moveaxis(y.reshape(*z.shape[:-1], D_h, H), -1, 1), None


def merged_interleaved(heads, params):
    """The heads' values woven together instead of side by side."""
    D = params["kernel"].shape[-1]
    flat = np.moveaxis(heads, 1, -1).reshape(heads.shape[0], -1, D)
    return linear.linear(flat, params["kernel"].reshape(-1, D), params["bias"])[0], None


def merged_transposed(heads, params):
    D = params["kernel"].shape[-1]
    flat = heads.swapaxes(1, 2).reshape(heads.shape[0], -1, D)
    return linear.linear(flat, params["kernel"].reshape(D, D).T, params["bias"])[0], None


def merged_without_bias(heads, params):
    return _MERGE(heads, {**params, "bias": 0 * params["bias"]})


def not_masked(x, allowed, how, value):
    return x, (allowed, how)


def masked_by_key(x, allowed, how, value):
    keys = np.broadcast_to(allowed.any(axis=-2, keepdims=True), allowed.shape)
    return softmax.mask_logits(x, keys, how, value)


def masked_weakly(x, allowed, how, value):
    return softmax.mask_logits(x, allowed, "add", -1.0)


def softmax_over_queries(x):
    y, _ = softmax.softmax(x.swapaxes(-1, -2))
    return y.swapaxes(-1, -2), None


def quick_gelu(x):
    return x / (1 + np.exp(-1.702 * x)), None


def relu(x):
    return activation.relu(x)[0], None


def silu(x):
    return x / (1 + np.exp(-x)), None


def one_block_less(params):
    return _BLOCK_NAMES(params)[:-1]


# --- head and score -------------------------------------------------------------------------------------------------


def last_token(y, params, tap=None):
    return head.head(y[:, ::-1], params, tap or (lambda name, array: array))


def head_without_bias(y, params, tap=None):
    return head.head(y, {**params, "bias": 0 * params["bias"]}, tap or (lambda name, array: array))


def score_with(probabilities=None, score=None):
    """`expected_score` with another rule for the probabilities or for the score."""

    def expected(logits):
        if logits.shape[-1] == 1:
            return _EXPECTED_SCORE(logits)
        p = (probabilities or (lambda x: softmax.softmax(x)[0]))(logits)
        k = np.arange(1, p.shape[-1] + 1, dtype=p.dtype)
        return head.Expected((score or (lambda p, k: (p * k).sum(axis=-1)))(p, k), p), softmax.softmax(logits)

    return expected


# --- gradients ------------------------------------------------------------------------------------------------------


def straight_through(dy, cache):
    """The kernel's gradient as if it had not been standardised."""
    return dy


def constant_statistics(dy, cache):
    _, sigma, _ = cache
    return dy / (sigma + standardization.EPS)


def half_image_gradient(dpatches, height, width, config):
    return _TOKENIZE_BACKWARD(dpatches, height, width, config) / 2


def native_gradient_only(dpatches, height, width, config):
    kept = dpatches.copy()
    start = 0
    for scale in tokenize.scales_of(height, width, config):
        if scale.longer_side:
            kept[start : start + scale.length] = 0
        start += scale.length
    return _TOKENIZE_BACKWARD(kept, height, width, config)


def unprojected(dy, cache):
    """layer_norm_backward that takes the mean and the deviation for constants."""
    _, rho, gamma = cache
    return dy * gamma * rho, *layer_norm.layer_norm_backward(dy, cache)[1:]


def pool_gradient_everywhere(dy, cache):
    """The gradient to every place that equals the maximum."""
    padded, y, shape, size, stride = cache
    dpadded = np.zeros_like(padded)
    shifts = zip(
        max_pool._shifts(padded, shape, size, stride), max_pool._shifts(dpadded, shape, size, stride), strict=True
    )
    for here, d in shifts:
        d += dy * (here == y)
    return convolution.unpad_same(dpadded, shape, size, stride)
