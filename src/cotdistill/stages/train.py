"""verdicts --train--> adapter: examples, the check before the first step, LoRA, the adapter and its facts."""

import logging
import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import msgspec

from cotdistill.download import local_model
from cotdistill.errors import TrainingError, UsageError
from cotdistill.identity import digest
from cotdistill.journal import write_rows
from cotdistill.learning.ladder import refuse_alone
from cotdistill.learning.lesson import Lesson
from cotdistill.learning.lint import LONGEST_ANSWER, check_packages
from cotdistill.learning.ranks import here
from cotdistill.learning.scoring_teacher import ScoringTeacher, fitting
from cotdistill.learnt import write_learnt
from cotdistill.progress import Bar
from cotdistill.prompt import Shot, messages_for, shots_hash, user_text
from cotdistill.reporting.loss_curve import loss_svg
from cotdistill.settings.train import TrainSettings
from cotdistill.stages.models import identify
from cotdistill.storage.disk import write_atomic
from cotdistill.storage.manifest import Manifest, input_of
from cotdistill.verdict import TaughtText

log = logging.getLogger(__name__)


def run_train(
    pairs: Sequence[TaughtText],
    output_dir: Path,
    manifest: Manifest,
    *,
    student: str,
    system_prompt: str,
    settings: TrainSettings,
    examples_file: Path | None = None,
    max_new_tokens: int = LONGEST_ANSWER,
    load_in_4bit: bool | None = None,
    device_map: str | None = "auto",
    trust_remote_code: bool = False,
    overwrite: bool = False,
    quiet: bool = False,
    say: Callable[[str], object] = lambda text: None,
    labels: Sequence[TaughtText] = (),
    teacher: ScoringTeacher | None = None,
    shots: Sequence[Shot] = (),
    stage: str = "train",
) -> dict[str, object]:
    """Train a LoRA adapter of ``student`` on the pairs; returns the facts of the stage. ``labels`` are the same traces'
    answers alone, for ``step_by_step``; ``teacher`` is who scores tokens, for the objectives that need one, after the
    worked examples ``shots``. ``say`` is given an example before training begins; ``max_new_tokens`` is what the
    student's answers will be cut at; ``stage`` is the name on record.

    Under a launcher every process calls this, after it has joined the others; the first one keeps the manifest and
    writes, and the facts are its.
    """
    ranks = here()
    fits = partial(
        fitting, teacher, student, settings.objective, shown=bool(shots), trust_remote_code=trust_remote_code
    )
    with ranks.together():
        refuse_alone(settings.objective)
        if not pairs:
            raise TrainingError("no trace may teach; `cotdistill verify` writes down why each was dropped")
        ranks.per_process_batch(settings.batch_size, settings.gradient_accumulation_steps)
        check_packages(settings)
        if settings.objective == "on_policy":
            _refuse_sharded()
        if ranks.first:  # pulled and converted before the others look for them
            local_model(student, want="hf")
            if scoring := fits():
                scoring.identity()
    with ranks.together():
        teacher = fits()
    labels = sorted(labels, key=lambda pair: pair.trace_id) if settings.objective == "step_by_step" else ()
    pairs = sorted(pairs, key=lambda pair: pair.trace_id)  # in which order the teacher answered is chance
    with ranks.together():
        claimed = {
            "student": identify(student, gguf=False),
            "system_prompt": system_prompt,
            "examples": digest([[trace_id, user_text(q), text] for trace_id, q, text in pairs]),
            "load_in_4bit": load_in_4bit,
            "trust_remote_code": trust_remote_code,
            "train": settings.claimed,
            "labels": digest([[id_, user_text(q), text] for id_, q, text in labels]) if labels else None,
            "teacher": teacher.identity() if teacher else None,
            "few_shot": shots_hash(shots) if teacher and shots else None,
        }
        if ranks.first:
            manifest.claim(stage, claimed, overwrite=overwrite, files=[output_dir], holds="directory")
    ranks.check_same(digest(claimed))
    if ranks.broadcast(manifest.done(stage)):
        log.info("%s: already trained", output_dir)
        return manifest.facts(stage)

    from cotdistill.hardware import place
    from cotdistill.learning.objective_choice import open_objective
    from cotdistill.learning.watch import Progress
    from cotdistill.model import load_model
    from cotdistill.training import train

    with ranks.together():
        placement = place(load_in_4bit, device_map)
        log.info("student on %s", placement.sentence())
        model = load_model(
            local_model(student, want="hf"), placement, trust_remote_code=trust_remote_code, thinking=settings.thinks
        )
        max_length = min(settings.max_length, model.context_length)
        lesson = Lesson.of(model.template, pairs, labels, system=system_prompt, max_length=max_length)
        rows = lesson.rows
        if examples_file and ranks.first:
            write_rows(examples_file, rows)
        if ranks.first:
            found = lesson.lint(settings, max_new_tokens)
            say(f"{found.sample}\n{found.counts}")
            found.stop()
            for warning in found.warnings:
                log.warning("%s", warning)
            manifest.begin(stage, engine=f"transformers, {placement.precision()}")
    if lesson.examples.too_long:
        log.warning("%d examples exceed %d tokens and were left out", len(lesson.examples.too_long), max_length)
    questions = {pair.question.id: pair.question for pair in pairs} if teacher else {}
    asked = {id_: model.template.prompt_ids(messages_for(one, system_prompt, shots)) for id_, one in questions.items()}
    objective = open_objective(
        settings, model, rows, teacher, max_length=max_length, placement=placement, prompts=asked,
        trust_remote_code=trust_remote_code, quiet=quiet,
    )  # fmt: skip
    with ranks.training(), Bar(stage.replace("train", "training", 1), 0, quiet=quiet or not ranks.first) as bar:

        def show(step: Progress) -> None:
            bar.total(step.steps, step.step)
            memory = f", {step.peak_memory / 1e9:.1f} GB" if step.peak_memory else ""
            bar.step(f"loss {step.loss:.3f}, {step.tokens_per_second:.0f} tokens/s{memory}")

        result = train(
            model, rows, settings, output_dir, system_prompt=system_prompt, placement=placement,
            objective=objective, show=show, trust_remote_code=trust_remote_code,
        )  # fmt: skip
    if not ranks.first:
        return {}
    log.info(result.targets)
    if result.validation:
        tried = ", ".join(f"{nats:.4f} at step {step}" for step, nats in result.validation)
        log.info("nats a token on the validation questions: %s; step %d is kept", tried, result.best_step)
    write_atomic(output_dir / "loss.svg", loss_svg(result.losses, "Training loss, nats per answer token").encode())
    seen = {row.question_id for row in rows}  # those for validation, too: they chose the adapter
    write_learnt(output_dir, (pair.question for pair in pairs if pair.question.id in seen))
    facts: dict[str, object] = {
        **msgspec.to_builtins(result),
        "too_long": len(lesson.examples.too_long),
        "placement": placement.sentence(),
        "processes": ranks.size,
        **({"scores": input_of(teacher.scores)} if teacher and settings.objective == "offline_kd" else {}),
    }
    manifest.finish(stage, **facts)
    shutil.rmtree(output_dir / "checkpoints", ignore_errors=True)  # optimizer state, of use to a resume only
    return facts


def _refuse_sharded() -> None:
    from cotdistill.hardware import is_sharded

    if is_sharded():
        raise UsageError("on_policy writes text while it trains, with the whole student: launch it with ddp.yaml")
