"""musiq_ref, timed through the functions that anybody would call."""

from __future__ import annotations

import contextlib
import csv
import io
import runpy
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from musiq_ref.backend import NUMPY, to_host
from musiq_ref.bench.cases import Case, pictures, training_batch, write_photographs
from musiq_ref.bench.contender import MOMENTUM, RATE, SEED, Contender, Run
from musiq_ref.bench.machine import blas, card, pool_mib
from musiq_ref.checkpoint import Checkpoint, save_checkpoint
from musiq_ref.config import MusiqConfig
from musiq_ref.image.tokenize import Tokens, batch, tokenize, tokenize_backward
from musiq_ref.model.musiq import backward, forward
from musiq_ref.model.parameters import Params, map_params
from musiq_ref.scoring import image_gradient, scorer
from musiq_ref.training.optimizers import sgd, sgd_init
from musiq_ref.training.settings import Settings, recipe
from musiq_ref.training.step import batch_gradient
from musiq_ref.verify import deterministic_params


class Ours(Contender):
    """musiq_ref, on NumPy or another backend."""

    def __init__(self, preset: str, threads: int, scratch: str, backend: str = "numpy") -> None:
        super().__init__(preset, threads, scratch, backend)
        self.about = blas() | card(self.device)

    def peak(self) -> float | None:
        """The most memory so far, in MiB; of a GPU what its pool holds, which keeps what is free."""
        return super().peak() if self.device is NUMPY else pool_mib(self.device)

    def checkpoint(self, case: Case) -> Checkpoint:
        """The model of a case."""
        config = case.config(self.preset)
        return Checkpoint(deterministic_params(config, SEED), config, "native", None)

    def model(self, case: Case) -> tuple[Params, MusiqConfig]:
        """Its parameters, where the backend has them, and its configuration."""
        checkpoint = self.checkpoint(case)
        return map_params(self.device.from_numpy, checkpoint.params), checkpoint.config

    def score(self, case: Case) -> Run:
        one, images = scorer(self.checkpoint(case), self.backend, threads=self.threads), pictures(case)
        return lambda: [one(image).value for image in images]

    def tokens(self, case: Case) -> Run:
        """Resizing and patches alone."""
        images, config = pictures(case), case.config(self.preset)
        return lambda: [float(to_host(tokenize(image, config, backend=self.device).mask).size) for image in images]

    def folder(self, case: Case) -> Run:
        """The command itself, in this process, so that starting Python is not timed."""
        folder, model = write_photographs(case, self.scratch / case.name), self.scratch / "model.safetensors"
        checkpoint = self.checkpoint(case)
        save_checkpoint(model, checkpoint.params, checkpoint.config)
        command = ["score", str(folder), "--checkpoint", str(model), "--threads", str(self.threads)]
        command += ["--backend", self.backend]

        def run() -> list[float]:
            with tempfile.TemporaryDirectory() as made:
                table = Path(made, "scores.csv")
                _musiq_ref(*command, "--csv", str(table))
                with table.open(encoding="utf-8", newline="") as file:
                    return [float(row["score"]) for row in csv.DictReader(file)]

        return run

    def image_gradient(self, case: Case) -> Run:
        [image], (params, config) = pictures(case), self.model(case)

        def run() -> list[float]:
            value, dimage = image_gradient(image, params, config)
            return [value, float(np.linalg.norm(dimage))]

        return run

    def forward_backward(self, case: Case) -> Run:
        """`mq.forward` and `mq.backward`, the text, to every parameter and pixel."""
        [image], [(height, width)], (params, config) = pictures(case), case.sizes, self.model(case)

        def run() -> list[float]:
            tokens = Tokens(*map(self.device.from_numpy, batch([tokenize(image, config)])))
            logits, cache = forward(params, tokens, config)
            gradients = backward(logits * 0 + 1, cache)
            dimage = tokenize_backward(to_host(gradients.patches[0]), height, width, config)
            return [float(logits[0, 0]), float(np.linalg.norm(dimage))]

        return run

    def training_step(self, case: Case) -> Run:
        """From tokens to new parameters; where a run takes a part of the batch, the next one at each call."""
        settings = recipe(case.recipe, init="") if case.recipe else Settings()
        params, config = self.model(case)
        tokens = [tokenize(image, config) for image in training_batch(case)]
        state, first = sgd_init(params), 0
        options: Any = {"micro_batch": settings.micro_batch, "recompute": settings.recompute, "threads": self.threads}
        options["repeat"] = self.device.repeat

        def run() -> list[float]:
            nonlocal params, state, first
            here = slice(first, first + case.taken)
            targets = np.linspace(0, 100, len(tokens))[here]
            result = batch_gradient(params, tokens[here], targets, config, "l1", whole_batch=len(tokens), **options)
            params, state = sgd(params, result.gradients, state, RATE, momentum=MOMENTUM)
            to_host(params["class_token"])  # a device is waited for
            first = (first + case.taken) % len(tokens)
            return [result.loss]

        return run


def _musiq_ref(*arguments: str) -> None:
    """`musiq-ref` with these arguments; RuntimeError, with what it said, if it fails."""
    said, before = io.StringIO(), sys.argv
    tqdm.set_lock(threading.RLock())  # its own is the system's, and would be left behind if this process is killed
    try:
        sys.argv = ["musiq-ref", *arguments]
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said):
            runpy.run_module("musiq_ref", run_name="__main__")
    except SystemExit as end:
        if end.code:
            raise RuntimeError(f"musiq-ref {arguments[0]} failed: {said.getvalue().strip()}") from None
    finally:
        sys.argv = before
