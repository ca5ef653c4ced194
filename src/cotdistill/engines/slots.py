"""Slots: how many requests llama.cpp decodes together and how long each may be, by its file and the free memory.

llama.cpp takes the memory for the keys and values of all slots at once, when it starts.
"""

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from cotdistill.errors import SetupError
from cotdistill.machine import available_memory
from cotdistill.model_files.gguf_header import open_gguf, value_of

log = logging.getLogger(__name__)

SHORT, FEW = 4096, 65_536
"""Tokens of a slot, and of all of them, that go unchecked: nearly every file and machine has them, and a header takes
seconds to read."""

SHARE = 0.8
"""The part of the free memory that keys and values may take; the rest is for what is computed."""


def fit(gguf: Path, slots: int, context: int, longest: int) -> tuple[int, int]:
    """At most ``slots`` slots of at most ``context`` tokens, as the file and the memory have them.

    Raises ``SetupError`` where an answer of ``longest`` tokens leaves no room for a prompt, or one slot does not fit.
    """
    if context <= SHORT and context * slots <= FEW:
        return slots, context
    value = partial(value_of, open_gguf(gguf))
    held = value(f"{value('general.architecture')}.context_length") or context
    if longest >= held:
        raise SetupError(
            f"{gguf.name} holds {held:,} tokens of prompt and answer together, and max_new_tokens is {longest:,}; "
            "lower it, or take another model"
        )
    context = min(context, held)
    each, free = context * _token_bytes(value), available_memory()
    if free is None or not each:
        return slots, context
    # Weights are pages of their file: where they do not fit, the system reads them again and again, but it runs.
    room = int(max(free - gguf.stat().st_size, free / 4) * SHARE)
    if each > room:
        raise SetupError(
            f"{context:,} tokens of prompt and answer take {each / 2**30:.1f} GiB beside the weights of {gguf.name}, "
            f"and {room / 2**30:.1f} GiB are free; lower max_new_tokens, or leave out the longest questions"
        )
    if room // each < slots:
        log.info("memory for %d requests of %d tokens at a time, and not for %d", room // each, context, slots)
    return min(slots, room // each), context


def _token_bytes(value: Callable[[str], Any]) -> int:
    """What a token takes in the keys and values of all layers, in the 16 bits that llama.cpp keeps them in; at most,
    for models that keep less. 0 where the file does not say."""
    name = value("general.architecture")
    layers, width = value(f"{name}.block_count"), value(f"{name}.embedding_length")
    heads = value(f"{name}.attention.head_count")
    kept = value(f"{name}.attention.head_count_kv") or heads
    if not layers or not width or not isinstance(heads, int) or not kept:
        return 0
    lengths = (value(f"{name}.attention.{part}_length") or width // heads for part in ("key", "value"))
    return int(2 * (sum(kept) if isinstance(kept, list) else layers * kept) * sum(lengths))
