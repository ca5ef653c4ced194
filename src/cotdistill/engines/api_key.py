"""ApiKey: a secret that can be sent but not shown.

    key = ApiKey.of_environment("OPENAI_API_KEY")
    repr(key)                                    ->  "ApiKey(OPENAI_API_KEY)"
    key.hide("Incorrect API key sk-12345678")    ->  "Incorrect API key [API key]"
"""

import logging
import os
from pathlib import Path
from typing import NoReturn, Self

import msgspec

from cotdistill.engines.server import DEFAULT_KEY_ENV, Server, is_loopback
from cotdistill.errors import SetupError, UsageError

log = logging.getLogger(__name__)

HIDDEN = "[API key]"

SECRET_LENGTH = 12
"""Characters. A shorter key is not taken out of what a model wrote: placeholders that local servers are given ("EMPTY",
"ollama") are no secrets, and an answer may well hold these words."""


class ApiKey:
    """The key, and where it came from. It has no readable form and refuses to be pickled."""

    __slots__ = ("_source", "_value")

    def __init__(self, value: str, source: str) -> None:
        """Raises ``SetupError`` for a value that no HTTP header can carry."""
        value = value.strip()
        if not value or not value.isascii() or not value.isprintable() or " " in value:
            raise SetupError(f"{source} holds no usable API key: it must be one line of plain characters")
        self._value, self._source = value, source

    @classmethod
    def of_environment(cls, name: str) -> Self:
        """Raises ``SetupError`` where the variable is not set."""
        if not (value := os.environ.get(name)):
            raise SetupError(f"the environment variable {name} is not set; put the server's API key there")
        return cls(value, name)

    @classmethod
    def of_file(cls, path: str | Path) -> Self:
        """Raises ``SetupError`` where the file cannot be read."""
        try:
            return cls(Path(path).read_text(encoding="utf-8"), str(path))
        except (OSError, UnicodeDecodeError) as error:
            why = getattr(error, "strerror", None) or "not text"
            raise SetupError(f"cannot read the API key file {path}: {why}") from None

    def header(self) -> str:
        """The value of ``Authorization``."""
        return f"Bearer {self._value}"

    def hide(self, text: str) -> str:
        """The text without the key, for what a server says about a request."""
        return text.replace(self._value, HIDDEN)

    def hide_in_answer(self, text: str) -> str:
        """The text without the key where the key is long enough to be a secret, for what a model wrote."""
        return self.hide(text) if len(self._value) >= SECRET_LENGTH else text

    def __repr__(self) -> str:
        return f"ApiKey({self._source})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("an API key is not pickled")


def key_for(server: Server) -> ApiKey | None:
    """The key that the settings name. The one in ``OPENAI_API_KEY`` is taken unasked, but goes nowhere unasked
    where others could read it on its way."""
    if server.api_key_file:
        return ApiKey.of_file(server.api_key_file)
    if server.api_key_env:
        return ApiKey.of_environment(server.api_key_env)
    if not os.environ.get(DEFAULT_KEY_ENV):
        return None
    if open_urls := [url for url in server.urls if url.startswith("http:") and not is_loopback(url)]:
        log.warning(
            "the key in %s is not sent to %s without encryption; --api_key_env %s sends it",
            DEFAULT_KEY_ENV, open_urls[0], DEFAULT_KEY_ENV,
        )  # fmt: skip
        return None
    return ApiKey.of_environment(DEFAULT_KEY_ENV)


def refuse_written_key(server: Server) -> None:
    """Raise ``UsageError`` where the server's key stands in ``extra_body``, which manifests repeat. That there is no
    key is said when one is needed."""
    try:
        file, name = server.api_key_file, server.api_key_env or DEFAULT_KEY_ENV
        key = ApiKey.of_file(file) if file else ApiKey.of_environment(name)
    except SetupError:
        return
    written = msgspec.json.encode(server.extra_body).decode()
    if key.hide_in_answer(written) != written:
        raise UsageError("extra_body holds the server's API key, and would be written into manifests; take it out")
