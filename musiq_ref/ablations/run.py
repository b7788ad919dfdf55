"""Running a grid: every cell is an ordinary training run in a folder of its own, tested when it is done."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

from threadpoolctl import threadpool_limits
from tqdm import tqdm

from musiq_ref.ablations.definitions import Cell, Grid
from musiq_ref.ablations.processes import in_processes
from musiq_ref.ablations.results import markdown, report
from musiq_ref.checkpoint import load_checkpoint
from musiq_ref.checkpoint.layout import write_file
from musiq_ref.evaluation.rating import rate_synthetic
from musiq_ref.metrics import plcc, srcc
from musiq_ref.pictures.synthetic import held_out_examples
from musiq_ref.scoring import scorer
from musiq_ref.training.run import make_folder, train
from musiq_ref.training.settings import renamed
from musiq_ref.training.state import TrainingError

FREE = ("threads", "save_every", "seed")  # settings that may differ when a grid goes on


def run_grid(grid: Grid, folder: str | Path, jobs: int = 1, progress: bool = True) -> dict[str, Any]:
    """Trains and tests every cell that is not finished yet, `jobs` at a time, and returns the report.

    grid: from `grid`
    folder: for grid.json (what is run there), cells/NAME/seed_K (the runs, with result.json when they are done),
        ablation.json and ablation.md (the report of this grid)

    A grid that was stopped, however abruptly, goes on when it is started again, in the middle of a run, too. A cell
    that fails is among the report's problems, and the others are run all the same. Raises TrainingError or
    CheckpointError, in one sentence, for a folder that cannot be used.

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
    folder = Path(folder)
    _claim(folder, grid)
    cells = grid.cells()
    items = [(cell, grid.held_out, str(cell_folder(folder, cell))) for cell in cells]
    results = {(item[0].name, item[0].seed): found for item in items if (found := _result(Path(item[2])))}
    missing = [item for item in items if (item[0].name, item[0].seed) not in results]
    problems = []
    bar = tqdm(total=len(cells), initial=len(results), unit="cell", disable=not progress)
    for (cell, _, path), error in in_processes(run_cell, missing, jobs):
        found = None if error else _result(Path(path))
        if found:
            results[cell.name, cell.seed] = found
            bar.set_postfix_str(f"{cell}: SRCC {found['srcc']:.3f}")
            bar.update()
        else:
            problems.append(f"{cell}: {error}")
            bar.write(f"failed: {problems[-1]}", file=sys.stderr)
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
    one = scorer(checkpoint._replace(config=whole), dtype=cell.settings.dtype)
    with threadpool_limits(1, "blas"):  # rounding may depend on the number of threads
        tested = rate_synthetic(one, held_out_examples(**held_out))
    scores, targets = [r.score for r in tested.rated], [r.target for r in tested.rated]
    alike = len(set(scores)) == 1  # of a model that says the same of all pictures: no correlation
    found = {"srcc": 0.0, "plcc": 0.0} if alike else {"srcc": srcc(scores, targets), "plcc": plcc(scores, targets)}
    found |= {"images": len(scores), "pristine_best": tested.pristine_best, "order": tested.order}
    _write(Path(folder, "result.json"), json.dumps(found, indent=1) + "\n")


def _claim(folder: Path, grid: Grid) -> None:
    """Makes the folder, and says in it what is run there; TrainingError when that is already something else."""
    base = dataclasses.asdict(grid.base)
    now = {**{name: base[name] for name in base if name not in FREE}, "held_out": grid.held_out}
    now = json.loads(json.dumps(now))
    path = folder / "grid.json"
    make_folder(folder)
    saved = _read(path)
    if saved is None:
        return _write(path, json.dumps(now, indent=1) + "\n")
    saved = renamed(saved)
    for name in now:
        if saved.get(name) != now[name]:
            raise TrainingError(
                f"{folder} holds ablations with {name} = {saved.get(name)!r}, not {now[name]!r}; use another folder, "
                f"or that value"
            )


def _result(folder: Path) -> dict[str, Any] | None:
    return _read(folder / "result.json")


def _read(path: Path) -> dict[str, Any] | None:
    """A file of JSON, or None where there is none."""
    if not path.exists():
        return None
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise TrainingError(f"{path} cannot be read ({error}); move it away") from None


def _write(path: Path, text: str) -> None:
    write_file(path, lambda part: part.write_text(text, encoding="utf-8"))
