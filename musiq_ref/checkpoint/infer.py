"""From a file's tensors to the configuration and the parameters, every tensor checked."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from musiq_ref.checkpoint.layout import CheckpointError, Layout, Tensors, listed, printable
from musiq_ref.config import PRESETS, MusiqConfig
from musiq_ref.model.parameters import STEM_OUT, Params, flatten, nest, parameter_shapes

TABLE = "spatial_embedding/table"

PUBLISHED_SIDES = {1: (), 3: (224, 384)}
"""{number of scales: longer sides of the resized ones} of the published models; the native image comes last."""


def infer_sizes(tensors: Tensors, layout: Layout, heads: int | None = None) -> dict[str, Any]:
    """The fields of the configuration that the tensors tell, and "scales", their number.

    Sizes alone are read, not shapes, so that the same lines serve every layout: D is the size of the class token, the
    spatial table holds G²·D values, the patch embedding (P/4)²·256·D. Raises CheckpointError when a tensor is missing.

    >>> from musiq_ref.checkpoint import to_official
    >>> from musiq_ref.checkpoint.official import OFFICIAL_LAYOUT
    >>> from musiq_ref.model.parameters import init_params
    >>> params = init_params(MusiqConfig.preset("tiny"))
    >>> infer_sizes(to_official(params), OFFICIAL_LAYOUT)["heads"]
    4
    """
    layers = count_layers(tensors, layout)
    spatial = "learnable" if layout.name(TABLE) in tensors else "sinusoidal"
    check_names(tensors, layout, MusiqConfig(layers=layers, spatial=spatial))

    def size(path: str) -> int:
        return tensors[layout.name(path)].size

    width = size("class_token")
    block = "encoder/block_00"
    mlp_width = size(f"{block}/mlp/fc1/bias")
    sizes = {
        "layers": layers,
        "width": width,
        "mlp_width": mlp_width,
        "outputs": size("head/bias"),
        "patch_size": 4 * math.isqrt(size("patch_embedding/kernel") // (STEM_OUT * max(width, 1))),
        "scales": (1, 1, *tensors[layout.name("scale_embedding/table")].shape)[-2],
        "spatial": spatial,
        "heads": heads,
    }
    if spatial == "learnable":
        sizes["grid_size"] = math.isqrt(size(TABLE) // max(width, 1))
    if heads is None and layout.format == "pyiqa":
        sizes["heads"] = preset_heads(layers, width, mlp_width)
    elif heads is None:
        sizes["heads"] = (*tensors[layout.name(f"{block}/attention/query/bias")].shape, 1)[0]
    return sizes


def count_layers(tensors: Tensors, layout: Layout) -> int:
    """Number of encoder blocks that the names speak of, at least 1."""
    numbers = [int(found[1]) for name in tensors if (found := re.search(layout.block, name))]
    return 1 + max((i for i in numbers if i < len(tensors)), default=0)


def preset_heads(layers: int, width: int, mlp_width: int) -> int:
    """The heads of the preset of that size; pyiqa's files do not tell them.

    >>> preset_heads(14, 384, 1152)
    6
    """
    for preset in PRESETS.values():
        if (preset["layers"], preset["width"], preset["mlp_width"]) == (layers, width, mlp_width):
            return preset["heads"]
    raise CheckpointError(
        f"pyiqa's files do not tell the number of attention heads, and no preset has {layers} layers of width {width}; "
        f"pass heads= or config= to load_checkpoint, or convert it once: musiq-ref convert --heads N"
    )


def make_config(**fields: Any) -> MusiqConfig:
    """MusiqConfig(**fields), where values that cannot be are a CheckpointError."""
    try:
        return MusiqConfig(**fields)
    except ValueError as error:
        raise CheckpointError(f"its shapes make no MUSIQ model ({error}); download or export it again") from None


def infer_config(
    tensors: Tensors, layout: Layout, heads: int | None = None, longer_sides: Sequence[int] | None = None
) -> MusiqConfig:
    """The configuration of a published kind of model: one or three scales, a learnt spatial table.

    longer_sides: of the resized scales, for a file with another number of them; the native image is one more scale

    >>> from musiq_ref.checkpoint.official import OFFICIAL_LAYOUT
    >>> from musiq_ref.checkpoint import to_official
    >>> from musiq_ref.model.parameters import init_params
    >>> config = MusiqConfig.preset("tiny", outputs=10)
    >>> infer_config(to_official(init_params(config)), OFFICIAL_LAYOUT) == config
    True
    """
    sizes = infer_sizes(tensors, layout, heads)
    if sizes.pop("spatial") == "sinusoidal":
        check_names(tensors, layout, MusiqConfig(layers=sizes["layers"]))
    scales = sizes.pop("scales")
    if longer_sides is not None:
        if scales - len(longer_sides) not in (0, 1):
            raise CheckpointError(f"it has {scales} scales, which {len(longer_sides)} longer sides do not make")
        native = scales > len(longer_sides)
        return make_config(**sizes, longer_sides=tuple(longer_sides), native=native, conventions=layout.conventions)
    if scales not in PUBLISHED_SIDES:
        raise CheckpointError(
            f"it has {scales} scales, and the file does not tell which; pass longer_sides= or config= to "
            f"load_checkpoint, or convert it once: musiq-ref convert --longer-sides L"
        )
    return make_config(**sizes, longer_sides=PUBLISHED_SIDES[scales], conventions=layout.conventions)


def stand_in_config(tensors: Tensors, layout: Layout, heads: int | None = None) -> MusiqConfig:
    """A configuration that has the right shapes, whatever the scales are: enough to convert, not to score."""
    sizes = infer_sizes(tensors, layout, heads)
    scales = sizes.pop("scales")
    return make_config(**sizes, longer_sides=tuple(range(1, scales)))


def check_names(tensors: Tensors, layout: Layout, config: MusiqConfig) -> None:
    """Raises CheckpointError, listing them, when tensors of `config` are missing, or others are there."""
    expected = {layout.name(path) for path in parameter_shapes(config)}
    missing = [name for name in map(layout.name, parameter_shapes(config)) if name not in tensors]
    unexpected = [printable(name) for name in tensors if name not in expected]
    problems = []
    if missing:
        problems.append(f"{len(missing)} of its tensors missing ({listed(missing)})")
    if unexpected:
        problems.append(f"{len(unexpected)} unexpected ({listed(unexpected)})")
    if problems:
        raise CheckpointError(
            f"not a complete MUSIQ checkpoint, {' and '.join(problems)}; download or export it again, "
            f"or pass config= if the model was built differently"
        )


def check_shapes(tensors: Tensors, layout: Layout, config: MusiqConfig) -> None:
    """Raises CheckpointError, listing them, for names, shapes or data types that are not those of `config`."""
    check_names(tensors, layout, config)
    misshapen, other = [], []
    for path, shape in parameter_shapes(config).items():
        name = layout.name(path)
        wanted = layout.to_file(path, np.broadcast_to(np.float32(0), shape)).shape
        if tensors[name].shape != wanted:
            misshapen.append(f"{name} is {tensors[name].shape}, expected {wanted}")
        if tensors[name].dtype.kind != "f" or tensors[name].dtype.itemsize > 8:
            other.append(f"{name} is {tensors[name].dtype}")
    if misshapen:
        raise CheckpointError(
            f"{len(misshapen)} of its tensors misshapen ({listed(misshapen)}); pass the config= that the model was "
            f"built with, or download it again"
        )
    if other:
        raise CheckpointError(
            f"{len(other)} of its tensors not float16, float32 or float64 ({listed(other)}); export it as float32"
        )


def check_finite(name: str, array: np.ndarray) -> None:
    """Raises CheckpointError, naming the tensor, when a value is infinite or not a number."""
    finite = np.isfinite(array)
    if not finite.all():
        where = tuple(int(i) for i in np.argwhere(~finite)[0])
        raise CheckpointError(
            f"tensor {name} holds {array[where]} at {where} as {array.dtype}; use an undamaged copy or a wider dtype"
        )


def to_params(tensors: Tensors, layout: Layout, config: MusiqConfig, dtype: str | None, finite: bool = True) -> Params:
    """Nested params of the file's tensors, checked against `config`: fresh contiguous arrays of `dtype` (None: as is).

    `finite` says whether infinite values and NaN are refused, too.
    """
    check_shapes(tensors, layout, config)
    params = {}
    for path, shape in parameter_shapes(config).items():
        array = layout.to_native(path, tensors[layout.name(path)], shape)
        with np.errstate(over="ignore"):  # a value beyond the range of dtype becomes inf, which is reported below
            params[path] = np.array(array, dtype=dtype or array.dtype.newbyteorder("="), order="C")
        if finite:
            check_finite(layout.name(path), params[path])
    return nest(params)


def from_params(params: Params, layout: Layout) -> Tensors:
    """The file's tensors of nested params: fresh contiguous arrays, in the order in which an image meets them.

    Raises CheckpointError for what MUSIQ does not have, and for a model without one of the parts that it always has.
    """
    tensors = {}
    for path, array in flatten(params):
        if path.endswith(("/attention/E", "/attention/F")):
            raise CheckpointError(
                f"the params have {path}, of a Linformer, and the {layout.format} layout has no way to say so; "
                f"keep this model in the native layout"
            )
        try:
            tensors[layout.name(path)] = np.array(layout.to_file(path, array), order="C")
        except (ValueError, KeyError):
            raise CheckpointError(f"params hold {path} of shape {np.shape(array)}, which MUSIQ does not have") from None
    for part in ("stem", "scale_embedding"):
        if part not in params:
            raise CheckpointError(
                f"the params have no {part}, and the {layout.format} layout has no way to say so; "
                f"keep this model in the native layout"
            )
    return tensors
