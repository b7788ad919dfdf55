"""Captured graphs: when they are made, believed and given up. Launches are played by calling a function again."""

from __future__ import annotations

import functools
import operator
from contextlib import nullcontext
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
from cupy_double import BACKEND, cp, from_numpy, to_numpy
from musiq_ref_cupy.graphs import MOST, Captured, Graphs

import musiq_ref as mq
from musiq_ref.model.inference import REPEATED, repeatable
from musiq_ref.model.parameters import flatten, map_params, nest
from musiq_ref.training.optimizers import adam, adam_init
from musiq_ref.training.step import Rates, batch_gradient


def leaves(found):
    """The arrays in what a function returned."""
    if isinstance(found, tuple | dict):
        return [leaf for part in (found.values() if isinstance(found, dict) else found) for leaf in leaves(part)]
    return [found]


class Gpu:
    """What Graphs uses of CuPy. A graph calls the function that was captured, and puts its result where it was."""

    def __init__(self, refuses=None, stale=False):
        self.refuses, self.stale, self.capturing, self.events, self.calls = refuses, stale, False, [], []
        self.asarray, self.asnumpy, self.array = from_numpy, to_numpy, cp.array
        self.cuda = SimpleNamespace(
            MemoryPool=lambda: SimpleNamespace(malloc=None),
            using_allocator=lambda malloc: nullcontext(),
            get_current_stream=lambda: SimpleNamespace(synchronize=lambda: None),
            Stream=lambda non_blocking: self,
        )

    def __enter__(self):
        return self

    def __exit__(self, *error):
        return False

    def begin_capture(self):
        self.capturing, self.events = True, [*self.events, "capture"]

    def end_capture(self):
        self.capturing = False
        return SimpleNamespace(launch=partial(self.launch, *self.calls))

    def launch(self, call):
        self.events.append("launch")
        if not self.stale:
            function, inputs, result = call
            for there, new in zip(leaves(result), leaves(function(*inputs)), strict=True):
                there[...] = new

    def run(self, function):
        """The function, which on this GPU notes its launches."""

        def noted(*arrays):
            self.events.append("run")
            if self.capturing and self.refuses:
                raise self.refuses
            result = function(*arrays)
            self.calls = [(function, arrays, result)]
            return result

        return noted


def square(x):
    return cp.square(x) + 1


def images(count, length=3):
    return [np.arange(length, dtype=float) + i for i in range(count)]


def test_a_shape_is_plain_then_captured_then_compared_then_replayed():
    gpu = Gpu()
    graphs, used = Graphs(gpu), []
    for x in images(5):
        np.testing.assert_array_equal(to_numpy(graphs(gpu.run(square), "key", [x])), x * x + 1)
        used.append(graphs.used)
    assert used == [0, 0, 1, 1, 1]
    assert gpu.events == ["run", "run", "capture", "run", "run", "launch", "launch", "launch"]


def test_results_are_not_overwritten_by_the_next_image():
    graphs = Graphs(gpu := Gpu())
    results = [graphs(gpu.run(square), "key", [x]) for x in images(6)]
    for x, result in zip(images(6), results, strict=True):
        np.testing.assert_array_equal(to_numpy(result), x * x + 1)


@pytest.mark.parametrize("error", [NotImplementedError("calling cuBLAS API during stream capture"), MemoryError()])
def test_what_refuses_to_be_captured_stays_plain(error):
    graphs = Graphs(gpu := Gpu(error))
    for x in images(5):
        np.testing.assert_array_equal(to_numpy(graphs(gpu.run(square), "key", [x])), x * x + 1)
    assert gpu.events.count("capture") == 1
    assert not gpu.capturing
    assert "launch" not in gpu.events


def test_a_graph_that_gives_another_result_is_given_up(caplog):
    graphs = Graphs(gpu := Gpu(stale=True))
    for x in images(5):
        np.testing.assert_array_equal(to_numpy(graphs(gpu.run(square), "key", [x])), x * x + 1)
    assert gpu.events.count("launch") == 1
    assert "another result" in caplog.text


@pytest.mark.parametrize("odd", [np.inf, np.nan])
def test_results_that_overflow_alike_are_no_disagreement(odd, caplog):
    graphs = Graphs(gpu := Gpu())
    for _ in range(4):
        graphs(gpu.run(square), "key", [np.full(3, odd)])
    assert graphs.used == 1
    assert not caplog.text


