"""Where questions come from."""

import msgspec

from cotdistill.bounds import Count, Seed
from cotdistill.generated import Task


class Source(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where questions come from: a ``file`` of the user's, or generated ``tasks`` drawn from ``seed``."""

    file: str | None = None
    tasks: tuple[Task, ...] = ()
    seed: Seed = 0
    limit: Count | None = None

    def __post_init__(self) -> None:
        if bool(self.file) == bool(self.tasks):
            raise ValueError("give either `file` or `tasks`")


class Questions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``held_out`` decides the verdict; ``unseen`` is a second slice of another kind, reported without a bar."""

    train: Source
    held_out: Source
    unseen: Source | None = None
