"""Lock: one writer for a file or a run, known by host and process."""

import contextlib
import logging
import os
import socket
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import msgspec
from filelock import FileLock, Timeout

from cotdistill.errors import ResumeError, SetupError
from cotdistill.storage.disk import cannot, runs, write_atomic

log = logging.getLogger(__name__)


class Holder(msgspec.Struct, frozen=True):
    """Who holds a lock: ``{"host": "node3", "pid": 4711, "started": "2025-03-01T12:00:00+00:00"}``."""

    host: str
    pid: int
    started: str

    @property
    def state(self) -> Literal["running", "gone", "elsewhere"]:
        """Whether the process is there, as far as can be told without touching its lock; of another host nothing
        can be told. Another process may have got the number of one that is gone."""
        if self.host != socket.gethostname():
            return "elsewhere"
        return "running" if runs(self.pid) else "gone"


@contextlib.contextmanager
def locked(path: str | Path, *, break_lock: bool = False) -> Iterator[None]:
    """Be the only process that writes ``path``, a file or a whole run directory.

    Beside it, ``NAME.lock`` says who writes, and an operating-system lock on ``NAME.lock.held``, which the
    kernel lets go when its process dies, says whether anyone does; both are removed at the end. A dead holder
    on this host is taken over with a log line. From another host a dead holder cannot be told from a live
    one: ``break_lock`` takes it over, with every other lock of that process on what lies inside or beside.

    Raises ``ResumeError`` naming host, PID and start while another process writes, ``SetupError`` where no
    lock can be made.
    """
    path = Path(path)
    beside = path.resolve()
    sidecar = beside.with_name(f"{beside.name}.lock")
    guard = beside.with_name(f"{beside.name}.lock.held")
    try:
        sidecar.parent.mkdir(parents=True, exist_ok=True)
        holder = _read_holder(sidecar)
        if holder and holder.host != socket.gethostname():
            if not break_lock:
                raise _in_use(path, holder, "stop it there; if it is gone for certain, pass --break_lock")
            log.warning("%s: taking the lock of process %d on %s, as asked", path, holder.pid, holder.host)
            _break(beside, sidecar, holder)
        lock = _acquire(path, sidecar, guard)
    except OSError as error:
        raise cannot("lock", path, error) from error
    try:
        if holder := _read_holder(sidecar):
            log.warning("%s: process %d, which was writing it, is gone; going on", path, holder.pid)
        started = datetime.now(UTC).isoformat(timespec="seconds")
        write_atomic(sidecar, msgspec.json.encode(Holder(socket.gethostname(), os.getpid(), started)))
        yield
    finally:
        with contextlib.suppress(OSError):
            sidecar.unlink(missing_ok=True)
            guard.unlink(missing_ok=True)
        lock.release(force=True)


@contextlib.contextmanager
def one_at_a_time(guard: Path, doing: str) -> Iterator[None]:
    """Wait, with a log line, while another process is ``doing`` the same: the file ``guard`` is there meanwhile.

    Raises ``SetupError`` where no lock can be made.
    """
    lock = FileLock(guard)
    try:
        guard.parent.mkdir(parents=True, exist_ok=True)
        while not (lock.is_locked and guard.exists()):  # the last holder removes the file: then it guards nothing
            lock.release()
            try:
                lock.acquire(timeout=0)
            except Timeout:
                log.warning("another process is %s: waiting for it", doing)
                lock.acquire()
    except OSError as error:
        raise cannot("lock", guard, error) from error
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            guard.unlink(missing_ok=True)
        lock.release()


def holder_of(path: str | Path) -> Holder | None:
    """Who says that it is writing ``path``, alive or not; changes nothing."""
    beside = Path(path).resolve()
    return _read_holder(beside.with_name(f"{beside.name}.lock"))


def _break(beside: Path, sidecar: Path, holder: Holder) -> None:
    """Remove the locks of a process that is gone: those of its files first, the one it began with last, so that
    whoever is stopped in between can be told the same again."""
    inside = [*beside.rglob("*.lock")] if beside.is_dir() else [*beside.parent.glob("*.lock")]
    theirs = [lock for lock in inside if lock != sidecar and _same_process(_read_holder(lock), holder)]
    for lock in (*theirs, sidecar):
        lock.with_name(f"{lock.name}.held").unlink(missing_ok=True)
        lock.unlink(missing_ok=True)


def _same_process(one: Holder | None, other: Holder) -> bool:
    return one is not None and (one.host, one.pid) == (other.host, other.pid)


def _acquire(path: Path, sidecar: Path, guard: Path) -> FileLock:
    lock = FileLock(guard)
    for _ in range(20):
        try:
            lock.acquire(timeout=0)
        except Timeout:
            # Whoever has only just got the lock has not written its name yet: then look again.
            if holder := _read_holder(sidecar):
                raise _in_use(path, holder, "wait for it, stop it, or choose another output") from None
        else:
            if guard.exists():
                return lock
            lock.release(force=True)  # the last holder removed the file between our open and our lock
        time.sleep(0.05)
    if not guard.exists():  # such as /proc, where the library takes the failure for a lock that is held
        raise SetupError(f"cannot lock {path}: no file can be made beside it; choose another output")
    raise ResumeError(f"{path} is being written by another process; wait for it or choose another output")


def _in_use(path: Path, holder: Holder, advice: str) -> ResumeError:
    who = f"process {holder.pid} on {holder.host} (since {holder.started})"
    return ResumeError(f"{path} is being written by {who}; {advice}")


def _read_holder(sidecar: Path) -> Holder | None:
    try:
        return msgspec.json.decode(sidecar.read_bytes(), type=Holder)
    except (FileNotFoundError, msgspec.MsgspecError, ValueError, RecursionError):
        return None
