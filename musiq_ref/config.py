"""What varies between MUSIQ models (MusiqConfig) and between programs that run the same weights (Conventions)."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal, get_args, get_type_hints


def shown(value: object) -> str:
    """The repr of a value in a message, cut where it is long.

    >>> shown("a" * 100)
    "'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa…"
    """
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # a number of thousands of digits, nests in nests
        return "too long to show"
    return text if len(text) <= 60 else f"{text[:60]}…"


@dataclass(frozen=True)
class Conventions:
    """Every place where the authors' code, the PyTorch port pyiqa and the paper's text compute different numbers.

    Each field can be set by itself (`dataclasses.replace(OFFICIAL, gelu="erf")`). The defaults are the authors'
    code; source: SPEC table 5, condensed in each comment below.

    >>> from dataclasses import replace
    >>> replace(OFFICIAL, gelu="erf").gelu
    'erf'
    >>> Conventions(resize="nearest")
    Traceback (most recent call last):
    ValueError: Conventions.resize is 'nearest'; choose one of 'gaussian', 'bicubic'
    """

    # Filter of the resized scales. official: Gaussian (sigma 0.5, radius 1.5, no antialiasing), applied even when the
    # size does not change. pyiqa: bicubic (a = -0.75), image untouched when the size does not change.
    resize: Literal["gaussian", "bicubic"] = "gaussian"
    # Arithmetic of the resized side lengths, rounded half to even. official: float32. pyiqa: float64.
    resized_sides: Literal["float32", "float64"] = "float32"
    # official: tanh approximation. pyiqa: exact, with the error function.
    gelu: Literal["tanh", "erf"] = "tanh"
    # Divisor n - ddof of the standard deviation that standardises the convolution kernels. official: 0. pyiqa: 1.
    weight_std_ddof: Literal[0, 1] = 0
    # How a logit between an invalid pair of tokens is treated. official: -1e10 added. pyiqa: replaced by -1e3.
    # paper (Eq. 10): -inf added. (Eq. 11 adds it before the division by sqrt(D_h): the same for -inf, and for
    # whatever else is large enough to hide a token.)
    mask: Literal["add", "fill"] = "add"
    mask_value: float = -1e10
    # Grid cell of patch i of n. official, pyiqa: floor(i·G/n) in float32. paper: nearest integer (clipped to G - 1).
    hash: Literal["floor", "round"] = "floor"
    # Order and numbering of the scales. official, pyiqa: ascending sizes, native last. paper: native first (k = 0).
    scale_order: Literal["native_last", "native_first"] = "native_last"
    # Order in which a patch's values lie in memory when it is written flat, by image.patches.flatten_patches: for
    # exchanging tokens with other programs; no effect on the score.
    # official: row, column, channel. pyiqa: channel, row, column.
    patch_layout: Literal["row_column_channel", "channel_row_column"] = "row_column_channel"

    def __post_init__(self) -> None:
        for name, kind in get_type_hints(Conventions).items():
            choices, value = get_args(kind), getattr(self, name)
            if choices and value not in choices:
                raise ValueError(
                    f"Conventions.{name} is {shown(value)}; choose one of {', '.join(repr(c) for c in choices)}"
                )
        hides = isinstance(self.mask_value, int | float) and self.mask_value <= -100
        if not hides or -math.inf < self.mask_value < -1e300:
            raise ValueError(
                f"Conventions.mask_value is {shown(self.mask_value)}; "
                f"it must be -100 or below (or -inf) to hide a token"
            )


OFFICIAL = Conventions()
"""The authors' released Flax code (SPEC table 5, column "official")."""

PYIQA = Conventions(
    resize="bicubic",
    resized_sides="float64",
    gelu="erf",
    weight_std_ddof=1,
    mask="fill",
    mask_value=-1e3,
    patch_layout="channel_row_column",
)
"""The PyTorch port pyiqa (SPEC table 5, column "pyiqa")."""

PAPER = Conventions(resized_sides="float64", mask_value=-math.inf, hash="round", scale_order="native_first")
"""The text of the paper; where it is silent, the authors' code (SPEC table 5, column "paper text")."""

NAMED_CONVENTIONS = {"official": OFFICIAL, "pyiqa": PYIQA, "paper": PAPER}


