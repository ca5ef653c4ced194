"""Contamination: training questions that a test set also asks.

    test  t1: "Tom has 3 apples and buys 4. How many has he now?"
    train q7: "tom has 3 apples, and buys 4 -- how many has he now?"   is t1: removed
    train q8: "Ann has 5 pens and buys 4. How many has she now?"       shares a run of words at most: reported

Word for word means after ``overlap.words``: case, punctuation and spelling in Unicode do not count. Runs of words
do not prove much: data sets written to a pattern (coin flips, SVAMP) share most of theirs with every other row, so
a run in more than 1 % of the training questions is the pattern's and is ignored, and the others are reported
unless asked to remove. Not covered: paraphrases, translations, and questions quoted inside a trace.
"""

from collections import Counter
from collections.abc import Iterable

import msgspec

from cotdistill.overlap import runs, words
from cotdistill.question import Question

NGRAM = 8
TEMPLATE_SHARE = 0.01
TEMPLATE_ROWS = 3  # fewer rows show no pattern, however small the set is


class Hit(msgspec.Struct, frozen=True, omit_defaults=True):
    """A training question and the test question it meets; ``shared`` is the run of words, "" where all are."""

    question_id: str
    test_id: str
    shared: str = ""

    def __str__(self) -> str:
        if self.shared:
            return f"{self.question_id} shares {self.shared!r} with test question {self.test_id}"
        return f"{self.question_id} is test question {self.test_id}"


class Contamination:
    """A test set, made ready to be looked up; memory grows with the test set and by 60 bytes a training question.

    ``train`` are all questions that will be looked up, read once to learn their patterns; the same text counts once.
    """

    def __init__(self, test: Iterable[Question], train: Iterable[Question], *, ngram: int = NGRAM) -> None:
        self._ngram = ngram
        self._exact: dict[int, str] = {}  # hash of the words -> id of the test question
        self._runs: dict[int, str] = {}
        for question in test:
            bare = words(question)
            self._exact.setdefault(hash(bare), question.id)
            if question.choices:  # hand-made traces seldom carry the choices
                self._exact.setdefault(hash(words(msgspec.structs.replace(question, choices=None))), question.id)
            for run in runs(bare, ngram):
                self._runs.setdefault(hash(run), question.id)
        texts: set[int] = set()
        rows: Counter[int] = Counter()
        for question in train:
            bare = words(question)
            if hash(bare) not in texts:
                texts.add(hash(bare))
                rows.update({hash(run) for run in runs(bare, ngram)} & self._runs.keys())
        limit = max(TEMPLATE_SHARE * len(texts), TEMPLATE_ROWS - 1)
        self._templates = {run for run, count in rows.items() if count > limit}

    def exact(self, question: Question) -> Hit | None:
        """The test question that is this one, word for word."""
        test_id = self._exact.get(hash(words(question)))
        return None if test_id is None else Hit(question.id, test_id)

    def ngram(self, question: Question) -> Hit | None:
        """The first run of words, none of a pattern, that this question shares with a test question."""
        for run in runs(words(question), self._ngram):
            key = hash(run)
            if key in self._runs and key not in self._templates:
                return Hit(question.id, self._runs[key], " ".join(run))
        return None
