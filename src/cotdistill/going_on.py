"""Going on: the command that goes on with a run directory, wherever it was moved or copied to."""

import shlex
from pathlib import Path

from cotdistill.errors import CotdistillError, DataError
from cotdistill.run_directory import RunDirectory
from cotdistill.storage.manifest import Manifest


def go_on(directory: Path) -> str:
    """``cotdistill run runs/quickstart/recipe.yaml``, with the flags without which it would begin another run."""
    whole, file = directory.resolve(), RunDirectory(directory).recipe
    runs, here = whole.parent, Path.cwd()
    if runs.is_relative_to(here) and not directory.is_absolute():
        runs = runs.relative_to(here)
    command = f"cotdistill run {shlex.quote(str(file)) if file.is_file() else 'RECIPE'}"
    if runs != Path("runs") and whole.parent != here / "runs":
        command += f" --runs {shlex.quote(str(runs))}"
    return command if _name(file) == whole.name else f"{command} --name {shlex.quote(whole.name)}"


def refuse_gap(directory: Path, manifest: Manifest) -> None:
    """Raise ``DataError`` for a run directory that has lost its manifest, its recipe or its questions: what is gone and
    what brings it back. Nothing is said of a directory that never was one."""
    recipe = RunDirectory(directory).recipe
    if not manifest.path.exists():
        if recipe.is_file():
            raise DataError(
                f"{manifest.path} is gone, and nothing else says how the files beside it were made: put it back, or "
                f"start anew: {go_on(directory)} --overwrite"
            )
        return
    lost = manifest.lost("questions")
    if not recipe.is_file() and manifest.noted("recipe"):
        lost = recipe
    if lost:
        raise DataError(f"{lost} is gone; this makes it again: {go_on(directory)}")


def _name(recipe: Path) -> str:
    """What a recipe calls its run; nothing where it cannot be read."""
    from cotdistill.recipe import load_recipe  # late: it names the command itself

    try:
        return load_recipe(recipe).name
    except CotdistillError:
        return ""
