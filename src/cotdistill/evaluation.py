"""Evaluation: some models, one test file, one table."""

import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import msgspec

from cotdistill.card import AdapterCard, check_adapter, read_card
from cotdistill.engines import ON_RAY, Engine, EngineName
from cotdistill.engines.opening import find_gguf, open_engine, opened_late, student_engine, takes_gguf
from cotdistill.engines.server import Server
from cotdistill.errors import UsageError
from cotdistill.learnt import learnt
from cotdistill.machine import versions
from cotdistill.overlap import refuse_shown
from cotdistill.prediction import Prediction
from cotdistill.prompt import SYSTEM_PROMPT, Shot
from cotdistill.question import Question, load_questions
from cotdistill.report import Facts, build_report, to_json
from cotdistill.settings.evaluate import Evaluate
from cotdistill.settings.generate import Generate
from cotdistill.settings.models import Models
from cotdistill.shown import first_of
from cotdistill.stages.evaluate import run_evaluate
from cotdistill.stages.models import engine_for, identify
from cotdistill.storage.disk import write_atomic
from cotdistill.storage.lock import locked
from cotdistill.storage.manifest import Manifest, beside, input_of
from cotdistill.verdict import check_golds

log = logging.getLogger(__name__)


class Entrant(msgspec.Struct, frozen=True):
    """A model that is asked: its name in the table, its path or catalogue name, its adapter, its file; and, where it
    is not asked as all the others are, its system prompt and worked examples."""

    name: str
    model: str
    adapter: Path | None
    file: Path
    system_prompt: str | None = None
    shots: tuple[Shot, ...] = ()


