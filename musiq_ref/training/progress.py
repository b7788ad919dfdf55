"""The bar that a run shows on a terminal."""

from __future__ import annotations

import contextlib
import sys
import time
from typing import Any

import numpy as np
from tqdm import tqdm

from musiq_ref.metrics import srcc

RECENT = 256  # scores that the correlation looks back on


class Unread:
    """A stream that swallows what it cannot write: a reader that has gone, or a full disk, ends no training.

    >>> with open(__file__) as stream:
    ...     Unread(stream).write("not open for writing")
    """

    def __init__(self, stream: Any) -> None:
        self.stream = stream

    def write(self, text: str) -> None:
        """Writes it, or not."""
        with contextlib.suppress(OSError):
            self.stream.write(text)

    def flush(self) -> None:
        """Flushes it, or not."""
        with contextlib.suppress(OSError):
            self.stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


class Progress:
    """A bar with the steps done, the loss, the correlation of the last scores with their targets, images a second.

    total, done: steps in all, and before this start
    epochs: in all
    show: False hides it

    >>> bar = Progress(total=1, done=0, epochs=1, show=False)
    >>> bar.step(0.5, scores=np.zeros(2), targets=np.ones(2))
    >>> bar.close()
    """

    def __init__(self, total: int, done: int, epochs: int, show: bool) -> None:
        self.bar = tqdm(total=total, initial=done, unit="step", disable=not show, file=Unread(sys.stderr))
        self.epochs = epochs
        self.recent: list[tuple[float, float]] = []
        self.started, self.images = time.perf_counter(), 0

    def step(self, loss: float, scores: np.ndarray, targets: np.ndarray) -> None:
        """Another step is done."""
        if targets.ndim == 1:
            self.recent = [*self.recent, *zip(scores, targets, strict=True)][-RECENT:]
        self.images += len(targets)
        speed = self.images / (time.perf_counter() - self.started)
        self.bar.set_postfix(loss=f"{loss:.4f}", srcc=self._correlation(), images_per_s=f"{speed:.1f}")
        self.bar.update()

    def epoch(self, number: int, result: dict[str, float]) -> None:
        """An epoch is over: a line about it, above the bar."""
        if not self.bar.disable:
            figures = "  ".join(f"{name} {value:.4f}" for name, value in sorted(result.items()))
            self.bar.write(f"epoch {number}/{self.epochs}  {figures}", file=Unread(sys.stdout))

    def close(self) -> None:
        """The bar stays as it stands."""
        self.bar.close()

    def _correlation(self) -> str:
        try:
            return f"{srcc(*np.array(self.recent).T):.3f}" if len(self.recent) > 8 else "–"
        except ValueError:  # all scores are equal
            return "–"
