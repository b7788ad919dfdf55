"""Another program's arrays made ours: the order of their axes, the tokens that they hold, whose values they are."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from musiq_ref.config import MusiqConfig
from musiq_ref.model.parameters import Params, flatten
from musiq_ref.verify.ladder.fixture import Fixture
from musiq_ref.verify.ladder.stages import SEQUENCE, axes_of

SAME = 2**-7  # error below which two arrays are one, rounded to as little as bfloat16
SAMPLE = 509  # values that are looked at first: a prime, so that they fall on all rows and columns
PARTS = ("query", "key", "value")
CLASS_LAST, NO_PADDING = "class last", "no padding"


def axes_and_order(stage: str, layout: str = "") -> tuple[tuple[str, ...], tuple[int, ...]]:
    """The axes of a stage, and the order in which a port has them.

    stage: ".../qkv" stands for query, key and value in one array
    layout: "" for ours, "NCHW", "heads" (B, N, H·D_h), or our axes in their order, as "sequence, batch, width";
        "class last" and "no padding", after "; " if they are not alone, where the class token follows the others, and
        where padded tokens are left out

    >>> axes_and_order("stem/conv1", "NCHW")
    (('token', 'row', 'column', 'channel'), (0, 3, 1, 2))
    """
    fused = stage.endswith("/qkv")
    axes = ("part", *axes_of(f"{stage[:-3]}query")) if fused else axes_of(stage)
    names, text = list(axes), "; ".join(w for w in layout.split("; ") if w not in (CLASS_LAST, NO_PADDING))
    if text == "NCHW" and "row" in names:
        names.insert(names.index("row"), names.pop(names.index("channel")))
    elif text == "heads" or (fused and not text):
        names = [n for n in ("batch", SEQUENCE, "part", "head", "head_width") if n in axes]
    elif text:
        names = text.split(", ")
    if sorted(names) != sorted(axes):
        raise ValueError(f"{stage} has no layout {layout!r}; name its axes in your order: {', '.join(axes)}")
    return axes, tuple(axes.index(n) for n in names)


def layout_name(stage: str, order: tuple[int, ...], class_last: bool = False, no_padding: bool = False) -> str:
    """The inverse of `axes_and_order`.

    >>> layout_name("stem/conv1", (0, 3, 1, 2)), layout_name("encoder/norm", (1, 0, 2), class_last=True)
    ('NCHW', 'sequence, batch, width; class last')
    """
    axes = axes_and_order(stage)[0]
    short = ["", *(["NCHW"] if "row" in axes else []), *(["heads"] if "head_width" in axes else [])]
    usual = next((s for s in short if axes_and_order(stage, s)[1] == order), None)
    words = [", ".join(axes[k] for k in order) if usual is None else usual]
    return "; ".join(filter(None, [*words, CLASS_LAST * class_last, NO_PADDING * no_padding]))


class Placement:
    """Where the arrays of a port belong in one stage: their axes in our order, their tokens at our tokens.

    A port may leave padding out, and may make a stage in parts, scale by scale or in chunks of tokens.

    >>> from musiq_ref.verify import build_fixture
    >>> place = Placement(build_fixture(), "stem/conv1", "NCHW")
    >>> index = place.locate(14 * 64 * 64)  # the valid tokens alone, of 19
    >>> place.put(place.ours(np.ones((14, 64, 8, 8)), index), index).shape
    (19, 8, 8, 64)
    """

    def __init__(self, fixture: Fixture, stage: str, layout: str = "") -> None:
        self.axes, self.order = axes_and_order(stage, layout)
        self.names = [f"{stage[:-3]}{part}" for part in PARTS] if stage.endswith("/qkv") else [stage]
        shape = fixture.stages[self.names[0]].shape
        self.shape = (3, *shape) if len(self.names) > 1 else shape
        self.tokens = [k for k, label in enumerate(self.axes) if label.startswith(("token", SEQUENCE))]
        self.rolled = [k for k in self.tokens if CLASS_LAST in layout]
        self.unpadded = NO_PADDING in layout
        mask = fixture.mask.astype(bool)
        sequence = self.tokens and self.axes[self.tokens[0]].startswith(SEQUENCE)
        self.valid = np.flatnonzero(np.concatenate([[True], mask]) if sequence else mask)
        self.scales = fixture.stages["layout"].array[:, 4:]  # tokens and valid tokens
        self.begin()

    def begin(self) -> None:
        """The next array is the first of the stage."""
        self.parts, self.done = 0, 0
        self.whole: np.ndarray | None = None

    def locate(self, size: int) -> tuple[np.ndarray, ...] | None:
        """Our places of the next array, of `size` values, along every axis; None where it cannot be of this stage."""
        rest = math.prod(n for k, n in enumerate(self.shape) if k not in self.tokens)
        n = round((size / rest) ** (1 / max(len(self.tokens), 1)))
        if rest * n ** len(self.tokens) != size or not n:
            return None
        at = self._tokens(n) if self.tokens else np.arange(1)
        return (
            tuple(at if k in self.tokens else np.arange(m) for k, m in enumerate(self.shape)) if len(at) == n else None
        )

    def _tokens(self, n: int) -> np.ndarray:
        """The places of the next n tokens."""
        full = self.shape[self.tokens[0]]
        if n in (full, len(self.valid)) and not self.done:
            return np.arange(full) if n == full else self.valid
        length, kept = self.scales[self.parts] if self.parts < len(self.scales) else (n, n)
        base = self.valid if self.unpadded or n == kept != length else np.arange(full)
        start, self.done, self.parts = self.done, self.done + n, self.parts + 1
        if self.done >= len(base):
            self.parts, self.done = 0, 0
        return base[start : start + n]

    @property
    def complete(self) -> bool:
        """Whether all tokens were seen."""
        return not self.done

    def ours(self, array: np.ndarray, index: tuple[np.ndarray, ...]) -> np.ndarray:
        """Their array with axes like ours."""
        part = array.reshape([len(index[k]) for k in self.order]).transpose(np.argsort(self.order))
        return np.roll(part, 1, self.rolled) if self.rolled else part

    def theirs(self, whole: np.ndarray, index: tuple[np.ndarray, ...], shape: tuple[int, ...]) -> np.ndarray:
        """What they have of our whole stage."""
        part = whole[np.ix_(*index)]
        return (np.roll(part, -1, self.rolled) if self.rolled else part).transpose(self.order).reshape(shape)

    def put(self, part: np.ndarray, index: tuple[np.ndarray, ...]) -> np.ndarray:
        """The whole stage with this part of it, 0 where nothing is yet."""
        if part.shape == self.shape:
            return part
        if self.whole is None:
            self.whole = np.zeros(self.shape, part.dtype)
        self.whole[np.ix_(*index)] = part
        return self.whole

    def named(self, whole: np.ndarray) -> dict[str, np.ndarray]:
        """{stage: array} of a whole, which holds three stages where query, key and value are one."""
        return dict(zip(self.names, whole if len(self.names) > 1 else [whole], strict=True))


def error_of(theirs: np.ndarray, ours: np.ndarray, valid: np.ndarray | None = None, most: int = SAMPLE) -> float:
    """Length of the difference over length of ours, at some of the valid values; their values are in the order of ours.

    >>> round(error_of(np.ones(4), np.full((2, 2), 2.0)), 3)
    0.5
    """
    count = min(theirs.size, most)
    places = np.arange(count) * (theirs.size - 1) // max(count - 1, 1)
    index = np.unravel_index(places, ours.shape)
    a, b = theirs.reshape(-1)[places], ours[index]
    if valid is not None:
        a, b = a[valid[index]], b[valid[index]]
    length = float(np.sqrt((b * b).sum()))
    off = float(np.sqrt(((a - b) ** 2).sum()))
    return off / length if length else (np.inf if off else 0.0)


class Match(NamedTuple):
    """Whose values an array holds: paths of our parameters (several are fused), their axes in its order, their shape.

    >>> Match(("head/bias",), (0,), (10,)).paths
    ('head/bias',)
    """

    paths: tuple[str, ...]
    order: tuple[int, ...]
    shape: tuple[int, ...]

    def ours(self, array: np.ndarray) -> dict[str, np.ndarray]:
        """{path: array} of an array that is laid out like theirs, such as a gradient; merged axes stay apart.

        >>> Match(("a", "b"), (1, 0), (2, 3)).ours(np.arange(6).reshape(3, 2))
        {'a': array([0, 2, 4]), 'b': array([1, 3, 5])}
        """
        whole = array.reshape([self.shape[k] for k in self.order]).transpose(np.argsort(self.order))
        return dict(zip(self.paths, whole if len(self.paths) > 1 else [whole], strict=True))


def match_parameters(
    theirs: Mapping[str, np.ndarray], params: Params, config: MusiqConfig, known: Mapping[str, str] | None = None
) -> dict[str, Match]:
    """{their name: whose values it holds}, up to the order and the merging of axes, and up to fused projections.

    known: {their name: ours}, where values alone do not tell. Names that stay unknown are left out

    >>> from musiq_ref.verify import deterministic_params
    >>> config = MusiqConfig.preset("tiny", outputs=10)
    >>> params = deterministic_params(config, 3)
    >>> match_parameters({"fc.weight": params["head"]["kernel"].T}, params, config)
    {'fc.weight': Match(paths=('head/kernel',), order=(1, 0), shape=(48, 10))}
    """
    by_size: dict[int, list[tuple[tuple[str, ...], np.ndarray]]] = {}
    for paths, array in _sources(params, config, {a.size for a in theirs.values()}):
        by_size.setdefault(array.size, []).append((paths, array))
    found = {}
    for name, array in theirs.items():
        sources = [
            s for s in by_size.get(array.size, []) if name not in (known or {}) or s[0] == ((known or {})[name],)
        ]
        fits = [match for paths, ours in sources if (match := _match(array, paths, ours))]
        if len(fits) == 1:
            [found[name]] = fits
    return found


def _match(array: np.ndarray, paths: tuple[str, ...], ours: np.ndarray) -> Match | None:
    """The first order of our axes in which the values are the same."""
    for order in itertools.permutations(range(ours.ndim)):
        view = ours.transpose(order)
        if error_of(array, view) < SAME and error_of(array, view, most=array.size) < SAME:
            return Match(paths, order, ours.shape)
    return None


def _sources(params: Params, config: MusiqConfig, sizes: set[int]) -> Iterator[tuple[tuple[str, ...], np.ndarray]]:
    """(paths, array) of every parameter, and of those that programs keep in one, if their size is asked for."""
    leaves = dict(flatten(params))
    blocks = [f"encoder/block_{i:02d}" for i in range(config.layers)]
    groups: list[tuple[str, ...]] = [(path,) for path in leaves]
    for block, leaf, parts in itertools.product(blocks, ("kernel", "bias"), (PARTS, PARTS[1:])):
        groups.append(tuple(f"{block}/attention/{part}/{leaf}" for part in parts))
    for path in leaves if len(blocks) > 1 else ():
        if path.startswith(f"{blocks[0]}/"):
            groups.append(tuple(path.replace(blocks[0], block) for block in blocks))
    for paths in groups:
        array = leaves[paths[0]]
        if array.size * len(paths) not in sizes:
            continue
        if paths == ("patch_embedding/kernel",) and config.stem == "resnet":  # features are row, column, channel
            array = array.reshape(config.stem_side, config.stem_side, -1, array.shape[-1])
        yield paths, np.stack([leaves[p] for p in paths]) if len(paths) > 1 else array


def as_numbers(array: Any) -> np.ndarray | None:
    """An array of float32 or float64; None where there are no such numbers.

    >>> as_numbers(np.float16(0.5)), as_numbers("text")
    (array(0.5, dtype=float32), None)
    """
    numbers = np.asarray(array)
    if numbers.dtype.kind == "V" or numbers.dtype.name == "bfloat16" or numbers.dtype == np.float16:
        return numbers.astype(np.float32)
    return numbers if numbers.dtype.kind == "f" else None
