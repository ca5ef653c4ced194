"""Which models, and what runs the teacher."""

import msgspec

from cotdistill.bounds import Count
from cotdistill.engines import ON_RAY, EngineName
from cotdistill.engines.server import Server


class Models(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Catalogue names or paths. ``engine`` runs the teacher: ``auto`` takes llama.cpp for a GGUF file. With a
    ``server``, ``teacher`` is the name that server knows its model by. ``second_teacher`` is asked only what the
    first failed; it runs here, or on ``second_server``. ``workers`` are the processes on a Ray cluster, by default one
    for each of its GPUs, or else nodes."""

    teacher: str
    student: str
    engine: EngineName = "auto"
    trust_remote_code: bool = False
    load_in_4bit: bool | None = None
    server: Server | None = None
    second_teacher: str | None = None
    second_server: Server | None = None
    workers: Count | None = None

    def __post_init__(self) -> None:
        if self.engine == "openai_server" and not self.server:
            raise ValueError("the engine openai_server needs a server's base_url")
        if self.server and self.engine not in ("auto", "openai_server"):
            raise ValueError(f"a base_url is for the engine openai_server, not {self.engine}")
        if self.workers and not self.engine.startswith(ON_RAY):
            raise ValueError(f"workers are for the engines on a Ray cluster, such as ray:llama_cpp, not {self.engine}")
        if self.second_server and not self.second_teacher:
            raise ValueError("second_server needs second_teacher, the name it knows its model by")

    @property
    def second(self) -> "Models | None":
        """The models with the second teacher in the place of the first; None where there is none."""
        return self._alone(self.second_teacher, self.second_server) if self.second_teacher else None

    @property
    def student_as_teacher(self) -> "Models":
        """The models with the student in the place of the teacher, to sample from it: a catalogue student then runs on
        llama.cpp."""
        return self._alone(self.student)

    def _alone(self, teacher: str, server: Server | None = None) -> "Models":
        """With ``teacher`` as the only one. What the first one runs on is not for another: workers and servers go."""
        return msgspec.structs.replace(
            self, teacher=teacher, engine="auto", server=server, second_teacher=None, second_server=None, workers=None
        )
