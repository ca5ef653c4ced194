"""``cotdistill init``: a commented recipe to begin with."""

from pathlib import Path
from typing import Annotated

import typer

from cotdistill.errors import UsageError


def init(
    recipe: Annotated[Path, typer.Argument(help="Where it goes.", metavar="RECIPE")] = Path("recipe.yaml"),
) -> None:
    """Write a recipe with every key and its default, and its JSON schema for editors. Replaces nothing."""
    from importlib.resources import files

    from cotdistill.recipe import json_schema
    from cotdistill.storage.disk import write_atomic

    schema = recipe.with_name("recipe.schema.json")
    if recipe.exists():
        raise UsageError(f"{recipe} is there already; name another file")
    recipe.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(schema, json_schema())
    write_atomic(recipe, files("cotdistill").joinpath("starter.yaml").read_bytes())
    typer.echo(f"{recipe}: put in your models and questions, then: cotdistill plan {recipe}")
