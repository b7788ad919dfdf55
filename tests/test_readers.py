"""The readers of the fixture format in other languages (docs/examples/readers), and the stage that each computes."""

from __future__ import annotations

import io
import os
import shlex
import shutil
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest

from musiq_ref.cli import main
from musiq_ref.verify import compare, make_fixture
from musiq_ref.verify.adapters import run_command
from musiq_ref.verify.ladder.fixture_files import write_files
from musiq_ref.verify.ladder.suite import build_case

READERS = Path(__file__).parent.parent / "docs" / "examples" / "readers"
BUILD = {  # compiler, and how it makes the program
    "javascript": ("node", []),
    "c": (
        "gcc",
        [
            *("-O2", "-std=c99", "-D_POSIX_C_SOURCE=200809L", "-Wall", "-Wextra", "-Werror"),
            *("-fsanitize=address,undefined", "-fno-sanitize-recover=all"),
        ],
    ),
    "rust": ("rustc", ["--edition", "2021", "-O", "-D", "warnings", "-C", "overflow-checks"]),
}
STAGE = "encoder/block_00/norm1"


def saved(array) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def npy(shape: str = "(1, 20, 48)", *, descr: str = "'<f4'", count: int = 960, version: int = 1) -> bytes:
    """A .npy file with this text in its header, and `count` float32 values."""
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    length = struct.pack("<H" if version == 1 else "<I", len(header))
    return b"\x93NUMPY" + bytes([version, 0]) + length + header + bytes(4 * count)


X = np.linspace(-1, 1, 960, dtype=np.float32).reshape(1, 20, 48)
BAD_ARRAYS = {
    "nothing": b"",
    "text": b"hello, this is no array\n",
    "cut before the length": saved(X)[:9],
    "cut in the header": saved(X)[:40],
    "cut in the values": saved(X)[:-4],
    "cut in a value": saved(X)[:-3],
    "longer": saved(X) + bytes(8),
    "float16": saved(X.astype(np.float16)),
    "bool": saved(X > 0),
    "big-endian": saved(X.astype(">f4")),
    "Fortran order": saved(np.asfortranarray(X)),
    "structured": npy(descr="[('a', '<f4')]"),
    "a type that begins like ours": npy(descr="'<f44'"),
    "a property of every object": npy(descr="'constructor'"),
    "version 2": npy(version=2),
    "no axis": saved(np.float32(3)),
    "one empty axis": saved(np.zeros(0, np.float32)),
    "another width": saved(np.zeros((1, 20, 50), np.float32)),
    "negative axes": npy("(-1, -960)"),
    "more than 64 bits": npy("(4294967296, 4294967296)", count=0),
    "a little more than 64 bits": npy("(4611686018427387905, 4)", count=4),
    "floats for axes": npy("(1.0, 20, 48)"),
    "names for axes": npy("(x, 20, 48)"),
    "no commas": npy("(1 20 48)"),
    "a folder": None,
}


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
    assert (
        "encoder/input.npy: holds a sample of the stage only; start from an earlier one, or from image.npy"
        in done.stderr
    )
    assert not (tmp_path / "out").exists()


def run(program, folder, out, **environment) -> subprocess.CompletedProcess:
    command = [*program.split(), folder, out]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=os.environ | environment)


def refusal(program, folder, out) -> str:
    """The one sentence with which the program ends; it has written nothing."""
    done = run(program, folder, out, ASAN_OPTIONS="detect_leaks=0")  # what fails in C leaves the memory to the system
    assert done.returncode == 2, done.stderr
    assert not out.exists()
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr


@pytest.mark.parametrize("what", BAD_ARRAYS)
def test_a_bad_array_is_refused_in_a_sentence(program, reference, tmp_path, what):
    folder = shutil.copytree(reference.path, tmp_path / "reference")
    bad = folder / "stages" / "encoder" / "input.npy"
    bad.unlink()
    if BAD_ARRAYS[what] is None:
        bad.mkdir()
    else:
        bad.write_bytes(BAD_ARRAYS[what])
    said = refusal(program, folder, tmp_path / "out")
    if what in ("no axis", "one empty axis", "another width"):  # good arrays, but none that this stage can begin with
        assert said.startswith("the input of the norm")
    else:
        assert said.startswith(f"{bad}: ")


@pytest.mark.parametrize("axes", [(), (0,), (2, 3)])
def test_what_is_no_image_is_refused(program, reference, tmp_path, axes):
    folder = shutil.copytree(reference.path, tmp_path / "reference")
    np.save(folder / "image.npy", np.zeros(axes, np.uint8))
    assert refusal(program, folder, tmp_path / "out") == f"{folder / 'image.npy'}: is no image\n"


@pytest.mark.parametrize("kind", ["<f4", "<f8", "<i8", "|u1"])
def test_every_type_of_the_format_gives_the_same_numbers(program, reference, tmp_path, kind):
    folder = shutil.copytree(reference.path, tmp_path / "reference")
    x = (X * 100 + 100).astype(np.uint8)
    np.save(folder / "stages" / "encoder" / "input.npy", x.astype(kind))
    done = run(program, folder, tmp_path / "out")
    assert done.returncode == 0, done.stderr
    norm = reference.params["encoder"]["block_00"]["norm1"]
    mean, variance = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    expected = norm["scale"] * (x - mean) / np.sqrt(variance + 1e-6) + norm["bias"]
    np.testing.assert_allclose(np.load(tmp_path / "out" / f"{STAGE}.npy"), expected, rtol=1e-5, atol=1e-5)


