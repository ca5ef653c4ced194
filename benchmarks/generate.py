"""Traces per hour: our engines beside a plain loop, beside the same engines used raw, and beside CTranslate2.

    make bench-generate QUESTIONS=gsm8k_test.jsonl
    python -m benchmarks.generate --questions gsm8k_test.jsonl --literal 8
    python -m benchmarks.generate --table benchmarks/results/generate.json     prints the tables of docs/performance.md

The questions go in blocks; in each, all arms take turns, every second block in the other order. An arm is a process of
its own (``benchmarks.arms``), so that nothing of it stays behind. "literal loop" is transformers' ``generate`` in fp32
on one question after another. llama.cpp and CTranslate2 run the teacher; batched transformers, ours and raw, run the
``--small`` model, since what is asked of them is only what our layer costs. Finished blocks of arms stay in
``--scratch``: after an interruption the same command goes on.
"""

import argparse
import importlib.util
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
from benchmarks.arms import Plan, Took
from benchmarks.cost_curve import cost_curve

from cotdistill.identity import digest
from cotdistill.journal import read_rows
from cotdistill.machine import origin, versions
from cotdistill.prediction import Prediction
from cotdistill.question import load_questions
from cotdistill.resampling import difference
from cotdistill.statistics import paired, wilson
from cotdistill.verdict import check_golds

RESULTS = Path(__file__).parent / "results" / "generate.json"
OURS, LITERAL, RAW = "ours: llama.cpp", "literal loop", "raw llama.cpp"
OURS_SMALL, RAW_SMALL = "ours: transformers", "raw transformers"
CT2 = "CTranslate2 int8"
ONE_SLOT, NOT_SHARED = "4-bit weights, one at a time", "raw llama.cpp, no prompt kept"


def plans(options: argparse.Namespace) -> dict[str, Plan]:
    """The arms by name, all of them on all questions."""
    common = {"questions": str(options.questions), "start": 0, "stop": options.limit, "new_tokens": options.new_tokens,
              "rows": "", "batch": options.slots, "scratch": str(options.scratch)}  # fmt: skip
    teacher, small = {"model": options.teacher, **common}, {"model": options.small, **common}
    arms = {
        OURS: Plan(way="ours", engine="llama_cpp", **teacher),
        RAW: Plan(way="raw_llama_cpp", **teacher),
        LITERAL: Plan(way="raw_transformers", **{**teacher, "batch": 1}),
        CT2: Plan(way="raw_ctranslate2", **teacher),
        ONE_SLOT: Plan(way="ours", engine="llama_cpp", **{**teacher, "batch": 1}),
        NOT_SHARED: Plan(way="raw_llama_cpp", share=False, **teacher),
        OURS_SMALL: Plan(way="ours", engine="transformers", **{**small, "batch": max(options.batches)}),
    }
    for batch in options.batches:
        arms[f"{RAW_SMALL}, batch {batch}"] = Plan(way="raw_transformers", **{**small, "batch": batch})
    if importlib.util.find_spec("ctranslate2") is None:
        print("CTranslate2 is left out, since it is not installed: pip install ctranslate2", flush=True)
        del arms[CT2]
    return arms


