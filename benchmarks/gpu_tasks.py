"""What `benchmarks/gpu.py` measures: tasks, and who does them, each result computed by musiq_ref and by PyTorch.

Both sides begin with tokens in host memory and end with scores, or trained parameters, waited for. The model is the
small one with pyiqa's conventions, which the PyTorch port implements, and weights made from integers. Seconds are
medians of neighbouring runs in turn; a ratio below 1 says that musiq_ref is faster.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any, NamedTuple

import numpy as np

import musiq_ref as mq
from musiq_ref.backend import Backend, to_host
from musiq_ref.bench.measure import interleaved
from musiq_ref.model.inference import predict_packed
from musiq_ref.model.parameters import map_params
from musiq_ref.training.optimizers import adam_init, adamw
from musiq_ref.training.step import batch_gradient

PHOTOGRAPH, LARGE = (480, 640), (3000, 4000)
WARM, GRAPHS = 3, ("score 1 photograph",)
MIXED = [(300 + 23 * i, 800 - 31 * i) for i in range(16)]


class Contender(NamedTuple):
    """One implementation: the scores of tokens, a training step on them, and the most memory since the last call."""

    name: str
    scores: Callable[[list[mq.Tokens]], list[float]]
    step: Callable[[list[mq.Tokens]], float]
    peak: Callable[[], int | None]


def ours(config: mq.MusiqConfig, device: Backend, name: str = "musiq_ref") -> Contender:
    params = map_params(device.from_numpy, mq.verify.deterministic_params(config, 1))
    training = [params, adam_init(params)]

    def scores(images):
        if len(images) == 1:
            return device.to_numpy(mq.predict(params, images[0], config, device)).tolist()
        return device.to_numpy(predict_packed(params, images, config, device))[:, 0].tolist()

    def step(images):
        result = batch_gradient(training[0], images, np.zeros(len(images), "float32"), config, "huber")
        training[:] = adamw(training[0], result.gradients, training[1], 1e-5)
        to_host(training[0]["class_token"])
        return result.loss

    def peak():
        if device.name != "cupy":
            return None
        import cupy

        pool = cupy.get_default_memory_pool()
        most, _ = pool.total_bytes(), pool.free_all_blocks()
        return most

    return Contender(name, scores, step, peak)


def theirs(config: mq.MusiqConfig, cuda: bool, tf32: bool) -> Contender:
    import torch

    from musiq_ref.verify.torch_port import TorchMusiq, TorchTokens

    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
    where = torch.device("cuda" if cuda else "cpu")
    weights = mq.checkpoint.to_pyiqa(mq.verify.deterministic_params(config, 1))
    model = TorchMusiq(config)
    model.load_state_dict({name: torch.tensor(array) for name, array in weights.items()})
    model.to(where)
    trained = TorchMusiq(config).to(where)
    trained.load_state_dict(model.state_dict())
    optimizer = torch.optim.AdamW(trained.parameters(), 1e-5)

    def upload(tokens):
        kept = tokens.mask.astype(bool)
        patches = torch.from_numpy(tokens.patches[kept]).permute(0, 3, 1, 2)[None]
        vectors = (torch.from_numpy(np.ascontiguousarray(a[kept])).long() for a in tokens[1:])
        return TorchTokens(patches.to(where), *(v.to(where) for v in vectors))

    def scores(images):
        with torch.inference_mode():
            return [float(one) for one in [model.outputs(upload(tokens))[0, 0] for tokens in images]]

    def step(images):
        optimizer.zero_grad()
        losses = []
        for tokens in images:
            prediction = trained.outputs(upload(tokens))[:, 0]
            loss = torch.nn.functional.huber_loss(prediction, torch.zeros_like(prediction)) / len(images)
            loss.backward()
            losses.append(loss.detach())
        optimizer.step()
        if cuda:
            torch.cuda.synchronize()
        return float(sum(losses))

    def peak():
        if not cuda:
            return None
        most = torch.cuda.max_memory_allocated()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        return most

    return Contender("torch", scores, step, peak)


def seconds_of(run: Callable[[list[mq.Tokens]], Any], images: list[mq.Tokens]) -> float:
    start = time.perf_counter()
    run(images)
    return time.perf_counter() - start


def measure(device: Backend, tf32: bool, quick: bool) -> list[dict[str, Any]]:
    """One record for every task. `plain` is musiq_ref without captured graphs, where it has any."""
    config = mq.MusiqConfig.preset("small", conventions=mq.PYIQA)
    config = mq.MusiqConfig.preset("tiny", conventions=mq.PYIQA, longer_sides=(64,)) if quick else config
    contenders = [ours(config, device), theirs(config, device.name == "cupy", tf32)]
    plain = [ours(config, device._replace(repeat=None), "plain")] if device.repeat else []

    def tokens(sizes):
        return [mq.tokenize(mq.verify.deterministic_image(3, *size), config) for size in sizes]

    def shrunk(sizes):
        return [(height // 8, width // 8) for height, width in sizes[:2]] if quick else sizes

    tasks = {
        "score 1 photograph": ("scores", [PHOTOGRAPH], 30),
        "score 16 of different sizes": ("scores", MIXED, 10),
        "score 12 megapixels": ("scores", [LARGE], 3),
        "training step, 1 photograph": ("step", [PHOTOGRAPH], 10),
        "training step, 16 of different sizes": ("step", MIXED, 3),
    }
    return [
        record(task, kind, tokens(shrunk(sizes)), 1 if quick else runs, contenders + plain * (task in GRAPHS))
        for task, (kind, sizes, runs) in tasks.items()
    ]


def record(task: str, kind: str, images: list[mq.Tokens], runs: int, contenders: list[Contender]) -> dict[str, Any]:
    """What is found of a task; each contender runs it some times before, and so has its graph, if it makes one."""
    peaks, results, seconds = {}, {}, {}
    for contender in contenders:
        run = getattr(contender, kind)
        contender.peak()
        results[contender.name] = run(images)  # after the first step parameters differ, if only by rounding
        peaks[f"{contender.name}_bytes"] = contender.peak()
        for _ in range(min(WARM, runs)):
            run(images)
    interleaved({c.name: partial(seconds_of, getattr(c, kind), images) for c in contenders}, runs, seconds)
    found: dict[str, Any] = {"task": task, "tokens": [int(t.mask.sum()) for t in images], "runs": runs, **peaks}
    found |= {f"{name}_seconds": median(taken) for name, taken in seconds.items()}
    mine = results.pop("musiq_ref")
    for name, other in results.items():
        found[f"ratio to {name}"] = median(a / b for a, b in zip(seconds["musiq_ref"], seconds[name], strict=True))
        found[f"difference from {name}"] = float(np.abs(np.subtract(mine, other)).max() / np.abs(mine).max())
    return found
