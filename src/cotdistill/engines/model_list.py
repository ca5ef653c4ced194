"""The list of models that a server says it has.

    GET http://localhost:8000/v1/models  ->  {"data": [{"id": "qwen3-32b"}, ...]}
"""

from collections.abc import Container

import msgspec

from cotdistill.engines.endpoint import Endpoint
from cotdistill.engines.server_reply import Again, Refused
from cotdistill.errors import SetupError

PATIENCE = 10.0
"""Seconds to wait for the list."""


class _Listed(msgspec.Struct):
    id: str
    max_model_len: int | None = None


class _List(msgspec.Struct):
    data: list[_Listed]


async def list_models(endpoint: Endpoint) -> dict[str, int | None]:
    """The names on the list, each with the longest text of that model in tokens where the server says it, as vLLM
    does; none where it gives no list, which is its right.

    Raises ``SetupError`` where nobody answers or the key is refused.
    """
    try:
        got = await endpoint.send("GET", "/models", timeout=PATIENCE)
    except Again as error:
        if error.away:
            raise SetupError(f"{endpoint.url} {error}; is the server running, and --base_url right?") from None
        return {}  # whether it answers questions shows when it is asked one
    except Refused:
        return {}
    if got.status == 401:
        raise SetupError(f"{endpoint.url} refuses the API key (401); check --api_key_env or --api_key_file")
    if got.status != 200:
        return {}
    try:
        return {one.id: one.max_model_len for one in msgspec.json.decode(got.body, type=_List).data}
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return {}


def is_listed(model: str, names: Container[str]) -> bool:
    """Ollama lists under "m:latest" what may be asked for as "m"."""
    return model in names or f"{model}:latest" in names
