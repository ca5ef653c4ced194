"""What a Python program may rely on: ``import cotdistill`` is cheap, and ``run`` does what the command does."""

from importlib import resources
from pathlib import Path

import pytest

import cotdistill
from cotdistill import pipeline
from cotdistill.errors import UsageError
from cotdistill.recipe import load_recipe, with_name
from test_cli import cotdistill as in_a_process

RECIPE = Path(__file__).parent.parent / "recipes/quickstart.yaml"


def test_import_loads_no_library_that_is_not_the_standard_one():
    code = "import cotdistill; print({'torch', 'transformers', 'msgspec', 'yaml'} & sys.modules.keys())"
    assert in_a_process(code=code).stdout.strip() == "set()"


@pytest.fixture
def calls(monkeypatch):
    seen = []
    monkeypatch.setattr(pipeline, "run", lambda recipe, **options: seen.append((recipe, options)))
    return seen


def test_a_recipe_is_a_file_or_a_value(calls):
    value = with_name(load_recipe(RECIPE), "another")
    for recipe in (str(RECIPE), RECIPE, value):
        cotdistill.run(recipe)
    assert [recipe.name for recipe, _ in calls] == ["quickstart", "quickstart", "another"]


def test_all_that_the_command_can_say_reaches_the_run(calls):
    cotdistill.run(RECIPE, runs="here", overwrite=True, force=True, break_lock=True, quiet=True)
    said = {"runs": Path("here"), "overwrite": True, "force": True, "break_lock": True, "quiet": True}
    assert calls[0][1] == said
    cotdistill.run(RECIPE)
    assert calls[1][1] == {**dict.fromkeys(said, False), "runs": Path("runs")}


def test_what_the_user_can_fix_is_one_exported_error(tmp_path):
    with pytest.raises(cotdistill.CotdistillError, match="no recipe at") as raised:
        cotdistill.run(tmp_path / "none.yaml")
    assert raised.type is UsageError


def test_the_package_says_that_it_is_typed():
    assert (resources.files(cotdistill) / "py.typed").is_file()
