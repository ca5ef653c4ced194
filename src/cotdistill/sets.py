"""Sets: the questions of a run, in three lists that share no question.

    1_questions.jsonl  what the teacher is asked     1_held_out.jsonl  what decides     1_unseen.jsonl  another kind
    1_dev.jsonl        of the questions to train on, those that objectives are chosen on, where they are (``auto``)
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from cotdistill.asking.ask import asked_once
from cotdistill.dev_split import split
from cotdistill.errors import DataError
from cotdistill.generated import Task, chance_rate, generate, prove_disjoint
from cotdistill.journal import read_rows, write_rows
from cotdistill.overlap import refuse_overlap
from cotdistill.question import Question, load_questions
from cotdistill.run_directory import Part, RunDirectory
from cotdistill.settings.questions import Questions, Source
from cotdistill.settings.train import TrainSettings
from cotdistill.storage.manifest import Manifest, input_of
from cotdistill.verdict import check_golds

PARTS: tuple[Part, ...] = ("train", "held_out", "unseen")


class Sets(msgspec.Struct, frozen=True):
    train: list[Question]
    held_out: list[Question]
    unseen: list[Question]
    dev: list[Question] = []


def make_sets(
    wanted: Questions, directory: Path, manifest: Manifest, *, overwrite: bool, train: TrainSettings
) -> Sets:
    """The questions in ``directory``, made where they are owed. Held-out questions are made first; training questions
    may share neither text nor operands with them. Where ``train`` chooses its objective, some of those become the
    ``dev`` ones.

    Raises ``DataError`` where they share some, for gold answers that could not be checked against, and where too few
    questions could be set aside.
    """
    run = RunDirectory(directory)
    files = {part: run.questions(part) for part in PARTS if getattr(wanted, part)}
    settings: dict[str, Any] = {part: _claimed(getattr(wanted, part)) for part in PARTS}
    if aside := train.auto if train.objective == "auto" else None:
        files["dev"] = run.questions("dev")
        settings["dev"] = {"dev_share": aside.dev_share, "max_dev": aside.max_dev, "seed": train.seed}
    manifest.claim("questions", settings, overwrite=overwrite, files=list(files.values()), holds=Question)
    if manifest.done("questions"):
        made_before = {part: list(read_rows(file, Question)) for part, file in files.items()}
        return Sets(**{"unseen": [], **made_before})
    manifest.begin("questions")
    held_out = _load(wanted.held_out)
    unseen = _load(wanted.unseen, exclude=held_out) if wanted.unseen else []
    sets = Sets(_load(wanted.train, exclude=[*held_out, *unseen], once=True), held_out, unseen)
    for questions in (sets.train, sets.held_out, sets.unseen):
        check_golds(questions)
    if any(question.gold is None for question in held_out):
        raise DataError("every held-out question needs an answer: without gold there is no accuracy")
    # A task's numbers are what it asks about; in a user's file the same numbers mean nothing.
    parts = ((wanted.held_out, held_out), (wanted.unseen, unseen))
    made = [question for source, part in parts if source and source.tasks for question in part]
    shared = refuse_overlap(sets.train, [*held_out, *unseen]).shared_ngrams
    proof = msgspec.to_builtins(prove_disjoint(sets.train, made)) if made and wanted.train.tasks else {}
    if aside:
        taught, dev = split(sets.train, aside, train.seed, generated=bool(wanted.train.tasks))
        sets = Sets(taught, held_out, unseen, dev)
    for part, file in files.items():
        write_rows(file, getattr(sets, part))
    sizes = {part: len(getattr(sets, part)) for part in (*PARTS, *(("dev",) if aside else ()))}
    manifest.finish("questions", **sizes, disjoint=proof, shared_ngrams=shared, chance_rate=chance_rate(held_out))
    return sets


def look(wanted: Questions) -> None:
    """Read the files and make one question of each task, and leave nothing. Raises ``DataError`` or ``SetupError`` for
    a file that cannot be read and a task that does not exist."""
    for source in (wanted.train, wanted.held_out, wanted.unseen):
        if source:
            _load(msgspec.structs.replace(source, tasks=tuple(Task(one.name, 1, one.config) for one in source.tasks)))


def _load(source: Source, exclude: Sequence[Question] = (), *, once: bool = False) -> list[Question]:
    """With ``once``, a question that stands there under two ids is kept once."""
    if source.file:
        questions = load_questions(source.file, limit=source.limit)
        return asked_once(questions)[0] if once else questions
    questions = generate(source.tasks, source.seed, exclude=exclude)
    return questions[: source.limit] if source.limit else questions


def _claimed(source: Source | None) -> dict[str, Any] | None:
    """A source as a setting: its file by what is in it, wherever it lies; one of the hub by its name."""
    if source is None:
        return None
    read = input_of(source.file) if source.file else {}
    return {**msgspec.to_builtins(source), "file": read.get("sha256", read.get("name"))}
