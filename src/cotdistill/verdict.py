"""Verdict: may this trace teach, and if not, why.

    {"trace_id": "q1a2#0", "status": "correct", "answer": "36", "flags": []}

The verdict depends on the trace, the gold and nothing else: no other model is asked, and text that talks to
its judge is only text. ``agrees``, ``disagrees``, ``duplicate``, ``contaminated`` and ``not_selected`` need more
than one trace and are set where the others are known: ``vote``, ``selection`` and ``contamination``.
"""

import re
from collections.abc import Iterable
from typing import Literal, NamedTuple

import msgspec

from cotdistill.answer import Answer, find_answer, same_answer
from cotdistill.errors import DataError
from cotdistill.grade import Symbolic, gold_of, matches, percent_unclear
from cotdistill.identity import digest
from cotdistill.question import Question
from cotdistill.reading.kinds import KINDS
from cotdistill.reading.leak import speaks_of_gold, tells
from cotdistill.reading.marker import MARKERS, run_on
from cotdistill.reading.step_count import step_count
from cotdistill.reading.symbolic import same_symbolic
from cotdistill.shown import first_of
from cotdistill.steps import check_steps
from cotdistill.thinking import apart, joined
from cotdistill.trace import Trace

Status = Literal[
    "error", "truncated", "control_token", "leaks", "too_long", "too_complex", "no_answer", "ambiguous",
    "wrong", "disagrees", "bad_step", "duplicate", "contaminated", "not_selected",
    "correct", "agrees", "unchecked",
]  # fmt: skip
TEACHES: frozenset[str] = frozenset({"correct", "agrees", "unchecked"})
# Strings that tokenizers turn into single control tokens; inside content they would end or fake a turn.
CONTROL_TOKENS = frozenset({
    "<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>",
    "<|begin_of_text|>", "<|end_of_text|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>", "<|fim_prefix|>",
    "<start_of_turn>", "<end_of_turn>", "<s>", "</s>", "<bos>", "<eos>", "[INST]", "[/INST]", "<<SYS>>",
})  # fmt: skip
# Terminal escapes, NUL and the like, and the characters that reorder a line. Marks of direction (U+200E, U+200F)
# belong to Arabic and Hebrew text and stay.
_CONTROLS = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\u202a-\u202e\u2066-\u2069]")
MAX_CHARACTERS = 200_000  # no student's context holds more, and no judge has to read more


class TaughtText(NamedTuple):
    """What a trace that may teach becomes: the text that a student learns to answer to the question."""

    trace_id: str
    question: Question
    text: str


class Verdict(msgspec.Struct, frozen=True, omit_defaults=True):
    """The first status that applies, in the order of ``Status``; everything outside ``TEACHES`` is dropped. In a file
    ``judged`` is the hash of the trace (``judged_hash``): of one that was edited since, the verdict says nothing."""

    trace_id: str
    status: Status
    answer: str = ""
    flags: tuple[str, ...] = ()
    vote_share: float | None = None
    bad_steps: tuple[str, ...] = ()
    reason: str = ""
    judged: str = ""


def judge(
    trace: Trace,
    question: Question,
    *,
    steps: bool = True,
    repair: bool = True,
    markers: tuple[str, ...] = MARKERS,
    max_words: int | None = None,
    max_steps: int | None = None,
    symbolic: Symbolic | None = None,
    hinted: bool = False,
) -> Verdict:
    """Judge one trace against its question's gold; without gold, what is complete and sound is ``unchecked``.

    ``steps``: a false arithmetic claim makes a trace ``bad_step``. ``repair``: with gold, a trace whose last
    number, choice or word is right and that only lacks the final line is ``correct`` with flag ``repaired``.
    ``max_words``, ``max_steps``: longer traces are ``too_long``, like any of more than ``MAX_CHARACTERS``.
    ``symbolic`` compares with a gold that is too complex to read, such as ``symbolic.same_symbolic``. ``hinted``: a
    trace whose author was shown the gold may teach where nothing in it shows that.
    """
    if unfit := _unfit(trace, max_words, max_steps, hinted):
        return Verdict(trace.id, unfit[0], trace.final_answer, reason=unfit[1])
    gold, kind = gold_of(question)
    if gold is not None and gold.value is None and not (symbolic and gold.status == "too_complex"):
        return Verdict(trace.id, "too_complex", reason=f"the gold {question.gold!r} cannot be read as a {kind}")
    answer = find_answer(trace.reasoning, kind, markers=markers, choices=question.choices)
    flags = answer.flags
    if not answer.source and gold is not None and repair:
        lenient = find_answer(trace.reasoning, kind, markers=markers, choices=question.choices, fallback=True)
        whole = _with_final_line(trace.reasoning, lenient.text, flags)
        if same_answer(lenient, gold) and _reads_back(whole, gold, question):
            answer, flags = lenient, (*flags, "repaired")
    if (status := _judge_answer(answer, gold, symbolic)) not in TEACHES:
        reason = f"the gold is {gold.text}" if gold is not None and answer.value is not None else ""
        return Verdict(trace.id, status, answer.text, flags, reason=reason)
    bad = check_steps(_before_run_on(trace.reasoning, flags)).bad if steps else ()
    if bad:
        return Verdict(trace.id, "bad_step", answer.text, flags, bad_steps=bad, reason=f"not true: {bad[0]}")
    return Verdict(trace.id, status, answer.text, flags)


