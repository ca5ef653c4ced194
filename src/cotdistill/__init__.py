"""cotdistill: chain-of-thought distillation, from questions to a verdict on the student.

    Question -> Trace -> Verdict -> Example -> Adapter -> Prediction -> Report

    report = cotdistill.run("recipes/quickstart.yaml")
"""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cotdistill.report import Report

__version__ = "0.1.0"


def run(recipe: str | Path, *, runs: str | Path = "runs", overwrite: bool = False, quiet: bool = False) -> "Report":
    """Do a whole recipe, or what is left of it, and return its report. Raises ``CotdistillError``."""
    from cotdistill.pipeline import run as run_pipeline
    from cotdistill.recipe import load_recipe

    return run_pipeline(load_recipe(Path(recipe)), runs=Path(runs), overwrite=overwrite, quiet=quiet)
