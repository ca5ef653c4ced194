"""``cotdistill verify``: any file of traces in, one verdict a trace out, nothing lost and nothing trusted."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cotdistill.cli import app
from cotdistill.dataset import load_dataset
from cotdistill.errors import CotdistillError, DataError, ResumeError, UsageError
from cotdistill.question import Question
from cotdistill.settings.verify import Verify
from cotdistill.stages.verify import run_verify
from cotdistill.trace_file import TraceFile

SRC = str(Path(__file__).resolve().parent.parent / "src")


def write(path: Path, *rows: dict) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().split("\n") if line]


def made(question: str, reasoning: str, **more: object) -> dict:
    return {"question": question, "reasoning": reasoning, **more}


@pytest.fixture
def verify(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Run the command in a directory of its own; returns its summary and the statuses in order."""
    monkeypatch.chdir(tmp_path)

    def call(*words: str, output: str = "v.jsonl") -> tuple[dict, list[str]]:
        outcome = CliRunner().invoke(app, ["verify", "--traces", "t.jsonl", "--output", output, "--json", *words])
        if isinstance(outcome.exception, CotdistillError):
            raise outcome.exception
        assert outcome.exit_code == 0, outcome.output
        summary = json.loads(outcome.stdout)
        statuses = [row["status"] for row in read(Path(output))]
        assert summary["traces"] == len(statuses)
        assert summary["counts"] == {status: statuses.count(status) for status in statuses}
        return summary, statuses

    return call


A, B = "What is 6 * 6?", "What is 7 * 7?"
RIGHT = "6 * 6 = 36.\nFinal Answer: 36"


@pytest.mark.parametrize(
    ("answer", "reason"),
    [([1, 2, 3], "its `answer` is neither text nor a number"), ({"a": 1}, "its `answer`"), ("5 + 5 = 10 ####", "after the last '####'")],
)
def test_a_gold_that_cannot_be_used_is_refused_and_not_ignored(verify, answer, reason):
    write(Path("t.jsonl"), made(B, RIGHT), made(A, "Final Answer: 1, 2, 4", answer=answer))
    with pytest.raises(DataError, match=r"t\.jsonl:2: not a trace: .*" + re.escape(reason)):
        verify()


def test_questions_without_a_trace_and_traces_without_gold_are_told(verify):
    write(Path("t.jsonl"), made(A, RIGHT), made(B, RIGHT))
    write(Path("q.jsonl"), {"question": "What is 8 * 8?", "answer": "64"}, {"question": A, "answer": "36"})
    summary, statuses = verify("--questions", "q.jsonl")
    assert statuses == ["correct", "unchecked"]
    assert [summary[key] for key in ("questions", "questions_with_traces", "traces_without_gold")] == [2, 1, 1]
    words = ["verify", "--traces", "t.jsonl", "--questions", "q.jsonl", "--output", "v.jsonl"]
    assert "1 of 2 questions have a trace; 1 traces have no gold\n" in CliRunner().invoke(app, words).stdout


def test_half_a_character_is_named_and_not_called_a_cut_line(verify):
    Path("t.jsonl").write_text('{"question": "Q?", "reasoning": "36 \\ud800"}\n')
    with pytest.raises(DataError, match="ud800 is half a character"):
        verify()


def test_a_hand_made_file_needs_only_question_and_reasoning_or_cot(verify):
    write(Path("t.jsonl"), made(A, RIGHT), {"question": B, "cot": "7 * 7 = 48.\nFinal Answer: 48", "mine": [1]})
    summary, statuses = verify()
    assert statuses == ["unchecked", "bad_step"]
    assert summary["teach"] == 1


def said(*turns: tuple[str, str], **more: str) -> list[dict]:
    made_of = [{"role": role, "content": text} for role, text in turns]
    return [*made_of[:-1], {**made_of[-1], **more}]


