"""Climbing: the rungs of a ladder trained, each short and the better ones in full, and the choice between them.

    rungs/base/dev.jsonl
    rungs/sft_short/{adapter/, examples.jsonl, dev.jsonl}      rungs/sft/{adapter/, examples.jsonl, dev.jsonl}

Each training and each set of answers is a stage of its own, ``train/rungs/sft_short``, ``evaluate/rungs/sft_short``, so
whoever goes on after a stop does again what was not finished, and nothing else. A rung that cannot work, or fails, is
a row of the ladder and stops no other.
"""

import logging
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import msgspec

from cotdistill.errors import CotdistillError, ResumeError, ServerAway, TrainingError
from cotdistill.learning.ladder import (
    BASE,
    SHORT_NAME,
    Ladder,
    Marks,
    Outcome,
    Rung,
    Tally,
    Trial,
    best_of,
    closest,
    short_of,
    survivors,
    trial,
)
from cotdistill.prediction import Prediction, is_correct
from cotdistill.question import Question
from cotdistill.run_directory import RunDirectory
from cotdistill.settings.objective import OneObjective
from cotdistill.settings.train import TrainSettings
from cotdistill.shown import cause_of
from cotdistill.stages.self_samples import STAGE as OWN_SAMPLES
from cotdistill.storage.disk import cannot, write_atomic
from cotdistill.storage.manifest import Manifest

log = logging.getLogger(__name__)

RUNGS = "rungs"
EXAMPLES = "examples.jsonl"
REASON = 300
"""Characters of what a failed rung said."""


class Climb(msgspec.Struct, frozen=True):
    """What a ladder is climbed with. ``refuse`` raises where an objective cannot work. ``train`` gets settings, a
    directory and a stage and leaves ``adapter/`` and ``examples.jsonl`` there; ``ask`` gets a label, the adapter (None
    for the base) and a file, and returns the answers to the ``dev`` questions."""

    settings: TrainSettings
    directory: Path
    manifest: Manifest
    dev: Sequence[Question]
    refuse: Callable[[OneObjective], object]
    train: Callable[[TrainSettings, Path, str], object]
    ask: Callable[[str, Path | None, Path], Sequence[Prediction]]
    overwrite: bool = False


def climb(job: Climb) -> Ladder:
    """Do what is owed of the ladder. Raises ``TrainingError`` where no rung could be trained."""
    rungs, whole = job.settings.auto.rungs, job.settings.num_epochs
    base = _asked(job, BASE, None)
    fates: dict[OneObjective, tuple[Outcome, str]] = {}
    for name in rungs:
        known = begun(job.manifest, name) and not job.overwrite
        if not known and (why := refusal(job.refuse, name)):
            fates[name] = ("refused", why)
    short: dict[OneObjective, Marks] = {}
    epochs = short_of(whole)
    if cut := epochs < whole:
        short = _round(job, [name for name in rungs if name not in fates], epochs, SHORT_NAME, fates)
        for name, why in survivors(base, short)[1].items():
            fates[name] = ("dropped", why)
            log.info("ladder: %s dropped: %s", name, why)
    full = _round(job, [name for name in rungs if name not in fates], whole, "", fates)
    reached = full or short
    if not reached:
        said = "; ".join(f"{name}: {why}" for name, (_, why) in fates.items())
        raise TrainingError(f"no rung of the ladder could be trained ({said})")
    chosen = best_of(base, full)
    closest_to_it = closest(reached) if chosen == BASE else chosen
    fates |= {name: ("chosen" if name == chosen else "not_chosen", "") for name in full}
    log.info("ladder: chosen is %s", chosen)
    done = []
    for name in rungs:
        after = _trial(job, name, SHORT_NAME, base, short[name], epochs, first=True) if name in short else None
        last = _trial(job, name, "", base, full[name], whole, first=not cut) if name in full else None
        done.append(Rung(name, *fates[name], short=after, full=last))
    shown = closest_to_it if full else f"{closest_to_it}{SHORT_NAME}"
    return Ladder(Tally(sum(base), len(base)), done, chosen, shown)


def begun(manifest: Manifest, name: OneObjective) -> bool:
    """Whether a rung was trained, short or in full: then it can work, and who taught it may be gone."""
    return any(manifest.done(f"train/{RUNGS}/{name}{ending}") for ending in ("", SHORT_NAME))


def refusal(refuse: Callable[[OneObjective], object], name: OneObjective) -> str:
    """Why an objective cannot work, "" where it can. Raises ``ServerAway`` where that cannot be told now."""
    try:
        refuse(name)
    except ServerAway:
        raise
    except CotdistillError as error:
        return str(error)
    return ""


def put_in_place(ladder: Ladder, directory: Path) -> None:
    """Copy the adapter of the student and its examples to where those of every run are."""
    rung, files = directory / RUNGS / ladder.shown, RunDirectory(directory)
    try:
        for file in sorted((rung / "adapter").iterdir()):
            if file.is_file():
                write_atomic(files.adapter / file.name, file.read_bytes())
        write_atomic(files.examples, (rung / EXAMPLES).read_bytes())
    except OSError as error:
        raise cannot("read", rung, error) from error


def _round(
    job: Climb, names: Iterable[OneObjective], epochs: float, ending: str,
    fates: dict[OneObjective, tuple[Outcome, str]],
) -> dict[OneObjective, Marks]:  # fmt: skip
    """Train each rung and ask it the dev questions; what becomes of those that could not be goes into ``fates``."""
    found: dict[OneObjective, Marks] = {}
    for name in names:
        label = f"{name}{ending}"
        settings = msgspec.structs.replace(job.settings, objective=name, num_epochs=epochs)
        try:
            job.train(settings, job.directory / RUNGS / label, f"train/{RUNGS}/{label}")
            found[name] = _asked(job, label, job.directory / RUNGS / label / "adapter")
        except (ResumeError, ServerAway):
            raise  # the user's to decide; a server that is away now says nothing about the rung
        except Exception as error:  # a model or a library that fails in its own way is a row of the ladder
            ours = isinstance(error, CotdistillError)
            fates[name] = ("failed", " ".join(str(error).split())[:REASON] if ours else cause_of(error))
            log.warning("ladder: %s failed, the others go on: %s", label, fates[name][1])
        else:
            log.info("ladder: %s answers %d of %d dev questions", label, sum(found[name]), len(job.dev))
    return found


def _asked(job: Climb, label: str, adapter: Path | None) -> Marks:
    answers = job.ask(f"{RUNGS}/{label}", adapter, job.directory / RUNGS / label / "dev.jsonl")
    rows = {row.question_id: row for row in answers}
    return [question.id in rows and is_correct(rows[question.id]) for question in job.dev]


def _trial(job: Climb, name: str, ending: str, base: Marks, marks: Marks, epochs: float, *, first: bool) -> Trial:
    stages = [f"train/{RUNGS}/{name}{ending}", f"evaluate/{RUNGS}/{name}{ending}"]
    stages += [OWN_SAMPLES] if first and name == "reject_on_student" else []
    facts = [job.manifest.facts(stage) for stage in stages]
    spent = sum(msgspec.convert(one.get("seconds") or 0.0, float, strict=False) for one in facts)
    tokens = msgspec.convert(facts[0].get("tokens") or 0, int)
    return trial(base, marks, epochs=epochs, tokens=tokens, seconds=round(spent, 1))
