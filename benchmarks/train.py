"""Training speed and memory beside TRL's SFTTrainer, on the same rows in the same steps.

    make bench-train QUESTIONS=gsm8k_train.jsonl
    python -m benchmarks.train --questions gsm8k_train.jsonl --student smollm2-135m-instruct --rows 64
    python -m benchmarks.train --table benchmarks/results/train.json     prints the table of docs/training.md

Each arm is a process of its own, so that its peak memory is its own; the arms take turns. All train LoRA r 8 on the
six default layers, batch 4 x accumulation 4, fp32, the same optimizer, learning rate and dropout 0, on rows of
question and solution behind the system prompt. TRL is run at its defaults (which recompute activations) and at the
settings that were found fastest on a CPU. Only the training loop is timed; tokens are those of the rows, padding not
counted. ``loss_difference`` is the largest difference between the two loss curves in nats per answer token.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from bisect import bisect_right
from itertools import zip_longest
from pathlib import Path
from typing import Any

from cotdistill.example import IGNORE, Example, build_examples
from cotdistill.hardware import Placement
from cotdistill.machine import peak_memory, versions
from cotdistill.prompt import SYSTEM_PROMPT
from cotdistill.question import Question
from cotdistill.settings.lora import Lora
from cotdistill.settings.train import TrainSettings
from cotdistill.template import ChatTemplate

BATCH, ACCUMULATION, RATE, SEED, LENGTH = 4, 4, 2e-4, 1, 1024
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj")
TRL_DEFAULTS: dict[str, Any] = {}
TRL_FASTEST = {"gradient_checkpointing": False}
"""Of checkpointing on and off, packing off (it changes the rows of a step) and padding-free off (it needs
FlashAttention), this is the fastest that trains the same steps."""
RESULTS = Path(__file__).parent / "results" / "train.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=Path, help="JSON Lines of question and answer, as GSM8K's")
    parser.add_argument("--student", action="append", default=[], help="directory or catalogue name; repeatable")
    parser.add_argument("--rows", type=int, action="append", default=[], help="training rows of each student; 64")
    parser.add_argument("--rounds", type=int, default=1, help="how often the arms take turns; the best of each counts")
    parser.add_argument("--lengths", type=int, nargs="*", default=[], help="first student: 4 rows of so many tokens")
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--table", type=Path, help="print what such a file holds, and stop")
    parser.add_argument("--arm", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.arm:
        print(json.dumps(_arm(json.loads(options.arm))))
        return
    if options.table:
        print(table(json.loads(options.table.read_text())))
        return
    if not options.questions or not options.student:
        parser.error("--questions and --student are needed")
    rows = []
    for student, count in zip_longest(options.student, options.rows, fillvalue=64):
        for length in (None, *(options.lengths if student == options.student[0] else ())):
            rows += compare(student, options.questions, BATCH if length else count, length, options.rounds)
            options.output.write_text(json.dumps(rows, indent=1) + "\n")
    print(f"\n{table(rows)}\n\n{options.output}")


def table(rows: list[dict[str, Any]]) -> str:
    """One line an arm; the ratios are ours to it."""
    head = "| student | arm | tokens/s | peak memory | ours is | our share of its memory |"
    lines = [head, "|---|---|--:|--:|--:|--:|"]
    for row in {row["model"]: row for row in rows}.values():  # every row of a model tells of all its arms
        for arm, rate in row["tokens_per_second"].items():
            peak = row["peak_mb"][arm]
            faster, share = row["tokens_per_second"]["ours"] / rate, row["peak_mb"]["ours"] / peak
            ratios = f"{faster:.2f}x as fast | {100 * share:.0f} %" if "TRL" in arm else "|"
            lines.append(f"| {row['model']} | {arm} | {rate:.0f} | {peak / 1000:.1f} GB | {ratios} |")
    return "\n".join([*lines, *_growth(rows)])


def _growth(rows: list[dict[str, Any]]) -> list[str]:
    """What is added to the weights, of the student with the smallest vocabulary and of that with the largest."""
    ranked = sorted((row for row in rows if not row["length"]), key=lambda row: row["vocabulary"])
    if not ranked or (low := ranked[0])["vocabulary"] == (high := ranked[-1])["vocabulary"]:
        return []
    arms = [
        f"{arm} {low['peak_mb'][arm] - low['weights_mb']:,} -> {high['peak_mb'][arm] - high['weights_mb']:,} MB"
        for arm in low["peak_mb"]
    ]
    sizes = f"{low['vocabulary']:,} -> {high['vocabulary']:,}"
    return ["", f"Vocabulary {sizes}, peak memory beside the weights: {'; '.join(arms)}"]


def compare(student: str, questions: Path, count: int, length: int | None, rounds: int) -> list[dict[str, Any]]:
    """Run all arms in turn; one result row for each setting of TRL. How both grow with a ``length`` is told by ours and
    TRL's defaults."""
    plans: dict[str, dict[str, Any]] = {
        "ours": {"trainer": "ours"},
        "TRL, defaults": {"trainer": "trl", "settings": TRL_DEFAULTS},
    }
    if not length:
        plans["ours, recomputing"] = {"trainer": "ours", "gradient_checkpointing": True}
        plans["TRL, fastest"] = {"trainer": "trl", "settings": TRL_FASTEST}
    common = {"student": student, "questions": str(questions), "count": count, "length": length}
    best: dict[str, dict[str, Any]] = {}
    for _ in range(rounds):
        for name, plan in plans.items():
            result = _in_process({**common, **plan})
            if name not in best or result["seconds"] < best[name]["seconds"]:
                best[name] = result
            print(f"{_label(student, length)}, {name}: {_line(result)}", flush=True)
    ours = best["ours"]
    found = []
    for name, trl in best.items():
        if "TRL" not in name:
            continue
        found.append({
            "model": _label(student, length),
            "against": name,
            "speedup_vs_trl": round(trl["seconds"] / ours["seconds"], 2),
            "memory_vs_trl": round(ours["peak_mb"] / trl["peak_mb"], 2),
            "loss_difference": max(abs(a - b) for a, b in zip(ours["losses"], trl["losses"], strict=True)),
            "rows": count,
            "length": length,
            "vocabulary": ours["vocabulary"],
            "weights_mb": ours["weights_mb"],
            "tokens": ours["tokens"],
            "tokens_per_second": {arm: round(result["tokens"] / result["seconds"], 1) for arm, result in best.items()},
            "peak_mb": {arm: result["peak_mb"] for arm, result in best.items()},
            "losses": {"ours": ours["losses"], "trl": trl["losses"]},
            "versions": ours["versions"],
            "threads": ours["threads"],
        })  # fmt: skip
        row = found[-1]
        print(
            f"  {row['speedup_vs_trl']}x the tokens/s and {row['memory_vs_trl']}x the peak memory of {name}; "
            f"losses differ by at most {row['loss_difference']:.1e}",
            flush=True,
        )
    return found


