"""How much of the ladder a comparison covers: what was compared, what had to be, and names that are no stage."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from fnmatch import fnmatch
from itertools import groupby

from musiq_ref.losses import LOSSES
from musiq_ref.suggest import did_you_mean

GROUPS = (  # rungs of the ladder: title, beginnings of the names in it
    ("integers", ("integers/", "layout", "hash_index", "scale_index", "mask")),
    ("pixels and patches", ("pixels/", "patches")),
    ("stem", ("stem/",)),
    ("embeddings", ("patch_embedding", "spatial_embedding", "scale_embedding", "encoder/input")),
    ("encoder", ("encoder/",)),
    ("head and score", ("head/", "probabilities", "score")),
    ("losses", ("loss/",)),
    ("gradients of activations", ("gradient/",)),
    ("gradients of parameters", ("dparams/",)),
    ("optimiser step", ("step/",)),
    ("training, SGD", ("training/sgd/",)),
    ("training, Adam", ("training/adam/",)),
)
OPTIONAL = {"probabilities", "integers/sides", "integers/hash", *(f"loss/{name}" for name in LOSSES)}
"""Stages that not every fixture has: no mistake where they are given in vain."""
OWN_NAMES = ("dparams/", "step/")
"""Stages of parameters, which a port may know by names of its own; …/params/ of a training step is another."""


class NothingGiven(ValueError):
    """Raised where there is no array to compare.

    >>> issubclass(NothingGiven, ValueError)
    True
    """


def group_of(name: str) -> str:
    """The rung of the ladder that a stage belongs to.

    >>> group_of("encoder/input"), group_of("stem/pool")
    ('embeddings', 'stem')
    """
    return next((title for title, starts in GROUPS if name.startswith(starts)), "other")


def gaps(names: Sequence[str], compared: Collection[str]) -> str:
    """Between which stages whole rungs of the ladder were left out; "" where none was.

    names: all stages, in order
    compared: those that were

    >>> gaps(["mask", "patches", "stem/pool", "encoder/input", "score"], ["patches", "score"])
    'not compared: what comes before patches, what lies between patches and score'
    """
    places, done = [], [name for name in names if name in compared]
    seen = {group_of(name) for name in done}
    before = ""
    for there, some in groupby(names, lambda name: group_of(name) in seen):
        some = list(some)
        if there:
            before = [name for name in some if name in compared][-1]
            continue
        after = next((name for name in names[names.index(some[-1]) :] if name in compared), "")
        if before and after:
            places.append(f"what lies between {before} and {after}")
        else:
            places.append(f"what comes after {before}" if before else f"what comes before {after}")
    return f"not compared: {', '.join(places)}" if places and done else ""


def matching(names: Iterable[str], patterns: Iterable[str]) -> list[str]:
    """The names that fit any of the patterns ("score", "encoder/*"). Raises ValueError for a pattern that fits none.

    >>> matching(["stem/pool", "encoder/norm", "score"], ["encoder/*", "score"])
    ['encoder/norm', 'score']
    """
    names, wanted = list(names), [patterns] if isinstance(patterns, str) else list(patterns)
    for pattern in wanted:
        if not any(fnmatch(name, pattern) for name in names):
            raise ValueError(f"no stage is called {pattern!r}, which is required{did_you_mean(pattern, names)}")
    return [name for name in names if any(fnmatch(name, pattern) for pattern in wanted)]


def check_names(given: Sequence[str], names: Collection[str], allow_unknown: bool) -> list[str]:
    """Sentences about names that are no stage.

    given: the port's
    names: the fixture's
    allow_unknown: accept those that are no stage of any fixture, too

    Raises ValueError where none of them is a stage, and for one that is none unless that is allowed.

    >>> check_names(["encoder_norm"], ["encoder/norm", "score"], False)
    Traceback (most recent call last):
    ValueError: none of the 1 arrays has the name of a stage; 'encoder_norm' is none; did you mean 'encoder/norm'?
    """
    unknown = [name for name in given if name not in names]
    if not given:
        raise NothingGiven("nothing to compare: no array was given")
    if len(unknown) == len(given):
        meant = did_you_mean(unknown[0], names) or f"; names are {', '.join(list(names)[3:9])}, …"
        raise ValueError(f"none of the {len(given)} arrays has the name of a stage; {unknown[0]!r} is none{meant}")
    wrong = [name for name in unknown if not may_be_own(name, names) and name not in OPTIONAL]
    if wrong and not allow_unknown:
        more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        raise ValueError(
            f"{wrong[0]!r} is no stage of this fixture{more}; rename it, leave it out, or add --allow-unknown "
            f"(allow_unknown=True){did_you_mean(wrong[0], names)}"
        )
    notes = [f"{name} is no stage of this fixture" for name in wrong]
    own = len(unknown) - len(wrong) - len(OPTIONAL.intersection(unknown))
    said = (
        f"{own} parameters have names that are not ours; they were"
        if own > 1
        else "1 parameter has a name that is not ours; it was"
    )
    return notes + ([f"{said} not compared"] if own else [])


def may_be_own(name: str, names: Collection[str]) -> bool:
    """Whether a name that is no stage can be a parameter's own name, or belong to another fixture: of training.

    >>> names = ["training/sgd/step_1/loss", "training/sgd/step_1/params/head/bias"]
    >>> may_be_own("training/sgd/step_1/params/fc.bias", names), may_be_own("training/sgd/step_1/los", names)
    (True, False)
    """
    if not name.startswith("training/"):
        return name.startswith(OWN_NAMES)
    step, params, _ = name.partition("/params/")
    training = [n for n in names if n.startswith("training/")]
    return not training or (bool(params) and any(n.startswith(step + params) for n in training))
