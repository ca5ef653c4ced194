"""Report: base, student and teacher on the same held-out questions, and the verdict on the student.

    {"models": {"base": {"n": 80, "correct": 9, "accuracy": 0.1125, "ci_low": 0.06, "ci_high": 0.2, ...},
                "student": {...}, "teacher": {...}},
     "paired": {"both": 8, "only_base": 1, "only_student": 33, "neither": 38, "p_value": 4e-09},
     "verdict": "better", "gap_closed": 0.64, "chance_rate": 0.02, ...,
     "sentence": "The student is better than its base: 41 of 80 against 9 of 80 (p = 4e-9); keep ..."}

Pure: lists of predictions in, frozen structs out. The denominator is the list of planned questions, so a
row that failed, was cut off or found no answer is a wrong one, and a file that lacks rows is an error.
The verdict rests on the lenient reading, in which a base that only lacks the format is not a straw man.
Not covered here: several samples per question (only sample 0 counts) and several seeds.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import msgspec

from cotdistill.errors import DataError
from cotdistill.prediction import Prediction
from cotdistill.question import Question
from cotdistill.statistics import Decision, Paired, decide, gap_closed, p_text, paired, wilson

Item = TypeVar("Item")

NEVER_RIGHT = frozenset({"error", "truncated", "no_answer"})
FIRST_MODELS = ("base", "student", "teacher")


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
    tokens only. The interval is Wilson's, 95 %, of the lenient ``accuracy``.
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


class Gain(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Student minus base, in shares of the questions. The strict gain is the sum of the other two.

    ``reasoning_lenient`` is the gain where both are read leniently; ``format`` is what remains of the strict
    gain, won by ending the answer as asked (negative where the base was the tidier of the two).
    """

    total_strict: float
    reasoning_lenient: float
    format: float


class Comparison(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Some models on one list of questions. The paired parts need a base and a student, and gold."""

    models: dict[str, ModelScore]
    paired: Paired | None
    paired_strict: Paired | None
    gain: Gain | None
    gap_closed: float | None
    chance_rate: float | None


class Facts(msgspec.Struct, frozen=True):
    """What a report cannot know from predictions. ``details`` (engines, sampling, overlap ...) is copied."""

    versions: dict[str, str] = {}
    recipe_sha256: str | None = None
    details: dict[str, Any] = {}


class Report(Comparison, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The held-out comparison, the verdict on it (null without a paired part), and how it was made.

    ``transfer`` is the same comparison on questions from a generator that training never saw. It has no bar
    to clear and no say in the verdict.
    """

    verdict: Decision | None
    sentence: str
    transfer: Comparison | None
    versions: dict[str, str]
    recipe_sha256: str | None
    details: dict[str, Any]


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
    rows = _first_samples(predictions, expected_ids, source)
    accuracy = _accuracy(rows)
    n, correct = accuracy.n, accuracy.correct
    correct_strict = sum(is_correct(row, strict=True) for row in rows if row.gold is not None)
    low, high = wilson(correct, n) if n else (None, None)
    finished = [row for row in rows if not _failed(row)]
    tokens = sum(row.completion_tokens for row in finished)
    seconds = sum(row.seconds for row in rows)
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
    )


def metrics(
    predictions: Sequence[Prediction],
    expected_ids: Sequence[str],
    categories: Mapping[str, str | None] | None = None,
    source: str = "the predictions",
) -> dict[str, Any]:
    """``summarize`` as plain JSON values, for ``predictions.metrics.json``."""
    score: dict[str, Any] = msgspec.to_builtins(summarize(predictions, expected_ids, categories, source))
    return score


def compare(
    questions: Sequence[Question],
    predictions: Mapping[str, Sequence[Prediction]],
    *,
    chance_rate: float | None = None,
) -> Comparison:
    """Score every model on ``questions`` and pair ``base`` with ``student``; other names are scored only.

    Raises DataError as ``summarize`` does, and where an answer belongs to another text or gold than the
    question of that id has: such answers cannot be paired.
    """
    ids = [question.id for question in questions]
    categories = {question.id: question.category for question in questions}
    models: dict[str, ModelScore] = {}
    for name in sorted(predictions, key=_model_order):
        source = f"the predictions of {name}"
        models[name] = summarize(predictions[name], ids, categories, source)
        _check_same_questions(questions, predictions[name], source)
    base, student, teacher = (models.get(name) for name in FIRST_MODELS)
    lenient = strict = gain = closed = None
    if base is not None and student is not None and base.n:
        graded = [question.id for question in questions if question.gold is not None]
        before, after = (_first_samples_of(predictions[name], graded) for name in ("base", "student"))
        lenient = paired([is_correct(row) for row in before], [is_correct(row) for row in after])
        strict = paired([is_correct(row, True) for row in before], [is_correct(row, True) for row in after])
        gained = student.correct - base.correct
        gained_strict = student.correct_strict - base.correct_strict
        gain = Gain(gained_strict / base.n, gained / base.n, (gained_strict - gained) / base.n)
        if teacher is not None:
            closed = gap_closed(base.correct / base.n, student.correct / base.n, teacher.correct / base.n)
    return Comparison(
        models=models,
        paired=lenient,
        paired_strict=strict,
        gain=gain,
        gap_closed=closed,
        chance_rate=chance_rate,
    )


