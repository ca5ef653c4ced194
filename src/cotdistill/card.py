"""Card: ``cotdistill.json`` in an adapter directory, what the student was trained with.

    {"system_prompt": "Solve the problem step by step ...", "template_hash": "3b1f...", "base_hash": "9c2e...",
     "base_name": "student", "trust_remote_code": false}
"""

from pathlib import Path

import msgspec

from cotdistill.errors import SetupError

CARD = "cotdistill.json"


class AdapterCard(msgspec.Struct, frozen=True):
    """``cotdistill.json``: what the student was trained with. ``base_hash`` identifies the base model."""

    system_prompt: str
    template_hash: str
    base_hash: str
    base_name: str
    trust_remote_code: bool = False


def read_card(directory: Path) -> AdapterCard | None:
    """The adapter's card, or None for an adapter that was trained elsewhere."""
    path = directory / CARD
    if not path.is_file():
        return None
    try:
        return msgspec.json.decode(path.read_bytes(), type=AdapterCard)
    except msgspec.MsgspecError as error:
        raise SetupError(f"{path} is not a cotdistill card: {error}") from error
