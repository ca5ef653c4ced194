"""An outside judge: EleutherAI's lm-evaluation-harness on the same model and questions as ``cotdistill evaluate``.

    cotdistill evaluate --base_model qwen2.5-coder-0.5b-instruct --test_file gsm8k_100.jsonl \
        --output_file results/ours.jsonl --max_new_tokens 512
    python -m benchmarks.harness --model DIRECTORY --test_file gsm8k_100.jsonl --predictions results/ours.jsonl

Rows of the test file are GSM8K's, {"question", "answer": "... #### 18"}. The harness asks as its own task ``gsm8k``
does, without examples, and under the model's chat template unless --plain. Prompt and extraction both differ from ours,
so each side's texts are read by both sides' rules: down a column only the texts change, along a line only the reading.
Needs ``pip install lm_eval datasets``; --model dummy tries the way without a model.
"""

import argparse
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cotdistill.grade import grade
from cotdistill.journal import read_rows
from cotdistill.prediction import Prediction
from cotdistill.question import Question, load_questions
from cotdistill.statistics import wilson

STRICT = r"#### (\-?[0-9\.\,]+)"
FLEXIBLE = r"(-?[$0-9.,]{2,})|(-?[0-9]+)"
"""The two patterns of the harness's gsm8k.yaml, version 3; the first match and the last one count."""


def task(test_file: Path, max_new_tokens: int) -> dict[str, Any]:
    """The harness's gsm8k on a file of ours."""
    return {
        "task": "same_questions",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(test_file)}},
        "test_split": "test",
        "output_type": "generate_until",
        "doc_to_text": "Question: {{question}}\nAnswer:",
        "doc_to_target": "{{answer}}",
        "num_fewshot": 0,
        "generation_kwargs": {
            "until": ["Question:", "</s>", "<|im_end|>"], "do_sample": False, "max_gen_toks": max_new_tokens,
        },
        "metric_list": [{"metric": "exact_match"}],
    }  # fmt: skip


def asked(model: str, test_file: Path, max_new_tokens: int, *, chat: bool) -> dict[str, str]:
    """What the model writes when the harness asks, by question."""
    import lm_eval

    arguments = {"pretrained": model, "dtype": "float32"}
    found = lm_eval.simple_evaluate(
        "dummy" if model == "dummy" else "hf", None if model == "dummy" else arguments,
        tasks=[task(test_file, max_new_tokens)], batch_size=8, apply_chat_template=chat, bootstrap_iters=0,
    )  # fmt: skip
    assert found is not None
    return {sample["doc"]["question"]: sample["resps"][0][0] for sample in found["samples"]["same_questions"]}


def theirs(pattern: str, pick: int) -> Callable[[str, Question], bool]:
    """A filter of the harness with its ``exact_match``: commas, dollar signs and a last dot are ignored."""

    def plain(text: str) -> str:
        return re.sub(r"\.$", "", text.replace(",", "").replace("$", "").lower())

    def right(text: str, question: Question) -> bool:
        matches = re.findall(pattern, text)
        if not matches:
            return False
        last = matches[pick]
        written = last if isinstance(last, str) else next((part for part in last if part), "")
        return plain(written.strip()) == plain(question.gold or "")

    return right


def ours(text: str, question: Question) -> bool:
    return grade(text, "stop", question).correct is True


def ours_strict(text: str, question: Question) -> bool:
    return grade(text, "stop", question).correct_strict is True


READINGS = {
    "harness strict": theirs(STRICT, 0), "harness flexible": theirs(FLEXIBLE, -1), "ours strict": ours_strict,
    "ours lenient": ours,
}  # fmt: skip


def table(texts: Mapping[str, Mapping[str, str]], questions: Sequence[Question]) -> str:
    """Right answers by who asked and who read, in Markdown."""
    lines = [f"| asked by | {' | '.join(READINGS)} |", "|---" * (len(READINGS) + 1) + "|"]
    for name, written in texts.items():
        cells = []
        for reading in READINGS.values():
            right = sum(reading(written[question.text], question) for question in questions)
            low, high = wilson(right, len(questions))
            cells.append(f"{right}/{len(questions)} [{100 * low:.0f}, {100 * high:.0f}]")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="a Hugging Face directory")
    parser.add_argument("--test_file", type=Path, required=True)
    parser.add_argument("--predictions", type=Path, required=True, help="what cotdistill evaluate wrote")
    parser.add_argument("--max_new_tokens", type=int, default=512)
    parser.add_argument("--plain", action="store_true", help="no chat template, as for a base model")
    words = parser.parse_args()
    questions = load_questions(words.test_file).rows
    texts = {
        "cotdistill": {row.question: row.response for row in read_rows(words.predictions, Prediction)},
        "lm-evaluation-harness": asked(words.model, words.test_file, words.max_new_tokens, chat=not words.plain),
    }
    print(table(texts, questions))


if __name__ == "__main__":
    main()
