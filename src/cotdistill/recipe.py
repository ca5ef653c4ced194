"""Recipe: a whole run in one YAML file, one section per stage.

    name: quickstart
    models: {teacher: qwen2.5-coder-1.5b-instruct, student: smollm2-135m-instruct}
    questions:
      train: {tasks: [{name: chain_sum, size: 100}], seed: 11}
      held_out: {file: data/test_questions.jsonl}

Frozen structs, unknown keys refused, nothing in a recipe is executed. Paths are relative to the directory
the command is started in, like every path on the command line.
"""

import math
from pathlib import Path
from typing import Any, Literal

import msgspec
import yaml

from cotdistill.bounds import Count, Dropout, Length, PlanQuestions, Positive, Rate, Seed, Share, Temperature
from cotdistill.engines import EngineName, Sampling
from cotdistill.errors import DataError, UsageError
from cotdistill.generated import Task
from cotdistill.kinds import KINDS
from cotdistill.prompt import SYSTEM_PROMPT
from cotdistill.server import Server

Target = Literal["reasoning", "answer"]
"""What a student learns to write: the whole trace, or its final line alone."""

Baseline = Literal["zero", "few_shot", "native"]
"""How the base is asked: as the student is, with the teacher's worked examples, or without a system prompt of ours."""

Scheduler = Literal["cosine", "linear", "constant"]
"""What becomes of the learning rate after the warm-up."""

Objective = Literal["sft", "step_by_step", "on_policy", "offline_kd", "reject_on_student"]
"""What a student is trained for; see ``objectives``."""

Optimizer = Literal["adamw", "adamw_8bit"]
"""``adamw_8bit`` (bitsandbytes; Dettmers et al. 2022) keeps its state in a quarter of the memory."""


