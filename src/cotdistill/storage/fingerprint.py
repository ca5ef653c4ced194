"""Fingerprint: which settings, if they change, make what a stage wrote invalid.

    changes("generate", {"sampling": {"temperature": 0.2}, "batch_size": 8},
                        {"sampling": {"temperature": 0.7}, "batch_size": 1})  ->  ["sampling.temperature: 0.2 -> 0.7"]
"""

import re
from collections.abc import Iterator, Mapping

WAYS_ON = "go back to the old {what}, choose another output or run name, or start anew with --overwrite"
"""What the user can do about a refusal."""

HARMLESS: Mapping[str, str] = {
    "batch_size@generate": "each prompt is completed on its own; a batch only fills the machine better",
    "batch_size@evaluate": "as for generate; in training the batch is part of the optimisation and counts",
    "enough": "which samples are asked for, not what they are; where more are wanted, they are asked for now",
    "max_cost": "when to stop asking; what was asked stays, and the same command with a higher cap goes on",
    "max_tokens_total": "as max_cost",
    "cache": "whether an answer is looked up; it is that of the same model to the same request",
    "device_map": "where the layers lie; the number format, which a place can change, counts as `engine`",
    "limit@generate": "more questions or fewer: rows already made stay as they are",
    "limit@evaluate": "as for generate; only the questions asked for are counted",
    "limit@train": "what is taught counts, by its content",
    "cot_dataset": "as limit@train",
    "input_file": "a row belongs to its question, wherever that stands; rows of other questions are refused",
    "test_file": "as input_file",
    "question_key": "where a question's text stands; another text under the same id is refused",
    "answer_key": "where gold stands; traces do not depend on it, and answers to other gold are refused",
    "output_file": "the manifest lies beside it",
    "output_dir": "as output_file",
    "compare_base": "one more model, with a file of its own",
    "baseline": "as compare_base",
    "base_url": "which machine serves the model, which is known by its name",
    "concurrency": "how many requests are in flight at once",
    "workers": "how many copies of the model answer; each request has its own seed",
    "timeout": "how long to wait for a server; a row that timed out is asked again",
    "retries": "how often to ask again",
    "max_failures": "when to give up; rows that failed are asked again",
    "api_key_env": "whom a server lets in",
    "api_key_file": "as api_key_env",
    "price_prompt": "what the rows cost, not what they are",
    "price_completion": "as price_prompt",
    "title": "a heading of the report",
    "quiet": "what is shown on the terminal",
    "report_to": "who else is told of the loss; it is the same loss",
    "dry_run": "nothing is trained",
    "overwrite": "how this process began",
    "break_lock": "as overwrite",
}
"""Settings and flags that never force a stage to be made again, each with the reason. A name stands for the last
part of a dotted key; ``name@stage`` counts in that stage only. Everything that is not listed here counts."""


def changes(stage: str, old: Mapping[str, object], new: Mapping[str, object]) -> list[str]:
    """``["sampling.temperature: 0.2 -> 0.7"]`` for every setting that counts and differs."""
    return [
        f"{key}: {before} -> {after}" for key, before, after in differing(old, new) if not is_harmless(stage, key)
    ]


def differing(old: Mapping[str, object], new: Mapping[str, object]) -> Iterator[tuple[str, str, str]]:
    """``(dotted key, old value, new value)``, the values as text, for every setting that differs."""
    before, after = dict(_flat(old)), dict(_flat(new))
    missing = object()
    for key in [*before, *(key for key in after if key not in before)]:
        if before.get(key, missing) != after.get(key, missing):
            yield key, _shown(before, key), _shown(after, key)


def is_harmless(stage: str, key: str) -> bool:
    """Whether a change of this dotted setting leaves what the stage made valid. ``evaluate/base`` is a part of
    the stage ``evaluate``."""
    if ".extra_body." in key:  # a server's setting, whatever its name means here
        return False
    name = key.rpartition(".")[2]
    kind = re.split(r"\W", stage, maxsplit=1)[0]
    return name in HARMLESS or f"{name}@{kind}" in HARMLESS


def _flat(settings: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    for key, value in settings.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _shown(settings: Mapping[str, object], key: str) -> str:
    if key not in settings:
        return "not set"
    text = ascii(settings[key])
    return text if len(text) <= 80 else f"{text[:77]}..."
