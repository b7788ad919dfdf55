"""All parameters at once: on the stand-in for a device few vectors and few launches, on the host nothing copied."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from cupy_double import BACKEND, Double, Function, from_numpy, to_numpy

from musiq_ref.model.parameters import EndToEnd, map_params, nest
from musiq_ref.training import optimizers
from musiq_ref.training.optimizers import OPTIMIZERS, clip_by_global_norm, ema
from musiq_ref.training.run import _check_finite

FORMS = {
    "bias": ((1,), "float32"),
    "kernel": ((6, 4), "float32"),
    "double": ((3, 2), "float64"),
    "table": ((5, 8), "float32"),
    "empty": ((0, 3), "float32"),
    "number": ((), "float64"),
    "odd": ((7,), "float32"),
}


@pytest.fixture
def values(rng):
    return {path: np.array(rng.normal(size=shape), dtype) for path, (shape, dtype) in FORMS.items()}


def upload(values):
    """On the device, one of them in Fortran's order and one with gaps."""
    there = {path: BACKEND.from_numpy(array) for path, array in values.items()}
    there["kernel"] = BACKEND.from_numpy(values["kernel"].T).T
    there["table"] = BACKEND.from_numpy(np.repeat(values["table"], 2, axis=1))[:, ::2]
    return there


def test_arrays_of_a_dtype_lie_end_to_end_and_come_back_as_they_were(values):
    there = upload(values)
    whole = EndToEnd(there)
    vectors = whole.join(dict(reversed(there.items())))
    assert sorted((v.dtype.name, v.shape) for v in vectors) == [("float32", (72,)), ("float64", (7,))]
    back = whole.cut(vectors)
    assert list(back) == list(values)
    for path, array in back.items():
        assert array.dtype == values[path].dtype
        assert array.shape == values[path].shape
        assert array.flags.c_contiguous
        assert BACKEND.to_numpy(array).tobytes() == values[path].tobytes()


def test_the_result_is_views_and_the_given_arrays_are_not_touched(values):
    there = upload(values)
    whole = EndToEnd(there)
    vectors = whole.join(there)
    back = whole.cut(vectors)
    for vector in vectors:
        vector.fill(5)
    assert all((BACKEND.to_numpy(array) == 5).all() for array in back.values())
    assert all((BACKEND.to_numpy(there[path]) == array).all() for path, array in values.items())


def test_every_array_begins_at_a_multiple_of_the_power_of_two_in_its_size(values):
    """So products of matrices find them as aligned as if each had memory of its own."""
    there = upload(values)
    whole = EndToEnd(there)
    vectors = whole.join(there)
    begins = {v.dtype: v.data.ptr for v in vectors}
    for array in whole.cut(vectors).values():
        offset = (array.data.ptr - begins[array.dtype]) // array.itemsize
        assert array.size == 0 or offset % (array.size & -array.size) == 0


def test_on_the_host_nothing_is_copied(values):
    whole = EndToEnd(values)
    vectors = whole.join(dict(reversed(values.items())))
    assert all(a is b for a, b in zip(vectors, values.values(), strict=True))
    assert all(array is values[path] for path, array in whole.cut(vectors).items())
    assert EndToEnd({}).cut(EndToEnd({}).join({})) == {}


@pytest.mark.parametrize("other", [{"a": (3,), "b": (2,)}, {"a": (2,), "b": (1, 3)}])
def test_arrays_of_other_shapes_are_refused(other):
    """Also where they are as many numbers in all."""
    one, two = ({p: BACKEND.from_numpy(np.ones(s)) for p, s in t.items()} for t in ({"a": (2,), "b": (3,)}, other))
    with pytest.raises(ValueError, match=r"^[ab] is float64 \(\d.*\); what it is joined with is float64 \(\d,\)$"):
        ema(one, two, 0.5)


