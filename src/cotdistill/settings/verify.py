"""Which traces may teach."""

import msgspec

from cotdistill.bounds import Count
from cotdistill.kinds import KINDS


class Verify(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``steps`` drops traces with false arithmetic; ``repair`` adds a final line to right ones that lack it.

    ``vote``: where there is no gold, traces must agree with the majority of at least three. ``kind`` is that of
    answers whose question declares none; ``markers`` are read besides the usual ones. Traces of more than
    ``max_words`` do not teach, and of those left at most ``max_per_question``, the most different ones.
    ``decontaminate`` names a file of test questions that must not be trained on, and ``decontaminate_ngram`` how
    many words in a row are too many to share with one.
    """

    steps: bool = True
    repair: bool = True
    vote: bool = False
    kind: str | None = None
    markers: tuple[str, ...] = ()
    max_words: Count | None = None
    max_per_question: Count | None = None
    decontaminate: str | None = None
    decontaminate_ngram: Count | None = None

    def __post_init__(self) -> None:
        if self.kind not in (None, *KINDS):
            raise ValueError(f"kind {self.kind!r} is none of {', '.join(KINDS)}")
        if not all(marker.strip() for marker in self.markers):
            raise ValueError("a marker is empty")
        if self.decontaminate_ngram and not self.decontaminate:
            raise ValueError("decontaminate_ngram needs decontaminate, a file of test questions")
