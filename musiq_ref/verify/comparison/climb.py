"""The comparison: somebody's stages against a fixture, rung by rung, and the first one that differs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from musiq_ref.checkpoint.files import read_arrays
from musiq_ref.checkpoint.layout import CheckpointError
from musiq_ref.verify.comparison.coverage import check_names, matching
from musiq_ref.verify.comparison.report import Comparison, Rung, histogram
from musiq_ref.verify.ladder.distance import ulps
from musiq_ref.verify.ladder.fixture import Fixture, Stage, load_fixture, sample_places
from musiq_ref.verify.ladder.layouts import LayoutError, fit, parameters_by_our_names, sampled_validity, split_fused
from musiq_ref.verify.ladder.precision import at_precision
from musiq_ref.verify.ladder.stages import BACK, SEQUENCE, axes_of
from musiq_ref.verify.mistakes.diagnosis import Diagnosis, fingerprint


def compare(
    fixture: Fixture | str | Path,
    mine: Any,
    *,
    diagnose: bool = True,
    budget: float = 30.0,
    precision: str = "float32",
    require: Iterable[str] = (),
    allow_unknown: bool = False,
) -> Comparison:
    """Compares the stages of a port with a fixture, in the order of the ladder.

    fixture: a folder or a loaded one
    mine: {stage name: array}, or a folder of .npy files of those names, or a .npz or .safetensors file; stages that are
        missing, or None, are listed and skipped; sentences under "notes" go into the report
    diagnose: look for known conventions and bugs that explain the first difference (`verify.fingerprint`)
    budget: seconds for that, after which it says what was not tried
    precision: "float32", or the one that the port multiplies in: see `ladder.precision`
    require: names or patterns ("encoder/*") of stages without which it does not pass
    allow_unknown: accept arrays whose names are no stage

    Raises FixtureError for a damaged fixture, ValueError when nothing of mine is a stage, for a name that is none, and
    for a requirement that no stage fits.

    >>> from musiq_ref.verify import build_fixture
    >>> fixture = build_fixture(image=np.zeros((40, 50, 3), np.uint8))
    >>> result = compare(fixture, {"score": fixture.stages["score"].array * 1.001})
    >>> result.passed, result.first.name
    (False, 'score')
    """
    fixture = fixture if isinstance(fixture, Fixture) else load_fixture(fixture)
    given = mine if isinstance(mine, Mapping) else read_stages(mine)
    given = {name: array for name, array in given.items() if array is not None}
    said = given.pop("notes", [])
    fixture = at_precision(fixture, precision, any(name.startswith(BACK) for name in given))
    if fixture.manifest.get("precision") == "int8":
        given = {name: array for name, array in given.items() if not name.startswith(BACK)}
    required = matching(fixture.stages, require)
    renamed, layouts = parameters_by_our_names(given, fixture.config)
    stages, fused = split_fused(renamed, fixture.config)
    notes = check_names(list(stages), fixture.stages, allow_unknown)
    rungs = [rung(stage, stages.get(name), fixture) for name, stage in fixture.stages.items()]
    layouts += fused + [f"{r.name}: {r.layout}" for r in rungs if r.layout]
    notes = [
        *said,
        *notes[:20],
        *padded_rows(fixture, stages),
        *padded_tokens(fixture, stages),
        *narrow(fixture, stages),
    ]
    lacking = [name for name in required if name not in stages]
    result = Comparison(rungs, fixture.manifest, layouts, None, notes, lacking=lacking)
    if diagnose and "training" not in fixture.manifest:
        result = replace(result, diagnosis=as_far_as_told(fingerprint(fixture, stages, budget), fixture))
    return result


def as_far_as_told(diagnosis: Diagnosis, fixture: Fixture) -> Diagnosis:
    """The diagnosis, which promises of no convention more than the fixture's precision shows."""
    told = f"as the reference, as far as {fixture.manifest.get('precision')} tells"
    table = {topic: told if value == "as the reference" else value for topic, value in diagnosis.conventions.items()}
    return replace(diagnosis, conventions=table) if "precision" in fixture.manifest else diagnosis


def read_stages(source: Any) -> dict[str, np.ndarray]:
    """The arrays of a folder of .npy files, a .npz or a .safetensors file, by name.

    >>> read_stages("nowhere")
    Traceback (most recent call last):
    ValueError: nowhere: is neither a folder nor a .npz or .safetensors file; a callable is FILE.py:FUNCTION
    """
    path = Path(source)
    refuse_python(path)
    if path.is_dir():
        base = path / "stages" if (path / "stages").is_dir() else path
        files = sorted(base.rglob("*.npy"))
        if not files:
            raise ValueError(f"{path}: has no .npy files; write one for each stage, named like those of the fixture")
        return {f.relative_to(base).with_suffix("").as_posix(): _load(f) for f in files}
    if not path.is_file():
        raise ValueError(
            f"{source}: is neither a folder nor a .npz or .safetensors file; a callable is FILE.py:FUNCTION"
        )
    try:
        return read_arrays(path)
    except CheckpointError as error:
        raise ValueError(f"{source}: {error}") from None


