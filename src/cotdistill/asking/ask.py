"""Asking: put every question to an engine, each sample once, and keep what comes as it comes."""

from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from cotdistill.engines import Completion, Engine, Message, Request, Sampling
from cotdistill.errors import ResumeError
from cotdistill.journal import Journal, forget_errors
from cotdistill.prompt import Shot, messages_for, prompt_hash
from cotdistill.question import Question, content_id
from cotdistill.shown import first_of
from cotdistill.storage.fingerprint import WAYS_ON
from cotdistill.storage.keys import Keys

T = TypeVar("T", bound=msgspec.Struct)
Wanted = tuple[Question, int, tuple[Message, ...]]
"""A row to be asked for: the question, the number of the sample, the prompt."""
Answered = tuple[Question, int, str, Completion]
"""What came: the question, the number of the sample, the hash of the prompt, the completion."""


def row_id(question_id: str, sample: int) -> str:
    """The id of one answer to one question: ``q1a2#0``."""
    return f"{question_id}#{sample}"


def asked_once(questions: Sequence[Question]) -> tuple[list[Question], list[Question]]:
    """The questions to ask, and the others: those with the same content as one of the first under another id. Of such
    twins the one with gold is asked, else the first."""
    best: dict[str, Question] = {}
    for question in questions:
        content = content_id(question.text, question.choices)
        there = best.setdefault(content, question)
        if there.gold is None and question.gold is not None:
            best[content] = question
    kept = {question.id for question in best.values()}
    return [q for q in questions if q.id in kept], [q for q in questions if q.id not in kept]


def put(engine: Engine, wanted: Iterable[Wanted], sampling: Sampling) -> Iterator[Answered]:
    """Ask for every row that is wanted and yield what comes, as it comes. ``wanted`` may react to what came before;
    it is read ahead of the answers, as far as the engine likes, and so must never wait for one."""
    sent: dict[str, tuple[Question, int, str]] = {}

    def requests() -> Iterator[Request]:
        for question, sample, messages in wanted:
            key = row_id(question.id, sample)
            sent[key] = (question, sample, prompt_hash(messages))
            yield Request(key, messages, seed=sample)

    for completion in engine.complete(requests(), sampling):
        yield *sent.pop(completion.key), completion


def ask(
    engine: Engine,
    questions: Sequence[Question],
    *,
    system: str,
    shots: Sequence[Shot] = (),
    sampling: Sampling,
    num_samples: int = 1,
    done: Container[str] = (),
) -> Iterator[Answered]:
    """Ask each question ``num_samples`` times, for every row that is not in ``done``."""
    wanted = (
        (question, sample, messages_for(question, system, shots))
        for question in questions
        for sample in range(num_samples)
        if row_id(question.id, sample) not in done
    )
    return put(engine, wanted, sampling)


def record(
    questions: Sequence[Question],
    path: Path,
    type_: type[T],
    *,
    key: Callable[[T], str],
    asked: Callable[[T], tuple[str, str]],
    answers: Callable[[Container[str]], Iterable[Answered]],
    make: Callable[[Question, int, str, Completion], T],
    there: Callable[[T], object] = lambda row: None,
    show: Callable[[T], object],
) -> None:
    """Append a row to ``path`` for every answer; ``answers`` is given the ids of the rows that are there already,
    without those that failed, and ``make`` builds a row from what it yields.

    ``key`` gives a row's id, ``asked`` the id and text of its question. ``there`` sees every row that was there
    before, ``show`` every new one. Raises ``ResumeError`` where a question's text has changed.
    """
    texts = {question.id: question.text for question in questions}

    def same_text(row: T) -> None:
        question_id, text = asked(row)
        if texts.get(question_id, text) != text:  # old answers would pass as answers to it
            raise ResumeError(
                f"question {question_id!r} has another text than when {path} was begun: "
                + WAYS_ON.format(what="text (or give the new one another id)")
            )
        there(row)

    forget_errors(path, type_)
    with Journal(path, type_, key=key, each=same_text) as journal:
        for question, sample, hashed, completion in answers(journal.done):
            row = make(question, sample, hashed, completion)
            journal.append(row)
            show(row)


class Account:
    """What a file of answers holds, counted in one reading that keeps none of them; its end is repaired, as
    opening a ``Journal`` does. A file that is not there yet holds nothing.

    With ``known``, the ids of all questions of now, raises ``ResumeError`` where a row answers another question.
    ``each`` sees every row.
    """

    def __init__(
        self,
        path: Path,
        type_: type[Any],
        known: Container[str] | None = None,
        each: Callable[[Any], object] = lambda row: None,
    ) -> None:
        self.rows = self.errors = self.prompt_tokens = self.completion_tokens = 0
        self._answered = Keys()
        self._known = known
        self._each = each
        self._strangers = Counter[str]()
        if path.exists():
            with Journal(path, type_, key=lambda row: row.id, each=self._add):
                pass
        if self._strangers:
            count, names = self._strangers.total(), first_of(list(self._strangers))
            what = f"{path} holds {count} answers to questions that are not asked now ({names})"
            raise ResumeError(f"{what}: {WAYS_ON.format(what='questions')}")

    def owed(self, ids: Iterable[str]) -> int:
        """How many of these rows are not there, or failed."""
        return sum(key not in self._answered for key in ids)

    def _add(self, row: Any) -> None:
        self.rows += 1
        if self._known is not None and row.question_id not in self._known:
            self._strangers[row.question_id] += 1
        self.errors += row.finish == "error"
        self.prompt_tokens += row.prompt_tokens
        self.completion_tokens += row.completion_tokens
        if row.finish != "error":
            self._answered.add(row.id)
        self._each(row)
