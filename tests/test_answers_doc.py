"""The table of rules in docs/answers.md is what the code does."""

import re
from pathlib import Path

import pytest

from cotdistill.answer import kind_of, read_answer, same_answer

ROWS = re.findall(
    r"^\| `(.+?)` \| `(.+?)` \| (same|different) \|",
    (Path(__file__).resolve().parent.parent / "docs/answers.md").read_text(encoding="utf-8"),
    re.MULTILINE,
)


def test_the_table_is_there():
    assert len(ROWS) >= 15


@pytest.mark.parametrize(("gold", "answer", "verdict"), ROWS)
def test_a_row_of_the_table_holds(gold, answer, verdict):
    kind = kind_of(gold)
    assert same_answer(read_answer(answer, kind), read_answer(gold, kind)) == (verdict == "same")
