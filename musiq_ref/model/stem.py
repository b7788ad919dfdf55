"""The stem: a small residual network that turns every patch into P/4 × P/4 × 256 features (SPEC 4), or none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from musiq_ref.config import Conventions
from musiq_ref.model.parameters import Params
from musiq_ref.model.taps import Tap, no_tap
from musiq_ref.ops.activation import relu, relu_backward
from musiq_ref.ops.convolution import convolution, convolution_backward, input_gradient, kernel_gradient
from musiq_ref.ops.group_norm import group_norm, group_norm_backward
from musiq_ref.ops.max_pool import max_pool, max_pool_backward
from musiq_ref.ops.weight_standardization import standardize, standardize_backward

ROOT_EPS, BLOCK_EPS = 1e-6, 1e-4  # ε of the GroupNorm after the root convolution, and of those in the bottleneck


def stem(patches, params: Params, conventions: Conventions, tap: Tap = no_tap):
    """Root convolution, pooling and one bottleneck with a projected shortcut.

    patches: (N, P, P, 3)
    y: (N, P/4, P/4, 256)
    """
    cache = {}

    def conv(name, x, stride=1):
        kernel, cache[f"{name}/kernel"] = standardize(params[name]["kernel"], conventions.weight_std_ddof)
        y, cache[name] = convolution(x, tap(f"{name}/standardized", kernel), stride)
        return tap(name, y)

    def norm(name, x, eps=BLOCK_EPS):
        y, cache[name] = group_norm(x, params[name]["scale"], params[name]["bias"], eps)
        return tap(name, y)

    def rectify(name, x):
        y, cache[name] = relu(x)
        return tap(name, y)

    x = conv("conv_root", patches, stride=2)  # (N, P/2, P/2, 64)
    x = rectify("relu_root", norm("gn_root", x, ROOT_EPS))
    x, cache["pool"] = max_pool(x)  # (N, P/4, P/4, 64)
    x = tap("pool", x)

    shortcut = norm("gn_proj", conv("conv_proj", x))  # (N, P/4, P/4, 256)
    x = rectify("relu1", norm("gn1", conv("conv1", x)))  # (N, P/4, P/4, 64)
    x = rectify("relu2", norm("gn2", conv("conv2", x)))  # (N, P/4, P/4, 64)
    x = norm("gn3", conv("conv3", x))  # (N, P/4, P/4, 256)
    return rectify("output", tap("sum", x + shortcut)), cache


def stem_backward(dy, cache, tap: Tap = no_tap, want_patches: bool = True, want_params: bool = True):
    """The lines of `stem` from the last to the first. Returns (dpatches, dparams); None and {} of what is not wanted.

    Without parameters, nothing but `dpatches` is computed.
    """
    dparams = {}

    def conv_backward(name, dy, want_input=True) -> Any:
        dy = tap(name, dy)
        if not want_params:
            return input_gradient(dy, cache[name])
        dx, dkernel = convolution_backward(dy, cache[name]) if want_input else (None, kernel_gradient(dy, cache[name]))
        dkernel = tap(f"{name}/standardized", dkernel)
        dparams[name] = {"kernel": standardize_backward(dkernel, cache[f"{name}/kernel"])}
        return dx

    def norm_backward(name, dy):
        dx, dscale, dbias = group_norm_backward(tap(name, dy), cache[name])
        if want_params:
            dparams[name] = {"scale": dscale, "bias": dbias}
        return dx

    def rectify_backward(name, dy):
        return relu_backward(tap(name, dy), cache[name])

    dsum = tap("sum", rectify_backward("output", dy))
    dx = conv_backward("conv3", norm_backward("gn3", dsum))
    dx = conv_backward("conv2", norm_backward("gn2", rectify_backward("relu2", dx)))
    dx = conv_backward("conv1", norm_backward("gn1", rectify_backward("relu1", dx)))
    dx = dx + conv_backward("conv_proj", norm_backward("gn_proj", dsum))  # both branches read the pooled features

    dx = max_pool_backward(tap("pool", dx), cache["pool"])
    dx = norm_backward("gn_root", rectify_backward("relu_root", dx))
    dpatches = conv_backward("conv_root", dx, want_patches)
    return dpatches, dparams


def linear_stem(patches, params: Params, conventions: Conventions, tap: Tap = no_tap):
    """The patches as they are: the patch embedding alone then sees them, as in ViT.

    patches, y: (N, P, P, 3)
    params: empty
    """
    return patches, None


def linear_stem_backward(dy, cache, tap: Tap = no_tap, want_patches: bool = True, want_params: bool = True):
    """Returns (dpatches, dparams); dpatches is None if not wanted, and there are no parameters."""
    return (dy if want_patches else None), {}


STEMS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "resnet": (stem, stem_backward),
    "linear": (linear_stem, linear_stem_backward),
}
"""{MusiqConfig.stem: the pair}"""
