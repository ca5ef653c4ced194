"""``cotdistill verify``: which traces of a file may teach."""

from pathlib import Path
from typing import Annotated

import typer

from cotdistill.commands import options as o


def verify(
    traces: Annotated[Path, typer.Option("--traces", help="Traces; a hand-made file will do.")],
    output: Annotated[Path, typer.Option("--output", help="Where the verdicts go.")],
    questions: Annotated[Path | None, typer.Option("--questions", help="Questions with gold answers.")] = None,
    steps: Annotated[bool, typer.Option("--steps/--no_steps", help="Check the arithmetic in each trace.")] = True,
    question_key: o.QuestionKey = "question",
    answer_key: o.AnswerKey = "answer",
    json: Annotated[bool, typer.Option("--json", help="Print the counts as JSON.")] = False,
) -> None:
    """Judge every trace and write one verdict a line; prints the counts by status."""
    from collections import Counter

    import msgspec

    from cotdistill.dataset import load_traces
    from cotdistill.journal import write_rows
    from cotdistill.question import load_questions
    from cotdistill.verdict import judge_all

    rows, known = load_traces(traces)
    if questions:
        asked = load_questions(questions, question_key=question_key, answer_key=answer_key).rows
        known |= {question.id: question for question in asked}
    counts: Counter[str] = Counter()
    verdicts = list(judge_all(rows, known, steps=steps))
    counts.update(verdict.status for verdict in verdicts)
    write_rows(output, verdicts)
    typer.echo(msgspec.json.encode(counts).decode() if json else f"{output}: {o.counted(counts)}")
