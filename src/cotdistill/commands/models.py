"""``cotdistill models``: list, pull and convert open models."""

from pathlib import Path
from typing import Annotated

import typer

from cotdistill.download import Format

app = typer.Typer(help="List, pull and convert open models.", no_args_is_help=True, rich_markup_mode=None)


@app.command("list")
def list_models() -> None:
    """The catalogue: name, size, quantisation, licence and origin."""
    from cotdistill.catalog import MODELS

    for model in MODELS:
        typer.echo(
            f"{model.name:<28} {model.size / 1e6:>6.0f} MB  {model.quantisation:<7} {model.licence}  {model.source}"
        )


@app.command()
def pull(
    name: Annotated[str, typer.Argument(help="A name of the catalogue.")],
    to: Annotated[
        Path | None, typer.Option("--to", help="Directory to fill, such as models/teacher. Default: the cache.")
    ] = None,
    format: Annotated[
        Format | None,
        typer.Option("--format", help="gguf keeps the file; hf converts it. Default: gguf, hf for models/student."),
    ] = None,
) -> None:
    """Download a model, check its size and SHA-256, and put it where the commands look for it.

    In the cache, commands find it by its name.
    """
    from cotdistill import download
    from cotdistill.catalog import find_model

    # A student is trained, which needs weights that transformers reads; a teacher runs fastest as GGUF.
    chosen = format or ("hf" if to and to.name == "student" else "gguf")
    if to is None:
        typer.echo(download.local_model(find_model(name).name, want=chosen))
    else:
        typer.echo(download.pull(name, to, format=chosen))


@app.command()
def convert(
    gguf: Annotated[Path, typer.Argument(help="A GGUF file, or a directory that holds one.")],
    to: Annotated[Path, typer.Option("--to", help="Hugging Face directory to write.")],
) -> None:
    """Dequantise a GGUF file into a Hugging Face directory (float32, safetensors)."""
    from cotdistill.model_files.conversion import to_hugging_face
    from cotdistill.model_files.gguf_header import only_gguf

    to_hugging_face(only_gguf(gguf), to)
    typer.echo(to)
