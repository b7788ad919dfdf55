"""Seeing what the model sees: attention rollout, and pictures (which need matplotlib, the extra "tutorials")."""

from musiq_ref.explain.attention_maps import attention_of_head, head_over_photograph, rollout_over_photograph
from musiq_ref.explain.diagram import diagram_steps, model_diagram
from musiq_ref.explain.diagrams import attention_diagram, block_diagram, encoder_diagram
from musiq_ref.explain.gradient import gradient_over_photograph
from musiq_ref.explain.positions import embedding_similarity, hash_grid, similarity_grid
from musiq_ref.explain.rollout import attention_rollout
from musiq_ref.explain.scales import maps_by_scale, multi_scale_patches, over_scales, scale_name
from musiq_ref.explain.severity import severity_curves, severity_scores

__all__ = [
    "attention_diagram",
    "attention_of_head",
    "attention_rollout",
    "block_diagram",
    "diagram_steps",
    "embedding_similarity",
    "encoder_diagram",
    "gradient_over_photograph",
    "hash_grid",
    "head_over_photograph",
    "maps_by_scale",
    "model_diagram",
    "multi_scale_patches",
    "over_scales",
    "rollout_over_photograph",
    "scale_name",
    "severity_curves",
    "severity_scores",
    "similarity_grid",
]
