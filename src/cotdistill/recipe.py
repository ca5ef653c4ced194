"""Recipe: a whole run in one YAML file, one section per stage.

    name: quickstart
    models: {teacher: qwen2.5-coder-1.5b-instruct, student: smollm2-135m-instruct}
    questions:
      train: {tasks: [{name: chain_sum, size: 100}], seed: 11}
      held_out: {file: data/test_questions.jsonl}

Frozen structs, unknown keys refused, nothing in a recipe is executed. Paths are relative to the directory
the command is started in, like every path on the command line.
"""

import hashlib
import re
from pathlib import Path
from typing import Any

import msgspec
import yaml

from cotdistill.bounds import PlanQuestions
from cotdistill.choices import with_choices
from cotdistill.engines import Sampling
from cotdistill.errors import DataError, UsageError
from cotdistill.going_on import go_on
from cotdistill.settings.evaluate import Evaluate, baselines_in
from cotdistill.settings.generate import Generate
from cotdistill.settings.models import Models
from cotdistill.settings.questions import Questions
from cotdistill.settings.train import TrainSettings
from cotdistill.settings.verify import Verify


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

    @property
    def answering(self) -> Sampling:
        """How every model answers the held-out questions: thinking first where the student learns to."""
        return msgspec.structs.replace(self.evaluate.sampling, thinking=self.train.thinks)

    def __post_init__(self) -> None:
        plain = self.name.isprintable() and Path(self.name).name == self.name and len(self.name.encode()) <= 200
        if not plain or not self.name or self.name.startswith("."):
            raise ValueError(f"name {self.name!r} must be a plain directory name")
        sampling = self.generate.sampling
        if sampling.do_sample and not sampling.temperature:
            raise ValueError("sampling.do_sample needs a temperature above 0")
        if self.generate.hint and not self.verify.hinted:
            raise ValueError("generate.hint needs verify.hinted: without it no trace that it gives may teach")
        if "few_shot" in self.evaluate.baselines and not self.generate.few_shot:
            raise ValueError("the baseline few_shot needs generate.few_shot, a file of worked examples")
        if self.models.server and sampling.thinking:
            raise ValueError("sampling.thinking is for models that run here; a server is told with server.extra_body")
        if self.evaluate.answer_only and self.train.target == "answer":
            raise ValueError("evaluate.answer_only would train the same student twice where train.target is answer")


def load_recipe(path: Path) -> Recipe:
    """Read a recipe. Raises ``DataError`` naming file and place for anything it does not understand."""
    if (path / "recipe.yaml").is_file():
        raise UsageError(f"{path} is a run directory; to go on: {go_on(path)}")
    try:
        data = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except FileNotFoundError as error:
        raise UsageError(f"no recipe at {path}; `cotdistill init` writes one, others are in recipes/") from error
    except Exception as error:  # dates, numbers and odd keys raise all sorts of errors in PyYAML
        raise DataError(f"cannot read the recipe {path}: {' '.join(str(error).split())}") from error
    if data is None:
        raise DataError(f"the recipe {path} is empty; recipes/quickstart.yaml is a whole one")
    return decode_recipe(data, str(path))


def decode_recipe(data: object, where: str) -> Recipe:
    """A recipe from plain data (what YAML gives)."""
    try:
        recipe = msgspec.convert(_with_empty_sections(data, Recipe), type=Recipe)
        msgspec.json.encode(recipe)  # what a task's config holds is known here only by trying
    except (msgspec.MsgspecError, ValueError, TypeError, OverflowError, RecursionError) as error:
        raise DataError(f"{where}: {with_choices(str(error), Recipe)}") from error
    return recipe


def _with_empty_sections(data: object, kind: type[msgspec.Struct]) -> object:
    """The data without sections that hold nothing but comments, which YAML reads as null: they are the default ones."""
    if not isinstance(data, dict):
        return data
    defaults = {one.name: one.default for one in msgspec.structs.fields(kind)}
    sections = {name: type(one) for name, one in defaults.items() if isinstance(one, msgspec.Struct)}
    return {
        key: _with_empty_sections(value, sections[key]) if key in sections else value
        for key, value in data.items()
        if value is not None or key not in sections
    }


def json_schema() -> bytes:
    """What a recipe may hold, as JSON schema (draft 2020-12)."""
    found = msgspec.json.schema(Recipe, schema_hook=lambda kind: {"title": "anything"})
    for struct in found["$defs"].values():
        for one in struct.get("properties", {}).values():
            if "$ref" in one and "default" in one:  # a section, which may hold nothing but comments
                one["anyOf"] = [{"$ref": one.pop("$ref")}, {"type": "null"}]
    return msgspec.json.format(msgspec.json.encode(found), indent=1) + b"\n"


def with_name(recipe: Recipe, name: str) -> Recipe:
    """The recipe under another run name. Raises ``UsageError`` for one that is no plain directory name."""
    return _changed({**msgspec.to_builtins(recipe), "name": name}, "--name")


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
    """The recipe with the base asked in these ways too, ``zero,few_shot,native``. Raises ``UsageError`` for others."""
    plain = msgspec.to_builtins(recipe)
    plain["evaluate"]["baselines"] = baselines_in(baselines)
    return _changed(plain, "--baseline")


def _changed(data: object, flag: str) -> Recipe:
    """A recipe that a flag changed: what it does not permit is the flag's fault."""
    try:
        return decode_recipe(data, flag)
    except DataError as error:
        raise UsageError(str(error)) from error


def dump_recipe(recipe: Recipe) -> str:
    """The recipe with every default written out, as YAML."""
    return to_yaml(msgspec.to_builtins(recipe))


def recipe_hash(recipe: Recipe) -> str:
    """SHA-256 of the resolved recipe, independent of how its YAML was laid out."""
    return hashlib.sha256(msgspec.json.encode(recipe)).hexdigest()


def to_yaml(plain: object) -> str:
    """Plain data in the form that ``load_recipe`` reads."""
    return str(yaml.dump(plain, Dumper=_Dumper, sort_keys=False, allow_unicode=True))


class _Loader(yaml.SafeLoader):
    """Reads 1e-3 and 1.5e3 as the numbers that everybody means; to YAML 1.1 they are words, for want of a dot in the
    one and of a sign in the other. Of a key that is there twice PyYAML would keep the later value without a word."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise ValueError(f"line {key.start_mark.line + 1}: {key.value!r} is there twice; put them together")
                seen.add(key.value)
        return node


class _Dumper(yaml.SafeDumper):
    """Quotes a word that ``_Loader`` would read as a number."""


_POWER_OF_TEN = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+$")
for _one in (_Loader, _Dumper):
    _one.add_implicit_resolver("tag:yaml.org,2002:float", _POWER_OF_TEN, list("-+.0123456789"))
