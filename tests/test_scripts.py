"""The user's three commands, as typed, in a directory of their own."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import make_model
from cotdistill.question import load_questions

REPO = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project as the README lays it out, with tiny models in both places."""
    root = tmp_path_factory.mktemp("project")
    shutil.copytree(REPO / "scripts", root / "scripts", ignore=shutil.ignore_patterns("__pycache__"))
    (root / "src").symlink_to(REPO / "src")
    (root / "data").mkdir()
    rows = [{"question": f"What is {i} + {i}?"} for i in range(6)]
    (root / "data/raw_questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    gold = [{"question": f"What is {i} + 9?", "answer": str(i + 9)} for i in range(4)]
    (root / "data/test_questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in gold))
    make_model(root / "models/teacher")
    make_model(root / "models/student", seed=1)
    return root


def call(project: Path, line: str) -> subprocess.CompletedProcess[str]:
    """Run a command line as the user types it; ``python`` is this interpreter."""
    words = line.split()
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    return subprocess.run(
        [sys.executable, *words[1:]], cwd=project, capture_output=True, text=True, timeout=240, env=environment
    )


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def teach_by_hand(path: Path) -> None:
    """A data set as a person may write it: question and reasoning, nothing else."""
    lines = [{"question": f"What is {i} + 7?", "cot": f"{i} + 7 = {i + 7}.\nFinal Answer: {i + 7}"} for i in range(8)]
    lines.append({"question": "what is 3 + 9 ?", "cot": "3 + 9 = 12.\nFinal Answer: 12"})  # a test question, too
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_the_three_commands_work_one_after_the_other(project):
    generated = call(
        project,
        "python scripts/gen_cot.py --teacher_model models/teacher --input_file data/raw_questions.jsonl "
        "--output_file data/cot_dataset.jsonl --max_new_tokens 8",
    )
    assert generated.returncode == 0, generated.stderr
    traces = rows(project / "data/cot_dataset.jsonl")
    assert {trace["question"] for trace in traces} == {f"What is {i} + {i}?" for i in range(6)}
    assert len(traces) == 6
    assert len(rows(project / "data/cot_dataset.verdicts.jsonl")) == 6

    # A random teacher teaches nothing; what the student learns is written by hand.
    refused = call(
        project,
        "python scripts/train_cot_lora.py --student_model models/student --cot_dataset data/cot_dataset.jsonl "
        "--output_dir results/nothing",
    )
    assert refused.returncode == 1
    assert "no trace may teach" in refused.stderr
    assert "Traceback" not in refused.stderr

    teach_by_hand(project / "data/hand.jsonl")
    trained = call(
        project,
        "python scripts/train_cot_lora.py --student_model models/student --cot_dataset data/hand.jsonl "
        "--output_dir results/student_cot_lora --num-epochs 1 --batch_size 4 --learning_rate 2e-4",
    )
    assert trained.returncode == 0, trained.stderr
    assert (project / "results/student_cot_lora/adapter_model.safetensors").is_file()

    evaluated = call(
        project,
        "python scripts/eval_cot.py --base_model models/student --lora_model results/student_cot_lora "
        "--test_file data/test_questions.jsonl --output_file results/predictions.jsonl --max_new_tokens 8 "
        "--compare_base --teacher_model models/teacher",
    )
    assert evaluated.returncode == 0, evaluated.stderr
    asked = load_questions(project / "data/test_questions.jsonl")
    assert f"1 of the 4 test questions were trained on ({asked[3].id})" in " ".join(evaluated.stderr.split())
    report = json.loads((project / "results/predictions.report.json").read_text())
    assert report["details"]["trained_on"] == {"student": [asked[3].id]}
    predictions = rows(project / "results/predictions.jsonl")
    assert len(predictions) == 4
    assert all(isinstance(row["correct"], bool) for row in predictions)
    metrics = json.loads((project / "results/predictions.metrics.json").read_text())
    assert metrics["n"] == 4
    for name in ("base", "student", "teacher"):
        assert name in evaluated.stdout


def test_the_same_command_goes_on_and_other_settings_are_refused(project):
    command = (
        "python scripts/gen_cot.py --teacher_model models/teacher --input_file data/raw_questions.jsonl "
        "--output_file data/resumed.jsonl --max_new_tokens {tokens} {more}"
    )
    assert call(project, command.format(tokens=4, more="--limit 2")).returncode == 0
    first = (project / "data/resumed.jsonl").read_bytes()
    assert call(project, command.format(tokens=4, more="")).returncode == 0
    assert (project / "data/resumed.jsonl").read_bytes().startswith(first)
    assert len(rows(project / "data/resumed.jsonl")) == 6
    verdicts = (project / "data/resumed.verdicts.jsonl").read_bytes()
    changed = call(project, command.format(tokens=5, more="--limit 1"))
    assert changed.returncode == 1
    assert (project / "data/resumed.verdicts.jsonl").read_bytes() == verdicts  # a refused command touches nothing
    assert "max_new_tokens: 4 -> 5" in changed.stderr
    assert call(project, command.format(tokens=5, more="--overwrite")).returncode == 0


GEN = "python scripts/gen_cot.py --teacher_model {model} --input_file {input} --output_file data/{output}.jsonl {more}"


@pytest.mark.parametrize(
    ("content", "model", "more", "code", "words"),
    [
        ("", "models/teacher", "", 1, ["bad_input.jsonl"]),
        ('{"question": "a"}\n{"question": \n', "models/teacher", "", 1, ["bad_input.jsonl:2"]),
        ('{"text": "a"}\n', "models/teacher", "", 1, ["bad_input.jsonl:1", "question"]),
        ('{"id": "1", "question": "a"}\n{"id": "1", "question": "b"}\n', "models/teacher", "", 1, ["1"]),
        ('{"id": "q9", "question": "a", "answer": "x^2 + y", "kind": "date"}\n', "models/teacher", "", 1, ["q9", "x^2 + y"]),
        ('{"question": "a"}\n', "models/none", "", 1, ["models/none"]),
        ('{"question": "a"}\n', "data", "", 1, ["config.json"]),
        ('{"question": "a"}\n', "models/teacher", "--engine warp", 2, ["warp", "transformers"]),
        ('{"question": "a"}\n', "models/teacher", "--num_samples 3", 2, ["--do_sample"]),
    ],
)  # fmt: skip
def test_bad_input_is_one_sentence_and_leaves_nothing_behind(project, content, model, more, code, words):
    (project / "data/bad_input.jsonl").write_text(content)
    outcome = call(project, GEN.format(model=model, input="data/bad_input.jsonl", output="bad", more=more))
    assert outcome.returncode == code, outcome.stderr
    assert "Traceback" not in outcome.stderr
    assert outcome.stderr.count("error:") == 1
    for word in words:
        assert word in outcome.stderr
    assert not (project / "data/bad.jsonl").exists()


def test_a_question_longer_than_the_context_is_a_counted_row(project):
    long = {"question": "word " * 400}
    (project / "data/long.jsonl").write_text(json.dumps(long) + "\n" + '{"question": "What is 1 + 1?"}\n')
    words = {"model": "models/teacher", "input": "data/long.jsonl", "output": "long_cot", "more": "--max_new_tokens 4"}
    outcome = call(project, GEN.format(**words))
    assert outcome.returncode == 0, outcome.stderr
    assert "1 error" in outcome.stdout


def test_a_gguf_file_given_to_training_names_the_conversion(project):
    (project / "models/gguf").mkdir(exist_ok=True)
    (project / "models/gguf/model.gguf").write_bytes(b"GGUF")
    teach_by_hand(project / "data/hand.jsonl")
    outcome = call(
        project,
        "python scripts/train_cot_lora.py --student_model models/gguf --cot_dataset data/hand.jsonl "
        "--output_dir results/refused",
    )
    assert outcome.returncode == 1
    assert "cotdistill models convert" in outcome.stderr
    assert not (project / "results/refused").exists()


@pytest.mark.parametrize("script", ["gen_cot", "train_cot_lora", "eval_cot"])
def test_help_lists_the_flags_of_the_readme(project, script):
    flags = {
        "gen_cot": ["teacher_model", "input_file", "output_file", "max_new_tokens", "batch_size", "temperature",
                    "do_sample", "num_samples", "engine", "system_prompt", "few_shot", "seed", "limit",
                    "load_in_4bit", "no_4bit"],
        "train_cot_lora": ["student_model", "cot_dataset", "output_dir", "num_epochs", "batch_size", "learning_rate",
                           "gradient_accumulation_steps", "max_length", "gradient_checkpointing", "lora_r",
                           "lora_alpha", "lora_dropout", "target_modules", "load_in_4bit", "no_4bit", "device_map",
                           "seed", "overwrite", "trust_remote_code"],
        "eval_cot": ["base_model", "lora_model", "test_file", "output_file", "max_new_tokens", "compare_base",
                     "teacher_model", "load_in_4bit", "no_4bit"],
    }  # fmt: skip
    shown = call(project, f"python scripts/{script}.py --help")
    assert shown.returncode == 0
    for flag in flags[script]:
        assert f"--{flag}" in shown.stdout


def test_extract_final_answer_reads_the_marker_or_nothing(project):
    code = (
        "import sys; sys.path.insert(0, 'scripts'); from helpers import extract_final_answer as f; "
        "print([f('so\\nFinal Answer: 36'), f('no answer here 5')])"
    )
    outcome = subprocess.run([sys.executable, "-c", code], cwd=project, capture_output=True, text=True)
    assert outcome.stdout.strip() == "['36', '']", outcome.stderr
