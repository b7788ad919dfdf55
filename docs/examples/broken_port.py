"""A PyTorch port with three bugs that real ports had, and the three repairs, as ports for `musiq-ref compare`.

musiq-ref fixture reference/ --conventions pyiqa
musiq-ref compare reference/ docs/examples/broken_port.py:first_try
"""

import torch

from musiq_ref.verify.torch_adapter import pyiqa_hooks, torch_port
from musiq_ref.verify.torch_port import TorchMusiq


class Port(TorchMusiq):
    """The repository's PyTorch model, with bugs switched on by name."""

    def __init__(self, config, bugs):
        super().__init__(config)
        self.bugs = bugs
        if "eps" in bugs:  # nn.LayerNorm's default
            for module in self.modules():
                if isinstance(module, torch.nn.LayerNorm):
                    module.eps = 1e-5

    def tokenize(self, image):
        image = image.flip(1) if "bgr" in self.bugs else image  # cv2.imread returns blue, green, red
        tokens = super().tokenize(image)
        if "scale" in self.bugs:  # written for two scales
            tokens = tokens._replace(scale_index=tokens.scale_index.clamp(max=1))
        return tokens


def port(*bugs):
    def run(fixture, tap):
        module = Port(fixture.config, bugs)
        inner = torch_port(module, lambda m, image: m(image), pyiqa_hooks(fixture.config), extra=tokens)
        return inner(fixture, tap)

    return run


def tokens(module, image):
    t = module.tokenize(image)
    return {
        "patches": t.patches.numpy(),
        "hash_index": t.hash_index.numpy(),
        "scale_index": t.scale_index.numpy(),
        "mask": t.mask.numpy(),
    }


first_try = port("bgr", "scale", "eps")
channels_repaired = port("scale", "eps")
scales_repaired = port("eps")
repaired = port()
