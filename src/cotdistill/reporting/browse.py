"""Browse: the questions of a run as rows for the page, each with what every model answered.

    {"id": "q7", "slice": "held_out", "question": "What is 6 + 9 + 4?", "gold": "19", "category": "chain_sum",
     "outcome": "gained", "tags": ["bad_step"],
     "answers": [{"by": "base", "text": ["6 + 9 = ", ["bad", "6 + 9 = 14"], ...], "answer": "18", "mark": "wrong",
                  "tokens": 28, "false": ["6 + 9 = 14"]}, ...]}

A text is a list of plain pieces and of ``[mark, piece]``, so that the page counts no characters; control,
bidirectional and other invisible characters in it are written as escapes. Pure.
"""

import base64
import gzip
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Literal

import msgspec

from cotdistill.answer import find_answer
from cotdistill.judging.files import with_verdicts
from cotdistill.prediction import Prediction, is_correct
from cotdistill.question import Question
from cotdistill.reading.marker import spoken
from cotdistill.reporting.score import first_samples_of
from cotdistill.shown import visible
from cotdistill.steps import check_steps
from cotdistill.trace import Trace
from cotdistill.verdict import TEACHES, Verdict

Slice = Literal["held_out", "unseen", "traces"]
Piece = str | tuple[str, str]

MOST_CHARACTERS = 20_000
"""Most characters of one text; it is said what is left out. Arithmetic is checked up to there, too."""
PAGE_BYTES = 2_000_000
"""Bytes of the rows of one page as JSON, before they are compressed."""
LAST_TRIES = 8
MARKS = ("answer", "read", "bad")


class Answer(msgspec.Struct, frozen=True, omit_defaults=True):
    """One text, by a model. ``mark``: right, wrong, no_answer, truncated, error, ungraded, or a verdict's status.
    ``false`` are the equations in it that cannot be true."""

    by: str
    text: list[Piece]
    mark: str
    answer: str = ""
    read: str = ""  # how the answer was found, where no marker stands before it
    tokens: int = 0
    false: tuple[str, ...] = ()
    note: str = ""


class Row(msgspec.Struct, frozen=True, omit_defaults=True):
    """One question. ``outcome`` pairs base and student: gained, lost, both, neither; for a trace, its verdict."""

    id: str
    slice: Slice
    question: str
    outcome: str
    answers: list[Answer]
    gold: str = ""
    category: str = ""
    tags: tuple[str, ...] = ()


def question_rows(
    part: Slice, questions: Sequence[Question], predictions: Mapping[str, Sequence[Prediction]]
) -> Iterator[Row]:
    """A row for every question, in the order of ``questions``; the models in the order of ``predictions``."""
    ids = [question.id for question in questions]
    answered = {name: first_samples_of(rows, ids) for name, rows in predictions.items()}
    for at, question in enumerate(questions):
        rows = {name: every[at] for name, every in answered.items()}
        answers = [_answer(name, row) for name, row in rows.items()]
        tags = [tag for tag in ("truncated", "no_answer", "error") if any(answer.mark == tag for answer in answers)]
        if "truncated" not in tags and any(row.finish == "length" for row in rows.values()):
            tags.insert(0, "truncated")
        if any(answer.false for answer in answers):
            tags.append("bad_step")
        yield Row(
            visible(question.id), part, visible(question.text), _outcome(rows), answers, visible(question.gold or ""),
            visible(question.category or ""), tuple(tags),
        )  # fmt: skip


def trace_rows(
    questions: Iterable[Question], traces: Iterable[Trace], verdicts: Iterable[Verdict]
) -> Iterator[Row]:
    """A row for every trace with its verdict."""
    asked = {question.id: question for question in questions}
    for trace, verdict in with_verdicts(traces, verdicts):
        verdict = verdict or Verdict(trace.id, "unchecked", reason="not judged")
        question = asked.get(trace.question_id)
        answer = Answer(
            by=visible(trace.model or "teacher"),
            text=pieces(trace.reasoning, verdict.answer, verdict.bad_steps),
            mark=verdict.status,
            answer=visible(verdict.answer),
            tokens=trace.completion_tokens,
            false=tuple(map(visible, verdict.bad_steps)),
            note=visible("; ".join([*verdict.flags, *([verdict.reason] if verdict.reason else [])])),
        )
        yield Row(
            visible(trace.id), "traces", visible(trace.question), verdict.status, [answer],
            visible(question.gold or "") if question else "", visible(question.category or "") if question else "",
            ("teaches",) if verdict.status in TEACHES else ("dropped",),
        )  # fmt: skip


