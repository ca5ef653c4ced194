"""The whole way of the data with a scripted teacher and a tiny student."""

import re
from pathlib import Path

import msgspec
import pytest

from cotdistill import pipeline
from cotdistill.engines.scripted import ScriptedEngine
from cotdistill.errors import CotdistillError, DataError, ResumeError
from cotdistill.recipe import Recipe, decode_recipe


def solve(question: str) -> str:
    """A perfect teacher for chain sums, one line a step."""
    terms = re.sub(r".*: |[= ]", "", question)
    total, lines = None, []
    for sign, digit in re.findall(r"([+-]?)(\d+)", terms):
        value = int(sign + digit)
        if total is None:
            total = value
            continue
        lines.append(f"{total} {sign} {digit} = {total + value}.")
        total += value
    return "\n".join([*lines, f"Final Answer: {total}"])


def recipe(tiny: Path, **changes: object) -> Recipe:
    config = {"min_terms": 2, "max_terms": 3, "min_digits": 1, "max_digits": 1}
    plain = {
        "name": "tiny",
        "models": {"teacher": str(tiny), "student": str(tiny), "engine": "transformers"},
        "questions": {
            "train": {"tasks": [{"name": "chain_sum", "size": 6, "config": config}], "seed": 1},
            "held_out": {"tasks": [{"name": "chain_sum", "size": 5, "config": config}], "seed": 2},
            "unseen": {"tasks": [{"name": "gcd", "size": 2}], "seed": 2},
        },
        "train": {"num_epochs": 1, "batch_size": 2, "gradient_accumulation_steps": 1},
        "evaluate": {"max_new_tokens": 24, "batch_size": 4},
        **changes,
    }
    return decode_recipe(plain, "test")


@pytest.fixture
def teacher(monkeypatch: pytest.MonkeyPatch) -> list[ScriptedEngine]:
    """Every teacher that gets opened, in order."""
    opened: list[ScriptedEngine] = []

    def open_teacher(*_: object) -> ScriptedEngine:
        opened.append(ScriptedEngine(solve))
        return opened[-1]

    monkeypatch.setattr(pipeline, "engine_for", open_teacher)
    return opened


def test_a_run_writes_every_stage_and_ends_with_a_verdict(tiny, tmp_path, teacher):
    report = pipeline.run(recipe(tiny), runs=tmp_path, quiet=True)
    directory = tmp_path / "tiny"
    for name in (
        "recipe.yaml", "manifest.json", "1_questions.jsonl", "1_held_out.jsonl", "1_unseen.jsonl", "2_traces.jsonl",
        "3_verdicts.jsonl", "4_examples.jsonl", "5_adapter/adapter_model.safetensors", "5_adapter/cotdistill.json",
        "6_predictions/base.jsonl", "6_predictions/student.jsonl", "6_predictions/teacher.jsonl",
        "6_predictions/unseen/student.jsonl", "7_report.json", "7_report.html", "5_adapter/README.md",
    ):  # fmt: skip
        assert (directory / name).stat().st_size > 0, name
    written = msgspec.json.decode((directory / "7_report.json").read_bytes())
    assert {"base", "student", "teacher"} == set(written["models"])
    assert written["models"]["teacher"]["correct"] == written["models"]["teacher"]["n"] == 5
    assert written["verdict"] == report.verdict == "not_shown"
    assert len(written["recipe_sha256"]) == 64
    assert written["transfer"]["models"]["base"]["n"] == 2


@pytest.mark.parametrize(
    ("section", "wrong", "says"),
    [
        ("questions", {"tasks": [{"name": "chain_sums", "size": 3}]}, "no task 'chain_sums'"),
        ("questions", {"file": "nowhere.jsonl"}, "cannot read nowhere.jsonl"),
        ("generate", {"few_shot": "nowhere.jsonl"}, "few-shot file nowhere.jsonl"),
    ],
)
def test_what_needs_no_model_is_looked_at_before_one_is_fetched(tiny, tmp_path, monkeypatch, section, wrong, says):
    def fetch(*_: object, **__: object) -> None:
        raise AssertionError("a model was fetched")

    monkeypatch.setattr(pipeline, "identify", fetch)
    held_out = {"tasks": [{"name": "chain_sum", "size": 5}], "seed": 2}
    changed = {"train": wrong, "held_out": held_out} if section == "questions" else wrong
    with pytest.raises(CotdistillError, match=says):
        pipeline.run(recipe(tiny, **{section: changed}), runs=tmp_path, quiet=True)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_running_again_does_nothing_again(tiny, tmp_path, teacher):
    first = pipeline.run(recipe(tiny), runs=tmp_path, quiet=True)
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "tiny/5_adapter").glob("*.safetensors")}
    opened = len(teacher)
    second = pipeline.run(recipe(tiny), runs=tmp_path, quiet=True)
    assert len(teacher) == opened
    assert files == {path: path.stat().st_mtime_ns for path in files}
    assert first == second


def test_a_lost_prediction_alone_is_asked_again(tiny, tmp_path, teacher):
    pipeline.run(recipe(tiny), runs=tmp_path, quiet=True)
    path = tmp_path / "tiny/6_predictions/teacher.jsonl"
    rows = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(rows[:-1]) + rows[-1][:10])
    pipeline.run(recipe(tiny), runs=tmp_path, quiet=True)
    assert len(teacher[-1].requests) == 1
    assert sorted(path.read_bytes().splitlines()) == sorted(b"".join(rows).splitlines())


