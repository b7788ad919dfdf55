"""Where in a file the weights are: whatever nests and prefixes are around MUSIQ's names, and whatever lies beside."""

from __future__ import annotations

import os
import re
from collections import deque
from collections.abc import Iterator
from types import UnionType
from typing import Any, NamedTuple

from musiq_ref.checkpoint.layout import CheckpointError, Layout, listed, printable
from musiq_ref.checkpoint.native import NATIVE_LAYOUT
from musiq_ref.checkpoint.official import OFFICIAL_LAYOUT, PREFIX
from musiq_ref.checkpoint.pyiqa import PYIQA_LAYOUT
from musiq_ref.checkpoint.torch_pickle import Name, Opaque, described
from musiq_ref.config import MusiqConfig
from musiq_ref.model.parameters import parameter_shapes

LAYOUTS = {layout.format: layout for layout in (NATIVE_LAYOUT, OFFICIAL_LAYOUT, PYIQA_LAYOUT)}

NUMBER = re.compile(r"block_[0-9]+")
KNOWN = {
    NUMBER.sub("block_0", layout.name(path)): name
    for name, layout in LAYOUTS.items()
    for path in parameter_shapes(MusiqConfig(layers=1, attention="linformer" if name == "native" else "softmax"))
}
"""{a tensor's name, every block as the first one: format that calls it so}"""
KNOWN |= {"head.0.weight": "pyiqa", "head.0.bias": "pyiqa"}
COMMON = re.compile(r"^(head|embedding|class_token)\b")
"""Names that other models have, too, so that they tell nothing."""

OPTIMIZER = re.compile(r"(^|[/.])(opt_state|optimi[sz]er\w*|mu|nu|momentum|exp_avg\w*)[/.]")
AVERAGE = re.compile(r"(^|[/._])(ema|swa|average|averaged|teacher)([/._]|$)")
DEEPEST, MOST_ENTRIES, LONGEST_NAME, MOST_PLACES = 8, 100_000, 1000, 100
NOT_RUN = (
    "nothing that a file asks for is run; save model.state_dict() alone, and load this file nowhere unless you trust it"
)


class Place(NamedTuple):
    """A layout's names behind a prefix.

    >>> locate("state_dict/module.head.bias")
    Place(format='pyiqa', prefix='state_dict/module.', common=True)
    """

    format: str
    prefix: str
    common: bool  # whether other models have that name, too


class Weights(NamedTuple):
    """Tensors under MUSIQ's names, or what they are to be made of.

    layout: whose names they are
    tensors: by those names
    notes: a sentence for everything that was taken away or left out
    """

    layout: Layout
    tensors: dict[str, Any]
    notes: tuple[str, ...]


def locate(name: str) -> Place | None:
    """What a tensor's name says of the place of a MUSIQ, if its end is one of MUSIQ's names."""
    starts = [0, *(found.end() for found in re.finditer(r"[./]", name[:LONGEST_NAME]))]
    for start in starts[-6:]:
        end = NUMBER.sub("block_0", name[start:])
        if end in KNOWN:
            return Place(KNOWN[end], name[:start], bool(COMMON.match(end)))
    return None


def find_weights(entries: Any, kind: type) -> Weights:
    """The tensors of the MUSIQ that is in a file.

    entries: what is in it, nested dicts and lists of anything
    kind: type of the tensors there

    Where there are several, one that is not an average of others ("params" before "params_ema"), then the first.
    Raises CheckpointError when there is none.

    >>> found = find_weights({"net": {"module.conv_root.weight": 1.5, "module.head.bias": 0.5}, "epoch": 3}, float)
    >>> found.tensors, found.notes
    ({'conv_root.weight': 1.5, 'head.bias': 0.5}, ("the weights are those under 'net/module.'", 'left out: epoch'))
    """
    leaves = slashed(flat_leaves(entries, kind))
    counts = count_places(leaves, kind) or count_places(leaves, Opaque | Name, common=True)
    if not counts:
        raise CheckpointError("none of MUSIQ's tensors in it; check which model it is of")
    most = max(counts.values())
    likely = [place for place, count in counts.items() if 2 * count > most]
    if len(likely) > MOST_PLACES:
        raise CheckpointError(f"it holds {len(likely)} models; save model.state_dict() of one")
    layout, prefix = min(likely, key=lambda place: bool(AVERAGE.search(place[1])))
    tensors, others = {}, {}
    for name, value in leaves.items():
        place = locate(name) if name.startswith(prefix) else None
        if place and place[:2] == (layout, prefix) and not isinstance(value, kind):
            raise CheckpointError(
                f"its tensor {printable(name)} would have to be made by {printable(described(value))}, and {NOT_RUN}"
            )
        mine = name.startswith(prefix) and isinstance(value, kind)
        (tensors if mine else others)[name] = value
    notes = [f"the weights are those under {printable(prefix)!r}"] if prefix not in ("", PREFIX) else []
    for _, other in likely:
        if other != prefix:
            notes.append(f"another MUSIQ, {printable(other)!r}, was left out")
            others = {name: value for name, value in others.items() if not name.startswith(other) or not other}
    notes += left_out([beside(name, prefix) for name in others])
    return Weights(LAYOUTS[layout], {name[len(prefix) :]: value for name, value in tensors.items()}, tuple(notes))


