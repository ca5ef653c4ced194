"""The recipe that ``cotdistill init`` writes: it says what the defaults are, and an editor can check it."""

import json
import re

import msgspec
import pytest
import yaml
from typer.testing import CliRunner

from cotdistill.cli import app
from cotdistill.recipe import Recipe, decode_recipe, load_recipe

DEFAULT = re.compile(r"^( *)# (\w+: .*)$", re.MULTILINE)


@pytest.fixture
def written(tmp_path):
    done = CliRunner().invoke(app, ["init", str(tmp_path / "new/recipe.yaml")])
    assert done.exit_code == 0, done.output
    return tmp_path / "new/recipe.yaml"


def test_its_comments_are_the_defaults_of_every_key(written):
    text = written.read_text()
    recipe = load_recipe(written)
    assert decode_recipe(yaml.safe_load(DEFAULT.sub(r"\1\2", text)), "all defaults written out") == recipe
    for section in ("models", "plan", "generate", "verify", "train", "evaluate", "report"):
        part = text.partition(f"\n{section}:")[2]
        for key, value in msgspec.to_builtins(getattr(recipe, section)).items():
            mentioned = re.search(rf"^ +(?:# )?{key}:", part, re.MULTILINE) or key == "system_prompt"
            assert mentioned or isinstance(value, dict), key  # objectives' own settings stand in docs/objectives.md


def test_nothing_is_replaced(written):
    written.write_text("mine")
    done = CliRunner().invoke(app, ["init", str(written)])
    assert "is there already" in str(done.exception)
    assert written.read_text() == "mine"


def test_the_schema_knows_every_key_and_no_other(written):
    schema = json.loads((written.parent / "recipe.schema.json").read_text())
    assert written.read_text().startswith("# yaml-language-server: $schema=recipe.schema.json\n")
    found = schema["$defs"]["Recipe"]
    assert found["properties"].keys() == {field.name for field in msgspec.structs.fields(Recipe)}
    assert found["required"] == ["name", "models", "questions"]
    assert found["additionalProperties"] is False


@pytest.mark.parametrize("text", ["train:", "train: {lora: }", "plan:\nreport:\nevaluate:\nverify:\ngenerate: {sampling: }"])
def test_a_section_of_comments_alone_is_the_default_one(tmp_path, text):
    path = tmp_path / "r.yaml"
    plain = "name: n\nmodels: {teacher: t, student: s}\nquestions: {train: {file: a}, held_out: {file: b}}\n"
    path.write_text(plain + text)
    (tmp_path / "plain.yaml").write_text(plain)
    assert load_recipe(path) == load_recipe(tmp_path / "plain.yaml")
