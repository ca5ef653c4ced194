"""Score: one model's answers in numbers, over the questions that were planned.

A row that failed, was cut off or found no answer is a wrong one; a file that lacks rows, or has some twice, is an
error, never a smaller denominator.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TypeVar

import msgspec

from cotdistill.errors import DataError
from cotdistill.prediction import Prediction, is_correct
from cotdistill.reading.marker import spoken
from cotdistill.reporting.samples import majority, pass_curve
from cotdistill.shown import first_of
from cotdistill.statistics import wilson

Item = TypeVar("Item")


class CategoryScore(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The lenient accuracy on the questions of one category; null where none of them has gold."""

    n: int
    correct: int
    accuracy: float | None


class ModelScore(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One model's answers in numbers.

    ``n`` counts the planned questions that have gold, ``ungraded`` those without; shares are of ``n``, null
    where it is 0. The other counts are over all planned questions: ``truncated`` is every answer that ran
    into the token limit, ``no_answer`` every one in which even the lenient reading finds none. Tokens are
    averaged over the answers that did not fail, seconds over all; ``tokens_per_second`` counts written
    tokens only. The interval is Wilson's, 95 %, of the lenient ``accuracy``. ``run_on`` are the answers that
    went on after they were given: with another question, or until the limit cut them off.

    All of this is of each question's first answer. Where ``samples`` answers (at least) were drawn, ``pass_at`` has
    pass@k by k, and ``majority`` the share of questions whose most frequent answer is right (maj@k, k all answers).
    """

    n: int
    ungraded: int
    correct: int
    accuracy: float | None
    ci_low: float | None
    ci_high: float | None
    correct_strict: int
    accuracy_strict: float | None
    no_answer: int
    truncated: int
    errors: int
    mean_completion_tokens: float | None
    seconds_per_question: float
    tokens_per_second: float | None
    by_category: dict[str, CategoryScore]
    run_on: int = 0
    samples: int = 1
    pass_at: dict[int, float] = {}
    majority: float | None = None


def summarize(
    predictions: Sequence[Prediction],
    expected_ids: Sequence[str],
    categories: Mapping[str, str | None] | None = None,
    source: str = "the predictions",
) -> ModelScore:
    """Score one model. ``categories`` maps question ids to categories; ``source`` names the file in errors.

    Raises DataError where the answers are not exactly those to ``expected_ids``: none at all, one missing,
    one twice, or one to a question that was not asked.
    """
    rows = first_samples(predictions, expected_ids, source)
    accuracy = _accuracy(rows)
    n, correct = accuracy.n, accuracy.correct
    correct_strict = sum(is_correct(row, strict=True) for row in rows if row.gold is not None)
    low, high = wilson(correct, n) if n else (None, None)
    finished = [row for row in rows if not row.failed]
    tokens = sum(row.completion_tokens for row in finished)
    seconds = sum(row.seconds for row in rows)
    drawn = _samples(predictions)
    samples, curve, most = 1, {}, None
    if drawn and min(map(len, drawn)) > 1:
        marks = [[is_correct(row) for row in answers] for answers in drawn]
        curve = pass_curve([(len(right), sum(right)) for right in marks])
        samples = max(curve)
        most = sum(majority(answers, right) for answers, right in zip(drawn, marks, strict=True)) / len(drawn)
    return ModelScore(
        n=n,
        ungraded=len(rows) - n,
        correct=correct,
        accuracy=accuracy.accuracy,
        ci_low=low,
        ci_high=high,
        correct_strict=correct_strict,
        accuracy_strict=_share(correct_strict, n),
        no_answer=sum(row.status == "no_answer" for row in rows),
        truncated=sum(row.finish == "length" for row in rows),
        errors=len(rows) - len(finished),
        mean_completion_tokens=_share(tokens, len(finished)),
        seconds_per_question=seconds / len(rows),
        tokens_per_second=_share(tokens, seconds),
        by_category=_by_category(rows, categories or {}),
        run_on=sum(map(_runs_on, rows)),
        samples=samples,
        pass_at=curve,
        majority=most,
    )


def _runs_on(row: Prediction) -> bool:
    return "run_on" in spoken(row.response)[1] or (row.finish == "length" and row.status == "marker")


def _samples(predictions: Sequence[Prediction]) -> list[list[Prediction]]:
    """All answers to each question that has gold."""
    drawn: dict[str, list[Prediction]] = {}
    for row in predictions:
        if row.gold is not None:
            drawn.setdefault(row.question_id, []).append(row)
    return list(drawn.values())


def _share(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def first_samples(predictions: Sequence[Prediction], expected_ids: Sequence[str], source: str) -> list[Prediction]:
    """Sample 0 of every expected question, in that order; raises as ``summarize`` says."""
    if not expected_ids:
        raise DataError(f"{source}: there are no questions to score; give a file with at least one")
    if not predictions:
        raise DataError(f"{source}: empty, {len(expected_ids)} answers expected; run the evaluation first")
    expected = set(expected_ids)
    answered = [(row.question_id, row.sample) for row in predictions]
    faults = {
        "listed twice among the questions": _repeated(expected_ids),
        "answered twice": [key for key, _ in _repeated(answered)],
        "not among the questions": sorted({key for key, _ in answered} - expected),
        "not answered": sorted(expected - {key for key, sample in answered if sample == 0}),
    }
    for fault, ids in faults.items():
        if ids:
            shown = first_of(ids)
            raise DataError(
                f"{source}: {fault} ({len(ids)}, with {len(expected)} questions asked): {shown}; "
                "evaluate again with these questions, or with --overwrite to start anew"
            )
    return first_samples_of(predictions, expected_ids)


def first_samples_of(predictions: Sequence[Prediction], ids: Sequence[str]) -> list[Prediction]:
    """The same of predictions that are known to be whole."""
    first = {row.question_id: row for row in predictions if row.sample == 0}
    return [first[key] for key in ids]


def _repeated(items: Sequence[Item]) -> list[Item]:
    return [item for item, count in Counter(items).items() if count > 1]


def _accuracy(rows: Sequence[Prediction]) -> CategoryScore:
    graded = [row for row in rows if row.gold is not None]
    correct = sum(map(is_correct, graded))
    return CategoryScore(len(graded), correct, _share(correct, len(graded)))


def _by_category(
    rows: Sequence[Prediction], categories: Mapping[str, str | None]
) -> dict[str, CategoryScore]:
    """Scores by category name, sorted; empty where no question has one."""
    groups: dict[str, list[Prediction]] = {}
    for row in rows:
        groups.setdefault(categories.get(row.question_id) or "no category", []).append(row)
    if set(groups) == {"no category"}:
        return {}
    return {name: _accuracy(groups[name]) for name in sorted(groups)}