def judged_hash(trace: Trace) -> str:
    """16 hex digits of what a verdict is about."""
    return digest([trace.question, trace.thinking, trace.reasoning])


def taught_text(trace: Trace, verdict: Verdict) -> str:
    """The text to learn: the reasoning byte for byte, without its run-on and with the final line it lacked."""
    if "repaired" in verdict.flags:
        return _with_final_line(trace.reasoning, verdict.answer, verdict.flags)
    return _before_run_on(trace.reasoning, verdict.flags)


def thought_text(trace: Trace, verdict: Verdict) -> str:
    """The same behind what was thought before it, "" where nothing was."""
    answer, inside = apart(taught_text(trace, verdict))
    return joined(answer, trace.thinking or inside or "")


def judge_gold(question: Question, symbolic: Symbolic | None = None) -> str | None:
    """Why no answer could ever match this question's gold, None if one can (or there is no gold)."""
    if question.kind not in (None, *KINDS):
        return f"unknown answer kind {question.kind!r}; known are {', '.join(KINDS)}"
    gold, kind = gold_of(question)
    if gold is None:
        return None
    if gold.status == "too_complex" and symbolic and symbolic(gold.text, gold.text):
        return None
    if gold.value is None:
        return f"gold {question.gold!r} cannot be read as a {kind}: {gold.status}"
    if not _reads_back(f"Final Answer: {gold.text}", gold, question):
        return f"gold {question.gold!r} is not found again behind a marker as a {kind}"
    return None


def check_golds(questions: Iterable[Question]) -> None:
    """Raise ``DataError`` naming up to five questions whose gold our own reader cannot find or match."""
    bad = [f"{question.id} ({reason})" for question in questions if (reason := judge_gold(question, same_symbolic))]
    if bad:
        raise DataError(f"{len(bad)} gold answers cannot be read: {first_of(bad)}; correct them or leave them out")


def _unfit(
    trace: Trace, max_words: int | None, max_steps: int | None, hinted: bool
) -> tuple[Status, str] | None:
    """Why a trace cannot teach whatever its answer is, if it cannot."""
    text = trace.reasoning
    if trace.finish == "error" or trace.error:
        return "error", trace.error or "the request failed"
    if trace.finish == "length":
        return "truncated", "cut at the token limit"
    opened, closed = text.count("<think>"), text.count("</think>")
    if opened > closed:
        return "truncated", "<think> is never closed"
    for token in sorted(CONTROL_TOKENS):
        if token in text or token in trace.question:
            return "control_token", f"{token} stands in the text"
    if closed > opened or (closed and text.find("</think>") < text.find("<think>")):
        return "control_token", "</think> without <think>"
    if control := _CONTROLS.search(text) or _CONTROLS.search(trace.question):
        return "control_token", f"the control character {control[0]!a} stands in the text"
    if trace.hinted and not hinted:
        return "leaks", "the gold was in the prompt"
    if trace.hinted and (told := tells(f"{trace.thinking or ''}\n{text}", trace.question)):
        return "leaks", f"the gold was in the prompt, and it shows: {told!r}"
    if leak := speaks_of_gold(text, trace.question):
        return "leaks", f"it says {leak!r}"
    if len(text) > MAX_CHARACTERS:
        return "too_long", f"{len(text)} characters, the limit is {MAX_CHARACTERS}"
    if max_words is not None and (words := len(text.split())) > max_words:
        return "too_long", f"{words} words, the limit is {max_words}"
    if max_steps is not None and (count := step_count(text)) > max_steps:
        return "too_long", f"{count} steps, the limit is {max_steps}"
    return None


def _judge_answer(answer: Answer, gold: Answer | None, symbolic: Symbolic | None) -> Status:
    if gold is not None and gold.status == "too_complex" and answer.text:
        same = matches(answer, gold, symbolic)
        return "too_complex" if same is None else "correct" if same else "wrong"
    if answer.status != "found":
        return answer.status
    if gold is None:
        return "unchecked"
    if same_answer(answer, gold):
        return "correct"
    return "ambiguous" if percent_unclear(answer, gold) else "wrong"


def _before_run_on(text: str, flags: tuple[str, ...]) -> str:
    if "run_on" not in flags:
        return text
    return text[: run_on(text, start=text.rfind("</think>") + 1)]


def _with_final_line(text: str, answer: str, flags: tuple[str, ...]) -> str:
    return f"{_before_run_on(text, flags)}\nFinal Answer: {answer}"


def _reads_back(text: str, gold: Answer, question: Question) -> bool:
    return same_answer(find_answer(text, gold.kind, choices=question.choices), gold)
