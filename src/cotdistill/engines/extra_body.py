"""Extra body: what a user adds to every request to a server, which knows more settings than nearly all servers share.

    extra_body: {chat_template_kwargs: {enable_thinking: false}, top_k: 20}

It is written into recipes and manifests, so no secret may stand in it.
"""

import re
from collections.abc import Iterator, Mapping

OURS = frozenset({
    "model", "messages", "prompt", "max_tokens", "max_completion_tokens", "temperature", "top_p", "seed", "stream",
    "stream_options", "n", "best_of", "logprobs", "top_logprobs",
})  # fmt: skip
"""Keys that are refused: those that we send ourselves, and those that change how many answers come back, or in which
form."""

_SECRET_NAME = re.compile(
    r"api[-_]?key|^key$|authori[sz]ation|credential|passw|secret|bearer|^token$|(access|auth)[-_]?token", re.IGNORECASE
)
_SECRET_VALUE = re.compile(r"^(Bearer\s|(sk|pk|rk|hf|gsk|xai|ghp|nvapi)[-_]\w)")


def check_extra(extra: Mapping[str, object]) -> None:
    """Raises ``ValueError``, which names keys and no values."""
    if ours := ", ".join(sorted(extra.keys() & OURS)):
        raise ValueError(f"extra_body must not hold {ours}: we send that ourselves, it has settings of its own")
    for name, value in _leaves(extra):
        if _SECRET_NAME.search(name.rpartition(".")[2]) or (isinstance(value, str) and _SECRET_VALUE.search(value)):
            raise ValueError(
                f"extra_body.{name} looks like a secret, and extra_body is written into manifests; a key belongs into "
                "api_key_env or api_key_file"
            )


def _leaves(value: object, name: str = "") -> Iterator[tuple[str, object]]:
    """``("chat_template_kwargs.enable_thinking", False)``, and every name on the way."""
    yield name, value
    parts = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list | tuple) else ()
    for key, part in parts:
        yield from _leaves(part, f"{name}.{key}" if name else str(key))
