"""Time and peak memory of one training step with a recipe's published batch.

    python benchmarks/training_memory.py                  # KonIQ: 96 images of 1024×768, 193 + 512 tokens each
    python benchmarks/training_memory.py --batch 8

The images are noise; the work and the memory are those of photographs of that size.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time

import numpy as np

import musiq_ref as mq
from musiq_ref.training.parallel import cores
from musiq_ref.training.settings import recipe
from musiq_ref.training.step import batch_gradient


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="koniq")
    parser.add_argument("--batch", type=int, help="images (default: the recipe's)")
    args = parser.parse_args()
    settings = recipe(args.recipe, init="", **({"batch": args.batch} if args.batch else {}))
    config, noise = settings.config(), np.random.default_rng(0).integers(0, 256, (768, 1024, 3), dtype=np.uint8)
    tokens = [mq.tokenize(np.roll(noise, i, axis=0), config) for i in range(settings.batch)]
    params, targets = mq.init_params(config), np.linspace(0, 100, settings.batch)
    start = time.perf_counter()
    batch_gradient(
        params,
        tokens,
        targets,
        config,
        "l1",
        micro_batch=settings.micro_batch,
        threads=len(cores()),
        recompute=settings.recompute,
    )
    seconds = time.perf_counter() - start
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss counts bytes on macOS, KiB elsewhere
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30
    print(f"{settings.batch} images, {len(tokens[0].mask)} tokens each: {seconds:.0f} s, peak {peak:.2f} GiB")


if __name__ == "__main__":
    main()
