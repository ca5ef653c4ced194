"""Planning: ask both models a few dozen training questions and write the plan of a recipe.

    2_traces.jsonl (the teacher's, which the run goes on with)  0_plan/{base,verdicts}.jsonl  0_plan.json

The plan stays as it was made while its recipe is the same, so that the report can hold the run against it; for
another recipe it is made anew, from the answers that still count. No held-out question is asked.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from cotdistill.asking.ask import Account
from cotdistill.download import local_model
from cotdistill.engines import Engine, Message, Request, Sampling
from cotdistill.engines.opening import find_gguf, opened_late, takes_gguf
from cotdistill.errors import NotWorthIt, ResumeError
from cotdistill.example import Example, answer_tokens, build_example
from cotdistill.grade import grade
from cotdistill.identity import digest
from cotdistill.journal import read_rows
from cotdistill.judging.files import with_verdicts
from cotdistill.judging.pairs import teaching_pairs
from cotdistill.learning.relation import Relation, permitted, read_tokens, relation, tokens_of
from cotdistill.model_files.parameter_count import parameter_count
from cotdistill.plans.budget import Sample, Sizes, assumptions, budget
from cotdistill.plans.forecast import Forecast, Range, forecast
from cotdistill.plans.plan import BASE, Lengths, Plan, Share, chosen, lines, plan_of, read_plan, share
from cotdistill.prediction import Prediction
from cotdistill.prompt import LABEL_PROMPT, messages_for
from cotdistill.question import Question
from cotdistill.reading.symbolic import same_symbolic
from cotdistill.recipe import Recipe
from cotdistill.run_directory import RunDirectory
from cotdistill.settings.objective import TOKEN_LEVEL
from cotdistill.stages.evaluate import run_evaluate
from cotdistill.stages.verify import run_verify
from cotdistill.storage.disk import write_atomic
from cotdistill.storage.manifest import Manifest
from cotdistill.template import ChatTemplate, read_tokenizer
from cotdistill.trace import Trace
from cotdistill.verdict import TEACHES, TaughtText, Verdict

log = logging.getLogger(__name__)


class Planning(msgspec.Struct, frozen=True):
    """What a plan is made of. ``ask_teacher`` gets questions, those it shall not ask, and whether to start anew;
    ``held_out``, ``unseen`` and ``dev`` are only counted."""

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
    dev: int = 0

    @property
    def files(self) -> RunDirectory:
        return RunDirectory(self.directory)


def run_plan(job: Planning) -> Plan:
    """The plan: that in ``0_plan.json`` where it was made for this recipe, else a new one."""
    manifest, path = job.manifest, job.files.plan
    claimed = {"of": digest(_relevant(job))}
    known = manifest.stages.get("plan")
    if not job.overwrite and known and known.finished and known.settings == claimed and path.is_file():
        return read_plan(job.directory)
    sample = chosen(job.train, job.recipe.plan.questions)
    traces = _traces(job, sample)
    verdicts_file = job.files.plan_verdicts
    verdicts_file.parent.mkdir(exist_ok=True)
    run_verify(sample, job.files.traces, verdicts_file, job.recipe.verify.without_student)
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


def heed(made: Plan, *, force: bool) -> None:
    """Say what the plan found; where it found a reason to stop, raise ``NotWorthIt`` unless ``force``."""
    for line in lines(made):
        log.info("plan: %s", line)
    if made.stop and not force:
        raise NotWorthIt(f"the plan says no: {made.stop}; change the recipe, or go on with --force")
    if made.stop:
        log.warning("going on against the plan: %s", made.stop)


def _relevant(job: Planning) -> dict[str, Any]:
    """All that a plan depends on: the recipe but for what it is called, the models and the numbers of questions."""
    recipe = msgspec.to_builtins(job.recipe)
    for key in ("name", "report", "questions"):  # where questions come from is a setting of their own stage
        del recipe[key]
    recipe["plan"] = recipe["plan"]["questions"]
    ids = [question.id for question in job.train]
    return {"recipe": recipe, "models": job.models, "ids": ids, "sizes": [job.held_out, job.unseen, job.dev]}


def _traces(job: Planning, sample: Sequence[Question]) -> list[Trace]:
    """The teacher's traces of the sample, in the file that the run goes on with."""
    ids = {question.id for question in sample}
    rest = [question for question in job.train if question.id not in ids]
    job.ask_teacher(sample, rest, job.overwrite)
    return [trace for trace in read_rows(job.files.traces, Trace) if trace.question_id in ids]


def _base_answers(job: Planning, sample: Sequence[Question], open_base: Callable[[], Engine]) -> list[Prediction]:
    settings, models = job.recipe.evaluate, job.recipe.models
    ids = {question.id for question in sample}

    def asked(overwrite: bool) -> list[Prediction]:
        return run_evaluate(
            BASE, sample, job.files.plan_answers, job.manifest,
            model=job.models["student"], system_prompt=job.recipe.generate.system_prompt,
            sampling=job.recipe.answering, batch_size=settings.batch_size, open_model=open_base,
            unasked=[question for question in job.train if question.id not in ids],
            load_in_4bit=models.load_in_4bit, trust_remote_code=models.trust_remote_code,
            overwrite=overwrite, quiet=job.quiet,
        )  # fmt: skip

    try:
        return asked(job.overwrite)
    except ResumeError:  # answers for the plan alone are no evidence, and soon given again
        return asked(True)