class Models(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Catalogue names or paths. ``engine`` runs the teacher: ``auto`` takes llama.cpp for a GGUF file. With a
    ``server``, ``teacher`` is the name that server knows its model by."""

    teacher: str
    student: str
    engine: EngineName = "auto"
    trust_remote_code: bool = False
    load_in_4bit: bool | None = None
    server: Server | None = None

    def __post_init__(self) -> None:
        if self.engine == "openai_server" and not self.server:
            raise ValueError("the engine openai_server needs a server's base_url")
        if self.server and self.engine not in ("auto", "openai_server"):
            raise ValueError(f"a base_url is for the engine openai_server, not {self.engine}")


class Source(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where questions come from: a ``file`` of the user's, or generated ``tasks`` drawn from ``seed``."""

    file: str | None = None
    tasks: tuple[Task, ...] = ()
    seed: Seed = 0
    limit: Count | None = None

    def __post_init__(self) -> None:
        if bool(self.file) == bool(self.tasks):
            raise ValueError("give either `file` or `tasks`")


class Questions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``held_out`` decides the verdict; ``unseen`` is a second slice of another kind, reported without a bar."""

    train: Source
    held_out: Source
    unseen: Source | None = None


class Generate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How the teacher is asked. ``few_shot`` names a file of worked examples only the teacher sees."""

    system_prompt: str = SYSTEM_PROMPT
    few_shot: str | None = None
    num_samples: Count = 1
    batch_size: Count = 8
    sampling: Sampling = Sampling(max_new_tokens=256)


class Verify(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``steps`` drops traces with false arithmetic; ``repair`` adds a final line to right ones that lack it.

    ``vote``: where there is no gold, traces must agree with the majority of at least three. ``kind`` is that of
    answers whose question declares none; ``markers`` are read besides the usual ones. Traces of more than
    ``max_words`` do not teach, and of those left at most ``max_per_question``, the most different ones.
    ``decontaminate`` names a file of test questions that must not be trained on, and ``decontaminate_ngram`` how
    many words in a row are too many to share with one.
    """

    steps: bool = True
    repair: bool = True
    vote: bool = False
    kind: str | None = None
    markers: tuple[str, ...] = ()
    max_words: Count | None = None
    max_per_question: Count | None = None
    decontaminate: str | None = None
    decontaminate_ngram: Count | None = None

    def __post_init__(self) -> None:
        if self.kind not in (None, *KINDS):
            raise ValueError(f"kind {self.kind!r} is none of {', '.join(KINDS)}")
        if not all(marker.strip() for marker in self.markers):
            raise ValueError("a marker is empty")
        if self.decontaminate_ngram and not self.decontaminate:
            raise ValueError("decontaminate_ngram needs decontaminate, a file of test questions")


class Lora(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """LoRA's shape (Hu et al. 2021). ``targets`` are last names of linear layers; empty means the default.

    ``use_dora`` trains the length of each weight column apart from its direction (Liu et al. 2024); ``use_rslora``
    scales by alpha / sqrt(r) instead of alpha / r (Kalajdzievski 2023), which a large r needs.
    """

    r: Count = 8
    alpha: Count = 16
    dropout: Dropout = 0.05
    targets: tuple[str, ...] = ()
    use_dora: bool = False
    use_rslora: bool = False


class OnPolicySettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``student_share`` (lambda) of the rows are answers that the student writes, of at most ``max_new_tokens``; the
    others are traces. ``beta``: 0 is KL(teacher || student), 1 the reverse, between them lies the generalised JSD.
    ``top_k`` of the teacher's tokens are told apart, the others are one."""

    student_share: Share = 0.5
    beta: Share = 0.5
    top_k: Count = 32
    max_new_tokens: Count = 256


class OfflineSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``weight`` is the share of the loss that the teacher's stored ``top_k`` probabilities have; the traces' tokens
    have the rest."""

    weight: Rate = 0.5
    top_k: Count = 32


class SelfSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The student answers every training question ``num_samples`` times; its right answers teach it where no trace of
    the teacher does, or ``alone``."""

    num_samples: Count = 4
    temperature: Temperature = 0.7
    alone: bool = False

    def __post_init__(self) -> None:
        if not self.temperature:
            raise ValueError("the student's own samples need a temperature above 0: greedy ones are all the same")


class TrainSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How to train; the defaults are those of the scripts. ``warmup_ratio`` is a share of all steps.

    ``validation`` is the share of questions that are not trained on but tried after each epoch: the adapter that did
    best on them is kept. With ``patience``, training stops after so many epochs without a better one.

    ``target`` "answer" trains on the final line alone, without the reasoning: the arm that shows what the
    reasoning is worth. ``alpha`` is the share of the loss that ``step_by_step`` gives to the answers alone.
    """

    num_epochs: Positive = 3.0
    batch_size: Count = 4
    gradient_accumulation_steps: Count = 4
    learning_rate: Rate = 2e-4
    warmup_ratio: Share = 0.03
    lr_scheduler: Scheduler = "cosine"
    optim: Optimizer = "adamw"
    max_length: Length = 1024
    gradient_checkpointing: bool = False
    seed: Seed = 42
    target: Target = "reasoning"
    validation: Share = 0.0
    patience: Count | None = None
    lora: Lora = Lora()
    objective: Objective = "sft"
    alpha: Share = 0.5
    on_policy: OnPolicySettings = OnPolicySettings()
    offline_kd: OfflineSettings = OfflineSettings()
    reject_on_student: SelfSettings = SelfSettings()

    def __post_init__(self) -> None:
        if self.target == "answer" and self.objective != "sft":
            raise ValueError(f"the target answer is for the objective sft: {self.objective} is about the reasoning")
        if self.objective == "step_by_step" and not 0 < self.alpha < 1:
            raise ValueError("step_by_step needs an alpha between 0 and 1; at its ends one of its two tasks is missing")
        if self.patience and not self.validation:
            raise ValueError("patience needs validation, a share of the questions to try the adapter on")

    @property
    def that_count(self) -> dict[str, Any]:
        """As plain data, without the options of objectives that were not chosen."""
        plain: dict[str, Any] = msgspec.to_builtins(self)
        unused = {"on_policy", "offline_kd", "reject_on_student"} - {self.objective}
        unused |= {"alpha"} if self.objective != "step_by_step" else set()
        unused |= {"objective"} if self.objective == "sft" else set()  # records from before there were others fit
        return {key: value for key, value in plain.items() if key not in unused}

    def steps(self, rows: int) -> tuple[int, int]:
        """Optimizer steps of one epoch over ``rows``, and of the whole training."""
        epoch = math.ceil(math.ceil(rows / self.batch_size) / self.gradient_accumulation_steps)
        return epoch, math.ceil(epoch * self.num_epochs)


class Evaluate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Greedy and once, with the student's prompt for every model; ``baselines`` are more ways to ask the base, of
    which ``zero`` is always taken and decides. Several samples are drawn at a ``temperature``; the first decides."""

    max_new_tokens: Count = 256
    batch_size: Count = 32
    teacher: bool = True
    baselines: tuple[Baseline, ...] = ("zero",)
    num_samples: Count = 1
    temperature: Temperature = 0.0

    def __post_init__(self) -> None:
        if self.num_samples > 1 and not self.temperature:
            raise ValueError("num_samples > 1 needs a temperature above 0: greedy samples are all the same")

    @property
    def sampling(self) -> Sampling:
        greedy = Sampling(max_new_tokens=self.max_new_tokens)
        if not self.temperature:
            return greedy
        return msgspec.structs.replace(greedy, do_sample=True, temperature=self.temperature)


class PlanSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A try on so many training questions before a run, which stops it where it cannot help; see ``plan``."""

    skip: bool = False
    questions: PlanQuestions = 24


class ReportSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    title: str = ""


class Recipe(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything a run needs to know; written back in full to ``runs/NAME/recipe.yaml``."""

    name: str
    models: Models
    questions: Questions
    plan: PlanSettings = PlanSettings()
    generate: Generate = Generate()
    verify: Verify = Verify()
    train: TrainSettings = TrainSettings()
    evaluate: Evaluate = Evaluate()
    report: ReportSettings = ReportSettings()

    def __post_init__(self) -> None:
        plain = self.name.isprintable() and Path(self.name).name == self.name and len(self.name.encode()) <= 200
        if not plain or not self.name or self.name.startswith("."):
            raise ValueError(f"name {self.name!r} must be a plain directory name")
        sampling = self.generate.sampling
        if self.generate.num_samples > 1 and not sampling.do_sample:
            raise ValueError("num_samples > 1 needs sampling.do_sample: greedy samples are all the same")
        if sampling.do_sample and not sampling.temperature:
            raise ValueError("sampling.do_sample needs a temperature above 0")
        if "few_shot" in self.evaluate.baselines and not self.generate.few_shot:
            raise ValueError("the baseline few_shot needs generate.few_shot, a file of worked examples")


def load_recipe(path: Path) -> Recipe:
    """Read a recipe. Raises ``DataError`` naming file and place for anything it does not understand."""
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UsageError(f"no recipe at {path}; the shipped ones are in recipes/") from error
    except Exception as error:  # dates, numbers and odd keys raise all sorts of errors in PyYAML
        raise DataError(f"cannot read the recipe {path}: {' '.join(str(error).split())}") from error
    return decode_recipe(data, str(path))


def decode_recipe(data: object, where: str) -> Recipe:
    """A recipe from plain data (what YAML gives)."""
    try:
        recipe = msgspec.convert(data, type=Recipe)
        msgspec.json.encode(recipe)  # what a task's config holds is known here only by trying
    except (msgspec.MsgspecError, ValueError, TypeError, OverflowError, RecursionError) as error:
        raise DataError(f"{where}: {error}") from error
    return recipe


def with_name(recipe: Recipe, name: str) -> Recipe:
    """The recipe under another run name. Raises ``DataError`` for one that is no plain directory name."""
    return decode_recipe({**msgspec.to_builtins(recipe), "name": name}, "--name")


def without_plan(recipe: Recipe) -> Recipe:
    """The recipe without the plan before its run."""
    return msgspec.structs.replace(recipe, plan=msgspec.structs.replace(recipe.plan, skip=True))


def with_seed(recipe: Recipe, seed: int) -> Recipe:
    """The recipe with other training questions and another order of training; held-out questions stay."""
    train = msgspec.structs.replace(recipe.questions.train, seed=seed)
    return msgspec.structs.replace(
        recipe,
        questions=msgspec.structs.replace(recipe.questions, train=train),
        train=msgspec.structs.replace(recipe.train, seed=seed),
    )


def with_baselines(recipe: Recipe, baselines: str) -> Recipe:
    """The recipe with the base asked in these ways too, ``zero,few_shot,native``. Raises ``DataError`` for others."""
    plain = msgspec.to_builtins(recipe)
    plain["evaluate"]["baselines"] = baselines_in(baselines)
    return decode_recipe(plain, "--baseline")


def baselines_in(text: str) -> list[str]:
    """The names in ``zero,few-shot,native``, dashes as underscores."""
    return [name.strip().replace("-", "_") for name in text.split(",") if name.strip()]


def dump_recipe(recipe: Recipe) -> str:
    """The recipe with every default written out, as YAML."""
    return str(yaml.safe_dump(msgspec.to_builtins(recipe), sort_keys=False, allow_unicode=True))
