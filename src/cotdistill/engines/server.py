"""Server: where an OpenAI-compatible server is, and how much to ask of it.

    server:
      base_url: [http://gpu1:8000/v1, http://gpu2:8000/v1]
      concurrency: 64
      api_key_env: MY_KEY

A key itself never stands here, and so neither in a recipe nor in a manifest: only the name of an environment
variable or of a file.
"""

import ipaddress
import re
from typing import Any
from urllib.parse import urlsplit

import msgspec

from cotdistill.engines.extra_body import check_extra

DEFAULT_KEY_ENV = "OPENAI_API_KEY"


class Server(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One server or several that serve the same model; each gets ``concurrency`` requests at a time.

    ``timeout`` is the most seconds one request may take from beginning to end, ``retries`` how often it is made
    again. After ``max_failures`` requests in a row that failed for good, the work stops. Prices are per million
    tokens. ``extra_body`` goes into every request for text. Raises ``ValueError`` for an address that cannot be right
    or that holds a password.
    """

    base_url: str | tuple[str, ...]
    concurrency: int = 16
    timeout: float = 600.0
    retries: int = 5
    max_failures: int = 10
    api_key_env: str | None = None
    api_key_file: str | None = None
    price_prompt: float | None = None
    price_completion: float | None = None
    extra_body: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        if not self.urls:
            raise ValueError("base_url is empty")
        for url in self.urls:
            _check(url)
        if len(set(self.urls)) < len(self.urls):
            raise ValueError("base_url names the same address twice")
        for name, least in (("concurrency", 1), ("retries", 0), ("max_failures", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}")
        if not 0 < self.timeout < float("inf"):
            raise ValueError("timeout must be a number of seconds above 0")
        if not all(0 <= (price or 0) < float("inf") for price in (self.price_prompt, self.price_completion)):
            raise ValueError("a price must not be below 0")
        if self.api_key_env and self.api_key_file:
            raise ValueError("give either api_key_env or api_key_file")
        # What is written here lands in files; a key put in the wrong place must not, not even in this sentence.
        if self.api_key_env is not None and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", self.api_key_env):
            raise ValueError("api_key_env must be the name of an environment variable, not a key")
        check_extra(self.extra_body or {})

    @property
    def urls(self) -> tuple[str, ...]:
        """The addresses, without a slash at the end."""
        urls = (self.base_url,) if isinstance(self.base_url, str) else self.base_url
        return tuple(url.rstrip("/") for url in urls)

    def money(self, prompt_tokens: int, completion_tokens: int) -> float | None:
        """What the tokens cost, in the currency of the prices; None where no price is given."""
        if self.price_prompt is None and self.price_completion is None:
            return None
        spent = prompt_tokens * (self.price_prompt or 0) + completion_tokens * (self.price_completion or 0)
        return round(spent / 1e6, 6)


def is_loopback(url: str) -> bool:
    """Whether the address is on this machine."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _check(url: str) -> None:
    if "@" in urlsplit(url).netloc:
        raise ValueError("base_url must not hold a user name or password; keys come from the environment or a file")
    if not _is_address(url):
        raise ValueError("base_url must be an address such as http://localhost:8000/v1")
    if "?" in url or "#" in url or not url.isprintable() or " " in url:
        raise ValueError("base_url must end with its path: no spaces, nothing after ? or #")
    if urlsplit(url).path.rstrip("/").endswith("/completions"):
        raise ValueError("base_url must end before /chat/completions, such as http://localhost:8000/v1")


def _is_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number
        return False
