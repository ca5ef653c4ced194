"""Card: ``cotdistill.json`` beside an adapter or a merged model, a key in a GGUF: what the student was trained with.

    {"system_prompt": "Solve the problem step by step ...", "template_hash": "3b1f...", "base_hash": "9c2e...",
     "base_name": "student", "trust_remote_code": false}
"""

import struct
from pathlib import Path

import msgspec

from cotdistill.errors import SetupError
from cotdistill.run_directory import RunDirectory

CARD = "cotdistill.json"
CARD_KEY = "cotdistill.card"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
ADAPTER_CONFIG = "adapter_config.json"
"""The files that peft writes of an adapter."""


class AdapterCard(msgspec.Struct, frozen=True):
    """``cotdistill.json``: what the student was trained with. ``base_hash`` identifies the base model;
    ``four_bit``: it was 4-bit while the adapter was trained, so the adapter fits those numbers; ``thinking``: it was
    trained to think before it answers."""

    system_prompt: str
    template_hash: str
    base_hash: str
    base_name: str
    trust_remote_code: bool = False
    four_bit: bool = False
    thinking: bool = False


def check_adapter(directory: Path) -> None:
    """Raise ``SetupError`` for what is no adapter: what it is instead, and where its adapter may be."""
    if (directory / ADAPTER_CONFIG).is_file():
        return
    if (inside := RunDirectory(directory).adapter).is_dir():
        raise SetupError(f"{directory} is a run directory; its adapter is {inside}")
    if (directory / "config.json").is_file():
        raise SetupError(f"{directory} is a whole model and no adapter: give it as --base_model, without --lora_model")
    if directory.is_file():
        raise SetupError(f"{directory} is a file; an adapter is the directory with its {ADAPTER_CONFIG}")
    if not directory.exists():
        raise SetupError(f"no adapter at {directory}; train one first, or check --lora_model")
    raise SetupError(f"{directory} is not an adapter: it has no {ADAPTER_CONFIG}")


def read_card(directory: Path) -> AdapterCard | None:
    """The card of an adapter, a merged model or a GGUF file, or None for one that was made elsewhere."""
    path = directory if directory.suffix == ".gguf" else directory / CARD
    if not path.is_file():
        return None
    try:
        text = _in_gguf(path) if path == directory else path.read_bytes()
        return msgspec.json.decode(text, type=AdapterCard) if text is not None else None
    except (msgspec.MsgspecError, OSError, ValueError, RecursionError) as error:
        raise SetupError(f"{path} is not a cotdistill card: {error}") from error


def _in_gguf(path: Path) -> bytes | None:
    """The value of ``CARD_KEY``, which our files have before the vocabulary: gguf's reader would take seconds to go
    through that. A string is a length in 8 bytes and UTF-8; between key and value stands the value's type."""
    mark = struct.pack("<Q", len(CARD_KEY)) + CARD_KEY.encode() + struct.pack("<I", 8)
    with path.open("rb") as file:
        head = file.read(1 << 20)
    start = head.find(mark) + len(mark)
    if start < len(mark) or len(head) < start + 8:
        return None
    (length,) = struct.unpack_from("<Q", head, start)
    return head[start + 8 : start + 8 + length]