@pytest.mark.parametrize(
    "row",
    [
        {"messages": said(("system", "Be brief."), ("user", A), ("assistant", RIGHT))},
        {"messages": said(("user", A), ("assistant", RIGHT), reasoning_content="Hm.")},
        {"messages": said(("user", A), ("assistant", RIGHT), reasoning="Hm.")},
        {"prompt": A, "completion": RIGHT},
        {"prompt": said(("system", "s"), ("user", A)), "completion": said(("assistant", RIGHT), reasoning="Hm.")},
        {"instruction": A, "input": "", "output": RIGHT},
    ],
)
def test_a_hand_made_file_may_have_the_rows_of_other_programs(tmp_path, row):
    path = write(tmp_path / "t.jsonl", {**row, "answer": "36"})
    with TraceFile(path) as file:
        [group] = file.groups()
    assert (group.question.text, group.question.gold) == (A, "36")
    assert [trace.reasoning for trace in group.traces] == [RIGHT]
    assert group.traces[0].thinking == ("Hm." if "Hm." in str(row) else None)
    assert [text for _, _, text in load_dataset(path, tmp_path / "none.jsonl").pairs] == [RIGHT]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"messages": said(("user", A), ("assistant", "1"), ("user", B), ("assistant", "2"))}, "not one question and its"),
        ({"messages": said(("user", A))}, "nor an answer as text"),
        ({"prompt": A, "completion": said(("assistant", "1"), ("user", "No."), ("assistant", "2"))}, "not one question"),
        ({"prompt": A}, "no `question`"),
    ],
)
def test_a_row_of_another_program_that_is_no_trace_is_refused_by_its_line(tmp_path, row, reason):
    path = write(tmp_path / "t.jsonl", made(B, RIGHT), row)
    with pytest.raises(DataError, match=rf"t\.jsonl:2: not a trace: .*{reason}"):
        TraceFile(path)


@pytest.mark.parametrize("key", [{"id": "a"}, {}])
def test_gold_is_found_by_question_id_or_by_text_whatever_its_spacing(verify, key):
    write(Path("q.jsonl"), {"question": A, "answer": "work\n#### 36", **key}, {"question": B, "answer": 49})
    named = {"question_id": key["id"]} if key else {}
    write(Path("t.jsonl"), made(A, RIGHT, **named), made(f"  {B}\n", "Final Answer: 36"), made("Who?", RIGHT))
    _, statuses = verify("--questions", "q.jsonl")
    assert statuses == ["correct", "wrong", "unchecked"]


def test_gold_may_stand_in_the_trace_itself(verify):
    write(Path("t.jsonl"), made(A, RIGHT, answer="so it is\n#### 36"), made(B, "Final Answer: yes", answer=True))
    assert verify()[1] == ["correct", "correct"]


