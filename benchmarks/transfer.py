"""What a student that was trained on one data set does on others: does the reasoning carry over, is anything forgotten?

    python -m benchmarks.transfer run --data DIRECTORY --adapter runs/objectives/coin_flip/sft_one --on multiarith
    python -m benchmarks.transfer table

DIRECTORY holds NAME_dev.jsonl, rows of question and answer; base and student are asked the first ``--limit`` of them.
The base is asked once for each data set, and each pair of student and data set leaves a small file in
benchmarks/results/transfer/ as it ends. What is done is not done again.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import msgspec
from benchmarks.objectives import FEW_SHOT

from cotdistill.journal import read_rows
from cotdistill.machine import versions
from cotdistill.prediction import Prediction
from cotdistill.question import load_questions
from cotdistill.report import Facts, build_report
from cotdistill.statistics import p_text

RESULTS = Path(__file__).parent / "results" / "transfer"
WHO = ("base", FEW_SHOT, "student")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    running = commands.add_parser("run")
    running.add_argument("--data", type=Path, required=True)
    running.add_argument("--adapter", type=Path, required=True, help="as RUNS/DATA SET/ARM")
    running.add_argument("--base", default="smollm2-135m-instruct")
    running.add_argument("--on", nargs="+", required=True, help="names of data sets")
    running.add_argument("--few_shot", type=Path, help="worked examples, with which the base is asked once more")
    running.add_argument("--limit", type=int, default=100)
    running.add_argument("--new_tokens", type=int, default=160)
    commands.add_parser("table")
    options = parser.parse_args()
    if options.command == "table":
        print(table())
        return
    RESULTS.mkdir(parents=True, exist_ok=True)
    for name in options.on:
        transfer(name, options)


def transfer(name: str, options: argparse.Namespace) -> None:
    learnt, arm = options.adapter.parent.name, options.adapter.name
    result = RESULTS / f"{learnt}_{arm}_on_{name}.json"
    settings = {"base": options.base, "limit": options.limit, "new_tokens": options.new_tokens}
    settings |= {"few_shot": str(options.few_shot)} if options.few_shot else {}
    if result.exists():
        if (before := json.loads(result.read_text())["settings"]) != settings:
            sys.exit(f"{result} was made with {before}; move it away")
        return
    test, work = options.data / f"{name}_dev.jsonl", options.adapter.parent.parent
    base = work / f"{Path(options.base).name}_on_{name}.jsonl"
    files = {"base": base, "student": options.adapter.parent / f"{arm}_on_{name}.jsonl"}
    shown = ["--baseline", "few_shot", "--few_shot", str(options.few_shot)] if options.few_shot else []
    said = []
    for who, file in files.items():
        command = [
            "cotdistill", "evaluate", "--base_model", options.base, "--test_file", str(test), "--output_file",
            str(file), "--limit", str(options.limit), "--batch_size", "32", "--max_new_tokens", str(options.new_tokens),
            *(["--lora_model", str(options.adapter)] if who == "student" else shown),
        ]  # fmt: skip
        said.append(" ".join(command).replace(f"{options.data}/", "DIRECTORY/").replace(f"{work}/", "RUNS/"))
        subprocess.run([sys.executable, "-m", *command], check=True)
    files |= {FEW_SHOT: base.with_name(f"{base.stem}.{FEW_SHOT}.jsonl")} if shown else {}
    answers = {who: list(read_rows(file, Prediction)) for who, file in files.items()}
    report = build_report(load_questions(test, limit=options.limit), answers, facts=Facts(versions=versions()))
    row = {
        "learnt": learnt, "arm": arm, "on": name, "settings": settings, "models": report.models,
        "paired": report.paired, "paired_strict": report.paired_strict, "against": report.against, "commands": said,
        "versions": versions(),
    }  # fmt: skip
    result.write_bytes(msgspec.json.format(msgspec.json.encode(row), indent=1) + b"\n")


def table() -> str:
    """One line a student and data set."""
    lines = [
        "| learnt | asked | base | with examples | student | student [95 %] | gained, lost | p "
        "| p, base with examples |",
        "|---|---|--:|--:|--:|---|--:|--:|--:|",
    ]
    for row in (json.loads(path.read_text()) for path in sorted(RESULTS.glob("*.json"))):
        models, pair, shown = row["models"], row["paired"], row.get("against", {}).get(FEW_SHOT)
        student = models["student"]
        right = [f"{models[who]['correct']}/{models[who]['n']}" if who in models else "" for who in WHO]
        cells = [
            f"{row['learnt']}, {row['arm'].replace('_', ' ')}", row["on"], *right,
            f"[{100 * student['ci_low']:.0f}, {100 * student['ci_high']:.0f}] %",
            f"{pair['only_student']}, {pair['only_base']}", p_text(pair["p_value"]),
            p_text(shown["p_value"]) if shown else "",
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
