"""Relation: how the tokens of a teacher and a student go together, read without loading weights.

    {"kind": "same", "shared": 151665, "student": 151665, "teacher": 151665}

A student that learns text needs nothing of its teacher's tokens. A loss on the teacher's probabilities does: the same
id must stand for the same token in both. Not covered: two tokenizers with the same tokens that cut words otherwise.
"""

import re
from pathlib import Path
from typing import Any, Literal, get_args

import msgspec

from cotdistill.errors import SetupError
from cotdistill.model_files.gguf_header import open_gguf, value_of
from cotdistill.settings.objective import TOKEN_LEVEL, OneObjective
from cotdistill.template import read_tokenizer

Kind = Literal["same", "alignable", "different", "unknown"]

_FILLING = re.compile(r"\[PAD\d+\]")


class Tokens(msgspec.Struct, frozen=True):
    """Ids by token; ``added`` are control tokens and others that stand beside the vocabulary of text."""

    text: dict[str, int]
    added: dict[str, int]


class Relation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``same``: every token has the same id in both. ``alignable``: every token of text of the smaller vocabulary has
    the same id in the larger one; added tokens differ. ``unknown``: the teacher is on a server, its tokens cannot be
    read. ``shared`` counts the ids that mean the same in both."""

    kind: Kind
    shared: int
    student: int
    teacher: int


def relation(student: Tokens, teacher: Tokens | None) -> Relation:
    """Compare the tokens of the pair."""
    ours = student.text | student.added
    if teacher is None:
        return Relation("unknown", 0, len(ours), 0)
    theirs = teacher.text | teacher.added
    shared = len(ours.items() & theirs.items())
    kind: Kind = "different"
    small, large = sorted((student.text, teacher.text), key=len)
    if ours == theirs:
        kind = "same"
    elif small and small.items() <= large.items():
        kind = "alignable"
    return Relation(kind, shared, len(ours), len(theirs))


def permitted(kind: Kind) -> tuple[OneObjective, ...]:
    """The objectives that a pair permits: all but those on the teacher's probabilities where its tokens are different.
    Where only some ids are shared, those losses are over these ids. What a server's model permits shows when it is
    asked (``served_teacher``)."""
    return tuple(one for one in get_args(OneObjective) if kind != "different" or one not in TOKEN_LEVEL)


def tokens_of(tokenizer: Any) -> Tokens:
    """The tokens of a transformers tokenizer."""
    added = {str(token): int(index) for index, token in tokenizer.added_tokens_decoder.items()}
    text = {token: index for token, index in tokenizer.get_vocab().items() if token not in added}
    return _without_filling(text, added)


def read_tokens(model: Path, *, trust_remote_code: bool = False) -> Tokens:
    """The tokens of a GGUF file or a Hugging Face directory. Raises ``SetupError`` where they cannot be read."""
    if model.suffix == ".gguf":
        return _of_gguf(model)
    return tokens_of(read_tokenizer(model, trust_remote_code=trust_remote_code))


def _of_gguf(path: Path) -> Tokens:
    from gguf import Keys, TokenType

    reader = open_gguf(path)
    names, types = value_of(reader, Keys.Tokenizer.LIST), value_of(reader, Keys.Tokenizer.TOKEN_TYPE)
    if names is None or types is None:
        raise SetupError(f"{path} lacks the tokens of its model; get the file again")
    text, added = {}, {}
    for index, (name, kind) in enumerate(zip(names, types, strict=True)):
        if kind in (TokenType.CONTROL, TokenType.USER_DEFINED):
            added[name] = index
        elif kind != TokenType.UNUSED:
            text[name] = index
    return _without_filling(text, added)


def _without_filling(text: dict[str, int], added: dict[str, int]) -> Tokens:
    """Without the names that conversions give to rows of the matrix that no text becomes."""
    return Tokens(*({name: i for name, i in part.items() if not _FILLING.fullmatch(name)} for part in (text, added)))
