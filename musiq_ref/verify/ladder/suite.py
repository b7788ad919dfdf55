"""A suite: small fixtures of the shapes that one landscape picture and two layers do not show, in one folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from musiq_ref.config import NAMED_CONVENTIONS, MusiqConfig
from musiq_ref.verify.ladder.deterministic import deterministic_params
from musiq_ref.verify.ladder.fixture import WEIGHT_SEEDS, fixture_image, measured_fixture, new_folder
from musiq_ref.verify.ladder.fixture_files import (
    AGAIN,
    Fixture,
    FixtureError,
    digest,
    fill_folder,
    load_fixture,
    write_files,
)
from musiq_ref.version import __version__

SUITE, FORMAT, VERSION = "suite.json", "musiq_ref suite", 1
MODEL: dict[str, Any] = {"width": 8, "mlp_width": 20, "heads": 2, "longer_sides": (56, 96), "outputs": 10}
"""As narrow as it can be: the weights are most of a suite's size."""
WHOLE, SAMPLE = 2**10, 509  # values up to which an array is stored whole; of a larger one
CASES: dict[str, tuple[str, tuple[int, int], dict[str, Any]]] = {  # name: what it shows, size of the image, changes
    "portrait": ("higher than wide; both shorter sides are rounded up", (100, 57), {}),
    "panorama": ("five times as wide as high, one row of patches", (25, 128), {}),
    "one_patch": ("every scale is one patch", (24, 28), {"longer_sides": (28, 32)}),
    "upscaled": ("both scales are larger than the image", (33, 40), {}),
    "exactly_384": ("as large as the larger scale of the published model", (64, 384), {"longer_sides": (224, 384)}),
    "one_output": ("C = 1: no probabilities", (54, 96), {"outputs": 1}),
    "twelve_layers": ("blocks 10 and 11, which come before 2 in the order of strings", (30, 40), {"layers": 12}),
    "patch_16": ("P = 16", (40, 56), {"patch_size": 16}),
}


def build_case(name: str, conventions: str = "official") -> Fixture:
    """One case of the suite in memory, without what does not depend on it: tables of integers, the optimiser's step.

    >>> build_case("one_patch").stages["mask"].shape
    (1, 3)
    """
    what, size, changes = CASES[name]
    config = MusiqConfig.preset("tiny", conventions=NAMED_CONVENTIONS[conventions], **{**MODEL, **changes})
    seed = WEIGHT_SEEDS[conventions]
    about = {"weights": f"SPEC 9, seed {seed}", "image": what, "preset": None}
    params = deterministic_params(config, seed, "float64")
    fixture = measured_fixture(config, params, fixture_image(*size), about, WHOLE, SAMPLE)
    return fixture._replace(
        stages={k: v for k, v in fixture.stages.items() if not k.startswith(("integers/", "step/"))}
    )


def make_suite(folder: str | Path, conventions: str = "official") -> dict[str, Fixture]:
    """Writes a suite into a new or empty folder: a fixture in a sub-folder for every case, and suite.json.

    conventions: "official", "pyiqa" or "paper"

    Raises ValueError, naming the folder, when something is in it already.

    >>> make_suite(".")
    Traceback (most recent call last):
    ValueError: .: is not empty; name a new folder
    """
    folder = new_folder(folder)

    def fill(part: Path) -> None:
        rows = []
        for name, (what, *_) in CASES.items():
            manifest = write_files(part / name, build_case(name, conventions))
            rows.append({"name": name, "what": what, "manifest_sha256": manifest["manifest_sha256"]})
        suite = {"format": FORMAT, "version": VERSION, "generator": f"musiq_ref {__version__}", "cases": rows}
        suite["suite_sha256"] = digest(suite)
        (part / SUITE).write_text(json.dumps(suite, indent=1) + "\n", encoding="utf-8")

    fill_folder(folder, fill, SUITE)
    return load_suite(folder)


def is_suite(folder: Path) -> bool:
    """Whether a folder is a suite, not a fixture.

    >>> is_suite(Path("nowhere"))
    False
    """
    return (folder / SUITE).is_file()


def load_suite(folder: str | Path) -> dict[str, Fixture]:
    """The fixtures of a suite by case, every byte checked.

    Raises FixtureError, naming the file, for a damaged one.

    >>> load_suite("nowhere")
    Traceback (most recent call last):
    musiq_ref.verify.ladder.fixture_files.FixtureError: nowhere/suite.json: cannot be read as a suite; make the ...
    """
    folder = Path(folder)
    try:
        suite = json.loads((folder / SUITE).read_text(encoding="utf-8"))
        kind, version = suite["format"], suite["version"]
        whole = suite.pop("suite_sha256") == digest(suite)
        wanted = {row["name"]: row["manifest_sha256"] for row in suite["cases"]}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise FixtureError(f"{folder / SUITE}: cannot be read as a suite; {AGAIN} --suite") from None
    if kind != FORMAT or version != VERSION:
        raise FixtureError(f"{folder / SUITE}: is no {FORMAT} of version {VERSION}, which this program reads")
    if not whole:
        raise FixtureError(f"{folder / SUITE}: was edited after the generator wrote it; {AGAIN} --suite")
    extra = sorted({path.name for path in folder.iterdir()} - {SUITE, *wanted})
    if extra:
        raise FixtureError(f"{folder / extra[0]}: does not belong to this suite; move it elsewhere")
    fixtures = {name: load_fixture(folder / name) for name in wanted}
    for name, fixture in fixtures.items():
        if fixture.manifest["manifest_sha256"] != wanted[name]:
            raise FixtureError(f"{folder / name}: is the fixture of another suite; {AGAIN} --suite")
    return fixtures
