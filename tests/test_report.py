import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import pytest
from rich.console import Console

from cotdistill.errors import DataError
from cotdistill.prediction import Prediction
from cotdistill.question import Question
from cotdistill.report import Facts, Report, build_report, compare, from_json, to_json
from cotdistill.reporting.score import summarize
from cotdistill.reporting.table import points, print_report
from cotdistill.shown import percent


def row(key: str, outcome: str = "right", **changes: object) -> Prediction:
    """One prediction: right, wrong, unmarked (right by the lenient reading only), no_answer, truncated, error
    or ungraded."""
    good, strict = outcome in ("right", "unmarked"), outcome == "right"
    found = {"right": "marker", "wrong": "marker", "ungraded": "marker", "unmarked": "last_number"}
    status = found.get(outcome, outcome)
    made = Prediction(
        question_id=key,
        sample=0,
        question=f"What is {key}?",
        gold=None if outcome == "ungraded" else "42",
        response="Final Answer: 42",
        finish={"truncated": "length", "error": "error"}.get(outcome, "stop"),  # type: ignore[arg-type]
        answer="42",
        status=status,
        correct=None if outcome == "ungraded" else good,
        status_strict="no_answer" if outcome == "unmarked" else status,
        correct_strict=None if outcome == "ungraded" else strict,
        prompt_tokens=20,
        completion_tokens=0 if outcome == "error" else 30,
        seconds=0.5,
    )
    return msgspec.structs.replace(made, **changes)


def rows(**counts: int) -> list[Prediction]:
    """rows(right=2, wrong=1) answers q0, q1 and q2 in that order."""
    outcomes = [outcome for outcome, count in counts.items() for _ in range(count)]
    return [row(f"q{i}", outcome) for i, outcome in enumerate(outcomes)]


def asked(
    n: int, category: Callable[[int], str | None] = lambda i: None, gold: str | None = "42"
) -> list[Question]:
    return [Question(f"q{i}", f"What is q{i}?", gold, category=category(i)) for i in range(n)]


def ids(n: int) -> list[str]:
    return [f"q{i}" for i in range(n)]


