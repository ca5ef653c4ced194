"""cotdistill: chain-of-thought distillation, from questions to a verdict on the student.

    Question -> Trace -> Verdict -> Example -> Adapter -> Prediction -> Report

    report = cotdistill.run("recipes/quickstart.yaml")
"""

from pathlib import Path
from typing import TYPE_CHECKING

from cotdistill.errors import CotdistillError

if TYPE_CHECKING:
    from cotdistill.recipe import Recipe
    from cotdistill.report import Report

__version__ = "0.1.0"
__all__ = ["CotdistillError", "run"]


def run(
    recipe: "str | Path | Recipe",
    *,
    runs: str | Path = "runs",
    overwrite: bool = False,
    force: bool = False,
    break_lock: bool = False,
    quiet: bool = False,
) -> "Report":
    """Do a whole recipe, or what is left of it, and return its report; accuracies in it are shares between 0 and 1.

    ``recipe`` is a YAML file, or a ``Recipe`` (``cotdistill.recipe`` reads and changes them). All files are written
    into ``runs``/NAME, where the same call goes on. ``overwrite`` begins anew. ``force`` goes on where the plan says
    that the run cannot help. ``break_lock`` takes over from a process on another host that is gone for certain.
    ``quiet`` shows no progress.

    Raises ``CotdistillError``, in one sentence, for whatever the user can fix; what was done stays done. The subclasses
    are in ``cotdistill.errors``; ``NotWorthIt`` is the plan's advice against the run.
    """
    from cotdistill.pipeline import run as run_pipeline
    from cotdistill.recipe import load_recipe

    whole = load_recipe(Path(recipe)) if isinstance(recipe, str | Path) else recipe
    return run_pipeline(
        whole, runs=Path(runs), overwrite=overwrite, force=force, break_lock=break_lock, quiet=quiet
    )
