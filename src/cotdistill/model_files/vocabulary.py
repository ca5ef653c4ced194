"""Vocabulary: a byte-level BPE tokenizer as llama.cpp wants it in a GGUF.

    tokens ["<|endoftext|>", ..., "Ġthe"], types [3, ..., 1], merges ["Ġ t", ...], split "smollm"

llama.cpp splits text into words by a rule it knows by name, so the name must be that of the tokenizer's own rule.
It is read off the rule itself; a rule without a name here is refused, because every word it cuts differently would
be read by the student as words it never saw. Not covered: SentencePiece tokenizers (Llama 2) and WordPiece, and the
rule of GPT-4o (Phi-4-mini), which llama.cpp only approximates: it takes every letter beyond ASCII for both cases.
"""

import json
from typing import Any

import msgspec

from cotdistill.errors import SetupError

_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
SPLITS: dict[tuple[str, ...], str] = {
    ("bytes, words split",): "gpt-2",
    ("each digit", "bytes, words split"): "smollm",
    (rf"{_WORDS}\p{{N}}{_REST}", "bytes"): "qwen2",
    (rf"{_WORDS}\p{{N}}{{1,3}}{_REST}", "bytes"): "llama-bpe",
}
"""llama.cpp's name for a chain of splitting steps."""


class Vocabulary(msgspec.Struct, frozen=True):
    """``tokens`` and ``types`` (gguf's ``TokenType``) have one entry a row of the embeddings."""

    tokens: list[str]
    types: list[int]
    merges: list[str]
    split: str


def read_vocabulary(tokenizer: Any, rows: int) -> Vocabulary:
    """The vocabulary of a transformers tokenizer, filled up to ``rows`` with tokens that text never becomes.

    Raises ``SetupError`` for a tokenizer that is no byte-level BPE or splits words by a rule without a name.
    """
    from gguf import TokenType

    backend = getattr(tokenizer, "backend_tokenizer", None)
    parts = json.loads(backend.to_str()) if backend is not None else {"model": {}}
    model = parts["model"]
    if model.get("type") != "BPE" or model.get("byte_fallback") or not model["merges"]:
        raise SetupError("GGUF is written for byte-level BPE tokenizers, and this one is another kind; use --merged")
    # Of NFC only text in decomposed letters would notice, which hardly anything writes.
    if (parts["normalizer"] or {"type": "NFC"})["type"] != "NFC":
        raise SetupError("this tokenizer changes text before it splits it, and llama.cpp does not; use --merged")
    split = SPLITS.get(_steps(parts["pre_tokenizer"]))
    if split is None:
        raise SetupError("llama.cpp has no known name for the way this tokenizer splits words; use --merged")
    tokens = [f"[PAD{i}]" for i in range(rows)]
    types = [int(TokenType.UNUSED)] * rows
    for token, index in model["vocab"].items():
        tokens[index], types[index] = token, int(TokenType.NORMAL)
    for added in parts["added_tokens"]:
        tokens[added["id"]] = added["content"]
        types[added["id"]] = int(TokenType.CONTROL if added["special"] else TokenType.USER_DEFINED)
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
    return Vocabulary(tokens, types, merges, split)


def _steps(rule: dict[str, Any] | None) -> tuple[str, ...]:
    """The rule as a chain of steps, a step that no name fits as ``?``."""
    match rule:
        case {"type": "Sequence", "pretokenizers": [*inner]}:
            return tuple(step for one in inner for step in _steps(one))
        case {"type": "ByteLevel", "add_prefix_space": False, "use_regex": words}:
            return ("bytes, words split" if words else "bytes",)
        case {"type": "Digits", "individual_digits": True}:
            return ("each digit",)
        case {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}:
            return (regex,)
    return ("?",)