def test_an_array_of_another_dtype_is_refused():
    one, two = ({"a": BACKEND.from_numpy(np.ones(2, dtype))} for dtype in ("float32", "float64"))
    with pytest.raises(ValueError, match=r"^a is float64 \(2,\); what it is joined with is float32"):
        ema(one, two, 0.5)


GROUPS = {
    "*/bias": {"weight_decay": 0.0},
    "stem/*": {"lr_scale": 0.1},
    "class_token": {"lr_scale": 0},
    "encoder/0/bias": {"weight_decay": 0.3},
}


def tree(rng, blocks):
    shapes = {"class_token": (3,), "stem/kernel": (2, 3), "stem/bias": (3,)}
    for i in range(blocks):
        shapes |= {f"encoder/{i}/kernel": (3, 4), f"encoder/{i}/bias": (4,)}
    return nest({path: BACKEND.from_numpy(rng.normal(size=shape)) for path, shape in shapes.items()})


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimiser_is_called_once_for_a_setting(name, rng, monkeypatch):
    calls = []
    init, optimizer = OPTIMIZERS[name]
    step = optimizers.sgd_step if name == "sgd" else optimizers.adam_step

    def counted(theta, *rest):
        calls.append(theta.shape)
        return step.readable(theta, *rest)

    monkeypatch.setitem(step.kernels, Double, counted)
    params, grads = tree(rng, 5), tree(rng, 5)
    optimizer(params, grads, init(params), 0.1, weight_decay=0.1)
    assert calls == [(3 + 6 + 3 + 5 * (12 + 4),)]
    calls.clear()
    after, _ = optimizer(params, grads, init(params), 0.1, weight_decay=0.1, groups=GROUPS)
    assert after["class_token"] is params["class_token"]  # which is frozen
    # the stem's kernel, its bias, the other kernels, their biases, and the bias that decays
    assert sorted(calls) == [(3,), (4,), (6,), (4 * 4,), (5 * 12,)]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_what_a_step_launches_does_not_grow_with_the_number_of_arrays(name, rng, monkeypatch):
    init, optimizer = OPTIMIZERS[name]
    launched, real = Counter(), Function.__call__

    def counted(function, *args, **kwargs):
        launched[function.name] += 1
        return real(function, *args, **kwargs)

    counts = []
    for blocks in (2, 9):
        params, grads = tree(rng, blocks), tree(rng, blocks)
        state, average = init(params), map_params(lambda a: 2 * a, params)
        with monkeypatch.context() as patch:
            patch.setattr(Function, "__call__", counted)
            launched.clear()
            clipped, _ = clip_by_global_norm(grads, 1.0, GROUPS)
            params, _ = optimizer(params, clipped, state, 0.1, groups=GROUPS)
            _check_finite(params)
            ema(average, params, 0.9)
        counts.append(dict(launched))
    assert counts[0] == counts[1]
    assert counts[0]["isfinite"] == 1


def test_what_was_cut_from_one_vector_is_joined_without_a_copy():
    leaves = {name: from_numpy(np.arange(n, dtype=float)) for name, n in (("a", 4), ("b", 6), ("c", 1))}
    whole = EndToEnd(leaves)
    [vector] = whole.join(leaves)
    cut = whole.cut([vector])
    assert whole.join(cut)[0].data.ptr == vector.data.ptr
    for changed in (cut | {"b": cut["b"] * 1}, cut | {"a": cut["b"][:4], "b": cut["b"]}):
        [copy] = whole.join(changed)
        assert copy.data.ptr != vector.data.ptr
        for path, array in whole.cut([copy]).items():
            np.testing.assert_array_equal(to_numpy(array), to_numpy(changed[path]))
    seen = {"a": from_numpy(np.arange(4.0)).view("float32")[:4]}  # half of a vector of another type
    assert EndToEnd(seen).join(seen)[0].dtype == np.float32
    part = EndToEnd({path: cut[path] for path in whole.rows[vector.dtype][:2]})
    assert part.join(cut)[0].size < vector.size