def test_other_settings_are_refused_with_their_names_and_overwrite_starts_anew(tiny, tmp_path, teacher):
    pipeline.run(recipe(tiny), runs=tmp_path, quiet=True)
    hotter = recipe(tiny, generate={"sampling": {"max_new_tokens": 99}})
    with pytest.raises(ResumeError, match="max_new_tokens: 512 -> 99"):
        pipeline.run(hotter, runs=tmp_path, quiet=True)
    pipeline.run(hotter, runs=tmp_path, overwrite=True, quiet=True)


def test_a_new_title_redoes_nothing(tiny, tmp_path, teacher):
    pipeline.run(recipe(tiny), runs=tmp_path, quiet=True)
    opened = len(teacher)
    report = pipeline.run(recipe(tiny, report={"title": "Sums"}), runs=tmp_path, quiet=True)
    assert len(teacher) == opened
    assert report.details["title"] == "Sums"


def test_only_traces_that_are_right_teach(tiny, tmp_path, monkeypatch):
    asked: list[str] = []

    def half_wrong(question: str) -> str:
        asked.append(question)
        return solve(question) if len(asked) % 2 else "1 + 1 = 2.\nFinal Answer: 999"

    monkeypatch.setattr(pipeline, "engine_for", lambda *_: ScriptedEngine(half_wrong))
    pipeline.run(recipe(tiny), runs=tmp_path, quiet=True)
    verdicts = [msgspec.json.decode(line) for line in (tmp_path / "tiny/3_verdicts.jsonl").read_bytes().splitlines()]
    examples = (tmp_path / "tiny/4_examples.jsonl").read_bytes().splitlines()
    assert sorted(verdict["status"] for verdict in verdicts) == ["correct"] * 3 + ["wrong"] * 3
    assert len(examples) == 3


def test_held_out_operands_never_occur_in_training(tiny, tmp_path, teacher):
    report = pipeline.run(recipe(tiny), runs=tmp_path, quiet=True)
    proof = report.details["questions"]["disjoint"]
    assert proof["train"] == 6
    assert proof["shared_texts"] == proof["shared_operands"] == 0


def test_what_a_recipe_says_of_verifying_decides_which_traces_teach(tiny, tmp_path, teacher):
    first = recipe(tiny)
    pipeline.run(first, runs=tmp_path, quiet=True)
    asked = (tmp_path / "tiny/1_questions.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "test.jsonl").write_bytes(asked[0])
    strict = recipe(tiny, name="strict", verify={"decontaminate": str(tmp_path / "test.jsonl"), "max_per_question": 1})
    pipeline.run(strict, runs=tmp_path, quiet=True)
    verdicts = [msgspec.json.decode(line) for line in (tmp_path / "strict/3_verdicts.jsonl").read_bytes().splitlines()]
    assert sorted(verdict["status"] for verdict in verdicts) == ["contaminated"] + ["correct"] * 5
    assert len((tmp_path / "strict/4_examples.jsonl").read_bytes().splitlines()) == 5


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({"max_per_question": 0}, "verify.max_per_question"),
        ({"kind": "integer"}, "none of number"),
        ({"decontaminate_ngram": 8}, "needs decontaminate"),
        ({"markers": [" "]}, "a marker is empty"),
        ({"voting": True}, "voting"),
    ],
)
def test_a_verify_section_that_means_nothing_is_refused(tiny, section, said):
    with pytest.raises(DataError, match=said):
        recipe(tiny, verify=section)


def test_the_base_gets_its_other_chances_from_one_loaded_model(tiny, tmp_path, teacher):
    (tmp_path / "shots.jsonl").write_text('{"question": "What is 1 + 1?", "reasoning": "1 + 1 = 2.\\nFinal Answer: 2"}\n')
    ways = {
        "generate": {"few_shot": str(tmp_path / "shots.jsonl")},
        "evaluate": {"max_new_tokens": 8, "baselines": ["zero", "few_shot", "native"], "teacher": False},
    }
    report = pipeline.run(recipe(tiny, **ways), runs=tmp_path, quiet=True)
    assert list(report.models) == ["base", "base_few_shot", "base_native", "student"]
    rows = {
        name: msgspec.json.decode((tmp_path / f"tiny/6_predictions/{name}.jsonl").read_bytes().splitlines()[0])
        for name in report.models
    }
    assert rows["base_native"]["prompt_tokens"] < rows["base"]["prompt_tokens"] < rows["base_few_shot"]["prompt_tokens"]
    assert set(report.against) == {"base_few_shot", "base_native"}


def test_a_few_shot_baseline_without_examples_is_refused(tiny):
    with pytest.raises(DataError, match=r"needs generate\.few_shot"):
        recipe(tiny, evaluate={"baselines": ["few_shot"]})


def test_several_samples_are_drawn_counted_and_not_drawn_again(tiny, tmp_path, teacher):
    drawn = {"evaluate": {"max_new_tokens": 24, "num_samples": 3, "temperature": 0.9}}
    report = pipeline.run(recipe(tiny, **drawn), runs=tmp_path, quiet=True)
    assert len((tmp_path / "tiny/6_predictions/student.jsonl").read_bytes().splitlines()) == 15
    assert report.models["teacher"].pass_at == {1: 1.0, 2: 1.0, 3: 1.0}
    assert (report.models["base"].samples, report.models["base"].n) == (3, 5)
    opened = len(teacher)
    assert pipeline.run(recipe(tiny, **drawn), runs=tmp_path, quiet=True) == report
    assert len(teacher) == opened
    path = tmp_path / "tiny/6_predictions/teacher.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(line for line in lines[:-1]))
    assert b'"sample":2' in lines[-1]
    pipeline.run(recipe(tiny, **drawn), runs=tmp_path, quiet=True)
    assert len(teacher[-1].requests) == 1
    with pytest.raises(DataError, match="greedy samples are all the same"):
        recipe(tiny, evaluate={"num_samples": 3})
