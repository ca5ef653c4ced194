"""``cotdistill run``, ``report``, ``compare``, ``view`` and ``chat``: whole runs."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cotdistill.commands import options as o
from cotdistill.run_directory import RunDirectory
from cotdistill.shown import TableFormat

if TYPE_CHECKING:
    from cotdistill.report import Report

OneRun = Annotated[Path, typer.Argument(help="A run directory, such as runs/quickstart.")]
RecipeFile = Annotated[Path, typer.Argument(help="A recipe, such as recipes/quickstart.yaml.")]
Runs = Annotated[Path, typer.Option("--runs", help="Where run directories live.")]
Name = Annotated[str | None, typer.Option("--name", help="Run name, instead of the recipe's.")]
RunSeed = Annotated[
    int | None, typer.Option("--seed", min=0, help="Seed of training questions and training, instead of the recipe's.")
]


def run(
    recipe: RecipeFile,
    runs: Runs = Path("runs"),
    name: Name = None,
    seed: RunSeed = None,
    baseline: o.Baseline = "",
    gate: Annotated[bool, typer.Option("--gate", help="Exit 3 unless the student is shown to be better.")] = False,
    skip_plan: Annotated[bool, typer.Option("--skip_plan", help="Begin without the plan.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Go on where the plan says no.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry_run", help="Print the resolved recipe and stop.")] = False,
    overwrite: o.Overwrite = False,
    break_lock: o.BreakLock = False,
    quiet: o.Quiet = False,
) -> None:
    """Do a whole recipe: plan, questions, traces, verdicts, training, evaluation, report.

    The same command goes on where it was stopped.
    """
    from cotdistill.recipe import dump_recipe, load_recipe, with_baselines, with_name, with_seed, without_plan

    resolved = load_recipe(recipe)
    if name:
        resolved = with_name(resolved, name)
    if seed is not None:
        resolved = with_seed(resolved, seed)
    if baseline:
        resolved = with_baselines(resolved, baseline)
    if skip_plan:
        resolved = without_plan(resolved)
    if dry_run:
        typer.echo(dump_recipe(resolved), nl=False)
        return
    from cotdistill.pipeline import run as run_pipeline

    result = run_pipeline(
        resolved, runs=runs, overwrite=overwrite, force=force, break_lock=break_lock, quiet=quiet
    )
    _print(result)
    typer.echo(f"\n{RunDirectory(runs / resolved.name).page}")
    if gate and result.verdict != "better":
        raise typer.Exit(3)


def report(
    directory: OneRun,
    form: Annotated[TableFormat, typer.Option("--format", help="How the table is written.")] = "table",
) -> None:
    """Make the report of a run again from its files, and print its table.

    Writes 7_report.json, 7_report.html and the adapter's model card. Loads no model.
    """
    from cotdistill.reporting.publication import publish
    from cotdistill.reporting.tabular import tabular

    result = publish(directory)
    if form == "table":
        _print(result)
    else:
        typer.echo(tabular(result, form))


def compare(
    directories: Annotated[list[Path], typer.Argument(metavar="RUN_A RUN_B ...", help="Finished runs.")],
    output: Annotated[Path, typer.Option("--output", help="Where the page goes.")] = Path("compare.html"),
) -> None:
    """Compare the students of several runs on the questions that all of them were asked.

    Runs that differ only in their seeds are one group, with mean and spread. Prints tables and writes a page.
    """
    from rich.console import Console

    from cotdistill.errors import UsageError
    from cotdistill.reporting.across import across
    from cotdistill.reporting.across_page import print_across, write_page

    if len(directories) < 2:
        raise UsageError("compare needs two runs or more: cotdistill compare RUN_A RUN_B")
    found = across(directories)
    write_page(found, output)
    print_across(found, Console())
    typer.echo(f"\n{output}")


def view(directory: OneRun) -> None:
    """Open the page of a run in the browser, and print where it is."""
    import webbrowser

    from cotdistill.reporting.publication import publish

    page = RunDirectory(directory).page
    if not page.is_file():
        publish(directory)
    typer.echo(page)
    if not webbrowser.open(page.resolve().as_uri()):
        typer.echo("no browser was found here; open the file in one yourself", err=True)


def chat(
    directory: OneRun,
    base: Annotated[bool, typer.Option("--base", help="Talk to the base alone.")] = False,
    student: Annotated[bool, typer.Option("--student", help="Talk to the student alone.")] = False,
    max_new_tokens: o.MaxNewTokens = 256,
) -> None:
    """Ask base and student of a run questions, one a line, and watch them answer; an empty line ends it."""
    from cotdistill.conversation import converse

    converse(directory, base=base or not student, student=student or not base, max_new_tokens=max_new_tokens)


def _print(result: "Report") -> None:
    from rich.console import Console

    from cotdistill.reporting.table import print_report

    print_report(result, Console())
