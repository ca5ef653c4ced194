"""Stages: each arrow of the way, on files, resumable; the scripts and the pipeline call the same ones.

    questions --generate--> traces --verify--> verdicts --train--> adapter --evaluate--> predictions

A stage claims its settings in a manifest before it works and is marked done after its files are complete: the
same settings go on, other settings are refused. A finished stage is not done again, and loads no model.
"""

import logging
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from cotdistill.asking import Account, row_id
from cotdistill.disk import replace, write_atomic
from cotdistill.download import local_model
from cotdistill.engines import Engine, Sampling
from cotdistill.engines.opening import find_gguf, open_engine
from cotdistill.errors import TrainingError, UsageError
from cotdistill.grade import grade
from cotdistill.identity import digest, model_hash
from cotdistill.journal import encode_row, read_rows, write_rows
from cotdistill.judging import Tally, judge_file, watched, with_verdicts
from cotdistill.keys import Keys
from cotdistill.lint import LONGEST_ANSWER, check_packages, lint
from cotdistill.manifest import Manifest, file_hash, input_of
from cotdistill.plot import loss_svg
from cotdistill.prediction import Prediction, predict
from cotdistill.progress import Bar
from cotdistill.prompt import LABEL_PROMPT, Shot, user_text
from cotdistill.question import Question
from cotdistill.ranks import here
from cotdistill.recipe import Generate, Models, Target, TrainSettings, Verify
from cotdistill.scoring_teacher import TOKEN_LEVEL, TeacherFiles, fitting
from cotdistill.server import Server
from cotdistill.shown import one_line
from cotdistill.trace import Trace, teach
from cotdistill.trace_file import TraceFile
from cotdistill.verdict import TEACHES, Verdict, taught_text

log = logging.getLogger(__name__)

MOST_LISTED = 20

LONGEST_CONTEXT = 8192
"""Tokens of prompt and answer that llama.cpp keeps for each request; one endless question must not fill the memory."""

OpenEngine = Callable[[], Engine]


