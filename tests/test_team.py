"""Scores and gradients by a team of threads: the text's numbers, whatever their number, and BLAS as it was found."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
import tracemalloc
import warnings
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from op_table import random_params
from strategies import configs, seeds
from test_model import SMALL, random_tokens, relative
from threadpoolctl import threadpool_info, threadpool_limits

import musiq_ref as mq
from musiq_ref import team
from musiq_ref.config import NAMED_CONVENTIONS
from musiq_ref.model import by_team, gradient_by_team, inference, recompute
from musiq_ref.model.folded import fold
from musiq_ref.model.gradient_by_team import patch_gradient
from musiq_ref.model.parameters import flatten, map_params
from musiq_ref.ordered import in_order
from musiq_ref.team import ONE_THREAD, share, together
from musiq_ref.training.run import train
from musiq_ref.training.settings import Settings
from musiq_ref.verify import deterministic_params

TOKENS = random_tokens(SMALL, 41, 0)
PARAMS = deterministic_params(SMALL, 3, "float64")
CHECKPOINT = mq.Checkpoint(PARAMS, SMALL, "native", None)


def blas_threads():
    return [library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"]


def forward(params, tokens, config):
    return mq.forward(params, mq.batch([tokens]), config)[0][0]


@pytest.fixture(autouse=True)
def blas_is_left_as_it_was():
    before = blas_threads()
    yield
    assert blas_threads() == before
    assert ONE_THREAD.users == 0


# ---- The same numbers


@pytest.mark.parametrize("conventions", NAMED_CONVENTIONS)
@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-12), ("float32", 1e-5)])
@pytest.mark.parametrize("threads", [1, 2, 3, 50])
def test_a_team_computes_what_the_forward_computes(conventions, dtype, tolerance, threads, monkeypatch):
    for name, size in (("PATCHES", 3), ("EMBEDDED", 7), ("ROWS", 5)):  # pieces that do not come out even
        monkeypatch.setattr(by_team, name, size)
    config = SMALL.replace(conventions=NAMED_CONVENTIONS[conventions])
    params = map_params(lambda a: a.astype(dtype), PARAMS)
    logits = mq.predict(params, TOKENS, config, threads=threads)
    assert logits.dtype == dtype
    assert relative(logits, forward(params, TOKENS, config)) < tolerance


@settings(max_examples=30)
@given(configs(), st.integers(1, 9), seeds, st.integers(1, 4))
def test_for_every_configuration_and_random_parameters_of_either_sign(config, n, seed, threads):
    params, tokens = random_params(config), random_tokens(config, n, seed)
    expected = forward(params, tokens, config)
    np.testing.assert_allclose(mq.predict(params, tokens, config, threads=threads), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("change", [{"longer_sides": ()}, {"native": False}, {"patch_size": 4}, {"stem": "linear"}])
@pytest.mark.parametrize("size", [(2, 30), (33, 8), (57, 91)])
def test_photographs_of_odd_sizes_and_one_scale(change, size):
    config = SMALL.replace(**change)
    params = deterministic_params(config, 1, "float64")
    tokens = mq.tokenize(mq.verify.deterministic_image(3, *size), config)
    assert relative(mq.predict(params, tokens, config, threads=2), forward(params, tokens, config)) < 1e-11


def test_signs_of_the_scale_before_the_pooling():
    """A negative scale turns the maximum into a minimum; both signs may be in one group, whose mean they share."""
    scale = PARAMS["stem"]["gn_root"]["scale"] * np.resize([1, -1, -1, 0, 1], 64)
    params = {**PARAMS, "stem": {**PARAMS["stem"], "gn_root": {**PARAMS["stem"]["gn_root"], "scale": scale}}}
    assert relative(mq.predict(params, TOKENS, SMALL, threads=2), forward(params, TOKENS, SMALL)) < 1e-12


@pytest.mark.parametrize("run", [by_team._centre, lambda x, eps: _layer_norm_rho(x)])
def test_variances_do_not_cancel(run):
    """At mean 1000 and deviation 0.01, E[x²] − E[x]² in float32 is all noise."""
    exact = 1000 + 0.01 * np.random.default_rng(0).standard_normal((2, 4, 4, 64))
    x = exact.astype("f4")
    rho = run(x.copy(), 1e-12)
    groups = x.astype("f8").reshape(2, 16, 32, 2) if rho.shape == (2, 1, 1, 64) else x.astype("f8").reshape(32, 64, 1)
    axes = (1, 3) if rho.shape == (2, 1, 1, 64) else 1
    expected = 1 / groups.std(axis=axes)
    assert np.abs(rho.reshape(*expected.shape[:2], -1)[..., 0].squeeze() / expected.squeeze() - 1).max() < 0.01


def _layer_norm_rho(x):
    rows = x.reshape(-1, x.shape[-1])
    y = by_team.normalize(rows, np.empty_like(rows), np.empty_like(rows[:, :1]))
    return y.std(axis=1) / rows.astype("f8").std(axis=1)


def test_folded_parameters_give_the_same_bits_and_nothing_is_written_into_what_is_passed():
    params = map_params(np.copy, PARAMS)
    for _, array in flatten(params):
        array.flags.writeable = False
    for array in TOKENS:
        array.flags.writeable = False
    folded = fold(params, SMALL)
    assert np.array_equal(mq.predict(folded, TOKENS, SMALL), mq.predict(params, TOKENS, SMALL))
    with pytest.raises(ValueError, match=r"head/kernel has shape \(48, 3\)"):
        fold(params, SMALL.replace(outputs=4))


def test_the_same_bits_from_run_to_run_and_nothing_but_rounding_between_teams():
    image = mq.verify.deterministic_image(3, 90, 130)
    scores = {}
    for threads in (1, 2, 3, 7):
        one = mq.scorer(CHECKPOINT, threads=threads)
        several = {one(image).value for _ in range(5)}
        assert len(several) == 1
        scores[threads] = several.pop()
    assert max(scores.values()) - min(scores.values()) < 1e-5


def test_tokens_that_the_mask_leaves_out_are_never_looked_at():
    tokens = mq.Tokens(TOKENS.patches.copy(), *TOKENS[1:])
    tokens.patches[~tokens.mask] = 1e30
    with warnings.catch_warnings(action="error"):
        assert np.array_equal(mq.predict(PARAMS, tokens, SMALL), mq.predict(PARAMS, TOKENS, SMALL))


# ---- BLAS


def test_none_means_as_many_threads_as_blas_may_use(monkeypatch):
    seen, real = [], inference.logits_by_team

    def seeing(folded, tokens, config, members, progress):
        seen.append((members, set(blas_threads())))
        return real(folded, tokens, config, members, progress)

    monkeypatch.setattr(inference, "logits_by_team", seeing)
    with threadpool_limits(3, "blas"):
        mq.predict(PARAMS, TOKENS, SMALL)
        mq.predict(PARAMS, TOKENS, SMALL, threads=2)
        mq.scorer(CHECKPOINT, threads=5)(mq.verify.deterministic_image(3, 20, 30))
    assert seen == [(3, {1}), (2, {1}), (5, {1})]


def test_where_blas_cannot_be_limited_it_keeps_its_threads(monkeypatch):
    monkeypatch.setattr(team, "_blas", lambda: SimpleNamespace(lib_controllers=(), limit=lambda limits: None))
    monkeypatch.setattr(inference, "logits_by_team", None)
    assert relative(mq.predict(PARAMS, TOKENS, SMALL, threads=2), forward(PARAMS, TOKENS, SMALL)) < 1e-12


def test_several_at_once_share_the_limit_and_the_last_puts_it_back():
    with threadpool_limits(2, "blas"):
        with ONE_THREAD as first:
            inner = ONE_THREAD.__enter__()
            assert (first, inner) == (2, 2)  # not 1, which it now is
            assert set(blas_threads()) == {1}
        assert set(blas_threads()) == {1}  # the first to come has left
        ONE_THREAD.__exit__()
        assert set(blas_threads()) == {2}


def test_whichever_thread_is_the_last_puts_it_back_and_any_other_may_then_set_it():
    """In a program of its own: around it BLAS has not been limited, so that no thread is in control of that."""
    program = """
