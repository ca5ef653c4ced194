"""Dialect: which settings a model on a server takes, and by which name, as its refusals say.

    400 "Unsupported parameter: 'max_tokens' ... Use 'max_completion_tokens' instead."       -> the limit's other name
    400 "Unsupported value: 'temperature' does not support 0.0 with this model."             -> no temperature
    400 "`temperature` and `top_p` cannot both be specified for this model."                 -> no top_p

OpenAI's models that think, for example, sample in their own way only.
"""

from typing import Self

import msgspec

_OPTIONAL = ("top_p", "temperature", "seed")
"""Where a refusal names several, the one that is missed least goes first."""

_NOT_TAKEN = ("not support", "unsupported", "cannot both", "not allowed", "deprecated", "unknown", "unrecognized")


class _Error(msgspec.Struct):
    message: str


class _Refusal(msgspec.Struct):
    error: _Error


class Dialect(msgspec.Struct, frozen=True):
    """``limit`` is the name of the most new tokens, ``without`` the settings that are left out."""

    limit: str = "max_tokens"
    without: frozenset[str] = frozenset()

    def after(self, refusal: bytes) -> Self:
        """The dialect that a reply of status 400 asks for; the same where it is about something else."""
        try:
            said = msgspec.json.decode(refusal, type=_Refusal).error.message.lower()
        except msgspec.MsgspecError:
            return self
        if self.limit == "max_tokens" and "max_completion_tokens" in said:
            return msgspec.structs.replace(self, limit="max_completion_tokens")
        if any(word in said for word in _NOT_TAKEN):
            for name in _OPTIONAL:
                if name in said and name not in self.without:
                    return msgspec.structs.replace(self, without=self.without | {name})
        return self