def _outcome(rows: Mapping[str, Prediction]) -> str:
    """What became of the question from base to student; ``ungraded`` where it has no gold or one is missing."""
    if "base" not in rows or "student" not in rows or rows["base"].gold is None:
        return "ungraded"
    match is_correct(rows["base"]), is_correct(rows["student"]):
        case True, True:
            return "both"
        case True, False:
            return "lost"
        case False, True:
            return "gained"
    return "neither"


def _answer(name: str, row: Prediction) -> Answer:
    marked = row.status == "marker"
    false = check_steps(row.response).bad if "=" in row.response else ()
    notes = []
    if row.finish == "length" and row.status != "truncated":
        notes.append("cut at the token limit, after its answer")
    if row.error:
        notes.append(row.error)
    return Answer(
        by=visible(name),
        text=pieces(row.response, row.answer, false, marked=marked),
        mark=_mark(row),
        answer=visible(row.answer),
        read="" if marked else row.status,
        tokens=row.completion_tokens,
        false=tuple(map(visible, false)),
        note=visible("; ".join(notes)),
    )


def _mark(row: Prediction) -> str:
    if row.finish == "error" or row.status == "error":
        return "error"
    if row.status in ("no_answer", "truncated"):
        return row.status
    if row.gold is None:
        return "ungraded"
    return "right" if is_correct(row) else "wrong"


def pieces(text: str, answer: str, false: Sequence[str] = (), *, marked: bool = True) -> list[Piece]:
    """The text cut where something is marked: ``answer`` (``read`` where no marker stood before it), and each
    equation of ``false`` as ``bad``; an answer inside one is ``answer bad``. What is not found as it is written is
    left unmarked."""
    spans: list[tuple[int, int, str]] = []
    shown = text[:MOST_CHARACTERS]
    if answer and (at := _place(text, answer, marked)) >= 0:
        spans.append((at, at + len(answer), "answer" if marked else "read"))
    for claim in false:
        at = shown.find(claim)
        while at >= 0:
            spans.append((at, at + len(claim), "bad"))
            at = shown.find(claim, at + len(claim))
    places = sorted({0, len(shown), *(place for span in spans for place in span[:2] if place < len(shown))})
    cut: list[Piece] = []
    for start, stop in pairwise(places):
        marks = [mark for mark in MARKS if any(a <= start and stop <= b for a, b, of in spans if of == mark)]
        piece = visible(shown[start:stop])
        cut.append((" ".join(marks), piece) if marks else piece)
    if len(text) > len(shown):
        cut.append(("cut", f"\n[{len(text) - len(shown)} more characters are in the run's files]"))
    return cut


def _place(text: str, answer: str, marked: bool) -> int:
    """Where the answer stands. Behind a marker it is the first place at which a reader who stops there reads it:
    what comes after may repeat it."""
    said, _ = spoken(text)
    start = text.find(said)
    found = place = said.rfind(answer)
    for _ in range(LAST_TRIES if marked else 0):
        place = said.rfind(answer, 0, place) if place > 0 else -1
        if place < 0:
            break
        earlier = find_answer(said[: place + len(answer)])
        if earlier.source != "marker" or earlier.text != answer:
            break
        found = place
    return start + found if found >= 0 and start >= 0 else -1


def pack(rows: Iterable[Row]) -> Iterator[str]:
    """The rows as pages: base64 of gzipped JSON lists, the same bytes for the same rows. At least one page.

    So no text of a model stands in the page as such. Base64 makes the data a third larger.
    """
    page: list[bytes] = []
    size = 0
    sent = False
    for row in rows:
        encoded = msgspec.json.encode(row)
        if page and size + len(encoded) > PAGE_BYTES:
            yield _packed(page)
            page, size, sent = [], 0, True
        page.append(encoded)
        size += len(encoded)
    if page or not sent:
        yield _packed(page)


def _packed(page: Sequence[bytes]) -> str:
    return base64.b64encode(gzip.compress(b"[" + b",".join(page) + b"]", 6, mtime=0)).decode()