def refuse_python(path: Path) -> None:
    """Raises ValueError for a program in Python, of which the function is wanted that is the port."""
    if path.suffix == ".py":
        raise ValueError(f"{path}: is a program; add a colon and the name of the function in it: {path}:FUNCTION")


def _load(file: Path) -> np.ndarray:
    try:
        return np.load(file, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise ValueError(f"{file}: is no .npy file ({error})") from None


def rung(stage: Stage, mine: Any, fixture: Fixture) -> Rung:
    """One stage compared."""
    if mine is None:
        return Rung(stage.name, "missing", float32=stage.tolerance.float32)
    try:
        array, how, d = fit(stage, mine, fixture)
    except LayoutError as error:
        return Rung(stage.name, "misshapen", note=str(error), float32=stage.tolerance.float32)
    excess = stage.tolerance.excess(d)
    status = "equal" if d.max == 0 else "rounding" if excess <= 1 else "differs"
    where = place(stage, d.at, array, fixture) if status == "differs" else {}
    valid = sampled_validity(stage, fixture)
    note = _why(stage.array, array, valid) if status == "differs" else ""
    return Rung(
        stage.name,
        status,
        d,
        excess,
        stage.tolerance.float32,
        ulps(stage.array, array),
        where,
        how,
        note,
        histogram(stage.array, array, valid),
    )


def _why(reference: np.ndarray, mine: np.ndarray, valid: np.ndarray | None) -> str:
    """Why an array differs, where sizes of errors do not tell it: NaN, infinite values, integers."""
    use = np.broadcast_to(True if valid is None else valid, reference.shape)
    nan, infinite = int(np.isnan(mine[use]).sum()), int(np.isinf(mine[use]).sum())
    if nan or infinite:
        kinds = [f"{kind} at {n} of {use.sum()} places" for kind, n in (("NaN", nan), ("infinity", infinite)) if n]
        return f"it holds {' and '.join(kinds)}"
    if reference.dtype.kind in "iub":
        return f"integers must be equal; {(reference != mine)[use].sum()} of {use.sum()} differ"
    return ""


def place(stage: Stage, at: int, mine: np.ndarray, fixture: Fixture) -> dict[str, Any]:
    """Where the largest error is: index, and the names that go with it (token, scale, head)."""
    flat = at if stage.sample is None else int(sample_places(int(np.prod(stage.shape)), stage.sample)[at])  # type: ignore[index]
    index = [int(i) for i in np.unravel_index(flat, stage.shape)]
    found: dict[str, Any] = {"index": index, "expected": float(stage.array.reshape(-1)[at])}
    found["actual"] = float(mine.reshape(-1)[at])
    for label, i in zip(axes_of(stage.name), index, strict=False):
        if label.startswith(("token", SEQUENCE)):
            token = i - label.startswith(SEQUENCE)
            found[label.replace(SEQUENCE, "token")] = "class" if token < 0 else token
            if token >= 0 and "scale_index" in fixture.stages and "scale" not in found:
                found["scale"] = int(fixture.stages["scale_index"].array[0, token])
        elif label in ("head", "scale", "image", "patches"):
            found[label] = i
    return found


def padded_rows(fixture: Fixture, stages: Mapping[str, Any]) -> list[str]:
    """A note where a port masks keys only, which no result depends on: rows of padded queries are not uniform then."""
    name, notes = "encoder/block_00/attention/weights", []
    theirs = np.asarray(stages.get(name, 0))
    if name not in fixture.stages or theirs.shape != fixture.stages[name].shape or fixture.mask.all():
        return notes
    padded = np.concatenate([[False], ~fixture.mask.astype(bool)])
    if np.abs(theirs[0][:, padded][..., padded]).max() < 1e-6:
        notes.append("mask on keys only: harmless, nothing reads the rows of padded queries")
    return notes


def narrow(fixture: Fixture, stages: Mapping[str, Any]) -> list[str]:
    """A note for arrays of 16 bits that are judged as if they were float32."""
    kinds = [(name, array.dtype) for name, array in stages.items() if isinstance(array, np.ndarray)]
    half = {np.dtype(np.float16): "float16", np.dtype("V2"): "bfloat16"}
    name, kind = next(((name, kind) for name, kind in kinds if kind in half), ("", None))
    if kind is None or "precision" in fixture.manifest:
        return []
    return [f"{name} is {half[kind]}; such a port is judged with --precision {half[kind]}"]


def padded_tokens(fixture: Fixture, stages: Mapping[str, Any]) -> list[str]:
    """A note for tokens that hold something else where there is only padding."""
    padded, notes = ~fixture.mask.astype(bool), []
    for name in {"patches", "hash_index", "scale_index"}.intersection(fixture.stages, stages):
        stage, theirs = fixture.stages[name], np.asarray(stages[name])
        if theirs.shape != stage.array.shape or stage.sample or theirs.dtype.kind not in "fiub":
            continue
        if not np.allclose(theirs[:, padded], stage.array[:, padded], atol=1e-5):
            notes.append(f"{name} differs in padded tokens: harmless, nothing reads them")
    return sorted(notes)
