"""How the teacher is asked, and how much."""

import msgspec

from cotdistill.bounds import Count, Positive, Tokens
from cotdistill.engines import Sampling
from cotdistill.prompt import SYSTEM_PROMPT


class Escalate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """For a question none of whose samples may teach: ``num_samples`` more, at a ``temperature`` of their own. With
    ``max_new_tokens`` they may be longer than the others, which were perhaps cut off."""

    num_samples: Count = 4
    temperature: Positive = 0.8
    max_new_tokens: Count | None = None


class Generate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How the teacher is asked. ``few_shot`` names a file of worked examples only the teacher sees.

    With ``enough``, ``num_samples`` are the most a question gets: it is asked no more once so many of its traces may
    teach. ``escalate`` and, last of all, ``hint``, which shows the teacher the right answer, are for questions that
    are left without any; see ``asking.drawing``. ``max_cost`` and ``max_tokens_total`` bound what all traces may cost,
    in the currency of the server's prices and in tokens of prompts and answers. ``cache`` keeps answers for other runs.
    """

    system_prompt: str = SYSTEM_PROMPT
    few_shot: str | None = None
    num_samples: Count = 1
    batch_size: Count = 8
    sampling: Sampling = Sampling(max_new_tokens=512)
    enough: Count | None = None
    escalate: Escalate | None = None
    hint: bool = False
    max_cost: Positive | None = None
    max_tokens_total: Tokens | None = None
    cache: bool = False

    @property
    def longest(self) -> int:
        """Tokens that an answer may have."""
        hotter = self.escalate.max_new_tokens if self.escalate else None
        return max(self.sampling.max_new_tokens, hotter or 0)

    @property
    def varies(self) -> bool:
        """Whether how many samples a question gets depends on the answers."""
        return bool(self.enough or self.escalate or self.hint)

    def __post_init__(self) -> None:
        if self.num_samples > 1 and not self.sampling.do_sample:
            raise ValueError(
                "num_samples above 1 needs do_sample (--do_sample), at a temperature: greedy samples are all the same"
            )
        if self.enough and self.enough > self.num_samples:
            raise ValueError(f"enough is {self.enough}, but num_samples allows no more than {self.num_samples}")
