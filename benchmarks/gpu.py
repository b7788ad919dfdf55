"""All that a GPU can show of musiq_ref, in six minutes and one JSON: tests, sanitizer, seconds beside PyTorch's.

    python benchmarks/gpu.py -o gpu.json      # `make gpu` runs it, in an environment or with what is installed
    python benchmarks/gpu.py --rehearse       # the same steps on the processor, small, with a stand-in for CuPy
    python benchmarks/gpu.py --table gpu.json # only writes the table, docs/gpu.md, of a JSON

Each step is a process of its own, and the JSON is written after each: one that fails, or takes too long, loses nothing
of the others. The exit code is 1 if any of them failed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
NEEDED = ("numpy", "torch", "pytest", "hypothesis")
DEVICE, TESTS = ["kernels", "device"], ["ops", "model", "cupy_backend"]
PRECISIONS = ("float32", "tf32", "float16")
PYTEST = ["-m", "pytest", "-p", "no:cacheprovider", "-rfE", "-W", "default"]  # what CuPy warns of is no fault of ours
ONE_MODEL = "whole_model_through and official and kept"


class Steps:
    """Steps with a limit of time together; what they find is written to a file.

    path: of the JSON
    seconds: for all of them
    """

    def __init__(self, path: Path, seconds: float, report: dict[str, Any]) -> None:
        self.path, self.end, self.report, self.failed = path, time.monotonic() + seconds, report, []

    def run(self, name: str, command: list[str], seconds: float, read: Any) -> None:
        """Adds what `read` makes of the standard output under a name, or why there is nothing."""
        seconds, start = max(1.0, min(seconds, self.end - time.monotonic())), time.monotonic()
        print(f"{name} …", file=sys.stderr)
        try:
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=seconds, check=False)
            failure = f"exit code {done.returncode}" if done.returncode else ""
            found = read(done.stdout) if not failure or read is summary else {"error": done.stderr[-2000:]}
        except subprocess.TimeoutExpired:
            failure, found = f"not done in {seconds:.0f} s", {}
        except ValueError as error:
            failure, found = f"no figures ({error})", {}
        self.report[name] = found
        self.report["steps"][name] = failure or "done"
        self.report["seconds"][name] = round(time.monotonic() - start, 1)
        if failure:
            self.failed.append(f"{name}: {failure}")
        self.path.write_text(json.dumps(self.report, indent=1) + "\n", encoding="utf-8")


def summary(output: str) -> dict[str, Any]:
    """How many tests passed, and which did not, from what pytest prints."""
    counts = {kind: int(number) for number, kind in re.findall(r"(\d+) (passed|failed|skipped|error)", output)}
    return {**counts, "not passed": re.findall(r"^(?:FAILED|ERROR) (\S+)", output, re.MULTILINE)}


def environment() -> dict[str, Any]:
    """Card, driver and versions, of which a rehearsal has only some."""
    found: dict[str, Any] = {"python": platform.python_version(), **{name: version(name) for name in NEEDED}}
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
        "driver": runtime.driverGetVersion(),
        "runtime": runtime.runtimeGetVersion(),
        "cupy": cupy.__version__,
    }


def stand_in() -> Any:
    """The backend of a rehearsal: the tests' stand-in for CuPy, and no graphs."""
    sys.path.insert(0, str(ROOT / "tests"))
    from cupy_double import BACKEND

    return BACKEND._replace(repeat=lambda run, key, arrays: run(*map(BACKEND.from_numpy, arrays)))


def one(precision: str, rehearse: bool) -> None:
    """Prints the records of one precision, and how many captured graphs were used, as JSON."""
    from gpu_tasks import measure

    from musiq_ref.backend import get_backend

    device = stand_in() if rehearse else get_backend(f"cupy:{precision}")
    records = measure(device, precision != "float32", rehearse)
    states = getattr(device.repeat, "found", {}).values()
    print(json.dumps({"records": records, "graphs": sum(isinstance(s, tuple) and s[-1] == "right" for s in states)}))


def table(report: dict[str, Any]) -> str:
    """docs/gpu.md of a report."""
    lines = [
        *("---", "orphan: true", "---", "# On a GPU, measured", ""),
        f"{report['card'] or 'No GPU: a rehearsal, whose figures mean nothing'}; CuPy {report.get('cupy', '–')}, "
        f"PyTorch {report['torch']}, NumPy {report['numpy']}. Written by `make gpu` (benchmarks/gpu.py).",
        *("", "A ratio is the time of musiq_ref in parts of PyTorch's, eager, with TF32 but for float32.", ""),
        "| precision | task | ms | ratio | without a graph, ms | memory, MiB | PyTorch's | difference |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for precision in PRECISIONS:
        for found in report.get(precision, {}).get("records", []):
            cells = [precision, found["task"], _ms(found["musiq_ref_seconds"]), f"{found['ratio to torch']:.2f}"]
            cells += [_ms(found.get("plain_seconds")), _mib(found["musiq_ref_bytes"]), _mib(found["torch_bytes"])]
            lines.append(f"| {' | '.join([*cells, format(found['difference from torch'], '.0e')])} |")
    lines += ["", "| step | |", "|---|---|", *(f"| {name} | {how} |" for name, how in report["steps"].items())]
    return "\n".join(lines) + "\n"


def _ms(seconds: float | None) -> str:
    return "–" if seconds is None else f"{1000 * seconds:.2f}"


def _mib(size: int | None) -> str:
    return "–" if size is None else f"{size / 2**20:.0f}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, default=Path("gpu.json"), help="(default: gpu.json)")
    parser.add_argument("--rehearse", action="store_true", help="on the processor: shows that the script runs")
    parser.add_argument("--seconds", type=float, default=350, help="for everything (default: 350)")
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
        parser.error(f"--seconds is {args.seconds:g}; give a number above 0, such as 350")
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
    slack = 10 if args.rehearse else 1  # a processor takes its time
    python, rehearse = sys.executable, ["--rehearse"] * args.rehearse
    os.environ["MUSIQ_REF_TEST_BACKENDS"] = "double" if args.rehearse else "cupy"
    steps = Steps(args.output.absolute(), slack * args.seconds, {**found, "steps": {}, "seconds": {}})
    only = ["-k", ONE_MODEL] if args.rehearse else []
    for name, tests in (("kernels and model", DEVICE), ("ops and golden values", TESTS[: 1 if args.rehearse else 3])):
        files = [f"tests/test_{test}.py" for test in tests]
        steps.run(name, [python, *PYTEST, *files, *(only if tests is DEVICE else [])], slack * 120, summary)
    for precision in PRECISIONS:
        command = [python, str(Path(__file__).resolve()), "--one", precision, *rehearse]
        steps.run(precision, command, slack * 70, lambda text: json.loads(text.splitlines()[-1]))
    if sanitizer := shutil.which("compute-sanitizer"):
        command = [python, *PYTEST, "tests/test_kernels.py", "-k", ONE_MODEL]
        for tool in ("memcheck", "racecheck"):
            steps.run(tool, [sanitizer, "--tool", tool, "--error-exitcode", "1", *command], 60, summary)
    print(table(steps.report))
    print(*steps.failed, f"written to {args.output}", sep="\n")
    return 1 if steps.failed else 0


if __name__ == "__main__":
    sys.exit(main())
