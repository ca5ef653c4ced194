"""Choices: the words that a recipe allows at a place, for the sentence about one that it does not.

    "Invalid enum value 'adam' - at `$.train.optim`"  ->  "...; possible are adamw and adamw_8bit"
    "Object contains unknown field `num_epoch` - at `$.train`"  ->  "...; near: num_epochs"
"""

import difflib
import re
from typing import Any

import msgspec
from msgspec import inspect

FEW = 8
"""Where no key is like the one that was written, all are named if there are no more than these."""

_PLACE = re.compile(r"Invalid enum value .* - at `\$([^`]*)`$")
_KEY = re.compile(r"Object contains unknown field `([^`]*)`(?: - at `\$([^`]*)`)?$")


def with_choices(error: str, type_: type[msgspec.Struct]) -> str:
    """What msgspec said of data that is no valid ``type_``, with what is possible instead: for a wrong word the allowed
    ones, for an unknown key those like it, or all keys where they are few."""
    root = inspect.type_info(type_)
    if found := _PLACE.search(error):
        words = _words(root, _steps(found[1]))
        return f"{error}; possible are {', '.join(words[:-1])} and {words[-1]}" if len(words) > 1 else error
    if unknown := _KEY.search(error):
        keys = _words(root, _steps(unknown[2] or ""), keys=True)
        if near := difflib.get_close_matches(unknown[1], keys):
            return f"{error}; near: {', '.join(near)}"
        return f"{error}; its keys are {', '.join(keys)}" if 0 < len(keys) <= FEW else error
    return error


def _steps(place: str) -> list[tuple[str, str]]:
    return re.findall(r"\.(\w+)|(\[)", place)


def _words(node: Any, path: list[tuple[str, str]], *, keys: bool = False) -> list[str]:
    """The words of the type at the end of ``path``, steps into a field or into the items of a list; or its keys."""
    if isinstance(node, inspect.UnionType):
        return [word for one in node.types for word in _words(one, path, keys=keys)]
    if not path and keys:
        return [field.encode_name for field in node.fields] if isinstance(node, inspect.StructType) else []
    if not path:
        return [str(value) for value in node.values] if isinstance(node, inspect.LiteralType) else []
    (name, item), rest = path[0], path[1:]
    if item:
        items = node.item_types[:1] if isinstance(node, inspect.TupleType) else [getattr(node, "item_type", None)]
        return [word for one in items for word in _words(one, rest, keys=keys)]
    fields = node.fields if isinstance(node, inspect.StructType) else ()
    return [word for field in fields if field.encode_name == name for word in _words(field.type, rest, keys=keys)]
