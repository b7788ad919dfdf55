"""Checking gradients and implementations: gradient check, single ops, traces, fixtures, comparison, diagnosis.

Adapters for callables are in `verify.adapters`, `verify.torch_adapter` and `verify.framework_adapters`.
"""

from musiq_ref.verify.check.gradient import GradientError, check_vjp
from musiq_ref.verify.check.op import OpError, OpResult, op
from musiq_ref.verify.comparison.climb import compare
from musiq_ref.verify.comparison.report import Comparison, Rung
from musiq_ref.verify.comparison.self_test import self_test
from musiq_ref.verify.ladder.deterministic import bits, deterministic_image, deterministic_params, unit
from musiq_ref.verify.ladder.fixture import Fixture, FixtureError, build_fixture, load_fixture, make_fixture
from musiq_ref.verify.ladder.tracing import trace
from musiq_ref.verify.mistakes.diagnosis import Diagnosis, Finding, fingerprint

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
