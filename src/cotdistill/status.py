"""Status: what of a run, or of a command's output, is done and what is owed; read-only, also while it is written.

    {"path": "runs/quickstart", "stages": [{"name": "generate", "done": false, "planned": 80, "present": 57,
      "failed": 1, "missing": 23, "seconds": 301.2, "prompt_tokens": 9120, "completion_tokens": 4033, ...}, ...],
     "holder": {"host": "node3", "pid": 4711, "started": "..."}, "holder_state": "running", "next": "wait for it"}

Counts come from the files, so that they are right after a kill too; a last line that is not whole counts as missing.
"""

import shlex
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import msgspec

from cotdistill.answer_only import ADAPTER
from cotdistill.answer_only import STAGE as ANSWER_ONLY_STAGE
from cotdistill.engines.server import Server
from cotdistill.errors import DataError
from cotdistill.going_on import go_on, refuse_gap
from cotdistill.journal import whole_rows
from cotdistill.line_up import UNSEEN, labels
from cotdistill.plans.plan import BASE
from cotdistill.prediction import Prediction
from cotdistill.question import Question
from cotdistill.recipe import Recipe, decode_recipe
from cotdistill.run_directory import RunDirectory
from cotdistill.storage.lock import Holder, holder_of
from cotdistill.storage.manifest import Manifest, beside, record_of
from cotdistill.trace import Trace
from cotdistill.verdict import Verdict


class StageStatus(msgspec.Struct, frozen=True):
    """One stage. ``present`` rows include ``failed`` ones, which are asked again; None where a stage has no rows or
    their number is not known yet. ``seconds`` and tokens are what was spent so far, ``money`` None without prices."""

    name: str
    done: bool
    planned: int | None = None
    present: int | None = None
    failed: int = 0
    missing: int | None = None
    seconds: float = 0.0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    money: float | None = None
    started: str | None = None
    finished: str | None = None
    note: str = ""


class Status(msgspec.Struct, frozen=True):
    """The stages in order, who says that it writes them, the sums, and what to do next, in words."""

    path: str
    done: bool
    stages: list[StageStatus]
    holder: Holder | None
    holder_state: Literal["running", "gone", "elsewhere"] | None
    seconds: float
    prompt_tokens: int
    completion_tokens: int
    money: float | None
    started: str | None
    finished: str | None
    next: str


def status_of(path: Path) -> Status:
    """The status of a run directory, or of what ``generate``, ``train`` or ``evaluate`` wrote.

    Raises ``DataError`` where nothing says what ``path`` is, or where a file in it is damaged before its last line.
    """
    record = record_of(path)
    if not record.is_file():
        refuse_gap(path, Manifest(RunDirectory(path).manifest, {}, {}))
        raise DataError(f"{path} has no manifest; name a run directory, or an output of generate, train or evaluate")
    manifest = Manifest.open(record)
    is_run = record.parent.resolve() == path.resolve()
    stages = list(_stages_of_run(path, manifest) if is_run else _stages_of_output(path, manifest))
    holder = holder_of(path if is_run else record)
    prices = [stage.money for stage in stages if stage.money is not None]
    done = all(stage.done for stage in stages)
    return Status(
        path=str(path),
        done=done,
        stages=stages,
        holder=holder,
        holder_state=holder.state if holder else None,
        seconds=round(sum(stage.seconds for stage in stages), 1),
        prompt_tokens=sum(stage.prompt_tokens for stage in stages),
        completion_tokens=sum(stage.completion_tokens for stage in stages),
        money=round(sum(prices), 6) if prices else None,
        started=min((stage.started for stage in stages if stage.started), default=None),
        finished=max((stage.finished for stage in stages if stage.finished), default=None) if done else None,
        next=_next(path, is_run, stages, holder),
    )


def _stages_of_run(directory: Path, manifest: Manifest) -> Iterator[StageStatus]:
    """All stages that the recipe asks for, begun or not, and whatever else is on record."""
    files, noted = RunDirectory(directory), manifest.noted("recipe")
    recipe = decode_recipe(noted, f"{manifest.path}, recipe") if noted else None
    samples = recipe.generate.num_samples if recipe else 1
    server = recipe.models.server if recipe else None
    varies = bool(recipe and (recipe.generate.varies or recipe.models.second_teacher))
    asked = _count(files.questions("train"), Question)
    yield _stage("questions", manifest)
    sample = f"evaluate/{BASE}"
    if sample in manifest.stages or (recipe and not recipe.plan.skip and "train" not in manifest.stages):
        count = min(asked, recipe.plan.questions) if recipe else None
        answers = _rows(sample, manifest, files.plan_answers, count, None)
        yield msgspec.structs.replace(answers, name="plan", done=answers.done and manifest.done("plan"))
    yield _rows("generate", manifest, files.traces, asked * samples if asked and not varies else None,
                None if varies else server)  # fmt: skip
    if "likelihoods" in manifest.stages:
        yield _stage("likelihoods", manifest)
    yield _verdicts(files.traces, files.verdicts)
    rungs = [name for name in manifest.stages if name.startswith(("generate/", "train/rungs/", "evaluate/rungs/"))]
    yield from (_rung(name, manifest) for name in rungs)
    yield _train(files.adapter, manifest)
    if ANSWER_ONLY_STAGE in manifest.stages or (recipe and recipe.evaluate.answer_only):
        yield _train(directory / ADAPTER, manifest, ANSWER_ONLY_STAGE)
    planned = dict(_evaluations(files, recipe))
    shown = {*planned, *rungs, sample}
    others = [name for name in manifest.stages if name.startswith("evaluate/") and name not in shown]
    for name in (*planned, *others):
        file = manifest.output(name) or files.prediction(name.removeprefix("evaluate/"))
        yield _rows(name, manifest, file, planned.get(name), server if name.endswith("/teacher") else None)
    yield StageStatus("report", files.report.is_file())


