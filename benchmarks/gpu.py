"""All that a GPU can show of musiq_ref, in five minutes and one JSON: seconds beside PyTorch's, tests, sanitizer.

    python benchmarks/gpu.py -o gpu.json      # `make gpu` runs it, in an environment or with what is installed
    python benchmarks/gpu.py --rehearse       # the same steps on the processor, small, with a stand-in for CuPy
    python benchmarks/gpu.py --table gpu.json # only writes the table, docs/gpu.md, of a JSON

Each step is a process of its own, and the JSON is written after each: one that fails, or takes too long, loses nothing
of the others. Measurements have the machine for themselves; then the tests run at the same time, and last each of
the sanitizer's tools. The exit code is 1 if anything failed, and not if a target was missed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from gpu_steps import ROOT, Step, Steps
from gpu_table import PRECISIONS, table, targets

NEEDED = ("numpy", "torch", "pytest", "hypothesis")
DEVICE, TESTS = ["kernels", "device"], ["ops", "model", "cupy_backend"]
PYTEST = ["-m", "pytest", "-p", "no:cacheprovider", "-rfE", "-W", "default"]  # what CuPy warns of is no fault of ours
AT_ONCE = ["-n", str(min(5, os.cpu_count() or 1)), "--dist", "worksteal"]  # with pytest-xdist
ONE_MODEL = "whole_model_through and official and kept"


def summary(output: str) -> dict[str, Any]:
    """How many tests ran and passed, and which did not, from what pytest prints."""
    counts = {kind: int(number) for number, kind in re.findall(r"(\d+) (passed|failed|skipped|error)", output)}
    ran = sum(number for kind, number in counts.items() if kind != "skipped")
    return {**counts, "ran": ran, "not passed": re.findall(r"^(?:FAILED|ERROR) (\S+)", output, re.MULTILINE)}


def measured(output: str) -> dict[str, Any]:
    """What `one` has printed, if only a part of it."""
    lines = [json.loads(line) for line in output.splitlines() if line.startswith("{") and line.endswith("}")]
    if not lines:
        raise ValueError("it has printed none")
    others = (line for line in lines if "task" not in line)
    return {"records": [line for line in lines if "task" in line], **next(others, {})}


def environment() -> dict[str, Any]:
    """Processor, card, driver and versions, of which a rehearsal has only some."""
    from musiq_ref.bench.machine import processor

    found: dict[str, Any] = {"python": platform.python_version(), **{name: version(name) for name in NEEDED}}
    found |= {"processor": processor(), "cores": os.cpu_count()}
    try:
        import cupy

        card, runtime = cupy.cuda.runtime.getDeviceProperties(0), cupy.cuda.runtime
    except Exception as error:
        return {**found, "card": None, "because": " ".join(str(error).split())}
    return {
        **found,
        "card": card["name"].decode(),
        "compute_capability": f"{card['major']}.{card['minor']}",
        "memory": card["totalGlobalMem"],
        "driver": driver(),
        "driver_cuda": runtime.driverGetVersion(),
        "runtime": runtime.runtimeGetVersion(),
        "cupy": cupy.__version__,
    }


def driver() -> str | None:
    """The driver's own version."""
    try:
        command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.partition("\n")[0].strip()


def stand_in() -> Any:
    """The backend of a rehearsal: the tests' stand-in for CuPy, and no graphs."""
    sys.path.insert(0, str(ROOT / "tests"))
    from cupy_double import BACKEND

    def repeat(function, key, arrays, taken=lambda found: found):
        return taken(function(*map(BACKEND.from_numpy, arrays)))

    return BACKEND._replace(repeat=repeat)


def one(precision: str, rehearse: bool) -> None:
    """Prints the records of one precision, a line of JSON each, and how many captured graphs were used."""
    from gpu_tasks import measure

    from musiq_ref.backend import get_backend

    device = stand_in() if rehearse else get_backend(f"cupy:{precision}")
    for record in measure(device, precision, rehearse):
        print(json.dumps(record), flush=True)
    print(json.dumps({"graphs": getattr(device.repeat, "used", 0)}))


def all_steps(steps: Steps, rehearse: bool) -> None:
    """Measurements, tests, sanitizer."""
    python, slack = sys.executable, 10 if rehearse else 1  # a processor takes its time
    for precision in PRECISIONS:
        command = [python, str(Path(__file__).resolve()), "--one", precision, *["--rehearse"] * rehearse]
        steps.run(Step(precision, command, slack * 70, measured))
    steps.report["targets"] = targets(steps.report)
    many, one_model = AT_ONCE if find_spec("xdist") else [], ["-k", ONE_MODEL]

    def tests(name: str, chosen: list[str], options: list[str]) -> Step:
        files = [f"tests/test_{test}.py" for test in chosen]
        return Step(name, [python, *PYTEST, *many, *files, *options], slack * 120, summary)

    steps.run(
        tests("kernels and model", DEVICE, one_model if rehearse else []),
        tests("ops and golden values", TESTS[: 1 if rehearse else None], []),
    )
    if sanitizer := shutil.which("compute-sanitizer"):
        command = [python, *PYTEST, "tests/test_kernels.py", *one_model]
        for tool in ("memcheck", "racecheck"):
            steps.run(Step(tool, [sanitizer, "--tool", tool, "--error-exitcode", "1", *command], 60, summary))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, default=Path("gpu.json"), help="(default: gpu.json)")
    parser.add_argument("--rehearse", action="store_true", help="on the processor: shows that the script runs")
    parser.add_argument("--seconds", type=float, default=300, help="for everything (default: 300)")
    parser.add_argument("--table", type=Path, metavar="JSON", help="write docs/gpu.md of a JSON, and nothing else")
    parser.add_argument("--one", choices=PRECISIONS, help="only measure, and print JSON; for the script itself")
    args = parser.parse_args()
    if args.one:
        one(args.one, args.rehearse)
        return 0
    if args.table:
        try:
            text = table(json.loads(args.table.read_text(encoding="utf-8")))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            parser.error(f"{args.table} is no report of this script ({type(error).__name__}); make one with -o JSON")
        (ROOT / "docs" / "gpu.md").write_text(text, encoding="utf-8")
        return 0
    if not 0 < args.seconds < float("inf"):
        parser.error(f"--seconds is {args.seconds:g}; give a number above 0, such as 300")
    if args.output.is_dir() or not args.output.absolute().parent.is_dir():
        parser.error(f"{args.output} cannot be written; name a file in a folder that exists with -o")
    try:
        found = environment()
    except PackageNotFoundError as error:
        print(f"{error.name} is not installed; `make gpu` needs CuPy, {', '.join(NEEDED)}", file=sys.stderr)
        return 2
    if not found["card"] and not args.rehearse:
        print(f"there is no GPU to measure ({found['because']}); --rehearse runs the script without", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # whoever ends this process ends its steps, too
    os.environ["MUSIQ_REF_TEST_BACKENDS"] = "double" if args.rehearse else "cupy"
    seconds = args.seconds * (10 if args.rehearse else 1)
    steps = Steps(args.output.absolute(), seconds, {**found, "steps": {}, "seconds": {}})
    all_steps(steps, args.rehearse)
    print(table(steps.report))
    print(*steps.failed, f"written to {args.output}", sep="\n")
    return 1 if steps.failed else 0


if __name__ == "__main__":
    sys.exit(main())
