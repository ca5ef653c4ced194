"""Planning: ask both models a few dozen training questions and write the plan of a recipe.

    2_traces.jsonl (the teacher's, which the run goes on with)  0_plan/{base,verdicts}.jsonl  0_plan.json

The plan stays as it was made while its recipe is the same, so that the report can hold the run against it; for
another recipe it is made anew, from the answers that still count. No held-out question is asked.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from cotdistill.asking import Account
from cotdistill.disk import write_atomic
from cotdistill.download import local_model
from cotdistill.engines import Engine, Message, Request, Sampling
from cotdistill.engines.opening import find_gguf, opened_late
from cotdistill.errors import ResumeError
from cotdistill.example import answer_tokens, build_example
from cotdistill.forecast import Forecast, Range, Training, Work, forecast
from cotdistill.grade import grade
from cotdistill.identity import digest
from cotdistill.journal import read_rows
from cotdistill.manifest import Manifest
from cotdistill.plan import BASE, PLAN, Lengths, Plan, chosen, plan_of, read_plan, share
from cotdistill.prediction import Prediction
from cotdistill.prompt import messages_for
from cotdistill.question import Question
from cotdistill.recipe import Recipe
from cotdistill.relation import Relation, read_tokenizer, read_tokens, relation, tokens_of
from cotdistill.stages.evaluate import run_evaluate
from cotdistill.stages.verify import run_verify, teaching_pairs
from cotdistill.symbolic import same_symbolic
from cotdistill.template import ChatTemplate
from cotdistill.trace import Trace
from cotdistill.verdict import TEACHES, Verdict


class Planning(msgspec.Struct, frozen=True):
    """What a plan is made of. ``ask_teacher`` gets questions, those it shall not ask, and whether to start anew;
    ``held_out`` and ``unseen`` are only counted."""

    recipe: Recipe
    directory: Path
    manifest: Manifest
    train: Sequence[Question]
    held_out: int
    unseen: int
    models: dict[str, dict[str, str]]
    ask_teacher: Callable[[Sequence[Question], Sequence[Question], bool], None]
    open_base: Callable[[], Engine]
    overwrite: bool = False
    quiet: bool = False


def run_plan(job: Planning) -> Plan:
    """The plan: that in ``0_plan.json`` where it was made for this recipe, else a new one."""
    manifest, path = job.manifest, job.directory / PLAN
    claimed = {"of": digest(_relevant(job))}
    known = manifest.stages.get("plan")
    if not job.overwrite and known and known.finished and known.settings == claimed and path.is_file():
        return read_plan(job.directory)
    sample = chosen(job.train, job.recipe.plan.questions)
    traces = _traces(job, sample)
    verdicts_file = job.directory / "0_plan" / "verdicts.jsonl"
    verdicts_file.parent.mkdir(exist_ok=True)
    run_verify(sample, job.directory / "2_traces.jsonl", verdicts_file, job.recipe.verify)
    verdicts = list(read_rows(verdicts_file, Verdict))
    pairs = list(teaching_pairs(sample, traces, verdicts, job.recipe.train.target))
    with opened_late(job.open_base) as open_base:
        answers = _base_answers(job, sample, open_base)
        forward = _forward_pace(open_base(), pairs, job.recipe.generate.system_prompt) if pairs else 0.0
    plan = _conclude(job, sample, answers, traces, verdicts, pairs, forward)
    # Only now: a stage that refuses other settings must leave the plan of what was begun as it is.
    manifest.claim("plan", claimed, overwrite=True, files=[path])
    manifest.begin("plan")
    write_atomic(path, msgspec.json.format(msgspec.json.encode(plan), indent=2) + b"\n")
    manifest.finish("plan", questions=len(sample), stop=plan.stop)
    return plan


def _relevant(job: Planning) -> dict[str, Any]:
    """All that a plan depends on: the recipe but for what it is called, the models and the numbers of questions."""
    recipe = msgspec.to_builtins(job.recipe)
    for key in ("name", "report", "questions"):  # where questions come from is a setting of their own stage
        del recipe[key]
    recipe["plan"] = recipe["plan"]["questions"]
    ids = [question.id for question in job.train]
    return {"recipe": recipe, "models": job.models, "ids": ids, "sizes": [job.held_out, job.unseen]}


def _traces(job: Planning, sample: Sequence[Question]) -> list[Trace]:
    """The teacher's traces of the sample, in the file that the run goes on with."""
    ids = {question.id for question in sample}
    rest = [question for question in job.train if question.id not in ids]
    job.ask_teacher(sample, rest, job.overwrite)
    return [trace for trace in read_rows(job.directory / "2_traces.jsonl", Trace) if trace.question_id in ids]


def _base_answers(job: Planning, sample: Sequence[Question], open_base: Callable[[], Engine]) -> list[Prediction]:
    settings, models = job.recipe.evaluate, job.recipe.models
    ids = {question.id for question in sample}

    def asked(overwrite: bool) -> list[Prediction]:
        return run_evaluate(
            BASE, sample, job.directory / "0_plan" / "base.jsonl", job.manifest,
            model=job.models["student"], system_prompt=job.recipe.generate.system_prompt,
            sampling=settings.sampling, batch_size=settings.batch_size, open_model=open_base,
            unasked=[question for question in job.train if question.id not in ids],
            load_in_4bit=models.load_in_4bit, trust_remote_code=models.trust_remote_code,
            overwrite=overwrite, quiet=job.quiet,
        )  # fmt: skip

    try:
        return asked(job.overwrite)
    except ResumeError:  # answers for the plan alone are no evidence, and soon given again
        return asked(True)


