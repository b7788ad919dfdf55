"""Every command that writes, killed at any moment or on a full disk: nothing is lost, and the same command then works.

A case runs one command in a folder of its own and disturbs it: a SIGKILL at the n-th opening for writing, renaming or
removing there; a SIGKILL in the middle of a write, at the byte where the largest file may end; or no space from that
byte on. Then no input may have changed, no file may be half under its final name, what was there before is there still
(or the new one), and the same command ends as if nothing had been. After a full disk there must be one sentence.
"""

from __future__ import annotations

import functools
import hashlib
import io
import os
import re
import resource
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable
from email.message import Message
from pathlib import Path
from random import Random
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
from PIL import Image
from safetensors.numpy import load_file

import musiq_ref as mq
from musiq_ref.checkpoint import save_official
from musiq_ref.checkpoint.catalogue import CATALOGUE
from musiq_ref.cli import main
from musiq_ref.model.parameters import flatten

from .checkpoints import CONFIG
from .core import Kind
from .images import picture

MODEL = "model.layers=1 model.width=8 model.mlp_width=8 model.heads=2 model.patch_size=8 model.longer_sides=[16]"
SETTINGS = f"{MODEL} epochs=2 epoch_images=4 batch=2 warmup=0 fit_to_images=false side=24 save_every=1"
COMMANDS = {  # what the arguments need is made by `inputs`
    "score-csv": "score a.png b.png --checkpoint m.safetensors --csv out.csv",
    "score-resume": "score a.png b.png --checkpoint m.safetensors --csv out.csv --resume",
    "score-html": "score a.png b.png --checkpoint m.safetensors --html out.html",
    "convert-npz": "convert m.safetensors out.npz --force",
    "convert": "convert m.npz out.safetensors --force",
    "distort": "distort a.png -o out --distortion jpeg --severity 0.3 --severity 0.6",
    "download": "download koniq --cache out",
    "explain": "explain a.png --checkpoint m.safetensors -o out.html",
    "explain-png": "explain a.png --checkpoint m.safetensors -o out.png",
    "evaluate": "evaluate --dataset labels.csv --all --checkpoint m.safetensors -o out --resamples 20",
    "fixture": "fixture out --checkpoint m.safetensors --image a.png",
    "compare": "compare fixture fixture --no-diagnosis --html out.html",
    "train": "train --recipe synthetic -o out " + " ".join(f"--set {one}" for one in SETTINGS.split()),
}
GROWING = {"out.csv", "out/log.jsonl"}  # written line by line
PASSING = re.compile(r"(^|/)\..*|.*\.(part|lock|etag)$")  # names that are nobody's result
OLD = b"<!-- old -->"
Files = dict[str, bytes]
Disturb = Callable[[], object]


class Prepared(NamedTuple):
    inputs: Files
    results: Callable[[str], Files]


def prepare() -> Prepared:
    folder = Path(tempfile.mkdtemp())
    try:
        for number, name in enumerate(("a.png", "b.png", "c.png", "d.png")):
            Image.fromarray(np.asarray(picture())[: 40 - number]).save(folder / name)
        config = CONFIG.replace(longer_sides=(16, 32))
        params = mq.verify.deterministic_params(config, seed=1)
        mq.save_checkpoint(folder / "m.safetensors", params, config)
        save_official(folder / "m.npz", params)
        (folder / "labels.csv").write_text("image,score\na.png,1\nb.png,3\nc.png,2\nd.png,5\n")
        mq.verify.make_fixture(folder / "fixture", checkpoint=folder / "m.safetensors", image=folder / "a.png")
        inputs = contents(folder)
    finally:
        shutil.rmtree(folder)
    return Prepared(inputs, functools.cache(lambda name: undisturbed(name, inputs)))


def undisturbed(name: str, inputs: Files) -> Files:
    """What a command leaves if nothing comes in between."""
    with tempfile.TemporaryDirectory() as folder:
        lay_out(Path(folder), inputs)
        status, words = run(name, Path(folder))
        if status:
            raise RuntimeError(f"{name} by itself ends with {status}: {words}")
        return {path: data for path, data in contents(Path(folder)).items() if path not in inputs}


