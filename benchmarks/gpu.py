"""musiq_ref on a GPU beside PyTorch on the same GPU: seconds, memory and agreement, as one JSON. `make gpu` runs it.

    python benchmarks/gpu.py -o gpu.json            # in strict float32, then with TF32, each in a process of its own
    python benchmarks/gpu.py --backend numpy --quick   # the same code on the processor: a rehearsal, no measurement

Both sides begin with tokens in host memory and end with scores, or trained parameters, waited for. The model is the
small one with pyiqa's conventions, which the PyTorch port implements, and weights made from integers. Seconds are
medians of neighbouring runs in turn; a ratio below 1 says that musiq_ref is faster.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np

import musiq_ref as mq
from musiq_ref.backend import get_backend, to_host
from musiq_ref.bench.measure import interleaved
from musiq_ref.model.parameters import map_params
from musiq_ref.training.optimizers import adam_init, adamw
from musiq_ref.training.step import batch_gradient

PHOTOGRAPH, LARGE = (480, 640), (3000, 4000)
MIXED = [(300 + 23 * i, 800 - 31 * i) for i in range(16)]


class Contender(NamedTuple):
    """One implementation: the scores of tokens, a training step on them, and the most memory since the last call."""

    name: str
    scores: Callable[[list[mq.Tokens]], list[float]]
    step: Callable[[list[mq.Tokens]], float]
    peak: Callable[[], int | None]


def ours(config: mq.MusiqConfig, backend: str) -> Contender:
    device = get_backend(backend)
    params = map_params(device.from_numpy, mq.verify.deterministic_params(config, 1))
    training = [params, adam_init(params)]

    def scores(images):
        logits = [mq.predict(params, tokens, config, device) for tokens in images]
        return [float(device.to_numpy(one)[0]) for one in logits]

    def step(images):
        result = batch_gradient(training[0], images, np.zeros(len(images), "float32"), config, "huber")
        training[:] = adamw(training[0], result.gradients, training[1], 1e-5)
        to_host(training[0]["class_token"])
        return result.loss

    def peak():
        if backend == "numpy":
            return None
        import cupy

        pool = cupy.get_default_memory_pool()
        most, _ = pool.total_bytes(), pool.free_all_blocks()
        return most

    return Contender("musiq_ref", scores, step, peak)


def theirs(config: mq.MusiqConfig, cuda: bool) -> Contender:
    import torch

    from musiq_ref.verify.torch_port import TorchMusiq, TorchTokens

    tf32 = os.environ.get("CUPY_TF32") == "1"
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


def measure(backend: str, quick: bool) -> list[dict[str, Any]]:
    """One record for every task."""
    config = mq.MusiqConfig.preset("tiny" if quick else "small", conventions=mq.PYIQA)
    contenders = [ours(config, backend), theirs(config, backend == "cupy")]

    def tokens(sizes):
        return [mq.tokenize(mq.verify.deterministic_image(3, *size), config) for size in sizes]

    def shrunk(sizes):
        return [(height // 8, width // 8) for height, width in sizes] if quick else sizes

    tasks = {
        "score 1 photograph": ("scores", [PHOTOGRAPH], 30),
        "score 16 of different sizes": ("scores", MIXED, 10),
        "score 12 megapixels": ("scores", [LARGE], 3),
        "training step, 1 photograph": ("step", [PHOTOGRAPH], 10),
        "training step, 16 of different sizes": ("step", MIXED, 3),
    }
    records = []
    for task, (kind, sizes, runs) in tasks.items():
        images = tokens(shrunk(sizes))
        peaks, results, seconds = [], [], {}
        for contender in contenders:
            contender.peak()
            getattr(contender, kind)(images)
            peaks.append(contender.peak())
            results.append(getattr(contender, kind)(images))
        calls = {c.name: partial(seconds_of, getattr(c, kind), images) for c in contenders}
        interleaved(calls, 1 if quick else runs, seconds)
        record = {"task": task, "tokens": [int(t.mask.sum()) for t in images], "runs": len(seconds["torch"])}
        for contender, memory in zip(contenders, peaks, strict=True):
            name = contender.name
            record |= {f"{name}_seconds": median(seconds[name]), f"{name}_bytes": memory}
        record["ratio"] = median(a / b for a, b in zip(*seconds.values(), strict=True))
        record["difference"] = float(np.abs(np.subtract(*results)).max() / np.abs(results[0]).max())  # scores or losses
        records.append(record)
    return records


def environment(backend: str) -> dict[str, Any]:
    """Card, driver and versions."""
    import torch

    found: dict[str, Any] = {"python": platform.python_version(), "numpy": np.__version__, "torch": torch.__version__}
    if backend == "cupy":
        import cupy

        card, runtime = cupy.cuda.runtime.getDeviceProperties(0), cupy.cuda.runtime
        found |= {
            "card": card["name"].decode(),
            "compute_capability": f"{card['major']}.{card['minor']}",
            "memory": card["totalGlobalMem"],
            "driver": runtime.driverGetVersion(),
            "runtime": runtime.runtimeGetVersion(),
            "cupy": cupy.__version__,
        }
    return {**found, "musiq_ref": mq.__version__}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, default=Path("gpu.json"), help="(default: gpu.json)")
    parser.add_argument("--backend", default="cupy", choices=["cupy", "numpy"])
    parser.add_argument("--quick", action="store_true", help="a tiny model and small images, each once")
    parser.add_argument("--one", action="store_true", help="only what this process' CUPY_TF32 says, on standard output")
    args = parser.parse_args()
    if args.one:
        json.dump(measure(args.backend, args.quick), sys.stdout)
        return
    report = environment(args.backend)
    for name, tf32 in (("float32", "0"), ("tf32", "1")):
        command = [sys.executable, __file__, "--one", "--backend", args.backend, *["--quick"] * args.quick]
        done = subprocess.run(command, env={**os.environ, "CUPY_TF32": tf32}, stdout=subprocess.PIPE, check=True)
        report[name] = json.loads(done.stdout)
        for record in report[name]:
            print(f"{name:8} {record['task']:38} {record['ratio']:6.2f} of PyTorch's time")
    args.output.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(f"written to {args.output}")


if __name__ == "__main__":
    main()
