"""Ranks: the processes a launcher starts for one training. Rank 0 decides and writes, all of them compute.

    torchrun --nproc_per_node 2  ->  RANK=0 WORLD_SIZE=2  and  RANK=1 WORLD_SIZE=2

Starting them, joining them and exchanging gradients is torchrun's and accelerate's work. What is here lets them end
together: what one of them refuses is said once, and none waits for another that has gone. In one process all of it
does nothing.
"""

import contextlib
import logging
import os
import signal
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import TypeVar

import msgspec

from cotdistill.errors import CotdistillError, SetupError, TrainingError, UsageError
from cotdistill.shown import cause_of

T = TypeVar("T")

PATIENCE = timedelta(minutes=30)
"""How long one waits for another: while rank 0 fetches and converts a model, the others do nothing."""

GRACE = 5.0
"""Seconds that the silent processes wait before they end: a launcher ends all as soon as one ends, and the one that
speaks needs the time."""

_GONE = ("closed by peer", "reset by peer", "Broken pipe", "Connection refused", "remote process exited")


class Ranks(msgspec.Struct, frozen=True):
    """This process is ``rank`` of ``size``."""

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the one that writes and speaks."""
        return self.rank == 0

    def join(self) -> None:
        """Meet the others. Those that are not first fall silent, and end at once when they are told to: nothing they
        write needs to be put in order. Raises ``SetupError`` where they cannot meet."""
        if self.size == 1:
            return
        if not self.first:
            logging.getLogger("cotdistill").setLevel(logging.ERROR)
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, signal.SIG_DFL)
        import torch
        from accelerate import PartialState

        gpus, local = torch.cuda.device_count(), int(os.environ.get("LOCAL_RANK", "0"))
        if gpus and local >= gpus:
            raise SetupError(
                f"process {local} of this machine has no GPU: {gpus} can be seen; start as many processes as GPUs, or "
                "set CUDA_VISIBLE_DEVICES"
            )
        try:
            PartialState(cpu=not gpus, timeout=PATIENCE)
        except (RuntimeError, ValueError) as error:
            raise SetupError(
                f"process {self.rank} cannot meet the others; between machines, name the network with "
                f"GLOO_SOCKET_IFNAME (CPU) or NCCL_SOCKET_IFNAME (GPU): {cause_of(error)}"
            ) from error

    def alone(self, what: str) -> None:
        """Raise ``UsageError`` under a launcher: ``what`` is the work of one process."""
        if self.size > 1:
            with self._silence():
                raise UsageError(f"{what} is the work of one process; start it without a launcher")

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Leave the body together: if one process raises in it, all end, with its exit code, and the lowest rank that
        raised is the one that says why. The body must not wait for other processes."""
        failure: Exception | None = None
        try:
            yield
        except Exception as error:
            failure = error
        if self.size == 1:
            if failure:
                raise failure
            return
        codes = self._gather(getattr(failure, "exit_code", 1) if failure else 0)
        speaker = next((rank for rank, code in enumerate(codes) if code), None)
        if speaker is None:
            return
        if failure and self.rank == speaker:
            if isinstance(failure, CotdistillError) and not self.first:
                raise type(failure)(f"process {self.rank} of {self.size}: {failure}") from failure
            raise failure
        time.sleep(GRACE)
        raise SystemExit(codes[speaker])

    def broadcast(self, value: int) -> int:
        """The first rank's value, in every process."""
        return self._gather(value)[0] if self.size > 1 else value

    def all_gather(self, value: T) -> list[T]:
        """What each process has, in all of them, in the order of their ranks."""
        if self.size == 1:
            return [value]
        from accelerate.utils import gather_object

        with self.training():
            values: list[T] = gather_object([value])
        return values

    def check_same(self, digest: str) -> None:
        """Raises ``SetupError`` where another process computed another digest (hex) of what it is to work on, as it
        does when a node sees other files."""
        others = self._gather(int(digest[:15], 16)) if self.size > 1 else []
        with self.together():
            if self.first and (odd := [rank for rank, value in enumerate(others) if value != others[0]]):
                raise SetupError(
                    f"process {odd[0]} sees another data set, student or other settings than process 0; all nodes "
                    "need the same files: use a shared file system, or copy them"
                )

    @contextlib.contextmanager
    def training(self) -> Iterator[None]:
        """For work in which the processes wait for each other. A loss that cannot be right is the same in all of them,
        and rank 0 says it. Where one process has gone, the others end with one sentence."""
        try:
            yield
        except TrainingError:
            with self._silence():
                raise
        except RuntimeError as error:
            if self.size == 1 or not any(words in str(error) for words in _GONE):
                raise
            with self._silence():
                raise TrainingError(
                    f"one of the {self.size} processes of this training ended; its own message or the launcher's "
                    "report says why, and the same command goes on from the last checkpoint"
                ) from error

    def per_process_batch(self, batch_size: int, accumulation: int) -> tuple[int, int]:
        """Rows computed together and accumulation in each process, so that all of them together make the optimizer
        step of one process with ``batch_size`` and ``accumulation``: 2 processes, 4 x 4 rows -> 4 x 2 each.

        Raises ``UsageError`` where the rows of a step do not divide.
        """
        rows, left = divmod(batch_size * accumulation, self.size)
        if left:
            step = -(-batch_size * accumulation // self.size) * self.size
            raise UsageError(
                f"a step of --batch_size {batch_size} x --gradient_accumulation_steps {accumulation} rows does not "
                f"divide among {self.size} processes; choose them so that it does, as {step} rows would"
            )
        batch = max(size for size in range(1, min(batch_size, rows) + 1) if rows % size == 0)
        return batch, rows // batch

    @contextlib.contextmanager
    def _silence(self) -> Iterator[None]:
        """An error in the body is that of all processes: only the first one raises it, the others just end."""
        try:
            yield
        except CotdistillError as error:
            if self.first:
                raise
            time.sleep(GRACE)
            raise SystemExit(error.exit_code) from None

    def _gather(self, value: int) -> list[int]:
        import torch
        from accelerate import PartialState
        from accelerate.utils import gather

        with self.training():
            return [int(v) for v in gather(torch.tensor([value], device=PartialState().device)).tolist()]


def here() -> Ranks:
    """This process, as torchrun and accelerate say in the environment; 0 of 1 where nothing launched it."""
    rank, size = (os.environ.get(name, default) for name, default in (("RANK", "0"), ("WORLD_SIZE", "1")))
    if not (rank.isdecimal() and size.isdecimal() and int(rank) < int(size)):
        raise SetupError(f"RANK={rank} and WORLD_SIZE={size} in the environment make no sense; unset them")
    return Ranks(int(rank), int(size))