def case(prepared: Prepared, rng: Random, folder: Path) -> tuple[str, str]:
    name = list(COMMANDS)[int(folder.name.rpartition("-")[2]) % len(COMMANDS)]
    results, number = prepared.results(name), rng.randrange(1, rng.choice((9, 60)))
    largest = max(map(len, results.values()))
    byte = rng.choice((0, 1, rng.randrange(largest), largest - 1, rng.randrange(1 + min(largest, 4000))))
    how: dict[str, Disturb] = {
        f"killed at event {number}": lambda: kill_at(number, folder),
        f"killed at byte {byte}": lambda: end_at(byte, signal.SIG_DFL),
        f"full from byte {byte}": lambda: end_at(byte, signal.SIG_IGN),
    }
    old = {} if name in ("fixture", "train", "download") or rng.random() < 0.5 else aged(results)
    lay_out(folder, prepared.inputs | old)
    what = rng.choice(list(how))
    status, words = run(name, folder, how[what])
    told = f"{COMMANDS[name]}, {what}{', over old files' * bool(old)}: "
    if what.startswith("full") and not one_sentence(status, words):
        return "crashed", f"{told}ended with {status}: {words[-300:]}"
    now = contents(folder)
    if lost := [path for path, data in prepared.inputs.items() if now.get(path) != data]:
        return "wrong", f"{told}changed the input {lost[0]}"
    if half := [path for path in now if path not in prepared.inputs and not whole(path, now, results, old)]:
        return "wrong", f"{told}left half a file, {half[0]}"
    if gone := [path for path in old if path not in now]:
        return "wrong", f"{told}lost the old {gone[0]}"
    done = all(now.get(path) == data for path, data in results.items())
    again, words = run(name, folder)
    if again and not (done and again == 2):
        return "wrong", f"{told}the same command then ended with {again}: {words[-300:]}"
    now = contents(folder)
    if other := [path for path, data in results.items() if now.get(path) != data and not PASSING.fullmatch(path)]:
        return "wrong", f"{told}after the same command again {other[0]} is another"
    return ("right" if not status else "refused"), told


def aged(results: Files) -> Files:
    """The results of an earlier run: ours by their marks, and other bytes; where bytes may be added without harm."""
    return {path: data + OLD for path, data in results.items() if path.endswith((".html", ".npz", ".safetensors"))}


def one_sentence(status: int, words: str) -> bool:
    """Whether a command that found no space said so; or found enough."""
    return status == 0 or (status in (1, 2) and "Traceback" not in words and "cannot be written" in words)


def whole(path: str, now: Files, results: Files, old: Files) -> bool:
    """Whether a file is all of what the command makes, sooner or later."""
    data = now[path]
    if PASSING.fullmatch(path) or data in (results.get(path), old.get(path)):
        return True
    if path in GROWING:
        return results[path].startswith(data)
    try:
        if path.endswith(".safetensors"):  # of an earlier step
            with tempfile.NamedTemporaryFile() as file:
                file.write(data)
                file.flush()
                load_file(file.name)
            return True
        return path == "out/curves.png" and Image.open(io.BytesIO(data)).verify() is None
    except Exception:
        return False


def lay_out(folder: Path, files: Files) -> None:
    for path, data in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)


def contents(folder: Path) -> Files:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# ---- a command in a process of its own


def run(name: str, folder: Path, disturb: Disturb = lambda: None) -> tuple[int, str]:
    """The exit code of a command, negative for a signal, and what it wrote to stderr."""
    read, write = os.pipe()
    process = os.fork()
    if not process:
        status = 99
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            os.dup2(write, 2)
            sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1, closefd=False) for number in (1, 2))
            os.chdir(folder)
            with mock.patch("urllib.request.OpenerDirector.open", published(folder)):
                disturb()
                status = main(COMMANDS[name].split())
        except SystemExit as error:
            status = error.code if isinstance(error.code, int) else 99
        except BaseException as error:
            os.write(2, f"Traceback: {type(error).__name__}: {error}".encode())
        finally:
            os._exit(status)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        words = pipe.read().decode("utf-8", "replace")
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), words


def kill_at(number: int, folder: Path) -> None:
    """Kills this process before the n-th change of names or opening for writing below a folder."""
    left = iter(range(number - 1, -1, -1))

    def watch(event: str, arguments: tuple) -> None:
        if event == "open":
            path, mode, flags = arguments
            changes = flags & (os.O_WRONLY | os.O_RDWR) if mode is None else set(mode) & set("wax+")
        else:
            path, changes = (arguments or ("",))[0], event in ("os.rename", "os.remove", "os.mkdir", "os.truncate")
        if changes and isinstance(path, str | os.PathLike):
            inside = os.path.abspath(os.fspath(path)).startswith(str(folder))
            if inside and next(left, 1) == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)


def end_at(byte: int, action: Any) -> None:
    """No file may become larger than that; trying to is an error, or with SIG_DFL the end."""
    signal.signal(signal.SIGXFSZ, action)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (byte, resource.RLIM_INFINITY))


def published(folder: Path) -> Callable[..., Any]:
    """Stands in for the server: the published koniq is m.npz."""
    content = (folder / "m.npz").read_bytes()
    count = sum(array.size for _, array in flatten(mq.load_checkpoint(folder / "m.npz").params))
    digest = hashlib.sha256(content).hexdigest()
    CATALOGUE["koniq"] = CATALOGUE["koniq"]._replace(parameters=count, sha256=digest)

    def open_(opener: Any, request: Any, timeout: float = 0) -> Any:
        start = int((request.get_header("Range") or "bytes=0-")[6:-1])
        answer = Answer(content[start:])
        answer.status, answer.headers, answer.length = (206 if start else 200), Message(), len(content) - start
        answer.headers["ETag"] = '"one"'
        if start:
            answer.headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        return answer

    return open_


class Answer(io.BytesIO):
    status: int
    headers: Message
    length: int


KIND = Kind(prepare, case, seconds=60.0, weight=12)
