"""Trace: what the teacher wrote for one question.

    {"id": "q1a2#0", "question_id": "q1a2", "question": "What is 15% of 240?",
     "reasoning": "15% of 240 is 0.15 * 240 = 36.\\nFinal Answer: 36", "final_answer": "36",
     "finish": "stop", "model": "qwen2.5-coder-1.5b-instruct", "sample": 0,
     "prompt_tokens": 180, "completion_tokens": 24, "prompt_hash": "9f..."}
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from cotdistill.answer import find_answer
from cotdistill.asking import record
from cotdistill.engines import Completion, Engine, Finish, Sampling
from cotdistill.prompt import Shot
from cotdistill.question import Question


class Trace(msgspec.Struct, frozen=True, omit_defaults=True):
    """One completion of the teacher. ``reasoning`` is byte for byte what it wrote, final line included."""

    id: str
    question_id: str
    question: str
    reasoning: str
    final_answer: str = ""
    finish: Finish | None = None
    model: str = ""
    sample: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    thinking: str | None = None
    hinted: bool = False
    prompt_hash: str = ""
    error: str | None = None


def teach(
    engine: Engine,
    questions: Sequence[Question],
    path: Path,
    *,
    system: str,
    shots: Sequence[Shot] = (),
    sampling: Sampling,
    num_samples: int = 1,
    name: str = "",
    show: Callable[[Trace], None] = lambda trace: None,
) -> None:
    """Ask the teacher every question ``num_samples`` times and append the traces to ``path``.

    Rows already there are not asked again, except those that failed. A request that fails becomes a row
    with ``finish="error"``: counted, never taught, asked again on the next run.
    """

    def make(question: Question, sample: int, hashed: str, completion: Completion) -> Trace:
        return Trace(
            id=completion.key,
            question_id=question.id,
            question=question.text,
            reasoning=completion.text,
            final_answer=find_answer(completion.text).text,
            finish=completion.finish,
            model=name,
            sample=sample,
            prompt_tokens=completion.prompt_tokens,
            completion_tokens=completion.completion_tokens,
            thinking=completion.thinking,
            prompt_hash=hashed,
            error=completion.error,
        )

    record(
        engine, questions, path, Trace, key=lambda row: row.id, asked=lambda row: (row.question_id, row.question),
        make=make, system=system, shots=shots, sampling=sampling, num_samples=num_samples, show=show,
    )  # fmt: skip
