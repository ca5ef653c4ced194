"""Run files: what a finished run left in its directory, read back; and the report that follows from it.

    runs/quickstart/{recipe.yaml, manifest.json, 1_*.jsonl, 2_traces.jsonl, 3_verdicts.jsonl, 6_predictions/**}

No model is loaded and nothing is asked again, so a report can be made anew wherever the files are.
"""

from collections import Counter
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import msgspec

from cotdistill.card import ADAPTER_WEIGHTS
from cotdistill.errors import DataError
from cotdistill.generated import chance_rate
from cotdistill.going_on import go_on, refuse_gap
from cotdistill.journal import Rows, read_rows
from cotdistill.judging.files import with_verdicts
from cotdistill.learning.ladder import Ladder
from cotdistill.line_up import labels
from cotdistill.plans.forecast import compared
from cotdistill.plans.plan import read_plan
from cotdistill.prediction import Prediction, is_correct
from cotdistill.question import Question
from cotdistill.recipe import Recipe, load_recipe
from cotdistill.report import Facts, Report, build_report, compare, model_order
from cotdistill.reporting.causes import Evidence, likely_causes
from cotdistill.reporting.ladder_report import with_ladder
from cotdistill.reporting.score import first_samples_of
from cotdistill.run_directory import RunDirectory
from cotdistill.settings.evaluate import ANSWER_ONLY
from cotdistill.stages.self_samples import STAGE as OWN_SAMPLES
from cotdistill.statistics import p_text, paired
from cotdistill.storage.manifest import Manifest, file_hash
from cotdistill.trace import Trace
from cotdistill.verdict import TEACHES, Verdict

Predictions = dict[str, list[Prediction]]

OF_RUNGS = ("train/rungs/", "evaluate/rungs/")
"""How the stages of a ladder's rungs begin."""


class RunFiles(msgspec.Struct, frozen=True):
    """The rows of a run. ``predictions`` and ``unseen_predictions`` hold every model that has answered all."""

    directory: Path
    recipe: Recipe
    manifest: Manifest
    train: list[Question]
    held_out: list[Question]
    unseen: list[Question]
    traces: Rows[Trace]
    verdicts: Rows[Verdict]
    predictions: Predictions
    unseen_predictions: Predictions


def read_run(directory: Path) -> RunFiles:
    """Read a run. Raises ``DataError`` where it has no finished evaluation, or a file cannot be read."""
    if not directory.is_dir():
        raise DataError(f"{directory} is no run directory, such as runs/quickstart")
    files = RunDirectory(directory)
    manifest = Manifest.open(files.manifest)
    refuse_gap(directory, manifest)
    held_out = _rows(files.questions("held_out"), Question)
    unseen = _rows(files.questions("unseen"), Question)
    predictions = _predictions(directory, manifest, "", held_out)
    if not predictions or not files.recipe.is_file():
        raise DataError(f"{directory} has no report yet; finish the run: {go_on(directory)}")
    recipe = load_recipe(files.recipe)
    _refuse_lost(directory, manifest, recipe)
    if not recipe.evaluate.answer_only:  # it was not kept in step with the student
        predictions.pop(ANSWER_ONLY, None)
    return RunFiles(
        directory=directory,
        recipe=recipe,
        manifest=manifest,
        train=_rows(files.questions("train"), Question),
        held_out=held_out,
        unseen=unseen,
        traces=Rows(files.traces, Trace),
        verdicts=Rows(files.verdicts, Verdict),
        predictions=predictions,
        unseen_predictions=_predictions(directory, manifest, "unseen/", unseen),
    )


def _refuse_lost(directory: Path, manifest: Manifest, recipe: Recipe) -> None:
    """A report without answers that were given would replace one that has them."""
    asked = labels(recipe, recipe.train.objective, unseen=recipe.questions.unseen is not None)
    for label in chain.from_iterable(asked.values()):
        if lost := manifest.lost(f"evaluate/{label}"):
            raise DataError(f"{lost} is gone, and no report is made without it; this asks again: {go_on(directory)}")


def report_of(run: RunFiles) -> Report:
    """The report on a run's answers; raises ``DataError`` where they are not those to its questions."""
    manifest, recipe = run.manifest, run.recipe
    transfer = None
    if run.unseen and run.unseen_predictions:
        transfer = compare(run.unseen, run.unseen_predictions, chance_rate=chance_rate(run.unseen))
    details: dict[str, Any] = {
        "title": recipe.report.title or recipe.name,
        "questions": manifest.facts("questions"),
        "generate": manifest.facts("generate"),
        "train": {key: value for key, value in manifest.facts("train").items() if key not in ("losses", "ladder")},
        "engines": {name: manifest.facts(f"evaluate/{name}").get("engine") for name in run.predictions},
        "trust_remote_code": recipe.models.trust_remote_code,
        "weights": "adapter",
    }
    if "export" in run.predictions and "student" in run.predictions:
        cost = export_cost(run.held_out, run.predictions["student"], run.predictions["export"])
        details["export"] = {"file": manifest.facts("evaluate/export").get("file"), **cost}
    if RunDirectory(run.directory).plan.is_file() and _was_forecast(manifest):
        details["plan"] = _plan(run)
    report = build_report(
        run.held_out,
        run.predictions,
        chance_rate=chance_rate(run.held_out),
        transfer=transfer,
        facts=Facts(
            versions=msgspec.convert(manifest.noted("versions") or {}, dict[str, str]),
            recipe_sha256=msgspec.convert(manifest.noted("recipe_sha256"), str | None),
            details=details,
        ),
    )
    if ladder := ladder_of(run):
        report = with_ladder(report, ladder)
    if report.verdict in (None, "better"):
        return report
    causes = likely_causes(report.models, report.paired, report.verdict, evidence_of(run))
    return msgspec.structs.replace(report, causes=causes)


