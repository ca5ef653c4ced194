"""``cotdistill init``: a commented recipe to begin with."""

from pathlib import Path
from typing import Annotated

import typer

from cotdistill.errors import UsageError


def init(
    recipe: Annotated[Path, typer.Argument(help="Where it goes.", metavar="RECIPE")] = Path("recipe.yaml"),
) -> None:
    """Write a commented recipe with the keys and defaults that most runs need, and recipe.schema.json for editors.

    A recipe that is there is not replaced; the schema beside it is renewed.
    """
    from importlib.resources import files

    from cotdistill.recipe import json_schema
    from cotdistill.storage.disk import write_atomic

    schema = recipe.with_name("recipe.schema.json")
    if recipe.exists() or recipe == schema:
        raise UsageError(f"{recipe} is there already, or is the schema's name; name another file")
    recipe.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(schema, json_schema())
    write_atomic(recipe, files("cotdistill").joinpath("starter.yaml").read_bytes())
    typer.echo(f"{recipe}: put in your models and questions, then: cotdistill plan {recipe}")
