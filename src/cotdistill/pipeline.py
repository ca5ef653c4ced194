"""Pipeline: a recipe from questions to a verdict, in one run directory.

    runs/quickstart/
      recipe.yaml  manifest.json  0_plan.json  0_plan/base.jsonl
      1_questions.jsonl  1_held_out.jsonl  1_unseen.jsonl  1_dev.jsonl
      2_traces.jsonl  3_verdicts.jsonl  4_examples.jsonl  5_adapter/  rungs/
      6_predictions/{base,student,teacher}.jsonl  6_predictions/unseen/...
      7_report.json  7_report.html

docs/recipes.md has the files that only some runs have. Running it again goes on where it stopped; finished stages are
not done again.
"""

import logging
from collections.abc import Sequence
from functools import cached_property, partial
from pathlib import Path

import msgspec

from cotdistill.answer_only import STAGE as ANSWER_ONLY_STAGE
from cotdistill.answer_only import train_answer_only
from cotdistill.engines import Engine
from cotdistill.engines.opening import open_engine, opened_late, student_engine, takes_gguf
from cotdistill.engines.server import Server
from cotdistill.learning.lint import check_packages
from cotdistill.learning.ranks import here
from cotdistill.line_up import Asked, line_up
from cotdistill.overlap import refuse_shown
from cotdistill.plans.plan import BASE, Plan
from cotdistill.plans.planning import Planning, heed, run_plan
from cotdistill.prediction import Prediction
from cotdistill.prompt import Shot, load_few_shot
from cotdistill.question import Question, load_questions
from cotdistill.recipe import Recipe, dump_recipe, recipe_hash
from cotdistill.report import Report
from cotdistill.reporting.publication import publish
from cotdistill.run_directory import RunDirectory
from cotdistill.screen import watched
from cotdistill.sets import Sets, look, make_sets
from cotdistill.settings.evaluate import ANSWER_ONLY
from cotdistill.settings.generate import Generate
from cotdistill.settings.models import Models
from cotdistill.settings.objective import Objective
from cotdistill.stages.evaluate import run_evaluate
from cotdistill.stages.generate import run_generate
from cotdistill.stages.likelihoods import run_likelihoods
from cotdistill.stages.models import OpenEngine, Teacher, engine_for, identify
from cotdistill.stages.teaching import Teaching
from cotdistill.stages.verify import run_verify
from cotdistill.storage.disk import write_atomic
from cotdistill.storage.lock import locked
from cotdistill.storage.manifest import Manifest, input_of

log = logging.getLogger(__name__)


def run(
    recipe: Recipe,
    *,
    runs: Path = Path("runs"),
    overwrite: bool = False,
    force: bool = False,
    break_lock: bool = False,
    quiet: bool = False,
) -> Report:
    """Run every stage that is owed and return the report, which also stands in ``7_report.json``. Against the advice
    of its plan a run goes on only with ``force``.

    Raises a ``CotdistillError`` in one sentence for whatever the user can fix; what was done stays done.
    """
    here().alone("a whole run")
    directory = runs / recipe.name
    directory.mkdir(parents=True, exist_ok=True)
    with locked(directory, break_lock=break_lock):
        return Run(recipe, directory, overwrite, quiet).report(force=force)


def plan(
    recipe: Recipe, *, runs: Path = Path("runs"), overwrite: bool = False, break_lock: bool = False, quiet: bool = False
) -> Plan:
    """Plan a recipe in its run directory, which ``run`` then goes on with."""
    here().alone("a plan")
    directory = runs / recipe.name
    directory.mkdir(parents=True, exist_ok=True)
    with locked(directory, break_lock=break_lock):
        return Run(recipe, directory, overwrite, quiet).plan()