import threading
from concurrent.futures import ThreadPoolExecutor
import numpy
from threadpoolctl import threadpool_limits
from musiq_ref.team import ONE_THREAD, _blas
threads = lambda: {library.num_threads for library in _blas().lib_controllers}
entered, leave = threading.Event(), threading.Event()
def first():
    with ONE_THREAD:
        entered.set()
        leave.wait(10)
with ThreadPoolExecutor(1) as pool:  # its thread lives on
    work = pool.submit(first)
    entered.wait(10)
    with ONE_THREAD:
        leave.set()
        work.result()
        assert threads() == {1}, threads()
    assert threads() == {2}, threads()
    pool.submit(ONE_THREAD(threads)).result()
    with threadpool_limits(1):
        assert threads() == {1}, threads()
    assert threads() == {2}, threads()
"""
    environment = {**os.environ, "OMP_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "2"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


def test_scorers_in_many_threads():
    images = [mq.verify.deterministic_image(i, 30 + i, 50) for i in range(4)]
    scorers = [mq.scorer(CHECKPOINT, threads=threads) for threads in (1, 2, 3)]
    expected = [[one(image).value for image in images] for one in scorers]
    with threadpool_limits(2, "blas"):
        with ThreadPoolExecutor(6) as pool:
            for _ in range(3):
                results = [list(pool.map(one, images)) for one in scorers]
                assert [[score.value for score in scores] for scores in results] == expected
        assert set(blas_threads()) == {2}


def test_a_training_shares_the_limit_with_scorers_whoever_ends_first():
    with threadpool_limits(2, "blas"):
        ONE_THREAD.__enter__()  # a scorer begins
        steps = in_order(ONE_THREAD(lambda item: set(blas_threads())), range(4), workers=2)
        seen = [next(steps)]
        ONE_THREAD.__exit__()
        seen += steps
        assert seen == [{1}] * 4
        assert set(blas_threads()) == {2}


def test_a_loop_that_is_left_half_way_leaves_no_limit_behind():
    with threadpool_limits(2, "blas"):
        steps = in_order(ONE_THREAD(abs), range(4), workers=2)
        next(steps)  # and is kept, as a traceback keeps the frames of what was interrupted
        until = time.monotonic() + 10
        while ONE_THREAD.users and time.monotonic() < until:
            time.sleep(0.01)
        assert set(blas_threads()) == {2}
        steps.close()


def test_a_scorer_beside_a_training(tmp_path):
    model = {"preset": "tiny", "layers": 1, "longer_sides": [32]}
    tiny = Settings(epoch_images=8, epochs=3, batch=4, side=32, model=model)
    one, image = mq.scorer(CHECKPOINT, threads=2), mq.verify.deterministic_image(3, 90, 130)
    alone, quiet = one(image).value, train(tiny, tmp_path / "alone", progress=False)
    with threadpool_limits(2, "blas"), ThreadPoolExecutor(1) as pool:
        training = pool.submit(train, tiny, tmp_path / "beside", progress=False)
        while not training.done():
            assert one(image).value == alone
        assert training.result().last.read_bytes() == quiet.last.read_bytes()
        assert set(blas_threads()) == {2}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="fork is Unix")
def test_a_child_that_is_forked_while_a_team_is_at_work_scores_and_has_its_threads_of_blas():
    """In a program of its own: pytest and other tests may have threads, beside which Python warns of a fork."""
    program = """