def test_every_row_gets_a_verdict_in_the_order_of_the_file_though_its_question_is_scattered(verify):
    rows = [made(q, f"Way {n}.\nFinal Answer: {a}") for n in range(3) for q, a in ((A, 36), (B, 48 + n // 2))]
    write(Path("t.jsonl"), *rows, made(A, "Way 0.\nFinal Answer: 36"))
    _, statuses = verify("--vote")
    assert statuses == ["agrees", "agrees", "agrees", "agrees", "agrees", "disagrees", "duplicate"]
    ids = [row["trace_id"] for row in read(Path("v.jsonl"))]
    assert len(set(ids)) == 7
    assert ids[-1] == ids[0] + "~2"


def test_all_that_selection_takes_out_is_named_and_counted(verify):
    write(Path("test.jsonl"), {"question": B.lower(), "id": "t7"})
    ways = ["6 * 6 = 36.", "6 * 5 = 30 and 30 + 6 = 36.", "3 * 6 = 18, twice is 36."]
    rows = [made(A, f"{way}\nFinal Answer: 36") for way in ways]
    write(Path("t.jsonl"), *rows, made(B, "7 * 7 = 49.\nFinal Answer: 49"), made("Long?", "so " * 40 + RIGHT))
    summary, statuses = verify("--max_per_question", "2", "--decontaminate", "test.jsonl", "--max_words", "40")
    assert statuses.count("not_selected") == 1
    assert statuses[0] == "unchecked"
    assert statuses[3:] == ["contaminated", "too_long"]
    removed = read(Path("v.jsonl"))[3]
    assert removed["reason"].endswith("is test question t7")
    assert summary["contaminated"] == [{"question_id": removed["trace_id"].partition("#")[0], "test_id": "t7"}]


def test_shared_runs_of_words_are_reported_and_only_removed_when_asked(verify):
    text = "Ann walks to the old mill by the river every Sunday."
    write(Path("test.jsonl"), {"question": f"{text} How far?", "id": "t1"})
    write(Path("t.jsonl"), made(f"{text} How long?", RIGHT))
    summary, statuses = verify("--decontaminate", "test.jsonl")
    assert statuses == ["unchecked"]
    assert summary["overlapping"][0]["shared"] == "ann walks to the old mill by the"
    summary, statuses = verify("--decontaminate", "test.jsonl", "--decontaminate_ngram", "10", output="w.jsonl")
    assert statuses == ["contaminated"]
    assert summary["contaminated"][0]["shared"] == "ann walks to the old mill by the river every"


def test_kinds_and_markers_are_those_given(verify):
    write(Path("t.jsonl"), made(A, "RESULT> 1e3", answer="1000"), made(B, "ANSWER IS: 36"))
    assert verify(output="1.jsonl")[1] == ["correct", "no_answer"]  # the first one is repaired
    assert verify("--marker", "RESULT>", "--marker", "ANSWER IS:", output="2.jsonl")[1] == ["correct", "unchecked"]
    assert verify("--marker", "RESULT>", "--kind", "text", output="3.jsonl")[1] == ["wrong", "no_answer"]


def test_the_audit_holds_what_two_methods_disagree_on_and_nothing_else(verify):
    rows = [
        made(A, "Final Answer: 35\nNo, it must be 36.", answer="36"),
        made("Sum?", "6 * 6 = 35, or rather\nFinal Answer: 36", answer="36"),
        made(B, "7 * 7 = 49.\nFinal Answer: 49", answer="49"),
        made("Esc?", "Final Answer: 35\n\x1b[2J \u202e36 36", answer="36"),
    ]
    write(Path("t.jsonl"), *rows)
    summary, _ = verify("--audit", "a.jsonl")
    audit = read(Path("a.jsonl"))
    assert summary["disagreements"] == 2
    assert [(row["methods"], row["says"]) for row in audit] == [
        (["marker", "last number"], ["35", "36"]), (["gold", "steps"], ["right", "not true: 6 * 6 = 35"])
    ]  # fmt: skip
    assert audit[0]["reasoning"] == rows[0]["reasoning"]


def test_the_audit_asks_the_symbolic_comparator_where_there_is_one(verify, monkeypatch):
    monkeypatch.setattr("cotdistill.judging.audit.same_symbolic", lambda a, b: {a, b} == {"0.5", "50%"} or None)
    write(Path("t.jsonl"), made(A, "Final Answer: 50%", answer="0.5"), made(B, "Final Answer: 49", answer="50"))
    summary, statuses = verify("--audit", "a.jsonl")
    assert statuses == ["ambiguous", "wrong"]
    assert summary["disagreements"] == 1
    assert read(Path("a.jsonl"))[0]["says"] == ["not the same", "the same"]


def test_the_same_command_writes_the_same_bytes_again_and_more_traces_go_on(verify):
    rows = [made(A, RIGHT), made(B, "I give up.", finish="error")]
    write(Path("t.jsonl"), *rows)
    verify()
    first = Path("v.jsonl").read_bytes()
    verify()
    assert Path("v.jsonl").read_bytes() == first
    write(Path("t.jsonl"), rows[0], made(B, "I give up."), made("Who?", RIGHT))  # the failed one was asked again
    assert verify()[1] == ["unchecked", "no_answer", "unchecked"]


def test_verdicts_that_would_change_are_kept_unless_told_otherwise(verify):
    write(Path("t.jsonl"), made(A, "6 * 6 = 35.\nFinal Answer: 36"), made(B, "Final Answer: 49"))
    verify()
    first = Path("v.jsonl").read_bytes()
    with pytest.raises(ResumeError, match=r"1 of 2 verdicts in v\.jsonl would change"):
        verify("--no_steps")
    assert Path("v.jsonl").read_bytes() == first
    assert verify("--no-steps", "--overwrite")[1] == ["unchecked", "unchecked"]
    write(Path("t.jsonl"), made(A, "6 * 6 = 35.\nFinal Answer: 36"))
    with pytest.raises(ResumeError, match="1 of 2"):  # one would go
        verify("--no-steps")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--output", "t.jsonl"], "read and written"),
        (["--output", "q.jsonl"], r"q\.jsonl holds something else and is not ours to overwrite"),
        (["--audit", "q.jsonl"], r"q\.jsonl holds something else"),
        (["--output", "q.jsonl", "--overwrite"], "not ours to overwrite"),
        (["--audit", "q.jsonl", "--overwrite"], "not ours to overwrite"),
        (["--audit", "v.jsonl"], "read and written"),
        (["--kind", "integer"], "number, choice"),
        (["--marker", " "], "empty"),
        (["--decontaminate_ngram", "8"], "needs --decontaminate"),
    ],
)
def test_what_would_harm_a_file_or_means_nothing_is_refused_before_any_work(verify, words, said):
    write(Path("t.jsonl"), made(A, RIGHT))
    write(Path("q.jsonl"), {"question": A})
    before = Path("t.jsonl").read_bytes(), Path("q.jsonl").read_bytes()
    with pytest.raises((UsageError, ResumeError), match=said):
        verify(*words)
    assert (Path("t.jsonl").read_bytes(), Path("q.jsonl").read_bytes()) == before
    assert not Path("v.jsonl").exists()


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([], "holds no trace"),
        ([{"question": A}], r"t.jsonl:1: not a trace: it has neither"),
        ([made(A, RIGHT), made("", RIGHT)], r"t.jsonl:2: not a trace: it has no `question`"),
        ([made(A, RIGHT, id="x"), made(A, "other", id="x")], r"t.jsonl:2: the id 'x' is there twice"),
        ([made(A, RIGHT, answer=35), made(A, "other", answer=36)], "different answers: '35', '36'"),
        ([made(A, RIGHT, question_id="b")], "'b' has another text in this trace"),
        ([made("Which?", "B")], "two questions have this text"),
    ],
)
def test_a_file_that_cannot_be_judged_is_refused_with_its_line_and_nothing_is_written(verify, rows, said):
    choose = [{"question": "Which?", "choices": ["x", end]} for end in "yz"]
    write(Path("q.jsonl"), {"question": B, "id": "b"}, *choose)
    write(Path("t.jsonl"), *rows)
    with pytest.raises(DataError, match=said):
        verify("--questions", "q.jsonl")
    assert not Path("v.jsonl").exists()


