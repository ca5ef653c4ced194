"""Asking: put every question to an engine, each sample once, and keep what comes as it comes."""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec

from cotdistill.engines import Completion, Engine, Request, Sampling
from cotdistill.errors import ResumeError
from cotdistill.journal import Journal, forget_errors, read_rows
from cotdistill.prompt import Shot, messages_for, prompt_hash
from cotdistill.question import Question

T = TypeVar("T", bound=msgspec.Struct)


def row_id(question_id: str, sample: int) -> str:
    """The id of one answer to one question: ``q1a2#0``."""
    return f"{question_id}#{sample}"


def ask(
    engine: Engine,
    questions: Sequence[Question],
    *,
    system: str,
    shots: Sequence[Shot] = (),
    sampling: Sampling,
    num_samples: int = 1,
    done: Collection[str] = (),
) -> Iterator[tuple[Question, int, str, Completion]]:
    """Yield ``(question, sample, prompt hash, completion)`` for every row not in ``done``, as they finish."""
    planned: dict[str, tuple[Question, int, str]] = {}

    def requests() -> Iterator[Request]:
        for question in questions:
            for sample in range(num_samples):
                key = row_id(question.id, sample)
                if key not in done:
                    messages = messages_for(question, system, shots)
                    planned[key] = (question, sample, prompt_hash(messages))
                    yield Request(key, messages, seed=sample)

    for completion in engine.complete(requests(), sampling):
        question, sample, hashed = planned.pop(completion.key)
        yield question, sample, hashed, completion


def record(
    engine: Engine,
    questions: Sequence[Question],
    path: Path,
    type_: type[T],
    *,
    key: Callable[[T], str],
    asked: Callable[[T], tuple[str, str]],
    make: Callable[[Question, int, str, Completion], T],
    system: str,
    shots: Sequence[Shot] = (),
    sampling: Sampling,
    num_samples: int = 1,
    show: Callable[[T], None],
) -> None:
    """Append a row to ``path`` for every answer that is owed; ``make`` builds it from what ``ask`` yields.

    Rows already there are not asked again, except those that failed. ``key`` gives a row's id, ``asked`` the
    id and text of its question. Raises ``ResumeError`` where a question's text has changed.
    """
    forget_errors(path, type_)
    with Journal(path, type_, key=key) as journal:
        refuse_changed(path, map(asked, read_rows(path, type_)), questions)
        for question, sample, hashed, completion in ask(
            engine, questions, system=system, shots=shots, sampling=sampling, num_samples=num_samples,
            done=journal.done,
        ):  # fmt: skip
            row = make(question, sample, hashed, completion)
            journal.append(row)
            show(row)


def refuse_changed(path: Path, rows: Iterable[tuple[str, str]], questions: Sequence[Question]) -> None:
    """Compare the ``(question id, text)`` of rows on disk with the questions of now.

    Raises ``ResumeError`` where an id has come to mean another text: old answers would pass as answers to it.
    """
    texts = {question.id: question.text for question in questions}
    for question_id, text in rows:
        if texts.get(question_id, text) != text:
            raise ResumeError(
                f"question {question_id!r} has another text than when {path} was begun; "
                "give it a new id, choose another output, or start anew with --overwrite"
            )
