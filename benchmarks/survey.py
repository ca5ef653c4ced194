"""Which generated task suits a pair: teacher and untrained student on a few questions of each.

    python -m benchmarks.survey --size 24 --output benchmarks/results/survey.json

Both models run on llama.cpp and get the default prompt without examples; answers are read leniently. Tasks and
their settings stand below; the seed is 7, which no recipe uses.
"""

import argparse
import json
from pathlib import Path

from cotdistill.asking.ask import ask
from cotdistill.engines import Sampling
from cotdistill.engines.opening import open_engine
from cotdistill.generated import Task, chance_rate, generate
from cotdistill.prediction import graded
from cotdistill.prompt import SYSTEM_PROMPT
from cotdistill.statistics import wilson

SEED = 7
DIGITS = {"min_digits": 1, "max_digits": 1}
TASKS: dict[str, tuple[str, dict[str, object]]] = {
    "sums of 3 to 4 digits": ("chain_sum", {"min_terms": 3, "max_terms": 4, **DIGITS}),
    "sums of 3 to 6 digits": ("chain_sum", {"min_terms": 3, "max_terms": 6, **DIGITS}),
    "sums of 2-digit numbers": ("chain_sum", {"min_terms": 3, "max_terms": 4, "min_digits": 2, "max_digits": 2}),
    "mixed arithmetic": ("basic_arithmetic", {"min_terms": 3, "max_terms": 5, **DIGITS}),
    "sisters and friends": ("aiw", {"task_type_weights": [0.5, 0.5, 0], "max_entities": 9}),
    "legs of animals": ("leg_counting", {"min_animals": 1, "max_animals": 2, "min_instances": 1, "max_instances": 5}),
    "spell backward": ("spell_backward", {"max_word_len": 5}),
    "reverse a list of words": ("word_sequence_reversal", {"min_words": 3, "max_words": 5}),
    "count letters": ("letter_counting", {"min_words": 3, "max_words": 5}),
    "syllogism": ("syllogism", {}),
    "family": ("family_relationships", {}),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--size", type=int, default=24)
    parser.add_argument("--models", nargs="*", default=["smollm2-135m-instruct", "qwen2.5-coder-1.5b-instruct"])
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    rows: dict[str, dict[str, object]] = {}
    print(f"| task | chance | {' | '.join(given.models)} |\n|---|---|{'---|' * len(given.models)}")
    asked = {name: generate([Task(task, given.size, config)], SEED) for name, (task, config) in TASKS.items()}
    for model in given.models:
        engine = open_engine(model, engine="llama_cpp")
        for name, questions in asked.items():
            row = rows.setdefault(name, {"n": given.size, "chance": round(chance_rate(questions), 3)})
            right = tokens = 0
            sampling = Sampling(max_new_tokens=160)
            for question, sample, _, completion in ask(engine, questions, system=SYSTEM_PROMPT, sampling=sampling):
                right += bool(graded(question, sample, completion).correct)
                tokens += completion.completion_tokens
            row[model] = {"correct": right, "mean_tokens": round(tokens / given.size, 1)}
        engine.close()
    for name, row in rows.items():
        cells = [f"{row[m]['correct']}/{given.size}, {row[m]['mean_tokens']:.0f} tokens" for m in given.models]
        print(f"| {name} | {row['chance']:.0%} | {' | '.join(cells)} |")
    low, high = wilson(given.size // 2, given.size)
    print(f"\nWith {given.size} questions, a half is anything from {low:.0%} to {high:.0%}.")
    if given.output:
        given.output.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
