"""Ports in JAX, ONNX Runtime and TensorFlow: each a few lines around the framework's own objects."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from musiq_ref.model.parameters import flatten, map_params
from musiq_ref.verify.adapters import Port
from musiq_ref.verify.ladder.fixture import Fixture


def jax_port(
    function: Callable[..., Mapping[str, Any]], *, dtype: str = "float32", gradients: bool = True, jit: bool = False
) -> Port:
    """A JAX function as a port.

    function: (params, image (H, W, 3) in 0 … 1, config) -> {stage: array}, with "score" among them; params are nested
        as ours. A fourth parameter is the tap (None under jit and jax.grad); with it, the port can be stepped
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

        if len(inspect.signature(function).parameters) > 3 and not jit:
            found = function(params, image, fixture.config, tap)
        else:
            found = (jax.jit(run) if jit else run)(params, image)
        stages = {name: np.asarray(a) for name, a in found.items()}
        if gradients:
            dparams, dimage = jax.grad(lambda p, x: run(p, x)["score"].sum(), argnums=(0, 1))(params, image)
            stages["gradient/image"] = np.asarray(dimage)
            stages |= {f"dparams/{path}": np.asarray(a) for path, a in flatten(dparams)}
        return stages

    return port


def onnx_port(session: Any, inputs: Callable[[Fixture], Mapping[str, np.ndarray]], outputs: Mapping[str, str]) -> Port:
    """An ONNX Runtime session as a port. The graph has the fixture's weights, or gets them as inputs.

    session: an onnxruntime.InferenceSession
    inputs: fixture -> {graph input: array}
    outputs: {graph output: stage}; a graph exported with its intermediate tensors as outputs is compared stage by
        stage, one with the score alone at the end
    """

    def port(fixture: Fixture, tap: Callable[[str, Any], Any]) -> dict[str, Any]:
        wanted = {i.name: i for i in session.get_inputs()}
        feed = dict(inputs(fixture))
        missing = sorted(set(wanted) - set(feed))
        if missing:
            raise ValueError(f"the graph has an input {missing[0]!r} that gets no array; add it to inputs")
        results = session.run(list(outputs), feed)
        return dict(zip(outputs.values(), results, strict=True))

    return port


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
