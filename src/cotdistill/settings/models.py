"""Which models, and what runs the teacher."""

import msgspec

from cotdistill.engines import EngineName
from cotdistill.server import Server


class Models(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Catalogue names or paths. ``engine`` runs the teacher: ``auto`` takes llama.cpp for a GGUF file. With a
    ``server``, ``teacher`` is the name that server knows its model by."""

    teacher: str
    student: str
    engine: EngineName = "auto"
    trust_remote_code: bool = False
    load_in_4bit: bool | None = None
    server: Server | None = None

    def __post_init__(self) -> None:
        if self.engine == "openai_server" and not self.server:
            raise ValueError("the engine openai_server needs a server's base_url")
        if self.server and self.engine not in ("auto", "openai_server"):
            raise ValueError(f"a base_url is for the engine openai_server, not {self.engine}")
