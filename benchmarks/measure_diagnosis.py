"""How well faults of a port that is not the library are named: `python benchmarks/measure_diagnosis.py [--few] …`.

Every fault of tests/port_faults.py, and of tests/blind_faults.py, which were invented before anyone looked at the
catalogue, is written into tests/plain_port.py, one at a time. With --few the diagnosis sees only what comes out of the
stem, of every block and of the head; with --score the score and integers alone. --right counts false alarms instead:
correct ports, of other images, sizes, weights, conventions and precisions. Words choose faults by their titles.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from blind_faults import BLIND
from plain_port import run as plain_port
from port_faults import FAULTS, judge, stages_of

from musiq_ref.config import NAMED_CONVENTIONS, MusiqConfig
from musiq_ref.model.parameters import map_params
from musiq_ref.verify import build_fixture, compare, deterministic_image, deterministic_params, fingerprint
from musiq_ref.verify.adapters import compare_port
from musiq_ref.verify.ladder.fixture import measured_fixture
from musiq_ref.verify.ladder.precision import rounded_run
from musiq_ref.verify.ladder.stages import run_stages
from musiq_ref.verify.torch_adapter import pyiqa_hooks, torch_port
from musiq_ref.verify.torch_port import TorchMusiq

FEW = ("stem/output", "encoder/block_00/output", "encoder/block_01/output", "encoder/norm", "head/logits", "score")
SCORE = ("hash_index", "scale_index", "mask", "score")
SIZES = [(54, 96), (96, 54), (40, 50), (33, 64), (64, 64), (96, 96), (31, 200), (120, 35), (70, 90), (97, 61), (56, 56),
         (130, 111), (45, 160)]  # fmt: skip


def right_ports() -> Iterator[tuple[str, bool]]:
    """Correct runs, eight for every size: (what it was, whether it passed)."""
    for seed, (height, width) in enumerate(SIZES):
        image = deterministic_image(seed + 20, height, width)
        for name, conventions in NAMED_CONVENTIONS.items():
            outputs = (1, 10, 5)[seed % 3]
            config = MusiqConfig.preset("tiny", outputs=outputs, longer_sides=(56, 96), conventions=conventions)
            params = deterministic_params(config, seed + 7, "float64")
            fixture = measured_fixture(config, params, image, {})
            where = f"{height} × {width}, C = {outputs}, {name}"
            single = map_params(lambda a: a.astype(np.float32), params)
            if name == "official" and outputs > 1:  # the plain port has no head of one output
                tensors = map_params(lambda a: torch.from_numpy(a).requires_grad_(), single)
                yield f"{where}, plain PyTorch", compare(fixture, plain_port(image, tensors, config)).passed
            elif name != "pyiqa":
                yield f"{where}, NumPy float32", compare(fixture, run_stages(single, image, config)).passed
            if name == "pyiqa":
                for dtype in (torch.float32, torch.float64, torch.float16, torch.bfloat16):
                    module = TorchMusiq(config).to(dtype)
                    port = torch_port(module, lambda m, x: m(x), pyiqa_hooks(config))
                    short = str(dtype).removeprefix("torch.")
                    judged = short if "16" in short else "float32"
                    passed = compare_port(fixture, port, precision=judged, diagnose=False).passed
                    yield f"{where}, PyTorch {short}", passed
            else:
                precision = ("tf32", "int8")[(seed + (name == "paper")) % 2]
                stages = rounded_run(fixture, precision, seed=91, back=False)
                passed = compare(fixture, stages, precision=precision, diagnose=False).passed
                yield f"{where}, {precision}", passed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--few", action="store_true")
    parser.add_argument("--score", action="store_true")
    parser.add_argument("--right", action="store_true")
    parser.add_argument("--budget", type=float, default=30.0, help="seconds for each fault")
    parser.add_argument("words", nargs="*")
    args = parser.parse_args()
    counts: Counter[str] = Counter()
    longest = 0.0
    if args.right:
        for words, passed in right_ports():
            counts["right" if passed else "FALSE ALARM"] += 1
            print(f"{'right' if passed else 'FALSE ALARM':<12}{words}", flush=True)
        return print(dict(counts))
    fixture = build_fixture()
    for fault in [*FAULTS, *BLIND]:
        if args.words and not any(word in fault.title for word in args.words):
            continue
        stages = stages_of(fixture, fault.edits, fault.back)
        if args.few or args.score:
            stages = {n: a for n, a in stages.items() if n in (SCORE if args.score else FEW)}
        start = time.perf_counter()
        outcome = judge(fingerprint(fixture, stages, args.budget), fault)
        seconds = time.perf_counter() - start
        counts[outcome.verdict] += 1
        longest = max(longest, seconds)
        print(f"{outcome.verdict:<10}{seconds:5.1f} s  {fault.title:<40} {' | '.join(outcome.said)[:300]}", flush=True)
    print(dict(counts), f"longest {longest:.1f} s")


if __name__ == "__main__":
    main()
