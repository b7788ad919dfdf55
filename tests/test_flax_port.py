"""A port with flax.linen's own modules, alone and in a batch of several sizes: run where Flax is installed."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from musiq_ref.verify import build_fixture
from musiq_ref.verify.adapters import compare_port
from musiq_ref.verify.framework_adapters import jax_port

pytest.importorskip("flax.linen", reason="needs Flax, which the extra flax brings")
FIXTURE = build_fixture()


def others():
    """Images of other sizes: a tall one with more tokens, a small one with fewer."""
    rng = np.random.default_rng(0)
    return [rng.random((h, w, 3), np.float32) for h, w in ((190, 70), (40, 66))]


@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize(("eps", "first"), [(1e-6, None), (1e-4, "encoder/block_01/norm2")])
def test_a_right_port_with_flax_passes_and_a_wrong_one_does_not(eps, first, batched):
    from flax_port import port

    function = partial(port, eps=eps, others=others() if batched else ())
    result = compare_port(FIXTURE, jax_port(function), diagnose=False)
    assert (result.first and result.first.name) == first, str(result)
    assert sum(r.status != "missing" for r in result.rungs) > 80
