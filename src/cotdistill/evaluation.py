"""Evaluation: some models, one test file, one table."""

import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import msgspec

from cotdistill.disk import write_atomic
from cotdistill.engines import Engine, EngineName, Sampling
from cotdistill.engines.opening import open_engine, opened_late
from cotdistill.errors import SetupError
from cotdistill.lock import locked
from cotdistill.manifest import Manifest, versions
from cotdistill.prediction import Prediction
from cotdistill.prompt import SYSTEM_PROMPT
from cotdistill.question import Question, check_golds, load_questions
from cotdistill.recipe import Generate, Models
from cotdistill.report import Facts, build_report, to_json
from cotdistill.score import metrics
from cotdistill.stages import identify, run_evaluate, teacher_engine

log = logging.getLogger(__name__)


class Contestant(msgspec.Struct, frozen=True):
    """A model that is asked: its name in the table, its path or catalogue name, its adapter, its file."""

    name: str
    model: str
    adapter: Path | None
    file: Path


def evaluate_all(
    contestants: Sequence[Contestant],
    test_file: Path,
    output_file: Path,
    *,
    max_new_tokens: int,
    batch_size: int,
    engine: EngineName,
    system_prompt: str | None,
    limit: int | None,
    load_in_4bit: bool | None,
    device_map: str,
    trust_remote_code: bool,
    question_key: str,
    answer_key: str,
    overwrite: bool,
    quiet: bool,
) -> None:
    """Ask every contestant, write predictions and ``*.metrics.json``, print the table to stdout."""
    questions = load_questions(test_file, question_key=question_key, answer_key=answer_key, limit=limit).rows
    check_golds(questions)
    system = system_prompt if system_prompt is not None else _system_prompt(contestants)
    record = output_file.with_name(f"{output_file.stem}.manifest.json")
    answers: dict[str, list[Prediction]] = {}
    sampling = Sampling(max_new_tokens=max_new_tokens)

    def open_teacher(model: str) -> Engine:
        models = Models(model, "", engine, trust_remote_code, load_in_4bit)
        asked = Generate(system_prompt=system, sampling=sampling)
        return teacher_engine(models, batch_size, questions, asked, (), device_map)

    def open_student(model: str, adapter: Path | None) -> Engine:
        return open_engine(
            model, engine="transformers", adapter=adapter, batch_size=batch_size, load_in_4bit=load_in_4bit,
            device_map=device_map, trust_remote_code=trust_remote_code,
        )  # fmt: skip

    with locked(record):
        manifest = Manifest.open(record)
        for one in contestants:
            is_teacher = one.name == "teacher"
            open_it = partial(open_teacher, one.model) if is_teacher else partial(open_student, one.model, one.adapter)
            with opened_late(open_it) as open_model:
                answers[one.name] = run_evaluate(
                    one.name,
                    questions,
                    one.file,
                    manifest,
                    model=identify(one.model, gguf=is_teacher and engine != "transformers"),
                    adapter=one.adapter,
                    system_prompt=system,
                    sampling=sampling,
                    batch_size=batch_size,
                    open_model=open_model,
                    overwrite=overwrite,
                    quiet=quiet,
                )
        manifest.note(versions=versions())
    _conclude(questions, answers, contestants, output_file)


def _conclude(
    questions: Sequence[Question],
    answers: dict[str, list[Prediction]],
    contestants: Sequence[Contestant],
    output_file: Path,
) -> None:
    from rich.console import Console

    from cotdistill.table import print_report

    ids = [question.id for question in questions]
    for one in contestants:
        numbers = msgspec.json.format(msgspec.json.encode(metrics(answers[one.name], ids, source=str(one.file))))
        write_atomic(one.file.with_name(f"{one.file.stem}.metrics.json"), numbers + b"\n")
    report = build_report(questions, answers, facts=Facts(versions=versions()))
    write_atomic(output_file.with_name(f"{output_file.stem}.report.json"), to_json(report))
    print_report(report, Console())


def _system_prompt(contestants: Sequence[Contestant]) -> str:
    """The prompt the adapter was trained with, said aloud; the default one where there is no card."""
    from cotdistill.card import read_card

    for one in contestants:
        if one.adapter:
            if not one.adapter.is_dir():
                raise SetupError(f"no adapter at {one.adapter}; train one first, or check --lora_model")
            if card := read_card(one.adapter):
                log.info("every model is asked with the prompt %s was trained with", one.adapter)
                return card.system_prompt
            log.warning("%s has no cotdistill.json: asking with the default prompt", one.adapter)
    return SYSTEM_PROMPT
