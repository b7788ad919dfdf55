"""A port on MLX, with its own names and layouts: run where the extra mlx is installed."""

from __future__ import annotations

from functools import partial

import pytest

from musiq_ref.verify import build_fixture
from musiq_ref.verify.adapters import compare_port

pytest.importorskip("mlx.core", reason="needs MLX, which the extra mlx brings")


@pytest.mark.parametrize(("eps", "first"), [(1e-6, None), (1e-4, "encoder/block_01/norm2")])
def test_a_right_port_on_mlx_passes_and_a_wrong_one_does_not(eps, first):
    from mlx_port import port

    fixture = build_fixture(conventions="pyiqa")
    result = compare_port(fixture, partial(port, eps=eps), diagnose=False)
    assert (result.first and result.first.name) == first, str(result)
    assert sum(r.status != "missing" for r in result.rungs) > 80
