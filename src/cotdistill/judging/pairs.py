"""Pairs: what a student learns to answer to what, of the traces that may teach."""

from collections.abc import Iterable, Iterator

from cotdistill.judging.files import with_verdicts
from cotdistill.question import Question
from cotdistill.settings.train import Target
from cotdistill.trace import Trace
from cotdistill.verdict import TEACHES, TaughtText, Verdict, taught_text, thought_text


def teaching_pairs(
    questions: Iterable[Question], traces: Iterable[Trace], verdicts: Iterable[Verdict], target: Target = "reasoning"
) -> Iterator[TaughtText]:
    """What is learned of every trace that may teach, in the order of the traces."""
    known = {question.id: question for question in questions}
    for trace, verdict in with_verdicts(traces, verdicts):
        if verdict is not None and verdict.status in TEACHES:
            question = known.get(trace.question_id) or Question(trace.question_id, trace.question)
            if target == "answer":
                text = f"Final Answer: {verdict.answer}"
            else:
                text = (thought_text if target == "thinking" else taught_text)(trace, verdict)
            yield TaughtText(trace.id, question, text)
