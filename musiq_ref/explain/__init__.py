"""Seeing what the model sees: attention rollout, and pictures (which need matplotlib, the extra "tutorials")."""

from musiq_ref.explain.rollout import attention_rollout

__all__ = ["attention_rollout"]
