"""Ways to train a student, beside each other on real questions: the same teacher, traces, student and steps.

    python -m benchmarks.objectives run --data DIRECTORY --dataset coin_flip --work runs/objectives
    python -m benchmarks.objectives table
    python -m benchmarks.objectives difference multiarith sft_one sft_several

DIRECTORY holds NAME_train.jsonl and NAME_dev.jsonl, rows of question and answer; training never sees the latter. Every
arm is made of commands that anybody can type; they are kept in its result. What is done is not done again, so that the
same line goes on after a stop, and each arm leaves a small file in benchmarks/results/objectives/ as it ends.
"""

import argparse
import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec

from cotdistill.journal import read_rows
from cotdistill.machine import versions
from cotdistill.prediction import Prediction, is_correct
from cotdistill.prompt import LABEL_PROMPT
from cotdistill.question import load_questions
from cotdistill.report import Facts, build_report, changes
from cotdistill.reporting.score import first_samples_of
from cotdistill.resampling import difference
from cotdistill.statistics import p_text, paired
from cotdistill.storage.manifest import Manifest

RESULTS = Path(__file__).parent / "results" / "objectives"
TEACHER = "qwen2.5-coder-1.5b-instruct"
FEW_SHOT = "base_few_shot"


class Asked(msgspec.Struct, frozen=True):
    """What the teacher is asked: the first so many training questions, and so many samples of each; one is greedy."""

    questions: int
    samples: int = 1
    temperature: float = 0.7


class Dataset(msgspec.Struct, frozen=True):
    """The worked examples that its teacher sees, what it is asked, and how long answers may be."""

    few_shot: str
    asked: Asked
    trace_tokens: int
    answer_tokens: int


DATASETS = {
    "coin_flip": Dataset("recipes/coin_flip_few_shot.jsonl", Asked(160), 96, 128),
    "last_letters": Dataset("recipes/last_letters_few_shot.jsonl", Asked(200), 128, 160),
    "multiarith": Dataset("recipes/word_problems_few_shot.jsonl", Asked(250, 2), 128, 128),
    "svamp": Dataset("recipes/word_problems_few_shot.jsonl", Asked(200), 128, 128),
}


class Student(msgspec.Struct, frozen=True):
    """Who learns, and with which settings (flags of train)."""

    name: str
    training: str


SMALL = Student(
    "smollm2-135m-instruct",
    "--num_epochs 3 --batch_size 8 --gradient_accumulation_steps 1 --learning_rate 1e-3 --lora_r 16 --lora_alpha 32 "
    "--seed 1",
)
ABLE = Student(
    "qwen2.5-coder-0.5b-instruct",
    "--num_epochs 2 --batch_size 4 --gradient_accumulation_steps 1 --learning_rate 2e-4 --lora_r 16 --lora_alpha 32 "
    "--seed 1",
)


class Arm(msgspec.Struct, frozen=True):
    """Which of the traces teach (flags of verify), and how (flags of train, after the student's own ones; FEW_SHOT
    stands for the data set's worked examples). ``base`` is the arm without training that it is compared with; the
    base's is its own. ``asked`` is for an arm whose traces are not those of the others."""

    student: Student
    base: str
    choice: str = "--max_per_question 1"
    how: str = ""
    asked: Asked | None = None


# Many samples of few questions, so that there is a choice among them.
MANY = Asked(40, 6, 1.0)
ON_POLICY = f"--objective on_policy --teacher_model {TEACHER} --max_new_tokens 128"