def _forward_pace(engine: Engine, pairs: Sequence[tuple[str, Question, str]], system: str) -> float:
    """Seconds a token of a forward pass over whole examples: what asking for one token after each of them takes."""

    def requests() -> Iterator[Request]:
        for key, question, text in pairs:
            yield Request(key, (*messages_for(question, system), Message("assistant", text)))

    done = list(engine.complete(requests(), Sampling(max_new_tokens=1)))
    tokens = sum(completion.prompt_tokens for completion in done if completion.finish != "error")
    return sum(completion.seconds for completion in done) / max(1, tokens)


def _conclude(
    job: Planning,
    sample: Sequence[Question],
    answers: Sequence[Prediction],
    traces: Sequence[Trace],
    verdicts: Sequence[Verdict],
    pairs: Sequence[tuple[str, Question, str]],
    forward: float,
) -> Plan:
    from transformers import AutoConfig

    recipe, trust = job.recipe, job.recipe.models.trust_remote_code
    student = local_model(recipe.models.student, want="hf")
    tokenizer = read_tokenizer(student, trust_remote_code=trust)
    template, system = ChatTemplate(tokenizer), recipe.generate.system_prompt
    config = AutoConfig.from_pretrained(student, local_files_only=True, trust_remote_code=trust)
    max_length = min(recipe.train.max_length, getattr(config, "max_position_embeddings", None) or 1 << 20)
    examples = [build_example(template, question, text, system=system, trace_id=key) for key, question, text in pairs]
    lengths = Lengths([len(one.input_ids) for one in examples], [answer_tokens(one) for one in examples])
    return plan_of(
        questions=len(sample),
        right=_right(sample, answers, traces),
        traces=traces,
        verdicts=verdicts,
        lengths=lengths,
        max_length=max_length,
        max_new_tokens=recipe.evaluate.max_new_tokens,
        relation=_relation(job, tokenizer),
        held_out=job.held_out,
        forecast=_forecast(job, answers, traces, verdicts, lengths, max_length, forward),
    )


def _right(
    sample: Sequence[Question], answers: Sequence[Prediction], traces: Sequence[Trace]
) -> list[tuple[bool, bool]]:
    """Base and teacher on each question that has gold, both read leniently, the teacher's first sample."""
    first = {trace.question_id: trace for trace in traces if trace.sample == 0}
    base = {row.question_id: bool(row.correct) for row in answers}
    found = []
    for question in sample:
        if question.gold is not None:
            trace = first[question.id]
            marks = grade(trace.reasoning, trace.finish or "stop", question, symbolic=same_symbolic)
            found.append((base[question.id], bool(marks.correct)))
    return found


def _relation(job: Planning, tokenizer: Any) -> Relation:
    models, teacher = job.recipe.models, None
    if not models.server:
        path = find_gguf(models.teacher)
        path = path or local_model(models.teacher, want="hf" if models.engine == "transformers" else "gguf")
        teacher = read_tokens(path, trust_remote_code=models.trust_remote_code)
    return relation(tokens_of(tokenizer), teacher)


def _forecast(
    job: Planning,
    answers: Sequence[Prediction],
    traces: Sequence[Trace],
    verdicts: Sequence[Verdict],
    lengths: Lengths,
    max_length: int,
    forward: float,
) -> Forecast:
    """Unseen questions are taken to be like the others, and the student to write as long as its traces are."""
    recipe, stages = job.recipe, job.manifest.stages
    written = Account(job.directory / "2_traces.jsonl", Trace).completion_tokens
    teacher = stages["generate"].seconds / max(1, written)
    answered = Account(job.directory / "0_plan" / "base.jsonl", Prediction).completion_tokens
    base = stages[f"evaluate/{BASE}"].seconds / max(1, answered)
    whole = [trace for trace in traces if trace.finish != "error"]
    planned = len(job.train) * recipe.generate.num_samples
    teacher_prompts, teacher_answers = ([getattr(t, f"{kind}_tokens") for t in whole] for kind in _KINDS)
    prompts, base_answers = ([getattr(row, f"{kind}_tokens") for row in answers] for kind in _KINDS)
    work = [Work("generate", planned, teacher_prompts, teacher_answers, teacher)]
    models = {"base": (base_answers, base), "student": (lengths.answers, base)}
    if recipe.evaluate.teacher:
        models["teacher"] = (teacher_answers, teacher)
    for name, (tokens, pace) in models.items():
        for stage, count in ((f"evaluate/{name}", job.held_out), (f"evaluate/unseen/{name}", job.unseen)):
            if count:
                work.append(Work(stage, count * recipe.evaluate.num_samples, prompts, tokens, pace))
    fit = [length for length in lengths.examples if length <= max_length]
    kept = share(sum(verdict.status in TEACHES for verdict in verdicts), len(verdicts))
    most = planned * (1 - recipe.train.validation)
    rows = Range(*(most * end for end in (len(fit) / max(1, kept.n), kept.low or 0.0, kept.high or 1.0)))
    training = Training(rows, recipe.train.num_epochs, fit, forward)
    return forecast(work, training, recipe.models.server)


_KINDS = ("prompt", "completion")
