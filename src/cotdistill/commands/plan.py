"""``cotdistill plan``: what a recipe promises and costs, before it is run."""

from pathlib import Path

import typer

from cotdistill.commands import options as o
from cotdistill.commands.runs import Name, RecipeFile, Runs, RunSeed


def plan(
    recipe: RecipeFile,
    runs: Runs = Path("runs"),
    name: Name = None,
    seed: RunSeed = None,
    overwrite: o.Overwrite = False,
    break_lock: o.BreakLock = False,
    quiet: o.Quiet = False,
) -> None:
    """Ask base and teacher a few dozen training questions, and say what the whole recipe can gain and will cost.

    Exits 3 where it finds that the recipe cannot help. `run` begins with the same and asks nothing again.
    """
    import shlex

    from cotdistill.errors import NotWorthIt
    from cotdistill.plans.plan import lines
    from cotdistill.recipe import load_recipe, with_name, with_seed

    resolved = load_recipe(recipe)
    if name:
        resolved = with_name(resolved, name)
    if seed is not None:
        resolved = with_seed(resolved, seed)
    from cotdistill.pipeline import plan as make_plan

    made = make_plan(resolved, runs=runs, overwrite=overwrite, break_lock=break_lock, quiet=quiet)
    flags = {"--runs": None if runs == Path("runs") else runs, "--name": name, "--seed": seed}
    words = [word for flag, value in flags.items() if value is not None for word in (flag, str(value))]
    go_on = shlex.join(["cotdistill", "run", str(recipe), *words])
    for line in lines(made):
        typer.echo(line)
    if made.stop:
        raise NotWorthIt(f"the plan says no: {made.stop}; change the recipe, or {go_on} --force")
    typer.echo(f"\ngo on: {go_on}")
