"""Cluster: the Ray cluster this process talks to, and how it is divided among workers.

    share([{"CPU": 32, "GPU": 4}, {"CPU": 32, "GPU": 4}])             -> 8 workers with a GPU each
    share([{"CPU": 32, "GPU": 4}, {"CPU": 32, "GPU": 4}], workers=2)  -> 2 workers with 4 GPUs each
    share([{"CPU": 16}, {"CPU": 16}, {"CPU": 16}])                    -> 3 workers with 16 CPUs each
"""

import logging
import math
import os
import signal
import socket
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from cotdistill.errors import SetupError

log = logging.getLogger(__name__)

PATIENCE = 5.0
"""Seconds that the head of a cluster has to accept a connection."""
OBJECT_STORE = 100_000_000
"""Bytes of shared memory of a Ray that is started here: what passes through are questions and answers."""


class Share(msgspec.Struct, frozen=True):
    """``workers`` of which each has ``cpus`` and ``gpus`` to itself."""

    workers: int
    cpus: int
    gpus: int

    def sentence(self) -> str:
        """``workers on Ray: 2, with 4 GPU each``."""
        return f"workers on Ray: {self.workers}, with {self.each} each"

    @property
    def each(self) -> str:
        """What a worker has: ``4 GPU``."""
        return f"{self.gpus} GPU" if self.gpus else f"{self.cpus} CPU"


def share(nodes: Sequence[Mapping[str, float]], workers: int | None = None) -> Share:
    """Divide the resources of some nodes among ``workers``; by default one a GPU, without GPUs one a node.

    More workers than there are GPUs or CPUs are allowed: those that find no place wait for the cluster to grow.
    Raises ``SetupError`` where no node has CPUs.
    """
    gpus = [int(node.get("GPU", 0)) for node in nodes if node.get("GPU", 0) >= 1]
    if gpus:
        workers = workers or sum(gpus)
        # As many as leave a place on some node for each: a worker's GPUs are those of one.
        fit = (size for size in range(max(gpus), 0, -1) if sum(have // size for have in gpus) >= workers)
        return Share(workers, 1, next(fit, 1))
    cpus = [int(node.get("CPU", 0)) for node in nodes if node.get("CPU", 0) >= 1]
    if not cpus:
        raise SetupError("no node of the Ray cluster offers CPUs; see `ray status`, and start nodes with --num-cpus")
    workers = workers or len(cpus)
    return Share(workers, max(1, min(cpus) // math.ceil(workers / len(cpus))), 0)


def connect() -> None:
    """Join the cluster at ``RAY_ADDRESS``, or the one this machine belongs to; without any, start Ray here.

    Does nothing where this process has joined one. Raises ``SetupError`` where Ray is not installed or the cluster
    cannot be reached.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")  # else Ray writes to our stdout when a process ends
    try:
        import ray
    except ImportError as error:
        raise SetupError(f"this engine needs Ray ({error}): pip install ray") from error
    if ray.is_initialized():
        return
    quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False, "_skip_env_hook": True}
    address = os.environ.get("RAY_ADDRESS", "").strip()
    if "://" in address:
        raise SetupError(
            f"RAY_ADDRESS is {address}, a Ray Client address, which cannot stream answers; run cotdistill on a node of "
            "the cluster (`ray job submit` does) with RAY_ADDRESS=HOST:6379"
        )
    in_main_thread = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGTERM)
    try:
        if address in ("", "auto"):
            _join_or_start(quiet, must_exist=address == "auto")
        elif address == "local":
            ray.init(address="local", include_dashboard=False, object_store_memory=OBJECT_STORE, **quiet)
        else:
            _knock(address)
            ray.init(address=address, **quiet)
    except Exception as error:  # Ray raises that class itself where it does not start
        where = f"at RAY_ADDRESS={address}" if address else "on this machine"
        reason = str(error).strip().partition("\n")[0]
        raise SetupError(
            f"no Ray cluster could be reached {where} ({reason}); check the address, that `ray status` works there, "
            "and that this process has the cluster's token (RAY_AUTH_TOKEN_PATH) where it asks for one"
        ) from error
    finally:
        if in_main_thread:
            signal.signal(signal.SIGTERM, handler)  # Ray puts one of its own there


def nodes() -> list[dict[str, float]]:
    """What each node of the cluster that this process has joined offers: ``{"CPU": 16.0, "GPU": 1.0}``."""
    import ray

    return [dict(node["Resources"]) for node in ray.nodes() if node["Alive"]]


def _join_or_start(quiet: dict[str, Any], *, must_exist: bool) -> None:
    import ray

    try:
        ray.init(address="auto", **quiet)
    except ConnectionError:
        if must_exist:
            raise
        log.info("RAY_ADDRESS is not set and no cluster runs here: starting Ray on this machine alone")
        ray.init(address="local", include_dashboard=False, object_store_memory=OBJECT_STORE, **quiet)


def _knock(address: str) -> None:
    """Ray itself tries for a minute and then ends the process."""
    host, _, port = address.rpartition(":")
    with socket.create_connection((host.strip("[]"), int(port)), timeout=PATIENCE):
        pass
