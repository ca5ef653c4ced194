"""What --break_lock takes over, and what a lock says of its holder."""

import inspect
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from filelock import FileLock

from cotdistill.commands.evaluate import evaluate
from cotdistill.commands.export import export
from cotdistill.commands.generate import generate
from cotdistill.commands.plan import plan
from cotdistill.commands.runs import run
from cotdistill.commands.train import train
from cotdistill.commands.verify import verify
from cotdistill.errors import ResumeError, SetupError
from cotdistill.storage import disk
from cotdistill.storage.lock import Holder, holder_of, locked

FOREIGN = '{"host": "elsewhere", "pid": %d, "started": "2025-03-01T12:00:00+00:00"}'


def foreign(lock: Path, pid: int = 7) -> Path:
    lock.parent.mkdir(parents=True, exist_ok=True)
    lock.write_text(FOREIGN % pid)
    return lock


@pytest.mark.parametrize("name", ["run", "run/cot.manifest.json"])
def test_break_lock_takes_every_lock_of_the_process_that_is_gone_and_no_other(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    (tmp_path / "run").mkdir()
    foreign(path.with_name(f"{path.name}.lock"))
    inner = foreign(tmp_path / "run/2_traces.jsonl.lock")
    inner.with_name(f"{inner.name}.held").touch()
    other = foreign(tmp_path / "run/other.jsonl.lock", pid=8)
    with pytest.raises(ResumeError, match=r"process 7 on elsewhere .*gone for certain, pass --break_lock"), locked(path):
        pass
    assert inner.exists()
    with locked(path, break_lock=True), locked(tmp_path / "run/2_traces.jsonl"):
        pass
    assert other.exists()
    assert [*tmp_path.rglob("*.lock*")] == [other]


def test_a_holder_is_running_gone_or_elsewhere(tmp_path: Path) -> None:
    assert holder_of(tmp_path / "x") is None
    with locked(tmp_path / "x"):
        holder = holder_of(tmp_path / "x")
        assert holder is not None
        assert (holder.pid, holder.state) == (os.getpid(), "running")
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    assert Holder(socket.gethostname(), process.pid, "").state == "gone"
    assert Holder("elsewhere", os.getpid(), "").state == "elsewhere"


def test_where_to_ask_a_process_is_to_stop_it_none_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk, "os", SimpleNamespace(name="nt", kill=lambda *_: pytest.fail("on Windows this is Ctrl-C")))
    assert Holder(socket.gethostname(), os.getpid(), "").state == "running"


@pytest.mark.parametrize("command", [evaluate, export, generate, plan, run, train, verify])
def test_every_command_that_takes_a_lock_can_be_told_to_break_it(command: Callable[..., None]) -> None:
    assert "break_lock" in inspect.signature(command).parameters


def test_a_lock_whose_file_the_last_holder_removed_is_taken_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    acquire, taken = FileLock.acquire, []

    def late(self: FileLock, *words: object, **options: object) -> object:
        found = acquire(self, *words, **options)
        taken.append(self)
        if len(taken) == 1:
            os.unlink(self.lock_file)  # as the last holder does, between our open and our lock
        return found

    monkeypatch.setattr(FileLock, "acquire", late)
    with locked(tmp_path / "j"):
        assert (tmp_path / "j.lock.held").exists()
    assert len(taken) == 2


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="no place where no file can be made")
def test_where_no_lock_can_be_made_nobody_is_said_to_hold_it() -> None:
    with pytest.raises(SetupError, match="cannot lock /proc/x: no file can be made beside it"), locked("/proc/x"):
        pass
