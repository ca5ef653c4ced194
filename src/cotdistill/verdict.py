"""Verdict: may this trace teach, and if not, why.

    {"trace_id": "q1a2#0", "status": "correct", "answer": "36", "flags": []}
"""

from typing import Literal

import msgspec

Status = Literal[
    "error", "truncated", "control_token", "leaks", "too_long", "too_complex", "no_answer", "ambiguous",
    "wrong", "disagrees", "bad_step", "duplicate", "contaminated", "not_selected",
    "correct", "agrees", "unchecked",
]  # fmt: skip
TEACHES: frozenset[str] = frozenset({"correct", "agrees", "unchecked"})


class Verdict(msgspec.Struct, frozen=True, omit_defaults=True):
    """The first status that applies, in the order of ``Status``; everything outside ``TEACHES`` is dropped."""

    trace_id: str
    status: Status
    answer: str = ""
    flags: tuple[str, ...] = ()
    vote_share: float | None = None
    bad_steps: tuple[str, ...] = ()
    reason: str = ""
