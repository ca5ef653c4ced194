"""What a recipe file may not be."""

import shutil
from pathlib import Path

import pytest

from cotdistill.errors import DataError, UsageError
from cotdistill.recipe import load_recipe

QUICKSTART = Path(__file__).resolve().parent.parent / "recipes/quickstart.yaml"


@pytest.mark.parametrize(
    ("more", "said"), [("\nname: again\n", "'name' is there twice"), ("\nreport: {title: a, title: b}\n", "'title'")]
)
def test_a_key_that_is_there_twice_is_refused_with_file_line_and_key(tmp_path, more, said):
    text = QUICKSTART.read_text() + more
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(DataError, match=rf"r\.yaml: line {len(text.splitlines())}: {said}"):
        load_recipe(tmp_path / "r.yaml")


def test_a_key_may_stand_in_a_section_and_in_what_it_takes_over(tmp_path):
    text = QUICKSTART.read_text()
    assert load_recipe(QUICKSTART)
    (tmp_path / "r.yaml").write_text(f"{text}\nreport: &a {{title: x}}\n".replace("&a {", "{<<: {title: y}, "))
    assert load_recipe(tmp_path / "r.yaml").report.title == "x"


def test_a_run_directory_given_as_a_recipe_names_the_command_that_goes_on(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    directory = Path("runs/second")
    directory.mkdir(parents=True)
    shutil.copy(QUICKSTART, directory / "recipe.yaml")
    with pytest.raises(UsageError, match=r"to go on: cotdistill run runs/second/recipe\.yaml --name second$"):
        load_recipe(directory)
