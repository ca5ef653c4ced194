"""questions --generate--> traces: the teacher answers every question, and what it costs is recorded."""

import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import msgspec

from cotdistill.asking import Account, row_id
from cotdistill.grade import grade
from cotdistill.identity import digest
from cotdistill.keys import Keys
from cotdistill.manifest import Manifest
from cotdistill.progress import Bar
from cotdistill.prompt import Shot
from cotdistill.question import Question
from cotdistill.server import Server
from cotdistill.settings.generate import Generate
from cotdistill.stages.models import OpenEngine, cost, engine_and_format
from cotdistill.trace import Trace, teach

log = logging.getLogger(__name__)


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
        manifest.begin(stage, planned=planned, engine=engine_and_format(engine))
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
    manifest.finish(
        stage,
        engine=engine.describe(),
        rows=after.rows,
        errors=after.errors,
        **cost(after.prompt_tokens, after.completion_tokens, server),
    )
