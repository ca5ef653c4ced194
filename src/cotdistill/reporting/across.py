"""Across: the students of several runs on the questions that all of them were asked.

    {"n": 80, "runs": [{"name": "quickstart", "seed": 1, "p_value": 7e-14, ...}, ...],
     "pairs": [{"a": "quickstart", "b": "answer_only", "differs": ["train.target"], "gained": ["q7", ...], ...}],
     "groups": [{"runs": ["quickstart", "quickstart_seed2"], "mean": 0.53, "spread": 0.1, ...}], ...}

Runs whose recipes differ in nothing but name, title and seeds are one group. Seeds of one group answer the same
questions and are no independent samples of them: a question counts once, with the mean of its answers over the seeds.
"""

import math
import statistics
from collections import Counter
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import msgspec

from cotdistill.errors import DataError
from cotdistill.prediction import is_correct
from cotdistill.report import changes
from cotdistill.reporting.ladder_report import capped
from cotdistill.reporting.run_files import RunFiles, ladder_of, read_run
from cotdistill.reporting.score import ModelScore, first_samples, summarize
from cotdistill.resampling import Interval, difference, sign_flip
from cotdistill.statistics import Decision, Paired, decide, paired
from cotdistill.storage.fingerprint import differing

SEEDS = frozenset({"train.seed", "questions.train.seed", "generate.sampling.seed"})
LABELS = frozenset({"name", "report.title"})
TARGET = "train.target"


class RunLine(msgspec.Struct, frozen=True):
    """One run on the shared questions; ``paired`` and what follows hold its student against its own base."""

    name: str
    seed: int
    models: dict[str, ModelScore]
    paired: Paired
    difference: Interval
    verdict: Decision


class Pair(msgspec.Struct, frozen=True):
    """The student of ``b`` against that of ``a``, which stands where the base does in ``paired``. ``differs`` are the
    settings in which the recipes differ; ``meaning`` says what the difference is worth, where that is known."""

    a: str
    b: str
    differs: list[str]
    paired: Paired
    difference: Interval
    gained: list[str]
    lost: list[str]
    meaning: str = ""


class Group(msgspec.Struct, frozen=True):
    """Runs that differ in their seeds alone: the accuracy of their students, and how far they are above their bases.

    ``spread`` is the standard deviation over seeds, None for a single run and where two have the same ones.
    ``difference`` and ``p_value`` (sign-flip test) take each question once, with the mean over the runs.
    """

    runs: list[str]
    mean: float
    spread: float | None
    lowest: float
    highest: float
    difference: Interval
    p_value: float


class Contrast(msgspec.Struct, frozen=True):
    """The mean of group ``b`` against that of group ``a``, question by question; both are named by their first run."""

    a: str
    b: str
    differs: list[str]
    difference: Interval
    p_value: float


class Across(msgspec.Struct, frozen=True):
    """Everything that is compared. ``left_out`` questions were not asked, with gold, in every run."""

    n: int
    left_out: int
    runs: list[RunLine]
    pairs: list[Pair]
    groups: list[Group]
    contrasts: list[Contrast]


class _Run(msgspec.Struct, frozen=True):
    """A run as it is compared: its settings without labels, and what base and student had right, in one order."""

    name: str
    files: RunFiles
    settings: dict[str, Any]
    base: list[bool]
    student: list[bool]


def across(directories: Sequence[Path]) -> Across:
    """Compare finished runs. Raises ``DataError`` where one lacks base or student, or some of their answers, or is
    named twice, or where they share no question."""
    for directory, times in Counter(directory.resolve() for directory in directories).items():
        if times > 1:
            raise DataError(f"{directory} is named twice: a run says nothing about itself")
    files = [read_run(directory) for directory in directories]
    for directory, run in zip(directories, files, strict=True):
        if missing := {"base", "student"} - run.predictions.keys():
            raise DataError(f"{directory} has no answers of its {sorted(missing)[0]}; finish the run: cotdistill run")
    asked = [{(q.id, q.text, q.gold) for q in run.held_out if q.gold is not None} for run in files]
    shared = set.intersection(*asked)
    if not shared:
        raise DataError(f"{directories[0]} and the other runs share no held-out question: nothing can be paired")
    ids = [q.id for q in files[0].held_out if (q.id, q.text, q.gold) in shared]
    runs = [_run(name, run, ids) for name, run in zip(_names(directories), files, strict=True)]
    groups: list[list[_Run]] = []
    for one in runs:
        mine = next((group for group in groups if not _differs(group[0], one) - SEEDS), None)
        if mine is None:
            groups.append([one])
        else:
            mine.append(one)
    return Across(
        n=len(ids),
        left_out=len(set.union(*asked)) - len(shared),
        runs=[_line(one, ids) for one in runs],
        pairs=[_pair(runs[0], one, ids) for one in runs[1:]],
        groups=[_group(group) for group in groups],
        contrasts=[_contrast(a, b) for a, b in combinations(groups, 2) if len(a) + len(b) > 2],
    )


