"""How the teacher is asked."""

import msgspec

from cotdistill.bounds import Count
from cotdistill.engines import Sampling
from cotdistill.prompt import SYSTEM_PROMPT


class Generate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How the teacher is asked. ``few_shot`` names a file of worked examples only the teacher sees."""

    system_prompt: str = SYSTEM_PROMPT
    few_shot: str | None = None
    num_samples: Count = 1
    batch_size: Count = 8
    sampling: Sampling = Sampling(max_new_tokens=256)
