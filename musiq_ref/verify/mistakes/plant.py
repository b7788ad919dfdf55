"""Planting mistakes, never into the live library: each time into a private instance of its modules.

The modules of the ops, of the image, of the model and of the stages, and the mistakes themselves, are executed once
more, importing each other and nothing live in their place. What is replaced there no other thread can see, there is
nothing to put back, and so any number of threads may plant, score and train at once.
"""

from __future__ import annotations

import builtins
import functools
import importlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.machinery import PathFinder
from types import CodeType, FunctionType, ModuleType
from typing import Any

import numpy as np

from musiq_ref.backend import Array
from musiq_ref.config import MusiqConfig
from musiq_ref.model.parameters import Params, flatten
from musiq_ref.verify.mistakes.catalogue import HOME, MISTAKES
from musiq_ref.verify.mistakes.mistake import Mistake

PRIVATE = (
    "musiq_ref.ops",
    "musiq_ref.image",
    "musiq_ref.model",
    "musiq_ref.verify.ladder.stages",
    "musiq_ref.verify.mistakes",
)

TAP = 3  # which of a block's arguments, after z, is its tap


class PrivateLibrary:
    """A private instance of the library, in which functions can be replaced.

    >>> library = PrivateLibrary()
    >>> library.replace("relu", lambda x: (x, None))
    >>> library.module("musiq_ref.ops.activation").relu(-1.0)
    (-1.0, None)
    """

    def __init__(self) -> None:
        self.modules: dict[str, ModuleType] = {}
        self.module("musiq_ref.verify.ladder.stages")
        self.library = dict(self.modules)
        self.homes = {f.__name__: m for m in self.library.values() for f in vars(m).values() if _defined_in(f, m)}
        self.planted: list[ModuleType] = []  # the modules of the mistakes planted so far

    def module(self, name: str) -> ModuleType:
        """The private instance of a module, executed when it is first asked for."""
        if name not in self.modules:
            self.modules[name] = module = ModuleType(name)
            module.__dict__["__builtins__"] = {**vars(builtins), "__import__": self._import}
            exec(_code(name), module.__dict__)
        return self.modules[name]

    def _import(self, name: str, globals: Any = None, locals: Any = None, fromlist: Any = (), level: int = 0) -> Any:
        """`__import__` as the private modules see it: what is private comes from here."""
        if not f"{name}.".startswith(tuple(f"{part}." for part in PRIVATE)):
            return __import__(name, globals, locals, fromlist, level)
        if not fromlist:
            raise ImportError(f"write `from {name} import …`, so that a private instance can stand in its place")
        module = self.module(name)
        for item in fromlist:
            if not hasattr(module, item):  # a module of the package
                setattr(module, item, self.module(f"{name}.{item}"))
        return module

    @property
    def run_stages(self) -> Any:
        """`ladder.stages.run_stages` of this instance."""
        return self.module("musiq_ref.verify.ladder.stages").run_stages

    def now(self, name: str) -> Any:
        """The function of that name as it is at present: the right one, or what a mistake has put there."""
        return vars(self.homes[name])[name]

    def replace(self, name: str, function: Any, where: str = "") -> None:
        """Wherever the library has the function of that name, it has another one from now on.

        name: of a function of ops, image, model or the stages
        function: with the same arguments
        where: the last part of the name of the one module in which it is replaced; "" for all

        Raises ValueError for a function or a module that is not there.
        """
        if name not in self.homes:
            raise ValueError(f"no function of ops, image or model is called {name!r}, so nothing can be planted there")
        modules = [*self.library.values(), *self.planted]
        modules = [m for m in modules if where in ("", m.__name__.rpartition(".")[2])]
        if not modules:
            raise ValueError(f"no module of ops, image or model is called {where!r}, so nothing can be planted there")
        present = self.now(name)

        def replaced(value: Any) -> Any:
            if isinstance(value, dict):  # such as GELU: {"tanh": (gelu_tanh, gelu_tanh_backward), …}
                return {key: replaced(entry) for key, entry in value.items()}
            if isinstance(value, tuple):
                entries = map(replaced, value)
                return type(value)(*entries) if hasattr(value, "_fields") else tuple(entries)
            return function if value is present else value

        for module in modules:
            names = [n for n in vars(module) if not n.startswith("__")]
            vars(module).update({n: replaced(vars(module)[n]) for n in names})

    def plant(self, mistakes: Sequence[Mistake]) -> None:
        """Puts the functions of mistakes in the place of the right ones, one mistake after the other.

        For each, the module that lists it is executed anew. So it calls the library as it is with the mistakes
        before it, and theirs call what it puts there: two can be in one function, or in one that another calls.
        """
        for mistake in mistakes:
            if mistake.function is None or mistake.conventions:
                continue
            self.modules = dict(self.library)
            known = MISTAKES.get(mistake.name)
            function = mistake.function
            if known is not None and known.function is function:
                own = self.module(HOME[mistake.name]).MISTAKES
                function = next(m.function for m in own if m.name == mistake.name)
            for name in mistake.op.split():
                self.replace(name, function, mistake.where)
            self.planted += [m for n, m in self.modules.items() if n not in self.library]


