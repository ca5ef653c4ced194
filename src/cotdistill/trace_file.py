"""Trace file: traces on disk, ours or hand-made, read question by question without holding the file in memory.

A hand-made row needs only the question and the reasoning (or ``cot``); its gold may stand in ``answer``:

    {"question": "What is 15% of 240?", "reasoning": "0.15 * 240 = 36.\\nFinal Answer: 36"}

or, for those two, one exchange in any of the shapes of ``exchange``. Rows stand on lines of their own, or in one JSON
array, as Alpaca's do.

Traces of one question may be apart in the file. Opening reads it once and keeps where each row begins and whose
it is (some 60 bytes a row and 50 a question); ``groups`` then reads the rows of one question after those of another.
"""

import hashlib
import io
import logging
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from cotdistill.errors import DataError
from cotdistill.exchange import exchange_in
from cotdistill.question import Question, content_id, gold_part
from cotdistill.question_file import json_fault
from cotdistill.storage.disk import cannot
from cotdistill.storage.keys import Keys
from cotdistill.trace import Trace

log = logging.getLogger(__name__)


class Group(msgspec.Struct, frozen=True):
    """One question with its traces in the order of the file; ``places`` count them over the whole file."""

    question: Question
    traces: list[Trace]
    places: list[int]


class TraceFile:
    """An open file of traces, to be used in a ``with``.

    A row belongs to the one of ``questions`` that has its ``question_id``, else its text. With ``only_known``, rows
    of other questions are passed over. A row that stands there again under its own id is read once.

    Raises ``DataError``, with file and line, for a row that is no trace, one id with two traces, an id whose
    question has another text, and a text that is two questions; and for a file without a trace.
    """

    def __init__(self, path: Path, questions: Iterable[Question] = (), *, only_known: bool = False) -> None:
        self.path = path
        self._known = {question.id: question for question in questions}
        self._only_known = only_known
        self._starts = array("Q")  # where each row begins
        self._lines = array("Q")  # its line number
        self._owners = Keys()  # ids of the questions, in the order of their first rows
        self._first = array("Q")  # place of each question's first row ...
        self._last = array("Q")  # ... and of its last
        self._next = array("Q")  # place of the next row of the same question, 0 behind the last
        try:
            self._file = _on_lines(path)
        except FileNotFoundError as error:
            raise DataError(f"cannot read {path}: there is no such file; generate traces first") from error
        except OSError as error:
            raise cannot("read", path, error) from error
        try:
            self._index()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> "TraceFile":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    @cached_property
    def _texts(self) -> dict[str, Question | None]:
        """The known questions by their text; None where two (with different choices) have the same. Most files
        never need it: their rows say whose they are."""
        texts: dict[str, Question | None] = {}
        for question in self._known.values():
            text = content_id(question.text)
            texts[text] = None if text in texts else question
        return texts

    def __len__(self) -> int:
        return len(self._starts)

    def knows(self, question: Question) -> bool:
        """Whether this is one of the questions given, and not one that only its traces tell."""
        return question.id in self._known

    def questions(self) -> Iterator[Question]:
        """Every question that has a trace, as its first row tells it."""
        for place in self._first:
            row, number = self._row(place)
            yield self._question([row], [self._trace(row, number)], number)

    def groups(self) -> Iterator[Group]:
        """Every question with all its traces, in the order of their first rows."""
        for first in self._first:
            rows: list[dict[str, Any]] = []
            traces: list[Trace] = []
            times: Counter[str] = Counter()
            places = list(self._places(first))
            number = 0
            for place in places:
                row, number = self._row(place)
                trace = self._trace(row, number)
                times[trace.id] += 1
                if times[trace.id] > 1:  # hand-made rows with the same text
                    trace = msgspec.structs.replace(trace, id=f"{trace.id}~{times[trace.id]}")
                rows.append({"question_id": row.get("question_id"), "answer": row.get("answer")})
                traces.append(trace)
            yield Group(self._question(rows, traces, number), traces, places)

    def _places(self, first: int) -> Iterator[int]:
        """The rows of a question, from its first."""
        yield first
        while first := self._next[first]:
            yield first

    def _index(self) -> None:
        seen, begins = Keys(), array("Q")  # ids, and where the row of each begins
        merged = start = 0
        for number, line in enumerate(self._file, 1):
            begin, start = start, start + len(line)
            if not line.strip():
                continue
            row = _decode(line, f"{self.path}:{number}")
            trace = self._trace(row, number)
            if row.get("id"):
                if (known := seen.add(trace.id)) < len(begins):
                    if self._again(begins[known], start) != trace:
                        raise DataError(f"{self.path}:{number}: the id {trace.id!r} is there twice with different text")
                    merged += 1
                    continue
                begins.append(begin)
            question = self._asked(row, trace, number)
            if question is None and self._only_known:
                continue
            self._append(question.id if question else trace.question_id, begin, number)
        if not start or not (self._starts or self._only_known):
            raise DataError(f"{self.path} holds no trace; generate traces first")
        if merged:
            log.warning("%s: %d rows are there twice and count once", self.path, merged)

    def _append(self, owner: str, begin: int, number: int) -> None:
        place = len(self._starts)
        self._starts.append(begin)
        self._lines.append(number)
        self._next.append(0)
        if (group := self._owners.add(owner)) == len(self._first):
            self._first.append(place)
            self._last.append(place)
        else:
            self._next[self._last[group]] = place
            self._last[group] = place

    def _again(self, start: int, then: int) -> Trace:
        """The trace of an earlier row; the file is left where it was."""
        self._file.seek(start)
        row = _decode(self._file.readline(), str(self.path))
        self._file.seek(then)
        return self._trace(row, 0)

    def _row(self, place: int) -> tuple[dict[str, Any], int]:
        number = self._lines[place]
        self._file.seek(self._starts[place])
        return _decode(self._file.readline(), f"{self.path}:{number}"), number

    def _trace(self, row: dict[str, Any], number: int) -> Trace:
        try:
            return trace_of(row)
        except (msgspec.MsgspecError, ValueError) as error:
            raise DataError(f"{self.path}:{number}: not a trace: {error}") from error

    def _asked(self, row: dict[str, Any], trace: Trace, number: int) -> Question | None:
        """The known question of a row, if there is one."""
        if question := self._known.get(trace.question_id):
            if question.text != trace.question and content_id(question.text) != content_id(trace.question):
                where = f"{self.path}:{number}: the question {question.id!r} has another text in this trace"
                raise DataError(f"{where} than among the questions; are these the traces of those questions?")
            return question
        if row.get("question_id"):
            return None
        text = content_id(trace.question) if self._known else ""
        if text in self._texts and self._texts[text] is None:
            raise DataError(f"{self.path}:{number}: two questions have this text; say which by its `question_id`")
        return self._texts.get(text)

    def _question(self, rows: list[dict[str, Any]], traces: list[Trace], number: int) -> Question:
        """The known question of these rows, else one made of what they say."""
        if (question := self._asked(rows[0], traces[0], number)) is not None:
            return question
        golds = {gold for row in rows if (gold := _gold(row)) is not None}
        if len(golds) > 1:
            named = ", ".join(map(repr, sorted(golds)[:3]))
            raise DataError(f"{self.path}:{number}: the traces of this question have different answers: {named}")
        return Question(traces[0].question_id, traces[0].question, next(iter(golds), None))


