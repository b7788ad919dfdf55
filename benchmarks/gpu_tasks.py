"""What `benchmarks/gpu.py` measures: tasks, and who does them, each result computed by musiq_ref and by others.

All sides begin with tokens in host memory and end with scores, or trained parameters, waited for. The model is the
small one with pyiqa's conventions, which the PyTorch port implements, and weights made from integers; then the bundled
model's training, beside NumPy's. Seconds are medians of neighbouring runs in turn; a ratio below 1 says that musiq_ref
is faster.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any, NamedTuple, cast

import numpy as np

import musiq_ref as mq
from musiq_ref.backend import NUMPY, Backend, to_host
from musiq_ref.bench.measure import interleaved
from musiq_ref.model.inference import predict_packed
from musiq_ref.model.parameters import map_params
from musiq_ref.ops import fused
from musiq_ref.pictures.world import drawn_side
from musiq_ref.team import each
from musiq_ref.training.folder import Files
from musiq_ref.training.optimizers import OPTIMIZERS, adam_init, adamw
from musiq_ref.training.parallel import World
from musiq_ref.training.run import Run, _one_step, _thinned
from musiq_ref.training.settings import recipe
from musiq_ref.training.state import State, upload
from musiq_ref.training.step import batch_gradient

PHOTOGRAPH, LARGE = (480, 640), (3000, 4000)
MIXED = [(300 + 23 * i, 800 - 31 * i) for i in range(16)]
BATCH = 11  # the seed of sizes with about the mean number of tokens, in all and at most, of the recipe's batches
WARM, SECONDS = 3, 3.0  # runs before those that count, and what these may take, for a task
THREADS = 2  # of NumPy


class Contender(NamedTuple):
    """One who does a task: a name, what to run, and the most memory, in bytes, that it has had since last asked."""

    name: str
    run: Callable[[], Any]
    peak: Callable[[], int | None] = lambda: None


def measure(device: Backend, precision: str, quick: bool) -> Iterator[dict[str, Any]]:
    """One record for every task, as it is done, or the error that it failed with; with quick, of small pictures.

    Beside musiq_ref and PyTorch there are "plain", musiq_ref without captured graphs; "untiled", with all attention
    weights at once; and "numpy", on 2 threads where it is timed.
    """
    from gpu_torch import Torch

    config = mq.MusiqConfig.preset("small", conventions=mq.PYIQA)
    config = mq.MusiqConfig.preset("tiny", conventions=mq.PYIQA, longer_sides=(64,)) if quick else config
    cuda, host = device.name == "cupy", mq.verify.deterministic_params(config, 1)
    params, rival = map_params(device.from_numpy, host), Torch(config, host, cuda, precision != "float32")
    sizes = [PHOTOGRAPH, LARGE, *MIXED]
    sizes = [(height // 8, width // 8) for height, width in sizes[:4]] if quick else sizes
    one, large, *mixed = each(lambda size: mq.tokenize(mq.verify.deterministic_image(3, *size), config), sizes)
    peak = cupy_peak if cuda else lambda: None

    def scored(images, *others):
        ours = Contender("musiq_ref", scores(params, images, config, device), peak)
        return [ours, Contender("torch", rival.scores(images), rival.peak), *others]

    def trained(images, together=1, *others):
        ours = Contender("musiq_ref", steps(params, images, config, device, together), peak)
        return [ours, Contender("torch", rival.steps(images, together > 1), rival.peak), *others]

    unrepeated = device._replace(repeat=None)
    plain = [Contender("plain", scores(params, [one], config, unrepeated), peak)] * bool(device.repeat)
    plain_steps = [Contender("plain", steps(params, [one], config, unrepeated, 1), peak)] * bool(device.repeat)
    untiled = Contender("untiled", all_weights_at_once(scores(params, [large], config, device)), peak)
    tasks = {
        "score 1 photograph": (30, [one], lambda: scored([one], *plain)),
        "score 16 of different sizes": (10, mixed, lambda: scored(mixed)),
        "score 12 megapixels": (5, [large], lambda: scored([large], untiled)),
        "training step, 1 photograph": (10, [one], lambda: trained([one], 1, *plain_steps)),
        "training step, 16 one by one": (5, mixed, lambda: trained(mixed)),
        "training step, 16 together": (10, mixed, lambda: trained(mixed, together=16)),
    }
    if precision == "float32":
        batch = bundled_tokens(3 if quick else 16)
        tasks["training the bundled model, 16 pictures"] = (10, batch, lambda: bundled(batch, device, peak))
    for task, (runs, images, contenders) in tasks.items():
        try:
            found = record(contenders(), 1 if quick else runs, len(images))
            if task == "score 1 photograph":
                [ours], [exact] = scores(params, [one], config, device)(), scores(host, [one], config, NUMPY)()
                found["difference from numpy"] = abs(ours - exact) / abs(exact)
            yield {"task": task, "tokens": [int(t.mask.sum()) for t in images]} | found
        except Exception as error:  # a task that fails, for want of memory say, takes nothing from the others
            yield {"task": task, "error": f"{type(error).__name__}: {error}"[:2000]}


def record(contenders: list[Contender], runs: int, images: int = 1) -> dict[str, Any]:
    """What is found of a task: the first contender's seconds and results beside those of the others.

    runs: how often each runs it, at most; where it takes long, once before and twice
    """
    peaks, results = {}, {}
    for name, run, peak in contenders:
        peak()
        results[name] = run()  # after the first step parameters differ, if only by rounding
        peaks[f"{name}_bytes"] = peak()
    timers = {name: partial(seconds_of, run) for name, run, _ in contenders}
    seconds = {name: [timer()] for name, timer in timers.items()}
    more = min(runs, max(1, int(SECONDS / sum(first for [first] in seconds.values()))))
    later: dict[str, list[float]] = {}
    if more >= WARM:
        interleaved(timers, WARM - 1, {})
        seconds = {name: [] for name in timers}
    interleaved(timers, more, later)
    seconds = {name: taken + later[name] for name, taken in seconds.items()}
    found: dict[str, Any] = {"runs": len(later[contenders[0].name]), **peaks}
    for name, taken in seconds.items():
        found |= {f"{name}_seconds": median(taken), f"{name}_images_per_second": images / median(taken)}
    mine = contenders[0].name
    for name in [name for name in results if name != mine]:
        found[f"ratio to {name}"] = median(a / b for a, b in zip(seconds[mine], seconds[name], strict=True))
        apart = np.abs(np.subtract(results[mine], results[name])).max() / np.abs(results[mine]).max()
        found[f"difference from {name}"] = float(apart)
    return found


def seconds_of(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def scores(params: Any, images: list[mq.Tokens], config: mq.MusiqConfig, device: Backend) -> Callable[[], list[float]]:
    def run():
        if len(images) == 1:
            return device.to_numpy(mq.predict(params, images[0], config, device)).tolist()
        return device.to_numpy(predict_packed(params, images, config, device))[:, 0].tolist()

    return run


def steps(
    params: Any, images: list[mq.Tokens], config: mq.MusiqConfig, device: Backend, together: int
) -> Callable[[], float]:
    """A training step, a function to call again and again, which returns its loss; each makes a state of its own."""
    training, aim = [], np.zeros(len(images), "float32")

    def run():
        training[:] = training or [params, adam_init(params)]
        result = batch_gradient(training[0], images, aim, config, "huber", micro_batch=together, repeat=device.repeat)
        training[:] = adamw(training[0], result.gradients, training[1], 1e-5)
        to_host(training[0]["class_token"])
        return result.loss

    return run


def bundled_tokens(count: int) -> list[mq.Tokens]:
    """A batch as the recipe of the bundled model makes it, of pictures of the sizes that it draws."""
    settings, rng = recipe("demo"), np.random.default_rng(BATCH)
    config, tokens = settings.config(), []
    for number in range(count):
        height = drawn_side(rng, settings.largest_side)
        image = mq.verify.deterministic_image(number, height, round(height * rng.uniform(1, 1.5)))
        tokens.append(_thinned(mq.tokenize(image, config), settings.patch_dropout, np.random.default_rng(number)))
    return tokens


def bundled(tokens: list[mq.Tokens], device: Backend, peak: Callable[[], int | None]) -> list[Contender]:
    """The steps of `musiq-ref train --recipe demo`, together on the device, and one by one on NumPy's threads."""
    settings, targets = recipe("demo"), np.linspace(-1, 1, len(tokens))
    config, stream = settings.config(), cast(Any, SimpleNamespace(length=settings.epoch_images))  # no more is read
    params = mq.verify.deterministic_params(config, 1)
    first = State(0, params, OPTIMIZERS[settings.optimizer][0](params), params, 0.0, 1.0, None)

    def contender(name: str, backend: Backend, together: int, peak) -> Contender:
        here, files = settings.replace(micro_batch=together), Files.of(Path())
        run, state = Run(here, config, stream, World(), THREADS, files, backend), [upload(first, backend)]

        def step():
            state[0], loss, *_ = _one_step(run, state[0], tokens, targets)
            return loss

        return Contender(name, step, peak)

    ours = contender("musiq_ref", device._replace(repeat=None), 16, peak)  # no batch of the recipe's comes twice
    return [ours, contender("numpy", NUMPY, 1, lambda: None)]


def all_weights_at_once(run: Callable[[], Any]) -> Callable[[], Any]:
    """The same with attention of all queries in one block."""

    def changed():
        before, fused.WEIGHTS_ON_DEVICE = fused.WEIGHTS_ON_DEVICE, 2**40
        try:
            return run()
        finally:
            fused.WEIGHTS_ON_DEVICE = before

    return changed


def cupy_peak() -> int:
    """The most that CuPy's pool has had since it was last asked; it then gives back what is free."""
    import cupy

    pool = cupy.get_default_memory_pool()
    most, _ = pool.total_bytes(), pool.free_all_blocks()
    return most