def _defined_in(value: Any, module: ModuleType) -> bool:
    """Whether a value is a function that the module itself defines."""
    return isinstance(value, FunctionType) and value.__module__ == module.__name__


@functools.cache
def _code(name: str) -> CodeType:
    """The compiled source of a module."""
    loader: Any = importlib.import_module(name).__loader__
    if not hasattr(loader, "get_code"):  # pytest's, which rewrites assertions
        path = importlib.import_module(name.rpartition(".")[0]).__path__
        loader = getattr(PathFinder.find_spec(name, path), "loader", None)
    return loader.get_code(name)


def run_planted(
    mistakes: Sequence[Mistake],
    params: Params,
    image: np.ndarray,
    config: MusiqConfig,
    *,
    gradients: bool = False,
    until: str | None = None,
    given: Mapping[str, Array] | None = None,
) -> dict[str, np.ndarray]:
    """`run_stages` of the reference with mistakes planted into it.

    mistakes: those of the catalogue, or others
    gradients, until: as for `run_stages`
    given: {stage: array} from which to go on instead of what is computed there

    >>> import musiq_ref as mq
    >>> config = mq.MusiqConfig.preset("tiny", outputs=3, longer_sides=(64,))
    >>> image = np.zeros((40, 50, 3), np.uint8)
    >>> run_planted([MISTAKES["scores 0 … C−1"]], mq.init_params(config), image, config)["score"]
    array([1.], dtype=float32)
    """
    library, given = PrivateLibrary(), given or {}
    library.plant(mistakes)
    _give_tokens(library, given)
    if not gradients and not any("block_names" in mistake.op for mistake in mistakes):  # a block may run twice
        _skip(library, given, config)
    changes = {field: value for mistake in mistakes for field, value in mistake.conventions.items()}
    changed = config.replace(conventions=replace(config.conventions, **changes))
    for mistake in mistakes:
        params = mistake.load(params, config) if mistake.load else params
    seen: dict[str, Array] = dict(flatten(params))
    shown: dict[str, Array] = {}

    def tap(name: str, array: Array) -> Array:
        again, seen[name] = name in seen, array
        for mistake in mistakes:
            array = mistake.tap(name, array, seen, config) if mistake.tap and not mistake.unseen else array
        array = _like(given[name], array) if name in given and not again else array
        passed = array
        for mistake in mistakes:
            passed = mistake.tap(name, passed, seen, config) if mistake.tap and mistake.unseen else passed
        if passed is not array:
            shown.setdefault(name, array)
        seen[name] = passed
        return passed

    def gradient_tap(name: str, array: Array) -> Array:
        return _like(given[f"gradient/{name}"], array) if f"gradient/{name}" in given else array

    tapped = bool(given) or any(mistake.tap for mistake in mistakes)
    with np.errstate(all="ignore"):
        run = library.run_stages(
            params, image, changed, tap=tap if tapped else None, gradient_tap=gradient_tap, gradients=gradients,
            until=until,
        )  # fmt: skip
    return {name: shown.get(name, array) for name, array in run.items()}


def _like(given: Array, array: Array) -> Array:
    """What is given in the place of an array, unless a mistake has changed its shape."""
    return np.asarray(given, array.dtype) if np.shape(given) == array.shape else array


def _give_tokens(library: PrivateLibrary, given: Mapping[str, Array]) -> None:
    """Integers of the tokens and the probabilities, which no tap replaces, are taken as they are given."""
    integers = {name: given[name] for name in ("hash_index", "scale_index", "mask") if name in given}
    if integers:
        batch = library.now("batch")

        def batched(tokens: Any) -> Any:
            whole = batch(tokens)
            return whole._replace(**{name: _like(a, getattr(whole, name)) for name, a in integers.items()})

        library.replace("batch", batched)
    if "probabilities" in given:
        expected, p = library.now("expected_score"), np.asarray(given["probabilities"])
        library.replace("expected_score", lambda logits: expected(np.log(np.maximum(p, 1e-300)).astype(logits.dtype)))


def _skip(library: PrivateLibrary, given: Mapping[str, Array], config: MusiqConfig) -> None:
    """What comes before a given output of the stem or of a block is not computed."""
    if "stem/output" in given:
        features = given["stem/output"]
        library.replace(
            "stem" if config.stem == "resnet" else "linear_stem",
            lambda x, params, conventions, tap: (tap("output", features.astype(x.dtype)), None),
        )
    outputs = [given.get(f"encoder/block_{k:02d}/output") for k in range(config.layers)]
    if any(output is not None for output in outputs):
        block, left = library.now("block"), iter(outputs)

        def skipping(z: Array, *arguments: Any, **options: Any) -> Any:
            output = next(left, None)
            if output is None:
                return block(z, *arguments, **options)
            return arguments[TAP]("output", _like(output, z)), None

        library.replace("block", skipping)