def _label(student: str, length: int | None) -> str:
    return Path(student).name + (f", {length} tokens a row" if length else "")


def _line(result: dict[str, Any]) -> str:
    rate = result["tokens"] / result["seconds"]
    return f"{rate:.1f} tokens/s, peak {result['peak_mb']} MB, losses {result['losses']}"


def _in_process(plan: dict[str, Any]) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.train", "--arm", json.dumps(plan)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    if done.returncode:
        sys.exit(done.stderr[-2000:])
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def _arm(plan: dict[str, Any]) -> dict[str, Any]:
    import torch

    from cotdistill.download import local_model

    directory = local_model(plan["student"], want="hf")
    run = _ours if plan["trainer"] == "ours" else _trl
    with tempfile.TemporaryDirectory() as output:
        result = run(plan, directory, Path(output))
    libraries = ("torch", "transformers", "peft", "accelerate", "trl")
    return {
        **result,
        "vocabulary": json.loads((directory / "config.json").read_text())["vocab_size"],
        "weights_mb": sum(file.stat().st_size for file in directory.glob("*.safetensors")) >> 20,
        "peak_mb": peak_memory() >> 20,
        "versions": versions(libraries),
        "threads": torch.get_num_threads(),
    }


def _examples(plan: dict[str, Any], template: ChatTemplate) -> list[Example]:
    """Questions and solutions; with a ``length``, solutions over and over until a row has so many tokens."""
    with Path(plan["questions"]).open(encoding="utf-8") as file:
        rows = [json.loads(line) for _, line in zip(range(plan["count"]), file, strict=False)]
    triples = [(str(i), Question(str(i), row["question"]), row["answer"]) for i, row in enumerate(rows)]
    if length := plan["length"]:
        triples = [(name, question, _filled(template, question, text, length)) for name, question, text in triples]
    return build_examples(template, triples, system=SYSTEM_PROMPT, max_length=length or LENGTH).kept


