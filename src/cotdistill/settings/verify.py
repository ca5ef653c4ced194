"""Which traces may teach."""

from typing import Literal

import msgspec

from cotdistill.bounds import Count, Share
from cotdistill.reading.kinds import KINDS

Prefer = Literal["different", "short", "few_steps", "likely"]
"""Which of a question's traces teach where not all of them do; see ``judging.selection``."""


class Verify(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``steps`` drops traces with false arithmetic; ``repair`` adds a final line to right ones that lack it.

    ``vote``: where there is no gold and there are three traces or more, they must agree with the majority. ``kind``
    is that of answers whose question declares none; ``markers`` are read besides the usual ones. Traces of more than
    ``max_words`` or ``max_steps`` do not teach, and of those left at most ``max_per_question``: the ones to
    ``prefer``, and of them ``short_share`` from the shorter half of a question's traces.
    ``decontaminate`` names a file of test questions that must not be trained on, and ``decontaminate_ngram`` how
    many words in a row are too many to share with one. ``hinted``: traces whose teacher was shown the right answer
    may teach where nothing in them shows that.
    """

    steps: bool = True
    repair: bool = True
    vote: bool = False
    kind: str | None = None
    markers: tuple[str, ...] = ()
    max_words: Count | None = None
    max_steps: Count | None = None
    max_per_question: Count | None = None
    prefer: Prefer = "different"
    short_share: Share | None = None
    decontaminate: str | None = None
    decontaminate_ngram: Count | None = None
    hinted: bool = False

    def __post_init__(self) -> None:
        if self.kind not in (None, *KINDS):
            raise ValueError(f"kind {self.kind!r} is none of {', '.join(KINDS)}")
        if not all(marker.strip() for marker in self.markers):
            raise ValueError("a marker is empty")
        if self.decontaminate_ngram and not self.decontaminate:
            raise ValueError("decontaminate_ngram needs decontaminate, a file of test questions")
        if not self.max_per_question and (self.prefer != "different" or self.short_share is not None):
            raise ValueError("prefer and short_share need max_per_question, how many traces of a question may teach")

    @property
    def without_student(self) -> "Verify":
        """The same where no student is asked how likely it finds a trace."""
        return msgspec.structs.replace(self, prefer="different") if self.prefer == "likely" else self