def _on_lines(path: Path) -> BinaryIO:
    """The open file, or, where it is one JSON array, its rows in memory, each on a line."""
    file = path.open("rb")
    begin = file.read(64).removeprefix(b"\xef\xbb\xbf").lstrip()
    file.seek(0)
    if not begin.startswith(b"["):
        return file
    with file:
        data = file.read().removeprefix(b"\xef\xbb\xbf")
    try:
        rows = msgspec.json.decode(data, type=list[msgspec.Raw])
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: not a JSON array ({json_fault(data, error)}); repair it") from error
    # No line break inside a row is inside a string, where JSON writes it as \n.
    return io.BytesIO(b"".join(bytes(row).replace(b"\n", b" ").replace(b"\r", b" ") + b"\n" for row in rows))


def trace_of(row: dict[str, Any]) -> Trace:
    """A row as a trace; ids that it lacks are hashes of its content. Raises ValueError for one that is none."""
    reasoning = row.get("reasoning", row.get("cot"))
    question, thinking = row.get("question"), row.get("thinking")
    if question is None and (found := exchange_in(row)):
        question, reasoning, thinking = found.question, found.answer, found.thinking or thinking
    if not isinstance(question, str) or not question.strip():
        raise ValueError("it has no `question`")
    if not isinstance(reasoning, str):
        raise ValueError("it has neither `reasoning` nor `cot`, nor an answer as text")
    answer = row.get("answer")
    if not isinstance(answer, str | int | float | None):
        raise ValueError("its `answer` is neither text nor a number")
    if isinstance(answer, str) and answer.strip() and not gold_part(answer):
        raise ValueError("nothing stands after the last '####' of its `answer`")
    question_id = str(row.get("question_id") or content_id(question))
    hashed = hashlib.sha256(reasoning.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    known = {key: row[key] for key in Trace.__struct_fields__ if key in row}
    return msgspec.convert(
        {**known, "id": str(row.get("id") or f"{question_id}#{hashed}"), "question_id": question_id,
         "question": question, "reasoning": reasoning, "thinking": thinking},
        type=Trace,
    )  # fmt: skip


def _decode(line: bytes, where: str) -> dict[str, Any]:
    try:
        return msgspec.json.decode(line.removeprefix(b"\xef\xbb\xbf"), type=dict[str, Any])
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise DataError(f"{where}: not a JSON object ({json_fault(line, error)}); repair or remove the line") from error


def _gold(row: dict[str, Any]) -> str | None:
    """The gold a hand-made row may carry, as text."""
    answer = row.get("answer")
    if isinstance(answer, bool):
        return "true" if answer else "false"
    return gold_part(str(answer)) or None if isinstance(answer, str | int | float) else None
