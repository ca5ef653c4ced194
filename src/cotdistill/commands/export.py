"""``cotdistill export``: the student as a model of its own, for other programs to run."""

from pathlib import Path
from typing import Annotated

import typer

from cotdistill.commands import options as o
from cotdistill.model_files.quantisation import Quant


def export(
    run: Annotated[Path | None, typer.Argument(help="A run directory, such as runs/quickstart.")] = None,
    merged: Annotated[Path | None, typer.Option("--merged", help="Hugging Face directory to write.")] = None,
    gguf: Annotated[Path | None, typer.Option("--gguf", help="GGUF file to write, for llama.cpp and Ollama.")] = None,
    quant: Annotated[Quant, typer.Option("--quant", help="Number format of the GGUF.")] = "q8_0",
    base_model: Annotated[
        str | None, typer.Option("--base_model", help="Instead of a run: the base, directory or catalogue name.")
    ] = None,
    lora_model: Annotated[Path | None, typer.Option("--lora_model", help="Instead of a run: the adapter.")] = None,
    dequantize: Annotated[
        bool, typer.Option("--dequantize", help="For a student trained in 4-bit: merge into those weights, unpacked.")
    ] = False,
    evaluate: Annotated[
        bool, typer.Option("--evaluate", help="Ask it (the GGUF, if any) the held-out questions; for the report.")
    ] = False,
    trust_remote_code: o.TrustRemoteCode = False,
    overwrite: o.Overwrite = False,
    break_lock: o.BreakLock = False,
    quiet: o.Quiet = False,
) -> None:
    """Merge the adapter into its base and write the result; both ways may be asked for at once.

    A directory is loaded again and must compute what base and adapter do; a GGUF is loaded in llama.cpp, must read a
    check question as the same tokens, and its answer is compared with the merged model's.
    """
    from cotdistill.card import check_adapter
    from cotdistill.download import local_model
    from cotdistill.errors import UsageError
    from cotdistill.export import export_model
    from cotdistill.going_on import go_on, refuse_gap
    from cotdistill.learning.ranks import here
    from cotdistill.recipe import load_recipe
    from cotdistill.run_directory import RunDirectory
    from cotdistill.storage.manifest import Manifest

    here().alone("an export")
    if not merged and not gguf:
        raise UsageError("say what to write: --merged DIR, --gguf FILE or both")
    if gguf and gguf.suffix != ".gguf":
        raise UsageError(f"--gguf {gguf} must be named *.gguf, or nothing would know it for one")
    four_bit = False
    if run:
        if base_model or lora_model:
            raise UsageError("give a run directory, or --base_model and --lora_model, not both")
        files = RunDirectory(run)
        manifest = Manifest.open(files.manifest)
        refuse_gap(run, manifest)
        if not files.recipe.is_file():
            raise UsageError(f"{run} is no run directory; name one, such as runs/quickstart")
        if evaluate and not manifest.done("evaluate/student"):
            raise UsageError(f"--evaluate compares with the student, and {run} is not finished: {go_on(run)}")
        models = load_recipe(files.recipe).models
        base_model, lora_model = models.student, files.adapter
        four_bit, trust_remote_code = models.load_in_4bit is True, trust_remote_code or models.trust_remote_code
    if not base_model or not lora_model:
        raise UsageError("name the run directory, or --base_model and --lora_model")
    if evaluate and not run:
        raise UsageError("--evaluate needs a run directory; without one use: cotdistill evaluate")
    check_adapter(lora_model)
    lines = export_model(
        local_model(base_model, want="hf"), lora_model, merged=merged, gguf=gguf, quant=quant,
        four_bit=four_bit, dequantize=dequantize, trust_remote_code=trust_remote_code, overwrite=overwrite,
    )  # fmt: skip
    for line in lines:
        typer.echo(line)
    if run and evaluate and (artifact := gguf or merged):
        from cotdistill.exported import evaluate_export

        typer.echo(evaluate_export(run, artifact, overwrite=overwrite, break_lock=break_lock, quiet=quiet))