def test_the_same_row_under_its_own_id_counts_once(verify, caplog):
    write(Path("t.jsonl"), made(A, RIGHT, id="x"), made(B, "Final Answer: 49", id="y"), made(A, RIGHT, id="x"))
    assert verify()[1] == ["unchecked", "unchecked"]
    assert "1 rows are there twice" in caplog.text


def test_a_byte_order_mark_and_blank_lines_are_no_trace(verify):
    write(Path("t.jsonl"), made(A, RIGHT))
    Path("t.jsonl").write_bytes(b"\xef\xbb\xbf" + Path("t.jsonl").read_bytes() + b"\n  \n")
    assert verify()[1] == ["unchecked"]


def test_one_json_array_is_read_like_lines(verify):
    rows = [made(A, RIGHT), {"instruction": B, "input": "", "output": "7 * 7 = 48.\r\nFinal Answer: 48"}]
    write(Path("t.jsonl"), *rows)
    on_lines = verify()
    for indent in (None, 1):
        Path("t.jsonl").write_text("\ufeff \n" + json.dumps(rows, indent=indent) + "\n", encoding="utf-8")
        assert verify() == on_lines
    Path("t.jsonl").write_text("[{}")
    with pytest.raises(DataError, match=r"t\.jsonl: not a JSON array \(.*; repair it"):
        verify("--overwrite")
    Path("t.jsonl").write_text(json.dumps([rows[0], {"question": B}]))
    with pytest.raises(DataError, match=r"t\.jsonl:2: not a trace: it has neither `reasoning`"):
        verify("--overwrite")


