"""questions --generate--> traces: the teacher answers every question, and what it costs is recorded."""

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec

from cotdistill.asking.ask import Account
from cotdistill.asking.collecting import collect
from cotdistill.asking.drawing import Drawing, Step, steps_of
from cotdistill.asking.hint import with_hint
from cotdistill.asking.spending import Spending
from cotdistill.engines import Engine, Message
from cotdistill.engines.server import Server
from cotdistill.errors import ResumeError, SetupError, UsageError
from cotdistill.grade import grade
from cotdistill.progress import Bar
from cotdistill.prompt import Shot, messages_for, shots_hash
from cotdistill.question import Question
from cotdistill.settings.generate import Generate
from cotdistill.settings.verify import Verify
from cotdistill.stages.models import OpenEngine, Teacher, cached, engine_and_format
from cotdistill.storage.fingerprint import WAYS_ON, changes
from cotdistill.storage.keys import Keys
from cotdistill.storage.manifest import Manifest
from cotdistill.trace import Trace

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
    second: Teacher | None = None,
    verify: Verify | None = None,
    unasked: Sequence[Question] = (),
    load_in_4bit: bool | None = None,
    trust_remote_code: bool = False,
    overwrite: bool = False,
    quiet: bool = False,
    stage: str = "generate",
) -> None:
    """Traces for every question into ``path``. ``model`` is the teacher's identity, part of the settings; the
    prices of its ``server`` give the money spent on the traces. ``stage`` is its name on record.

    ``second`` is asked what the teacher fails; ``verify`` says what succeeds where that decides what is asked; the
    steps are those of ``drawing``. At a cap the stage ends with what there is: what is in flight is kept, a log line
    says what is missing, and the same call with a higher cap goes on.

    ``unasked`` are the questions beyond a limit: traces of them may be there and stay. Raises ``ResumeError`` where
    there are traces of any other question, ``UsageError`` for a ``max_cost`` without prices.
    """
    teachers = [Teacher(model, open_teacher, server), *([second] if second else [])]
    servers = [teacher.server for teacher in teachers]
    steps = steps_of(settings, second=second is not None)
    _refuse_unpriced(settings, servers)
    claimed = {
        "model": model,
        "load_in_4bit": load_in_4bit,
        "trust_remote_code": trust_remote_code,
        "system_prompt": settings.system_prompt,
        "few_shot": shots_hash(shots) if shots else None,
        "num_samples": settings.num_samples,
        "batch_size": settings.batch_size,
        "sampling": msgspec.to_builtins(settings.sampling),
    }
    manifest.claim(stage, claimed, overwrite=overwrite, files=[path], holds=Trace)
    later = _Later(stage, path, manifest, steps, teachers, overwrite=overwrite)

    def messages(question: Question, step: Step) -> tuple[Message, ...]:
        plain = messages_for(question, settings.system_prompt, shots)
        return with_hint(plain, question.gold) if step.hint and question.gold is not None else plain

    spending = Spending(servers, max_cost=settings.max_cost, max_tokens=settings.max_tokens_total)
    drawing = Drawing(questions, steps, messages, verify=verify, spending=spending)
    before = Account(path, Trace, Keys(question.id for question in (*questions, *unasked)), each=drawing.there)
    step = drawing.next_step()
    if step is None and manifest.done(stage):
        if drawing.capped:
            log.warning(_capped(path, drawing))
        else:
            log.info("%s: all %d traces are there", path, before.rows)
        return
    planned = None if settings.varies or second else len(questions) * settings.num_samples
    opened: dict[int, Engine] = {}

    def opened_for(step: Step) -> Engine:
        """One teacher at a time: two may not fit into the memory."""
        later.begin(step)
        if step.teacher not in opened:
            for other in opened.values():
                other.close()
            opened[step.teacher] = cached(teachers[step.teacher], cache=settings.cache)
        return opened[step.teacher]

    try:
        # Where there are two teachers, the first one's engine is on record.
        first = engine_and_format(opened_for(step)) if step and step.teacher == 0 else manifest.stages[stage].engine
        manifest.begin(stage, planned=planned, engine=first)
        title = stage.replace("generate", "traces")
        with _shown(title, drawing, questions, planned, quiet=quiet) as show:
            collect(drawing, questions, path, names=[teacher.model["name"] for teacher in teachers],
                    open_teacher=opened_for, show=show)  # fmt: skip
    finally:
        for engine in opened.values():
            engine.close()
    if drawing.capped:
        log.warning(_capped(path, drawing))
    by_step: Counter[str] = Counter()
    after = Account(path, Trace, each=lambda trace: by_step.update([drawing.step_of(trace.sample).name]))
    if drawing.capped and not after.rows:
        raise SetupError(
            f"{spending.caps()}: not one request is sure to stay below that, since an answer may take "
            f"{settings.sampling.max_new_tokens} tokens and a prompt one a byte; raise the cap or lower max_new_tokens"
        )
    money = spending.money
    manifest.finish(
        stage,
        **{("engine", "second_engine")[teacher]: engine.describe() for teacher, engine in sorted(opened.items())},
        rows=after.rows,
        errors=after.errors,
        prompt_tokens=after.prompt_tokens,
        completion_tokens=after.completion_tokens,
        **({} if money is None else {"money": money}),
        **({"by_step": by_step} if len(steps) > 1 else {}),
        **({"capped": spending.caps()} if drawing.capped else {}),
    )