def build_report(
    questions: Sequence[Question],
    predictions: Mapping[str, Sequence[Prediction]],
    *,
    chance_rate: float | None = None,
    transfer: Comparison | None = None,
    facts: Facts | None = None,
) -> Report:
    """The whole report. ``predictions`` maps model names to their answers to ``questions``.

    ``transfer`` is ``compare`` of the same models on questions from an unseen generator.
    """
    facts = facts or Facts()
    held_out = compare(questions, predictions, chance_rate=chance_rate)
    verdict = decide(held_out.paired) if held_out.paired else None
    return Report(
        **msgspec.structs.asdict(held_out),
        verdict=verdict,
        sentence=_sentence(held_out, verdict),
        transfer=transfer,
        versions=facts.versions,
        recipe_sha256=facts.recipe_sha256,
        details=facts.details,
    )


def to_json(report: Report) -> bytes:
    """The bytes of ``7_report.json``."""
    return msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n"


def from_json(data: bytes, source: str = "7_report.json") -> Report:
    """Read what ``to_json`` wrote; DataError where it is something else."""
    try:
        return msgspec.json.decode(data, type=Report)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        message = f"{source} is not a report of this version ({error}); build the report again"
        raise DataError(message) from error


def is_correct(row: Prediction, strict: bool = False) -> bool:
    """Whether an answer counts as right: read leniently, or by the marker alone.

    What failed, was cut off before an answer or has none never counts, whatever the row says.
    """
    correct, status = (row.correct_strict, row.status_strict) if strict else (row.correct, row.status)
    return correct is True and not _failed(row) and status not in NEVER_RIGHT


def _failed(row: Prediction) -> bool:
    return row.finish == "error" or row.status == "error"


def _share(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def _model_order(name: str) -> tuple[int, str]:
    return (FIRST_MODELS.index(name) if name in FIRST_MODELS else len(FIRST_MODELS), name)


def _first_samples(
    predictions: Sequence[Prediction], expected_ids: Sequence[str], source: str
) -> list[Prediction]:
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
            shown = ", ".join(ids[:5]) + (", ..." if len(ids) > 5 else "")
            raise DataError(
                f"{source}: {fault} ({len(ids)}, with {len(expected)} questions asked): {shown}; "
                "evaluate again with these questions, or with --overwrite to start anew"
            )
    return _first_samples_of(predictions, expected_ids)


def _first_samples_of(predictions: Sequence[Prediction], ids: Sequence[str]) -> list[Prediction]:
    first = {row.question_id: row for row in predictions if row.sample == 0}
    return [first[key] for key in ids]


def _check_same_questions(
    questions: Sequence[Question], predictions: Sequence[Prediction], source: str
) -> None:
    asked = {question.id: question for question in questions}
    for row in predictions:
        question = asked[row.question_id]
        if (row.question, row.gold) != (question.text, question.gold):
            raise DataError(
                f"{source}: question {row.question_id} had another text or gold answer when it was answered "
                "than it has now; evaluate again with --overwrite"
            )


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


def _sentence(comparison: Comparison, verdict: Decision | None) -> str:
    base, student = comparison.models.get("base"), comparison.models.get("student")
    if not any(score.n for score in comparison.models.values()):
        return "No verdict: none of the questions has a gold answer."
    if comparison.paired is None or base is None or student is None:
        missing = "student" if student is None else "base"
        return f"No verdict: the {missing} was not evaluated on these questions."
    outcome, advice = {
        "better": ("better", "student"),
        "not_shown": ("not shown better", "base"),
        "worse": ("worse", "base"),
    }[verdict or "not_shown"]
    return (
        f"The student is {outcome} than its base: {student.correct} of {student.n} against "
        f"{base.correct} of {base.n} ({p_text(comparison.paired.p_value)}); keep the {advice}."
    )