def test_a_small_difference_is_rounding_and_a_larger_one_is_not():
    graphs, b = Graphs(Gpu()), np.array([0.001, -2.0, 1.0])
    for difference, right in ((0.0015, True), (-0.0025, False), (np.inf, False), (np.nan, False)):
        found = b + np.array([difference, 0, 0])
        assert graphs._agree((b, found), (b, b)) == right


def test_images_that_are_there_already_are_copied_into_the_graph():
    graphs, given = Graphs(gpu := Gpu()), [from_numpy(x) for x in images(6)]
    for x, there in zip(images(6), given, strict=True):
        np.testing.assert_array_equal(to_numpy(graphs(gpu.run(square), "key", [there])), x * x + 1)
    for x, there in zip(images(6), given, strict=True):
        np.testing.assert_array_equal(to_numpy(there), x)  # no image is written over by a later one
    assert gpu.events.count("launch") == 4


def test_other_keys_and_shapes_are_others():
    graphs = Graphs(gpu := Gpu())
    for key, length in (("one", 3), ("two", 3), ("one", 4)):
        graphs(gpu.run(square), key, images(1, length))
    assert gpu.events == ["run"] * 3
    graphs(gpu.run(square), "one", [np.ones(3, "float32")])
    for i in range(MOST):
        graphs(gpu.run(square), i, images(1))
    graphs(gpu.run(square), "one", images(1))
    assert "capture" not in gpu.events  # it was forgotten