def evaluate_all(
    entrants: Sequence[Entrant],
    test_file: Path,
    output_file: Path,
    *,
    max_new_tokens: int,
    temperature: float = 0.0,
    num_samples: int = 1,
    batch_size: int,
    engine: EngineName,
    workers: int | None = None,
    server: Server | None = None,
    system_prompt: str | None,
    thinking: bool | None = None,
    limit: int | None,
    load_in_4bit: bool | None,
    device_map: str,
    trust_remote_code: bool,
    question_key: str,
    answer_key: str,
    overwrite: bool,
    break_lock: bool = False,
    quiet: bool,
) -> None:
    """Ask every entrant, write predictions and ``*.metrics.json``, print the table to stdout. A ``server`` is
    the teacher's. Raises ``UsageError`` for llama.cpp where it would run none of them."""
    if engine.removeprefix(ON_RAY) == "llama_cpp" and not any(
        one.name == "teacher" or find_gguf(one.model) for one in entrants
    ):
        raise UsageError(
            f"llama.cpp runs GGUF files, and {entrants[0].model} is asked with transformers, as every model that is "
            "trained: name a GGUF file, or leave --engine out"
        )
    if engine == "openai_server":
        engine = "auto"  # which a server decides for the teacher; every other model is here
    everything = load_questions(test_file, question_key=question_key, answer_key=answer_key)
    questions, unasked = everything[:limit], everything[limit or len(everything) :]
    check_golds(questions)
    card = _card(entrants, heeded=system_prompt is None)
    trained_with = card.system_prompt if card else SYSTEM_PROMPT
    system = trained_with if system_prompt is None else system_prompt
    record = beside(output_file, "manifest.json")
    answers: dict[str, list[Prediction]] = {}
    asking = Evaluate(max_new_tokens=max_new_tokens, num_samples=num_samples, temperature=temperature)
    thinks = bool(card and card.thinking) if thinking is None else thinking
    sampling = msgspec.structs.replace(asking.sampling, thinking=thinks)
    if sampling.do_sample:
        log.info("answers are sampled at temperature %g; 0, the default, is greedy", sampling.temperature)
    for one in entrants:
        refuse_shown(one.shots, everything, "--few_shot")
    seen = {one.name: learnt(one.adapter, questions) for one in entrants if one.adapter}
    for ids in filter(None, seen.values()):
        log.warning(
            "%d of the %d test questions were trained on (%s): the student may know their answers by heart",
            len(ids), len(questions), first_of(ids),
        )  # fmt: skip

    def open_teacher(one: Entrant, server: Server | None = None) -> Engine:
        models = Models(one.model, "", engine, trust_remote_code, load_in_4bit, server, workers=workers)
        asked = Generate(system_prompt=system, sampling=sampling)
        return engine_for(models, batch_size, questions, asked, one.shots, device_map, one.adapter)

    def open_student(model: str, adapter: Path | None) -> Engine:
        return open_engine(
            model, engine=student_engine(engine), adapter=adapter, batch_size=batch_size, load_in_4bit=load_in_4bit,
            device_map=device_map, trust_remote_code=trust_remote_code, workers=workers,
        )  # fmt: skip

    with locked(record, break_lock=break_lock):
        manifest = Manifest.open(record)
        manifest.prepare(inputs={"test_file": input_of(test_file)})
        for one in entrants:
            is_teacher = one.name == "teacher"
            its_server = server if is_teacher else None
            any_engine = is_teacher or find_gguf(one.model) is not None or engine in ("vllm", "ray:vllm")
            open_it = (
                partial(open_teacher, one, its_server) if any_engine else partial(open_student, one.model, one.adapter)
            )
            with opened_late(open_it) as open_model:
                answers[one.name] = run_evaluate(
                    one.name,
                    questions,
                    one.file,
                    manifest,
                    model=identify(one.model, gguf=is_teacher and takes_gguf(engine), server=its_server),
                    adapter=one.adapter,
                    system_prompt=system if one.system_prompt is None else one.system_prompt,
                    shots=one.shots,
                    sampling=sampling,
                    num_samples=num_samples,
                    batch_size=batch_size,
                    open_model=open_model,
                    server=its_server,
                    unasked=unasked,
                    load_in_4bit=load_in_4bit,
                    trust_remote_code=trust_remote_code,
                    overwrite=overwrite,
                    quiet=quiet,
                )
    details = {
        "engines": {one.name: manifest.facts(f"evaluate/{one.name}").get("engine") for one in entrants},
        "sampling": msgspec.to_builtins(sampling), "batch_size": batch_size, "trust_remote_code": trust_remote_code,
        "trained_on": seen,
    }  # fmt: skip
    _conclude(questions, answers, entrants, output_file, Facts(versions=versions(), details=details))


def _conclude(
    questions: Sequence[Question],
    answers: dict[str, list[Prediction]],
    entrants: Sequence[Entrant],
    output_file: Path,
    facts: Facts,
) -> None:
    from rich.console import Console

    from cotdistill.reporting.table import print_report

    report = build_report(questions, answers, facts=facts)
    for one in entrants:
        numbers = msgspec.json.format(msgspec.json.encode(report.models[one.name]))
        write_atomic(beside(one.file, "metrics.json"), numbers + b"\n")
    write_atomic(beside(output_file, "report.json"), to_json(report))
    print_report(report, Console())
    log.info("answers in %s, accuracy and counts in %s", output_file, beside(output_file, "metrics.json"))


def _card(entrants: Sequence[Entrant], *, heeded: bool) -> AdapterCard | None:
    """What the adapter or the exported model was trained with, said aloud where it is ``heeded``: every model is asked
    in that way."""
    for one in entrants:
        if one.adapter:
            check_adapter(one.adapter)
            card = read_card(one.adapter)
            if card and heeded:
                log.info("every model is asked with the prompt %s was trained with", one.adapter)
            elif heeded:
                log.warning("%s has no cotdistill.json: asking with the default prompt", one.adapter)
            return card
    for one in entrants:  # an exported student carries its card with it
        if one.name != "teacher" and (card := read_card(find_gguf(one.model) or Path(one.model))):
            if heeded:
                log.info("every model is asked with the prompt %s was trained with", one.model)
            return card
    return None