def shown(report: Report, **options: object) -> str:
    console = Console(file=io.StringIO(), width=80, **options)  # type: ignore[arg-type]
    print_report(report, console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert isinstance(text, str)
    return text


BASE = rows(right=1, unmarked=8, wrong=60, no_answer=8, truncated=3)
STUDENT = rows(wrong=1, right=41, no_answer=38)
TEACHER = rows(right=59, unmarked=1, wrong=18, error=2)
MODELS = {"teacher": TEACHER, "student": STUDENT, "base": BASE}


# --- one model ---------------------------------------------------------------------------------------------


def test_failed_cut_and_empty_answers_stay_in_the_denominator() -> None:
    score = summarize(rows(right=64, wrong=16, error=10, truncated=5, no_answer=5), ids(100))
    assert (score.correct, score.n, score.accuracy) == (64, 100, 0.64)
    assert (score.errors, score.truncated, score.no_answer) == (10, 5, 5)
    assert score.ci_low == pytest.approx(0.5424, abs=5e-5)
    assert score.ci_high == pytest.approx(0.7273, abs=5e-5)


@pytest.mark.parametrize("status", ["error", "truncated", "no_answer"])
def test_an_answer_that_does_not_exist_is_never_right(status: str) -> None:
    score = summarize([row("q0", status=status, status_strict=status)], ["q0"])
    assert (score.n, score.correct, score.correct_strict) == (1, 0, 0)


def test_an_answer_given_before_the_cut_is_right_and_counted_as_truncated() -> None:
    score = summarize([row("q0", finish="length")], ["q0"])
    assert (score.correct, score.truncated) == (1, 1)


def test_both_readings_are_scored() -> None:
    score = summarize(rows(right=3, unmarked=2, wrong=5), ids(10))
    assert (score.accuracy, score.accuracy_strict) == (0.5, 0.3)


def test_cost_is_averaged_over_what_was_answered() -> None:
    score = summarize(rows(right=3, error=1), ids(4))
    assert score.mean_completion_tokens == 30
    assert score.seconds_per_question == 0.5
    assert score.tokens_per_second == 3 * 30 / (4 * 0.5)


def test_a_model_that_only_failed_has_no_answer_length() -> None:
    score = summarize([row("q0", "error", seconds=0.0)], ["q0"])
    assert (score.mean_completion_tokens, score.tokens_per_second) == (None, None)


def test_only_the_first_sample_counts() -> None:
    samples = [row("q0"), row("q0", "wrong", sample=1), row("q0", "wrong", sample=2)]
    assert summarize(samples, ["q0"]).correct == 1


@pytest.mark.parametrize(
    ("predictions", "expected", "message"),
    [
        ([], ids(2), "empty, 2 answers expected"),
        (rows(right=2), [], "no questions to score"),
        (rows(right=2), ids(3), r"not answered \(1, with 3 questions asked\): q2"),
        ([row("q0"), row("q1", sample=1)], ids(2), "not answered.*: q1;"),
        (rows(right=3), ids(2), "not among the questions.*: q2;"),
        ([*rows(right=2), row("q1", "wrong")], ids(2), "answered twice.*: q1;"),
        ([row("q0"), row("q1"), row("q1", sample=1), row("q1", sample=1)], ids(2), "answered twice.*: q1;"),
        (rows(right=2), ["q0", "q1", "q1"], "listed twice.*: q1;"),
    ],
)
def test_rows_that_are_not_exactly_the_questions_are_an_error(
    predictions: Sequence[Prediction], expected: Sequence[str], message: str
) -> None:
    with pytest.raises(DataError, match=f"^base.jsonl: .*{message}"):
        summarize(predictions, expected, source="base.jsonl")


def test_questions_without_gold_are_counted_apart() -> None:
    score = summarize(rows(right=3, wrong=1, ungraded=6), ids(10))
    assert (score.n, score.ungraded, score.accuracy) == (4, 6, 0.75)


def test_without_any_gold_there_is_no_accuracy() -> None:
    score = summarize(rows(ungraded=3), ids(3))
    assert (score.n, score.ungraded) == (0, 3)
    assert score.accuracy is score.accuracy_strict is score.ci_low is score.ci_high is None


def test_categories_add_up_to_the_whole() -> None:
    categories = {"q0": "ages", "q1": "ages", "q2": "units", "q3": None}
    score = summarize(rows(right=1, wrong=2, unmarked=1), ids(4), categories)
    assert {name: (c.n, c.correct, c.accuracy) for name, c in score.by_category.items()} == {
        "ages": (2, 1, 0.5),
        "no category": (1, 1, 1.0),
        "units": (1, 0, 0.0),
    }
    assert summarize(rows(right=1), ids(1), {"q0": None}).by_category == {}


# --- several models ----------------------------------------------------------------------------------------


def test_the_report_has_the_promised_fields() -> None:
    facts = Facts(versions={"torch": "2.9"}, recipe_sha256="ab" * 32, details={"base": {"dtype": "float32"}})
    report = json.loads(to_json(build_report(asked(80), MODELS, chance_rate=0.02, facts=facts)))
    assert list(report["models"]) == ["base", "student", "teacher"]
    for score in report["models"].values():
        assert {"n", "correct", "accuracy", "accuracy_strict", "ci_low", "ci_high", "no_answer", "truncated",
                "mean_completion_tokens", "seconds_per_question"} <= set(score)  # fmt: skip
    assert {key: report["paired"][key] for key in ("both", "only_base", "only_student", "neither")} == {
        "both": 8,
        "only_base": 1,
        "only_student": 33,
        "neither": 38,
    }
    assert report["paired"]["p_value"] == pytest.approx(2 * (1 + 34) / 2**34)
    assert (report["paired_strict"]["only_base"], report["paired_strict"]["only_student"]) == (1, 41)
    assert report["verdict"] == "better"
    assert report["gap_closed"] == pytest.approx((41 - 9) / (60 - 9))
    assert report["gain"] == {"total_strict": 0.5, "reasoning_lenient": 0.4, "format": 0.1}
    assert (report["chance_rate"], report["versions"], report["recipe_sha256"], report["transfer"]) == (
        0.02,
        {"torch": "2.9"},
        "ab" * 32,
        None,
    )
    assert report["details"] == {"base": {"dtype": "float32"}}
    assert report["sentence"] == (
        "The student is better than its base: 41 of 80 against 9 of 80 (p = 4e-9); keep the student."
    )


def test_a_report_survives_the_way_through_json() -> None:
    unseen = compare(asked(4), {"base": rows(wrong=4), "student": rows(right=2, wrong=2)}, chance_rate=0.5)
    report = build_report(asked(80, lambda i: f"c{i % 3}"), MODELS, transfer=unseen)
    assert from_json(to_json(report)) == report


@pytest.mark.parametrize("data", [b"", b"{}", b"\xff", b'{"verdict": "great"}'])
def test_a_file_that_is_no_report_is_an_error(data: bytes) -> None:
    with pytest.raises(DataError, match=r"^old\.json is not a report"):
        from_json(data, "old.json")


def test_a_report_with_an_unknown_key_is_refused() -> None:
    report = json.loads(to_json(build_report(asked(80), MODELS)))
    with pytest.raises(DataError, match="surprise"):
        from_json(json.dumps(report | {"surprise": 1}).encode())


@pytest.mark.parametrize(
    ("base", "student", "verdict", "words"),
    [
        (rows(wrong=5, right=5), rows(right=10), "not_shown", "not shown better than its base: 10 of 10"),
        (rows(wrong=6, right=4), rows(right=10), "better", "keep the student"),
        (rows(right=10), rows(wrong=6, right=4), "worse", "is worse than its base: 4 of 10 against 10 of 10"),
        (rows(right=10), rows(wrong=5, right=5), "not_shown", "keep the base"),
        (rows(right=10), rows(right=10), "not_shown", "(p = 1); keep the base"),
    ],
)
def test_the_verdict_says_which_model_to_keep(
    base: list[Prediction], student: list[Prediction], verdict: str, words: str
) -> None:
    report = build_report(asked(10), {"base": base, "student": student})
    assert report.verdict == verdict
    assert words in report.sentence


def test_learning_only_the_format_is_not_better() -> None:
    report = build_report(asked(20), {"base": rows(unmarked=20), "student": rows(right=20)})
    assert report.verdict == "not_shown"
    assert report.paired_strict is not None
    assert report.paired_strict.p_value < 0.05
    assert report.gain is not None
    assert (report.gain.total_strict, report.gain.reasoning_lenient, report.gain.format) == (1.0, 0.0, 1.0)


@pytest.mark.parametrize(("cut", "said"), [(30, True), (29, False)])
def test_a_gain_over_a_base_that_was_cut_off_is_doubted_where_its_room_could_explain_it(cut: int, said: bool) -> None:
    base, student = rows(right=10, truncated=cut, wrong=70 - cut), rows(right=40, wrong=40)
    report = build_report(asked(80), {"base": base, "student": student})
    assert report.verdict == "better"
    assert (f"But {cut} answers of the base were cut off" in report.sentence) == said


def test_answers_are_paired_by_question_not_by_position() -> None:
    student = rows(right=5, wrong=5)
    report = build_report(asked(10), {"base": rows(right=5, wrong=5), "student": student[::-1]})
    assert report.paired is not None
    assert (report.paired.both, report.paired.neither) == (5, 5)


def test_without_a_teacher_the_gap_is_null() -> None:
    report = build_report(asked(10), {"base": rows(wrong=10), "student": rows(right=10)})
    assert (report.verdict, report.gap_closed, list(report.models)) == ("better", None, ["base", "student"])


def test_a_teacher_that_is_not_above_the_base_leaves_no_gap() -> None:
    models = {"base": rows(right=10), "student": rows(right=10), "teacher": rows(wrong=1, right=9)}
    assert build_report(asked(10), models).gap_closed is None


def test_with_only_a_student_there_is_no_verdict() -> None:
    report = build_report(asked(80), {"student": STUDENT})
    assert report.verdict is report.paired is report.paired_strict is report.gain is report.gap_closed is None
    assert report.sentence == "No verdict: the base was not evaluated on these questions."
    assert "41/80" in shown(report)


def test_without_gold_there_is_no_verdict() -> None:
    report = build_report(asked(3, gold=None), {"base": rows(ungraded=3), "student": rows(ungraded=3)})
    assert (report.verdict, report.paired) == (None, None)
    assert report.sentence == "No verdict: none of the questions has a gold answer."
    assert "3 questions" in shown(report)


def test_more_models_are_scored_under_their_names() -> None:
    report = build_report(asked(80), {"seed2": STUDENT, "export": STUDENT, **MODELS})
    assert list(report.models) == ["base", "student", "teacher", "export", "seed2"]
    assert report.paired == build_report(asked(80), MODELS).paired


@pytest.mark.parametrize("change", [{"question": "What is q3, really?"}, {"gold": "43"}])
def test_answers_to_another_version_of_a_question_are_refused(change: dict[str, str]) -> None:
    changed = [msgspec.structs.replace(p, **change) if p.question_id == "q3" else p for p in STUDENT]
    with pytest.raises(DataError, match="student: question q3 had another text or gold"):
        build_report(asked(80), {"base": BASE, "student": changed})


def test_the_unseen_slice_has_no_say_in_the_verdict() -> None:
    unseen = compare(asked(10), {"base": rows(right=10), "student": rows(wrong=10)})
    report = build_report(asked(80), MODELS, transfer=unseen)
    assert report.verdict == "better"
    assert report.transfer is not None
    assert report.transfer.paired is not None
    assert report.transfer.paired.only_base == 10


def test_questions_gained_and_lost_are_named_and_add_up() -> None:
    report = build_report(asked(80), MODELS)
    assert report.paired is not None
    assert (len(report.gained), len(report.lost)) == (report.paired.only_student, report.paired.only_base)
    assert report.lost == ["q0"]
    assert "q9" in report.gained
    assert report.difference is not None
    assert report.difference.estimate == pytest.approx(32 / 80)
    assert report.gap_interval is not None
    assert report.gap_interval.estimate == pytest.approx(report.gap_closed)
    assert report.gap_interval.low < report.gap_closed < report.gap_interval.high


def test_another_way_to_ask_the_base_has_a_row_and_a_word_but_no_vote() -> None:
    strong, weak = rows(right=50, wrong=30), rows(right=20, wrong=60)
    report = build_report(asked(80), {**MODELS, "base_few_shot": strong, "base_native": weak})
    assert list(report.models) == ["base", "base_few_shot", "base_native", "student", "teacher"]
    assert report.verdict == "better"
    assert "keep the student. But the base asked with the worked examples answers 50 of 80 (p = 0.0" in report.sentence
    assert "own default prompt" not in report.sentence
    pair = report.against["base_few_shot"]
    assert (pair.both + pair.only_base, pair.both + pair.only_student) == (50, 41)
    assert "student against the base asked with its own default prompt:" in shown(report)


@pytest.mark.parametrize(
    ("base", "student", "words"),
    [
        (rows(right=10, wrong=2), rows(wrong=10, right=2), "Forgetting: training cost the student here (-66.7 points"),
        (rows(wrong=10, right=2), rows(right=10, wrong=2), "Transfer (+66.7 points"),
        (rows(wrong=10, right=2), rows(wrong=10, right=2), "Neither forgetting nor transfer is shown"),
    ],
)
def test_questions_of_another_kind_show_forgetting_or_transfer(
    base: list[Prediction], student: list[Prediction], words: str
) -> None:
    transfer = compare(asked(12), {"base": base, "student": student})
    assert words in shown(build_report(asked(80), MODELS, transfer=transfer))


@pytest.mark.parametrize("path", sorted(Path("benchmarks/results").glob("quickstart_seed*.json")), ids=lambda path: path.stem)
def test_reports_from_before_intervals_are_still_read(path: Path) -> None:
    report = from_json(path.read_bytes())
    assert report.verdict in ("better", "not_shown")
    assert (report.difference, report.slices, report.causes) == (None, [], [])
    assert report.sentence in shown(report)


# --- the terminal ------------------------------------------------------------------------------------------


def full_report() -> Report:
    unseen = compare(asked(10), {"base": rows(wrong=10), "student": rows(right=3, wrong=7)}, chance_rate=0.5)
    return build_report(
        asked(80, lambda i: ("ages", "units")[i % 2]), MODELS, chance_rate=0.02, transfer=unseen
    )


def test_a_terminal_that_is_too_narrow_cuts_no_number() -> None:
    report, console = full_report(), Console(file=io.StringIO(), width=40, force_terminal=True, color_system=None)
    print_report(report, console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "\N{HORIZONTAL ELLIPSIS}" not in text
    squeezed = [" ".join(line.split()) for line in text.splitlines()]
    assert "student 41/80 51 % [40, 62] 51 % 38 0 30 0.50" in squeezed
    assert "ages 5/40 12 % 20/40 50 % 30/40 75 %" in squeezed


def test_the_table_holds_every_number_in_80_columns() -> None:
    report = full_report()
    gap = report.gap_interval
    assert gap is not None
    text = shown(report, force_terminal=True, color_system=None)
    assert max(map(len, text.splitlines())) <= 80
    squeezed = [" ".join(line.split()) for line in text.splitlines()]
    for words in (
        "base 9/80 11 % [6, 20] 1.2 % 8 3 30 0.50",
        "student 41/80 51 % [40, 62] 51 % 38 0 30 0.50",
        "teacher 60/80 75 % [65, 83] 74 % 0 0 30 0.50",
        "ages 5/40 12 % 20/40 50 % 30/40 75 %",
        "base 0/10 0 % [0, 28] 0 % 0 0 30 0.50",
        "student 3/10 30 % [11, 60] 30 % 0 0 30 0.50",
        "failed, counted as wrong: teacher 2",
        "student against base: 33 gained, 1 lost, 8 both right, 38 neither; p = 4e-9",
        "strict gain +50.0 = reasoning +40.0, format +10.0 (percentage points)",
        f"gap to the teacher closed: 63 % [{100 * gap.low:.0f}, {100 * gap.high:.0f}]",
        f"difference: {points(report.difference)} (paired bootstrap, 95 %)",
        f"Neither forgetting nor transfer is shown ({points(report.transfer.difference)}, p = 0.25).",
        "chance rate (right by guessing): 2.0 %",
        "chance rate (right by guessing): 50 %",
        "Unseen generator (no bar, not part of the verdict)",
    ):
        assert words in squeezed


def test_the_verdict_is_the_last_line_of_a_log() -> None:
    report = full_report()
    assert shown(report).splitlines()[-1] == report.sentence


def test_nothing_is_cut_off_the_table_of_a_large_run() -> None:
    some, every = rows(right=600, wrong=399), rows(right=1000)
    text = shown(build_report(asked(999), {"student-merged": some, "base": some}))
    assert max(map(len, text.splitlines()[:6])) <= 80
    assert "student-merged  600/999  60 % [57, 63]" in text
    text = shown(build_report(asked(1000), {"student": every, "teacher": every}))
    assert max(map(len, text.splitlines()[:6])) <= 80
    assert "teacher  1000/1000  100 % [100, 100]   100 %       0       0      30      0.50" in text


def test_the_table_needs_no_terminal_and_no_unicode() -> None:
    raw = io.BytesIO()
    console = Console(file=io.TextIOWrapper(raw, encoding="ascii"), width=80)
    print_report(full_report(), console)
    console.file.flush()
    assert b"41/80" in raw.getvalue()
    assert b"\x1b" not in raw.getvalue()


def test_names_from_files_are_shown_as_text() -> None:
    name = "[red]x[/red]\x1b[31m\u202e[/]"
    report = build_report(asked(80, lambda i: (name, "b")[i % 2]), {name: STUDENT, **MODELS})
    text = shown(report, force_terminal=True, color_system=None)
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "[red]" in text


def test_many_categories_are_cut_with_a_count() -> None:
    text = shown(build_report(asked(80, lambda i: f"c{i % 40:02}"), MODELS))
    assert "c19" in text
    assert "c20" not in text
    assert "20 more" in text


def test_shares_print_plainly() -> None:
    assert [percent(x) for x in (None, 0.0, 0.0125, 0.0949, 0.0951, 0.5125, 1.0, -0.5)] == [
        "-", "0 %", "1.2 %", "9.5 %", "10 %", "51 %", "100 %", "-50 %"
    ]  # fmt: skip
