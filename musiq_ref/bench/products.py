"""The floor: the matrix products of a case and nothing else, in the arrangement that is fastest on this machine.

`counts.complexity` counts the same products; the tests hold the two together.
"""

from __future__ import annotations

import math
import threading
import time
from typing import NamedTuple

import numpy as np

from musiq_ref.backend import NUMPY, to_host
from musiq_ref.bench.cases import Case
from musiq_ref.bench.contender import Contender, Run
from musiq_ref.config import MusiqConfig
from musiq_ref.image.tokenize import scales_of
from musiq_ref.model.parameters import parameter_shapes
from musiq_ref.ops import fused
from musiq_ref.team import ONE_THREAD, share, together

ROWS = (64, 256, 1024, 4096)  # that are tried at a time
LARGEST = 2**23  # numbers in the arrays of a trial
PADDED = ("forward_backward",)  # kinds that are given the padding, too; the others may leave it out


class Product(NamedTuple):
    """`times` products (rows, inner) · (inner, columns); part as in `counts.complexity`."""

    part: str
    rows: int
    inner: int
    columns: int
    times: int = 1

    @property
    def macs(self) -> int:
        """Multiply–accumulates."""
        return self.rows * self.inner * self.columns * self.times


def forward_products(config: MusiqConfig, size: tuple[int, int], padded: bool = False) -> list[Product]:
    """All products of the forward pass of one image of (height, width).

    >>> sum(product.macs for product in forward_products(MusiqConfig(), (224, 224), padded=True))
    8898624384
    """
    tokens = sum(scale.length if padded else scale.kept for scale in scales_of(*size, config))
    shapes, found = parameter_shapes(config), []
    for path, shape in shapes.items():
        if path.startswith("stem/") and path.endswith("/kernel"):
            positions = config.stem_side**2 * (4 if path == "stem/conv_root/kernel" else 1)
            part = path.removesuffix("/kernel")
            found.append(Product(part, tokens * positions, math.prod(shape[:-1]), shape[-1]))
    N, D, L = tokens + 1, config.width, config.layers
    return [
        *found,
        Product("patch_embedding", tokens, *shapes["patch_embedding/kernel"]),
        Product("encoder/attention/projections", N, D, 3 * D, L),
        Product("encoder/attention/products", N, config.head_width, N, L * config.heads),
        Product("encoder/attention/products", N, N, config.head_width, L * config.heads),
        Product("encoder/attention/projections", N, D, D, L),
        Product("encoder/mlp", N, D, config.mlp_width, L),
        Product("encoder/mlp", N, config.mlp_width, D, L),
        Product("head", 1, D, config.outputs),
    ]


def passes(part: str, kind: str) -> int:
    """How often a kind of case takes a product of the forward's size: y = x·W, then dx = dy·Wᵀ and dW = xᵀ·dy.

    >>> passes("encoder/mlp", "score"), passes("encoder/mlp", "training_step")
    (1, 3)
    """
    if kind in ("score", "folder"):
        return 1
    if kind == "image_gradient":  # no gradient of a parameter; both factors of attention depend on the image
        return 3 if part == "encoder/attention/products" else 2
    return 2 if kind == "training_step" and part == "stem/conv_root" else 3  # no gradient of a pixel


def products(case: Case, config: MusiqConfig) -> list[Product]:
    """What one run of a case cannot do without."""
    found = []
    for size in case.sizes[: case.taken]:
        for product in forward_products(config, size, case.kind in PADDED):
            found.append(product._replace(times=product.times * passes(product.part, case.kind)))
    return found


def macs(case: Case, config: MusiqConfig) -> int:
    """Multiply–accumulates of the whole case."""
    return round(sum(product.macs for product in products(case, config)) / case.share)


class Products(Contender):
    """A contender that does the products alone: a team of threads, each with its share of the rows."""

    def __init__(self, preset: str, threads: int, scratch: str, backend: str = "numpy") -> None:
        super().__init__(preset, threads, scratch, backend)
        self.best: dict[tuple[int, int], int] = {}

    def prepare(self, case: Case) -> Run:
        """The function to time."""
        wanted: dict[tuple[int, int, int], int] = {}
        for product in products(case, case.config(self.preset)):  # those of equal pictures at once, many times
            key = product.rows, product.inner, product.columns
            wanted[key] = wanted.get(key, 0) + product.times
        if self.device is not NUMPY:
            return self._on_device(wanted)
        with ONE_THREAD as before:
            members = self.threads if before else 1  # a BLAS that cannot be limited has its own threads
            for rows, inner, columns in wanted:
                if (inner, columns) not in self.best:
                    self.best[inner, columns] = _fastest(rows, inner, columns, members)
        tasks = [
            [
                _Multiplier(_length(share(rows, member, members)), times, inner, columns, self.best[inner, columns])
                for (rows, inner, columns), times in wanted.items()
            ]
            for member in range(members)
        ]

        def work(member: int, barrier: threading.Barrier) -> None:
            for task in tasks[member]:
                task()

        @ONE_THREAD
        def run() -> list[float]:
            together(work, members)
            return []

        return run

    def _on_device(self, wanted: dict[tuple[int, int, int], int]) -> Run:
        """One product after another, by the backend's own routine, many rows at a time."""
        tasks, last = [], []
        for (rows, inner, columns), times in wanted.items():
            most = min(rows, max(1, LARGEST // max(inner, columns)))
            x, w = np.full((most, inner), 0.5, np.float32), np.full((inner, columns), 0.5, np.float32)
            tasks.append((self.device.from_numpy(x), self.device.from_numpy(w), rows, times))

        def run() -> list[float]:
            for x, w, rows, times in tasks:
                for start in times * list(range(0, rows, len(x))):
                    y = fused.product(x[: rows - start], w)
                    last[:] = [y[:1]]
            to_host(last[0])  # the device is waited for
            return []

        return run


class _Multiplier:
    """(rows, inner) · (inner, columns) many times, `most` rows at a time in the same arrays, which stay in cache."""

    def __init__(self, rows: int, times: int, inner: int, columns: int, most: int) -> None:
        self.rows, self.times, self.most = rows, times, most
        self.x = np.full((min(rows, most), inner), 0.5, np.float32)
        self.w = np.full((inner, columns), 0.5, np.float32)
        self.y = np.empty((len(self.x), columns), np.float32)

    def __call__(self) -> None:
        for _ in range(self.times):
            for start in range(0, self.rows, self.most):
                n = min(self.most, self.rows - start)
                np.matmul(self.x[:n], self.w, out=self.y[:n])


def _fastest(rows: int, inner: int, columns: int, members: int) -> int:
    """With how many rows at a time a product is fastest."""

    def seconds(most: int) -> float:
        some = min(rows, ROWS[-1])
        tasks = [
            _Multiplier(_length(share(some, member, members)), 1, inner, columns, most) for member in range(members)
        ]
        taken = []
        for _ in range(3):
            start = time.perf_counter()
            together(lambda member, barrier: tasks[member](), members)
            taken.append(time.perf_counter() - start)
        return min(taken)

    fits = [most for most in ROWS if most * max(inner, columns) <= LARGEST] or ROWS[:1]
    return min(fits, key=seconds)


def _length(rows: slice) -> int:
    return rows.stop - rows.start