def ladder_of(run: RunFiles) -> Ladder | None:
    """The ladder that the student of a run comes from, None where it was trained for one objective."""
    found = run.manifest.facts("train").get("ladder")
    return msgspec.convert(found, Ladder) if found else None


def evidence_of(run: RunFiles) -> Evidence:
    """What the files of a run say about why its student may be no better than its base."""
    limit, train = run.recipe.evaluate.max_new_tokens, run.manifest.facts("train")
    statuses: Counter[str] = Counter()
    longer = 0
    for trace, verdict in with_verdicts(run.traces, run.verdicts):
        status = verdict.status if verdict else "unchecked"
        statuses[status] += 1
        longer += status in TEACHES and trace.completion_tokens > limit
    number = {key: msgspec.convert(train.get(key) or 0, int) for key in ("examples", "too_long", "steps")}
    losses = msgspec.convert(train.get("losses") or [], list[tuple[int, float | None]])
    return Evidence(
        max_new_tokens=limit,
        max_length=run.recipe.train.max_length,
        traces=statuses.total(),
        teach=sum(count for status, count in statuses.items() if status in TEACHES),
        dropped={status: count for status, count in statuses.most_common() if status not in TEACHES},
        longer=longer,
        examples=number["examples"],
        too_long=number["too_long"],
        steps=number["steps"] or len(losses),
        losses=[loss for _, loss in losses if loss is not None],
    )


def _was_forecast(manifest: Manifest) -> bool:
    """Whether the plan was made before the training: a later one has seen what it would foretell."""
    plan, train = (manifest.stages.get(stage) for stage in ("plan", "train"))
    return plan is not None and plan.finished is not None and (train is None or plan.finished <= train.started)


def _plan(run: RunFiles) -> dict[str, Any]:
    """What the plan said, and beside its forecast what each stage then took, as plain data for the report."""
    plan = read_plan(run.directory)
    climbed = "ladder" in run.manifest.facts("train")
    took: dict[str, tuple[float, int]] = {}
    for name in run.manifest.stages:
        facts = run.manifest.facts(name)
        tokens = [msgspec.convert(facts.get(key) or 0, int) for key in ("prompt_tokens", "completion_tokens", "tokens")]
        if facts.get("seconds") is not None:
            seconds = msgspec.convert(facts["seconds"], float, strict=False)
            if climbed and (name in (OWN_SAMPLES, "train") or name.startswith(OF_RUNGS)):
                before = took.get("ladder", (0.0, 0))
                took["ladder"] = before if name == "train" else (before[0] + seconds, before[1] + sum(tokens))
                continue
            took[name] = (seconds, sum(tokens))
    said: dict[str, Any] = msgspec.to_builtins(plan)
    del said["forecast"]
    return {**said, "stages": msgspec.to_builtins(compared(plan.forecast, took))}


def export_cost(
    questions: Sequence[Question], student: Sequence[Prediction], export: Sequence[Prediction]
) -> dict[str, Any]:
    """Student against export on the same graded questions, as plain data for the report."""
    graded = [question.id for question in questions if question.gold is not None]
    before, after = ([is_correct(row) for row in first_samples_of(rows, graded)] for rows in (student, export))
    pair = paired(before, after)
    sentence = (
        f"The export answers {sum(after)} of {len(graded)} right where the student answers {sum(before)}: "
        f"{pair.only_base} lost, {pair.only_student} gained ({p_text(pair.p_value)})."
    )
    lost, gained = pair.only_base, pair.only_student
    return {"lost": lost, "gained": gained, "both": pair.both, "neither": pair.neither, "p_value": pair.p_value,
            "sentence": sentence}  # fmt: skip


def _rows(path: Path, type_: type[Any]) -> list[Any]:
    return list(read_rows(path, type_)) if path.exists() else []


def _predictions(directory: Path, manifest: Manifest, part: str, asked: Sequence[Question]) -> Predictions:
    """The files that the manifest calls complete: base, student and teacher first, then by name. Not the answers of
    an export where the student was trained anew since."""
    run = RunDirectory(directory)
    files = {path.stem: path for path in (run.predictions / part).glob("*.jsonl")}
    done = [name for name in files if manifest.done(f"evaluate/{part}{name}")]
    if "export" in done:
        weights = run.adapter / ADAPTER_WEIGHTS
        if not weights.exists() or manifest.facts("evaluate/export").get("adapter") != file_hash(weights):
            done.remove("export")
    done.sort(key=model_order)
    ids = {question.id for question in asked}
    return {name: [row for row in _rows(files[name], Prediction) if row.question_id in ids] for name in done}
