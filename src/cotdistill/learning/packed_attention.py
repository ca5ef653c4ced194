"""Attention over a packed line: each row sees itself and what it shares with others, causally, and nothing else.

Registered with transformers under a name, so that every model that takes its attention from there can use it.
"""

from itertools import pairwise
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention

from cotdistill.learning.layout import Row

NAME = "cotdistill_packed"


class Line:
    """The line that is being computed: where to cut it, and which pieces each row asks and sees.

    One at a time: a forward pass and its backward pass end before the next line begins.
    """

    def __init__(self) -> None:
        self._lengths: list[int] = []
        self._rows: list[tuple[list[int], list[int], int, torch.Tensor | None]] = []

    def lay(self, rows: tuple[Row, ...]) -> None:
        """Get ready for a line of these rows."""
        cuts = sorted({place for row in rows for ends in row.whole for place in ends})
        self._lengths = [stop - start for start, stop in pairwise(cuts)]
        at = {place: i for i, place in enumerate(cuts)}
        self._rows = []
        for (start, stop), whole in rows:
            sees = [piece for a, b in whole for piece in range(at[a], at[b])]
            own, shared = stop - start, sum(b - a for a, b in whole[:-1])
            if shared <= own:
                # Asking for the shared part again and dropping its answers costs less than a mask, which SDPA
                # computes in full.
                self._rows.append((sees, sees, own, None))
            else:
                mask = torch.ones(own, shared + own, dtype=torch.bool).tril(shared)
                self._rows.append((list(range(at[start], at[stop])), sees, own, mask))

    def attend(
        self, module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attention_mask: Any,
        scaling: float | None = None, dropout: float = 0.0, **other: Any,
    ) -> tuple[torch.Tensor, None]:  # fmt: skip
        """``query`` is (1, heads, line, width); ``key`` and ``value`` may have fewer heads, each for several of the
        query's. Returns (1, line, heads, width)."""
        queries, keys, values = (torch.split(tensor, self._lengths, dim=2) for tensor in (query, key, value))
        answers = [
            scaled_dot_product_attention(
                _joined([queries[i] for i in asks]),
                _joined([keys[i] for i in sees]),
                _joined([values[i] for i in sees]),
                attn_mask=mask, is_causal=mask is None, dropout_p=dropout, scale=scaling,
                enable_gqa=query.shape[1] != key.shape[1],
            )[:, :, -own:]
            for asks, sees, own, mask in self._rows
        ]  # fmt: skip
        return _joined(answers).transpose(1, 2).contiguous(), None


def _joined(pieces: list[torch.Tensor]) -> torch.Tensor:
    """One after the other; a piece alone is not copied, since what attention returns is kept for its backward pass."""
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=2)


LINE = Line()


def register() -> None:
    """Make the attention known to transformers as ``NAME``. No mask is built for a name it has no mask for."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, LINE.attend)
