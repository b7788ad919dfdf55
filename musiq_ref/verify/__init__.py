"""Checking gradients and implementations: gradient check, single ops, traces, fixtures, comparison, diagnosis.

Adapters for callables are in `verify.adapters`, `verify.torch_adapter` and `verify.framework_adapters`.
"""

from musiq_ref.verify.check_op import OpError, OpResult, op
from musiq_ref.verify.compare import Comparison, Rung, compare
from musiq_ref.verify.deterministic import bits, deterministic_image, deterministic_params, unit
from musiq_ref.verify.fingerprint import Diagnosis, Finding, fingerprint
from musiq_ref.verify.fixture import Fixture, FixtureError, build_fixture, load_fixture, make_fixture
from musiq_ref.verify.gradient_check import GradientError, check_vjp
from musiq_ref.verify.self_test import self_test
from musiq_ref.verify.trace import trace

__all__ = [
    "Comparison",
    "Diagnosis",
    "Finding",
    "Fixture",
    "FixtureError",
    "GradientError",
    "OpError",
    "OpResult",
    "Rung",
    "bits",
    "build_fixture",
    "check_vjp",
    "compare",
    "deterministic_image",
    "deterministic_params",
    "fingerprint",
    "load_fixture",
    "make_fixture",
    "op",
    "self_test",
    "trace",
    "unit",
]
