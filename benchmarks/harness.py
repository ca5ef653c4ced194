"""An outside judge: EleutherAI's lm-evaluation-harness on the same model and questions as ``cotdistill evaluate``.

    cotdistill evaluate --base_model DIRECTORY --test_file gsm8k_100.jsonl --output_file results/ours.jsonl \
        --max_new_tokens 256
    python -m benchmarks.harness --model DIRECTORY --test_file gsm8k_100.jsonl --predictions results/ours.jsonl \
        --max_new_tokens 256 --output harness.json

Rows of the test file are GSM8K's, {"question", "answer": "... #### 18"}. The harness asks as its own task ``gsm8k``
does, without examples, and under the model's chat template unless --plain. Prompt and extraction both differ from ours,
so each side's texts are read by both sides' rules: down a column only the texts change, along a line only the reading.
The harness's answers are kept beside the predictions (``ours.harness_rank0.db``), so a second run asks only for what
is missing. Needs ``pip install lm_eval datasets``; --model dummy tries the way without a model.
"""

import argparse
import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from cotdistill.grade import grade
from cotdistill.journal import read_rows
from cotdistill.machine import versions
from cotdistill.prediction import Prediction
from cotdistill.question import Question, load_questions
from cotdistill.statistics import paired, wilson

STRICT = r"#### (\-?[0-9\.\,]+)"
FLEXIBLE = r"(-?[$0-9.,]{2,})|(-?[0-9]+)"
"""The two patterns of the harness's gsm8k.yaml, version 3; the first match and the last one count."""

AT_ONCE = 60
"""Characters: whatever is shorter gives an answer and no reasoning."""


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
        "metric_list": [{
            "metric": "exact_match", "ignore_case": True, "regexes_to_ignore": [",", r"\$", "(?s).*#### ", r"\.$"],
        }],
        "filter_list": [
            {"name": "strict", "filter": [{"function": "regex", "regex_pattern": STRICT}, {"function": "take_first"}]},
            {"name": "flexible", "filter": [
                {"function": "regex", "group_select": -1, "regex_pattern": FLEXIBLE}, {"function": "take_first"},
            ]},
        ],
    }  # fmt: skip


class Written(msgspec.Struct, frozen=True):
    """A text, and whether it ran into the limit."""

    text: str
    cut: bool


class Asked(msgspec.Struct, frozen=True):
    """What the model wrote when the harness asked, by question, and how many the harness itself found right."""

    texts: dict[str, Written]
    right: dict[str, int]


def asked(model: str, test_file: Path, max_new_tokens: int, cache: Path, *, chat: bool) -> Asked:
    import lm_eval
    import torch

    # Without one it asks for a GPU that is not there.
    device = "cuda" if torch.cuda.is_available() else "cpu"
    arguments = {"pretrained": model, "dtype": "float32", "device": device}
    found = lm_eval.simple_evaluate(
        "dummy" if model == "dummy" else "hf", None if model == "dummy" else arguments,
        tasks=[task(test_file, max_new_tokens)], batch_size=32, apply_chat_template=chat, bootstrap_iters=0,
        use_cache=str(cache),
    )  # fmt: skip
    assert found is not None
    samples = found["samples"]["same_questions"]  # one for each filter
    right = Counter(sample["filter"] for sample in samples if sample["exact_match"])
    tokens = _counter(model)
    texts = {sample["doc"]["question"]: sample["resps"][0][0] for sample in samples}
    return Asked(
        {question: Written(text, tokens(text) >= max_new_tokens) for question, text in texts.items()},
        {f"harness {name}": right[name] for name in ("strict", "flexible")},
    )


def _counter(model: str) -> Callable[[str], int]:
    """How many tokens a text is: the harness does not say where it cut."""
    if model == "dummy":
        return len
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model, local_files_only=True)
    return lambda text: len(tokenizer(text, add_special_tokens=False).input_ids)


Reading = Callable[[Written, Question], bool]


