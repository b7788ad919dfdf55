"""Fixtures shared by all tests: where arrays live, and random inputs that nothing may write into."""

from __future__ import annotations

import os
from functools import cache

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

from musiq_ref.backend import get_backend

settings.register_profile("default", deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
settings.load_profile("default")


@cache
def _device(name):
    if name == "double":
        from cupy_double import BACKEND

        return BACKEND
    return get_backend(name)


@pytest.fixture(params=os.environ.get("MUSIQ_REF_TEST_BACKENDS", "numpy,double").split(","))
def device(request):
    """The backend that a test runs on: NumPy and the stand-in for CuPy; with `make gpu`, CuPy."""
    return _device(request.param)


@pytest.fixture
def rng():
    return np.random.default_rng(20260101)
