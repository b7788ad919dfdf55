"""How well faults of a port that is not the library are named: `python benchmarks/measure_diagnosis.py [--few] …`.

Every fault of tests/port_faults.py is written into tests/plain_port.py, one at a time. With --few the diagnosis sees
only what comes out of the stem, of every block and of the head; with --score the score and integers alone. Words choose
faults by their titles.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from port_faults import FAULTS, judge, stages_of

from musiq_ref.verify import build_fixture, fingerprint

FEW = ("stem/output", "encoder/block_00/output", "encoder/block_01/output", "encoder/norm", "head/logits", "score")
SCORE = ("hash_index", "scale_index", "mask", "score")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--few", action="store_true")
    parser.add_argument("--score", action="store_true")
    parser.add_argument("words", nargs="*")
    args = parser.parse_args()
    fixture, counts, longest = build_fixture(), Counter(), 0.0
    for fault in FAULTS:
        if args.words and not any(word in fault.title for word in args.words):
            continue
        stages = stages_of(fixture, fault.edits)
        stages = {
            n: a for n, a in stages.items() if not (args.few or args.score) or n in (SCORE if args.score else FEW)
        }
        start = time.perf_counter()
        outcome = judge(fingerprint(fixture, stages), fault)
        seconds = time.perf_counter() - start
        counts[outcome.verdict] += 1
        longest = max(longest, seconds)
        print(f"{outcome.verdict:<10}{seconds:5.1f} s  {fault.title:<40} {' | '.join(outcome.said)[:300]}", flush=True)
    print(dict(counts), f"longest {longest:.1f} s")


if __name__ == "__main__":
    main()
