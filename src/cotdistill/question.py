"""Question: what is asked.

    {"question": "What is 15% of 240?", "answer": "36", "id": "q1a2", "category": "percent"}

Files are the user's: JSON Lines, a JSON array, CSV or Parquet, with extra keys left alone; rows in the Alpaca
shape (``instruction``, ``input``, ``output``), with chat ``messages``, or with ``prompt`` and ``completion`` are read
too (see ``exchange``).
"""

import hashlib
import logging
import math
import shlex
import unicodedata
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

import msgspec

from cotdistill.errors import DataError, UsageError
from cotdistill.exchange import exchange_in
from cotdistill.question_file import Digits, rows_of

log = logging.getLogger(__name__)


class Question(msgspec.Struct, frozen=True, omit_defaults=True):
    """One question. ``gold`` is the right answer as its author wrote it (the part after ``####`` for
    GSM8K-style answers), None where nobody knows it. ``kind`` overrides the kind inferred from gold."""

    id: str
    text: str = msgspec.field(name="question")
    gold: str | None = msgspec.field(name="answer", default=None)
    kind: str | None = None
    category: str | None = None
    choices: tuple[str, ...] | None = None


def content_id(text: str, choices: Sequence[str] | None = None) -> str:
    """The id of a question that has none: 16 hex digits of the SHA-256 of its text, which do not change with
    its place in the file, its spacing or its spelling in Unicode."""
    return hashlib.sha256(_canonical("\n".join([text, *(choices or ())])).encode()).hexdigest()[:16]


def gold_part(answer: str) -> str:
    """The gold of a data set's answer: what follows the last ``####`` (GSM8K), else the text, stripped."""
    return answer.rpartition("####")[2].strip()


def _canonical(text: str) -> str:
    # NFKC alone would make 5² and 52 one question.
    marked = "".join(f"^{c}" if unicodedata.decomposition(c).startswith("<super>") else c for c in text)
    return " ".join(unicodedata.normalize("NFKC", marked).split())


# Loading


def load_questions(
    path: str | Path, *, question_key: str = "question", answer_key: str = "answer", limit: int | None = None
) -> list[Question]:
    """The questions of a file, each once, in its order; or of a data set of the hub, named as
    ``hub:openai/gsm8k:main:train`` (``hub:NAME[:CONFIG]:SPLIT``). How many rows were there again is said.

    A GSM8K-style answer is cut to its gold; a number or true/false becomes text. ``limit`` keeps the first ones.
    Raises ``DataError``, with file and line, for what cannot be read, a row without a question, one id with two
    texts, and one text with two golds; ``UsageError`` for an ``answer_key``, other than the usual one, that no row has;
    ``SetupError`` where a format needs a package that is not installed.
    """
    if limit is not None and limit < 1:
        raise UsageError(f"limit is {limit}; it must be at least 1")
    seen: dict[str, tuple[str, Question]] = {}
    golds: dict[str, tuple[str, str]] = {}
    merged = 0
    keys: dict[str, None] = {}  # of all rows, in their order
    for where, row in rows_of(path):
        keys |= dict.fromkeys(row)
        question = _question(where, row, question_key, answer_key)
        content = content_id(question.text, question.choices)
        if question.gold is not None:
            there, gold = golds.setdefault(content, (where, question.gold))
            if gold != question.gold:
                raise DataError(
                    f"{where}: the answer is {question.gold!r}, but the same question has {gold!r} at {there}"
                )
        if question.id not in seen:
            seen[question.id] = where, question
            continue
        there, first = seen[question.id]
        if content_id(first.text, first.choices) != content:
            raise DataError(f"{where}: the id {question.id!r} belongs to another question at {there}; change one")
        if first.gold is None:
            seen[question.id] = there, question
        merged += 1
    if not seen:
        raise DataError(f'{path} holds no questions; write one a line, like {{"question": "What is 15% of 240?"}}')
    if answer_key not in keys:
        _say_no_answers(path, answer_key, keys)
    if merged:
        _say_merged(path, merged)
    return [question for _, question in seen.values()][:limit]


@cache
def _say_merged(path: str | Path, merged: int) -> None:
    """Once: a run reads its files twice, to see that they can be read and to load them."""
    log.warning("%s: %d rows repeat an earlier one and count once", path, merged)


def _say_no_answers(path: str | Path, answer_key: str, keys: Iterable[str]) -> None:
    """No row has the key: where somebody named it, it is a slip of the pen, and every trace would teach unchecked."""
    if answer_key != "answer":
        raise UsageError(
            f"no row of {path} has {answer_key!r} (their keys: {_listed(keys)}); correct --answer_key, or leave it out"
        )
    if meant := _almost(answer_key, keys):
        log.warning("%s: %r is not taken for %r; --answer_key %s reads it", path, meant, answer_key, shlex.quote(meant))


def _almost(wanted: str, keys: Iterable[str]) -> str | None:
    """The key that differs from the wanted one by case and blanks only."""
    return next((key for key in keys if key.strip().lower() == wanted.lower()), None)


def _listed(keys: Iterable[str]) -> str:
    return ", ".join(ascii(key) for key in list(keys)[:8]) or "none"


def _question(where: str, row: dict[str, object], question_key: str, answer_key: str) -> Question:
    text, answer = _asked(where, row, question_key, answer_key)
    if not isinstance(text, str) or isinstance(text, Digits):
        raise DataError(f"{where}: the question is not text; put it in quotes")
    if not text.strip():
        raise DataError(f"{where}: the question is empty; write it or remove the row")
    if control := next((c for c in text if unicodedata.category(c) == "Cc" and not c.isspace()), None):
        raise DataError(f"{where}: the question holds the control character {control!r}; remove it")
    choices = row.get("choices")
    if choices is not None and not isinstance(choices, list | tuple):
        raise DataError(f"{where}: choices are not a list")
    named = tuple(_text(where, "choices", choice) or "" for choice in choices) if choices else None
    return Question(
        id=_text(where, "id", row.get("id")) or content_id(text, named),
        text=str(text),
        gold=_gold(where, answer_key, answer),
        kind=_text(where, "kind", row.get("kind")),
        category=_text(where, "category", row.get("category")),
        choices=named,
    )


def _asked(where: str, row: dict[str, object], question_key: str, answer_key: str) -> tuple[object, object]:
    """Question and answer of a row, under their keys or in another shape."""
    if row.get(question_key) is not None:
        return row[question_key], row.get(answer_key)
    try:
        found = exchange_in(row) if question_key == "question" else None
    except ValueError as error:
        raise DataError(f"{where}: {error}") from error
    if found:
        return found.question, found.answer
    way = f"--question_key {shlex.quote(meant)}" if (meant := _almost(question_key, row)) else "--question_key"
    raise DataError(f"{where}: no {question_key!r} in this row (its keys: {_listed(row)}); add it or use {way}")


def _gold(where: str, key: str, answer: object) -> str | None:
    text = _text(where, key, answer)
    if text is None:
        return None
    gold = gold_part(text)
    if not gold:
        raise DataError(f"{where}: nothing stands after the last '####' of the answer; write the gold answer there")
    return gold


def _text(where: str, key: str, value: object) -> str | None:
    """A scalar as text; None for what is not there or blank."""
    match value:
        case None:
            return None
        case bool():
            return "true" if value else "false"
        case float() if math.isnan(value):  # how some tables write a missing value
            return None
        case str() | int() | float():
            return str(value) if str(value).strip() else None
    raise DataError(f"{where}: {key!r} is neither text nor a number")
