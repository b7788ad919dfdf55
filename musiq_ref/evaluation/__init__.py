"""How well a model's scores follow people's, or a known severity: ratings, their metrics, and the files they leave."""

from musiq_ref.evaluation.rating import (
    PUBLISHED,
    Rated,
    choose_parts,
    rate,
    rate_synthetic,
    summarize,
    worst,
)
from musiq_ref.training.datasets import open_dataset

__all__ = ["PUBLISHED", "Rated", "choose_parts", "open_dataset", "rate", "rate_synthetic", "summarize", "worst"]
