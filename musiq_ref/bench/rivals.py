"""Others who are timed, where they are installed: the library's own port to PyTorch, and pyiqa."""

from __future__ import annotations

from typing import Any

import numpy as np

from musiq_ref.backend import NUMPY
from musiq_ref.bench.cases import Case, pictures, training_batch, write_photographs
from musiq_ref.bench.contender import MOMENTUM, RATE, SEED, Contender, Run
from musiq_ref.checkpoint import to_pyiqa
from musiq_ref.image.decode import decode
from musiq_ref.verify import deterministic_params

ROUNDED = (":tf32", ":float16")
"""Backends beside which PyTorch's products may round their factors to TF32."""


class Torch(Contender):
    """The PyTorch port, eager, differentiated by autograd; on the GPU beside a backend that is there."""

    def __init__(self, preset: str, threads: int, scratch: str, backend: str = "numpy") -> None:
        super().__init__(preset, threads, scratch, backend)
        import torch

        torch.set_num_threads(threads)
        self.where = torch.device("cpu" if self.device is NUMPY else "cuda")
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = backend.endswith(ROUNDED)
        self.about = {"pytorch": torch.__version__, "pytorch_cpu": torch.backends.cpu.get_cpu_capability()}

    def peak(self) -> float | None:
        """The most memory so far, in MiB; of a GPU that of its tensors."""
        import torch

        return super().peak() if self.device is NUMPY else torch.cuda.max_memory_allocated() / 2**20

    def pixels(self, image: np.ndarray) -> Any:
        """uint8 (H, W, 3) as the port takes it: (1, 3, H, W) in [0, 1]."""
        return _pixels(image).to(self.where)

    def model(self, case: Case) -> Any:
        """The model of a case."""
        import torch

        from musiq_ref.verify.torch_port import TorchMusiq

        config = case.config(self.preset)
        weights = to_pyiqa(deterministic_params(config, SEED))
        model = TorchMusiq(config)
        model.load_state_dict({name: torch.tensor(array) for name, array in weights.items()})
        return model.to(self.where)

    def score(self, case: Case) -> Run:
        import torch

        model, images = self.model(case), pictures(case)

        @torch.inference_mode()
        def run() -> list[float]:
            return [model(self.pixels(image)).item() for image in images]

        return run

    def tokens(self, case: Case) -> Run:
        import torch

        model, images = self.model(case), pictures(case)

        @torch.inference_mode()
        def run() -> list[float]:
            return [float(len(model.tokenize(self.pixels(image)).mask)) for image in images]

        return run

    def folder(self, case: Case) -> Run:
        import torch

        model, folder = self.model(case), write_photographs(case, self.scratch / case.name)

        @torch.inference_mode()
        def run() -> list[float]:
            return [model(self.pixels(decode(path))).item() for path in sorted(folder.iterdir())]

        return run

    def image_gradient(self, case: Case) -> Run:
        return self._gradient(case, parameters=False)

    def forward_backward(self, case: Case) -> Run:
        return self._gradient(case, parameters=True)

    def _gradient(self, case: Case, parameters: bool) -> Run:
        [image], model = pictures(case), self.model(case).requires_grad_(parameters)

        def run() -> list[float]:
            x = self.pixels(image).requires_grad_()
            model.zero_grad()
            score = model(x).sum()
            score.backward()
            assert x.grad is not None
            return [score.item(), x.grad.norm().item()]

        return run

    def training_step(self, case: Case) -> Run:
        """The plain batch at once; of a recipe, one image at a time, as it has micro-batches."""
        import torch

        model, batch = self.model(case), training_batch(case)
        optimizer = torch.optim.SGD(model.parameters(), lr=RATE, momentum=MOMENTUM)
        size, first = 1 if case.recipe else case.taken, 0
        with torch.no_grad():
            tokens = [model.tokenize(self.pixels(image)) for image in batch]
        targets = torch.linspace(0, 100, len(batch), device=self.where)

        def run() -> list[float]:
            nonlocal first
            optimizer.zero_grad()
            total = 0.0
            for start in range(first, first + case.taken, size):
                here = slice(start, start + size)
                together = tokens[start]._replace(patches=torch.cat([one.patches for one in tokens[here]]))
                score = model.score(model.outputs(together))
                loss = (score - targets[here]).abs().sum() / len(batch)
                loss.backward()
                total += loss.item()
            optimizer.step()
            if self.where.type == "cuda":
                torch.cuda.synchronize()
            first = (first + case.taken) % len(batch)
            return [total]

        return run


class Pyiqa(Contender):
    """pyiqa's MUSIQ on the CPU, with the weights that it fetches for itself; scores alone."""

    def __init__(self, preset: str, threads: int, scratch: str, backend: str = "numpy") -> None:
        super().__init__(preset, threads, scratch, backend)
        import pyiqa  # type: ignore[reportMissingImports]
        import torch

        torch.set_num_threads(threads)
        self.metric = pyiqa.create_metric("musiq", device=torch.device("cpu"))
        self.about = {"pyiqa": getattr(pyiqa, "__version__", "not known")}

    def score(self, case: Case) -> Run:
        import torch

        images = pictures(case)

        def run() -> list[float]:
            with torch.inference_mode():
                for image in images:
                    self.metric(_pixels(image))
            return []  # its weights are others

        return run


def _pixels(image: np.ndarray) -> Any:
    """uint8 (H, W, 3) as PyTorch's models take it: (1, 3, H, W) in [0, 1]."""
    import torch

    return torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float() / 255
