"""Checking gradients and implementations: the gradient check, traces of every intermediate, deterministic tensors."""

from musiq_ref.verify.check_op import OpError, OpResult, op
from musiq_ref.verify.deterministic import bits, deterministic_image, deterministic_params, unit
from musiq_ref.verify.gradient_check import GradientError, check_vjp
from musiq_ref.verify.trace import trace

__all__ = [
    "GradientError",
    "OpError",
    "OpResult",
    "bits",
    "check_vjp",
    "deterministic_image",
    "deterministic_params",
    "op",
    "trace",
    "unit",
]
