"""Teaching: what the student of a run learns from, for one objective or for each rung of a ladder.

    1_questions.jsonl  2_traces.jsonl  3_verdicts.jsonl    ->    4_examples.jsonl  5_adapter/
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path

import msgspec

from cotdistill.engines import Engine
from cotdistill.errors import SetupError, TrainingError
from cotdistill.identity import digest
from cotdistill.journal import read_rows
from cotdistill.judging.pairs import teaching_pairs
from cotdistill.learning.ladder import Ladder
from cotdistill.learning.scoring_teacher import ScoringTeacher, check_served, fitting
from cotdistill.prediction import Prediction
from cotdistill.prompt import Shot, user_text
from cotdistill.question import Question
from cotdistill.recipe import Recipe
from cotdistill.run_directory import RunDirectory
from cotdistill.settings.generate import Generate
from cotdistill.settings.models import Models
from cotdistill.settings.objective import TOKEN_LEVEL, Objective
from cotdistill.settings.train import Target, TrainSettings
from cotdistill.stages.climbing import EXAMPLES, RUNGS, Climb, begun, climb, put_in_place, refusal
from cotdistill.stages.self_samples import asked_of, refuse_unconfirmed, with_own
from cotdistill.stages.train import run_train
from cotdistill.storage.manifest import Manifest
from cotdistill.trace import Trace
from cotdistill.verdict import TaughtText, Verdict


class Teaching(msgspec.Struct, frozen=True):
    """``questions`` are those to learn from. ``open_student`` opens the student as a teacher is opened, to sample from
    it: models, how they are asked, and what. ``shots`` are the worked examples that the teacher is shown."""

    recipe: Recipe
    directory: Path
    manifest: Manifest
    student: dict[str, str]
    questions: Sequence[Question]
    open_student: Callable[[Models, Generate, Sequence[Question]], Engine]
    shots: Sequence[Shot]
    overwrite: bool = False
    quiet: bool = False

    @property
    def files(self) -> RunDirectory:
        return RunDirectory(self.directory)

    def refuse(self, objective: Objective) -> None:
        """An objective that cannot work is refused before the teacher is asked; a ladder where no rung can."""
        models = self.recipe.models
        rungs = self.recipe.train.auto.rungs
        if objective == "auto" and (self.overwrite or not any(begun(self.manifest, rung) for rung in rungs)):
            reasons = [refusal(self.refuse, rung) for rung in rungs]
            if all(reasons):
                raise SetupError(f"no rung of the ladder can work: {'; '.join(reasons)}")
        if objective == "reject_on_student":
            refuse_unconfirmed(self.questions, self.recipe.verify)
        if objective in TOKEN_LEVEL:  # reading tokens takes seconds
            trust, k = models.trust_remote_code, self.recipe.train.top_k(objective)
            fitting(self._scorer, models.student, objective, shown=bool(self.shots), trust_remote_code=trust)
            # With offline_kd the server may be gone once there are scores; what is owed of them asks it then.
            if objective == "on_policy" or self.overwrite or not self._scorer.scores.exists():
                check_served(self._scorer, models.student, k, trust_remote_code=trust)

    def train(self, settings: TrainSettings, adapter: Path, examples: Path, stage: str) -> Mapping[str, object]:
        """One student; returns the facts of its stage."""
        pairs = self._pairs(settings.target)
        if settings.objective == "reject_on_student":
            pairs = self._with_own(pairs)
        return self._train(settings, pairs, adapter, examples, stage)

    def _train(
        self, settings: TrainSettings, pairs: Sequence[TaughtText], adapter: Path, examples: Path, stage: str
    ) -> Mapping[str, object]:
        models = self.recipe.models
        return run_train(
            pairs,
            adapter,
            self.manifest,
            student=models.student,
            system_prompt=self.recipe.generate.system_prompt,
            settings=settings,
            examples_file=examples,
            max_new_tokens=self.recipe.evaluate.max_new_tokens,
            load_in_4bit=models.load_in_4bit,
            trust_remote_code=models.trust_remote_code,
            overwrite=self.overwrite,
            quiet=self.quiet,
            labels=self._pairs("answer") if settings.objective == "step_by_step" else (),
            teacher=self._scorer if settings.objective in TOKEN_LEVEL else None,
            shots=self.shots,
            stage=stage,
        )

    def climb(
        self, dev: Sequence[Question], ask: Callable[[str, Path | None, Path], Sequence[Prediction]]
    ) -> Ladder:
        """The ladder of ``auto``, whose student is then in ``5_adapter`` as that of every run."""
        manifest, settings, models = self.manifest, self.recipe.train, self.recipe.models
        pairs = self._pairs(settings.target)
        if not pairs:
            raise TrainingError("no trace may teach: every one was dropped by its verdict; read the verdicts file")
        claimed = {
            "student": self.student,
            "system_prompt": self.recipe.generate.system_prompt,
            "examples": _digest(pairs),
            "dev": digest([[question.id, user_text(question), question.gold] for question in dev]),
            "load_in_4bit": models.load_in_4bit,
            "trust_remote_code": models.trust_remote_code,
            "train": settings.claimed,
        }
        manifest.claim("train", claimed, overwrite=self.overwrite, files=[self.files.adapter], holds="directory")
        if manifest.done("train"):
            return msgspec.convert(manifest.facts("train")["ladder"], Ladder)

        with_own = cache(lambda: self._with_own(pairs))  # sampled once, also where that means anew

        def train(one: TrainSettings, rung: Path, stage: str) -> None:
            taught = with_own() if one.objective == "reject_on_student" else pairs
            if taught is not pairs and _digest(taught) == _digest(pairs):
                raise TrainingError(
                    "the student's own samples add nothing to the teacher's traces, so this would be sft again; with "
                    "train.reject_on_student.alone they teach alone"
                )
            self._train(one, taught, rung / "adapter", rung / EXAMPLES, stage)

        ladder = climb(Climb(settings, self.directory, manifest, dev, self.refuse, train, ask, self.overwrite))
        put_in_place(ladder, self.directory)
        facts = manifest.facts(f"train/{RUNGS}/{ladder.shown}")
        manifest.finish("train", **{**facts, "ladder": msgspec.to_builtins(ladder)})
        return ladder

    @property
    def _scorer(self) -> ScoringTeacher:
        models = self.recipe.models
        return ScoringTeacher(models.teacher, self.files.scores, models.server)

    def _pairs(self, target: Target) -> list[TaughtText]:
        traces, verdicts = read_rows(self.files.traces, Trace), read_rows(self.files.verdicts, Verdict)
        return list(teaching_pairs(self.questions, traces, verdicts, target))

    def _with_own(self, pairs: list[TaughtText]) -> list[TaughtText]:
        asked, itself = asked_of(self.recipe), self.recipe.models.student_as_teacher
        return with_own(
            self.questions, pairs, self.directory, self.manifest, recipe=self.recipe, student=self.student,
            open_student=lambda: self.open_student(itself, asked, self.questions), overwrite=self.overwrite,
            quiet=self.quiet,
        )  # fmt: skip


def _digest(pairs: Sequence[TaughtText]) -> str:
    return digest(sorted([trace_id, user_text(question), text] for trace_id, question, text in pairs))