def _forward_pace(engine: Engine, pairs: Sequence[TaughtText], system: str) -> float:
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
    pairs: Sequence[TaughtText],
    forward: float,
) -> Plan:
    from cotdistill.model import context_of, read_config

    recipe, trust = job.recipe, job.recipe.models.trust_remote_code
    student = local_model(recipe.models.student, want="hf")
    tokenizer = read_tokenizer(student, trust_remote_code=trust)
    template, system = ChatTemplate(tokenizer, thinking=recipe.train.thinks), recipe.generate.system_prompt
    max_length = min(recipe.train.max_length, context_of(read_config(student, trust_remote_code=trust)))
    final_lines = list(teaching_pairs(sample, traces, verdicts, "answer"))

    def built(pairs: Sequence[TaughtText], system: str) -> list[Example]:
        return [build_example(template, question, text, system=system, trace_id=key) for key, question, text in pairs]

    whole, alone = built(pairs, system), built(final_lines, system)
    lengths = Lengths(
        [len(one.input_ids) for one in whole],
        [answer_tokens(one) for one in whole],
        [len(one.input_ids) for one in alone],
        [answer_tokens(one) for one in alone],
        [len(one.input_ids) for one in built(final_lines, LABEL_PROMPT)],
    )
    pair = _relation(job, tokenizer)
    return plan_of(
        questions=len(sample),
        right=_right(sample, answers, traces),
        traces=traces,
        verdicts=verdicts,
        lengths=lengths,
        max_length=max_length,
        max_new_tokens=recipe.evaluate.max_new_tokens,
        longest_trace=recipe.generate.longest,
        relation=pair,
        held_out=job.held_out,
        forecast=_forecast(job, answers, traces, verdicts, lengths, max_length, forward, pair),
    )


def _right(
    sample: Sequence[Question], answers: Sequence[Prediction], traces: Sequence[Trace]
) -> list[tuple[bool, bool]]:
    """Base and teacher on each question that has gold, both read leniently, the teacher's first sample."""
    first = {trace.question_id: trace for trace in traces if trace.sample == 0}
    base = {row.question_id: bool(row.correct) for row in answers}
    found = []
    for question in sample:
        if question.gold is not None and question.id in first:  # a cap may have come before it
            trace = first[question.id]
            marks = grade(trace.reasoning, trace.finish or "stop", question, symbolic=same_symbolic)
            found.append((base[question.id], bool(marks.correct)))
    return found


def _relation(job: Planning, tokenizer: Any) -> Relation:
    models, teacher = job.recipe.models, None
    if not models.server:
        path = find_gguf(models.teacher)
        path = path or local_model(models.teacher, want="gguf" if takes_gguf(models.engine) else "hf")
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
    pair: Relation,
) -> Forecast:
    """Unseen questions are taken to be like the others."""
    recipe, stages = job.recipe, job.manifest.stages
    written = Account(job.files.traces, Trace).completion_tokens
    answered = Account(job.files.plan_answers, Prediction).completion_tokens
    whole = [trace for trace in traces if trace.finish != "error"]
    fit = [length for length in lengths.examples if length <= max_length]
    taught = {trace.question_id for trace, verdict in with_verdicts(traces, verdicts)
              if verdict and verdict.status in TEACHES}  # fmt: skip
    graded = [row.correct for row in answers if row.correct is not None]
    sample = Sample(
        traces_each=len(traces) / max(1, len(answers)),
        teacher_prompts=[trace.prompt_tokens for trace in whole],
        teacher_answers=[trace.completion_tokens for trace in whole],
        prompts=[row.prompt_tokens for row in answers],
        base_answers=[row.completion_tokens for row in answers],
        whole=fit,
        answers=lengths.answers,
        final_lines=lengths.final_lines,
        final_answers=lengths.final_answers,
        labels=lengths.labels,
        rows=_range(share(len(fit), len(verdicts))),
        untaught=_range(share(len(answers) - len(taught), len(answers))),
        right=_range(share(sum(graded), len(graded))) if graded else Range(0.5, 0.0, 1.0),
        teacher_pace=stages["generate"].seconds / max(1, written),
        base_pace=stages[f"evaluate/{BASE}"].seconds / max(1, answered),
        forward_pace=forward,
        teacher_size=_teacher_size(recipe, pair),
        relation=pair,
    )
    sizes = Sizes(len(job.train), job.held_out, job.unseen, job.dev)
    return forecast(budget(recipe, sample, sizes), recipe.models.server, assumptions(recipe, sample))


def _range(part: Share) -> Range:
    return Range(part.right / max(1, part.n), part.low or 0.0, part.high if part.high is not None else 1.0)


def _teacher_size(recipe: Recipe, pair: Relation) -> float:
    """Against the student's; 1 where the teacher is not asked for probabilities."""
    possible = {*recipe.train.tried} & {*TOKEN_LEVEL} & {*permitted(pair.kind)}
    if recipe.models.server or not possible:
        return 1.0
    teacher = find_gguf(recipe.models.teacher) or local_model(recipe.models.teacher, want="gguf")
    return parameter_count(teacher) / max(1, parameter_count(local_model(recipe.models.student, want="hf")))