import os, threading, warnings
import numpy as np, musiq_ref as mq
from musiq_ref.team import ONE_THREAD, _blas
warnings.simplefilter("ignore", DeprecationWarning)
config = mq.MusiqConfig.preset("tiny")
params = mq.verify.deterministic_params(config, 1)
tokens = mq.tokenize(mq.verify.deterministic_image(3, 40, 60), config)
threads = lambda: {library.num_threads for library in _blas().lib_controllers}
before, alone, codes = threads(), mq.predict(params, tokens, config, threads=2), []
def child(share):
    if codes:
        return
    pid = os.fork()
    if pid == 0:
        fine = threads() == before and ONE_THREAD.users == 0
        fine = fine and np.array_equal(mq.predict(params, tokens, config, threads=2), alone) and threads() == before
        os._exit(0 if fine else 3)
    codes.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
assert np.array_equal(mq.predict(params, tokens, config, progress=child, threads=2), alone)
assert codes == [0] and threads() == before, (codes, threads(), before)
"""
    environment = {**os.environ, "OMP_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "2"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


# ---- Progress, errors, memory


@pytest.mark.parametrize("threads", [1, 3])
def test_progress_rises_from_0_to_1_in_the_callers_thread(threads):
    seen = []
    mq.predict(PARAMS, TOKENS, SMALL, progress=lambda done: seen.append((done, threading.get_ident())), threads=threads)
    shares = [share for share, _ in seen]
    assert shares == sorted(shares)
    assert shares[0] == 0
    assert shares[-1] == 1
    assert {thread for _, thread in seen} == {threading.get_ident()}


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_an_error_in_one_thread_ends_them_all(error):
    def fail(done):
        raise error

    with pytest.raises(error):
        mq.predict(PARAMS, TOKENS, SMALL, progress=fail, threads=3)
    assert not [thread for thread in threading.enumerate() if "(run)" in thread.name]


def test_an_error_in_another_thread_is_raised_in_the_callers():
    def work(member, barrier):
        if member == 1:
            raise MemoryError("member 1")
        barrier.wait(10)

    before = threading.active_count()
    with pytest.raises(MemoryError, match="member 1"):
        together(work, 3)
    assert threading.active_count() == before


def test_a_thread_that_cannot_be_started_leaves_nobody_waiting(monkeypatch):
    real, started = threading.Thread.start, []

    def start(thread):
        if started:
            raise RuntimeError("can't start new thread")
        started.append(thread)
        real(thread)

    monkeypatch.setattr(threading.Thread, "start", start)
    with pytest.raises(RuntimeError, match="can't start"):
        together(lambda member, barrier: barrier.wait(10), 3)
    assert not started[0].is_alive()


def test_the_callers_errstate_holds_in_every_thread():
    def work(member, barrier):
        np.float64(1) / np.float64(0)

    with warnings.catch_warnings(action="error"):
        with np.errstate(divide="ignore"):
            together(work, 3)
        with pytest.raises(RuntimeWarning):
            together(work, 2)


def test_shares_are_all_rows_and_about_equal():
    for rows in (0, 1, 7, 50):
        for members in (1, 2, 3, 9):
            parts = [share(rows, member, members) for member in range(members)]
            assert [i for part in parts for i in range(rows)[part]] == list(range(rows))
            assert max(p.stop - p.start for p in parts) - min(p.stop - p.start for p in parts) <= 1


# ---- The gradient to an image


def text_gradient(params, tokens, config):
    """The score and its gradient to the patches, by `forward` and `backward`."""
    logits, cache = mq.forward(params, mq.batch([tokens]), config)
    expected, cache_score = mq.expected_score(logits)
    dlogits = mq.expected_score_backward(np.ones_like(expected.score), cache_score)
    return float(expected.score[0]), mq.backward(dlogits, cache).patches[0]


@pytest.mark.parametrize("conventions", NAMED_CONVENTIONS)
@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-12), ("float32", 2e-5)])
@pytest.mark.parametrize("threads", [1, 2, 3, 50])
@pytest.mark.parametrize("kept", [0, 9, 1000])
def test_a_team_finds_the_gradient_that_the_backward_finds(conventions, dtype, tolerance, threads, kept, monkeypatch):
    """In float32 a ReLU or a maximum may decide otherwise: measured 2e-6."""
    for name, size in (("EMBEDDED", 7), ("ROWS", 5)):  # pieces that do not come out even
        monkeypatch.setattr(by_team, name, size)
        monkeypatch.setattr(gradient_by_team, name, size)
    monkeypatch.setattr(gradient_by_team, "PATCHES", 3)
    monkeypatch.setattr(gradient_by_team, "KEPT", kept)
    config = SMALL.replace(conventions=NAMED_CONVENTIONS[conventions])
    params = map_params(lambda a: a.astype(dtype), PARAMS)
    value, dpatches = patch_gradient(params, TOKENS, config, threads)
    expected, dexpected = text_gradient(params, TOKENS, config)
    assert dpatches.dtype == dtype
    assert value == pytest.approx(expected, rel=tolerance)
    assert relative(dpatches, dexpected) < tolerance
    assert (dpatches[~TOKENS.mask] == 0).all()


@settings(max_examples=15)
@given(configs(), st.integers(1, 9), seeds, st.integers(1, 4))
def test_the_gradient_for_every_configuration_and_random_parameters(config, n, seed, threads):
    params, tokens = random_params(config), random_tokens(config, n, seed)
    value, dpatches = patch_gradient(params, tokens, config, threads)
    expected, dexpected = text_gradient(params, tokens, config)
    assert value == pytest.approx(expected, rel=1e-12, abs=1e-12)
    np.testing.assert_allclose(dpatches, dexpected, rtol=1e-10, atol=1e-12 * np.abs(dexpected).max())


def with_dq_of_the_wrong_scale(dx, dq, dkeys_values, *rest):
    real_attend_backward(dx, dq, dkeys_values, *rest)
    dq *= 1.001


def without_the_parts_of_the_values(dx, dq, dkeys_values, *rest):
    before = dkeys_values[1].copy()
    real_attend_backward(dx, dq, dkeys_values, *rest)
    dkeys_values[1] = before


def without_the_projection(dy, normed, rho):
    return (dy - dy.mean(axis=1, keepdims=True)) * rho


real_attend_backward = gradient_by_team._attend_backward


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("_attend_backward", with_dq_of_the_wrong_scale),
        ("_attend_backward", without_the_parts_of_the_values),
        ("_normalize_backward", without_the_projection),
        ("_mlp_backward", lambda *a: None),
    ],
)
def test_planted_faults_are_caught(name, wrong, monkeypatch):
    monkeypatch.setattr(gradient_by_team, name, wrong)
    _, dpatches = patch_gradient(PARAMS, TOKENS, SMALL, 2)
    assert relative(dpatches, text_gradient(PARAMS, TOKENS, SMALL)[1]) > 1e-6


def test_the_gradient_has_the_same_bits_from_run_to_run_and_nothing_but_rounding_between_teams():
    image = mq.verify.deterministic_image(3, 90, 130)
    first = mq.image_gradient(image, PARAMS, SMALL, threads=1)[1]
    for threads in (2, 3, 7):
        one, other = (mq.image_gradient(image, PARAMS, SMALL, threads=threads)[1] for _ in range(2))
        assert np.array_equal(one, other)
        assert relative(one, first) < 1e-12


def test_the_gradients_progress_rises_from_0_to_1():
    seen = []
    mq.image_gradient(mq.verify.deterministic_image(3, 90, 130), PARAMS, SMALL, threads=2, progress=seen.append)
    assert seen == sorted(seen)
    assert (seen[0], seen[-1]) == (0, 1)
    assert len(seen) > 5


def test_where_blas_cannot_be_limited_the_backward_computes(monkeypatch):
    monkeypatch.setattr(team, "_blas", lambda: SimpleNamespace(lib_controllers=(), limit=lambda limits: None))
    monkeypatch.setattr(gradient_by_team, "gradient_by_team", None)
    assert relative(patch_gradient(PARAMS, TOKENS, SMALL)[1], text_gradient(PARAMS, TOKENS, SMALL)[1]) < 1e-12


def test_a_gradient_needs_memory_in_proportion_to_the_image():
    """Four times the tokens: about four times the memory; attention weights of all pairs would be 16 times as many."""
    config = mq.MusiqConfig.preset("tiny", patch_size=4, width=8, heads=2, mlp_width=8, longer_sides=(), stem="linear")
    params = mq.init_params(config)
    peaks = []
    for side in (60, 120):
        tokens = mq.tokenize(np.zeros((side, 4 * side, 3), np.uint8), config)
        tracemalloc.start()
        patch_gradient(params, tokens, config, 2)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 5 * peaks[0]


# ---- Pieces of the text


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_the_stem_in_pieces_is_the_stem(threads, monkeypatch):
    monkeypatch.setattr(recompute, "PATCHES", 4)
    tokens = mq.batch([random_tokens(SMALL, 11, 0), random_tokens(SMALL, 8, 1)])
    results = []
    with threadpool_limits(threads, "blas"):
        for tap in (None, lambda name, array: array):  # a tap sees everything at once
            logits, cache = mq.forward(PARAMS, tokens, SMALL, tap)
            dlogits = np.random.default_rng(0).standard_normal(logits.shape)
            gradients = mq.backward(dlogits, cache, tap)
            results.append({"logits": logits, "patches": gradients.patches, **dict(flatten(gradients.params))})
        assert set(blas_threads()) == {threads}
    for name, expected in results[1].items():
        scale = max(np.abs(expected).max(), 1e-3)  # that to the bias of the keys is 0 but for rounding
        np.testing.assert_allclose(results[0][name] / scale, expected / scale, rtol=0, atol=1e-12)


def test_recomputed_the_stem_keeps_nothing_but_its_patches():
    _, (*_, caches) = recompute.RECOMPUTED["resnet"][0](TOKENS.patches, PARAMS["stem"], SMALL.conventions)
    assert set(caches) == {None}


def test_each_is_in_order_and_alone_where_a_team_is_at_work():
    def name(item):
        return item, threading.current_thread()

    with threadpool_limits(3, "blas"):
        items, threads = zip(*team.each(name, range(7)), strict=True)
        assert items == tuple(range(7))
        assert len(set(threads)) == 3
        with ONE_THREAD:
            assert {thread for _, thread in team.each(name, range(7))} == {threading.current_thread()}
        with pytest.raises(ZeroDivisionError):
            team.each(lambda item: 1 // (item - 3), range(7))


def test_the_gradient_keeps_the_stem_of_no_more_patches_than_it_may():
    stem = gradient_by_team._Stem(PARAMS["stem"], SMALL, "float64", 3)
    for _ in range(2):
        stem.forward(TOKENS.patches[:2])
    assert [cache is None for _, cache in stem.caches] == [False, True]
