"""Header: what a GGUF file says of its model beside the weights."""

from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from cotdistill.errors import SetupError


class Header(msgspec.Struct, frozen=True):
    """What the conversion needs from a GGUF's metadata. ``split`` names the tokenizer's word-splitting rule;
    ids are None where the file states none; ``parameters`` counts numbers, not bytes. Of the rotary embeddings:
    ``rope_scaling``, the ``rope_dimensions`` of a head that are turned, and the ``rope_base``."""

    architecture: str
    quantisation: str
    parameters: int
    split: str
    chat_template: str | None
    bos_id: int | None
    eos_id: int | None
    pad_id: int | None
    rope_scaling: str | None = None
    rope_dimensions: int | None = None
    rope_base: float | None = None


def only_gguf(path: Path) -> Path:
    """``path`` if it is a file, else the one ``*.gguf`` inside it; ``SetupError`` for none or several."""
    if path.is_file():
        return path
    found = sorted(path.glob("*.gguf"))
    if len(found) != 1:
        held = ", ".join(file.name for file in found) or "none"
        raise SetupError(f"{path} must be a GGUF file or a directory with exactly one; found: {held}")
    return found[0]


def open_gguf(gguf: Path) -> Any:
    """gguf's reader of a file. Raises ``SetupError`` for one that is none, or is torn."""
    from gguf import GGUFReader

    try:
        return GGUFReader(gguf)
    except (OSError, ValueError, IndexError, KeyError) as error:
        raise SetupError(f"{gguf} is not a whole GGUF file ({error}); fetch it again") from error


def value_of(reader: Any, key: str) -> Any:
    """What a file says under a key; None where it says nothing."""
    field = reader.get_field(key)
    return None if field is None else field.contents()


def read_header(gguf: Path) -> Header:
    """The metadata of a GGUF file. Raises ``SetupError`` if it is none, or lacks what a model needs."""
    from gguf import LlamaFileType

    reader = open_gguf(gguf)
    value = partial(value_of, reader)
    architecture = value("general.architecture")
    if not isinstance(architecture, str) or value("tokenizer.ggml.tokens") is None:
        raise SetupError(f"{gguf} holds no language model with a tokenizer; choose another file")
    if value("split.count") not in (None, 0, 1):
        raise SetupError(f"{gguf} is one of {value('split.count')} pieces; merge them with llama-gguf-split")
    file_type = value("general.file_type")
    known = file_type in list(LlamaFileType)
    return Header(
        architecture=architecture,
        quantisation=LlamaFileType(file_type).name.removeprefix("MOSTLY_") if known else "unknown",
        parameters=sum(int(tensor.n_elements) for tensor in reader.tensors),
        split=str(value("tokenizer.ggml.pre") or "default"),
        chat_template=value("tokenizer.chat_template"),
        bos_id=value("tokenizer.ggml.bos_token_id"),
        eos_id=value("tokenizer.ggml.eos_token_id"),
        pad_id=value("tokenizer.ggml.padding_token_id"),
        rope_scaling=value(f"{architecture}.rope.scaling.type"),
        rope_dimensions=value(f"{architecture}.rope.dimension_count"),
        rope_base=value(f"{architecture}.rope.freq_base"),
    )
