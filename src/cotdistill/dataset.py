"""Dataset: a file of traces with the verdicts that say which may teach.

Ours (``cot_dataset.jsonl``) or a hand-made one with only ``question`` and ``reasoning`` (or ``cot``):

    {"question": "What is 15% of 240?", "reasoning": "0.15 * 240 = 36.\\nFinal Answer: 36"}
"""

import hashlib
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec

from cotdistill.errors import DataError
from cotdistill.journal import read_rows
from cotdistill.question import Question
from cotdistill.stages import teaching_pairs
from cotdistill.trace import Trace
from cotdistill.verdict import Verdict, judge_all


class Dataset(msgspec.Struct, frozen=True):
    """``pairs`` are ``(trace id, question, text to learn)``; ``counts`` are the traces by status."""

    pairs: list[tuple[str, Question, str]]
    counts: dict[str, int]


def load_dataset(path: Path, verdicts_path: Path, *, limit: int | None = None) -> Dataset:
    """Read traces, and their verdicts where ``verdicts_path`` exists; judge them here where it does not, or
    where it lacks some. Gold stands in the trace row's ``answer``, if anywhere. ``limit`` counts teaching traces.

    Raises ``DataError`` with file and line for a row that is no trace.
    """
    traces, questions = load_traces(path)
    verdicts = {v.trace_id: v for v in read_rows(verdicts_path, Verdict)} if verdicts_path.exists() else {}
    unjudged = [trace for trace in traces if trace.id not in verdicts]
    verdicts |= {verdict.trace_id: verdict for verdict in judge_all(unjudged, questions)}
    judged = [verdicts[trace.id] for trace in traces]
    pairs = list(teaching_pairs(questions.values(), traces, judged))
    return Dataset(pairs[:limit], dict(Counter(verdict.status for verdict in judged)))


def load_traces(path: Path) -> tuple[list[Trace], dict[str, Question]]:
    """The traces of a file and the questions they answer, by id. Extra keys of a hand-made file are left alone."""
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}; generate traces first") from error
    traces: dict[str, Trace] = {}
    questions: dict[str, Question] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = msgspec.json.decode(line, type=dict[str, Any])
            trace = _trace(row)
        except (msgspec.MsgspecError, UnicodeDecodeError, ValueError, RecursionError) as error:
            raise DataError(f"{path}:{number}: not a trace: {error}") from error
        if trace.id in traces and traces[trace.id] != trace:
            raise DataError(f"{path}:{number}: the trace id {trace.id!r} stands there twice with different text")
        traces[trace.id] = trace
        gold = row.get("answer")
        questions[trace.question_id] = Question(
            trace.question_id, trace.question, None if gold is None else str(gold), category=None
        )
    if not traces:
        raise DataError(f"{path} holds no trace; run generate first")
    return list(traces.values()), questions


def _trace(row: dict[str, Any]) -> Trace:
    reasoning = row.get("reasoning", row.get("cot"))
    question = row.get("question")
    if not isinstance(question, str) or not question.strip():
        raise ValueError("it has no `question`")
    if not isinstance(reasoning, str):
        raise ValueError("it has neither `reasoning` nor `cot`")
    question_id = str(row.get("question_id") or _short_hash(question))
    known = {key: row[key] for key in Trace.__struct_fields__ if key in row}
    return msgspec.convert(
        {**known, "id": str(row.get("id") or f"{question_id}#{_short_hash(reasoning)}"), "question_id": question_id,
         "question": question, "reasoning": reasoning},
        type=Trace,
    )  # fmt: skip


def _short_hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]
