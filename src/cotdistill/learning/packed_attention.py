"""Attention over a packed line: each row sees itself and what it shares with others, causally, and nothing else.

Registered with transformers under a name, so that every model that takes its attention from there can use it.
"""

from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch.nn.functional import scaled_dot_product_attention

from cotdistill.learning.layout import Row

NAME = "cotdistill_packed"


class Asking(NamedTuple):
    """The pieces of the line that a row ``asks`` for and those that it ``sees``, of which they are the end, and how
    many tokens each are. The answers to the last ``own`` tokens count."""

    asks: list[int]
    sees: list[int]
    asked_tokens: int
    seen_tokens: int
    own: int


class Line:
    """The line that is being computed: where to cut it, and which pieces each row asks and sees. What lies in a cache
    before it, which all rows see, is a piece that nobody asks.

    One at a time: a forward pass and its backward pass end before the next line begins.
    """

    def __init__(self) -> None:
        self._lengths: list[int] = []
        self._cached_pieces = 0
        self._rows: list[Asking] = []
        self._masks: dict[tuple[int, int, int], torch.Tensor] = {}

    def lay(self, rows: tuple[Row, ...], before: int = 0) -> None:
        """Get ready for a line of these rows, with ``before`` tokens in the cache."""
        cached = ((-before, 0),) if before else ()
        self._cached_pieces = len(cached)
        cuts = sorted({place for row in rows for ends in (*cached, *row.whole) for place in ends})
        self._lengths = [stop - start for start, stop in pairwise(cuts)]
        at = {place: i for i, place in enumerate(cuts)}
        self._rows, self._masks = [], {}
        for (start, stop), places in rows:
            whole = (*cached, *places)
            sees = [piece for a, b in whole for piece in range(at[a], at[b])]
            own, seen = stop - start, sum(b - a for a, b in whole)
            if seen <= 2 * own and not before:
                # Asking for the shared part again and dropping its answers costs less than a mask, which SDPA
                # computes in full.
                self._rows.append(Asking(sees, sees, seen, seen, own))
            else:
                self._rows.append(Asking(list(range(at[start], at[stop])), sees, own, seen, own))

    def attend(
        self, module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attention_mask: Any,
        scaling: float | None = None, dropout: float = 0.0, sliding_window: int | None = None, **other: Any,
    ) -> tuple[torch.Tensor, None]:  # fmt: skip
        """``query`` is (1, heads, line, width); ``key`` and ``value`` are (1, heads, cached + line, width) and may have
        fewer heads, each for several of the query's. Returns (1, line, heads, width)."""
        keys, values = (torch.split(tensor, self._lengths, dim=2) for tensor in (key, value))
        asked = torch.split(query, self._lengths[self._cached_pieces :], dim=2)
        queries = [*keys[: self._cached_pieces], *asked]  # nobody asks for what is cached: it keeps the places
        answers = []
        for row in self._rows:
            mask = self._mask(row.asked_tokens, row.seen_tokens, sliding_window or row.seen_tokens)
            answers.append(scaled_dot_product_attention(
                _joined([queries[i] for i in row.asks]),
                _joined([keys[i] for i in row.sees]),
                _joined([values[i] for i in row.sees]),
                attn_mask=mask, is_causal=mask is None, dropout_p=dropout, scale=scaling,
                enable_gqa=query.shape[1] != key.shape[1],
            )[:, :, -row.own:])  # fmt: skip
        return _joined(answers).transpose(1, 2).contiguous(), None

    def _mask(self, asked: int, seen: int, window: int) -> torch.Tensor | None:
        """(asked, seen), true where a token sees another: none that comes later, none ``window`` or more tokens before
        it. None for the plain causal one."""
        if asked == seen <= window:
            return None
        key = asked, seen, window
        if key not in self._masks:
            before = seen - asked
            self._masks[key] = torch.ones(key[:2], dtype=torch.bool).tril(before).triu(before - window + 1)
        return self._masks[key]


def _joined(pieces: list[torch.Tensor]) -> torch.Tensor:
    """One after the other; a piece alone is not copied, since what attention returns is kept for its backward pass."""
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=2)


LINE = Line()


def register() -> None:
    """Make the attention known to transformers as ``NAME``. No mask is built for a name it has no mask for."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, LINE.attend)
