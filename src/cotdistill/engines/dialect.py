"""Dialect: which settings a model on a server takes, and by which name, as its refusals say.

    400 "Unsupported parameter: 'max_tokens' ... Use 'max_completion_tokens' instead."       -> the limit's other name
    400 "Unsupported value: 'temperature' does not support 0.0 with this model."             -> no temperature
    400 "`temperature` and `top_p` cannot both be specified for this model."                 -> no top_p

OpenAI's models that think, for example, sample in their own way only.
"""

import re
from typing import Self

import msgspec

from cotdistill.engines.server_reply import said

_OPTIONAL = ("top_p", "temperature", "seed")
"""In the order in which they are left out where a refusal names several: the one that is missed least first."""

_NOT_TAKEN = re.compile(r"not support|unsupported|cannot both|deprecated|unknown|unrecogni[sz]ed|unexpected")
_QUOTED = r"""['"`]{}['"`]"""


class Dialect(msgspec.Struct, frozen=True):
    """``limit`` is the name of the most new tokens, ``without`` the settings that are left out."""

    limit: str = "max_tokens"
    without: frozenset[str] = frozenset()

    def after(self, refusal: bytes) -> Self:
        """The dialect that a reply of status 400 asks for; the same where it is about something else. A name counts
        only in quotation marks: refusals may repeat a question's words."""
        message = said(refusal).lower()
        if self.limit == "max_tokens" and "max_completion_tokens" in message:
            return msgspec.structs.replace(self, limit="max_completion_tokens")
        for name in _OPTIONAL if _NOT_TAKEN.search(message) else ():
            if re.search(_QUOTED.format(name), message) and name not in self.without:
                return msgspec.structs.replace(self, without=self.without | {name})
        return self