def teacher_engine(models: Models, batch_size: int, questions: Sequence[Question], generate: Generate,
                   shots: Sequence[Shot], device_map: str | None = "auto") -> Engine:  # fmt: skip
    """Open the teacher with a context that holds the longest prompt and its answer."""
    prompt = len(generate.system_prompt) + sum(len(s.question) + len(s.reasoning) for s in shots)
    longest = prompt + max((len(user_text(question)) for question in questions), default=0)
    # Two characters a token is fewer than English or code has; what still does not fit becomes an error row.
    context = min(max(1024, longest // 2 + generate.sampling.max_new_tokens + 256), LONGEST_CONTEXT)
    return open_engine(
        models.teacher, engine=models.engine, batch_size=batch_size, context=context,
        load_in_4bit=models.load_in_4bit, device_map=device_map, trust_remote_code=models.trust_remote_code,
        server=models.server,
    )  # fmt: skip


def identify(model: str, *, gguf: bool, server: Server | None = None) -> dict[str, str]:
    """What a manifest says of a model: its name and the hash of its files; pulls a catalogue model if need be.
    A server's model has a name only."""
    if server:
        return {"name": model, "hash": ""}
    path = find_gguf(model) or local_model(model, want="gguf" if gguf else "hf")
    return {"name": Path(model).name, "hash": model_hash(path)}


def run_generate(
    questions: Sequence[Question],
    path: Path,
    manifest: Manifest,
    *,
    settings: Generate,
    shots: Sequence[Shot],
    model: dict[str, str],
    open_teacher: OpenEngine,
    server: Server | None = None,
    unasked: Sequence[Question] = (),
    load_in_4bit: bool | None = None,
    trust_remote_code: bool = False,
    overwrite: bool = False,
    quiet: bool = False,
    stage: str = "generate",
) -> None:
    """Traces for every question into ``path``. ``model`` is the teacher's identity, part of the settings; the
    prices of its ``server`` give the money spent on the traces. ``stage`` is its name on record.

    ``unasked`` are the questions beyond a limit: traces of them may be there and stay. Raises ``ResumeError`` where
    there are traces of any other question.
    """
    claimed = {
        "model": model,
        "load_in_4bit": load_in_4bit,
        "trust_remote_code": trust_remote_code,
        "system_prompt": settings.system_prompt,
        "few_shot": digest(msgspec.to_builtins(tuple(shots))) if shots else None,
        "num_samples": settings.num_samples,
        "batch_size": settings.batch_size,
        "sampling": msgspec.to_builtins(settings.sampling),
    }
    manifest.claim(stage, claimed, overwrite=overwrite, files=[path])
    planned = len(questions) * settings.num_samples
    before = Account(path, Trace, Keys(question.id for question in (*questions, *unasked)))
    owed = before.owed(row_id(question.id, s) for question in questions for s in range(settings.num_samples))
    if manifest.done(stage) and not owed:
        log.info("%s: all %d traces are there", path, before.rows)
        return
    engine = open_teacher()
    finishes: Counter[str] = Counter()
    asked = {question.id: question for question in questions}
    answered = right = 0
    try:
        manifest.begin(stage, planned=planned, engine=_engine(engine))
        with Bar("traces", planned, planned - owed, quiet=quiet) as bar:

            def show(trace: Trace) -> None:
                nonlocal answered, right
                finishes[trace.finish or "stop"] += 1
                answered += bool(trace.final_answer)
                correct = grade(trace.reasoning, trace.finish or "stop", asked[trace.question_id]).correct
                right += bool(correct)
                found = f"{right} of {finishes.total()} right" if correct is not None else f"{answered} answered"
                note = f"{found}, {finishes['length']} cut off, {finishes['error']} failed"
                bar.step(note, tokens=trace.completion_tokens)

            teach(
                engine, questions, path, system=settings.system_prompt, shots=shots, sampling=settings.sampling,
                num_samples=settings.num_samples, name=model["name"], show=show,
            )  # fmt: skip
    finally:
        engine.close()
    after = Account(path, Trace)
    money = server.money(after.prompt_tokens, after.completion_tokens) if server else None
    manifest.finish(
        stage,
        engine=engine.describe(),
        rows=after.rows,
        errors=after.errors,
        prompt_tokens=after.prompt_tokens,
        completion_tokens=after.completion_tokens,
        **({"money": money} if money is not None else {}),
    )


def run_verify(
    questions: Sequence[Question],
    traces: Path,
    path: Path,
    settings: Verify,
    *,
    only_known: bool = True,
    keep: bool = False,
    audit: Path | None = None,
) -> Tally:
    """Judge the traces of these questions (or, unless ``only_known``, all) into ``path``, in the order of the file;
    into ``audit`` goes what two methods disagree on. Cheap and pure, so always done anew.

    With ``keep``, raises ``ResumeError`` where an earlier verdict in ``path`` would change or go, and ``path`` stays
    as it is; without, it says so. Judging a trace anew whose request had failed is no change.
    """
    tally = Tally()
    with TraceFile(traces, questions, only_known=only_known) as file, tempfile.TemporaryFile() as spool:
        disagreed = (lambda row: spool.write(encode_row(row))) if audit else None
        verdicts = judge_file(file, settings, tally, audit=disagreed)
        write_rows(path, watched(path, verdicts, keep=keep))
        if audit:
            spool.seek(0)
            replace(audit, spool)
    for hit in tally.contaminated[:MOST_LISTED]:
        log.info("removed: %s", one_line(str(hit)))
    if (more := len(tally.contaminated) - MOST_LISTED) > 0:
        log.info("removed: %d more questions; the verdicts say for what", more)
    if tally.overlapping:
        first = one_line(str(tally.overlapping[0]))
        log.info("kept: %d questions that share a run of words with the test set; %s", len(tally.overlapping), first)
    return tally


def teaching_pairs(
    questions: Iterable[Question], traces: Iterable[Trace], verdicts: Iterable[Verdict], target: Target = "reasoning"
) -> Iterator[tuple[str, Question, str]]:
    """``(trace id, question, text to learn)`` for every trace that may teach, in the order of the traces."""
    known = {question.id: question for question in questions}
    for trace, verdict in with_verdicts(traces, verdicts):
        if verdict is not None and verdict.status in TEACHES:
            question = known.get(trace.question_id) or Question(trace.question_id, trace.question)
            answer_only = f"Final Answer: {verdict.answer}"
            yield trace.id, question, answer_only if target == "answer" else taught_text(trace, verdict)


def run_train(
    pairs: Sequence[tuple[str, Question, str]],
    output_dir: Path,
    manifest: Manifest,
    *,
    student: str,
    system_prompt: str,
    settings: TrainSettings,
    examples_file: Path | None = None,
    max_new_tokens: int = LONGEST_ANSWER,
    report_to: str = "none",
    load_in_4bit: bool | None = None,
    device_map: str | None = "auto",
    trust_remote_code: bool = False,
    overwrite: bool = False,
    quiet: bool = False,
    say: Callable[[str], object] = lambda text: None,
    labels: Sequence[tuple[str, Question, str]] = (),
    teacher: TeacherFiles | None = None,
) -> dict[str, object]:
    """Train a LoRA adapter of ``student`` on the pairs; returns the facts of the stage. ``labels`` are the same traces'
    answers alone, for ``step_by_step``; ``teacher`` is who scores tokens, for the objectives that need one. ``say`` is
    given an example before training begins; ``max_new_tokens`` is what the student's answers will be cut at;
    ``report_to`` is a tracker.

    Under a launcher every process calls this, after it has joined the others; the first one keeps the manifest and
    writes, and the facts are its.
    """
    ranks = here()
    with ranks.together():
        if not pairs:
            raise TrainingError("no trace may teach: every one was dropped by its verdict; read the verdicts file")
        ranks.share(settings.batch_size, settings.gradient_accumulation_steps)
        check_packages(settings, report_to)
        if ranks.first:
            local_model(student, want="hf")  # pulled and converted before the others look for it
        if settings.objective in TOKEN_LEVEL:
            ranks.alone(f"the objective {settings.objective}")
            teacher = fitting(teacher, student, settings.objective, trust_remote_code=trust_remote_code)
        elif teacher:
            raise UsageError(f"{settings.objective} asks no teacher for probabilities; leave --teacher_model out")
    labels = sorted(labels, key=lambda pair: pair[0]) if settings.objective == "step_by_step" else ()
    pairs = sorted(pairs, key=lambda pair: pair[0])  # in which order the teacher answered is chance
    with ranks.together():
        claimed = {
            "student": identify(student, gguf=False),
            "system_prompt": system_prompt,
            "examples": digest([[trace_id, user_text(q), text] for trace_id, q, text in pairs]),
            "load_in_4bit": load_in_4bit,
            "trust_remote_code": trust_remote_code,
            "train": settings.that_count,
        }
        # Only where there are any: records from before there were objectives still fit.
        claimed |= {"labels": digest([[id_, user_text(q), text] for id_, q, text in labels])} if labels else {}
        claimed |= {"teacher": teacher.identity} if teacher else {}
        if ranks.first:
            manifest.claim("train", claimed, overwrite=overwrite, files=[output_dir])
    ranks.alike(digest(claimed))
    if ranks.told(manifest.done("train")):
        log.info("%s: already trained", output_dir)
        return manifest.facts("train")

    from cotdistill.example import build_examples
    from cotdistill.hardware import place
    from cotdistill.model import load_model
    from cotdistill.objective_choice import open_objective
    from cotdistill.training import Progress, train

    with ranks.together():
        placement = place(load_in_4bit, device_map)
        log.info("student on %s", placement.sentence())
        model = load_model(local_model(student, want="hf"), placement, trust_remote_code=trust_remote_code)
        max_length = min(settings.max_length, model.context_length)
        examples = build_examples(model.template, pairs, system=system_prompt, max_length=max_length)
        at_once = build_examples(
            model.template, labels, system=LABEL_PROMPT, max_length=max_length, task="label"
        ) if labels else None  # fmt: skip
        rows = [*examples.kept, *(at_once.kept if at_once else ())]
        if examples_file and ranks.first:
            write_rows(examples_file, rows)
        if ranks.first:
            if at_once:
                lint(
                    model.template, labels, at_once, settings, system=LABEL_PROMPT, max_new_tokens=max_new_tokens
                ).stop()
            found = lint(
                model.template, pairs, examples, settings, system=system_prompt, max_new_tokens=max_new_tokens
            )
            say(f"{found.sample}\n{found.counts}")
            found.stop()
            for warning in found.warnings:
                log.warning("%s", warning)
            manifest.begin("train", engine=f"transformers, {placement.numbers()}")
    if examples.too_long:
        log.warning("%d examples exceed %d tokens and were left out", len(examples.too_long), max_length)
    objective = open_objective(
        settings, model, rows, teacher, max_length=max_length, placement=placement, trust_remote_code=trust_remote_code,
        quiet=quiet,
    )  # fmt: skip
    with ranks.training(), Bar("training", 0, quiet=quiet or not ranks.first) as bar:

        def show(step: Progress) -> None:
            bar.total(step.steps, step.step)
            memory = f", {step.peak_memory / 1e9:.1f} GB" if step.peak_memory else ""
            bar.step(f"loss {step.loss:.3f}, {step.tokens_per_second:.0f} tokens/s{memory}")

        result = train(
            model, rows, settings, output_dir, system_prompt=system_prompt, placement=placement,
            objective=objective, show=show, report_to=report_to, trust_remote_code=trust_remote_code,
        )  # fmt: skip
    if not ranks.first:
        return {}
    log.info(result.targets)
    if result.validation:
        tried = ", ".join(f"{nats:.4f} at step {step}" for step, nats in result.validation)
        log.info("nats a token on held-out questions: %s; step %d is kept", tried, result.best_step)
    write_atomic(output_dir / "loss.svg", loss_svg(result.losses, "Training loss, nats per answer token").encode())
    facts: dict[str, object] = {
        **msgspec.to_builtins(result),
        "too_long": len(examples.too_long),
        "placement": placement.sentence(),
        "processes": ranks.size,
        **({"scores": input_of(teacher.scores)} if teacher and settings.objective == "offline_kd" else {}),
    }
    manifest.finish("train", **facts)
    shutil.rmtree(output_dir / "checkpoints", ignore_errors=True)  # optimizer state, of use to a resume only
    return facts


def run_evaluate(
    name: str,
    questions: Sequence[Question],
    path: Path,
    manifest: Manifest,
    *,
    model: dict[str, str],
    adapter: Path | None = None,
    system_prompt: str,
    shots: Sequence[Shot] = (),
    sampling: Sampling,
    num_samples: int = 1,
    batch_size: int,
    open_model: OpenEngine,
    server: Server | None = None,
    unasked: Sequence[Question] = (),
    load_in_4bit: bool | None = None,
    trust_remote_code: bool = False,
    overwrite: bool = False,
    quiet: bool = False,
) -> list[Prediction]:
    """One model's answers to every question, in ``path`` and returned in the order of the questions, each question's
    samples together. ``server`` and ``unasked`` are as for ``run_generate``; answers to unasked questions are not
    returned."""
    stage = f"evaluate/{name}"
    claimed: dict[str, Any] = {
        "model": model,
        "adapter": file_hash(adapter / "adapter_model.safetensors") if adapter else None,
        "adapter_config": file_hash(adapter / "adapter_config.json") if adapter else None,
        "load_in_4bit": load_in_4bit,
        "trust_remote_code": trust_remote_code,
        "system_prompt": system_prompt,
        "batch_size": batch_size,
        "sampling": msgspec.to_builtins(sampling),
    }
    # Only where they are set: records from before there were any still fit.
    claimed |= {"few_shot": digest(msgspec.to_builtins(tuple(shots)))} if shots else {}
    claimed |= {"num_samples": num_samples} if num_samples > 1 else {}
    manifest.claim(stage, claimed, overwrite=overwrite, files=[path])
    ids = [question.id for question in questions]
    before = Account(path, Prediction, Keys(question.id for question in (*questions, *unasked)))
    planned = [(question_id, sample) for question_id in ids for sample in range(num_samples)]
    owed = before.owed(row_id(*one) for one in planned)
    if not owed and manifest.done(stage):
        return _answers(path, planned)
    right = answered = 0
    engine = open_model()
    manifest.begin(stage, planned=len(planned), engine=_engine(engine))
    with Bar(name, len(planned), len(planned) - owed, quiet=quiet) as bar:

        def show(row: Prediction) -> None:
            nonlocal right, answered
            answered += 1
            right += bool(row.correct)
            bar.step(f"{right} of {answered} right" if row.correct is not None else "", tokens=row.completion_tokens)

        predict(
            engine, questions, path, system=system_prompt, shots=shots, sampling=sampling, num_samples=num_samples,
            show=show,
        )  # fmt: skip
    answers = _answers(path, planned)
    prompt_tokens = sum(row.prompt_tokens for row in answers)
    completion_tokens = sum(row.completion_tokens for row in answers)
    money = server.money(prompt_tokens, completion_tokens) if server else None
    manifest.finish(
        stage,
        engine=engine.describe(),
        rows=len(planned),
        errors=sum(row.finish == "error" for row in answers),
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        **({"money": money} if money is not None else {}),
    )
    return answers


def _engine(engine: Engine) -> str:
    """What runs a model, in which number format; its version may change on the way."""
    said = engine.describe()
    return ", ".join(filter(None, (said["engine"].partition(" ")[0], said["dtype"])))


def _answers(path: Path, planned: Sequence[tuple[str, int]]) -> list[Prediction]:
    rows = {(row.question_id, row.sample): row for row in read_rows(path, Prediction)}
    return [rows[one] for one in planned if one in rows]
