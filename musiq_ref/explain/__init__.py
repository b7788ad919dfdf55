"""Seeing what the model sees: attention rollout, and pictures (which need matplotlib, the extra "tutorials")."""

from musiq_ref.explain.rollout import attention_rollout
from musiq_ref.explain.scales import maps_by_scale, multi_scale_patches, over_scales, scale_name

__all__ = ["attention_rollout", "maps_by_scale", "multi_scale_patches", "over_scales", "scale_name"]