class _Later:
    """The steps after the first, whose settings count from when they were begun: asking more of what was failed is
    always possible, asking the same samples in two ways is not."""

    def __init__(self, stage: str, path: Path, manifest: Manifest, steps: Sequence[Step], teachers: Sequence[Teacher],
                 *, overwrite: bool) -> None:  # fmt: skip
        self._key, self._manifest = f"steps of {stage}", manifest
        noted = manifest.noted(self._key)
        self._begun: dict[str, object] = dict(noted) if isinstance(noted, dict) and not overwrite else {}
        self._asked: dict[str, object] = {
            step.name: {
                "model": teachers[step.teacher].model, "first": step.first, "samples": step.samples,
                "sampling": msgspec.to_builtins(step.sampling),
            }
            for step in steps[1:]
        }  # fmt: skip
        both = self._begun.keys() & self._asked.keys()
        if changed := changes("generate", *({k: of[k] for k in sorted(both)} for of in (self._begun, self._asked))):
            raise ResumeError(
                f"{path} was made with other settings ({'; '.join(changed)}): {WAYS_ON.format(what='settings')}"
            )
        if noted and overwrite:
            manifest.note(**{self._key: {}})

    def begin(self, step: Step) -> None:
        """Put a step on record before its first row."""
        if step.name in self._asked and step.name not in self._begun:
            self._begun[step.name] = self._asked[step.name]
            self._manifest.note(**{self._key: self._begun})


def _refuse_unpriced(settings: Generate, servers: Sequence[Server | None]) -> None:
    """Raise ``UsageError`` where a cap on money could not be kept."""
    if settings.max_cost is None:
        return
    if not any(servers):
        raise UsageError("max_cost is for a server with prices; a model that runs here has max_tokens_total")
    if any(server and server.money(1, 1) is None for server in servers):
        raise UsageError("max_cost needs the server's prices: price_prompt and price_completion")


def _capped(path: Path, drawing: Drawing) -> str:
    return (
        f"{path}: stopped at a cap ({drawing.spending.caps()}); {drawing.unfinished()} questions still lack samples; "
        "the same command with a higher cap goes on"
    )


@contextmanager
def _shown(
    title: str, drawing: Drawing, questions: Sequence[Question], planned: int | None, *, quiet: bool
) -> Iterator[Callable[[Trace], None]]:
    """A bar over the rows, or over the questions where nobody knows how many rows there will be."""
    finishes: Counter[str] = Counter()
    asked = {question.id: question for question in questions}
    answered = right = 0
    if planned is None:
        total, there = len(questions), sum(drawing.over(question.id) for question in questions)
    else:
        total, there = planned, planned - drawing.missing()
    with Bar(title, total, there, quiet=quiet) as bar:

        def show(trace: Trace) -> None:
            nonlocal answered, right
            finishes[trace.finish or "stop"] += 1
            answered += bool(trace.final_answer)
            correct = grade(trace.reasoning, trace.finish or "stop", asked[trace.question_id]).correct
            right += bool(correct)
            found = f"{right} of {finishes.total()} right" if correct is not None else f"{answered} answered"
            note = f"{found}, {finishes['length']} cut off, {finishes['error']} failed"
            by = 1 if planned is not None else int(drawing.over(trace.question_id))
            bar.step(note, by, tokens=trace.completion_tokens)

        yield show
