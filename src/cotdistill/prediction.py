"""Prediction: what a model answered to a question it was not taught.

    {"question_id": "q7", "sample": 0, "question": "...", "gold": "36", "response": "...",
     "finish": "stop", "answer": "36", "status": "marker", "correct": true, "status_strict": "marker",
     "correct_strict": true, "prompt_tokens": 60, "completion_tokens": 24, "seconds": 0.4}
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from cotdistill.asking.ask import ask, record, row_id
from cotdistill.engines import Completion, Engine, Finish, Sampling
from cotdistill.grade import grade
from cotdistill.prompt import Shot
from cotdistill.question import Question
from cotdistill.reading.symbolic import same_symbolic

NEVER_RIGHT = frozenset({"error", "truncated", "no_answer"})


class Prediction(msgspec.Struct, frozen=True):
    """One answer, read twice: lenient (marker, else last number, choice or word) and strict (marker only).

    ``status`` says how the answer was found: ``marker``, a named fallback, ``no_answer``, ``truncated``,
    ``ambiguous``, ``too_complex`` or ``error``. ``correct`` is None only where the question has no gold. Of what the
    model was ``thinking`` before its response nothing is read.
    """

    question_id: str
    sample: int
    question: str
    gold: str | None
    response: str
    finish: Finish
    answer: str
    status: str
    correct: bool | None
    status_strict: str
    correct_strict: bool | None
    prompt_tokens: int
    completion_tokens: int
    seconds: float
    error: str | None = None
    thinking: str | None = None

    @property
    def id(self) -> str:
        return row_id(self.question_id, self.sample)

    @property
    def failed(self) -> bool:
        return self.finish == "error" or self.status == "error"


def predict(
    engine: Engine,
    questions: Sequence[Question],
    path: Path,
    *,
    system: str,
    shots: Sequence[Shot] = (),
    sampling: Sampling,
    num_samples: int = 1,
    show: Callable[[Prediction], None] = lambda prediction: None,
) -> None:
    """Ask a model every question and append its graded answers to ``path``; rows already there are kept."""
    record(
        questions, path, Prediction, key=lambda row: row.id, asked=lambda row: (row.question_id, row.question),
        answers=lambda done: ask(
            engine, questions, system=system, shots=shots, sampling=sampling, num_samples=num_samples, done=done
        ),
        make=lambda question, sample, _, completion: graded(question, sample, completion), show=show,
    )  # fmt: skip


def graded(question: Question, sample: int, completion: Completion) -> Prediction:
    """Read the answer in a completion, strictly and leniently, and hold it against gold."""
    marks = grade(completion.text, completion.finish, question, symbolic=same_symbolic)
    return Prediction(
        question_id=question.id,
        sample=sample,
        question=question.text,
        gold=question.gold,
        response=completion.text,
        finish=completion.finish,
        answer=marks.answer,
        status=marks.status,
        correct=marks.correct,
        status_strict=marks.status_strict,
        correct_strict=marks.correct_strict,
        prompt_tokens=completion.prompt_tokens,
        completion_tokens=completion.completion_tokens,
        seconds=completion.seconds,
        error=completion.error,
        thinking=completion.thinking,
    )


def is_correct(row: Prediction, strict: bool = False) -> bool:
    """Whether an answer counts as right: read leniently, or by the marker alone.

    What failed, was cut off before an answer or has none never counts, whatever the row says.
    """
    correct, status = (row.correct_strict, row.status_strict) if strict else (row.correct, row.status)
    return correct is True and not row.failed and status not in NEVER_RIGHT