MOST = {
    "layers": 1000,
    "width": 2**16,
    "mlp_width": 2**18,
    "heads": 2**12,
    "outputs": 2**17,
    "patch_size": 2**10,
    "grid_size": 2**10,
    "longer_sides": 2**12,
    "attention_rank": 2**14,
    "attention_length": 2**17,
}
"""{field: its greatest value}, far above every published one, so that a damaged file cannot claim a giant."""
MOST_SCALES = 32


@dataclass(frozen=True)
class MusiqConfig:
    """Shape and conventions of one MUSIQ model. The defaults are the published one (appendix table 1, "small").

    Raises ValueError, in one sentence, for a field that cannot be.

    >>> config = MusiqConfig.preset("small", outputs=10)
    >>> config.layers, config.width, config.scales
    (14, 384, 3)
    >>> MusiqConfig(width=100, heads=6)
    Traceback (most recent call last):
    ValueError: MusiqConfig.width is 100, which does not split into 6 heads; choose a multiple of heads
    """

    layers: int = 14  # L, encoder blocks (appendix table 1)
    width: int = 384  # D, hidden size (appendix table 1)
    mlp_width: int = 1152  # hidden size of the MLP (appendix table 1)
    heads: int = 6  # H (appendix table 1)
    outputs: int = 1  # C: 1 for a score, 10 for AVA's distribution, 1000 for ImageNet pre-training (SPEC 2)
    patch_size: int = 32  # P, a multiple of 4 because the ResNet stem halves twice (appendix C)
    grid_size: int = 10  # G of the hash-based spatial embedding (appendix B.1)
    longer_sides: tuple[int, ...] = (224, 384)  # longer side of each resized scale, ascending (SPEC 3)
    native: bool = True  # whether the native-resolution image is a scale, too
    max_native_patches: int = -1  # l: -1 keeps all; 512 in the published training (appendix D)
    spatial: Literal["learnable", "sinusoidal", "none"] = "learnable"  # the HSE table (appendix B.2), or no E_HSE
    scale_embedding: bool = True  # whether E_SCE is added (Eq. 2)
    stem: Literal["resnet", "linear"] = "resnet"  # before the patch embedding (SPEC 4); linear: nothing, as in ViT
    # Exact self-attention (Eq. 6–9), or one of the two that appendix G says MUSIQ is compatible with
    attention: Literal["softmax", "linformer", "performer"] = "softmax"
    attention_rank: int = 256  # m: random features of a Performer, rows of a Linformer's E and F
    attention_seed: int = 0  # of the Performer's random features, which are drawn and not learned
    attention_eps: float = 1e-6  # ε of a Performer as in its authors' code; 0 for the unbiased estimate
    attention_length: int = 1024  # longest sequence of a Linformer, with the class token: columns of its E and F
    attention_shared: bool = False  # whether the Linformer's F is its E
    conventions: Conventions = field(default=OFFICIAL)

    def __post_init__(self) -> None:
        if isinstance(self.longer_sides, str | dict) or not isinstance(self.longer_sides, Iterable):
            raise ValueError(f"MusiqConfig.longer_sides is {shown(self.longer_sides)}; pass a tuple of lengths")
        object.__setattr__(self, "longer_sides", tuple(self.longer_sides))
        for name in MOST:
            for value in self.longer_sides if name == "longer_sides" else (getattr(self, name),):
                _require_count(name, value)
        problem = None
        if self.width % self.heads:
            problem = f"width is {self.width}, which does not split into {self.heads} heads; choose a multiple of heads"
        elif _is_one_of(self.stem, "resnet") and self.patch_size % 4:
            problem = f"patch_size is {self.patch_size}; choose a multiple of 4, because the stem halves it twice"
        elif not isinstance(self.native, bool):
            problem = f"native is {shown(self.native)}; choose True or False"
        elif self.scales > MOST_SCALES:
            problem = f"longer_sides has {len(self.longer_sides):,} lengths; choose at most {MOST_SCALES} scales"
        elif list(self.longer_sides) != sorted(set(self.longer_sides)):
            problem = f"longer_sides is {shown(self.longer_sides)}; list each length once, in ascending order"
        elif not self.scales:
            problem = "longer_sides is empty and native is False; a model needs at least one scale"
        elif not _is_whole(self.max_native_patches, -1, 2**31):
            problem = f"max_native_patches is {shown(self.max_native_patches)}; choose -1 (keep all) or a count"
        elif not self.longer_sides and self.max_native_patches == 0:
            problem = "max_native_patches is 0 and longer_sides is empty; no token would be left"
        elif not isinstance(self.scale_embedding, bool):
            problem = f"scale_embedding is {shown(self.scale_embedding)}; choose True or False"
        elif not _is_one_of(self.spatial, "learnable", "sinusoidal", "none"):
            problem = f"spatial is {shown(self.spatial)}; choose 'learnable', 'sinusoidal' or 'none'"
        elif not _is_one_of(self.stem, "resnet", "linear"):
            problem = f"stem is {shown(self.stem)}; choose 'resnet' or 'linear'"
        elif not _is_one_of(self.attention, "softmax", "linformer", "performer"):
            problem = f"attention is {shown(self.attention)}; choose 'softmax', 'linformer' or 'performer'"
        elif not _is_whole(self.attention_seed, 0, 2**63 - 1):
            problem = (
                f"attention_seed is {shown(self.attention_seed)}; choose a whole number of at least 0, below 2**63"
            )
        elif not _is_number(self.attention_eps) or not 0 <= self.attention_eps < 1:
            problem = f"attention_eps is {shown(self.attention_eps)}; it must be a number of at least 0 and below 1"
        elif not isinstance(self.attention_shared, bool):
            problem = f"attention_shared is {shown(self.attention_shared)}; choose True or False"
        elif not isinstance(self.conventions, Conventions):
            problem = f"conventions is {shown(self.conventions)}; pass OFFICIAL, PYIQA, PAPER or a Conventions"
        if problem:
            raise ValueError(f"MusiqConfig.{problem}")

    @property
    def head_width(self) -> int:
        """D_h = D / H."""
        return self.width // self.heads

    @property
    def scales(self) -> int:
        """S, the number of scales: the resized ones and the native one."""
        return len(self.longer_sides) + self.native

    @property
    def stem_side(self) -> int:
        """Rows (and columns) of the ResNet stem's output for one patch: P/4."""
        return self.patch_size // 4

    @classmethod
    def preset(cls, name: str, outputs: int = 1, conventions: Conventions = OFFICIAL, **changes: Any) -> MusiqConfig:
        """The variants of appendix table 1 ("small", "medium", "large") and "tiny" (SPEC 10), with `changes` applied.

        >>> MusiqConfig.preset("large").heads
        12
        """
        if name not in PRESETS:
            raise ValueError(f"no preset is called {name!r}; choose one of {', '.join(PRESETS)}")
        unknown = sorted(set(changes) - {f.name for f in fields(cls)})
        if unknown:
            raise ValueError(f"MusiqConfig has no field {unknown[0]!r}")
        return cls(**{**PRESETS[name], "outputs": outputs, "conventions": conventions, **changes})

    def replace(self, **changes: Any) -> MusiqConfig:
        """A copy with some fields changed.

        >>> MusiqConfig().replace(outputs=10).outputs
        10
        """
        return replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """Plain values (JSON-ready but for infinities), conventions nested; `from_dict` reads them back.

        >>> MusiqConfig.from_dict(MusiqConfig().to_dict()) == MusiqConfig()
        True
        """
        return {**asdict(self), "longer_sides": list(self.longer_sides)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> MusiqConfig:
        """The inverse of `to_dict`; a field it does not know is an error that names it."""
        for kind, given in ((cls, values), (Conventions, values.get("conventions", {}))):
            unknown = sorted(set(given) - {f.name for f in fields(kind)})
            if unknown:
                raise ValueError(f"{kind.__name__} has no field {unknown[0]!r}")
        return cls(**{**values, "conventions": Conventions(**values.get("conventions", {}))})


PRESETS: dict[str, dict[str, int]] = {
    "small": {"layers": 14, "width": 384, "mlp_width": 1152, "heads": 6},
    "medium": {"layers": 8, "width": 768, "mlp_width": 2358, "heads": 8},
    "large": {"layers": 12, "width": 768, "mlp_width": 3072, "heads": 12},
    "tiny": {"layers": 2, "width": 48, "mlp_width": 96, "heads": 4},
}


def _is_one_of(value: Any, *choices: str) -> bool:
    return isinstance(value, str) and value in choices


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_whole(value: Any, least: int, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _require_count(name: str, value: Any) -> None:
    if not _is_whole(value, 1, MOST[name]):
        most = f" and at most {MOST[name]:,}" if isinstance(value, int) and value > 1 else ""
        raise ValueError(f"MusiqConfig.{name} is {shown(value)}; it must be a whole number of at least 1{most}")