def test_where_memory_is_short_graphs_give_theirs_back():
    """Half as many are kept from then on, in the end none; what does not fit without them either is an error."""
    graphs = Graphs(gpu := Gpu())

    def square_beside(room, x):
        if sum(isinstance(state, Captured) for state in graphs.states.values()) >= room:
            raise MemoryError("Out of memory allocating 9,000,000,000 bytes")
        return square(x)

    kept, [x] = [], images(1)
    for room in (MOST, 2, 2, 1):
        for key in (0, 0, 1, 1, 2, 2, 3, 3):
            found = graphs(gpu.run(partial(square_beside, room)), key, [x])
            np.testing.assert_array_equal(to_numpy(found), x * x + 1)
        kept.append(graphs.most)
    assert kept == [MOST, MOST // 4, MOST // 8, 0]
    assert not graphs.states
    graphs = Graphs(gpu)
    for _ in range(4):
        with pytest.raises(MemoryError):
            graphs(gpu.run(partial(square_beside, 0)), "key", [x])
    assert graphs.most == MOST


def test_scores_of_one_size_are_those_of_each():
    config = mq.MusiqConfig.preset("tiny", width=24, mlp_width=20, longer_sides=(32,))
    params, gpu = mq.verify.deterministic_params(config, 1, "float64"), Gpu()
    there, graphs = map_params(from_numpy, params), Graphs(gpu)
    device = BACKEND._replace(repeat=lambda run, key, arrays: graphs(gpu.run(run), key, arrays))
    for i in range(5):
        tokens = mq.tokenize(mq.verify.deterministic_image(i, 20, 50), config, "float64")
        found = to_numpy(mq.predict(there, tokens, config, device))
        np.testing.assert_allclose(found, mq.predict(params, tokens, config), rtol=1e-13)
    assert gpu.events.count("launch") == 3


def test_each_model_has_graphs_of_its_own_and_a_performer_none():
    config, keys = mq.MusiqConfig.preset("tiny", width=24, mlp_width=20, longer_sides=(32,)), []
    device = BACKEND._replace(
        repeat=lambda run, key, arrays: keys.append(key) or run(*(from_numpy(array) for array in arrays))
    )
    params = map_params(from_numpy, mq.verify.deterministic_params(config, 1))
    other = map_params(from_numpy, mq.verify.deterministic_params(config, 2))
    tokens = mq.tokenize(mq.verify.deterministic_image(0, 20, 50), config)
    for model in (params, params, other):
        mq.predict(model, tokens, config, device)
    mq.predict(params, tokens, config.replace(conventions=mq.PYIQA), device)
    assert [keys.index(key) for key in keys] == [0, 0, 2, 3]
    mq.predict(params, tokens, config.replace(attention="performer"), device)  # its draws are uploaded in each call
    assert len(keys) == 4


@pytest.mark.parametrize("path", ["head/kernel", "encoder/block_00/mlp/fc1/bias", "class_token"])
@pytest.mark.parametrize("in_place", [False, True])
def test_a_model_of_which_one_array_is_another_is_another_model(path, in_place):
    """As after a step that freezes the rest; or where somebody has put it into the same dict."""
    config, gpu = mq.MusiqConfig.preset("tiny", width=24, mlp_width=20, longer_sides=(32,)), Gpu()
    params, graphs = mq.verify.deterministic_params(config, 1, "float64"), Graphs(gpu)
    there = map_params(from_numpy, params)
    device = BACKEND._replace(repeat=lambda run, key, arrays: graphs(gpu.run(run), key, arrays))
    tokens = mq.tokenize(mq.verify.deterministic_image(0, 20, 50), config, "float64")
    before = [to_numpy(mq.predict(there, tokens, config, device)) for _ in range(4)]
    assert gpu.events.count("launch") == 2
    changed = dict(flatten(params))
    changed[path] = 1.5 * changed[path]
    if in_place:
        *parents, last = path.split("/")
        functools.reduce(operator.getitem, parents, there)[last] = from_numpy(changed[path])
    else:
        there = nest({**dict(flatten(there)), path: from_numpy(changed[path])})
    found = to_numpy(mq.predict(there, tokens, config, device))
    np.testing.assert_allclose(found, mq.predict(nest(changed), tokens, config), rtol=1e-13)
    assert not np.allclose(found, before[-1])
    assert gpu.events.count("launch") == 2


def test_what_is_done_is_told_once_whether_repeated_or_not():
    config, gpu = mq.MusiqConfig.preset("tiny", width=24, mlp_width=20, longer_sides=(32,)), Gpu()
    params, graphs = map_params(from_numpy, mq.verify.deterministic_params(config, 1)), Graphs(gpu)
    device = BACKEND._replace(repeat=lambda run, key, arrays: graphs(gpu.run(run), key, arrays))
    tokens, told = mq.tokenize(mq.verify.deterministic_image(0, 20, 50), config), []
    for _ in range(4):
        mq.predict(params, tokens, config, device, told.append)
    assert told == [1.0] * 4


@pytest.mark.parametrize("micro_batch", [1, 2])
@pytest.mark.parametrize("rate", [0.0, 0.5])
def test_a_training_run_with_graphs_is_the_one_without(micro_batch, rate):
    """Pieces of one shape are repeated with the parameters of the day; with dropout, drawn anew each time, none is."""
    config = mq.MusiqConfig.preset("tiny", width=24, mlp_width=20, longer_sides=(32,))
    start, gpu = map_params(from_numpy, mq.verify.deterministic_params(config, 1, "float64")), Gpu()
    graphs, targets = Graphs(gpu), np.array([1.0, 2.0, 4.0])
    sizes = [(20, 50), (20, 50), (33, 40)]
    tokens = [mq.tokenize(mq.verify.deterministic_image(i, *size), config, "float64") for i, size in enumerate(sizes)]

    def run(repeat):
        params, state, losses = start, adam_init(start), []
        for step in range(5):
            found = batch_gradient(
                params,
                tokens,
                targets,
                config,
                "huber",
                loss_options={"delta": 0.7},
                micro_batch=micro_batch,
                rates=Rates(dropout=rate),
                seed=(step,),
                repeat=repeat,
            )
            params, state = adam(params, found.gradients, state, 1e-3)
            losses.append([found.loss, *to_numpy(found.scores)])
        return params, losses

    def repeat(function, key, arrays, taken):
        return graphs(gpu.run(function), key, arrays, taken)

    (plain, losses), (repeated, losses_repeated) = run(None), run(repeat)
    np.testing.assert_array_equal(losses_repeated, losses)
    for path, array in flatten(plain):
        np.testing.assert_array_equal(to_numpy(dict(flatten(repeated))[path]), to_numpy(array))
    assert (gpu.events.count("launch") > 5) == ("capture" in gpu.events) == (rate == 0)


def test_what_is_uploaded_on_the_way_is_not_repeated():
    tiny = mq.MusiqConfig.preset("tiny")
    assert repeatable(tiny, REPEATED)
    assert not repeatable(tiny, REPEATED + 1)
    for change in ({"spatial": "sinusoidal"}, {"attention": "performer"}, {"attention": "linformer"}):
        assert not repeatable(tiny.replace(**change), 3)
