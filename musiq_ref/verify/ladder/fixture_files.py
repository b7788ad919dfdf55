"""A fixture in memory, and as a folder of .npy files with a manifest (docs/fixture-format.md): written and read."""

from __future__ import annotations

import hashlib
import io
import json
import math
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from musiq_ref.checkpoint.layout import CheckpointError, printable
from musiq_ref.checkpoint.native import METADATA_KEY, config_from_json, config_to_json
from musiq_ref.config import MusiqConfig
from musiq_ref.model.parameters import Params, check_params, flatten, map_params, nest
from musiq_ref.verify.ladder.stages import SIDES, STEP, axes_of, targets
from musiq_ref.verify.ladder.tolerance import Tolerance
from musiq_ref.version import __version__

FORMAT, VERSION = "musiq_ref fixture", 1
MANIFEST, IMAGE_SIZES = "manifest.json", "image_sizes.npy"
AGAIN = "make the fixture again with `musiq-ref fixture`"


class FixtureError(ValueError):
    """A fixture that cannot be trusted; the message names the file and what is wrong with it.

    >>> issubclass(FixtureError, ValueError)
    True
    """


class Stage(NamedTuple):
    """One stage of the ladder: its array (whole, or a sample of `shape`), and what is allowed.

    >>> Stage("score", np.ones(1), (1,), None, Tolerance(0, 0, None, 0)).name
    'score'
    """

    name: str
    array: np.ndarray
    shape: tuple[int, ...]
    sample: int | None  # number of values, at floor(k·(size − 1)/(sample − 1)) of the flattened array; None: all
    tolerance: Tolerance


class Fixture(NamedTuple):
    """What a fixture holds.

    >>> Fixture._fields
    ('path', 'config', 'params', 'image', 'stages', 'manifest')
    """

    path: Path | None
    config: MusiqConfig
    params: Params
    image: np.ndarray
    stages: dict[str, Stage]
    manifest: dict[str, Any]

    @property
    def mask(self) -> np.ndarray:
        """Which tokens are valid, (N,)."""
        return self.stages["mask"].array[0] if "mask" in self.stages else np.ones(1, np.int64)

    @property
    def image_sizes(self) -> np.ndarray:
        """(height, width) of the images whose resized sides are the rows of integers/sides."""
        file = None if self.path is None else self.path / IMAGE_SIZES
        return np.load(file) if file and file.is_file() else np.array(SIDES)


def sample_places(size: int, count: int | None) -> np.ndarray | slice:
    """The flat indices that are stored of an array of that size.

    >>> sample_places(10, 4)
    array([0, 3, 6, 9])
    """
    return slice(None) if count is None else np.arange(count) * (size - 1) // (count - 1)


def write_fixture(folder: Path, fixture: Fixture) -> Fixture:
    """Writes a fixture into an empty folder. Raises FixtureError when it cannot be written."""
    manifest = fill_folder(folder, lambda part: write_files(part, fixture), MANIFEST)
    return fixture._replace(path=folder, manifest=manifest)


def fill_folder(folder: Path, fill: Callable[[Path], Any], last: str) -> Any:
    """What `fill` returns; it fills a folder beside that is then moved into place, the `last` file last.

    Raises FixtureError when it cannot be written.
    """
    place = folder.resolve()
    part = place.with_name(f".{place.name}.{secrets.token_hex(4)}.part")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        result = fill(part)
        for path in sorted(part.iterdir(), key=lambda path: path.name == last):
            path.rename(place / path.name)
    except OSError as error:
        raise FixtureError(f"{folder}: cannot be written ({error.strerror}); check its rights and the space") from None
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return result


def write_files(part: Path, fixture: Fixture) -> dict[str, Any]:
    """Writes the files of a fixture into a new folder; returns the manifest."""
    files: dict[str, str] = {}

    def put(file: str, content: bytes) -> str:
        path = part / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        files[file] = hashlib.sha256(content).hexdigest()
        return files[file]

    config = json.loads(config_to_json(fixture.config))
    leaves = {name: np.ascontiguousarray(a.astype(np.float32)) for name, a in flatten(fixture.params)}
    put("weights.safetensors", save(leaves, {METADATA_KEY: json.dumps(config, sort_keys=True)}))
    training = fixture.manifest.get("training")
    score, distribution = (np.array(training["targets"]), None) if training else targets(fixture.config)
    inputs = {"image.npy": fixture.image, IMAGE_SIZES: np.array(SIDES), "target/score.npy": score}
    for file, array in (inputs | ({} if distribution is None else {"target/distribution.npy": distribution})).items():
        put(file, npy(array))
    rows = []
    for stage in fixture.stages.values():
        file = f"stages/{stage.name}.npy"
        row: dict[str, Any] = {"name": stage.name, "file": file, "sha256": put(file, npy(stage.array))}
        row |= {"shape": list(stage.shape), "dtype": str(stage.array.dtype), "axes": list(axes_of(stage.name))}
        tolerance = {key: value for key, value in stage.tolerance._asdict().items() if key != "gain"}
        rows.append({**row, "sample": stage.sample, "tolerance": tolerance})
    manifest = {
        "format": FORMAT,
        "version": VERSION,
        "generator": f"musiq_ref {__version__}",
        **fixture.manifest,
        "config": config,
        "config_sha256": digest(config),
        **({} if training else {"optimizer": {"name": "sgd", **STEP}}),
        "files": files,
        "content_sha256": digest(files),
        "stages": rows,
    }
    manifest["manifest_sha256"] = digest(manifest)
    (part / MANIFEST).write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return manifest


