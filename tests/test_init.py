"""The recipe that ``cotdistill init`` writes: it says what the defaults are, and an editor can check it."""

import json
import re
from pathlib import Path

import jsonschema
import msgspec
import pytest
import yaml
from typer.testing import CliRunner

from cotdistill.cli import app
from cotdistill.recipe import decode_recipe, load_recipe

RECIPES = sorted((Path(__file__).parent.parent / "recipes").glob("*.yaml"))
DEFAULT = re.compile(r"^( *)# (\w+: .*)$", re.MULTILINE)
ELSEWHERE = {"generate": {"system_prompt"}, "train": {"step_by_step", "on_policy", "offline_kd", "reject_on_student", "auto"}}
"""Keys of which it says in words where they stand."""


@pytest.fixture
def written(tmp_path):
    done = CliRunner().invoke(app, ["init", str(tmp_path / "new/recipe.yaml")])
    assert done.exit_code == 0, done.output
    return tmp_path / "new/recipe.yaml"


def test_its_comments_are_the_defaults_of_every_key(written):
    said = yaml.safe_load(DEFAULT.sub(r"\1\2", written.read_text()))
    recipe = load_recipe(written)
    assert decode_recipe(said, "with all defaults written out") == recipe
    every = msgspec.to_builtins(recipe)
    assert said.keys() == every.keys()
    for section in every.keys() - {"name", "questions"}:
        assert said[section].keys() == every[section].keys() - ELSEWHERE.get(section, set()), section
    for section, part in (("generate", "sampling"), ("train", "lora")):
        assert said[section][part].keys() == every[section][part].keys()
    assert said["questions"].keys() == every["questions"].keys()


def test_no_recipe_is_replaced(written):
    written.write_text("mine")
    for name in (written, written.with_name("recipe.schema.json")):
        done = CliRunner().invoke(app, ["init", str(name)])
        assert "is there already" in str(done.exception)
    assert written.read_text() == "mine"
    json.loads(written.with_name("recipe.schema.json").read_text())


def test_its_schema_takes_what_we_take_and_nothing_else(written):
    assert written.read_text().startswith("# yaml-language-server: $schema=recipe.schema.json\n")
    schema = json.loads((written.parent / "recipe.schema.json").read_text())
    check = jsonschema.Draft202012Validator(schema)
    assert len(RECIPES) >= 3
    for path in [written, *RECIPES]:
        check.validate(yaml.safe_load(path.read_text()))
    for odd in ({"trian": {}}, {"train": {"num_epoch": 1}}, {"train": {"lora": {"r": "8"}}}, {"verify": {"prefer": "best"}}):
        assert not check.is_valid({**yaml.safe_load(written.read_text()), **odd}), odd


@pytest.mark.parametrize("text", ["train:", "train: {lora: }", "plan:\nreport:\nevaluate:\nverify:\ngenerate: {sampling: }"])
def test_a_section_of_comments_alone_is_the_default_one(tmp_path, text):
    path = tmp_path / "r.yaml"
    plain = "name: n\nmodels: {teacher: t, student: s}\nquestions: {train: {file: a}, held_out: {file: b}}\n"
    path.write_text(plain + text)
    (tmp_path / "plain.yaml").write_text(plain)
    assert load_recipe(path) == load_recipe(tmp_path / "plain.yaml")