def measure(arms: dict[str, Plan], options: argparse.Namespace) -> dict[str, list[Took]]:
    """What every arm took in every block that it ran in."""
    size = -(-options.limit // options.blocks)
    took: dict[str, list[Took]] = {name: [] for name in arms}
    for block in range(options.blocks):
        names = list(arms) if block % 2 == 0 else list(arms)[::-1]
        for name in names:
            if block and name in (ONE_SLOT, NOT_SHARED):
                continue  # what each part brings is seen in one block
            start, stop = block * size, min((block + 1) * size, options.limit)
            if name in (LITERAL, ONE_SLOT) and options.literal:
                stop = min(stop, start + options.literal)
            rows = options.scratch / f"{_file(name)}.{block}.jsonl"
            plan = msgspec.structs.replace(arms[name], start=start, stop=stop, rows=str(rows))
            one = _in_process(plan, rows.with_suffix(".json"))
            took[name].append(one)
            print(f"block {block + 1} of {options.blocks}, {name}: {one.rows} traces in {one.seconds:.0f} s, "
                  f"{one.correct} right", flush=True)  # fmt: skip
    return took


def _in_process(plan: Plan, done: Path) -> Took:
    """A plan in a process of its own, unless it has been done."""
    if not done.exists():
        command = [sys.executable, "-m", "benchmarks.arms", json.dumps(msgspec.to_builtins(plan))]
        run = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1"})
        if run.returncode:
            sys.exit(f"{plan.way} failed:\n{run.stderr[-2000:]}")
        unfinished = done.with_suffix(".part")
        unfinished.write_text(run.stdout.splitlines()[-1])
        unfinished.replace(done)
    return msgspec.json.decode(done.read_bytes(), type=Took)


def _file(name: str) -> str:
    return "_".join(name.replace(":", "").replace(",", "").split())


def rate(took: Sequence[Took]) -> float:
    """Traces per hour."""
    return 3600 * sum(one.rows for one in took) / sum(one.seconds for one in took)


def summary(took: dict[str, list[Took]], arms: dict[str, Plan], scratch: Path) -> dict[str, Any]:
    """The figures: how many times as many traces per hour, and how many are right."""
    raw = {name: rate(took[name]) for name in arms if name.startswith(RAW_SMALL)}
    best = max(raw, key=lambda name: raw[name])
    against = {
        "llama_cpp": rate(took[OURS]) / rate(took[RAW]),
        "transformers": rate(took[OURS_SMALL]) / raw[best],
    }
    ours, literal = _right(scratch, OURS), _right(scratch, LITERAL)
    both = [key for key in ours if key in literal]
    pair = paired([literal[key] for key in both], [ours[key] for key in both])
    changed = {"only_ours": pair.only_student, "only_literal_loop": pair.only_base, "p_value": pair.p_value}
    interval = difference(Counter(float(ours[key] - literal[key]) for key in both))
    steps = [(LITERAL, took[LITERAL][:1]), (ONE_SLOT, took[ONE_SLOT]), (NOT_SHARED, took[NOT_SHARED]),
             (OURS, took[OURS][:1])]  # fmt: skip
    return {
        "vs_literal_loop": round(rate(took[OURS]) / rate(took[LITERAL]), 2),
        "vs_best_raw": round(min(against.values()), 3),
        "against_raw": {name: round(ratio, 3) for name, ratio in against.items()},
        "best_raw_transformers": best,
        "accuracy_ours": round(sum(ours[key] for key in both) / len(both), 4),
        "accuracy_literal_loop": round(sum(literal[key] for key in both) / len(both), 4),
        "accuracy_difference": {"n": len(both), **msgspec.to_builtins(interval), **changed},
        "ctranslate2": {"ours_is": round(rate(took[OURS]) / rate(took[CT2]), 2)} if CT2 in took else None,
        "contributions": [
            {"step": name, "traces_per_hour": round(rate(one), 1), "times": round(rate(one) / rate(before), 2)}
            for (_, before), (name, one) in zip([steps[0], *steps], steps, strict=False)
        ],
        "arms": {name: _arm(arms[name], all_) for name, all_ in took.items()},
    }


def _arm(plan: Plan, took: Sequence[Took]) -> dict[str, Any]:
    rows, seconds = sum(one.rows for one in took), sum(one.seconds for one in took)
    right, tokens = sum(one.correct for one in took), sum(one.tokens for one in took)
    low, high = wilson(right, rows)
    return {
        "model": Path(plan.model).name,
        "traces": rows,
        "seconds": round(seconds, 1),
        "traces_per_hour": round(rate(took), 1),
        "tokens_per_second": round((tokens + sum(one.prompt_tokens for one in took)) / seconds, 1),
        "written_per_second": round(tokens / seconds, 1),
        "tokens_per_trace": round(tokens / rows, 1),
        "cut_off": sum(one.cut_off for one in took),
        "correct": right,
        "accuracy": round(right / rows, 4),
        "accuracy_interval": [round(low, 4), round(high, 4)],
        "cpu_seconds": round(sum(one.cpu_seconds for one in took), 1),
        "peak_mb": max(one.peak_mb for one in took),
    }


def _right(scratch: Path, name: str) -> dict[str, bool]:
    files = sorted(scratch.glob(f"{_file(name)}.[0-9]*.jsonl"))
    return {row.question_id: bool(row.correct) for file in files for row in read_rows(file, Prediction)}


def table(found: dict[str, Any]) -> str:
    """What was found, in Markdown."""
    head = "| arm | model | traces | traces/hour | tokens/s | of these written | right | peak memory |"
    lines = [head, "|---|---|--:|--:|--:|--:|--:|--:|"]
    for name, arm in found["arms"].items():
        low, high = (100 * bound for bound in arm["accuracy_interval"])
        lines.append(
            f"| {name} | {arm['model']} | {arm['traces']} | {arm['traces_per_hour']:.0f} "
            f"| {arm['tokens_per_second']:.1f} | {arm['written_per_second']:.1f} "
            f"| {arm['correct']}/{arm['traces']} [{low:.0f}, {high:.0f}] | {arm['peak_mb'] / 1000:.1f} GB |"
        )
    gap = found["accuracy_difference"]
    against = ", ".join(f"{engine} {ratio:.2f}x" for engine, ratio in found["against_raw"].items())
    beside = f"; against CTranslate2 {found['ctranslate2']['ours_is']:.2f}x" if found["ctranslate2"] else ""
    lines += [
        "",
        f"Against the literal loop {found['vs_literal_loop']:.1f} times as many traces per hour; against the same "
        f"engine used raw: {against}{beside}.",
        f"Of {gap['n']} questions that both answered, ours has {100 * found['accuracy_ours']:.0f} % right and the "
        f"literal loop {100 * found['accuracy_literal_loop']:.0f} %: {100 * gap['estimate']:+.1f} points, 95 % between "
        f"{100 * gap['low']:+.1f} and {100 * gap['high']:+.1f}.",
        "",
        "| what is added, in the first block | traces/hour | times the line above |",
        "|---|--:|--:|",
        *(f"| {one['step']} | {one['traces_per_hour']:.0f} | {one['times']:.2f} |" for one in found["contributions"]),
    ]  # fmt: skip
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=Path, help="JSON Lines of question and answer, as GSM8K's")
    parser.add_argument("--limit", type=int, default=64, help="questions")
    parser.add_argument("--blocks", type=int, default=2)
    parser.add_argument("--teacher", default="qwen2.5-coder-1.5b-instruct")
    parser.add_argument("--small", default="smollm2-135m-instruct")
    parser.add_argument("--new_tokens", type=int, default=160)
    parser.add_argument("--slots", type=int, default=16, help="slots of llama.cpp, rows of CTranslate2")
    parser.add_argument("--batches", type=int, nargs="+", default=[8, 16, 32], help="of transformers; ours: the most")
    parser.add_argument("--literal", type=int, default=0, help="questions of each block for the literal loop; 0: all")
    parser.add_argument("--scratch", type=Path, default=Path("runs/bench_generate"))
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--curve", type=Path, help="instead, draw the cost curve of --small here (SVG)")
    parser.add_argument("--table", type=Path, help="print what such a file holds, and stop")
    options = parser.parse_args()
    if options.table:
        print(table(json.loads(options.table.read_text())))
        return
    if not options.questions:
        parser.error("--questions is needed")
    rows = load_questions(options.questions, limit=options.limit)
    check_golds(rows)
    options.limit = len(rows)
    if options.curve:
        cost_curve(rows[:8], options.small, options.curve)
        return
    keys = ("limit", "blocks", "teacher", "small", "new_tokens", "slots", "batches", "literal")
    settings = {key: getattr(options, key) for key in keys}
    options.scratch /= digest([settings, msgspec.to_builtins(rows)])
    options.scratch.mkdir(parents=True, exist_ok=True)
    arms = plans(options)
    found = summary(measure(arms, options), arms, options.scratch)
    libraries = ("torch", "transformers", "xllamacpp", "ctranslate2", "cotdistill")
    words = " ".join(Path(word).name if "/" in word else word for word in sys.argv[1:])
    found |= {"settings": settings, "command": f"python -m benchmarks.generate {words}"}
    found |= msgspec.to_builtins(origin())
    found["versions"] |= versions(libraries)
    options.output.write_text(json.dumps(found, indent=1) + "\n")
    if options.literal:
        print(f"\nThe literal loop answered the first {options.literal} questions of each block only.")
    print(f"\n{table(found)}\n\n{options.output}")


if __name__ == "__main__":
    main()
