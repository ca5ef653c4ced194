"""Audit: traces on which two ways of judging disagree, for a person to read.

    {"trace_id": "q1a2#0", "methods": ["marker", "last number"], "says": ["35", "36"], "gold": "36",
     "status": "wrong", "question": "What is 15% of 240?", "reasoning": "..."}

``marker``/``last number`` (choice, yes or no): the answer behind the marker is not the last one in the text.
``gold``/``steps``: the answer is right and an equation on the way to it is false. ``comparator``/``math-verify``:
ours and the symbolic one differ on whether answer and gold are the same (only with the ``[math]`` extra).
"""

from collections.abc import Iterator

import msgspec

from cotdistill.answer import find_answer, same_answer
from cotdistill.grade import gold_of
from cotdistill.question import Question
from cotdistill.reading.symbolic import same_symbolic
from cotdistill.shown import visible
from cotdistill.trace import Trace
from cotdistill.verdict import Verdict


class Disagreement(msgspec.Struct, frozen=True):
    """One trace and the two methods; characters that could drive a terminal are written as escapes."""

    trace_id: str
    methods: tuple[str, str]
    says: tuple[str, str]
    gold: str | None
    status: str
    question: str
    reasoning: str


def disagreements(
    trace: Trace, question: Question, verdict: Verdict, markers: tuple[str, ...]
) -> Iterator[Disagreement]:
    """Where the methods disagree on a trace; nothing for one that cannot teach whatever its answer is."""
    if verdict.status in ("error", "truncated", "control_token", "leaks", "too_long"):
        return

    def row(one: str, says: str, other: str, says_other: str) -> Disagreement:
        says, says_other = visible(says), visible(says_other)
        asked, gold_shown = visible(trace.question), None if question.gold is None else visible(question.gold)
        return Disagreement(
            trace.id, (one, other), (says, says_other), gold_shown, verdict.status, asked, visible(trace.reasoning)
        )

    gold, kind = gold_of(question)
    strict = find_answer(trace.reasoning, kind, markers=markers, choices=question.choices)
    if strict.value is not None and strict.kind in ("number", "choice", "boolean"):
        last = find_answer(trace.reasoning, strict.kind, markers=(), choices=question.choices, fallback=True)
        if last.value is not None and not same_answer(strict, last):
            yield row("marker", strict.text, last.source.replace("_", " "), last.text)
    if gold is None:
        return
    if verdict.bad_steps and same_answer(strict, gold):
        yield row("gold", "right", "steps", f"not true: {verdict.bad_steps[0]}")
    if strict.text and strict.text != gold.text:
        ours, symbolic = same_answer(strict, gold), same_symbolic(strict.text, gold.text)
        if symbolic is not None and symbolic != ours:
            said = {True: "the same", False: "not the same"}
            yield row("comparator", said[ours], "math-verify", said[symbolic])
