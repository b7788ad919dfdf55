"""musiq_ref beside PyTorch: the same model, weights and images in one run, alternately, with equally many threads.

    python benchmarks/compare_torch.py                      # seconds and scores, small model, two image sizes
    python benchmarks/compare_torch.py --sizes 427x640 --runs 9 --json
    python benchmarks/compare_torch.py --memory             # peak memory of scoring a 12-megapixel photograph

Both sides start from an 8-bit image. Inference ends at the score; forward+backward ends at the gradients of the score
to every parameter and every pixel. The model has pyiqa's conventions, which the PyTorch port
(musiq_ref.verify.torch_port) implements, and weights made from integers, so the scores mean nothing but must agree.
Seconds are medians; the ratio is the median over pairs of neighbouring runs, and below 1 where musiq_ref is faster.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

MEMORY_SIZE = (3000, 4000)
SEED = 1


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Contender(NamedTuple):
    """One implementation: its score of an image, and its score with the gradient to the image (H, W, 3)."""

    name: str
    infer: Callable[[Any], float]
    gradient: Callable[[Any], tuple[float, Any]]


def numpy_contender(preset: str, threads: int) -> Contender:
    """musiq_ref on NumPy, float32."""
    import numpy as np

    import musiq_ref as mq
    from musiq_ref.image.tokenize import tokenize_backward

    config = mq.MusiqConfig.preset(preset, conventions=mq.PYIQA)
    params = mq.verify.deterministic_params(config, SEED)
    one = mq.scorer(mq.Checkpoint(params, config, "native", None), threads=threads)

    def infer(image):
        return one(image).value

    def gradient(image):
        tokens = mq.batch([mq.tokenize(image, config)])
        logits, cache = mq.forward(params, tokens, config)
        gradients = mq.backward(np.ones_like(logits), cache)
        height, width = image.shape[:2]
        return float(logits[0, 0]), tokenize_backward(gradients.patches[0], height, width, config)

    return Contender("musiq_ref", infer, gradient)


def torch_contender(preset: str, threads: int) -> Contender:
    """The PyTorch port on the CPU, float32."""
    import torch

    import musiq_ref as mq
    from musiq_ref.verify.torch_port import TorchMusiq

    torch.set_num_threads(threads)
    config = mq.MusiqConfig.preset(preset, conventions=mq.PYIQA)
    weights = mq.checkpoint.to_pyiqa(mq.verify.deterministic_params(config, SEED))
    model = TorchMusiq(config)
    model.load_state_dict({name: torch.tensor(array) for name, array in weights.items()})

    def pixels(image):
        return torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255

    def infer(image):
        with torch.inference_mode():
            return model(pixels(image)).item()

    def gradient(image):
        x = pixels(image).requires_grad_()
        model.zero_grad()
        score = model(x).sum()
        score.backward()
        assert x.grad is not None
        return score.item(), x.grad[0].permute(1, 2, 0).numpy()

    return Contender("PyTorch", infer, gradient)


def interleaved(calls: list[Callable[[], Any]], runs: int) -> tuple[list[list[float]], list[Any]]:
    """Seconds of every run of every call, and what it returned; in turn, the order reversed every time, warmed up."""
    results = [call() for call in calls]
    seconds: list[list[float]] = [[] for _ in calls]
    for run in range(runs):
        for i in range(len(calls)) if run % 2 == 0 else reversed(range(len(calls))):
            start = time.perf_counter()
            calls[i]()
            seconds[i].append(time.perf_counter() - start)
    return seconds, results


def compare(preset: str, sizes: list[tuple[int, int]], runs: int, backward_runs: int, threads: int) -> list[dict]:
    """One record for every size and pass."""
    import numpy as np

    import musiq_ref as mq

    contenders = [numpy_contender(preset, threads), torch_contender(preset, threads)]
    records = []
    for height, width in sizes:
        image = mq.verify.deterministic_image(3, height, width)
        for kind, repeats in (("inference", runs), ("forward+backward", backward_runs)):
            if not repeats:
                continue
            calls = [partial(c.infer if kind == "inference" else c.gradient, image) for c in contenders]
            (ours, theirs), results = interleaved(calls, repeats)
            record: dict[str, Any] = {
                "height": height,
                "width": width,
                "pass": kind,
                "runs": repeats,
                "threads": threads,
            }
            for name, seconds in (("musiq_ref", ours), ("torch", theirs)):
                record |= {f"{name}_seconds": statistics.median(seconds), f"{name}_fastest": min(seconds)}
            record["ratio"] = statistics.median(
                a / b for a, b in zip(ours, theirs, strict=True)
            )  # of neighbouring runs
            if kind == "inference":
                record["score_difference"] = abs(results[0] - results[1])
            else:
                record["score_difference"] = abs(results[0][0] - results[1][0])
                (_, dours), (_, dtheirs) = results
                record["gradient_difference"] = float(np.linalg.norm(dours - dtheirs) / np.linalg.norm(dtheirs))
            records.append(record)
    return records


def peak_memory(name: str, preset: str, threads: int) -> dict:
    """Peak resident memory, in MiB, of a fresh process that scores one image, and before it starts to."""
    command = [
        sys.executable,
        os.path.abspath(__file__),
        "--worker",
        name,
        "--preset",
        preset,
        "--threads",
        str(threads),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return {"name": name, "error": done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]}
    return {"name": name, "height": MEMORY_SIZE[0], "width": MEMORY_SIZE[1], **json.loads(done.stdout)}


def worker(name: str, preset: str, threads: int) -> None:
    """What `peak_memory` starts: prints its own memory as JSON."""
    import numpy as np

    import musiq_ref as mq

    contender = numpy_contender(preset, threads) if name == "musiq_ref" else torch_contender(preset, threads)
    tile = mq.verify.deterministic_image(3, MEMORY_SIZE[0] // 10, MEMORY_SIZE[1] // 10)
    image = np.tile(tile, (10, 10, 1))
    contender.infer(image[:64, :96])
    before, start = peak_mib(), time.perf_counter()
    score = contender.infer(image)
    seconds = time.perf_counter() - start
    print(json.dumps({"score": score, "seconds": seconds, "before_mib": before, "peak_mib": peak_mib()}))


def peak_mib() -> float:
    """The most memory that this process has had so far (ru_maxrss is in KiB, on macOS in bytes)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def machine() -> str:
    """The processor, the kernels of the BLAS, and the versions: ratios differ from one processor to another."""
    import numpy as np
    import torch
    from threadpoolctl import threadpool_info

    kernels = {str(library.get("architecture")) for library in threadpool_info() if library["user_api"] == "blas"}
    processor = platform.processor()
    if os.path.exists("/proc/cpuinfo"):  # Linux, where platform does not know its name
        with open("/proc/cpuinfo") as file:
            processor = next((line.partition(":")[2].strip() for line in file if line.startswith("model name")), "")
    return f"{processor}, BLAS kernel {', '.join(kernels)}, NumPy {np.__version__}, PyTorch {torch.__version__}"


