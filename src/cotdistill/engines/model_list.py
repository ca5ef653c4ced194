"""The list of models that a server says it has.

    GET http://localhost:8000/v1/models  ->  {"data": [{"id": "qwen3-32b"}, ...]}
"""

import msgspec

from cotdistill.engines.endpoint import Endpoint
from cotdistill.engines.server_reply import Again, Refused
from cotdistill.errors import SetupError

PATIENCE = 10.0
"""Seconds to wait for the list."""


class _Listed(msgspec.Struct):
    id: str


class _List(msgspec.Struct):
    data: list[_Listed]


async def list_models(endpoint: Endpoint) -> list[str]:
    """The names on the list; none where the server gives no list, which is its right.

    Raises ``SetupError`` where nobody answers or the key is refused.
    """
    try:
        got = await endpoint.send("GET", "/models", timeout=PATIENCE)
    except Again as error:
        if error.away:
            raise SetupError(f"{endpoint.url} {error}; is the server running, and --base_url right?") from None
        return []  # whether it answers questions shows when it is asked one
    except Refused:
        return []
    if got.status == 401:
        raise SetupError(f"{endpoint.url} refuses the API key (401); check --api_key_env or --api_key_file")
    try:
        return [one.id for one in msgspec.json.decode(got.body, type=_List).data] if got.status == 200 else []
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return []


def is_listed(model: str, names: list[str]) -> bool:
    """Ollama lists under "m:latest" what may be asked for as "m"."""
    return model in names or f"{model}:latest" in names
