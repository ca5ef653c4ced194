"""Material: what every run of the suite is about. Sums, a scripted teacher that takes its time, a tiny random student."""

import json
import re
import time
from pathlib import Path

from conftest import make_model
from cotdistill.engines.scripted import ScriptedEngine

TRAIN = 120
HELD_OUT = 24
SECONDS_A_ROW = 0.01
FILES = {
    "2_traces.jsonl": ("id", "train"),
    "3_verdicts.jsonl": ("trace_id", "train"),
    "6_predictions/base.jsonl": ("question_id", "held_out"),
    "6_predictions/student.jsonl": ("question_id", "held_out"),
    "6_predictions/teacher.jsonl": ("question_id", "held_out"),
}
"""The files of rows of a finished run: under which key a row stands there, and which questions it must hold."""


def lay_out(directory: Path) -> Path:
    """Write model, questions and recipe into ``directory``; returns the recipe."""
    model = make_model(directory / "tiny", context=1024)
    sums = [(a, b) for a in range(2, 14) for b in range(2, 14)]
    parts = {"train": sums[:TRAIN], "held_out": sums[TRAIN : TRAIN + HELD_OUT]}
    for part, pairs in parts.items():
        rows = [{"id": f"{part[0]}{a}-{b}", "question": f"What is {a} + {b}?", "answer": str(a + b)} for a, b in pairs]
        (directory / f"{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = {
        "name": "set by --name",
        "models": {"teacher": str(model), "student": str(model), "engine": "transformers"},
        "questions": {part: {"file": str(directory / f"{part}.jsonl")} for part in parts},
        "generate": {"system_prompt": "Add."},
        "train": {
            "num_epochs": 3, "batch_size": 4, "gradient_accumulation_steps": 2, "learning_rate": 1e-3,
            "lora": {"dropout": 0.1},
        },
        "evaluate": {"max_new_tokens": 16, "batch_size": 4},
    }  # fmt: skip
    path = directory / "recipe.yaml"
    path.write_text(json.dumps(recipe))  # JSON is YAML
    return path


def planned(directory: Path) -> dict[str, list[str]]:
    """The ids that each file of rows must hold, by the questions on disk."""
    asked = {
        part: [json.loads(line)["id"] for line in (directory / f"{part}.jsonl").read_bytes().split(b"\n") if line]
        for part in ("train", "held_out")
    }
    return {
        file: asked[part] if key == "question_id" else [f"{question}#0" for question in asked[part]]
        for file, (key, part) in FILES.items()
    }


def slow_teacher(*_: object) -> ScriptedEngine:
    """Right about every sum, after ``SECONDS_A_ROW``."""

    def answer(question: str) -> str:
        time.sleep(SECONDS_A_ROW)
        one, other = map(int, re.findall(r"\d+", question))
        return f"{one} + {other} = {one + other}.\nFinal Answer: {one + other}"

    return ScriptedEngine(answer)
