"""``cotdistill train``, ``scripts/train_cot_lora.py``: the student learns the traces with LoRA."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from cotdistill.commands import options as o
from cotdistill.prompt import SYSTEM_PROMPT


class Target(StrEnum):
    reasoning = "reasoning"
    answer = "answer"


def train(
    student_model: Annotated[str, typer.Option("--student_model", help="Directory or catalogue name.")],
    cot_dataset: Annotated[Path, typer.Option("--cot_dataset", help="Traces, as `generate` writes them.")],
    output_dir: Annotated[Path, typer.Option("--output_dir", help="Where the adapter goes.")],
    num_epochs: Annotated[float, typer.Option("--num_epochs", min=0.01)] = 3,
    batch_size: Annotated[int, typer.Option("--batch_size", min=1, help="Examples computed together.")] = 4,
    gradient_accumulation_steps: Annotated[int, typer.Option("--gradient_accumulation_steps", min=1)] = 4,
    learning_rate: Annotated[float, typer.Option("--learning_rate", min=0.0)] = 2e-4,
    max_length: Annotated[int, typer.Option("--max_length", min=2, help="Longer examples are left out.")] = 1024,
    gradient_checkpointing: Annotated[
        bool, typer.Option("--gradient_checkpointing", help="Less memory, about a third slower.")
    ] = False,
    lora_r: Annotated[int, typer.Option("--lora_r", min=1)] = 8,
    lora_alpha: Annotated[int, typer.Option("--lora_alpha", min=1)] = 16,
    lora_dropout: Annotated[float, typer.Option("--lora_dropout", min=0.0, max=0.99)] = 0.05,
    target_modules: Annotated[
        str, typer.Option("--target_modules", help="Names of linear layers, with commas or spaces between.")
    ] = "",
    target: Annotated[
        Target, typer.Option("--target", help="What to learn: the reasoning, or the final answer alone.")
    ] = Target.reasoning,
    system_prompt: o.SystemPrompt = SYSTEM_PROMPT,
    load_in_4bit: o.Load4Bit = None,
    device_map: o.DeviceMap = "auto",
    seed: o.Seed = 42,
    limit: o.Limit = None,
    trust_remote_code: o.TrustRemoteCode = False,
    overwrite: o.Overwrite = False,
    break_lock: o.BreakLock = False,
    quiet: o.Quiet = False,
) -> None:
    """Fine-tune the student on every trace that may teach. Resumes from the last checkpoint.

    Verdicts beside the data set decide which traces teach; where there are none, the traces are judged first.
    """
    from contextlib import ExitStack

    from cotdistill.dataset import load_dataset
    from cotdistill.lock import locked
    from cotdistill.manifest import Manifest, input_of
    from cotdistill.ranks import here
    from cotdistill.recipe import Lora, TrainSettings
    from cotdistill.stages import run_train

    lora = Lora(lora_r, lora_alpha, lora_dropout, tuple(target_modules.replace(",", " ").split()))
    settings = TrainSettings(
        num_epochs=num_epochs,
        batch_size=batch_size,
        gradient_accumulation_steps=gradient_accumulation_steps,
        learning_rate=learning_rate,
        max_length=max_length,
        gradient_checkpointing=gradient_checkpointing,
        seed=seed,
        target=target.value,
        lora=lora,
    )
    record = output_dir.resolve().with_name(f"{output_dir.resolve().name}.manifest.json")
    ranks = here()
    ranks.join()
    with ExitStack() as held:
        with ranks.together():
            verdicts = o.beside(cot_dataset, "verdicts.jsonl")
            dataset = load_dataset(cot_dataset, verdicts, target=target.value, limit=limit)
            if ranks.first:
                typer.echo(f"{cot_dataset}: {len(dataset.pairs)} traces teach ({o.counted(dataset.counts)})")
                held.enter_context(locked(record, break_lock=break_lock))
            manifest = Manifest.open(record)
            read = {"cot_dataset": cot_dataset, "verdicts": verdicts}
            inputs = {name: input_of(path) for name, path in read.items() if path.exists()}
            manifest.prepare(inputs=inputs, seeds={"train": seed})
        facts = run_train(
            dataset.pairs,
            output_dir,
            manifest,
            student=student_model,
            system_prompt=system_prompt,
            settings=settings,
            load_in_4bit=load_in_4bit,
            device_map=device_map,
            trust_remote_code=trust_remote_code,
            overwrite=overwrite,
            quiet=quiet,
        )
        if not ranks.first:
            return
    losses = facts["losses"]
    typer.echo(
        f"{output_dir}: {facts['examples']} examples, {facts['steps']} steps, {facts['targets']}; "
        f"loss {losses[0][1]:.3f} -> {losses[-1][1]:.3f} nats a token"  # type: ignore[index]
    )
