"""``cotdistill train``, ``scripts/train_cot_lora.py``: the student learns the traces with LoRA."""

from pathlib import Path
from typing import Annotated, Any

import typer

from cotdistill.commands import options as o
from cotdistill.errors import UsageError
from cotdistill.prompt import SYSTEM_PROMPT
from cotdistill.settings.objective import TOKEN_LEVEL, Objective
from cotdistill.settings.train import Optimizer, Scheduler, Target, Tracker


def train(
    student_model: Annotated[str, typer.Option("--student_model", help="Directory or catalogue name.")],
    cot_dataset: Annotated[
        Path, typer.Option("--cot_dataset", help="Traces, as `generate` writes them or made by hand.")
    ],
    output_dir: Annotated[Path, typer.Option("--output_dir", help="Where the adapter goes.")],
    num_epochs: Annotated[float, typer.Option("--num_epochs", min=0.01)] = 3,
    batch_size: Annotated[int, typer.Option("--batch_size", min=1, help="Examples computed together.")] = 4,
    gradient_accumulation_steps: Annotated[int, typer.Option("--gradient_accumulation_steps", min=1)] = 4,
    learning_rate: Annotated[float, typer.Option("--learning_rate", min=0.0)] = 2e-4,
    lr_scheduler: Annotated[
        Scheduler, typer.Option("--lr_scheduler", help="How the learning rate goes on after the warm-up.")
    ] = "cosine",
    warmup_ratio: Annotated[
        float, typer.Option("--warmup_ratio", min=0.0, max=1.0, help="Share of steps in which it rises.")
    ] = 0.03,
    optim: Annotated[
        Optimizer, typer.Option("--optim", help="adamw_8bit keeps its state in a quarter of the memory.")
    ] = "adamw",
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
    use_dora: Annotated[
        bool, typer.Option("--use_dora", help="DoRA: lengths and directions apart; slower, at times better.")
    ] = False,
    use_rslora: Annotated[
        bool, typer.Option("--use_rslora", help="rsLoRA: scale by alpha / sqrt(r), for a large r.")
    ] = False,
    validation: Annotated[
        float, typer.Option("--validation", min=0.0, max=0.9, help="Share of questions to try the adapter on.")
    ] = 0.0,
    patience: Annotated[
        int | None, typer.Option("--patience", min=1, help="Stop after N epochs without a better adapter.")
    ] = None,
    target: Annotated[
        Target,
        typer.Option("--target", help="What to learn: the reasoning, the answer alone, or thoughts and reasoning."),
    ] = "reasoning",
    objective: Annotated[
        Objective, typer.Option("--objective", help="What the student is trained for.")
    ] = "sft",
    alpha: Annotated[
        float | None,
        typer.Option("--alpha", min=0.0, max=1.0, help="step_by_step: share of the answers alone in the loss (0.5)."),
    ] = None,
    teacher_model: Annotated[
        str | None, typer.Option("--teacher_model", help="on_policy, offline_kd: who scores each token.")
    ] = None,
    base_url: Annotated[
        list[str] | None,
        typer.Option("--base_url", help="Server with the teacher that gives prompt_logprobs, as vLLM's; up to /v1."),
    ] = None,
    concurrency: o.Concurrency = 16,
    timeout: o.Timeout = 600.0,
    api_key_env: o.ApiKeyEnv = None,
    api_key_file: o.ApiKeyFile = None,
    few_shot: Annotated[
        Path | None, typer.Option("--few_shot", help="on_policy, offline_kd: worked examples that the teacher sees.")
    ] = None,
    student_share: Annotated[
        float | None,
        typer.Option("--student_share", min=0.0, max=1.0, help="on_policy: rows that the student writes itself (0.5)."),
    ] = None,
    beta: Annotated[
        float | None,
        typer.Option("--beta", min=0.0, max=1.0, help="on_policy: 0 is KL(teacher || student), 1 the reverse (0.5)."),
    ] = None,
    max_new_tokens: Annotated[
        int | None, typer.Option("--max_new_tokens", min=1, help="on_policy: longest text the student writes (256).")
    ] = None,
    teacher_weight: Annotated[
        float | None,
        typer.Option("--teacher_weight", min=0.01, max=1.0, help="offline_kd: the teacher's share of the loss (0.5)."),
    ] = None,
    top_k: Annotated[
        int | None,
        typer.Option("--top_k", min=1, help="on_policy, offline_kd: the teacher's tokens that are told apart (32)."),
    ] = None,
    system_prompt: o.SystemPrompt = SYSTEM_PROMPT,
    load_in_4bit: o.Load4Bit = None,
    device_map: o.DeviceMap = "auto",
    report_to: Annotated[
        Tracker, typer.Option("--report_to", help="Who else is shown the loss.")
    ] = "none",
    seed: o.Seed = 42,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="Only N of the questions that have a trace to teach.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry_run", help="Check and show what would be trained, and stop.")
    ] = False,
    trust_remote_code: o.TrustRemoteCode = False,
    overwrite: o.Overwrite = False,
    break_lock: o.BreakLock = False,
    quiet: o.Quiet = False,
) -> None:
    """Fine-tune the student on every trace that may teach. Resumes from the last checkpoint.

    Verdicts beside the data set decide which traces teach; where there are none, the traces are judged first.
    """
    from contextlib import ExitStack

    from cotdistill.dataset import load_dataset, verdicts_and_scores_of
    from cotdistill.download import local_model
    from cotdistill.learning.ladder import refuse_alone
    from cotdistill.learning.lint import check_packages
    from cotdistill.learning.ranks import here
    from cotdistill.learning.rehearsal import rehearse
    from cotdistill.learning.scoring_teacher import ScoringTeacher, check_served, fitting
    from cotdistill.prompt import load_few_shot
    from cotdistill.settings.lora import Lora
    from cotdistill.settings.train import TrainSettings
    from cotdistill.stages.train import run_train
    from cotdistill.storage.lock import locked
    from cotdistill.storage.manifest import Manifest, input_of

    targets = tuple(target_modules.replace(",", " ").split())
    lora = Lora(lora_r, lora_alpha, lora_dropout, targets, use_dora, use_rslora)
    with o.usage():
        settings = o.checked(TrainSettings(
            num_epochs=num_epochs,
            batch_size=batch_size,
            gradient_accumulation_steps=gradient_accumulation_steps,
            learning_rate=learning_rate,
            warmup_ratio=warmup_ratio,
            lr_scheduler=lr_scheduler,
            optim=optim,
            max_length=max_length,
            gradient_checkpointing=gradient_checkpointing,
            seed=seed,
            target=target,
            validation=validation,
            patience=patience,
            lora=lora,
            objective=objective,
            **_own(
                objective,
                step_by_step={"alpha": alpha},
                on_policy={
                    "student_share": student_share, "beta": beta, "top_k": top_k, "max_new_tokens": max_new_tokens
                },
                offline_kd={"weight": teacher_weight, "top_k": top_k},
            ),
            report_to=report_to,
        ))
    refuse_alone(settings.objective)
    if objective == "reject_on_student":
        raise UsageError(
            "reject_on_student asks the student anew and needs the right answers: put it into a recipe for "
            "`cotdistill run`, or give the student to `generate` as --teacher_model and train on what `verify` keeps"
        )
    for flag, value in (("--few_shot", few_shot), ("--base_url", base_url)):
        if value and settings.objective not in TOKEN_LEVEL:
            raise UsageError(f"{settings.objective} has no {flag}: its student learns from the traces alone")
    shots = load_few_shot(few_shot) if few_shot else ()
    record = output_dir.resolve().with_name(f"{output_dir.resolve().name}.manifest.json")
    server = o.server_of(base_url, concurrency, timeout, api_key_env, api_key_file)
    if server and not teacher_model:
        raise UsageError("--base_url needs --teacher_model, the name that the server knows its model by")
    verdicts, scores = verdicts_and_scores_of(cot_dataset)
    teacher = ScoringTeacher(teacher_model, scores, server) if teacher_model else None
    ranks = here()
    if dry_run:
        ranks.alone("a dry run")
        check_packages(settings)
        dataset = load_dataset(cot_dataset, verdicts, target=target, limit=limit)
        fitting(
            teacher, student_model, settings.objective, shown=bool(shots), trust_remote_code=trust_remote_code
        )
        k = settings.top_k(settings.objective)
        check_served(teacher, student_model, k, trust_remote_code=trust_remote_code)
        found = rehearse(
            local_model(student_model, want="hf"), sorted(dataset.pairs, key=lambda pair: pair.trace_id), settings,
            system=system_prompt, labels=dataset.labels if objective == "step_by_step" else (),
            trust_remote_code=trust_remote_code,
        )  # fmt: skip
        typer.echo(f"{cot_dataset}: {len(dataset.pairs)} traces teach ({o.counted(dataset.counts)})")
        typer.echo(f"{found.sample}\n{found.counts}")
        found.stop()
        for warning in found.warnings:
            typer.echo(f"warning: {warning}")
        return
    ranks.join()
    with ExitStack() as held:
        with ranks.together():
            dataset = load_dataset(cot_dataset, verdicts, target=target, limit=limit)
            if ranks.first:
                typer.echo(f"{cot_dataset}: {len(dataset.pairs)} traces teach ({o.counted(dataset.counts)})")
                held.enter_context(locked(record, break_lock=break_lock))
            manifest = Manifest.open(record)
            read = {"cot_dataset": cot_dataset, "verdicts": verdicts, "few_shot": few_shot}
            inputs = {name: input_of(path) for name, path in read.items() if path and path.exists()}
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
            say=(lambda text: None) if quiet else typer.echo,
            labels=dataset.labels,
            teacher=teacher,
            shots=shots,
        )
        if not ranks.first:
            return
    losses = facts["losses"]
    typer.echo(
        f"{output_dir}: {facts['examples']} examples, {facts['steps']} steps, {facts['targets']}; "
        f"loss {losses[0][1]:.3f} -> {losses[-1][1]:.3f} nats a token"  # type: ignore[index]
    )


def _own(objective: Objective, **given: dict[str, float | int | None]) -> dict[str, Any]:
    """The section of the objective, where it was given anything. Raises ``UsageError`` for flags of another one."""
    from cotdistill.settings.objective import OfflineSettings, OnPolicySettings, StepByStepSettings

    types: dict[str, Any] = {
        "step_by_step": StepByStepSettings, "on_policy": OnPolicySettings, "offline_kd": OfflineSettings
    }
    said = {name: {key: value for key, value in flags.items() if value is not None} for name, flags in given.items()}
    mine = said.get(objective, {})
    foreign = [f"--{_FLAGS.get(key, key)}" for flags in said.values() for key in flags if key not in mine]
    if foreign:
        raise UsageError(f"{objective} has no {foreign[0]}; see docs/objectives.md for what each objective has")
    return {objective: types[objective](**mine)} if mine else {}


_FLAGS = {"weight": "teacher_weight"}