class Run:
    """One recipe in one directory; ``report`` does whatever is owed for it."""

    def __init__(self, recipe: Recipe, directory: Path, overwrite: bool, quiet: bool) -> None:
        self.recipe = recipe
        self.directory = directory
        self.files = RunDirectory(directory)
        self.overwrite = overwrite
        self.quiet = quiet
        self.manifest = Manifest.open(self.files.manifest)
        if overwrite or not self.manifest.done("questions"):
            self._look()
        # Both models are fetched before any work, so that a missing one costs no teacher time.
        self.teacher = identify(
            recipe.models.teacher, gguf=takes_gguf(recipe.models.engine), server=recipe.models.server
        )
        self.student = identify(recipe.models.student, gguf=False)
        other = recipe.models.second
        self.second = identify(other.teacher, gguf=True, server=other.server) if other else None

    def _look(self) -> None:
        """Read all that is to be read and leave nothing: what is missing is said before hours of downloads."""
        look(self.recipe.questions)
        _ = self.shots
        if self.recipe.verify.decontaminate:
            load_questions(self.recipe.verify.decontaminate)

    @cached_property
    def shots(self) -> Sequence[Shot]:
        """The worked examples that the teacher is shown."""
        return load_few_shot(Path(self.recipe.generate.few_shot)) if self.recipe.generate.few_shot else ()

    def report(self, *, force: bool = False) -> Report:
        sets = self._begin()
        planned = not self.recipe.plan.skip and (self.overwrite or "train" not in self.manifest.stages)
        with watched(self._owed(sets, planned=planned), title=self.recipe.name, quiet=self.quiet):
            if planned:
                heed(self._plan(sets), force=force)
            self._traces(sets.train, overwrite=self.overwrite and not planned)
            objective = self._adapter(sets)
            train_answer_only(self._teaching(sets.train))
            self._predictions(sets, objective)
        # Only now: a stage that refuses other settings must leave the record of what was run as it is.
        self._record()
        return publish(self.directory)

    def plan(self) -> Plan:
        """Make the plan that is owed, whatever it advises."""
        sets = self._begin()
        with watched({"traces": False, BASE: False}, title=self.recipe.name, quiet=self.quiet):
            return self._plan(sets)

    def _owed(self, sets: Sets, *, planned: bool) -> dict[str, bool]:
        """The lines of the screen, and whether each is done already; the rungs of a ladder show as they begin."""
        objective = self.recipe.train.objective
        entrants = line_up(self.recipe, sets, self.shots, self.files.adapter, objective)
        names = [*([BASE] if planned else []), *(asked.label for one in entrants for asked in one.asked)]
        training = {"rungs/base": "evaluate/rungs/base"} if objective == "auto" else {"training": "train"}
        training |= {f"training/{ANSWER_ONLY}": ANSWER_ONLY_STAGE} if self.recipe.evaluate.answer_only else {}
        stages = {"traces": "generate"} | training | {name: f"evaluate/{name}" for name in names}
        return {title: self.manifest.done(stage) and not self.overwrite for title, stage in stages.items()}

    def _begin(self) -> Sets:
        """The questions, and all that is checked before any model is asked; a run that has done nothing else yet puts
        on record what it is to be."""
        sets = make_sets(
            self.recipe.questions, self.directory, self.manifest, overwrite=self.overwrite, train=self.recipe.train
        )
        refuse_shown(self.shots, [*sets.held_out, *sets.unseen], str(self.recipe.generate.few_shot))
        if not self.manifest.done("train"):
            check_packages(self.recipe.train)
            self._teaching(sets.train).refuse(self.recipe.train.objective)
        if self.overwrite or not self.manifest.stages.keys() - {"questions"}:
            self._record()  # so that whoever looks at an unfinished run knows what it is to be
        return sets

    def _plan(self, sets: Sets) -> Plan:
        made = run_plan(Planning(
            recipe=self.recipe, directory=self.directory, manifest=self.manifest,
            train=sets.train, held_out=len(sets.held_out), unseen=len(sets.unseen), dev=len(sets.dev),
            models={"teacher": self.teacher, "student": self.student},
            ask_teacher=lambda asked, unasked, anew: self._ask_teacher(asked, unasked=unasked, overwrite=anew),
            open_base=partial(self._open, "base", self.recipe.models.student, None, sets.train),
            overwrite=self.overwrite, quiet=self.quiet,
        ))  # fmt: skip
        if "train" not in self.manifest.stages:
            self._record()  # a recipe may change between its plan and its run
        return made

    def _record(self) -> None:
        """Write down what this run is: its recipe, its seeds and the files it reads."""
        recipe, asked = self.recipe, self.recipe.questions
        sources = {"train": asked.train, "held_out": asked.held_out, "unseen": asked.unseen}
        read = {f"questions.{part}": source.file for part, source in sources.items() if source}
        read |= {"generate.few_shot": recipe.generate.few_shot, "verify.decontaminate": recipe.verify.decontaminate}
        seeds = {f"questions.{part}": source.seed for part, source in sources.items() if source and source.tasks}
        self.manifest.note(
            recipe=msgspec.to_builtins(recipe), recipe_sha256=recipe_hash(recipe),
            inputs={key: input_of(file) for key, file in read.items() if file},
            seeds={**seeds, "generate": recipe.generate.sampling.seed, "train": recipe.train.seed},
        )  # fmt: skip
        write_atomic(self.files.recipe, dump_recipe(recipe).encode())

    def _ask_teacher(
        self, questions: Sequence[Question], *, unasked: Sequence[Question] = (), overwrite: bool
    ) -> None:
        models, settings = self.recipe.models, self.recipe.generate
        everything = [*questions, *unasked]
        second = None
        if (other := models.second) and self.second:
            open_it = partial(engine_for, other, settings.batch_size, everything, settings, self.shots)
            second = Teacher(self.second, open_it, other.server)
        run_generate(
            questions,
            self.files.traces,
            self.manifest,
            settings=settings,
            shots=self.shots,
            model=self.teacher,
            open_teacher=lambda: engine_for(models, settings.batch_size, everything, settings, self.shots),
            server=models.server,
            second=second,
            verify=self.recipe.verify,
            unasked=unasked,
            load_in_4bit=models.load_in_4bit,
            trust_remote_code=models.trust_remote_code,
            overwrite=overwrite,
            quiet=self.quiet,
        )

    def _traces(self, train: Sequence[Question], *, overwrite: bool) -> None:
        self._ask_teacher(train, overwrite=overwrite)
        traces, settings, models = self.files.traces, self.recipe.verify, self.recipe.models
        likelihoods = run_likelihoods(
            train, traces, self.files.likelihoods, self.manifest, settings, student=models.student,
            system_prompt=self.recipe.generate.system_prompt, load_in_4bit=models.load_in_4bit,
            trust_remote_code=models.trust_remote_code, overwrite=self.overwrite, quiet=self.quiet,
        ) if settings.prefer == "likely" else None  # fmt: skip
        tally = run_verify(train, traces, self.files.verdicts, settings, likelihoods=likelihoods)
        log.info("traces: %s", ", ".join(f"{count} {status}" for status, count in tally.counts.most_common()))

    def _teaching(self, train: Sequence[Question]) -> Teaching:
        """How the student is taught these questions."""

        def open_student(models: Models, asked: Generate, questions: Sequence[Question]) -> Engine:
            return engine_for(models, asked.batch_size, questions, asked, ())

        return Teaching(
            self.recipe, self.directory, self.manifest, self.student, train, open_student, self.shots,
            self.overwrite, self.quiet,
        )

    def _adapter(self, sets: Sets) -> Objective:
        """Train the student; returns the objective that it was trained for."""
        teaching, settings = self._teaching(sets.train), self.recipe.train
        if settings.objective == "auto":
            return teaching.climb(sets.dev, partial(self._ask_dev, sets.dev)).student.name
        teaching.train(settings, self.files.adapter, self.files.examples, "train")
        return settings.objective

    def _ask_dev(self, dev: Sequence[Question], label: str, adapter: Path | None, file: Path) -> list[Prediction]:
        """The answers of the base, or of a rung of the ladder, to the questions that are chosen on."""
        asked = Asked(label, dev, self.recipe.generate.system_prompt)
        with opened_late(partial(self._open, "student", self.recipe.models.student, adapter, dev)) as open_model:
            return self._ask(asked, file, self.student, adapter, open_model)

    def _predictions(self, sets: Sets, objective: Objective) -> None:
        """Ask each model the held-out and the unseen questions, and the base the held-out ones in other ways too."""
        everything = [*sets.held_out, *sets.unseen]
        for one in line_up(self.recipe, sets, self.shots, self.files.adapter, objective):
            is_teacher = one.name == "teacher"
            with opened_late(partial(self._open, one.name, one.spec, one.adapter, everything)) as open_model:
                for asked in one.asked:
                    self._ask(
                        asked, self.files.prediction(asked.label),
                        self.teacher if is_teacher else self.student, one.adapter, open_model,
                        num_samples=self.recipe.evaluate.num_samples,
                        server=self.recipe.models.server if is_teacher else None,
                    )  # fmt: skip

    def _ask(
        self, asked: Asked, file: Path, model: dict[str, str], adapter: Path | None, open_model: OpenEngine, *,
        num_samples: int = 1, server: Server | None = None,
    ) -> list[Prediction]:  # fmt: skip
        models, settings = self.recipe.models, self.recipe.evaluate
        return run_evaluate(
            asked.label, asked.questions, file, self.manifest,
            model=model, adapter=adapter, open_model=open_model, server=server,
            system_prompt=asked.system_prompt, shots=asked.shots, sampling=self.recipe.answering,
            num_samples=num_samples, batch_size=settings.batch_size,
            load_in_4bit=models.load_in_4bit, trust_remote_code=models.trust_remote_code,
            overwrite=self.overwrite, quiet=self.quiet,
        )  # fmt: skip

    def _open(self, name: str, spec: str, adapter: Path | None, questions: Sequence[Question]) -> Engine:
        models, generate, settings = self.recipe.models, self.recipe.generate, self.recipe.evaluate
        if name == "teacher":
            asked = Generate(generate.system_prompt, sampling=self.recipe.answering)
            return engine_for(models, generate.batch_size, questions, asked, ())
        return open_engine(
            spec, engine=student_engine(models.engine), adapter=adapter, batch_size=settings.batch_size,
            load_in_4bit=models.load_in_4bit, trust_remote_code=models.trust_remote_code, workers=models.workers,
        )  # fmt: skip
