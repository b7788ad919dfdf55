"""The catalogue of what real ports do otherwise: other programs' conventions, and bugs, in the order of the ladder."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from musiq_ref.backend import Array
from musiq_ref.config import MusiqConfig
from musiq_ref.image import hash as hashing
from musiq_ref.image import resize, tokenize
from musiq_ref.model import attention, encoder, head, musiq, stem
from musiq_ref.ops import activation
from musiq_ref.verify.mistakes import functions as wrong
from musiq_ref.verify.mistakes.plant import Fault, Tap


def _filter(matrix: Any) -> tuple[tuple[Any, str, Any], ...]:
    return ((resize, "FILTER", {"gaussian": matrix, "bicubic": matrix}),)


def _sides(function: Any) -> tuple[tuple[Any, str, Any], ...]:
    return ((resize, "resized_sides", function), (tokenize, "resized_sides", function))


def _block(function: Any) -> tuple[tuple[Any, str, Any], ...]:
    plain = {kind: parts._replace(block=function) for kind, parts in musiq.PLAIN.items()}
    return ((musiq, "PLAIN", plain),)


def _gelu(function: Any) -> tuple[tuple[Any, str, Any], ...]:
    return ((encoder, "GELU", {kind: (function, None) for kind in ("tanh", "erf")}),)


def _at(end: str, change: Callable[[Array, dict[str, Array], MusiqConfig], Array]) -> Tap:
    return lambda name, array, seen, config: change(array, seen, config) if name.endswith(end) else array


def _dropped(array: Array, rate: float) -> Array:
    keep = np.random.default_rng().random(array.shape) >= rate
    return array * (keep / (1 - rate)).astype(array.dtype)


def looks_dropped(reference: np.ndarray, mine: np.ndarray) -> bool:
    """Whether some values are 0, and all others one factor too large, the factor that goes with that share.

    >>> looks_dropped(np.ones(8), np.array([2.0, 0, 2, 0, 0, 2, 2, 0]))
    True
    """
    used = np.abs(reference) > 1e-3 * np.abs(reference).max()
    ratio = mine[used] / reference[used]
    kept = ratio[ratio != 0]
    if kept.size in (0, ratio.size):
        return False
    factor = float(np.median(kept))
    share = 1 - kept.size / ratio.size
    return bool(np.abs(kept / factor - 1).max() < 1e-2) and factor > 1 and abs(1 - 1 / factor - share) < 0.05


def _latest(seen: dict[str, Array], end: str) -> Array:
    """The last stage seen whose name ends so."""
    return next(seen[name] for name in reversed(list(seen)) if name.endswith(end))


S0, B0 = "pixels/scale_*", "encoder/block_00/"

_ALL = [
    # pixels
    Fault("float64 rounding of sides", "compute the resized sides in float32, as the authors do", "integers/sides",
          "resized sides", {"resized_sides": "float64"}),
    Fault("float32 rounding of sides", "compute the resized sides in float64", "integers/sides",
          "resized sides", {"resized_sides": "float32"}),
    Fault("sides cut off, not rounded", "round the resized sides half to even", "integers/sides", "resized sides",
          patches=_sides(wrong.sides_with(math.floor))),
    Fault("sides rounded half up", "round the resized sides half to even (np.rint)", "integers/sides", "resized sides",
          patches=_sides(wrong.sides_with(lambda x: math.floor(x + 0.5)))),
    Fault("sides rounded up", "round the resized sides half to even", "integers/sides", "resized sides",
          patches=_sides(wrong.sides_with(math.ceil))),
    Fault("gaussian resize", "resize with PyTorch's bicubic filter", S0, "resize", {"resize": "gaussian"}),
    Fault("bicubic resize", "resize with the authors' Gaussian filter", S0, "resize", {"resize": "bicubic"}),
    Fault("antialiased bicubic", "switch antialiasing off, and use the authors' filter", S0, "resize",
          patches=_filter(wrong.filter_matrix(wrong.cubic(-0.5), 2, True))),
    Fault("bicubic with a = −0.5", "use the filter of the reference", S0, "resize",
          patches=_filter(wrong.filter_matrix(wrong.cubic(-0.5), 2, False))),
    Fault("bilinear resize", "use the filter of the reference", S0, "resize",
          patches=_filter(wrong.filter_matrix(wrong.triangle, 1, False))),
    Fault("antialiased bilinear", "switch antialiasing off, and use the filter of the reference", S0, "resize",
          patches=_filter(wrong.filter_matrix(wrong.triangle, 1, True))),
    Fault("bilinear with aligned corners", "use half-pixel centres and the filter of the reference", S0, "resize",
          patches=_filter(wrong.corner_aligned)),
    Fault("nearest-neighbour resize", "use the filter of the reference", S0, "resize",
          patches=_filter(wrong.filter_matrix(wrong.box, 1, False))),
    Fault("antialiased gaussian", "switch antialiasing off", S0, "resize",
          patches=_filter(wrong.filter_matrix(wrong.gaussian, 1.5, True))),
    Fault("skipped same-size blur", "apply the filter even when the size stays the same", "pixels/scale_*", "resize",
          patches=((tokenize, "resize", wrong.resize_unless_same),), under={"resize": "gaussian"}),
    Fault("resized in 8 bit", "resize in floating point, after the normalisation", S0,
          patches=((tokenize, "resize", wrong.resize_in_8_bit),)),
    Fault("[0, 1] input", "normalise to −1 … 1: x = 2·u/255 − 1", S0,
          patches=((tokenize, "normalize", wrong.in_0_1),)),
    Fault("[0, 255] input", "normalise to −1 … 1: x = 2·u/255 − 1", S0,
          patches=((tokenize, "normalize", wrong.in_0_255),)),
    Fault("ImageNet normalisation", "normalise to −1 … 1: x = 2·u/255 − 1", S0,
          patches=((tokenize, "normalize", wrong.imagenet_normalised),)),
    Fault("BGR", "give the channels as red, green, blue (OpenCV reads blue first)", S0,
          patches=((tokenize, "normalize", wrong.bgr),)),
    # patches
    Fault("channel-first patches", "order a patch's values row, column, channel", "patches",
          patches=((tokenize, "extract_patches", wrong.channel_first),)),
    Fault("patches column by column", "order the patches row by row", "patches",
          patches=((tokenize, "extract_patches", wrong.columns_first),)),
    Fault("padding at the right and bottom only", 'pad "SAME": the smaller half before', "patches",
          patches=((tokenize, "extract_patches", wrong.padded_at_the_end),)),
    Fault("padded before the normalisation", "pad with 0 after the normalisation", "patches",
          patches=((tokenize, "extract_patches", wrong.padded_with_black),)),
    Fault("padded by repeating the edge", "pad with 0", "patches",
          patches=((tokenize, "extract_patches", wrong.padded_with_edge),)),
    Fault("incomplete patches dropped", "pad the last row and column of patches instead", "patches",
          patches=((tokenize, "extract_patches", wrong.without_padding),)),
    # tokens
    Fault("native first", "put the native image last", "layout", "scale order", {"scale_order": "native_first"}),
    Fault("native last", "put the native image first", "layout", "scale order", {"scale_order": "native_last"}),
    Fault("missing native scale", "add the native image as the last scale", "layout",
          patches=((tokenize, "scales_of", wrong.scales_changed(lambda s: [x for x in s if x.longer_side] or s)),)),
    Fault("third scale embedding unused", "give the native image the last row of the scale table", "scale_index",
          patches=((tokenize, "scales_of", wrong.scales_changed(
              lambda s: [x._replace(scale_index=min(x.scale_index, max(len(s) - 2, 0))) for x in s])),)),
    Fault("scales numbered from the native one", "number the scales by size, the native one last", "scale_index",
          patches=((tokenize, "scales_of", wrong.scales_changed(
              lambda s: [x._replace(scale_index=(x.scale_index + 1) % len(s)) for x in s])),)),
    Fault("scales numbered backwards", "number the scales by size, the native one last", "scale_index",
          patches=((tokenize, "scales_of", wrong.scales_changed(
              lambda s: [x._replace(scale_index=len(s) - 1 - x.scale_index) for x in s])),)),
    Fault("padding all at the end", "pad every scale to its own length", "hash_index",
          patches=((tokenize, "batch", wrong.batch_changed(wrong.padding_last)),)),
    Fault("padding not marked in the mask", "set the mask to 0 at padded tokens", "mask",
          patches=((tokenize, "batch", wrong.batch_changed(wrong.nothing_masked)),)),
    Fault("mask upside down", "1 means valid (PyTorch's key_padding_mask is the opposite)", "mask",
          patches=((tokenize, "batch", wrong.batch_changed(wrong.mask_upside_down)),)),
    Fault("rounded hash", "round the hash down", "integers/hash", "hash", {"hash": "round"}),
    Fault("hash rounded down", "round the hash to the nearest", "integers/hash", "hash", {"hash": "floor"}),
    Fault("half-pixel hash", "hash the index of a patch, not its centre", "integers/hash", "hash",
          patches=((hashing, "hash_axis", wrong.half_pixel_hash),)),
    Fault("integer hash", "compute i·(G/n) in float32, as the authors do", "integers/hash", "hash",
          patches=((hashing, "hash_axis", wrong.integer_hash),)),
    Fault("hash from corner to corner", "scale by G/n, not by (G − 1)/(n − 1)", "integers/hash", "hash",
          patches=((hashing, "hash_axis", wrong.corner_hash),)),
    Fault("transposed hash", "the index is row·G + column", "hash_index", "hash",
          patches=((tokenize, "hash_index", wrong.transposed_hash),)),
    # stem
    Fault("unbiased std", "divide by n (torch.std and var need correction=0)", "stem/conv_root/standardized",
          "weight std", {"weight_std_ddof": 1}),
    Fault("biased std", "divide by n − 1", "stem/conv_root/standardized", "weight std", {"weight_std_ddof": 0}),
    Fault("no weight standardisation", "standardise every kernel of the stem", "stem/conv_root/standardized",
          "weight std", patches=((stem, "standardize", wrong.not_standardised),)),
    Fault("kernels centred only", "divide by the standard deviation, too", "stem/conv_root/standardized",
          "weight std", patches=((stem, "standardize", wrong.only_centred),)),
    Fault("standardised over the whole kernel", "mean and deviation are per output channel",
          "stem/conv_root/standardized", "weight std", patches=((stem, "standardize", wrong.standardised_as_a_whole),)),
    Fault("weight std without ε", "add 1e-5 to the standard deviation", "stem/conv_root/standardized", "eps",
          patches=((stem, "standardize", wrong.standardised_without_eps),)),
    Fault("weight std with ε under the root", "add 1e-5 to the standard deviation, not to the variance",
          "stem/conv_root/standardized", "eps", patches=((stem, "standardize", wrong.standardised_with_eps_inside),)),
    Fault("convolution padded on both sides", 'pad "SAME": 2 before and 3 after for a 7×7/2 kernel', "stem/conv_root",
          patches=((stem, "convolution", wrong.evenly_padded),)),
    Fault("flipped kernels", "do not flip: this is a correlation", "stem/conv_root",
          patches=((stem, "convolution", wrong.flipped),)),
    Fault("GroupNorm of the root with ε 1e-5", "ε is 1e-6 after the root convolution", "stem/gn_root", "eps",
          patches=((stem, "ROOT_EPS", 1e-5),)),
    Fault("GroupNorm of the root with ε 1e-4", "ε is 1e-6 after the root convolution", "stem/gn_root", "eps",
          patches=((stem, "ROOT_EPS", 1e-4),)),
    Fault("GroupNorm of the bottleneck with ε 1e-3", "ε is 1e-4 in the bottleneck", "stem/gn_proj", "eps",
          patches=((stem, "BLOCK_EPS", 1e-3),)),
    Fault("GroupNorm with 16 groups", "32 groups", "stem/gn_root", patches=((stem, "group_norm", wrong.groups(16)),)),
    Fault("GroupNorm with strided groups", "a group is neighbouring channels", "stem/gn_root",
          patches=((stem, "group_norm", wrong.strided_groups),)),
    Fault("ReLU after the max-pool", "the same result, one ReLU later", "stem/relu_root", tap=lambda name, array, seen,
          config: seen["stem/gn_root"] if name == "stem/relu_root" else
          np.maximum(array, 0) if name == "stem/pool" else array),
    Fault("max-pool padded on both sides", 'pad "SAME": 0 before and 1 after', "stem/pool",
          patches=((stem, "max_pool", wrong.pool_evenly_padded),)),
    Fault("average pooling", "take the maximum", "stem/pool", patches=((stem, "max_pool", wrong.average_pool),)),
    Fault("shortcut missing", "add the projected input of the bottleneck", "stem/sum",
          tap=_at("stem/sum", lambda a, seen, config: seen["stem/gn3"])),
    Fault("last ReLU of the stem missing", "end the bottleneck with a ReLU", "stem/output",
          tap=_at("stem/output", lambda a, seen, config: seen["stem/sum"])),
    # embeddings
    Fault("features flattened channel first", "flatten the stem's output as row, column, channel", "patch_embedding",
          patches=((musiq, "patch_embedding", wrong.features_channel_first),)),
    Fault("missing spatial embedding", "add the hash-based spatial embedding", "spatial_embedding",
          patches=((musiq, "embed", wrong.embed_without("spatial_embedding")),)),
    Fault("missing scale embedding", "add the scale embedding", "scale_embedding",
          patches=((musiq, "embed", wrong.embed_without("scale_embedding")),)),
    Fault("class token with a place", "add no embedding to the class token", "encoder/input",
          patches=((musiq, "embed", wrong.class_token_placed),)),
    Fault("class token missing", "put the learned class token in front", "encoder/input",
          tap=_at("encoder/input", lambda a, seen, config: np.concatenate([0 * a[:, :1], a[:, 1:]], axis=1))),
    Fault("embeddings scaled by √D", "do not scale the embedded tokens", "encoder/input",
          tap=_at("encoder/input", lambda a, seen, config: a * math.sqrt(config.width))),
    # encoder
    Fault("post-norm", "normalise before each branch, not after", B0 + "norm1",
          patches=_block(wrong.post_norm_block)),
    Fault("LayerNorm with ε 1e-5", "ε is 1e-6 (PyTorch's default is 1e-5)", B0 + "norm1", "eps",
          patches=((encoder, "layer_norm", wrong.norm_with(1e-5)),)),
    Fault("LayerNorm with ε 1e-3", "ε is 1e-6 (Keras's default is 1e-3)", B0 + "norm1", "eps",
          patches=((encoder, "layer_norm", wrong.norm_with(1e-3)),)),
    Fault("LayerNorm with unbiased variance", "divide the variance by D", B0 + "norm1",
          patches=((encoder, "layer_norm", wrong.norm_with(ddof=1)),)),
    Fault("heads interleaved", "split the width into (heads, head width), in this order", B0 + "attention/query",
          patches=((attention, "project", wrong.heads_interleaved),)),
    Fault("missing 1/√", "divide the logits by √(D/H)", B0 + "attention/logits",
          tap=_at("attention/logits", lambda a, seen, config: a * math.sqrt(config.head_width))),
    Fault("scaled by the model's width", "divide by √(D/H), not by √D", B0 + "attention/logits",
          tap=_at("attention/logits", lambda a, seen, config: a / math.sqrt(config.heads))),
    Fault("logits divided by D/H", "divide by the square root of D/H", B0 + "attention/logits",
          tap=_at("attention/logits", lambda a, seen, config: a / math.sqrt(config.head_width))),
    Fault("queries and keys exchanged", "logits are Q·Kᵀ, queries along the rows", B0 + "attention/logits",
          tap=_at("attention/logits", lambda a, seen, config: a.swapaxes(-1, -2))),
    Fault("mask not applied", "hide padded tokens from the softmax", B0 + "attention/weights", "mask",
          patches=((attention, "mask_logits", wrong.not_masked),)),
    Fault("mask of −1", "add −1e10, not −1, to the logits of padded tokens", B0 + "attention/weights", "mask",
          patches=((attention, "mask_logits", wrong.masked_weakly),)),
    Fault("mask on keys only", "harmless: rows of padded queries differ, and nothing reads them", "", "mask",
          patches=((attention, "mask_logits", wrong.masked_by_key),)),
    Fault("softmax over the queries", "normalise over the keys, the last axis", B0 + "attention/weights",
          patches=((attention, "softmax", wrong.softmax_over_queries),)),
    Fault("attention dropout on", "switch dropout off (model.eval())", B0 + "attention/weights",
          tap=_at("attention/weights", lambda a, seen, config: _dropped(a, 0.1)), recognise=looks_dropped),
    Fault("heads woven together", "put the heads side by side before the out-projection", B0 + "attention/out",
          patches=((attention, "merge", wrong.merged_interleaved),)),
    Fault("transposed out-projection", "transpose the kernel of the out-projection", B0 + "attention/out",
          patches=((attention, "merge", wrong.merged_transposed),)),
    Fault("out-projection without bias", "add the bias", B0 + "attention/out",
          patches=((attention, "merge", wrong.merged_without_bias),)),
    Fault("residual taken from the norm", "add the branch to its unnormalised input", B0 + "residual1",
          patches=_block(wrong.residual_from_the_norm)),
    Fault("first residual missing", "add the input of the attention branch", B0 + "residual1",
          tap=_at("/residual1", lambda a, seen, config: _latest(seen, "attention/out"))),
    Fault("erf for tanh", "use the tanh approximation of GELU", B0 + "mlp/gelu", "GELU", {"gelu": "erf"}),
    Fault("tanh for erf", "use the exact GELU", B0 + "mlp/gelu", "GELU", {"gelu": "tanh"}),
    Fault("quick GELU", "use the GELU of the reference, not x·sigmoid(1.702·x)", B0 + "mlp/gelu", "GELU",
          patches=_gelu(wrong.quick_gelu)),
    Fault("ReLU in the MLP", "use GELU", B0 + "mlp/gelu", "GELU", patches=_gelu(wrong.relu)),
    Fault("SiLU in the MLP", "use GELU", B0 + "mlp/gelu", "GELU", patches=_gelu(wrong.silu)),
    Fault("dropout on", "switch dropout off (model.eval())", B0 + "mlp/gelu",
          tap=_at("mlp/gelu", lambda a, seen, config: _dropped(a, 0.1)), recognise=looks_dropped),
    Fault("second residual missing", "add the input of the MLP branch", B0 + "output",
          tap=_at("/output", lambda a, seen, config: _latest(seen, "mlp/fc2") if any(
              n.endswith("mlp/fc2") for n in seen) else a)),
    Fault("final norm missing", "normalise once more after the last block", "encoder/norm",
          tap=_at("encoder/norm", lambda a, seen, config: _latest(seen, "/output"))),
    Fault("one block too few", "run all encoder blocks", "encoder/norm",
          patches=((encoder, "block_names", wrong.one_block_less),)),
    # head and score
    Fault("mean of the tokens", "read the class token", "head/class_token",
          tap=_at("head/class_token", lambda a, seen, config: seen["encoder/norm"][:, 1:][
              seen["mask"].astype(bool)].mean(axis=0, keepdims=True))),
    Fault("last token read", "read the class token, the first", "head/class_token",
          patches=((musiq, "head", wrong.last_token),)),
    Fault("head without bias", "add the bias of the head", "head/logits",
          patches=((musiq, "head", wrong.head_without_bias),)),
    Fault("head without softmax", "take the softmax of the logits", "probabilities", "score",
          patches=((head, "expected_score", wrong.score_with(probabilities=lambda x: x)),)),
    Fault("sigmoid for softmax", "take the softmax of the logits", "probabilities", "score",
          patches=((head, "expected_score", wrong.score_with(probabilities=lambda x: 1 / (1 + np.exp(-x)))),)),
    Fault("scores 0 … C−1", "the classes are 1 … C", "score", "score",
          patches=((head, "expected_score", wrong.score_with(score=lambda p, k: (p * (k - 1)).sum(-1))),)),
    Fault("most likely class", "the score is the mean of the distribution", "score", "score",
          patches=((head, "expected_score", wrong.score_with(score=lambda p, k: 1.0 + p.argmax(-1))),)),
    Fault("score divided by C", "the classes are 1 … C", "score", "score",
          patches=((head, "expected_score", wrong.score_with(score=lambda p, k: (p * k).sum(-1) / k[-1])),)),
    # gradients
    Fault("GELU's derivative of the other form", "differentiate the GELU that is computed",
          "gradient/encoder/block_*/mlp/fc1",
          patches=((encoder, "GELU", {"tanh": (activation.gelu_tanh, activation.gelu_erf_backward),
                                      "erf": (activation.gelu_erf, activation.gelu_tanh_backward)}),)),
    Fault("LayerNorm's statistics taken as constants", "mean and deviation depend on the input",
          "gradient/encoder/block_*/output", patches=((encoder, "layer_norm_backward", wrong.unprojected),)),
    Fault("max-pool's gradient to all maxima", "of equal maxima only the first gets it", "gradient/stem/relu_root",
          patches=((stem, "max_pool_backward", wrong.pool_gradient_everywhere),)),
    Fault("standardisation not differentiated", "the kernel's gradient goes through its standardisation",
          "dparams/stem/conv*/kernel", patches=((stem, "standardize_backward", wrong.straight_through),)),
    Fault("standardisation's statistics taken as constants", "mean and deviation depend on the kernel",
          "dparams/stem/conv*/kernel", patches=((stem, "standardize_backward", wrong.constant_statistics),)),
    Fault("image gradient without the 2 of the normalisation", "x = 2·v − 1 has derivative 2", "gradient/image",
          patches=((tokenize, "tokenize_backward", wrong.half_image_gradient),)),
    Fault("image gradient of the native scale only", "add the gradients through the resized scales", "gradient/image",
          patches=((tokenize, "tokenize_backward", wrong.native_gradient_only),)),
]  # fmt: skip


FAULTS: dict[str, Fault] = {fault.name: fault for fault in _ALL}
"""{name: Fault}."""