def test_training_follows_the_verdicts_and_judges_by_itself_only_where_there_is_no_file(verify):
    write(Path("t.jsonl"), made(A, RIGHT), made(B, "7 * 7 = 48.\nFinal Answer: 48"))
    verify("--no_steps", output="t.verdicts.jsonl")
    path, verdicts = Path("t.jsonl"), Path("t.verdicts.jsonl")
    assert load_dataset(path, verdicts).counts == {"unchecked": 2}
    assert load_dataset(path, Path("none.jsonl")).counts == {"unchecked": 1, "bad_step": 1}
    verdicts.write_text(verdicts.read_text().split("\n")[1] + "\n")
    # Judged again without the gold of the first time, a wrong trace could teach.
    assert load_dataset(path, verdicts).counts == {"unchecked": 1, "without a verdict": 1}
    assert len(load_dataset(path, verdicts).pairs) == 1


def test_what_verify_found_outlives_the_judging_of_generate(verify, caplog):
    """Judged without the gold that verify was given, a trace known to be wrong would teach."""
    wrong, failed = {**made(A, "Final Answer: 35"), "id": "a#0"}, {**made(B, ""), "id": "b#0", "finish": "error"}
    write(Path("t.jsonl"), wrong, failed)
    write(Path("gold.jsonl"), {"question": A, "answer": "36"})
    assert verify("--questions", "gold.jsonl")[1] == ["wrong", "error"]
    more = {**made(B, "7 * 7 = 49.\nFinal Answer: 49"), "id": "b#1"}
    write(Path("t.jsonl"), wrong, {**made(B, "It is 7 * 7 = 49.\nFinal Answer: 49"), "id": "b#0"}, more)
    tally = run_verify([], Path("t.jsonl"), Path("v.jsonl"), Verify(), only_known=False, add=True)
    assert [row["status"] for row in read(Path("v.jsonl"))] == ["wrong", "unchecked", "unchecked"]
    assert tally.counts == {"wrong": 1, "unchecked": 2}
    assert "v.jsonl: 1 earlier verdicts stay" in caplog.text
    write(Path("t.jsonl"), {**wrong, "reasoning": "Final Answer: 37"})
    run_verify([], Path("t.jsonl"), Path("v.jsonl"), Verify(), only_known=False, add=True)
    assert [row["status"] for row in read(Path("v.jsonl"))] == ["unchecked"]  # of other words, nothing is known


def test_verdicts_say_nothing_of_traces_that_were_edited_since(verify, caplog):
    write(Path("t.jsonl"), {**made(A, RIGHT), "id": "a#0"}, {**made(B, "7 * 7 = 48.\nFinal Answer: 48"), "id": "b#0"})
    verify(output="t.verdicts.jsonl")
    path, verdicts = Path("t.jsonl"), Path("t.verdicts.jsonl")
    assert load_dataset(path, verdicts).counts == {"unchecked": 1, "bad_step": 1}
    write(path, {**made(A, RIGHT), "id": "a#0"}, {**made(B, "7 * 7 = 49.\nFinal Answer: 49"), "id": "b#0"})
    with pytest.raises(DataError, match=r"1 traces were edited since they were judged \(b#0\); judge them with: .*"
                       r"verify --traces t.jsonl --output t.verdicts.jsonl --overwrite"):  # fmt: skip
        load_dataset(path, verdicts)
    verify("--overwrite", output="t.verdicts.jsonl")
    assert load_dataset(path, verdicts).counts == {"unchecked": 2}
    write(path, {**made(A, RIGHT), "id": "a#0"}, {**made(B, "7 * 7 = 49.\nFinal Answer: 49"), "id": "b#0"}, made(A, "x"))
    assert load_dataset(path, verdicts).counts == {"unchecked": 2, "without a verdict": 1}
    assert "1 traces have no verdict and do not teach; judge them with" in caplog.text


def test_the_limit_of_a_data_set_counts_questions(tmp_path):
    path = tmp_path / "cot.jsonl"
    rows = [
        {"question": f"{a} + 1?", "reasoning": f"{way} {a} + 1 = {a + 1}.\nFinal Answer: {a + 1}"}
        for way in ("Adding,", "One more than that is found by counting on:") for a in range(3)
    ]  # fmt: skip
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    taken = load_dataset(path, tmp_path / "none.jsonl", limit=2)
    asked = [question.text for _, question, _ in taken.pairs]
    assert len(set(asked)) == 2
    assert asked == asked[:2] * 2
    assert len(taken.labels) == 4
    path.write_text("".join(reversed(path.read_text().splitlines(keepends=True))))
    again = load_dataset(path, tmp_path / "none.jsonl", limit=2)
    assert {question.text for _, question, _ in again.pairs} == set(asked)


