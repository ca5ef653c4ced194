"""Asking: put every question to an engine, each sample once, and hand back what comes as it comes."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path

from cotdistill.engines import Completion, Engine, Request, Sampling
from cotdistill.errors import ResumeError
from cotdistill.prompt import Shot, messages_for, prompt_hash
from cotdistill.question import Question


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
