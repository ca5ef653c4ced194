"""Several runs, made up from seeds, on the same held-out questions."""

import re
import shutil
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from cotdistill.cli import app
from cotdistill.errors import DataError
from cotdistill.journal import read_rows, write_rows
from cotdistill.prediction import Prediction
from cotdistill.reporting.across import Across, across
from cotdistill.reporting.across_page import MARK
from cotdistill.statistics import mcnemar
from synthetic_run import HOSTILE, make_run


def other(run: Path, name: str, changes: dict[str, object], flip: int = 0) -> Path:
    """A copy with other settings, in which the student's first ``flip`` right answers are wrong."""
    made = run.with_name(name)
    shutil.copytree(run, made)
    recipe = yaml.safe_load((made / "recipe.yaml").read_text(encoding="utf-8"))
    for key, value in changes.items():
        section, _, last = key.rpartition(".")
        target = recipe
        for part in section.split("."):
            target = target[part]
        target[last] = value
    (made / "recipe.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    rows = list(read_rows(made / "6_predictions/student.jsonl", Prediction))
    for at, row in enumerate(rows):
        if row.correct and flip:
            flip -= 1
            rows[at] = Prediction(**{key: getattr(row, key) for key in row.__struct_fields__} | {"correct": False})
    write_rows(made / "6_predictions/student.jsonl", rows)
    return made


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    first = make_run(tmp_path / "one", 40)
    return [
        first,
        other(first, "two", {"train.seed": 2}, 3),
        other(first, "three", {"train.seed": 3, "report.title": "Another"}, 6),
        other(first, "answers", {"train.target": "answer"}, 12),
    ]


def test_seeds_are_one_group_and_a_question_counts_once(runs: list[Path]) -> None:
    found = across(runs)
    assert [group.runs for group in found.groups] == [["one", "two", "three"], ["answers"]]
    seeds = found.groups[0]
    right = found.runs[0].models["student"].correct
    assert seeds.mean == pytest.approx((right - 3) / 40)
    assert seeds.spread == pytest.approx(3 / 40)
    assert (seeds.highest, seeds.lowest) == (right / 40, (right - 6) / 40)
    base = found.runs[0].models["base"].correct
    assert seeds.difference.estimate == pytest.approx((right - 3 - base) / 40)
    assert seeds.difference.low < seeds.difference.estimate < seeds.difference.high
    alone = found.groups[1]
    assert (alone.spread, alone.p_value) == (None, pytest.approx(found.runs[3].paired.p_value))


def test_every_run_is_paired_with_the_first_and_differences_are_named(runs: list[Path]) -> None:
    two, three, answers = across(runs).pairs
    assert (two.paired.only_base, two.paired.only_student, two.paired.p_value) == (3, 0, mcnemar(3, 0))
    assert (two.differs, two.meaning) == (["train.seed"], "another seed")
    assert three.differs == ["train.seed"]
    assert len(answers.lost) == 12
    assert answers.meaning == "what the reasoning is worth: one learned it, answers the answers alone"
    (contrast,) = across(runs).contrasts
    assert (contrast.a, contrast.b, contrast.differs) == ("one", "answers", ["train.target"])
    assert contrast.difference.estimate == pytest.approx(-(12 - 3) / 40)


def test_only_questions_that_all_were_asked_count(runs: list[Path], tmp_path: Path) -> None:
    stranger = make_run(tmp_path / "stranger", 10, seed=5)
    with pytest.raises(DataError, match="share no held-out question"):
        across([runs[0], stranger])
    rows = (runs[1] / "1_held_out.jsonl").read_bytes().splitlines(keepends=True)
    (runs[1] / "1_held_out.jsonl").write_bytes(b"".join(rows[:30]))
    found = across(runs[:2])
    assert (found.n, found.left_out) == (30, 10)
    assert found.runs[0].models["student"].n == 30


def test_a_run_that_is_not_answered_whole_or_named_twice_is_a_sentence(runs: list[Path]) -> None:
    with pytest.raises(DataError, match="named twice"):
        across([runs[0], runs[1], runs[0]])
    file = runs[1] / "6_predictions" / "student.jsonl"
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(DataError, match="not answered"):
        across(runs)


def test_the_same_seeds_twice_have_no_spread(runs: list[Path]) -> None:
    twin = other(runs[0], "twin", {}, flip=3)
    assert [group.spread for group in across([runs[0], twin]).groups] == [None]
    assert "2 runs, some with the same seeds" in said(runs[0], twin, "--output", runs[0].parent / "c.html")[1]


def said(*words: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["compare", *map(str, words)])
    return result.exit_code, result.output or str(result.exception)


def test_compare_prints_tables_and_writes_one_page_that_loads_nothing(runs: list[Path], tmp_path: Path) -> None:
    page = tmp_path / "compare.html"
    code, text = said(*runs, "--output", page)
    assert code == 0
    for words in ("40 held-out questions asked in every run", "3 seeds (one, two, three)", "0 gained, 3 lost; p = 0.25",
                  "another seed; differs in train.seed", "mean of answers against mean of one"):  # fmt: skip
        assert words in text
    html = page.read_text(encoding="utf-8")
    assert len(html) < 100_000
    assert "<script" not in html
    assert not re.search(r"https?://|@import|url\(|src=", html)
    assert "what the reasoning is worth" in html
    assert said(*runs[:2], "--output", page)[0] == 0  # its own page is made anew
    assert MARK in page.read_bytes()


def test_compare_never_overwrites_what_it_did_not_write(runs: list[Path], tmp_path: Path) -> None:
    (tmp_path / "notes.html").write_text("mine")
    result = CliRunner().invoke(app, ["compare", *map(str, runs[:2]), "--output", str(tmp_path / "notes.html")])
    assert "is no comparison" in str(result.exception)
    assert (tmp_path / "notes.html").read_text() == "mine"
    assert said(runs[0])[0] != 0


def test_hostile_names_stay_text_on_the_page(runs: list[Path], tmp_path: Path) -> None:
    hostile = other(runs[0], "<img src=x onerror=alert(1)>", {"train.seed": 9})
    assert isinstance(across([runs[0], hostile]), Across)
    assert said(runs[0], hostile, "--output", tmp_path / "c.html")[0] == 0
    html = (tmp_path / "c.html").read_text(encoding="utf-8")
    assert "<img" not in html
    assert HOSTILE[0] not in html