ARMS = {
    "base": Arm(SMALL, "base"),
    "answer_only": Arm(SMALL, "base", how="--target answer"),
    "sft_one": Arm(SMALL, "base"),
    "sft_several": Arm(SMALL, "base", choice=""),
    "step_by_step": Arm(SMALL, "base", how="--objective step_by_step"),
    "qwen_base": Arm(ABLE, "qwen_base"),
    "qwen_answer_only": Arm(ABLE, "qwen_base", how="--target answer"),
    "qwen_sft": Arm(ABLE, "qwen_base"),
    "qwen_sft_several": Arm(ABLE, "qwen_base", choice=""),
    "qwen_step_by_step": Arm(ABLE, "qwen_base", how="--objective step_by_step"),
    # Few questions, where a second trace of each might matter most.
    "qwen_few_one": Arm(ABLE, "qwen_base", how="--limit 40"),
    "qwen_few_several": Arm(ABLE, "qwen_base", choice="", how="--limit 40"),
    "qwen_many_different": Arm(ABLE, "qwen_base", asked=MANY),
    "qwen_many_short": Arm(ABLE, "qwen_base", "--max_per_question 1 --prefer short", asked=MANY),
    "qwen_many_likely": Arm(
        ABLE, "qwen_base", f"--max_per_question 1 --prefer likely --student_model {ABLE.name}", asked=MANY
    ),
    "qwen_many_all": Arm(ABLE, "qwen_base", choice="", asked=MANY),
    # As many rows as take the time of qwen_sft: each is written or read, scored by the teacher and learnt.
    "qwen_on_policy": Arm(ABLE, "qwen_base", how=f"{ON_POLICY} --num_epochs 1 --limit 96"),
    "qwen_on_policy_shown": Arm(ABLE, "qwen_base", how=f"{ON_POLICY} --few_shot FEW_SHOT --num_epochs 1 --limit 96"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    running = commands.add_parser("run")
    running.add_argument("--data", type=Path, required=True)
    running.add_argument("--dataset", choices=DATASETS, required=True)
    running.add_argument("--arm", choices=ARMS, action="append", help="repeatable; all of them")
    running.add_argument("--work", type=Path, default=Path("runs/objectives"))
    tables = commands.add_parser("table")
    between = commands.add_parser("difference")
    for reading in (tables, between):
        reading.add_argument("--results", type=Path, default=RESULTS, help="where the arms' results lie")
    between.add_argument("dataset", choices=DATASETS)
    between.add_argument("arms", nargs=2, choices=ARMS)
    options = parser.parse_args()
    if options.command == "table":
        print(table([json.loads(path.read_text()) for path in sorted(options.results.glob("*.json"))]))
        return
    if options.command == "difference":
        print(between_arms(options.results, options.dataset, *options.arms))
        return
    bench = Bench(options.data, options.dataset, options.work / options.dataset)
    several = bench.settings.asked.samples > 1
    for arm in options.arm or [name for name, one in ARMS.items() if one.choice or one.asked or several]:
        bench.run(arm)


class Bench:
    """One data set in one directory."""

    def __init__(self, data: Path, name: str, work: Path) -> None:
        self.data, self.name, self.settings, self.work = data, name, DATASETS[name], work
        self.train, self.dev = data / f"{name}_train.jsonl", data / f"{name}_dev.jsonl"
        self.commands: list[str] = []
        work.mkdir(parents=True, exist_ok=True)
        RESULTS.mkdir(parents=True, exist_ok=True)

    def run(self, arm: str) -> None:
        result = RESULTS / f"{self.name}_{arm}.json"
        if result.exists():
            return
        self.commands = []
        one = ARMS[arm]
        answers = self.asked_base(one)
        facts: dict[str, Any] = {}
        if arm != one.base:
            facts = self.learn(arm, one, self.teach(one.asked))
            adapter = ["--lora_model", str(self.work / arm)]
            answers["student"] = self.asked(arm, one.student, adapter)
            if "step_by_step" in one.how:  # which is to answer at once, too
                label = [*adapter, "--system_prompt", LABEL_PROMPT]
                answers["student_label"] = self.asked(f"{arm}_label", one.student, label)
        questions = load_questions(self.dev)
        report = build_report(questions, answers, facts=Facts(versions=versions()))
        ids = [question.id for question in questions]
        right = {who: "".join("01"[is_correct(row)] for row in first_samples_of(answers[who], ids)) for who in answers}
        row = {
            "dataset": self.name, "arm": arm, "teacher": TEACHER, "student": one.student.name,
            "models": report.models, "paired": report.paired, "paired_strict": report.paired_strict, "right": right,
            "against": report.against, **facts, "commands": self.commands, "versions": versions(),
        }  # fmt: skip
        result.write_bytes(msgspec.json.format(msgspec.json.encode(row), indent=1) + b"\n")
        print(table([json.loads(result.read_text())]), flush=True)

    def teach(self, other: Asked | None) -> Path:
        """The teacher's traces."""
        one = other or self.settings.asked
        traces = self.work / ("traces.jsonl" if other is None else f"traces_{one.questions}x{one.samples}.jsonl")
        sampling = ["--num_samples", one.samples, "--do_sample", "--temperature", one.temperature]
        self.call(
            "generate", "--teacher_model", TEACHER, "--input_file", self.train, "--output_file", traces,
            "--few_shot", self.settings.few_shot, "--limit", one.questions, "--max_new_tokens",
            self.settings.trace_tokens, "--batch_size", 16, *(sampling if one.samples > 1 else []),
        )  # fmt: skip
        return traces

    def learn(self, arm: str, one: Arm, traces: Path) -> dict[str, Any]:
        """Train the arm; what its traces and its training were."""
        mine = self.work / f"{arm}_traces.jsonl"
        shutil.copyfile(traces, mine)
        self.commands.append(f"cp {traces} {mine}")
        verdicts = mine.with_name(f"{mine.stem}.verdicts.jsonl")
        choice = one.choice.split()
        self.call("verify", "--traces", mine, "--questions", self.train, "--output", verdicts, *choice)
        self.call(
            "train", "--student_model", one.student.name, "--cot_dataset", mine, "--output_dir", self.work / arm,
            *one.student.training.split(), *one.how.replace("FEW_SHOT", self.settings.few_shot).split(),
        )  # fmt: skip
        facts = Manifest.open(self.work / f"{arm}.manifest.json").facts("train")
        kept = ("examples", "steps", "tokens", "seconds", "peak_memory")
        asked = Manifest.open(traces.with_name(f"{traces.stem}.manifest.json")).facts("generate")
        return {
            "training": {key: facts[key] for key in kept},
            "traces": {key: asked.get(key) for key in ("rows", "completion_tokens", "seconds")},
        }

    def asked_base(self, one: Arm) -> dict[str, list[Prediction]]:
        """The base with the prompt that the student gets, and with the examples that the teacher gets."""
        shown = ["--baseline", "few_shot", "--few_shot", self.settings.few_shot]
        plain = self.asked(one.base, one.student, shown)
        file = self.work / f"{one.base}_answers.{FEW_SHOT}.jsonl"
        return {"base": plain, FEW_SHOT: list(read_rows(file, Prediction))}

    def asked(self, name: str, student: Student, how: list[str]) -> list[Prediction]:
        output = self.work / f"{name}_answers.jsonl"
        self.call(
            "evaluate", "--base_model", student.name, "--test_file", self.dev, "--output_file", output,
            "--batch_size", 32, "--max_new_tokens", self.settings.answer_tokens, *how,
        )  # fmt: skip
        return list(read_rows(output, Prediction))

    def call(self, *words: object) -> None:
        command = ["cotdistill", *map(str, words)]
        self.commands.append(shlex.join(command).replace(f"{self.data}/", "DIRECTORY/"))
        print(f"$ {self.commands[-1]}", flush=True)
        subprocess.run([sys.executable, "-m", *command], check=True)


def table(rows: list[dict[str, Any]]) -> str:
    """One line an arm."""
    lines = [
        "| data set | arm | right | accuracy [95 %] | gained, lost | p | p, base with examples | examples | tokens "
        "trained | minutes |",
        "|---|---|--:|---|--:|--:|--:|--:|--:|--:|",
    ]
    for row in rows:
        trained, arm = "student" in row["models"], row["arm"].replace("_", " ")
        cells = [row["dataset"], arm, *share(row["models"]["student" if trained else "base"]), *[""] * 6]
        if trained:
            pair, training = row["paired"], row["training"]
            cells[4:6] = f"{pair['only_student']}, {pair['only_base']}", p_text(pair["p_value"])
            if shown := row.get("against", {}).get(FEW_SHOT):
                cells[6] = p_text(shown["p_value"])
            cells[7:] = training["examples"], training["tokens"], f"{training['seconds'] / 60:.0f}"
        lines.append(f"| {' | '.join(map(str, cells))} |")
        other, how = ("student_label", "at once") if trained else (FEW_SHOT, "with examples")
        if score := row["models"].get(other):
            lines.append(f"| | {arm}, {how} | {' | '.join(share(score))} | | | | | | |")
    return "\n".join(lines)


def share(score: dict[str, Any]) -> tuple[str, str]:
    """``77/80`` and ``96 % [90, 99]``."""
    low, high = 100 * score["ci_low"], 100 * score["ci_high"]
    return f"{score['correct']}/{score['n']}", f"{100 * score['accuracy']:.0f} % [{low:.0f}, {high:.0f}]"


def between_arms(results: Path, dataset: str, first: str, second: str) -> str:
    """The second arm's students against the first one's, question by question."""
    marks = []
    for arm in (first, second):
        result = results / f"{dataset}_{arm}.json"
        right = json.loads(result.read_text()).get("right")
        if right is None:
            sys.exit(f"{result} does not say which questions were right: move it away and run the arm again")
        marks.append([mark == "1" for mark in right.get("student", right["base"])])
    pair = paired(*marks)
    found = difference(changes(pair))
    points = f"{100 * found.estimate:+.1f} points [{100 * found.low:+.1f}, {100 * found.high:+.1f}]"
    return (
        f"{dataset}: {second} {sum(marks[1])}, {first} {sum(marks[0])} of {len(marks[0])}; {pair.only_student} gained, "
        f"{pair.only_base} lost, {p_text(pair.p_value)}, {points}"
    )


if __name__ == "__main__":
    main()
