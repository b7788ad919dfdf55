"""Fixtures that ports are checked against: every file of one is signed, so that nothing but the original may load."""

from __future__ import annotations

import atexit
import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import numpy as np

import musiq_ref as mq
from musiq_ref.verify.ladder.fixture import Fixture, FixtureError, load_fixture, make_fixture

from .checkpoints import CONFIG
from .core import Kind, judge
from .images import picture
from .mutate import as_json, hostile, spoil


class Prepared(NamedTuple):
    folder: Path
    files: tuple[str, ...]
    right: Fixture


def prepare() -> Prepared:
    """A small fixture, and what it is when it is loaded."""
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    config = CONFIG.replace(longer_sides=(16, 24))
    mq.save_checkpoint(folder / "a.safetensors", mq.init_params(config, seed=1), config)
    make_fixture(folder / "a", checkpoint=folder / "a.safetensors", image=np.asarray(picture())[:24, :32])
    files = tuple(path.relative_to(folder / "a").as_posix() for path in (folder / "a").rglob("*") if path.is_file())
    return Prepared(folder / "a", files, load_fixture(folder / "a"))


def case(prepared: Prepared, rng: Random, folder: Path) -> tuple[str, str]:
    shutil.copytree(prepared.folder, folder / "fixture", copy_function=os.link)  # what is changed is written anew
    name, how, other = rng.choice(("manifest.json", *rng.choices(prepared.files))), rng.random(), False
    path = folder / "fixture" / name
    data = path.read_bytes()
    path.unlink()
    if how < 0.4:
        path.write_bytes(data)
        path = folder / "fixture" / "manifest.json"
        text = signed(hostile(json.loads(path.read_bytes()), rng))
        path.unlink()
        path.write_text(text, encoding="utf-8")
        other = True  # somebody meant it
    elif how < 0.8:
        path.write_bytes(spoil(data, rng))
    elif how < 0.9:
        path.write_bytes((folder / "fixture" / rng.choice([n for n in prepared.files if n != name])).read_bytes())
    return judge(
        lambda: load_fixture(folder / "fixture"),
        lambda found: other or equal(found, prepared.right),
        (FixtureError,),
        "fixture",
    )


def signed(manifest: Any) -> str:
    """A manifest whose own checksum is right, if it has the place for one."""
    text = as_json(manifest, sort_keys=True, separators=(",", ":"))
    if isinstance(manifest, dict) and "manifest_sha256" in manifest:
        rest = {k: v for k, v in manifest.items() if k != "manifest_sha256"}
        digest = hashlib.sha256(as_json(rest, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
        text = as_json({**manifest, "manifest_sha256": digest}, sort_keys=True)
    return text


def equal(a: Fixture, b: Fixture) -> bool:
    same = a.config == b.config and a.manifest == b.manifest and np.array_equal(a.image, b.image)
    return same and all(np.array_equal(a.stages[name].array, b.stages[name].array) for name in b.stages)


KIND = Kind(prepare, case, weight=4)
