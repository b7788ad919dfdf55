"""Fixtures: a folder of .npy files and a manifest from which any language can check its MUSIQ (docs/fixture-format.md).

Everything is computed in float64 on one thread and stored as float32; weights and image come from integers (SPEC 9)
unless they are given. So two runs write the same bytes.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import secrets
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save
from threadpoolctl import threadpool_limits

from musiq_ref.checkpoint import load_checkpoint
from musiq_ref.checkpoint.layout import CheckpointError, printable
from musiq_ref.checkpoint.native import METADATA_KEY, config_from_json, config_to_json
from musiq_ref.config import NAMED_CONVENTIONS, MusiqConfig
from musiq_ref.image.decode import decode
from musiq_ref.model.parameters import Params, check_params, flatten, map_params, nest
from musiq_ref.verify.ladder.deterministic import bits, deterministic_image, deterministic_params
from musiq_ref.verify.ladder.stages import STEP, axes_of, run_stages, targets
from musiq_ref.verify.ladder.tolerance import SAFE, Tolerance, calibrate, corner_margin, rounded
from musiq_ref.version import __version__

FORMAT, VERSION = "musiq_ref fixture", 1
WHOLE = 2**17  # values up to which an array is stored whole
AGAIN = "make the fixture again with `musiq-ref fixture`"
SAMPLE = 32749  # values that are stored of a larger one: a prime, so that they fall on all rows and columns
PRESETS: dict[str, tuple[dict[str, Any], tuple[int, int]]] = {  # preset: changes to it, size of the image
    "tiny": ({"longer_sides": (56, 96)}, (54, 96)),
    "small": ({}, (198, 384)),
}
"""Sizes chosen so that float32 and float64 sides differ, one scale has the image's own size, and all have padding."""
IMAGE_SEED = 3
WEIGHT_SEEDS = {"official": 97, "pyiqa": 38, "paper": 97}
"""Seeds of the made weights with which no ReLU or maximum of the tiny fixture is nearer to its corner than rounding."""


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
        return self.stages["mask"].array[0]


def sample_places(size: int, count: int | None) -> np.ndarray | slice:
    """The flat indices that are stored of an array of that size.

    >>> sample_places(10, 4)
    array([0, 3, 6, 9])
    """
    return slice(None) if count is None else np.arange(count) * (size - 1) // (count - 1)


def stored(array: np.ndarray) -> tuple[np.ndarray, int | None]:
    """What is kept of a stage, and how many values if not all.

    >>> stored(np.zeros(2**20))[1]
    32749
    """
    array = np.asarray(array)
    array = array.astype(np.int64) if array.dtype.kind in "iub" else array.astype(np.float32)
    if array.size <= WHOLE:
        return np.ascontiguousarray(array), None
    return array.ravel()[sample_places(array.size, SAMPLE)], SAMPLE


