"""What type checkers see in a user's file: the types of every public name, and mistakes."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path

import pytest

import musiq_ref as mq

ROOT = Path(__file__).parent.parent

USER = """
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any, assert_type

import numpy as np
import PIL.Image

import musiq_ref as mq


def scores(image: np.ndarray, photo: PIL.Image.Image, names: list[str], many: Iterator[Path]) -> float:
    assert_type(mq.score("photo.jpg"), list[mq.Score])
    assert_type(mq.score(names, "koniq", dtype="float64", threads=2), list[mq.Score])
    assert_type(mq.score(many, Path("own.safetensors"), errors="raise"), list[mq.Score])
    assert_type(mq.score([image, photo, io.BytesIO(b""), "a.jpg", Path("b.jpg")]), list[mq.Score])
    assert_type(mq.score(names, errors="return"), list[mq.Score | Exception])
    good = [result for result in mq.score(names, errors="return") if isinstance(result, mq.Score)]
    assert_type(good, list[mq.Score])
    one = mq.scorer("demo", "numpy", conventions=mq.PYIQA)
    assert_type(one(image), mq.Score)
    value, distribution, path, height, width = one(photo)
    assert_type(distribution, np.ndarray | None)
    assert_type((path, height, width), tuple[str | None, int, int])
    try:
        assert_type(mq.decode(io.BytesIO(b""), background=(0, 0, 0)), np.ndarray)
    except mq.ImageError as error:
        print(error)
    return value


def checkpoints() -> tuple[dict[str, Any], mq.MusiqConfig]:
    try:
        checkpoint = mq.load_checkpoint("demo", "float64", conventions=mq.PAPER)
    except mq.CheckpointError:
        raise SystemExit from None
    assert_type(checkpoint, mq.Checkpoint)
    assert_type(checkpoint.path, Path | None)
    assert_type(checkpoint.bundled, bool)
    mq.save_checkpoint("copy.safetensors", checkpoint.params, checkpoint.config)
    mq.checkpoint.save_official("copy.npz", checkpoint.params)
    config = mq.MusiqConfig.preset("tiny", outputs=10, conventions=mq.OFFICIAL)
    assert_type(config.conventions, mq.Conventions)
    return mq.init_params(config, seed=1), config


def gradients(image: np.ndarray, params: dict[str, Any], config: mq.MusiqConfig) -> mq.Gradients:
    value, dimage = mq.image_gradient(image, params, config)
    assert_type(value, float)
    assert_type(dimage, np.ndarray)
    tokens = mq.tokenize(image, config, np.float32)
    assert_type(tokens, mq.Tokens)
    assert_type(mq.attention_rollout(params, tokens, config), list[np.ndarray])
    noise = mq.Noise(np.random.default_rng(0), dropout=0.1)
    logits, cache = mq.forward(params, mq.batch([tokens]), config, noise=noise)
    expected, cache_score = mq.expected_score(logits)
    dlogits = mq.expected_score_backward(np.ones_like(expected.score), cache_score)
    print(mq.predict(params, tokens, config), mq.verify.trace)
    return mq.backward(dlogits, cache)


def sizes(config: mq.MusiqConfig) -> mq.Complexity:
    try:
        assert_type(mq.get_backend("numpy"), mq.Backend)
    except mq.BackendError as error:
        print(error, mq.namespace(np.zeros(3)).pi)
    return mq.complexity(config, (480, 640))
"""

MISTAKES = """
import musiq_ref as mq

mq.score(5)
mq.score("photo.jpg", errors="ignore")
mq.score("photo.jpg", treads=2)
mq.score("photo.jpg")[0].valeu
mq.score(["photo.jpg"], errors="return")[0].value
mq.scorer(backend=3)
mq.load_checkpoint(7)
mq.MusiqConfig(layers="two")
mq.tokenize("photo.jpg", "small")
mq.image_gradient("photo.jpg", {})
mq.expected_score_backward(1)
mq.scores("photo.jpg")
"""

ANY = "--allow-any-generics"  # before NumPy 2.2, a bare np.ndarray has no types to default to
CHECKERS = {
    "pyright": [sys.executable, "-m", "pyright", "--pythonpath", sys.executable],
    "mypy": [sys.executable, "-m", "mypy", "--strict", ANY, "--no-color-output", "--cache-dir", "cache"],
}


def check(checker, text, folder):
    """Exit code, report, and the lines with an error, of a user's file in a folder outside the repository."""
    if find_spec(checker) is None:
        pytest.skip(f"{checker} is not installed")
    (folder / "user.py").write_text(text, encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(
        [*CHECKERS[checker], "user.py"], cwd=folder, env=environment, capture_output=True, text=True, timeout=600
    )
    report = done.stdout + done.stderr
    return done.returncode, report, {int(line) for line in re.findall(r"user\.py:(\d+):.*\berror", report)}


@pytest.mark.long
@pytest.mark.parametrize("checker", CHECKERS)
def test_a_users_file_has_the_types_it_expects(checker, tmp_path):
    code, report, _ = check(checker, USER, tmp_path)
    assert code == 0, report


@pytest.mark.long
@pytest.mark.parametrize("checker", CHECKERS)
def test_a_users_mistakes_are_seen(checker, tmp_path):
    code, report, lines = check(checker, MISTAKES, tmp_path)
    wrong = {number for number, line in enumerate(MISTAKES.splitlines(), 1) if line.startswith("mq.")}
    assert code == 1
    assert lines == wrong, report


def test_the_users_file_has_every_public_name():
    used = {node.attr for node in ast.walk(ast.parse(USER)) if isinstance(node, ast.Attribute)}
    assert set(mq.__all__) <= used


def test_the_package_says_that_it_is_typed():
    assert files("musiq_ref").joinpath("py.typed").is_file()
