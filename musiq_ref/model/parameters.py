"""The parameters of a model: a nested dict of arrays, its shapes, and its initial values (SPEC 4, 6)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from musiq_ref.backend import Array, namespace, on_host
from musiq_ref.config import MusiqConfig

Params = dict[str, Any]
"""Nested dict whose leaves are arrays; gradients have the same keys. "a/b/c" is the path of params["a"]["b"]["c"]."""

STEM_WIDTH = 64  # channels of the root convolution and inside the bottleneck (SPEC 4)
STEM_OUT = 256  # channels that leave the bottleneck


def parameter_shapes(config: MusiqConfig) -> dict[str, tuple[int, ...]]:
    """Path and shape of every parameter of a model, in the order in which an image meets them.

    >>> parameter_shapes(MusiqConfig())["encoder/block_13/attention/query/kernel"]
    (384, 6, 64)
    """
    D, H, D_h, M = config.width, config.heads, config.head_width, config.mlp_width
    shapes: dict[str, tuple[int, ...]] = {}

    def norm(path: str, n: int) -> None:
        shapes[f"{path}/scale"] = (n,)
        shapes[f"{path}/bias"] = (n,)

    def linear(path: str, kernel: tuple[int, ...], bias: tuple[int, ...]) -> None:
        shapes[f"{path}/kernel"] = kernel
        shapes[f"{path}/bias"] = bias

    def convolution(name: str, size: int, c_in: int, c_out: int) -> None:
        shapes[f"stem/conv{name}/kernel"] = (size, size, c_in, c_out)
        norm(f"stem/gn{name}", c_out)

    features = 3 * config.patch_size**2  # values of one patch
    if config.stem == "resnet":
        convolution("_root", 7, 3, STEM_WIDTH)
        convolution("_proj", 1, STEM_WIDTH, STEM_OUT)
        convolution("1", 1, STEM_WIDTH, STEM_WIDTH)
        convolution("2", 3, STEM_WIDTH, STEM_WIDTH)
        convolution("3", 1, STEM_WIDTH, STEM_OUT)
        features = config.stem_side**2 * STEM_OUT
    linear("patch_embedding", (features, D), (D,))
    if config.spatial == "learnable":
        shapes["spatial_embedding/table"] = (config.grid_size**2, D)
    if config.scale_embedding:
        shapes["scale_embedding/table"] = (config.scales, D)
    shapes["class_token"] = (D,)
    for i in range(config.layers):
        block = f"encoder/block_{i:02d}"
        norm(f"{block}/norm1", D)
        for name in ("query", "key", "value"):
            linear(f"{block}/attention/{name}", (D, H, D_h), (H, D_h))
        linear(f"{block}/attention/out", (H, D_h, D), (D,))
        if config.attention == "linformer":
            for name in "E" if config.attention_shared else "EF":
                shapes[f"{block}/attention/{name}"] = (config.attention_rank, config.attention_length)
        norm(f"{block}/norm2", D)
        linear(f"{block}/mlp/fc1", (D, M), (M,))
        linear(f"{block}/mlp/fc2", (M, D), (D,))
    norm("encoder/norm", D)
    linear("head", (D, config.outputs), (config.outputs,))
    return shapes


def flatten(params: Params, prefix: str = "") -> Iterator[tuple[str, Array]]:
    """Every (path, array) of a nested dict, in its order.

    >>> list(flatten({"head": {"bias": 1, "kernel": 2}}))
    [('head/bias', 1), ('head/kernel', 2)]
    """
    for key, value in params.items():
        if isinstance(value, dict):
            yield from flatten(value, f"{prefix}{key}/")
        else:
            yield f"{prefix}{key}", value


def nest(leaves: dict[str, Array]) -> Params:
    """The nested dict of {path: array}; the inverse of `flatten`.

    >>> nest({"head/bias": 1, "head/kernel": 2})
    {'head': {'bias': 1, 'kernel': 2}}
    """
    params: Params = {}
    for path, array in leaves.items():
        *parents, last = path.split("/")
        node = params
        for key in parents:
            node = node.setdefault(key, {})
        node[last] = array
    return params


def map_params(f: Callable[[Array], Array], params: Params) -> Params:
    """f applied to every array of a nested dict.

    >>> map_params(abs, {"head": {"bias": -1}})
    {'head': {'bias': 1}}
    """
    return {k: map_params(f, v) if isinstance(v, dict) else f(v) for k, v in params.items()}


def add_params(a: Params, b: Params) -> Params:
    """The sum of two nested dicts with the same keys.

    >>> add_params({"head": {"bias": 1}}, {"head": {"bias": 2}})
    {'head': {'bias': 3}}
    """
    return {k: add_params(v, b[k]) if isinstance(v, dict) else v + b[k] for k, v in a.items()}


class EndToEnd:
    """The arrays of a flattened nested dict as few vectors, for work that treats every element by itself.

    On a device, where a launch costs more than such work, all arrays of a dtype are copied end to end. On the host each
    array is its own vector, as it is, and nothing is copied.

    leaves: {path: array}, all of one library; their paths, shapes and dtypes are what `join` and `cut` go by

    >>> values = {"head/bias": np.array([1.0]), "head/kernel": np.array([[2.0], [3.0]])}
    >>> whole = EndToEnd(values)
    >>> whole.cut([10 * vector for vector in whole.join(values)])
    {'head/bias': array([10.]), 'head/kernel': array([[20.],
           [30.]])}
    """

    def __init__(self, leaves: Mapping[str, Array]):
        self.paths = list(leaves)
        self.on_host = all(map(on_host, leaves.values()))
        if self.on_host:
            return
        self.forms = {path: (array.shape, array.dtype) for path, array in leaves.items()}
        self.rows: dict[np.dtype, list[str]] = {}  # by dtype, the paths in the order in which their arrays follow
        # The power of two in an array's size, falling: so each begins at a multiple of its own, and stays aligned.
        for _, path in sorted((-(array.size & -array.size), path) for path, array in leaves.items()):
            self.rows.setdefault(leaves[path].dtype, []).append(path)

    def join(self, leaves: Mapping[str, Array]) -> list[Array]:
        """The vectors of arrays with these paths, to be read only.

        On a device, ValueError for an array of another shape or dtype.
        """
        if self.on_host:
            return [leaves[path] for path in self.paths]
        for path, (shape, dtype) in self.forms.items():
            array = leaves[path]
            if array.shape != shape or array.dtype != dtype:
                raise ValueError(f"{path} is {array.dtype} {array.shape}; what it is joined with is {dtype} {shape}")
        return [_joined([leaves[path] for path in row]) for row in self.rows.values()]

    def cut(self, vectors: Sequence[Array]) -> dict[str, Array]:
        """{path: array} of such vectors; on a device, views of them in C order."""
        if self.on_host:
            return dict(zip(self.paths, vectors, strict=True))
        leaves = {}
        for vector, row in zip(vectors, self.rows.values(), strict=True):
            start = 0
            for path in row:
                shape, _ = self.forms[path]
                end = start + math.prod(shape)
                leaves[path] = vector[start:end].reshape(shape)
                start = end
        return {path: leaves[path] for path in self.paths}


def _joined(arrays: Sequence[Array]) -> Array:
    """Arrays of a device end to end: a copy, or the vector that they were cut from."""
    start, base, size = arrays[0].data.ptr, arrays[0].base, sum(a.size for a in arrays)
    if base is not None and (base.data.ptr, base.dtype, base.shape) == (start, arrays[0].dtype, (size,)):
        for array in arrays:
            if array.data.ptr != start or not array.flags.c_contiguous:
                break
            start += array.nbytes
        else:
            return base
    return namespace(arrays[0]).concatenate([array.ravel() for array in arrays])


def check_params(params: Params, config: MusiqConfig) -> np.dtype:
    """Checks that the parameters are those of such a model, all of one floating dtype, which it returns.

    Raises ValueError, in one sentence, for the first that is missing, unexpected or misshapen.

    >>> config = MusiqConfig.preset("tiny")
    >>> check_params(init_params(config), config.replace(outputs=10))
    Traceback (most recent call last):
    ValueError: parameter head/kernel has shape (48, 1); this configuration needs (48, 10)
    """
    shapes, dtype = parameter_shapes(config), None
    leaves = dict(flatten(params))
    for path in [*shapes, *leaves]:
        if path not in leaves:
            raise ValueError(f"parameter {path} is missing; this configuration needs it with shape {shapes[path]}")
        if path not in shapes:
            raise ValueError(f"parameter {path} is unexpected; this configuration has none of that name")
        array = leaves[path]
        if tuple(array.shape) != shapes[path]:
            raise ValueError(
                f"parameter {path} has shape {tuple(array.shape)}; this configuration needs {shapes[path]}"
            )
        dtype = dtype or array.dtype
        if array.dtype != dtype or dtype not in (np.float32, np.float64):
            raise ValueError(f"parameter {path} is {array.dtype}; make all parameters float32, or all float64")
    return np.dtype(dtype)


def fan_in(path: str, shape: tuple[int, ...]) -> int:
    """How many inputs one output of a kernel sums over: D for the query, key and value, else all axes but the last."""
    per_head = path.endswith(("query/kernel", "key/kernel", "value/kernel"))
    return shape[0] if per_head else math.prod(shape[:-1])


def init_params(config: MusiqConfig, seed: int = 0, dtype: str = "float32") -> Params:
    """Initial values as the authors draw them (SPEC 4), from `numpy.random.default_rng(seed)`.

    Convolutions and the patch embedding are LeCun-normal, attention and MLP kernels Xavier-uniform, MLP biases
    N(0, 1e-6²), the two embedding tables N(0, 0.02²); the class token, the head and the last GroupNorm's scale are 0.

    >>> params = init_params(MusiqConfig.preset("tiny"), seed=0)
    >>> params["head"]["kernel"].shape, params["stem"]["conv1"]["kernel"].dtype
    ((48, 1), dtype('float32'))
    """
    if np.dtype(dtype) not in (np.float32, np.float64):
        raise ValueError(f"dtype is {dtype!r}; choose 'float32' or 'float64'")
    rng = np.random.default_rng(seed)
    return nest({path: _initial(path, shape, rng).astype(dtype) for path, shape in parameter_shapes(config).items()})


def _initial(path: str, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    parent, _, name = path.rpartition("/")
    if path == "class_token" or parent == "head" or path == "stem/gn3/scale":
        return np.zeros(shape)
    if name == "table":
        return 0.02 * rng.standard_normal(shape)
    if name == "scale":
        return np.ones(shape)
    if name == "bias":
        return 1e-6 * rng.standard_normal(shape) if "/mlp/" in path else np.zeros(shape)
    inputs = fan_in(path, shape)
    if parent.startswith("encoder"):
        bound = math.sqrt(6 / (inputs + math.prod(shape) // inputs))  # Xavier: fan in + fan out
        return rng.uniform(-bound, bound, shape)
    return _truncated_normal(rng, shape) / math.sqrt(inputs)


def _truncated_normal(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Standard normal cut at ±2 and rescaled to standard deviation 1, as LeCun-normal is drawn in JAX."""
    x = rng.standard_normal(shape)
    while (outside := np.abs(x) > 2).any():
        x[outside] = rng.standard_normal(outside.sum())
    return x / 0.87962566103423978