def test_weights_that_are_cut_or_missing_are_refused(program, reference, tmp_path):
    folder = shutil.copytree(reference.path, tmp_path / "reference")
    path = folder / "weights.safetensors"
    whole = path.read_bytes()
    name = f"{STAGE}/scale"
    start = 8 + struct.unpack("<Q", whole[:8])[0]
    entry = whole[8:start].split(f'"{name}":'.encode())[1].split(b"}")[0]
    end = int(entry.split(b",")[-1].strip(b"]"))
    damaged = [
        b"",
        whole[:7],
        whole[:2000],
        b"\xff" * 8 + whole[8:],
        whole[: start + end - 4],
        whole.replace(entry, entry.replace(b"[48]", b"[47]")),
    ]
    for content in damaged:
        path.write_bytes(content)
        assert str(path) in refusal(program, folder, tmp_path / "out")
    for missing in (name.replace("scale", "scalf"), None):
        changed = entry.replace(b"F32", b"F16")
        path.write_bytes(whole.replace(name.encode(), missing.encode()) if missing else whole.replace(entry, changed))
        said = refusal(program, folder, tmp_path / "out")
        assert f"{path}: has no float32 parameter {name}; those it has are named in manifest.json" in said
    path.unlink()
    assert str(path) in refusal(program, folder, tmp_path / "out")


def test_a_manifest_that_is_cut_or_of_another_version_is_refused(program, reference, tmp_path):
    folder = shutil.copytree(reference.path, tmp_path / "reference")
    path = folder / "manifest.json"
    whole = path.read_bytes()
    for content in (b"", whole[:-400], whole.replace(b'"version": 1', b'"version": 11'), b"null"):
        path.write_bytes(content)
        assert str(path) in refusal(program, folder, tmp_path / "out")
    path.unlink()
    assert str(path) in refusal(program, folder, tmp_path / "out")


def test_an_epsilon_that_is_no_number_is_refused(program, reference, tmp_path):
    assert refusal(f"{program} --fast", reference.path, tmp_path / "out").startswith("--fast: is no ")


def test_the_reader_in_c_has_no_warnings_where_a_port_needs_a_part_of_it(tmp_path):
    compiler, options = BUILD["c"]
    if not shutil.which(compiler):
        pytest.skip(f"needs {compiler}")
    port = tmp_path / "part.c"
    port.write_text('#include "fixture.h"\nint main(void) { return 0; }\n')
    done = subprocess.run(
        [compiler, *options, "-I", READERS / "c", "-o", tmp_path / "part", port], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_the_reader_in_c_writes_no_shape_that_does_not_fit_its_header(tmp_path):
    compiler, options = BUILD["c"]
    if not shutil.which(compiler):
        pytest.skip(f"needs {compiler}")
    source, built = tmp_path / "long.c", tmp_path / "long"
    source.write_text(
        '#include "fixture.h"\n'
        "int main(int argc, char **argv) {\n"
        "    Array like = {.rank = argc > 1 ? 8 : 0};\n"
        "    for (int k = 0; k < 8; k++) like.shape[k] = 1000000007;\n"
        '    write_stage(argv[1], "stage", &like, NULL);\n'
        "    return 0;\n"
        "}\n"
    )
    subprocess.run([compiler, *options, "-I", READERS / "c", "-o", built, source], check=True)
    done = run(str(built), tmp_path / "out", "unused")
    assert (done.returncode, done.stderr) == (2, f"{tmp_path / 'out' / 'stage.npy'}: has a shape that is too long\n")


@pytest.mark.parametrize(("language", "compiler"), [("javascript", "node"), ("c", "cc"), ("rust", "rustc")])
def test_the_commands_of_the_guide(language, compiler, reference, tmp_path, monkeypatch):
    """As they are printed, in a copy of the folder."""
    if not shutil.which(compiler):
        pytest.skip(f"needs {compiler}")
    section = (READERS.parents[1] / "port-guide.md").read_text(encoding="utf-8").split("## Without Python")[1]
    lines = section.split("```sh\n")[1].split("```")[0].splitlines()
    line = lines[list(BUILD).index(language)]
    build, compare_command = line.rpartition("musiq-ref ")[::2]
    shutil.copytree(READERS / language, tmp_path / language)
    (tmp_path / language / "reference").symlink_to(reference.path)
    monkeypatch.chdir(tmp_path / language)
    if build:
        done = subprocess.run(build.removesuffix("&& "), shell=True, capture_output=True, text=True)
        if "rustup" in done.stderr and done.returncode:
            pytest.skip("needs rustc")
        assert done.returncode == 0, done.stderr
    arguments = shlex.split(compare_command)
    assert main(arguments) == 0
    assert main([*arguments[:-1], f"{arguments[-1]} 1e-4", "--no-diagnosis"]) == 1