def fixture_image(height: int, width: int) -> np.ndarray:
    """The image of SPEC 9, with 127 or 128 below row 2h/5 and right of column 2w/3: a faint corner shows GroupNorm's ε.

    The corner's values are 127 + (bits(seed, "image/corner") mod 2), row by row, channels last.

    >>> np.unique(fixture_image(54, 96)[21:, 64:])
    array([127, 128], dtype=uint8)
    """
    image = deterministic_image(IMAGE_SEED, height, width)
    corner = image[height * 2 // 5 :, width * 2 // 3 :]
    corner[:] = 127 + bits(IMAGE_SEED, "image/corner", corner.size).reshape(corner.shape) % 2
    return image


def build_fixture(
    preset: str = "tiny",
    conventions: str = "official",
    *,
    outputs: int | None = None,
    checkpoint: str | Path | None = None,
    image: Any = None,
) -> Fixture:
    """A fixture in memory; the arguments are those of `make_fixture`.

    >>> fixture = build_fixture("tiny", outputs=2, image=np.zeros((40, 50, 3), np.uint8))
    >>> fixture.stages["probabilities"].shape
    (1, 2)
    """
    if preset not in PRESETS:
        raise ValueError(f"no fixture is called {preset!r}; choose one of {', '.join(PRESETS)}")
    if conventions not in NAMED_CONVENTIONS:
        raise ValueError(f"no conventions are called {conventions!r}; choose one of {', '.join(NAMED_CONVENTIONS)}")
    chosen = NAMED_CONVENTIONS[conventions]
    if checkpoint is None:
        changes, size = PRESETS[preset]
        config = MusiqConfig.preset(preset, outputs=outputs or 10, conventions=chosen, **changes)
        params = deterministic_params(config, WEIGHT_SEEDS[conventions], "float64")
        weights = f"SPEC 9, seed {WEIGHT_SEEDS[conventions]}"
    else:
        loaded = load_checkpoint(checkpoint, "float64", conventions=chosen)
        config, params, size = loaded.config, loaded.params, PRESETS["small"][1]
        weights = Path(checkpoint).name
    source = f"SPEC 9, seed {IMAGE_SEED}, with a faint corner" if image is None else "given"
    pixels = fixture_image(*size) if image is None else decode(image)
    if pixels.dtype != np.uint8:
        raise ValueError(f"the image is {pixels.dtype}; a fixture needs 8-bit pixels (uint8)")
    with threadpool_limits(1):
        exact = run_stages(params, pixels, config)
        margin = corner_margin(exact)
        tolerances = calibrate(exact, rounded(params, pixels, config), margin > SAFE)
    stages = {}
    for name, value in exact.items():
        array, count = stored(value)
        if tolerances[name].absolute is not None:
            array = np.zeros_like(array)  # all that there is of it is this machine's rounding
        stages[name] = Stage(name, array, np.shape(value), count, tolerances[name])
    manifest: dict[str, Any] = {"weights": weights, "image": source, "corner_margin": margin}
    manifest["preset"] = preset if checkpoint is None else None
    return Fixture(None, config, params, pixels, stages, manifest)


def make_fixture(folder: str | Path, preset: str = "tiny", conventions: str = "official", **options: Any) -> Fixture:
    """Writes a fixture into a new or empty folder.

    folder: to write into
    preset: "tiny" (two layers, seconds) or "small" (the published model)
    conventions: "official", "pyiqa" or "paper"
    outputs: of the model, 10 by default
    checkpoint: a file or name to take weights from instead
    image: a file or array (H, W, 3) uint8 instead of the made one

    Raises ValueError, naming the folder, when something is in it already.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     fixture = make_fixture(folder, image=np.zeros((40, 50, 3), np.uint8))
    ...     load_fixture(folder).config == fixture.config
    True
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder}: is not empty; name a new folder")
    return write_fixture(folder, build_fixture(preset, conventions, **options))


def write_fixture(folder: Path, fixture: Fixture) -> Fixture:
    """Writes a fixture beside, then moves it into `folder`, the manifest last: without it a folder is not one.

    Raises FixtureError when it cannot be written.
    """
    place = folder.resolve()
    part = place.with_name(f".{place.name}.{secrets.token_hex(4)}.part")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        manifest = _write_files(part, fixture)
        for path in sorted(part.iterdir(), key=lambda path: path.name == "manifest.json"):
            path.rename(place / path.name)
    except OSError as error:
        raise FixtureError(f"{folder}: cannot be written ({error.strerror}); check its rights and the space") from None
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return fixture._replace(path=folder, manifest=manifest)


def _write_files(part: Path, fixture: Fixture) -> dict[str, Any]:
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
    put("image.npy", npy(fixture.image))
    score, distribution = targets(fixture.config)
    put("target/score.npy", npy(score))
    if distribution is not None:
        put("target/distribution.npy", npy(distribution))
    rows = []
    for stage in fixture.stages.values():
        file = f"stages/{stage.name}.npy"
        row: dict[str, Any] = {"name": stage.name, "file": file, "sha256": put(file, npy(stage.array))}
        row |= {"shape": list(stage.shape), "dtype": str(stage.array.dtype), "axes": list(axes_of(stage.name))}
        rows.append({**row, "sample": stage.sample, "tolerance": stage.tolerance._asdict()})
    manifest = {
        "format": FORMAT,
        "version": VERSION,
        "generator": f"musiq_ref {__version__}",
        **fixture.manifest,
        "config": config,
        "config_sha256": digest(config),
        "optimizer": {"name": "sgd", **STEP},
        "files": files,
        "content_sha256": digest(files),
        "stages": rows,
    }
    manifest["manifest_sha256"] = digest(manifest)
    (part / "manifest.json").write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n", encoding="utf-8")
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
    musiq_ref.verify.ladder.fixture.FixtureError: nowhere/manifest.json: is missing, so nowhere is no fixture; ...
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
    extra = sorted(present - set(files) - {"manifest.json"})
    if extra:
        raise FixtureError(f"{folder / extra[0]}: does not belong to this fixture; move it elsewhere")
    try:
        return _assembled(folder, manifest, contents)
    except (ValueError, TypeError, LookupError, AttributeError, OSError, SyntaxError, SafetensorError) as error:
        reason = " ".join(str(error).split())
        raise FixtureError(f"{folder / 'manifest.json'}: does not fit its files ({reason}); {AGAIN}") from None


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
    path = folder / "manifest.json"
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