def theirs(pattern: str, pick: int) -> Reading:
    """A filter of the harness with its ``exact_match``: commas, dollar signs and a last dot are ignored."""

    def plain(text: str) -> str:
        return re.sub(r"\.$", "", text.replace(",", "").replace("$", "").lower())

    def right(written: Written, question: Question) -> bool:
        matches = re.findall(pattern, written.text)
        if not matches:
            return False
        last = matches[pick]
        found = last if isinstance(last, str) else next((part for part in last if part), "")
        return plain(found.strip()) == plain(question.gold or "")

    return right


def ours(written: Written, question: Question) -> bool:
    return grade(written.text, "length" if written.cut else "stop", question).correct is True


def ours_strict(written: Written, question: Question) -> bool:
    return grade(written.text, "length" if written.cut else "stop", question).correct_strict is True


READINGS: dict[str, Reading] = {
    "harness strict": theirs(STRICT, 0), "harness flexible": theirs(FLEXIBLE, -1), "ours strict": ours_strict,
    "ours lenient": ours,
}  # fmt: skip


def counts(texts: Mapping[str, Mapping[str, Written]], questions: Sequence[Question]) -> dict[str, dict[str, int]]:
    """Right answers by who asked and who read."""
    return {
        name: {
            reading: sum(right(written[question.text], question) for question in questions)
            for reading, right in READINGS.items()
        }
        for name, written in texts.items()
    }


def differences(texts: Mapping[str, Mapping[str, Written]], questions: Sequence[Question]) -> dict[str, list[str]]:
    """Ids of the questions on which our lenient reading and the harness's flexible one differ, by who asked."""
    one, other = READINGS["harness flexible"], READINGS["ours lenient"]
    return {
        name: [q.id for q in questions if one(written[q.text], q) != other(written[q.text], q)]
        for name, written in texts.items()
    }


def table(found: Mapping[str, Mapping[str, int]], n: int) -> str:
    """The counts in Markdown, with Wilson's 95 % intervals in percent."""
    lines = [f"| asked by | {' | '.join(READINGS)} |", "|---" * (len(READINGS) + 1) + "|"]
    for name, row in found.items():
        bounds = {reading: wilson(right, n) for reading, right in row.items()}
        cells = [
            f"{row[reading]}/{n} [{100 * low:.0f}, {100 * high:.0f}]" for reading, (low, high) in bounds.items()
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="a Hugging Face directory")
    parser.add_argument("--test_file", type=Path, required=True)
    parser.add_argument("--predictions", type=Path, required=True, help="what cotdistill evaluate wrote")
    parser.add_argument("--max_new_tokens", type=int, default=512)
    parser.add_argument("--plain", action="store_true", help="no chat template, as for a base model")
    parser.add_argument("--output", type=Path, help="write the counts here (JSON)")
    words = parser.parse_args()
    questions = load_questions(words.test_file)
    cache = words.predictions.with_suffix(".harness")
    by_harness = asked(words.model, words.test_file, words.max_new_tokens, cache, chat=not words.plain)
    rows = list(read_rows(words.predictions, Prediction))
    by_us = {row.question: Written(row.response, row.finish == "length") for row in rows}
    texts = {"cotdistill": by_us, "lm-evaluation-harness": by_harness.texts}
    found = counts(texts, questions)
    own = {reading: found["lm-evaluation-harness"][reading] for reading in by_harness.right}
    if own != by_harness.right:
        raise SystemExit(f"the harness itself counts {by_harness.right}, our copy of its reading {own}")
    print(table(found, len(questions)))
    if words.output:
        result = {
            "model": Path(words.model).name, "n": len(questions), "max_new_tokens": words.max_new_tokens,
            "chat_template": not words.plain, "right": found,
            "truncated": {name: sum(one.cut for one in written.values()) for name, written in texts.items()},
            "at_once": {
                name: sum(len(one.text) < AT_ONCE for one in written.values()) for name, written in texts.items()
            },
            "at_once_right": {
                name: sum(ours(written[q.text], q) for q in questions if len(written[q.text].text) < AT_ONCE)
                for name, written in texts.items()
            },
            "by_harness_against_by_us": msgspec.to_builtins(paired(
                *([ours(texts[name][q.text], q) for q in questions] for name in ("cotdistill", "lm-evaluation-harness"))
            )),
            "read_differently": differences(texts, questions),
            "versions": versions(("lm_eval", "torch", "transformers")),
        }  # fmt: skip
        words.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