def _evaluations(files: RunDirectory, recipe: Recipe | None) -> Iterator[tuple[str, int | None]]:
    if recipe is None:
        return
    samples = recipe.evaluate.num_samples
    held_out, unseen = (_count(files.questions(part), Question) * samples for part in ("held_out", "unseen"))
    asked = labels(recipe, recipe.train.objective, unseen=recipe.questions.unseen is not None)
    for label in chain.from_iterable(asked.values()):
        yield f"evaluate/{label}", (unseen if label.startswith(UNSEEN) else held_out) or None


def _stages_of_output(path: Path, manifest: Manifest) -> Iterator[StageStatus]:
    for name in manifest.stages:
        file = manifest.output(name)
        if file is None or name == "train":
            yield _train(path, manifest) if name == "train" else _stage(name, manifest)
            continue
        yield _rows(name, manifest, file, None, None)
        if name == "generate":
            yield _verdicts(file, beside(file, "verdicts.jsonl"))


def _stage(name: str, manifest: Manifest, **more: Any) -> StageStatus:
    """What the manifest says of a stage, begun or not."""
    known = manifest.stages.get(name)
    if known is None:
        return StageStatus(name, **{"done": False, **more})
    money, lost = known.facts.get("money"), manifest.lost(name)
    said: dict[str, Any] = {
        "done": known.finished is not None and not lost,
        "note": f"{lost.name} is gone" if lost else "",
        "seconds": round(known.spent(manifest.path.parent), 1),
        "money": money if isinstance(money, float) else None,
        "started": known.started,
        "finished": known.finished,
    }
    return StageStatus(name, **{**said, **more})


def _rows(name: str, manifest: Manifest, file: Path, planned: int | None, server: Server | None) -> StageStatus:
    """A stage that answers questions, one row each."""
    known = manifest.stages.get(name)
    # A plan asks the teacher a part of what the run will.
    planned = max((n for n in (planned, known.planned if known else None) if n is not None), default=None)
    present = failed = prompt = completion = 0
    rows: Iterator[Trace | Prediction] = whole_rows(file, Trace if _writes_traces(name) else Prediction)
    for row in rows:
        present += 1
        failed += row.finish == "error"
        prompt += row.prompt_tokens
        completion += row.completion_tokens
    missing = None if planned is None else max(0, planned - present)
    more: dict[str, Any] = {"money": spent} if server and (spent := server.money(prompt, completion)) else {}
    done = manifest.done(name) and not (missing or failed or manifest.lost(name))
    return _stage(
        name, manifest, done=done, planned=planned, present=present, failed=failed, missing=missing,
        prompt_tokens=prompt, completion_tokens=completion, **more,
    )  # fmt: skip


def _writes_traces(stage: str) -> bool:
    return stage.partition("/")[0] == "generate"


def _verdicts(traces: Path, verdicts: Path) -> StageStatus:
    """Judging is always done anew and has no record; every trace needs a verdict."""
    planned, present = _count(traces, Trace), _count(verdicts, Verdict)
    missing = max(0, planned - present)
    return StageStatus("verify", bool(present) and not missing, planned, present, missing=missing)


def _train(adapter: Path, manifest: Manifest, stage: str = "train") -> StageStatus:
    known = manifest.stages.get(stage)
    # The student of a ladder is that of a rung, whose tokens are counted there.
    tokens = known.facts.get("tokens") if known and "ladder" not in known.facts else 0
    more = {} if manifest.done(stage) else {"note": _checkpoint(adapter / "checkpoints" / "complete.json")}
    return _stage(stage, manifest, prompt_tokens=tokens if isinstance(tokens, int) else 0, **more)


def _rung(name: str, manifest: Manifest) -> StageStatus:
    """A part of a ladder, or the student's own samples, which owe nothing once the student is there: a rung may have
    failed."""
    file, over = manifest.output(name) or manifest.path, manifest.done("train")
    found = _train(file, manifest, name) if name.startswith("train/") else _rows(name, manifest, file, None, None)
    failed = over and not manifest.done(name)
    return msgspec.structs.replace(found, done=over or found.done, note="failed" if failed else found.note)


def _checkpoint(record: Path) -> str:
    """Up to which step an unfinished training is safe."""
    try:
        whole: dict[str, Any] = msgspec.json.decode(record.read_bytes(), type=dict[str, Any])["checkpoints"]
        steps = [int(name.rpartition("-")[2]) for name in whole]
    except (OSError, msgspec.MsgspecError, ValueError, KeyError, AttributeError, TypeError):
        return ""
    return f"saved up to step {max(steps)}" if steps else ""


def _count(path: Path, type_: type[msgspec.Struct]) -> int:
    return sum(1 for _ in whole_rows(path, type_))


def _next(path: Path, is_run: bool, stages: list[StageStatus], holder: Holder | None) -> str:
    owed = next((stage for stage in stages if not stage.done), None)
    if is_run:
        again = go_on(path)
    else:
        command = owed.name.partition("/")[0] if owed else ""
        again = f"run the same {'generate' if command == 'verify' else command} command again"
    if holder and holder.state == "running":
        return f"process {holder.pid} is working on it since {holder.started}; wait for it"
    if holder and holder.state == "elsewhere":
        who = f"process {holder.pid} on {holder.host}, at work since {holder.started}"
        again = f"{again}{'' if is_run else ', with'} --break_lock"
        return f"wait for {who}; if it is gone for certain: {again}"
    if owed:
        return again
    return f"cotdistill report {shlex.quote(str(path))}" if is_run else "nothing is owed"
