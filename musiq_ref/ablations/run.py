"""Running a grid: every cell is an ordinary training run in a folder of its own, tested when it is done."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

from tqdm import tqdm

from musiq_ref.ablations.definitions import Cell, Grid
from musiq_ref.ablations.processes import in_processes
from musiq_ref.ablations.results import markdown, report
from musiq_ref.checkpoint import load_checkpoint
from musiq_ref.evaluation.rating import rate_synthetic
from musiq_ref.metrics import plcc, srcc
from musiq_ref.outputs import OutputError, clear_parts, write_output
from musiq_ref.pictures.synthetic import held_out_examples
from musiq_ref.scoring import scorer
from musiq_ref.team import ONE_THREAD
from musiq_ref.training.folder import claimed
from musiq_ref.training.progress import Unread
from musiq_ref.training.run import train
from musiq_ref.training.settings import renamed
from musiq_ref.training.state import TrainingError, differences

FILES = ("grid.json", "ablation.json", "ablation.md")
FREE = ("threads", "save_every", "seed")  # settings that may differ when a grid goes on


def run_grid(grid: Grid, folder: str | Path, jobs: int = 1, progress: bool = True) -> dict[str, Any]:
    """Trains and tests every cell that is not finished yet, `jobs` at a time, and returns the report.

    grid: from `grid`
    folder: for grid.json (what is run there), cells/NAME/seed_K (the runs, with result.json when they are done),
        ablation.json and ablation.md (the report of this grid)

    A grid that was stopped, however abruptly, goes on when it is started again, in the middle of a run, too. A cell
    that fails is among the report's problems, and the others are run all the same. Raises TrainingError or
    CheckpointError, in one sentence, for a folder that cannot be used. The folder is locked meanwhile.

    >>> import tempfile
    >>> from musiq_ref.ablations import grid
    >>> small = {"side": 16, "epoch_images": 2, "batch": 2, "warmup": 0, "model": {"layers": 1, "longer_sides": [16]}}
    >>> held_out = {"crops": 1, "scenes": 0, "severities": [0.5], "mixtures": 0}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     found = run_grid(grid("stem", seeds=1, held_out=held_out, **small), folder, progress=False)
    >>> [row["setting"] for row in found["tables"][0]["rows"]], found["problems"]
    (['ResNet', 'linear'], [])
    """
    if jobs < 1:
        raise ValueError(f"jobs is {jobs}; it must be at least 1")
    with claimed(Path(folder), FILES):
        _claim(Path(folder), grid)
        return _run(grid, Path(folder), jobs, progress)


def _run(grid: Grid, folder: Path, jobs: int, progress: bool) -> dict[str, Any]:
    cells = grid.cells()
    items = [(cell, grid.held_out, str(cell_folder(folder, cell))) for cell in cells]
    for _, _, path in items:
        clear_parts(Path(path), "result.json")
    results = {(item[0].name, item[0].seed): found for item in items if (found := _result(Path(item[2])))}
    missing = [item for item in items if (item[0].name, item[0].seed) not in results]
    problems = []
    bar = tqdm(total=len(cells), initial=len(results), unit="cell", disable=not progress, file=Unread(sys.stderr))
    for (cell, _, path), error in in_processes(run_cell, missing, jobs):
        found = None if error else _result(Path(path))
        if found:
            results[cell.name, cell.seed] = found
            bar.set_postfix_str(f"{cell}: SRCC {found['srcc']:.3f}")
            bar.update()
        else:
            problems.append(f"{cell}: {error}")
            bar.write(f"failed: {problems[-1]}", file=Unread(sys.stderr))
    bar.close()
    made = report(grid, results, problems)
    _write(folder / "ablation.json", json.dumps(made, indent=1) + "\n")
    _write(folder / "ablation.md", markdown(made))
    return made


def cell_folder(folder: Path, cell: Cell) -> Path:
    """Where a cell is run.

    >>> from musiq_ref.training.settings import Settings
    >>> cell_folder(Path("runs"), Cell("grid_size=2", 1, Settings())).as_posix()
    'runs/cells/grid_size=2/seed_1'
    """
    return folder / "cells" / cell.name / f"seed_{cell.seed}"


def run_cell(cell: Cell, held_out: dict[str, Any], folder: str) -> None:
    """Trains a cell, or goes on training it, tests it on the held-out pictures, and writes result.json."""
    trained = train(cell.settings, folder, progress=False)
    checkpoint = load_checkpoint(trained.last, cell.settings.dtype)
    whole = checkpoint.config.replace(max_native_patches=-1)  # l is a limit in training alone (SPEC 7)
    one = scorer(checkpoint._replace(config=whole), dtype=cell.settings.dtype, threads=1)
    with ONE_THREAD:  # rounding may depend on the number of threads
        tested = rate_synthetic(one, held_out_examples(**held_out))
    scores, targets = [r.score for r in tested.rated], [r.target for r in tested.rated]
    alike = len(set(scores)) == 1  # of a model that says the same of all pictures: no correlation
    found = {"srcc": 0.0, "plcc": 0.0} if alike else {"srcc": srcc(scores, targets), "plcc": plcc(scores, targets)}
    found |= {"images": len(scores), "pristine_best": tested.pristine_best, "order": tested.order}
    _write(Path(folder, "result.json"), json.dumps(found, indent=1) + "\n")


def _claim(folder: Path, grid: Grid) -> None:
    """Says in the folder what is run there; TrainingError when that is already something else."""
    base = dataclasses.asdict(grid.base)
    now = {**{name: base[name] for name in base if name not in FREE}, "held_out": grid.held_out}
    now = json.loads(json.dumps(now))
    path = folder / "grid.json"
    saved = _read(path)
    if saved is None:
        for there in (folder / name for name in (*FILES, "cells") if (folder / name).exists()):
            raise TrainingError(f"{there} is there, but no {path.name} to go on from; name another folder")
        return _write(path, json.dumps(now, indent=1) + "\n")
    changed = differences(renamed(saved), now, FREE)
    if changed:
        raise TrainingError(
            f"{folder} holds ablations with {' and '.join(changed)}; set what it was, or name another folder"
        )


def _result(folder: Path) -> dict[str, Any] | None:
    path = folder / "result.json"
    found = _read(path)
    limits = {"srcc": 1.01, "plcc": 1.01, "images": 1e9}
    numbers = [(found.get(name), most) for name, most in limits.items()] if found is not None else []
    if not all(isinstance(x, int | float) and -1.01 < x < most for x, most in numbers):
        raise TrainingError(f"{path} is not of an ablation; move it away, and the cell is tested again")
    return found


def _read(path: Path) -> dict[str, Any] | None:
    """A file of JSON, or None where there is none."""
    if not path.exists():
        return None
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise TrainingError(f"{path} cannot be read ({error}); move it away") from None


def _write(path: Path, text: str) -> None:
    try:
        write_output(path, text)
    except OutputError as error:
        raise TrainingError(str(error)) from None
