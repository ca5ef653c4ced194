"""Pipeline: a recipe from questions to a verdict, in one run directory.

    runs/quickstart/
      recipe.yaml  manifest.json  0_plan.json  0_plan/base.jsonl
      1_questions.jsonl  1_held_out.jsonl  1_unseen.jsonl
      2_traces.jsonl  3_verdicts.jsonl  4_examples.jsonl  5_adapter/
      6_predictions/{base,student,teacher}.jsonl  6_predictions/unseen/...
      7_report.json  7_report.html

Running it again goes on where it stopped; finished stages are not done again.
"""

import hashlib
import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import msgspec

from cotdistill.disk import write_atomic
from cotdistill.engines import Engine
from cotdistill.engines.opening import open_engine, opened_late
from cotdistill.errors import DataError, NotWorthIt
from cotdistill.journal import read_rows
from cotdistill.lock import locked
from cotdistill.manifest import Manifest, file_hash, input_of
from cotdistill.overlap import refuse_shown
from cotdistill.plan import BASE, Plan, lines
from cotdistill.planning import Planning, run_plan
from cotdistill.prompt import LABEL_PROMPT, Shot, load_few_shot
from cotdistill.publication import publish
from cotdistill.question import Question
from cotdistill.ranks import here
from cotdistill.recipe import Recipe, dump_recipe, load_recipe
from cotdistill.report import Report
from cotdistill.run_files import EXPORT
from cotdistill.scoring_teacher import TOKEN_LEVEL, TeacherFiles, fitting
from cotdistill.screen import watched
from cotdistill.self_samples import asked_of, refuse_unconfirmed, with_own
from cotdistill.sets import Sets, make_sets
from cotdistill.settings.generate import Generate
from cotdistill.settings.models import Models
from cotdistill.settings.train import Target
from cotdistill.stages.evaluate import run_evaluate
from cotdistill.stages.generate import run_generate
from cotdistill.stages.models import identify, teacher_engine
from cotdistill.stages.train import run_train
from cotdistill.stages.verify import run_verify, teaching_pairs
from cotdistill.trace import Trace
from cotdistill.verdict import Verdict

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
        self.overwrite = overwrite
        self.quiet = quiet
        self.manifest = Manifest.open(directory / "manifest.json")
        # Both models are fetched before any work, so that a missing one costs no teacher time.
        self.teacher = identify(
            recipe.models.teacher, gguf=recipe.models.engine != "transformers", server=recipe.models.server
        )
        self.student = identify(recipe.models.student, gguf=False)

    def report(self, *, force: bool = False) -> Report:
        sets, shots = self._begin()
        planned = not self.recipe.plan.skip and (self.overwrite or "train" not in self.manifest.stages)
        with watched(self._owed(planned=planned), title=self.recipe.name, quiet=self.quiet):
            if planned:
                heed(self._plan(sets, shots), force=force)
            self._traces(sets.train, shots, overwrite=self.overwrite and not planned)
            self._adapter(sets.train)
            self._predictions(sets, shots)
        # Only now: a stage that refuses other settings must leave the record of what was run as it is.
        self._record()
        return publish(self.directory)

    def plan(self) -> Plan:
        sets, shots = self._begin()
        with watched({"traces": False, BASE: False}, title=self.recipe.name, quiet=self.quiet):
            return self._plan(sets, shots)

    def _owed(self, *, planned: bool) -> dict[str, bool]:
        """The lines of the screen, and whether each is done already."""
        settings, unseen = self.recipe.evaluate, self.recipe.questions.unseen
        names = [BASE] if planned else []
        for model in ("base", "student", *(("teacher",) if settings.teacher else ())):
            names += [model, *((f"unseen/{model}",) if unseen else ())]
            if model == "base":
                names += [f"base_{way}" for way in settings.baselines if way != "zero"]
        stages = {"traces": "generate", "training": "train"} | {name: f"evaluate/{name}" for name in names}
        return {title: self.manifest.done(stage) and not self.overwrite for title, stage in stages.items()}

    def _begin(self) -> tuple[Sets, Sequence[Shot]]:
        """The questions and the worked examples."""
        sets = self._questions()
        shots = load_few_shot(Path(self.recipe.generate.few_shot)) if self.recipe.generate.few_shot else ()
        refuse_shown(shots, [*sets.held_out, *sets.unseen], str(self.recipe.generate.few_shot))
        self._refuse_objective(sets.train)
        if self.overwrite or not self.manifest.stages.keys() - {"questions"}:
            self._record()  # so that whoever looks at an unfinished run knows what it is to be
        return sets, shots

    def _plan(self, sets: Sets, shots: Sequence[Shot]) -> Plan:
        models = self.recipe.models
        made = run_plan(Planning(
            self.recipe, self.directory, self.manifest, sets.train, len(sets.held_out), len(sets.unseen),
            {"teacher": self.teacher, "student": self.student},
            lambda asked, unasked, anew: self._ask_teacher(asked, shots, unasked=unasked, overwrite=anew),
            partial(self._open, "base", models.student, None, sets.train), self.overwrite, self.quiet,
        ))  # fmt: skip
        if "train" not in self.manifest.stages:
            self._record()  # a recipe may change between its plan and its run
        return made

    def add_export(self, artifact: Path, *, overwrite: bool) -> str:
        """Ask an exported student the held-out questions and rebuild the report; returns what exporting cost."""
        if not self.manifest.done("evaluate/student"):
            raise DataError(f"{self.directory} is not finished; finish it first: cotdistill run RECIPE")
        sets, settings = self._questions(), self.recipe.evaluate
        asked = Generate(self.recipe.generate.system_prompt, sampling=settings.sampling)
        # An export is what it is: rounding it to 4 bits, as the student is on a GPU, would ask another model.
        models = Models(str(artifact), "", trust_remote_code=self.recipe.models.trust_remote_code, load_in_4bit=False)
        open_it = partial(teacher_engine, models, settings.batch_size, sets.held_out, asked, ())
        with opened_late(open_it) as open_model:
            run_evaluate(
                "export", sets.held_out, self.directory / EXPORT, self.manifest,
                model=identify(str(artifact), gguf=True), system_prompt=asked.system_prompt, sampling=asked.sampling,
                num_samples=settings.num_samples, batch_size=settings.batch_size, open_model=open_model,
                load_in_4bit=models.load_in_4bit, trust_remote_code=models.trust_remote_code, overwrite=overwrite,
                quiet=self.quiet,
            )  # fmt: skip
        of = {"file": artifact.name, "adapter": file_hash(self.directory / "5_adapter" / "adapter_model.safetensors")}
        self.manifest.finish("evaluate/export", **{**self.manifest.facts("evaluate/export"), **of})
        return str(publish(self.directory).details["export"]["sentence"])

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
        write_atomic(self.directory / "recipe.yaml", dump_recipe(recipe).encode())

    def _questions(self) -> Sets:
        return make_sets(self.recipe.questions, self.directory, self.manifest, overwrite=self.overwrite)

    def _ask_teacher(
        self, questions: Sequence[Question], shots: Sequence[Shot], *, unasked: Sequence[Question] = (), overwrite: bool
    ) -> None:
        models, settings = self.recipe.models, self.recipe.generate
        everything = [*questions, *unasked]
        run_generate(
            questions,
            self.directory / "2_traces.jsonl",
            self.manifest,
            settings=settings,
            shots=shots,
            model=self.teacher,
            open_teacher=lambda: teacher_engine(models, settings.batch_size, everything, settings, shots),
            server=models.server,
            unasked=unasked,
            load_in_4bit=models.load_in_4bit,
            trust_remote_code=models.trust_remote_code,
            overwrite=overwrite,
            quiet=self.quiet,
        )

    def _traces(self, train: Sequence[Question], shots: Sequence[Shot], *, overwrite: bool) -> None:
        self._ask_teacher(train, shots, overwrite=overwrite)
        tally = run_verify(
            train, self.directory / "2_traces.jsonl", self.directory / "3_verdicts.jsonl", self.recipe.verify
        )
        log.info("traces: %s", ", ".join(f"{count} {status}" for status, count in tally.counts.most_common()))

    def _refuse_objective(self, train: Sequence[Question]) -> None:
        """An objective that cannot work is refused before the teacher is asked."""
        models, objective = self.recipe.models, self.recipe.train.objective
        if objective == "reject_on_student":
            refuse_unconfirmed(train, self.recipe.verify)
        if objective in TOKEN_LEVEL and not self.manifest.done("train"):  # reading tokens takes seconds
            fitting(self._scorer, models.student, objective, trust_remote_code=models.trust_remote_code)

    @property
    def _scorer(self) -> TeacherFiles:
        models = self.recipe.models
        return TeacherFiles(None if models.server else models.teacher, self.directory / "2_scores.safetensors")

    def _pairs(self, train: Sequence[Question], target: Target) -> list[tuple[str, Question, str]]:
        return list(teaching_pairs(
            train,
            read_rows(self.directory / "2_traces.jsonl", Trace),
            read_rows(self.directory / "3_verdicts.jsonl", Verdict),
            target,
        ))  # fmt: skip

    def _adapter(self, train: Sequence[Question]) -> None:
        recipe = self.recipe
        pairs = self._pairs(train, recipe.train.target)
        if recipe.train.objective == "reject_on_student":
            # Asked as a teacher is: a catalogue student then runs on llama.cpp.
            asked, itself = asked_of(recipe), msgspec.structs.replace(recipe.models, teacher=recipe.models.student,
                                                                      server=None, engine="auto")  # fmt: skip
            pairs = with_own(
                train, pairs, self.directory, self.manifest, recipe=recipe, student=self.student,
                open_student=lambda: teacher_engine(itself, asked.batch_size, train, asked, ()),
                overwrite=self.overwrite, quiet=self.quiet,
            )  # fmt: skip
        run_train(
            pairs,
            self.directory / "5_adapter",
            self.manifest,
            student=self.recipe.models.student,
            system_prompt=self.recipe.generate.system_prompt,
            settings=self.recipe.train,
            examples_file=self.directory / "4_examples.jsonl",
            max_new_tokens=self.recipe.evaluate.max_new_tokens,
            load_in_4bit=self.recipe.models.load_in_4bit,
            trust_remote_code=self.recipe.models.trust_remote_code,
            overwrite=self.overwrite,
            quiet=self.quiet,
            labels=self._pairs(train, "answer") if recipe.train.objective == "step_by_step" else (),
            teacher=self._scorer if recipe.train.objective in TOKEN_LEVEL else None,
        )

    def _predictions(self, sets: Sets, shots: Sequence[Shot]) -> None:
        """Ask each model the held-out and the unseen questions, and the base the held-out ones in other ways too."""
        models, settings = self.recipe.models, self.recipe.evaluate
        plan: dict[str, tuple[str, dict[str, str], Path | None]] = {
            "base": (models.student, self.student, None),
            "student": (models.student, self.student, self.directory / "5_adapter"),
        }
        if settings.teacher:
            plan["teacher"] = (models.teacher, self.teacher, None)
        prompt = self.recipe.generate.system_prompt
        other_ways: dict[str, tuple[str, Sequence[Shot]]] = {"few_shot": (prompt, shots), "native": ("", ())}
        for name, (spec, identity, adapter) in plan.items():
            asked: list[tuple[str, Sequence[Question], str, Sequence[Shot]]] = [(name, sets.held_out, prompt, ())]
            if sets.unseen:
                asked.append((f"unseen/{name}", sets.unseen, prompt, ()))
            if name == "base":
                ways = {way: other_ways[way] for way in settings.baselines if way in other_ways}
                asked += [(f"base_{way}", sets.held_out, *how) for way, how in ways.items()]
            if name == "student" and self.recipe.train.objective == "step_by_step":
                asked.append(("student_label", sets.held_out, LABEL_PROMPT, ()))
            with opened_late(partial(self._open, name, spec, adapter, [*sets.held_out, *sets.unseen])) as open_model:
                for label, questions, system_prompt, shown in asked:
                    run_evaluate(
                        label,
                        questions,
                        self.directory / "6_predictions" / f"{label}.jsonl",
                        self.manifest,
                        model=identity,
                        adapter=adapter,
                        system_prompt=system_prompt,
                        shots=shown,
                        sampling=settings.sampling,
                        num_samples=settings.num_samples,
                        batch_size=settings.batch_size,
                        open_model=open_model,
                        server=models.server if name == "teacher" else None,
                        load_in_4bit=models.load_in_4bit,
                        trust_remote_code=models.trust_remote_code,
                        overwrite=self.overwrite,
                        quiet=self.quiet,
                    )

    def _open(self, name: str, spec: str, adapter: Path | None, questions: Sequence[Question]) -> Engine:
        models, generate, settings = self.recipe.models, self.recipe.generate, self.recipe.evaluate
        if name == "teacher":
            asked = Generate(generate.system_prompt, sampling=settings.sampling)
            return teacher_engine(models, generate.batch_size, questions, asked, ())
        return open_engine(
            spec, engine="transformers", adapter=adapter, batch_size=settings.batch_size,
            load_in_4bit=models.load_in_4bit, trust_remote_code=models.trust_remote_code,
        )  # fmt: skip


def heed(made: Plan, *, force: bool) -> None:
    """Say what the plan found; where it found a reason to stop, raise ``NotWorthIt`` unless ``force``."""
    for line in lines(made):
        log.info("plan: %s", line)
    if made.stop and not force:
        raise NotWorthIt(f"the plan says no: {made.stop}; change the recipe, or go on with --force")
    if made.stop:
        log.warning("going on against the plan: %s", made.stop)


def evaluate_export(directory: Path, artifact: Path, *, overwrite: bool = False, quiet: bool = False) -> str:
    """Ask ``artifact``, exported from the run in ``directory``, the run's held-out questions. It gets a row in
    ``7_report.json`` and its cost in the details there; returns that cost in a sentence."""
    with locked(directory):
        return Run(load_recipe(directory / "recipe.yaml"), directory, False, quiet).add_export(
            artifact, overwrite=overwrite
        )


def recipe_hash(recipe: Recipe) -> str:
    """SHA-256 of the resolved recipe, independent of how its YAML was laid out."""
    return hashlib.sha256(msgspec.json.encode(recipe)).hexdigest()
