"""Collecting: what a drawing asks for becomes traces in a file, as it comes."""

from collections.abc import Callable, Sequence
from pathlib import Path

from cotdistill.answer import find_answer
from cotdistill.asking.ask import record
from cotdistill.asking.drawing import Drawing, Step
from cotdistill.engines import Completion, Engine
from cotdistill.question import Question
from cotdistill.trace import Trace


def collect(
    drawing: Drawing,
    questions: Sequence[Question],
    path: Path,
    *,
    names: Sequence[str],
    open_teacher: Callable[[Step], Engine],
    show: Callable[[Trace], object] = lambda trace: None,
) -> None:
    """Append to ``path`` what ``drawing`` asks for; ``names`` are those of its teachers, ``open_teacher`` opens one.

    Rows already there are not asked again, except those that failed. A request that fails becomes a row
    with ``finish="error"``: counted, never taught, asked again on the next run.
    """

    def make(question: Question, sample: int, hashed: str, completion: Completion) -> Trace:
        step = drawing.step_of(sample)
        return Trace(
            id=completion.key,
            question_id=question.id,
            question=question.text,
            reasoning=completion.text,
            final_answer=find_answer(completion.text).text,
            finish=completion.finish,
            model=names[step.teacher],
            sample=sample,
            prompt_tokens=completion.prompt_tokens,
            completion_tokens=completion.completion_tokens,
            thinking=completion.thinking,
            hinted=step.hint,
            prompt_hash=hashed,
            error=completion.error,
        )

    def came(trace: Trace) -> None:
        drawing.came(trace)
        show(trace)

    record(
        questions, path, Trace, key=lambda row: row.id, asked=lambda row: (row.question_id, row.question),
        answers=lambda _: drawing.answers(open_teacher), make=make, there=drawing.there, show=came,
    )  # fmt: skip