def test_known_questions_alone_are_read_where_only_they_are_wanted(tmp_path):
    path = write(tmp_path / "t.jsonl", made(A, RIGHT), made(B, "49"))
    with TraceFile(path, [Question("b", B, "49")], only_known=True) as traces:
        assert [(group.question.gold, group.places) for group in traces.groups()] == [("49", [0])]


def cotdistill(directory: Path, *words: str) -> subprocess.CompletedProcess[str]:
    code = f"import sys; sys.path.insert(0, {SRC!r}); from cotdistill.cli import main; main()"
    return subprocess.run(
        [sys.executable, "-c", code, *words], cwd=directory, capture_output=True, text=True, timeout=120
    )


def test_hostile_names_and_texts_reach_the_terminal_escaped_and_the_summary_stays_one_object(tmp_path):
    evil = "\x1b[2J\u202e\n{}"
    write(tmp_path / "t.jsonl", made(A, RIGHT, question_id=evil), made(B, evil + "\nFinal Answer: " + evil))
    write(tmp_path / "test.jsonl", {"question": A, "id": evil})
    words = ["verify", "--traces", "t.jsonl", "--decontaminate", "test.jsonl"]
    for extra in (["--output", "v.jsonl"], ["--output", "w.jsonl", "--json"]):
        outcome = cotdistill(tmp_path, *words, *extra)
        assert outcome.returncode == 0, outcome.stderr
        assert "\\x1b[2J\\u202e" in outcome.stderr
        assert not {"\x1b", "\u202e"} & set(outcome.stdout + outcome.stderr)
    assert len(outcome.stdout.splitlines()) == 1
    assert json.loads(outcome.stdout)["counts"] == {"contaminated": 1, "control_token": 1}
    write(tmp_path / "t.jsonl", made(A, RIGHT, id=evil), made(A, "other", id=evil))
    outcome = cotdistill(tmp_path, *words, "--output", "x.jsonl")
    assert outcome.returncode == 1
    assert "Traceback" not in outcome.stderr
    assert not {"\x1b", "\u202e"} & set(outcome.stderr)


def test_without_json_the_counts_by_status_are_printed(tmp_path):
    write(tmp_path / "t.jsonl", made(A, RIGHT, answer="36"), made(B, "It is 49.", answer="49"), made("Who?", "Me."))
    outcome = cotdistill(tmp_path, "verify", "--traces", "t.jsonl", "--output", "v.jsonl")
    assert outcome.returncode == 0
    assert outcome.stdout == "v.jsonl: 3 traces, 2 may teach (2 correct, 1 no_answer)\nflags: 1 repaired\n"


GROWTH = """
import resource, sys
sys.path.insert(0, {src!r})
from pathlib import Path
from cotdistill.settings.verify import Verify
from cotdistill.stages.verify import run_verify
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
run_verify([], Path("small.jsonl"), Path("v.jsonl"), Verify(vote=True), only_known=False)
before = peak()
tally = run_verify([], Path("large.jsonl"), Path("v.jsonl"), Verify(vote=True), only_known=False)
print(tally.counts["agrees"], peak() - before)
"""


def test_twenty_thousand_traces_are_judged_without_holding_them(tmp_path):
    filler = "We think about it once more and see nothing new. " * 15
    write(tmp_path / "small.jsonl", made(A, RIGHT))
    with (tmp_path / "large.jsonl").open("w") as file:
        for n in range(20_000):
            words = f"{'abcd'[n % 4]} " * 120  # four different ways to put it
            row = made(f"What is {n // 4} + 1?", f"{filler}{words}.\nFinal Answer: {n // 4 + 1}", id=f"t{n}")
            file.write(json.dumps(row) + "\n")
    assert (tmp_path / "large.jsonl").stat().st_size > 20e6
    outcome = subprocess.run(
        [sys.executable, "-c", GROWTH.format(src=SRC)], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert outcome.returncode == 0, outcome.stderr
    agreeing, growth = map(int, outcome.stdout.split())
    assert agreeing == 20_000
    assert growth < 8e6
