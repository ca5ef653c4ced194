"""Overlap: what a test set shares with the questions a student was trained on."""

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence

import msgspec

from cotdistill.errors import DataError
from cotdistill.prompt import Shot
from cotdistill.question import Question
from cotdistill.reading.plain import plain
from cotdistill.shown import first_of


class Overlap(msgspec.Struct, frozen=True):
    """What a test set shares with training: the ids of test questions that are in it word for word, and the
    share (0..1) of the test set's runs of eight words that occur in it."""

    exact: tuple[str, ...]
    shared_ngrams: float


_LETTER_HYPHEN = re.compile(r"(?<=[^\W\d_])-(?=[^\W\d_])")


class _Marks(dict[int, str | None]):
    """For ``str.translate``: letters, digits and the signs of arithmetic stay, other marks become spaces."""

    def __missing__(self, code: int) -> str | None:
        mark, category = chr(code), unicodedata.category(chr(code))
        if category[0] in "LMN":
            self[code] = mark
        elif category == "Sm" or mark in "-*/%^":
            self[code] = f" {mark} "
        else:
            self[code] = None if mark in "'’" or category == "Cf" else " "
        return self[code]


_MARKS = _Marks()


def words(question: Question) -> tuple[str, ...]:
    """A question (with its choices) as bare words, numbers and arithmetic signs, for comparing: case,
    punctuation, spacing and Unicode spelling are gone, but 3 - 5, 3 + 5 and 35 stay apart."""
    text = plain("\n".join([question.text, *(question.choices or ())])).casefold()
    return tuple(_LETTER_HYPHEN.sub(" ", text).translate(_MARKS).split())


def overlap(train: Iterable[Question], test: Iterable[Question]) -> Overlap:
    """Compare two sets by ``words`` and by runs of eight of them (all of a shorter question)."""
    known: set[tuple[str, ...]] = set()
    grams: set[int] = set()
    for question in train:
        known.add(bare := words(question))
        grams.update(map(hash, runs(bare)))
    exact, total, shared = [], 0, 0
    for question in test:
        bare = words(question)
        if bare in known:
            exact.append(question.id)
        for run in runs(bare):
            total += 1
            shared += hash(run) in grams
    return Overlap(tuple(exact), shared / total if total else 0.0)


def runs(bare: tuple[str, ...], length: int = 8) -> Iterator[tuple[str, ...]]:
    """The runs of ``length`` words, all of a shorter question."""
    for start in range(max(1, len(bare) - length + 1)):
        yield bare[start : start + length]


def refuse_shown(shots: Sequence[Shot], questions: Iterable[Question], file: str) -> None:
    """Raise ``DataError`` where a worked example, of ``file``, is one of the held-out ``questions``."""
    shown = [Question(f"example {number}", shot.question) for number, shot in enumerate(shots, 1)]
    if both := overlap(shown, questions).exact:
        raise DataError(f"{file} shows {len(both)} of the held-out questions ({first_of(both)}); take them out of it")


def refuse_overlap(train: Iterable[Question], test: Iterable[Question]) -> Overlap:
    """The overlap of two sets; raises ``DataError`` where a test question is in the training set."""
    found = overlap(train, test)
    if found.exact:
        what = f"{len(found.exact)} test questions are also training questions"
        raise DataError(f"{what} ({first_of(found.exact)}); remove them from one of the two")
    return found
