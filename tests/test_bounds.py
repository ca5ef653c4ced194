"""A recipe's numbers that make no sense are refused before any work, by name."""

import math
from typing import Any

import pytest

from cotdistill.errors import DataError
from cotdistill.recipe import Recipe, decode_recipe


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


def test_a_baseline_named_twice_is_refused() -> None:
    with pytest.raises(DataError, match="one twice"):
        recipe("evaluate", baselines=["zero", "zero"])