def count_places(leaves: dict[str, Any], kind: type | UnionType, common: bool = False) -> dict[tuple[str, str], int]:
    """{(format, prefix): number of values of a type that have MUSIQ's names there}, in the order of the file.

    common: count names that other models have, too

    >>> count_places({"net.conv_root.weight": 1.5, "net.gn_root.bias": 0.5, "mu/conv_root/kernel": 0.0}, float)
    {('pyiqa', 'net.'): 2}
    """
    counts: dict[tuple[str, str], int] = {}
    for name, value in leaves.items():
        place = locate(name) if isinstance(value, kind) and not OPTIMIZER.search(name) else None
        if place and (common or not place.common):
            counts[place[:2]] = counts.get(place[:2], 0) + 1
    return counts


def left_out(names: list[str]) -> list[str]:
    """The sentence about what was not loaded, if there is anything."""
    return [f"left out: {listed([printable(name) for name in dict.fromkeys(names)])}"] if names else []


def beside(name: str, prefix: str) -> str:
    """The part of a name that is enough to tell it from those behind a prefix.

    >>> beside("optimizer/state/0/exp_avg", "state_dict/net."), beside("state_dict/loss.scale", "state_dict/net.")
    ('optimizer', 'state_dict/loss.scale')
    """
    shared = os.path.commonprefix([name, prefix])  # noqa: RUF071
    end = name.find("/", shared.rfind("/") + 1)
    return name if end < 0 else name[:end]


def flat_leaves(entries: Any, kind: type) -> dict[str, Any]:
    """{keys joined by "/": value} of nested dicts and lists: the tensors, and what lies in dicts beside them.

    >>> flat_leaves({"state": {"a.b": 1.5}, "more": ["x", 2.5]}, float)
    {'state/a.b': 1.5, 'more/1': 2.5}
    """
    if type(entries) not in (dict, list, tuple):
        raise CheckpointError(f"it holds {printable(described(entries))}, not a state dict, and {NOT_RUN}")
    leaves: dict[str, Any] = {}
    pending, seen = deque([("", entries, 1)]), {id(entries)}
    while pending:
        prefix, node, depth = pending.popleft()
        for key, value in pairs(node):
            if id(value) in seen or len(prefix) + len(key if isinstance(key, str) else "") > LONGEST_NAME:
                continue
            name = f"{prefix}{key}"
            if type(value) in (dict, list, tuple) and depth < DEEPEST:
                seen.add(id(value))
                pending.append((f"{name}/", value, depth + 1))
            elif isinstance(value, kind) or type(node) is dict:
                if name in leaves:
                    raise CheckpointError(f"two entries of it are called {printable(name)}; export it again")
                leaves[name] = value
            if len(leaves) + len(pending) > MOST_ENTRIES:
                raise CheckpointError("it holds far more than a checkpoint does; save model.state_dict() alone")
    return leaves


def slashed(leaves: dict[str, Any]) -> dict[str, Any]:
    """The same with "/" for "." in all names, where those of Flax, or ours, were joined by dots.

    >>> slashed({"params.conv_root.kernel": 1, "params.head.bias": 2})
    {'params/conv_root/kernel': 1, 'params/head/bias': 2}
    """
    if not any(name.endswith("conv_root.kernel") for name in leaves):  # PyTorch's end in conv_root.weight
        return leaves
    renamed = {name.replace(".", "/"): value for name, value in leaves.items()}
    return renamed if len(renamed) == len(leaves) else leaves


def pairs(node: Any) -> Iterator[tuple[Any, Any]]:
    """The entries of a dict, or the numbered ones of a list."""
    yield from node.items() if type(node) is dict else enumerate(node)
