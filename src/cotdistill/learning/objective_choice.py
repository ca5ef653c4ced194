"""Objective choice: from the settings of a training to the terms of its loss, the teacher opened where need be."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import msgspec

from cotdistill.errors import SetupError
from cotdistill.example import Example, asked_with
from cotdistill.hardware import Placement, is_sharded
from cotdistill.learning.loss import AnswerLoss
from cotdistill.learning.on_policy import OnPolicy
from cotdistill.learning.ranks import here
from cotdistill.learning.scoring_teacher import ScoringTeacher
from cotdistill.learning.served_teacher import ServedTeacher
from cotdistill.learning.stored_scores import stored_scores
from cotdistill.learning.teacher_scores import LoadedTeacher, Scorer, shared_ids
from cotdistill.learning.terms import OfflineKd, StepByStep, Terms
from cotdistill.model import Model, load_model
from cotdistill.progress import Bar
from cotdistill.settings.objective import TOKEN_LEVEL
from cotdistill.settings.train import TrainSettings

MakeTerms = Callable[[AnswerLoss, Any], Terms]


def open_objective(
    settings: TrainSettings, model: Model, rows: Sequence[Example], teacher: ScoringTeacher | None, *, max_length: int,
    placement: Placement, prompts: Mapping[str, list[int]], trust_remote_code: bool = False, quiet: bool = False,
) -> MakeTerms:  # fmt: skip
    """What ``train`` makes its terms with. ``rows`` are those to be trained; ``prompts``, by the ids of questions, are
    what a teacher reads before their answers. For ``offline_kd`` the teacher has scored them all, and is gone, before
    training begins; for ``on_policy`` it stays in memory beside the student."""
    if settings.objective == "step_by_step":
        return partial(StepByStep, alpha=settings.step_by_step.alpha)
    if settings.objective not in TOKEN_LEVEL:
        return Terms
    if teacher is None:
        raise SetupError(f"{settings.objective} needs a teacher: name it with --teacher_model")
    if is_sharded():  # the student then waits in main memory; the teacher is whole on each GPU
        placement = msgspec.structs.replace(placement, device_map=None)

    def shown(row: Example) -> Example:
        return asked_with(prompts[row.question_id], row)

    read = [shown(row) for row in rows]
    longest = max(len(row.input_ids) for row in read)
    if settings.objective == "on_policy":
        longest = max(longest, _longest_written(rows, read, settings.on_policy.max_new_tokens, max_length))

    def opened(k: int) -> Scorer:
        if teacher.server:
            share = max(1, teacher.server.concurrency // here().size)
            server = msgspec.structs.replace(teacher.server, concurrency=share)
            served = ServedTeacher(teacher.model, server, model.tokenizer, k)
            served.check()
            _refuse_too_long(longest, served.context)
            return served
        loaded = load_model(teacher.directory(), placement, trust_remote_code=trust_remote_code)
        _refuse_too_long(longest, loaded.context_length)
        return LoadedTeacher(loaded, shared_ids(model.tokenizer, loaded.tokenizer), k, read)

    if settings.objective == "on_policy":
        with here().together():
            scorer = opened(settings.top_k("on_policy"))
        return partial(
            OnPolicy, model=model, teacher=scorer, settings=settings.on_policy, max_length=max_length,
            seed=settings.seed, shown=shown,
        )  # fmt: skip
    with Bar("teacher's scores", len(rows), quiet=quiet or not here().first) as bar:
        k = settings.top_k("offline_kd")
        of = teacher.scores_id() if teacher.server else f"{teacher.scores_id()}, {placement.precision()}"
        scores = stored_scores(teacher.scores, read, of, k, opened, lambda rows: bar.step(by=rows))
    return partial(OfflineKd, scores=lambda row: scores(shown(row)), weight=settings.offline_kd.weight)


def _longest_written(rows: Sequence[Example], read: Sequence[Example], new_tokens: int, max_length: int) -> int:
    """Tokens of the longest answer that the student may write, behind what the teacher reads before it."""
    return max(
        own.prompt_length + min(new_tokens, max_length - row.prompt_length)
        for row, own in zip(rows, read, strict=True)
    )


def _refuse_too_long(longest: int, context: int) -> None:
    if longest > context:
        raise SetupError(
            f"the teacher may have to read {longest} tokens, and its context has {context}: lower --max_new_tokens or "
            "--max_length, or show it fewer worked examples"
        )
