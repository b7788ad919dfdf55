"""The paper's ablations (appendix tables 2–6, section B.2, and the parts left out), small, on the synthetic set.

One TOML file an ablation, with the published figures; base.toml says what all share and by which rules it is small.
"""

from musiq_ref.ablations.definitions import ABLATIONS, Ablation, Cell, Grid, Row, ablation, grid
from musiq_ref.ablations.results import markdown, report
from musiq_ref.ablations.run import run_grid

__all__ = ["ABLATIONS", "Ablation", "Cell", "Grid", "Row", "ablation", "grid", "markdown", "report", "run_grid"]
