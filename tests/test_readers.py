"""The readers of the fixture format in other languages (docs/examples/readers), and the stage that each computes."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from musiq_ref.verify import compare, make_fixture
from musiq_ref.verify.adapters import run_command
from musiq_ref.verify.ladder.fixture_files import write_files
from musiq_ref.verify.ladder.suite import build_case

READERS = Path(__file__).parent.parent / "docs" / "examples" / "readers"
BUILD = {  # compiler, and how it makes the program
    "javascript": ("node", []),
    "c": (
        "gcc",
        ["-O2", "-std=c99", "-D_POSIX_C_SOURCE=200809L", "-Wall", "-Wextra", "-Werror", "-Wno-unused-function"],
    ),
    "rust": ("rustc", ["--edition", "2021", "-O", "-D", "warnings"]),
}
STAGE = "encoder/block_00/norm1"


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    return make_fixture(tmp_path_factory.mktemp("readers") / "reference")


@pytest.fixture(scope="module", params=BUILD)
def program(request, tmp_path_factory):
    compiler, options = BUILD[request.param]
    if not shutil.which(compiler):
        pytest.skip(f"needs {compiler}")
    if request.param == "javascript":
        return f"node {READERS / 'javascript' / 'port.mjs'}"
    built = tmp_path_factory.mktemp(request.param) / "port"
    [source] = (READERS / request.param).glob("port.*")
    libraries = ["-lm"] if request.param == "c" else []
    done = subprocess.run([compiler, *options, "-o", built, source, *libraries], capture_output=True, text=True)
    if "rustup" in done.stderr and done.returncode:
        pytest.skip("needs rustc")  # the manager of compilers is there, but no compiler
    assert done.returncode == 0, done.stderr
    return str(built)


def test_the_stage_of_a_reader_passes(program, reference):
    stages = run_command(program, reference)
    assert list(stages) == [STAGE]
    result = compare(reference, stages)
    assert result.passed, str(result)


def test_a_fault_is_found(program, reference):
    result = compare(reference, run_command(f"{program} 1e-4", reference), diagnose=False)
    assert result.first.name == STAGE


def test_integers_and_bytes_are_read_too(program, reference, tmp_path):
    said = subprocess.run(
        [*program.split(), reference.path, tmp_path / "out"], capture_output=True, text=True, check=True
    )
    height, width, _ = reference.image.shape
    assert (
        said.stdout == f"image {height} x {width}, {reference.mask.sum()} of {reference.mask.size} tokens are valid\n"
    )
    written = (tmp_path / "out" / f"{STAGE}.npy").read_bytes()
    assert written[:8] == b"\x93NUMPY\x01\x00"
    assert np.load(tmp_path / "out" / f"{STAGE}.npy").dtype == np.float32


@pytest.mark.parametrize("cut", ["manifest.json", "stages/mask.npy", "image.npy", "weights.safetensors"])
def test_damage_ends_in_a_sentence(program, reference, tmp_path, cut):
    folder = tmp_path / "reference"
    shutil.copytree(reference.path, folder)
    (folder / cut).write_bytes((folder / cut).read_bytes()[:-40])
    done = subprocess.run([*program.split(), folder, tmp_path / "out"], capture_output=True, text=True)
    if cut != "weights.safetensors":  # whose end is another parameter
        assert done.returncode
        assert done.stderr
    (folder / cut).unlink()
    done = subprocess.run([*program.split(), folder, tmp_path / "out"], capture_output=True, text=True)
    assert done.returncode in (1, 2)


def test_a_sample_is_no_stage_to_start_from(program, tmp_path):
    folder = tmp_path / "exactly_384"
    write_files(folder, build_case("exactly_384"))
    assert len(np.load(folder / "stages" / "encoder" / "input.npy")) == 509
    done = subprocess.run([*program.split(), folder, tmp_path / "out"], capture_output=True, text=True)
    assert done.returncode
    assert "encoder/input.npy: holds a sample of the stage only; start from image.npy and the weights" in done.stderr
    assert not (tmp_path / "out").exists()