def print_table(records: list[dict]) -> None:
    print(machine())
    print(f"{'image':>11}  {'pass':<16} {'musiq_ref':>10} {'PyTorch':>10} {'ratio':>6}  score differs by")
    for r in records:
        seconds = f"{r['musiq_ref_seconds']:>8.3f} s {r['torch_seconds']:>8.3f} s {r['ratio']:>6.2f}"
        print(f"{r['height']:>5}×{r['width']:<5}  {r['pass']:<16} {seconds}  {r['score_difference']:.1e}")


def print_memory(records: list[dict]) -> None:
    for r in records:
        if "error" in r:
            print(f"{r['name']}: failed ({r['error'][0]})")
        else:
            memory = f"peak {r['peak_mib']:.0f} MiB, of which {r['before_mib']:.0f} MiB before the image was scored"
            print(f"{r['name']}: {r['height']}×{r['width']} scored in {r['seconds']:.1f} s, {memory}")


def size(text: str) -> tuple[int, int]:
    """(427, 640) of "427x640"."""
    height, _, width = text.partition("x")
    if not (height.isdigit() and width.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r} is no size; write it as HEIGHTxWIDTH, for example 427x640")
    return int(height), int(width)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", type=size, default=[(427, 640), (768, 1024)], metavar="HxW")
    parser.add_argument("--preset", default="small", help="variant of the model (default: small)")
    parser.add_argument("--runs", type=int, default=7, help="timed runs of the inference; the median is reported")
    parser.add_argument("--backward-runs", type=int, default=3, help="timed runs of forward+backward; 0 leaves it out")
    parser.add_argument("--threads", type=int, default=cores(), help="for both sides (default: all usable cores)")
    parser.add_argument("--json", action="store_true", help="print the records as JSON")
    parser.add_argument(
        "--memory",
        nargs="*",
        choices=["musiq_ref", "torch"],
        help="measure peak memory instead, of musiq_ref or of those named (torch needs over 10 GiB)",
    )
    parser.add_argument("--worker", choices=["musiq_ref", "torch"], help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.runs < 1 or arguments.threads < 1:
        parser.error("--runs and --threads must be at least 1")

    for library in ("OMP", "OPENBLAS", "MKL", "BLIS", "VECLIB_MAXIMUM"):  # read when NumPy is imported, which is later
        os.environ[f"{library}_NUM_THREADS"] = str(arguments.threads)
    if arguments.worker:
        worker(arguments.worker, arguments.preset, arguments.threads)
        return 0
    if arguments.memory is not None:
        names = arguments.memory or ["musiq_ref"]
        records = [peak_memory(name, arguments.preset, arguments.threads) for name in names]
    else:
        sides = arguments.preset, arguments.sizes, arguments.runs, arguments.backward_runs, arguments.threads
        records = compare(*sides)
    if arguments.json:
        print(json.dumps(records, indent=2))
    elif arguments.memory is not None:
        print_memory(records)
    else:
        print_table(records)
    return 0


if __name__ == "__main__":
    sys.exit(main())