def npy(array: np.ndarray) -> bytes:
    """The bytes of a .npy file."""
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def digest(value: Any) -> str:
    """SHA-256 of a JSON value written without spaces and with sorted keys.

    >>> digest({"a": 1})[:8]
    '015abd7f'
    """
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def load_fixture(folder: str | Path) -> Fixture:
    """Reads a fixture and checks every byte of it.

    Raises FixtureError, naming the file, when anything is missing, cut short, exchanged, edited or left over.

    >>> load_fixture("nowhere")
    Traceback (most recent call last):
    musiq_ref.verify.ladder.fixture_files.FixtureError: nowhere/manifest.json: is missing, so nowhere is no fixture; ...
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    files: dict[str, str] = manifest["files"]
    by_digest = {value: file for file, value in files.items()}
    contents = {}
    for file, expected in files.items():
        if not (folder / file).is_file():
            raise FixtureError(f"{folder / file}: is missing; {AGAIN}")
        contents[file] = (folder / file).read_bytes()
        found = hashlib.sha256(contents[file]).hexdigest()
        if found != expected:
            other = by_digest.get(found)
            what = (
                f"holds what belongs in {other}" if other else "is not what the generator wrote (its SHA-256 differs)"
            )
            raise FixtureError(f"{folder / file}: {what}; {AGAIN}")
    present = {str(p.relative_to(folder).as_posix()) for p in folder.rglob("*") if p.is_file()}
    extra = sorted(present - set(files) - {MANIFEST})
    if extra:
        raise FixtureError(f"{folder / extra[0]}: does not belong to this fixture; move it elsewhere")
    try:
        return _assembled(folder, manifest, contents)
    except (ValueError, TypeError, LookupError, AttributeError, OSError, SyntaxError, SafetensorError) as error:
        reason = " ".join(str(error).split())
        raise FixtureError(f"{folder / MANIFEST}: does not fit its files ({reason}); {AGAIN}") from None


def _assembled(folder: Path, manifest: dict[str, Any], contents: dict[str, bytes]) -> Fixture:
    """The fixture that a manifest describes; raises whatever comes where it describes none."""
    config = config_from_json(json.dumps(manifest["config"]))
    params = map_params(lambda a: a.astype(np.float64), nest(load(contents["weights.safetensors"])))
    check_params(params, config)
    stages = {}
    for row in manifest["stages"]:
        array, shape = _array(contents[row["file"]]), tuple(row["shape"])
        if array.size != (row["sample"] or math.prod(shape)):
            raise ValueError(f"{row['file']} has {array.size} values")
        tolerance = Tolerance(**row["tolerance"])
        if not all(value is None or isinstance(value, int | float) for value in tolerance):
            raise ValueError(f"the tolerance of {row['name']} is no number")
        stages[row["name"]] = Stage(row["name"], array, shape, row["sample"], tolerance)
    return Fixture(folder, config, params, _array(contents["image.npy"]), stages, manifest)


def _array(content: bytes) -> np.ndarray:
    return np.load(io.BytesIO(content), allow_pickle=False)


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a folder, if it is one of ours and unchanged."""
    path = folder / MANIFEST
    if not path.is_file():
        raise FixtureError(f"{path}: is missing, so {folder} is no fixture; make one with `musiq-ref fixture`")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        kind, version, claimed = manifest["format"], manifest["version"], manifest["manifest_sha256"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise FixtureError(f"{path}: cannot be read as a fixture's manifest; {AGAIN}") from None
    if kind != FORMAT or version != VERSION:
        its = f"{printable(kind)} version {version if isinstance(version, int) else printable(version)}"
        raise FixtureError(f"{path}: is {its}; this program reads {FORMAT} version {VERSION}")
    if digest({k: v for k, v in manifest.items() if k != "manifest_sha256"}) != claimed:
        raise FixtureError(f"{path}: was edited after the generator wrote it; {AGAIN}")
    files = manifest.get("files")
    if not isinstance(files, dict) or not all(type(name) is str for name in files.values()):
        raise FixtureError(f"{path}: lists no files; {AGAIN}")
    if any({"..", ""} & set(name.split("/")) for name in files):
        raise FixtureError(f"{path}: lists files outside its folder; {AGAIN}")
    try:
        config_from_json(json.dumps(manifest["config"]))
    except (CheckpointError, KeyError) as error:
        raise FixtureError(f"{path}: {error}") from None
    return manifest
