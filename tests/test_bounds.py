"""A recipe's numbers that make no sense are refused before any work, by name."""

import math
import re
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from cotdistill.cli import app
from cotdistill.errors import DataError, UsageError
from cotdistill.recipe import Recipe, decode_recipe, dump_recipe, load_recipe


def recipe(section: str = "train", **values: Any) -> Recipe:
    source = {"tasks": [{"name": "chain_sum", "size": 3}]}
    data: dict[str, Any] = {
        "name": "r", "models": {"teacher": "t", "student": "s"}, "questions": {"train": source, "held_out": source},
    }  # fmt: skip
    place = data
    for part in section.split(".") if section else []:
        place = place.setdefault(part, {})
    place.update(values)
    return decode_recipe(data, "r.yaml")


@pytest.mark.parametrize(
    ("section", "name", "bad"),
    [
        *(("train", name, bad) for name in ("batch_size", "gradient_accumulation_steps") for bad in (0, -1, 10**30, 1.5)),
        *(("train", name, bad) for name in ("num_epochs", "learning_rate") for bad in (0, -1.0, math.nan, math.inf)),
        ("train", "learning_rate", 2), ("train", "max_length", 1), ("train", "seed", -1), ("train", "seed", 2**32),
        ("train", "lr_scheduler", "cosin"), ("train", "warmup_ratio", 1.5), ("train.lora", "r", 0),
        ("train.lora", "alpha", 0), ("train.lora", "dropout", 1.0), ("train.lora", "dropout", -0.1),
        ("generate", "num_samples", 0), ("generate", "batch_size", 0), ("generate.sampling", "max_new_tokens", 0),
        ("generate.sampling", "temperature", -0.1), ("generate.sampling", "temperature", math.nan),
        ("generate.sampling", "top_p", 0), ("generate.sampling", "top_p", 1.1), ("evaluate", "max_new_tokens", 0),
        ("questions.train", "limit", 0), ("questions.train", "seed", -5), ("verify", "max_words", 0),
    ],
)  # fmt: skip
def test_a_number_out_of_bounds_is_refused_by_its_name(section: str, name: str, bad: Any) -> None:
    with pytest.raises(DataError, match=rf"r\.yaml: .*{section}\.{name}"):
        recipe(section, **{name: bad})


def test_the_edges_are_allowed() -> None:
    assert recipe("train.lora", dropout=0, r=1).train.lora.r == 1
    assert recipe("generate.sampling", top_p=1, temperature=0, seed=2**32 - 1).generate.sampling.top_p == 1
    assert recipe("train", lr_scheduler="constant", num_epochs=0.01, max_length=2).train.lr_scheduler == "constant"


def test_sampling_at_temperature_zero_is_refused() -> None:
    with pytest.raises(DataError, match="temperature above 0"):
        recipe("generate.sampling", do_sample=True, temperature=0)


@pytest.mark.parametrize("name", ["", ".", "..", ".hidden", "a/b", "a\x00b", "a\nb", "x" * 201, "\ud800"])
def test_a_name_that_is_no_plain_directory_is_refused(name: str) -> None:
    with pytest.raises(DataError):
        recipe("", name=name)


ENDLESS: list[Any] = []
ENDLESS.append(ENDLESS)  # YAML can write it: &a [*a]


@pytest.mark.parametrize("value", ["\ud800", ENDLESS, {"a": object()}], ids=["surrogate", "endless", "object"])
def test_a_task_setting_that_no_file_can_hold_is_refused(value: Any) -> None:
    with pytest.raises(DataError):
        recipe("questions.held_out", tasks=[{"name": "chain_sum", "size": 3, "config": {"a": value}}])


@pytest.mark.parametrize(
    ("section", "name", "bad", "possible"),
    [
        ("train", "optim", "adam", "adamw and adamw_8bit"),
        ("train.auto", "rungs", ["sft", "stf"], "offline_kd, on_policy, reject_on_student, sft and step_by_step"),
        ("evaluate", "baselines", ["two"], "few_shot, native and zero"),
    ],
)
def test_a_word_that_is_none_of_a_few_gets_the_few_named(section: str, name: str, bad: Any, possible: str) -> None:
    with pytest.raises(DataError, match=rf"{section}\.{name}.*possible are {possible}$"):
        recipe(section, **{name: bad})


@pytest.mark.parametrize(
    ("section", "key", "near"),
    [("train", "num_epoch", "num_epochs"), ("train.auto", "rung", "rungs"), ("verify", "step", "steps")],
)
def test_a_key_that_is_none_gets_those_like_it_named(section: str, key: str, near: str) -> None:
    with pytest.raises(DataError, match=rf"unknown field `{key}`.*; near: .*{near}"):
        recipe(section, **{key: 1})


def test_a_recipe_says_numbers_as_everybody_does_and_words_stay_words(tmp_path) -> None:
    file = tmp_path / "recipe.yaml"
    plain = yaml.safe_load(dump_recipe(recipe()))
    plain["name"] = "1e-3"
    file.write_text(yaml.safe_dump(plain).replace("learning_rate: 0.0002", "learning_rate: 2e-4"))
    assert "learning_rate: 2e-4" in file.read_text()
    with pytest.raises(DataError, match=r"\$.name"):
        load_recipe(file)  # a number, unless it is quoted
    file.write_text(file.read_text().replace("name: 1e-3", "name: '1e-3'"))
    read = load_recipe(file)
    assert (read.train.learning_rate, read.name) == (2e-4, "1e-3")
    file.write_text(dump_recipe(read))
    assert load_recipe(file) == read


def test_an_empty_recipe_is_said_to_be_empty(tmp_path) -> None:
    (tmp_path / "recipe.yaml").write_text("# nothing\n")
    with pytest.raises(DataError, match="is empty"):
        load_recipe(tmp_path / "recipe.yaml")


def test_a_baseline_named_twice_is_refused() -> None:
    with pytest.raises(DataError, match="one twice"):
        recipe("evaluate", baselines=["zero", "zero"])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("train --student_model s --cot_dataset c --output_dir o --learning_rate 5", r"learning_rate: .* <= 1"),
        ("train --student_model s --cot_dataset c --output_dir o --seed 5000000000", "seed: "),
        ("train --student_model s --cot_dataset c --output_dir o --lora_r 3000000000", r"lora\.r: "),
        ("evaluate --base_model b --test_file t --output_file o --temperature 500", r"temperature: .* <= 100"),
        ("generate --teacher_model t --input_file q.jsonl --output_file o --do_sample --temperature 500",
         r"sampling\.temperature: .* <= 100"),
    ],
)  # fmt: skip
def test_a_flag_is_held_to_the_bounds_of_a_recipe(words, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "q.jsonl").write_text('{"question": "What is 1 + 1?", "answer": "2"}')
    done = CliRunner().invoke(app, words.split())
    assert isinstance(done.exception, UsageError), done.output
    assert re.search(said, str(done.exception))