def _names(directories: Sequence[Path]) -> list[str]:
    """The directories' own names, or their paths where two have the same."""
    own = [directory.resolve().name for directory in directories]
    return own if len(set(own)) == len(own) else [str(directory) for directory in directories]


def _run(name: str, files: RunFiles, ids: Sequence[str]) -> _Run:
    asked = set(ids)
    marks = []
    for model in ("base", "student"):
        answers = [row for row in files.predictions[model] if row.question_id in asked]
        marks.append([is_correct(row) for row in first_samples(answers, ids, f"{name}, {model}")])
    return _Run(name, files, msgspec.to_builtins(files.recipe), *marks)


def _differs(a: _Run, b: _Run) -> set[str]:
    return {key for key, _, _ in differing(a.settings, b.settings)} - LABELS


def _line(run: _Run, ids: list[str]) -> RunLine:
    asked = set(ids)
    models = {}
    for name, rows in run.files.predictions.items():
        models[name] = summarize([row for row in rows if row.question_id in asked], ids, source=f"{run.name}, {name}")
    pair = paired(run.base, run.student)
    verdict = capped(decide(pair), ladder_of(run.files))
    return RunLine(run.name, run.files.recipe.train.seed, models, pair, difference(changes(pair)), verdict)


def _pair(a: _Run, b: _Run, ids: Sequence[str]) -> Pair:
    pair = paired(a.student, b.student)
    differs = _differs(a, b)
    meaning = ""
    if differs - SEEDS == {TARGET}:
        arms = {a.files.recipe.train.target: a.name, b.files.recipe.train.target: b.name}
        meaning = f"what the reasoning is worth: {arms['reasoning']} learned it, {arms['answer']} the answers alone"
    elif not differs - SEEDS:
        meaning = "another seed" if differs else "the same recipe"
    marks = list(zip(ids, a.student, b.student, strict=True))
    return Pair(
        a=a.name, b=b.name, differs=sorted(differs), paired=pair, difference=difference(changes(pair)),
        gained=[key for key, was, now in marks if now and not was],
        lost=[key for key, was, now in marks if was and not now],
        meaning=meaning,
    )  # fmt: skip


def _group(group: Sequence[_Run]) -> Group:
    shares = [sum(run.student) / len(run.student) for run in group]
    moved, p_value = _moved(_sums([run.base for run in group]), _sums([run.student for run in group]), len(group))
    return Group(
        runs=[run.name for run in group],
        mean=statistics.fmean(shares),
        spread=statistics.stdev(shares) if len(shares) > 1 and _seeds_differ(group) else None,
        lowest=min(shares),
        highest=max(shares),
        difference=moved,
        p_value=p_value,
    )


def _seeds_differ(group: Sequence[_Run]) -> bool:
    return all(_differs(a, b) for a, b in combinations(group, 2))


def _contrast(a: Sequence[_Run], b: Sequence[_Run]) -> Contrast:
    scale = math.lcm(len(a), len(b))  # so that both means are whole numbers of the same unit
    before, after = (
        [total * scale // len(group) for total in _sums([run.student for run in group])] for group in (a, b)
    )
    moved, p_value = _moved(before, after, scale)
    return Contrast(a[0].name, b[0].name, sorted(_differs(a[0], b[0]) - SEEDS), moved, p_value)


def _sums(marks: Sequence[Sequence[bool]]) -> list[int]:
    """For each question, in how many of the runs it was answered right."""
    return [sum(question) for question in zip(*marks, strict=True)]


def _moved(before: Sequence[int], after: Sequence[int], scale: int) -> tuple[Interval, float]:
    counts = Counter(now - was for was, now in zip(before, after, strict=True))
    return difference({value / scale: count for value, count in counts.items()}), sign_flip(counts)
