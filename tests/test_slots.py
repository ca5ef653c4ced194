"""How many requests llama.cpp decodes together and how long they may be: what the file and the memory have."""

from pathlib import Path

import gguf
import pytest

from cotdistill.engines import Sampling, slots
from cotdistill.engines.slots import fit
from cotdistill.errors import SetupError
from cotdistill.settings.generate import Generate
from cotdistill.settings.models import Models
from cotdistill.stages import models

A_TOKEN = 2 * 2 * 4 * 3 * 16
"""Bytes: keys and values of 16 bits in 4 layers of 3 heads of 16 numbers."""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file of 32,768 tokens, and nothing else but what a cache's size follows from."""
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "qwen2")
    writer.add_context_length(32768)
    writer.add_block_count(4)
    writer.add_embedding_length(96)
    writer.add_head_count(6)
    writer.add_head_count_kv(3)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return tmp_path / "m.gguf"


def free(monkeypatch: pytest.MonkeyPatch, tokens: float, file: Path) -> None:
    memory = int(tokens * A_TOKEN / slots.SHARE) + file.stat().st_size
    monkeypatch.setattr(slots, "available_memory", lambda: memory)


def test_a_context_ends_where_that_of_the_file_does_and_not_before(file, monkeypatch):
    free(monkeypatch, 1e9, file)
    assert fit(file, 8, 20_000, 16_384) == (8, 20_000)
    assert fit(file, 8, 500_000, 16_384) == (8, 32_768)


def test_an_answer_that_no_context_of_the_file_holds_is_refused_with_both_numbers(file):
    with pytest.raises(SetupError, match=r"m\.gguf holds 32,768 tokens .* max_new_tokens is 40,000"):
        fit(file, 8, 41_000, 40_000)


def test_where_memory_is_short_fewer_are_decoded_together_and_where_one_is_too_many_it_is_said(file, monkeypatch):
    free(monkeypatch, 3.5 * 20_000, file)
    assert fit(file, 8, 20_000, 16_384) == (3, 20_000)
    assert fit(file, 2, 20_000, 16_384) == (2, 20_000)
    free(monkeypatch, 0.5 * 20_000, file)
    with pytest.raises(SetupError, match=r"20,000 tokens .* GiB are free; lower max_new_tokens"):
        fit(file, 8, 20_000, 16_384)


def test_a_short_context_is_taken_without_reading_the_file(tmp_path):
    assert fit(tmp_path / "none.gguf", 8, 2048, 512) == (8, 2048)


def test_a_teacher_is_opened_with_room_for_the_whole_answer_that_was_asked_for(monkeypatch):
    opened = {}
    monkeypatch.setattr(models, "open_engine", lambda model, **given: opened.update(given))
    models.engine_for(Models("m.gguf", "s"), 8, [], Generate(sampling=Sampling(max_new_tokens=16_384)), ())
    assert opened["context"] > opened["longest"] == 16_384
