"""Report: base, student and teacher on the same held-out questions, and the verdict on the student.

    {"models": {"base": {"n": 80, "correct": 9, "accuracy": 0.1125, "ci_low": 0.06, "ci_high": 0.2, ...},
                "student": {...}, "teacher": {...}},
     "paired": {"both": 8, "only_base": 1, "only_student": 33, "neither": 38, "p_value": 4e-09},
     "verdict": "better", "gap_closed": 0.64, "chance_rate": 0.02, ...,
     "sentence": "The student is better than its base: 41 of 80 against 9 of 80 (p = 4e-9); keep ..."}

Pure: lists of predictions in, frozen structs out. The denominator is the list of planned questions, so a
row that failed, was cut off or found no answer is a wrong one, and a file that lacks rows is an error.
The verdict rests on the lenient reading, in which a base that only lacks the format is not a straw man.
Of several samples per question the first counts. Several runs and seeds are ``reporting/across.py``'s.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from cotdistill.errors import DataError
from cotdistill.prediction import Prediction, is_correct
from cotdistill.question import Question
from cotdistill.reporting.causes import Cause, likely_causes
from cotdistill.reporting.score import ModelScore, first_samples_of, summarize
from cotdistill.reporting.slices import Slice, slices
from cotdistill.resampling import Interval, difference, gap
from cotdistill.settings.evaluate import ANSWER_ONLY
from cotdistill.statistics import Decision, Paired, decide, gap_closed, p_text, paired

FIRST_MODELS = ("base", "base_few_shot", "base_native", "student", ANSWER_ONLY, "teacher")
ASKED = {"base_few_shot": "asked with the worked examples", "base_native": "asked with its own default prompt"}
"""The other ways to ask the base, in words."""
RIVALS = {name: f"the base {asked}" for name, asked in ASKED.items()} | {
    ANSWER_ONLY: "a student taught the answers alone"
}
"""Who the student is held against besides its base, in words."""


class Gain(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Student minus base, in shares of the questions. The strict gain is the sum of the other two.

    ``reasoning_lenient`` is the gain where both are read leniently; ``format`` is what remains of the strict
    gain, won by ending the answer as asked (negative where the base was the tidier of the two).
    """

    total_strict: float
    reasoning_lenient: float
    format: float


class Comparison(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Some models on one list of questions. The paired parts need a base and a student, and gold.

    ``difference`` is student minus base with its bootstrap interval; ``gap_interval`` belongs to ``gap_closed`` and is
    null where the gap may be none. ``gained`` and ``lost`` are question ids. ``against`` pairs the student with every
    other model, which stands where the base does in ``paired``. ``reasoning_worth`` is student minus answer-only
    student, null where there is none.
    """

    models: dict[str, ModelScore]
    paired: Paired | None = None
    paired_strict: Paired | None = None
    gain: Gain | None = None
    gap_closed: float | None = None
    chance_rate: float | None
    difference: Interval | None = None
    gap_interval: Interval | None = None
    gained: list[str] = []
    lost: list[str] = []
    against: dict[str, Paired] = {}
    reasoning_worth: Interval | None = None
    slices: list[Slice] = []


class Facts(msgspec.Struct, frozen=True):
    """What a report cannot know from predictions. ``details`` (engines, sampling, overlap ...) is copied."""

    versions: dict[str, str] = {}
    recipe_sha256: str | None = None
    details: dict[str, Any] = {}


class Report(Comparison, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The held-out comparison, the verdict on it (null without a paired part), and how it was made.

    ``transfer`` is the same comparison on questions from a generator that training never saw. It has no bar
    to clear and no say in the verdict. ``causes`` are the likely ones of a verdict that is not ``better``.
    """

    verdict: Decision | None
    sentence: str
    transfer: Comparison | None
    versions: dict[str, str]
    recipe_sha256: str | None
    details: dict[str, Any]
    causes: list[Cause] = []


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
    for name in sorted(predictions, key=model_order):
        source = f"the predictions of {name}"
        models[name] = summarize(predictions[name], ids, categories, source)
        _check_same_questions(questions, predictions[name], source)
    base, student, teacher = (models.get(name) for name in ("base", "student", "teacher"))
    graded = [question for question in questions if question.gold is not None]
    ids = [question.id for question in graded]
    rows = {name: first_samples_of(predictions[name], ids) for name in models}
    right = {name: [is_correct(row) for row in answers] for name, answers in rows.items()}
    others = [name for name in models if name not in ("base", "student")] if student is not None and graded else []
    against = {name: paired(right[name], right["student"]) for name in others}
    unpaired = Comparison(
        models=models,
        chance_rate=chance_rate,
        against=against,
        reasoning_worth=difference(changes(against[ANSWER_ONLY])) if ANSWER_ONLY in against else None,
        slices=slices(graded, right),
    )
    if base is None or student is None or not base.n:
        return unpaired
    before, after = right["base"], right["student"]
    lenient = paired(before, after)
    changed = list(zip(ids, before, after, strict=True))
    gained = student.correct - base.correct
    gained_strict = student.correct_strict - base.correct_strict
    return msgspec.structs.replace(
        unpaired,
        paired=lenient,
        paired_strict=paired(*([is_correct(row, True) for row in rows[name]] for name in ("base", "student"))),
        gain=Gain(gained_strict / base.n, gained / base.n, (gained_strict - gained) / base.n),
        gap_closed=gap_closed(base.correct / base.n, student.correct / base.n, teacher.correct / base.n)
        if teacher else None,
        difference=difference(changes(lenient)),
        gap_interval=gap(before, after, right["teacher"]) if teacher else None,
        gained=[key for key, was, now in changed if now and not was],
        lost=[key for key, was, now in changed if was and not now],
    )  # fmt: skip


def changes(pair: Paired) -> dict[float, int]:
    """How many questions have which difference, student minus base, as ``resampling`` takes them."""
    return {1.0: pair.only_student, -1.0: pair.only_base, 0.0: pair.both + pair.neither}


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
        causes=likely_causes(held_out.models, held_out.paired, verdict),
    )


def to_json(report: Report) -> bytes:
    """The bytes of ``7_report.json``."""
    return msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n"


def from_json(data: bytes, source: str = "7_report.json") -> Report:
    """Read what ``to_json`` wrote; DataError where it is something else."""
    try:
        return msgspec.json.decode(data, type=Report)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        message = f"{source} is not a report of this version ({error}); build the report again"
        raise DataError(message) from error


def model_order(name: str) -> tuple[int, str]:
    return (FIRST_MODELS.index(name) if name in FIRST_MODELS else len(FIRST_MODELS), name)


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
    said = (
        f"The student is {outcome} than its base: {student.correct} of {student.n} against "
        f"{base.correct} of {base.n} ({p_text(comparison.paired.p_value)}); keep the {advice}."
    )
    rivals = [n for n in RIVALS if n in comparison.models and comparison.models[n].correct > student.correct]
    for name in rivals:
        score, pair = comparison.models[name], comparison.against[name]
        said += f" But {RIVALS[name]} answers {score.correct} of {score.n} ({p_text(pair.p_value)})."
    if verdict == "better" and base.truncated and base.correct + base.truncated >= student.correct:
        said += f" But {base.truncated} answers of the base were cut off: with more max_new_tokens it might do as well."
    return said
