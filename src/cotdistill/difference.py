"""Difference: what two runs were made with, and which traces and questions came out otherwise.

    {"a": "runs/one", "b": "runs/two", "settings": [["generate.sampling.temperature", "0.2", "0.7"]],
     "inputs": [], "machine": [["versions.torch", "'2.12.0'", "'2.13.0'"]],
     "verdicts": {"counts": {"correct": [61, 64], "wrong": [19, 16]}, "changed": 5, "only_a": 0, "only_b": 0,
                  "listed": [["q1a2#0", "wrong", "correct"]]},
     "models": {"student": {"both": 80, "gained": 6, "lost": 2, "only_a": 0, "only_b": 0, "listed": [...]}}}

Also for two outputs of ``generate``, ``train`` or ``evaluate``. Traces are matched by id, predictions by question.
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from cotdistill.errors import DataError
from cotdistill.journal import whole_rows
from cotdistill.prediction import Prediction, is_correct
from cotdistill.run_directory import RunDirectory
from cotdistill.storage.fingerprint import differing
from cotdistill.storage.manifest import Manifest, beside, record_of
from cotdistill.verdict import Verdict

MOST_LISTED = 20

Change = tuple[str, str, str]
"""What it is, how it is in A, how it is in B."""


class Verdicts(msgspec.Struct, frozen=True):
    """``counts`` by status in A and in B; ``changed`` traces have another status, and up to 20 are listed."""

    counts: dict[str, tuple[int, int]]
    changed: int
    only_a: int
    only_b: int
    listed: list[Change]


class Answers(msgspec.Struct, frozen=True):
    """One model on the questions ``both`` runs asked: right in B and not in A (``gained``), or the other way round."""

    both: int
    gained: int
    lost: int
    only_a: int
    only_b: int
    listed: list[Change]


class Difference(msgspec.Struct, frozen=True):
    """Everything that differs; ``verdicts`` is None where one side has none."""

    a: str
    b: str
    settings: list[Change]
    inputs: list[Change]
    machine: list[Change]
    verdicts: Verdicts | None
    models: dict[str, Answers]


def difference(a: Path, b: Path) -> Difference:
    """Compare two runs, or two outputs; finished or not. Raises ``DataError`` where one has no manifest or is
    damaged."""
    one, two = _opened(a), _opened(b)
    verdicts = (_verdicts_file(a, one), _verdicts_file(b, two))
    files = (_predictions(one), _predictions(two))
    return Difference(
        a=str(a),
        b=str(b),
        settings=list(differing(_settings(one), _settings(two))),
        inputs=list(differing(_inputs(one), _inputs(two))),
        machine=list(differing(_machine(one), _machine(two))),
        verdicts=_verdicts(*verdicts) if all(file.is_file() for file in verdicts) else None,
        models={name: _answers(files[0][name], files[1][name]) for name in files[0] if name in files[1]},
    )


def _opened(path: Path) -> Manifest:
    record = record_of(path)
    if not record.is_file():
        raise DataError(f"{path} has no manifest; name a run directory, or an output of generate, train or evaluate")
    return Manifest.open(record)


def _settings(manifest: Manifest) -> dict[str, Any]:
    """The resolved recipe and what each stage was made with. A recipe's sections are named like stages, so that
    what stands in both is told once."""
    recipe = manifest.noted("recipe")
    settings = dict(recipe) if isinstance(recipe, dict) else {}
    settings.pop("name", None)
    for name, stage in manifest.stages.items():
        if name in ("questions", "plan"):
            continue  # the recipe says it, and ``inputs`` what was in its files
        made: dict[str, Any] = dict(stage.settings)
        made |= made.pop(name, {})  # ``train.train.seed`` is the recipe's ``train.seed``
        section = settings.get(name)
        settings[name] = {**(section if isinstance(section, dict) else {}), **made, "engine": stage.engine}
    return settings


def _inputs(manifest: Manifest) -> dict[str, Any]:
    inputs = manifest.noted("inputs")
    return dict(inputs) if isinstance(inputs, dict) else {}


def _machine(manifest: Manifest) -> dict[str, Any]:
    keys = ("git_revision", "machine", "versions", "earlier")
    return {key: value for key in keys if (value := manifest.noted(key)) is not None}


def _verdicts_file(path: Path, manifest: Manifest) -> Path:
    run = RunDirectory(path)
    return run.verdicts if manifest.path.name == run.manifest.name else beside(path, "verdicts.jsonl")


def _predictions(manifest: Manifest) -> dict[str, Path]:
    """The files of predictions by the name of the model, ``unseen/student`` for those of the unseen questions."""
    return {
        name.removeprefix("evaluate/"): file
        for name in manifest.stages
        if name.startswith("evaluate/") and (file := manifest.output(name))
    }


def _verdicts(a: Path, b: Path) -> Verdicts:
    one = {verdict.trace_id: verdict.status for verdict in whole_rows(a, Verdict)}
    two = {verdict.trace_id: verdict.status for verdict in whole_rows(b, Verdict)}
    before, after = Counter(one.values()), Counter(two.values())
    changed = [(key, status, two[key]) for key, status in one.items() if two.get(key, status) != status]
    return Verdicts(
        counts={status: (before[status], after[status]) for status in (before | after)},
        changed=len(changed),
        only_a=len(one.keys() - two.keys()),
        only_b=len(two.keys() - one.keys()),
        listed=[*changed[:MOST_LISTED]],
    )


def _answers(a: Path, b: Path) -> Answers:
    one, two = dict(_right(a)), dict(_right(b))
    changed = [(key, right, two[key]) for key, right in one.items() if two.get(key, right) != right]
    says = {True: "right", False: "wrong"}
    return Answers(
        both=len(one.keys() & two.keys()),
        gained=sum(after for _, _, after in changed),
        lost=sum(before for _, before, _ in changed),
        only_a=len(one.keys() - two.keys()),
        only_b=len(two.keys() - one.keys()),
        listed=[(key, says[before], says[after]) for key, before, after in changed[:MOST_LISTED]],
    )


def _right(path: Path) -> Iterator[tuple[str, bool]]:
    """Whether each question with gold was answered rightly, by the first sample."""
    for row in whole_rows(path, Prediction):
        if row.sample == 0 and row.gold is not None:
            yield row.question_id, is_correct(row)
