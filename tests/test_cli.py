"""The command line itself: how fast it starts, what it says to a wrong word, what reaches a pipe, and what it reads."""

from __future__ import annotations

import ast
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from threadpoolctl import threadpool_info

import musiq_ref as mq
from musiq_ref import cli
from musiq_ref.cli import COMMANDS, main
from musiq_ref.extras import needs
from musiq_ref.model.inference import predict
from musiq_ref.verify import deterministic_params

ROOT = Path(__file__).parent.parent
CONFIG = mq.MusiqConfig.preset("tiny", outputs=10)
COMMAND = [sys.executable, "-m", "musiq_ref"]


@pytest.fixture(autouse=True)
def usual_buffering(monkeypatch):
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("checkpoint") / "tiny.safetensors"
    mq.save_checkpoint(path, deterministic_params(CONFIG, 4), CONFIG)
    return str(path)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with a.png and b.png, in which the commands are called."""
    rng = np.random.default_rng(0)
    for name in ("a.png", "b.png"):
        Image.fromarray(rng.integers(0, 256, (50, 77, 3), dtype=np.uint8)).save(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run(capsys):
    def call(*arguments):
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as stopped:
            code = stopped.code
        out, err = capsys.readouterr()
        return code, out, err

    return call


# ---- starting


def loaded(program, *arguments):
    """The modules that a program has loaded when it ends."""
    end = "import atexit, sys; atexit.register(lambda: print('\\n' + ' '.join(sys.modules), file=sys.stderr))\n"
    done = subprocess.run([sys.executable, "-c", end + program, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(done.stderr.splitlines()[-1].split())


CALL = "import sys; from musiq_ref.cli import main; sys.exit(main(sys.argv[1:]))"


def test_a_command_loads_only_what_it_needs(folder, checkpoint):
    heavy = {"scipy.stats", "matplotlib", "torch", "musiq_ref.training", "musiq_ref.verify", "musiq_ref.explain"}
    for arguments in (["--version"], ["--help"]):
        assert not loaded(CALL, *arguments) & {*heavy, "numpy", "musiq_ref.scoring"}
    assert not loaded(CALL, "score", "--help") & heavy
    modules = loaded(CALL, "score", "a.png", "--checkpoint", checkpoint)
    assert "musiq_ref.scoring" in modules
    assert not modules & heavy


def test_public_names_are_loaded_when_they_are_asked_for():
    assert not loaded("import musiq_ref") & {"numpy", "musiq_ref.config"}
    modules = loaded("import musiq_ref as mq; mq.MusiqConfig; mq.checkpoint.CATALOGUE")
    assert {"musiq_ref.config", "musiq_ref.checkpoint"} <= modules
    assert not modules & {"musiq_ref.verify", "musiq_ref.scoring"}
    assert "musiq_ref.verify" in loaded("import musiq_ref as mq; mq.verify.check_vjp")
    program = "from musiq_ref import *; assert score and verify and OFFICIAL and checkpoint.load_checkpoint"
    assert "musiq_ref.verify" in loaded(program)


def test_the_three_lists_of_public_names_agree():
    """`__all__`, where a name is imported from, and what type checkers read."""
    [branch] = [node for node in ast.parse(Path(mq.__file__).read_text("utf-8")).body if isinstance(node, ast.If)][:1]
    typed = {alias.name: node.module for node in branch.body for alias in node.names}
    assert sorted(typed) == sorted(mq.__all__)
    assert {name: home for name, home in typed.items() if home != "musiq_ref"} == mq._HOME
    assert set(dir(mq)) == {*mq.__all__, "__version__", "explain"}
    for name, home in mq._HOME.items():
        assert getattr(mq, name) is getattr(import_module(home), name)
    with pytest.raises(AttributeError, match="module 'musiq_ref' has no attribute 'skore'"):
        mq.skore  # noqa: B018


def test_the_version_is_said_once(run):
    assert run("-V") == run("--version") == (0, f"musiq-ref {mq.__version__}\n", "")
    done = subprocess.run([*COMMAND, "-V"], capture_output=True, text=True)
    assert done.stdout == f"musiq-ref {mq.__version__}\n"


def test_every_module_of_the_package_is_a_command_or_shared():
    files = {path.stem for path in Path(cli.__file__).parent.glob("*.py")}
    assert files - {"__init__", "__main__", "parser", "shared"} == set(COMMANDS)


# ---- a wrong word


@pytest.mark.parametrize(
    ("arguments", "usage", "message"),
    [
        (["scroe", "a.png"], "musiq-ref [-h]", "there is no 'scroe' (choose from score, distort"),
        (["scroe"], "musiq-ref [-h]", "compare); did you mean 'score'?\n"),
        (["xyzzy"], "musiq-ref [-h]", "fixture, compare)\n"),
        (["score", "a.png", "--jsn"], "musiq-ref score", "unrecognized arguments: --jsn; did you mean '--json'?"),
        (["score", "a.png", "--hmtl=x"], "musiq-ref score", "--hmtl=x; did you mean '--html'?"),
        (["summary", "a.png"], "musiq-ref summary", "unrecognized arguments: a.png\n"),
        (["score", "a.png", "--conventions", "pyqia"], "musiq-ref score", "did you mean 'pyiqa'?"),
        (["download", "konik"], "musiq-ref download", "did you mean 'koniq'?"),
        (["score", "a.png", "--threads", "0"], "musiq-ref score", "'0' is not a number of cores; give 1 or more"),
        (["score", "a.png", "--threads", "two"], "musiq-ref score", "'two' is not a number of cores"),
        ([], "musiq-ref [-h]", "required: COMMAND"),
    ],
)
def test_a_wrong_word_gets_its_own_usage_and_a_suggestion(arguments, usage, message, run):
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith(f"usage: {usage}")
    assert message in err


def test_unknown_checkpoints_and_missing_files(folder, checkpoint, run):
    code, _, err = run("score", "a.png", "--checkpoint", "konik")
    assert code == 2
    assert "konik: neither a file nor the name of a checkpoint (those are demo, koniq, spaq," in err
    assert err.endswith("; did you mean 'koniq'?\n")
    assert len(err.splitlines()) == 1
    assert "did you mean" not in run("score", "a.png", "--checkpoint", "something")[2]
    (folder / "holiday").mkdir()
    assert "a.pgn does not exist; did you mean 'a.png'?" in run("score", "a.pgn", "--checkpoint", checkpoint)[1]
    assert "far.jpg does not exist; check the path" in run("score", "no/far.jpg", "--checkpoint", checkpoint)[1]


@pytest.mark.parametrize("command", ["score a.png", "explain a.png -o x.html", "train --recipe demo -o x", "bench"])
def test_a_gpu_is_not_chosen_for_the_processor(command, folder, run):
    code, out, err = run(*command.split(), "--device", 1)
    assert (code, out) == (2, "")
    assert "--device names a GPU, and NumPy uses none; add --backend cupy, or leave it out" in err


# ---- output


def test_lines_reach_a_pipe_as_they_come(folder, checkpoint):
    Image.effect_noise((1500, 1500), 50).save(folder / "later.png")  # takes seconds
    command = [*COMMAND, "score", "a.png", "later.png", "--checkpoint", checkpoint]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline().endswith("a.png\n")
        assert process.poll() is None
        assert process.stdout.read().endswith("later.png\n")


@pytest.mark.parametrize("arguments", ["--help", "score --help", "summary", "score . --checkpoint {} --json"])
def test_a_closed_pipe_ends_quietly(arguments, folder, checkpoint):
    command = f"{shlex.join(COMMAND)} {arguments.format(shlex.quote(checkpoint))}"
    done = subprocess.run(["bash", "-c", f"({command}; echo $? > code) | true"], capture_output=True, text=True)
    assert (done.stderr, (folder / "code").read_text()) == ("", "0\n")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_is_one_sentence():
    with open("/dev/full", "w") as full:
        done = subprocess.run([*COMMAND, "summary"], stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("musiq-ref summary: a file or the standard output cannot be used (No space left on")
    assert done.stderr.count("\n") == 1


def test_threads_limit_the_matrix_products(folder, checkpoint, run, monkeypatch):
    seen = []

    def watched(*args):
        seen.append(args[5])  # and BLAS has one, as a team or several images are at work
        seen.append({pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"})
        return predict(*args)

    monkeypatch.setattr("musiq_ref.scorers.predict", watched)
    before = [pool["num_threads"] for pool in threadpool_info()]
    for threads in (1, 2):
        assert run("score", "a.png", "--checkpoint", checkpoint, "--threads", threads)[0] == 0
    assert seen == [1, {1}, 2, {1}]
    assert [pool["num_threads"] for pool in threadpool_info()] == before
    for command in ("score", "explain", "evaluate", "compare"):
        assert "--threads N" in run(command, "--help")[1]


# ---- help, completion, hints


def test_the_examples_are_printed_whole_and_are_good_use(run, monkeypatch):
    """Each stands on a line of its own, to be copied, and the command accepts it."""
    for command in COMMANDS:
        module = import_module(f"musiq_ref.cli.{command}")
        monkeypatch.setattr(module, "run", lambda args: 0)
        lines = run(command, "--help")[1].splitlines()
        examples = [line.strip() for line in lines[lines.index("example:") + 1 :] if line]
        assert examples
        for example in examples:
            program, *arguments = shlex.split(example)
            assert (program, arguments[0], run(*arguments)) == ("musiq-ref", command, (0, "", ""))


def test_the_examples_of_quick_commands_run_as_printed(folder, run):
    (folder / "photo.jpg").write_bytes((folder / "a.png").read_bytes())
    (folder / "holiday").mkdir()
    (folder / "holiday" / "b.png").write_bytes((folder / "b.png").read_bytes())
    for command in ("score", "distort", "explain", "summary", "fixture", "convert"):
        for example in import_module(f"musiq_ref.cli.{command}").EXAMPLE.splitlines():
            if command == "convert":
                mq.checkpoint.save_official(folder / "koniq_ckpt.npz", mq.load_checkpoint("demo").params)
            code, out, _ = run(*shlex.split(example)[1:])
            assert code == 0, example
            assert out
    made = {"scores.csv", "gallery.html", "report.html", "koniq.safetensors", "reference", "spoilt"}
    assert made <= set(os.listdir(folder))


def completed(script, *words):
    """What bash offers for the last word."""
    line = f"COMP_WORDS=({shlex.join(words)}); COMP_CWORD={len(words) - 1}; _shtab_musiq_ref"
    program = f'{script}\n{line}; printf "%s\\n" "${{COMPREPLY[@]}}"'
    return subprocess.run(["bash", "-c", program], capture_output=True, text=True).stdout.split()


def test_a_shell_completes_commands_options_choices_and_files(folder, run):
    pytest.importorskip("shtab")
    code, script, err = run("--print-completion", "bash")
    assert (code, err) == (0, "")
    assert completed(script, "musiq-ref", "sc") == ["score"]
    assert completed(script, "musiq-ref", "score", "--cs") == ["--csv"]
    assert completed(script, "musiq-ref", "download", "ko") == ["koniq"]
    assert completed(script, "musiq-ref", "score", "a") == ["a.png"]
    assert run("--print-completion", "zsh")[1].startswith("#compdef musiq-ref")


def test_completion_without_shtab_is_a_sentence(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "shtab", None)
    code, _, err = run("--print-completion", "bash")
    assert code == 2
    assert f"completion needs shtab; install it with: {needs('completion')}" in err


def test_hints_name_extras_that_exist():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    sources = [path for path in (ROOT / "musiq_ref").rglob("*.py") if "verify" not in path.parts]
    texts = {path: path.read_text("utf-8") for path in sources}
    assert [path.name for path, text in texts.items() if "pip install" in text] == ["extras.py"]
    named = {extra for text in texts.values() for extra in re.findall(r"needs\(['\"](\w+)", text)}
    assert {"heif", "completion", "pictures", "mpi"} <= named <= set(extras)


# ---- what can be scored


def test_standard_input(folder, checkpoint):
    command = [*COMMAND, "score", "-", "b.png", "--checkpoint", checkpoint, "--json"]
    done = subprocess.run(command, input=(folder / "a.png").read_bytes(), capture_output=True)
    [first, second], expected = json.loads(done.stdout), mq.score(["a.png", "b.png"], checkpoint)
    assert (first["path"], second["path"]) == ("-", "b.png")
    assert (first["score"], second["score"]) == tuple(pytest.approx(s.value) for s in expected)
    done = subprocess.run(command, input=b"no picture", capture_output=True)
    assert done.returncode == 1
    assert json.loads(done.stdout)[0]["error"].startswith("standard input is not an image")


def test_a_terminal_is_no_image(checkpoint, run, monkeypatch):
    monkeypatch.setattr("sys.stdin", type("Terminal", (), {"isatty": lambda self: True})())
    code, _, err = run("score", "-", "--checkpoint", checkpoint)
    assert code == 2
    assert "standard input, which is a terminal" in err


@pytest.mark.parametrize("url", ["https://example.org/a.jpg", "http://example.org/a.jpg", "s3://bucket/a.jpg"])
def test_urls_are_refused_in_one_sentence(url, folder, checkpoint, run):
    sentence = f"{url} is a URL, and nothing is fetched here; download it first and pass the file"
    assert run("score", url, "a.png", "--checkpoint", checkpoint) == (2, "", f"musiq-ref score: {sentence}\n")
    for read in (mq.decode, lambda url: mq.score([url], checkpoint)):
        with pytest.raises(mq.ImageError) as refused:
            read(url)
        assert str(refused.value) == sentence


def test_a_file_url_needs_no_download(folder):
    with pytest.raises(mq.ImageError, match=r"^file:///a.png is a URL, .*; pass the path alone$"):
        mq.decode("file:///a.png")


def test_quoted_patterns_are_expanded(folder, checkpoint, run):
    (folder / "[1].png").write_bytes((folder / "a.png").read_bytes())
    code, out, _ = run("score", "?.png", "[1].png", "--checkpoint", checkpoint)
    assert code == 0
    assert [line.split()[1] for line in out.splitlines()] == ["a.png", "b.png", "[1].png"]
    code, out, _ = run("score", "*.jpg", "--checkpoint", checkpoint)
    assert code == 1
    assert "*.jpg does not exist" in out
