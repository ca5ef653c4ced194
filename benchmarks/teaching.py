"""Ways to ask a teacher, beside each other: how many different right traces an hour brings.

    python -m benchmarks.teaching run --data DIRECTORY --dataset multiarith --questions 32
    python -m benchmarks.teaching table

DIRECTORY holds NAME_train.jsonl, rows of question and answer; the last ``--questions`` of them are asked. Each way is
two commands that anybody can type, generate and verify, and leaves a row in benchmarks/results/teaching.json as it
ends. What is done is not done again.
"""

import argparse
import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
from benchmarks.objectives import DATASETS, TEACHER

from cotdistill.machine import versions
from cotdistill.statistics import wilson
from cotdistill.storage.manifest import Manifest
from cotdistill.verdict import TEACHES

RESULTS = Path(__file__).parent / "results" / "teaching.json"
THINK = "Think step by step. Then end with one line: Final Answer: <answer>"


class Way(msgspec.Struct, frozen=True):
    """``system`` None is the default prompt; ``temperature`` 0 is greedy."""

    examples: bool
    system: str | None = None
    temperature: float = 0.0
    samples: int = 1

    def flags(self, few_shot: str) -> list[str]:
        flags = ["--few_shot", few_shot] if self.examples else []
        flags += ["--system_prompt", self.system] if self.system else []
        if self.temperature:
            flags += ["--do_sample", "--temperature", str(self.temperature), "--num_samples", str(self.samples)]
        return flags


WAYS = {
    "think step by step": Way(examples=False, system=THINK),
    "default prompt": Way(examples=False),
    "with examples": Way(examples=True),
    "with examples, 4 at 0.7": Way(examples=True, temperature=0.7, samples=4),
    "with examples, 4 at 1.0": Way(examples=True, temperature=1.0, samples=4),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    running = commands.add_parser("run")
    running.add_argument("--data", type=Path, required=True)
    running.add_argument("--dataset", choices=DATASETS, required=True)
    running.add_argument("--questions", type=int, default=32)
    running.add_argument("--work", type=Path, default=Path("runs/teaching"))
    commands.add_parser("table")
    options = parser.parse_args()
    rows = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
    if options.command == "table":
        print(table(rows))
        return
    work = options.work / options.dataset
    work.mkdir(parents=True, exist_ok=True)
    lines = (options.data / f"{options.dataset}_train.jsonl").read_bytes().splitlines(keepends=True)
    lines = lines[-max(1, options.questions) :]
    asked = work / f"last_{len(lines)}.jsonl"
    asked.write_bytes(b"".join(lines))
    done = {(row["dataset"], row["questions"], row["way"]) for row in rows}
    for name, way in WAYS.items():
        if (options.dataset, len(lines), name) not in done:
            rows.append({"dataset": options.dataset, "way": name, **measured(way, name, asked, options.dataset)})
            RESULTS.write_bytes(msgspec.json.format(msgspec.json.encode(rows), indent=1) + b"\n")
            print(table(rows[-1:]), flush=True)


def measured(way: Way, name: str, asked: Path, dataset: str) -> dict[str, Any]:
    """Ask in this way, and count what may teach; traces of nearly the same text count once."""
    traces = asked.with_name(f"{asked.stem}_{name.replace(' ', '_').replace(',', '')}.jsonl")
    cotdistill = [sys.executable, "-m", "cotdistill"]
    generate = [
        "generate", "--teacher_model", TEACHER, "--input_file", str(asked), "--output_file", str(traces),
        "--max_new_tokens", "256", "--batch_size", "16", *way.flags(DATASETS[dataset].few_shot),
    ]  # fmt: skip
    subprocess.run([*cotdistill, *generate], check=True)
    verdicts = traces.with_name(f"{traces.stem}.verdicts.jsonl")
    verify = ["verify", "--traces", str(traces), "--questions", str(asked), "--output", str(verdicts), "--json"]
    summary = json.loads(subprocess.run([*cotdistill, *verify], check=True, capture_output=True, text=True).stdout)
    facts = Manifest.open(traces.with_name(f"{traces.stem}.manifest.json")).facts("generate")
    rows = [json.loads(line) for line in verdicts.read_text().splitlines()]
    taught = {row["trace_id"].partition("#")[0] for row in rows if row["status"] in TEACHES}
    return {
        "questions": summary["questions"], "traces": summary["traces"], "counts": summary["counts"],
        "different_right": summary["teach"], "questions_right": len(taught), "tokens": facts["completion_tokens"],
        "seconds": facts["seconds"], "versions": versions(),
        "commands": [f"tail -n {summary['questions']} DIRECTORY/{dataset}_train.jsonl > {asked}",
                     shlex.join(["cotdistill", *generate]), shlex.join(["cotdistill", *verify])],
    }  # fmt: skip


def table(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| data set | asked | questions answered right at least once [95 %] | different right traces | tokens a trace "
        "| different right traces an hour | questions an hour |",
        "|---|---|---|--:|--:|--:|--:|",
    ]
    for row in rows:
        low, high = wilson(row["questions_right"], row["questions"])
        hours = row["seconds"] / 3600
        lines.append(
            f"| {row['dataset']} | {row['way']} | {row['questions_right']}/{row['questions']} "
            f"[{100 * low:.0f}, {100 * high:.0f}] | {row['different_right']} of {row['traces']} "
            f"| {row['tokens'] / row['traces']:.0f} | {row['different_right'] / hours:.0f} "
            f"| {row['questions_right'] / hours:.0f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
