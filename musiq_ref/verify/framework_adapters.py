"""Ports in JAX, ONNX Runtime and TensorFlow: each a few lines around the framework's own objects."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from musiq_ref.checkpoint.layout import listed
from musiq_ref.model.parameters import flatten, map_params
from musiq_ref.verify.adapters import Port
from musiq_ref.verify.ladder.fixture import Fixture
from musiq_ref.verify.proposal import Hook, HookMap, propose
from musiq_ref.verify.recognition import as_numbers, match_parameters


def takes_tap(function: Callable[..., Any]) -> bool:
    """Whether the fourth parameter of a function is the tap: one called so, or one without a default.

    >>> takes_tap(lambda params, image, config, tap=None: {}), takes_tap(lambda params, image, config, eps=1e-6: {})
    (True, False)
    """
    fourth = list(inspect.signature(function).parameters.values())[3:4]
    return any(p.name == "tap" or (p.kind == p.POSITIONAL_OR_KEYWORD and p.default is p.empty) for p in fourth)


def jax_port(
    function: Callable[..., Mapping[str, Any]],
    hooks: Mapping[str, Hook] | None = None,
    *,
    dtype: str = "float32",
    gradients: bool = True,
    jit: bool = False,
) -> Port:
    """A JAX function as a port.

    function: (params, image (H, W, 3) in 0 … 1, config) -> {stage: array}, with "score" among them; params are nested
        as ours. A fourth parameter is the tap (None under jit and jax.grad); with it, the port can be stepped
    hooks: {name: (stage, layout)} of arrays with other names, such as Flax's intermediates; None: those that
        `proposal.propose` finds
    dtype: of parameters and image
    jit: compile the function
    gradients: of the score to the parameters and the image, by jax.grad
    """

    def port(fixture: Fixture, tap: Callable[[str, Any], Any]) -> dict[str, Any]:
        import jax
        import jax.numpy as jnp

        params = map_params(lambda a: jnp.asarray(a, dtype), fixture.params)
        image = jnp.asarray(fixture.image, dtype) / 255

        def run(params, image):
            return dict(function(params, image, fixture.config))

        if takes_tap(function) and not jit:
            found = function(params, image, fixture.config, tap)
        else:
            found = (jax.jit(run) if jit else run)(params, image)
        other = {n: a for n, array in found.items() if n not in fixture.stages and (a := as_numbers(array)) is not None}
        chosen = propose(other.items(), fixture) if hooks is None and other else HookMap(hooks or {})
        stages: dict[str, Any] = dict(chosen.stages(found, fixture))
        strange = sorted(set(other) - set(chosen))
        if strange:
            stages["notes"] = [f"{listed(strange)}: near no stage of this fixture"]
        if gradients:
            dparams, dimage = jax.grad(lambda p, x: run(p, x)["score"].sum(), argnums=(0, 1))(params, image)
            stages["gradient/image"] = np.asarray(dimage)
            stages |= {f"dparams/{path}": np.asarray(a) for path, a in flatten(dparams)}
        return stages

    return port


def onnx_port(
    session: Any, inputs: Callable[[Fixture], Mapping[str, np.ndarray]], outputs: Mapping[str, str | Hook] | None = None
) -> Port:
    """An ONNX Runtime session as a port. The graph has the fixture's weights, or gets them as inputs.

    session: an onnxruntime.InferenceSession, or a file
    inputs: fixture -> {graph input: array}
    outputs: {graph output: stage, or (stage, layout)}. None, of a file: those that `propose_outputs` finds inside
    """

    def port(fixture: Fixture, tap: Callable[[str, Any], Any]) -> dict[str, Any]:
        running, chosen = propose_outputs(session, inputs, fixture) if outputs is None else (session, outputs)
        hooks = HookMap({n: (hook, "") if isinstance(hook, str) else hook for n, hook in chosen.items()})
        results = running.run(list(hooks), _feed(running, inputs, fixture))
        return hooks.stages(dict(zip(hooks, results, strict=True)), fixture)

    return port


def propose_outputs(
    path: str | Path, inputs: Callable[[Fixture], Mapping[str, np.ndarray]], fixture: Fixture
) -> tuple[Any, HookMap]:
    """A session that gives every intermediate tensor of a graph, and which of them is which stage; print it to read it.

    path: of a .onnx file
    inputs: as in `onnx_port`
    """
    import onnx
    import onnxruntime

    model = onnx.load(str(path))
    last = [output.name for output in model.graph.output]
    inside = [name for node in model.graph.node for name in node.output if name and name not in last]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in inside)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [*inside, *last]
    results: dict[str, Any] = dict(zip(names, session.run(names, _feed(session, inputs, fixture)), strict=True))
    held = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    found = match_parameters(
        {n: a for n, a in held.items() if a.dtype.kind == "f" and a.size > 1}, fixture.params, fixture.config
    )
    owners = {
        name: {p for i in node.input if i in found for p in found[i].paths}
        for node in model.graph.node
        for name in node.output
    }
    finished = {n: paths for n, paths in owners.items() if any(path.endswith("bias") for path in paths)}
    arrays = ((n, numbers) for n, a in results.items() if (numbers := as_numbers(a)) is not None)
    hooks = propose(arrays, fixture, finished)
    score = {n: ("score", "") for n in last if np.size(results[n]) == 1}
    return session, hooks.corrected(dict(list(score.items())[-1:]))


def _feed(session: Any, inputs: Callable[[Fixture], Mapping[str, np.ndarray]], fixture: Fixture) -> dict[str, Any]:
    feed = dict(inputs(fixture))
    missing = sorted({i.name for i in session.get_inputs()} - set(feed))
    if missing:
        raise ValueError(f"the graph has an input {missing[0]!r} that gets no array; add it to inputs")
    return feed


def keras_port(
    model: Any,
    call: Callable[[Any, Any], Mapping[str, Any]],
    *,
    load: Callable[[Any, Fixture], None] | None = None,
    variables: Mapping[str, str] | None = None,
) -> Port:
    """A Keras model or a TensorFlow SavedModel (`tf.saved_model.load(folder)`) as a port.

    call: (model, image (1, H, W, 3) in 0 … 1, a tensor) -> {stage: tensor}, with "score" among them
    load: puts the fixture's weights into the model
    variables: {name of a trainable variable: our parameter}, for the gradients

    Too large for the tests to install, it is tried by benchmarks/check_tensorflow.py.
    """

    def port(fixture: Fixture, tap: Callable[[str, Any], Any]) -> dict[str, Any]:
        import tensorflow as tf  # pyright: ignore

        if load is not None:
            load(model, fixture)
        image = tf.constant(fixture.image[None].astype(np.float32) / 255)
        chosen = {v.name: v for v in getattr(model, "trainable_variables", []) if v.name in (variables or {})}
        with tf.GradientTape() as tape:
            tape.watch(image)
            stages = dict(call(model, image))
            total = tf.reduce_sum(stages["score"])
        dimage, *dvariables = tape.gradient(total, [image, *chosen.values()])
        result = {name: np.asarray(a) for name, a in stages.items()}
        if dimage is not None:
            result["gradient/image"] = np.asarray(dimage)[0]
        for name, gradient in zip(chosen, dvariables, strict=True):
            if gradient is not None:
                dense = tf.convert_to_tensor(gradient)  # a table that is gathered from has a sparse one
                result[f"dparams/{(variables or {})[name]}"] = np.asarray(dense)
        return result

    return port
