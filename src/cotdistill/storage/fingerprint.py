"""Fingerprint: which settings, if they change, make what a stage wrote invalid.

    changes("generate", {"sampling": {"temperature": 0.2}, "batch_size": 8},
                        {"sampling": {"temperature": 0.7}, "batch_size": 1})  ->  ["sampling.temperature: 0.2 -> 0.7"]
"""

import re
from collections.abc import Iterator, Mapping

WAYS_ON = "go back to the old {what}, choose another output or run name, or start anew with --overwrite"
"""What the user can do about a refusal."""

HARMLESS: Mapping[str, str] = {
    "generate.batch_size": "each prompt is completed on its own; a batch only fills the machine better",
    "evaluate.batch_size": "as for generate; in training the batch is part of the optimisation and counts",
}
"""Settings on record, each behind its stage, that never force a stage to be made again, with the reason. Everything
else that a stage claims counts."""


def changes(stage: str, old: Mapping[str, object], new: Mapping[str, object]) -> list[str]:
    """``["sampling.temperature: 0.2 -> 0.7"]`` for every setting that counts and differs. The stage
    ``evaluate/base`` is a part of ``evaluate``."""
    kind = re.split(r"\W", stage, maxsplit=1)[0]
    return [
        f"{key}: {before} -> {after}"
        for key, before, after in differing(old, new)
        if f"{kind}.{key}" not in HARMLESS
    ]


def differing(old: Mapping[str, object], new: Mapping[str, object]) -> Iterator[tuple[str, str, str]]:
    """``(dotted key, old value, new value)``, the values as text, for every setting that differs."""
    before, after = dict(_flat(old)), dict(_flat(new))
    missing = object()
    for key in [*before, *(key for key in after if key not in before)]:
        if before.get(key, missing) != after.get(key, missing):
            yield key, _shown(before, key), _shown(after, key)


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
