"""The table of rules in docs/answers.md is what the code does."""

import json
import re
from pathlib import Path

import pytest

from cotdistill.answer import kind_of, read_answer, same_answer
from cotdistill.grade import grade
from cotdistill.question import Question

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "docs/answers.md").read_text(encoding="utf-8")
VERDICTS = "same|different|ambiguous|too_complex|no_answer"
ROWS = re.findall(rf"^\| `(.+?)` \| `(.+?)` \| ({VERDICTS}) \|", TEXT, re.MULTILINE)


def test_the_table_has_every_verdict_and_every_kind():
    assert len(ROWS) >= 50
    assert {verdict for *_, verdict in ROWS} == set(VERDICTS.split("|"))
    assert {kind_of(gold) for gold, *_ in ROWS} == {"number", "choice", "boolean", "text", "date", "list", "time"}


@pytest.mark.parametrize(("gold", "answer", "verdict"), ROWS)
def test_a_row_of_the_table_holds(gold, answer, verdict):
    kind = kind_of(gold)
    read, wanted = read_answer(answer, kind), read_answer(gold, kind)
    assert same_answer(read, wanted) == same_answer(wanted, read) == (verdict == "same")
    marks = grade(f"Final Answer: {answer}", "stop", Question("q", "?", gold))
    assert marks.correct_strict is (verdict == "same")
    assert marks.status_strict == ("marker" if verdict in ("same", "different") else verdict)


def test_the_document_counts_the_corpus_right():
    rows = [line for line in (ROOT / "tests/data/answers.jsonl").read_text("utf-8").split("\n") if line]
    assert f"holds {len(rows)} such rows" in TEXT
    assert all({"text", "gold", "expect", "why"} <= set(json.loads(line)) for line in rows)
