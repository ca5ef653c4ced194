"""How every model is asked."""

from typing import Literal, get_args

import msgspec

from cotdistill.bounds import Count, Temperature
from cotdistill.engines import Sampling
from cotdistill.errors import UsageError

Baseline = Literal["zero", "few_shot", "native"]
"""How the base is asked: as the student is, with the teacher's worked examples, or without a system prompt of ours."""


ANSWER_ONLY = "answer_only"
"""The name of the second student, which learns the final lines alone."""


class Evaluate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Greedy and once, with the student's prompt for every model; ``baselines`` are more ways to ask the base, of
    which ``zero`` is always taken and decides. Several samples are drawn at a ``temperature``; the first decides.
    ``answer_only`` trains and asks a second student that learns the final lines alone: what the reasoning is worth."""

    max_new_tokens: Count = 512
    batch_size: Count = 32
    teacher: bool = True
    baselines: tuple[Baseline, ...] = ("zero",)
    num_samples: Count = 1
    temperature: Temperature = 0.0
    answer_only: bool = False

    def __post_init__(self) -> None:
        if self.num_samples > 1 and not self.temperature:
            raise ValueError("num_samples > 1 needs a temperature (beside it) above 0: greedy samples are all the same")
        if len(set(self.baselines)) < len(self.baselines):
            raise ValueError("the baselines name one twice")

    @property
    def sampling(self) -> Sampling:
        greedy = Sampling(max_new_tokens=self.max_new_tokens)
        if not self.temperature:
            return greedy
        return msgspec.structs.replace(greedy, do_sample=True, temperature=self.temperature)


def baselines_in(text: str) -> list[str]:
    """The names in ``zero,few-shot,native``, dashes as underscores. Raises ``UsageError`` for others."""
    names = [name.strip().replace("-", "_") for name in text.split(",") if name.strip()]
    if unknown := [name for name in names if name not in get_args(Baseline)]:
        raise UsageError(f"--baseline {unknown[0]} is none of {', '.join(get_args(Baseline))}")
    return names