def _filled(template: ChatTemplate, question: Question, text: str, length: int) -> str:
    repeated = (text + "\n") * length

    def tokens(characters: int) -> int:
        triple = ("", question, repeated[:characters])
        return len(build_examples(template, [triple], system=SYSTEM_PROMPT, max_length=1 << 20).kept[0].input_ids)

    return repeated[: bisect_right(range(1, 8 * length), length, key=tokens)]


def _ours(plan: dict[str, Any], directory: Path, output: Path) -> dict[str, Any]:
    from cotdistill.model import load_model
    from cotdistill.training import train

    placement = Placement("cpu", "float32", False, None)
    model = load_model(directory, placement)
    settings = TrainSettings(
        num_epochs=1, batch_size=BATCH, gradient_accumulation_steps=ACCUMULATION, learning_rate=RATE, seed=SEED,
        warmup_ratio=0.0, lr_scheduler="linear", lora=Lora(dropout=0.0),
        gradient_checkpointing=plan.get("gradient_checkpointing", False),
    )  # fmt: skip
    examples = _examples(plan, model.template)
    result = train(model, examples, settings, output, system_prompt=SYSTEM_PROMPT, placement=placement)
    return {"seconds": result.seconds, "tokens": result.tokens, "losses": [round(loss, 5) for _, loss in result.losses]}


def _trl(plan: dict[str, Any], directory: Path, output: Path) -> dict[str, Any]:
    """The same token ids with the same ones trained, in the order in which our trainer takes them."""
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    from cotdistill.learning.order import Order

    tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True)
    examples = _examples(plan, ChatTemplate(tokenizer))
    ordered = [examples[i] for i in Order(len(examples), SEED, 1)]
    dataset = Dataset.from_list([
        {"input_ids": e.input_ids, "completion_mask": [int(label != IGNORE) for label in e.labels]} for e in ordered
    ])  # fmt: skip
    settings = SFTConfig(
        output_dir=str(output), per_device_train_batch_size=BATCH, gradient_accumulation_steps=ACCUMULATION,
        num_train_epochs=1, learning_rate=RATE, warmup_steps=0, lr_scheduler_type="linear", max_length=LENGTH,
        train_sampling_strategy="sequential", seed=SEED, use_cpu=True, bf16=False, report_to="none",
        save_strategy="no", logging_steps=1, disable_tqdm=True, model_init_kwargs={"dtype": "float32"},
        completion_only_loss=True, **plan["settings"],
    )  # fmt: skip
    lora = LoraConfig(r=8, lora_alpha=16, lora_dropout=0.0, target_modules=list(TARGETS), task_type="CAUSAL_LM")
    trainer = SFTTrainer(
        model=str(directory), args=settings, train_dataset=dataset, peft_config=lora, processing_class=tokenizer
    )
    start = time.monotonic()
    trainer.train()
    seconds = time.monotonic() - start
    losses = [round(float(entry["loss"]), 5) for entry in trainer.state.log_history if "loss" in entry]
    return {"seconds": seconds, "tokens": sum(len(example.input_ids) for example in examples), "losses": losses}


if __name__ == "__main__":
    main()
