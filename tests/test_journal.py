"""What the journal promises: whole rows or none, one writer, one sentence when the disk says no."""

import errno
import json
import logging
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest

from cotdistill import journal as journal_module
from cotdistill.errors import DataError, ResumeError, SetupError
from cotdistill.journal import Journal, encode_row, forget_errors, read_rows, write_rows
from cotdistill.storage.disk import write_atomic
from cotdistill.storage.lock import locked


class Row(msgspec.Struct, frozen=True, omit_defaults=True):
    id: str
    text: str = ""
    share: float = 0.0
    finish: str | None = None


def open_journal(path: Path, **options: object) -> Journal[Row]:
    return Journal(path, Row, key=lambda row: row.id, **options)  # type: ignore[arg-type]


def ids(path: Path) -> list[str]:
    return [row.id for row in read_rows(path, Row)]


HOLD = """
import sys, time
from cotdistill.storage.lock import locked
with locked(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


def holder_of(path: Path) -> "subprocess.Popen[str]":
    """Another process that holds the lock of ``path``."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout
    assert process.stdout.readline() == "held\n"
    return process


# rows


def test_rows_come_back_as_written_whatever_the_text_holds(tmp_path: Path) -> None:
    texts = ["a\u2028b\u2029c\u0085d", "NUL \x00 and \r\n\t\x1b[31m", "x" * 5_000_000, "٣ – 🙂", '{"id": "fake"}\n{}']
    rows = [Row(str(number), text) for number, text in enumerate(texts)]
    with open_journal(tmp_path / "j") as journal:
        for row in rows:
            journal.append(row)
    assert list(read_rows(tmp_path / "j", Row)) == rows
    assert (tmp_path / "j").read_bytes().count(b"\n") == len(rows)


@pytest.mark.parametrize("bad", [Row("a", share=float("nan")), Row("a", share=float("inf")), Row("a", "\ud800")])
def test_what_json_cannot_hold_is_refused_and_nothing_is_written(tmp_path: Path, bad: Row) -> None:
    with open_journal(tmp_path / "j") as journal:
        journal.append(Row("first"))
        with pytest.raises(DataError):
            journal.append(bad)
        assert bad.id not in journal.done
    assert ids(tmp_path / "j") == ["first"]


def test_nan_is_found_inside_nested_values() -> None:
    with pytest.raises(DataError, match="NaN"):
        encode_row({"a": [1.0, {"b": (float("nan"),)}]})


@pytest.mark.parametrize(
    "line", [b"{", b"[1]", b'{"id": 3}', b'{"id": "b", "new": 1}', b'{"id": "\xff"}', b'{"text": "no id"}', b"[" * 9999]
)
def test_a_bad_row_is_named_by_file_and_line(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"id": "a"}\n\n' + line + b"\n")
    with pytest.raises(DataError, match=r"rows\.jsonl:3: "):
        list(read_rows(path, Row))


def test_reading_a_missing_file_is_a_data_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nothere"):
        list(read_rows(tmp_path / "nothere", Row))


def test_a_replaced_file_is_the_old_one_or_the_new_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "rows.jsonl"
    write_rows(path, [Row("old")])
    with pytest.raises(DataError):
        write_rows(path, [Row("new"), Row("bad", "\ud800")])
    monkeypatch.setattr(os, "fsync", fails(errno.ENOSPC))
    with pytest.raises(SetupError, match="disk is full"):
        write_atomic(path, b"new")
    assert ids(path) == ["old"]
    assert os.listdir(tmp_path) == ["rows.jsonl"]


def test_replacing_goes_through_a_link_and_keeps_it(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    write_atomic(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "new"


# journal


def test_every_torn_tail_is_cut_and_only_that_row_is_done_again(tmp_path: Path) -> None:
    path = tmp_path / "j"
    first, last = encode_row(Row("a", "erste")), encode_row(Row("b", "ünï → 🙂"))
    for kept in range(len(last) + 1):
        path.write_bytes(first + last[:kept])
        with open_journal(path) as journal:
            whole = kept >= len(last) - 1  # only the line break is missing: the row is kept
            assert ("a" in journal.done, "b" in journal.done, len(journal.done)) == (True, whole, 1 + whole), kept
            for row in (Row("a", "erste"), Row("b", "ünï → 🙂")):
                if row.id not in journal.done:
                    journal.append(row)
        assert path.read_bytes() == first + last, kept


def test_a_cut_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "j").write_bytes(b'{"id":"a"}\n{"id')
    with caplog.at_level(logging.WARNING), open_journal(tmp_path / "j"):
        pass
    assert "cut off the last line" in caplog.text


def test_a_blank_last_line_does_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "j"
    for tail in (b"\n", b"\n\n", b" "):
        path.write_bytes(b'{"id":"a"}\n' + tail)
        with open_journal(path) as journal:
            journal.append(Row("b"))
        assert ids(path) == ["a", "b"]


@pytest.mark.parametrize("bad", [b"{\n", b'{"id": "\xff"}\n', b'{"id": "b", "new": 1}\n', b"\x00\x00\n"])
def test_a_bad_line_in_the_middle_stops_with_file_and_line_and_the_file_is_untouched(
    tmp_path: Path, bad: bytes
) -> None:
    path = tmp_path / "rows.jsonl"
    content = b'{"id":"a"}\n' + bad + b'{"id":"c"}\n{"id'
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"rows\.jsonl:2: "), open_journal(path):
        pass
    assert path.read_bytes() == content
    assert os.listdir(tmp_path) == ["rows.jsonl"]


def test_a_key_is_written_once(tmp_path: Path) -> None:
    path = tmp_path / "j"
    with open_journal(path) as journal:
        journal.append(Row("a"))
        with pytest.raises(DataError, match="'a'"):
            journal.append(Row("a", "again"))
    path.write_bytes(path.read_bytes() * 2)
    with pytest.raises(DataError, match="j:2: "), open_journal(path):
        pass


def test_failed_rows_are_taken_out_to_be_done_again(tmp_path: Path) -> None:
    path = tmp_path / "j"
    forget_errors(path, Row)
    assert not path.exists()
    path.write_bytes(b'{"id":"a"}\n{"id":"b","finish":"error"}\n{"id":"c"}\n{"id":"d"')
    forget_errors(path, Row)
    assert path.read_bytes() == b'{"id":"a"}\n{"id":"c"}\n'


def test_failed_rows_of_a_file_that_somebody_writes_are_left_to_him(tmp_path: Path) -> None:
    path = tmp_path / "j"
    path.write_bytes(b'{"id":"a","finish":"error"}\n')
    with locked(path), pytest.raises(ResumeError, match="is being written"):
        forget_errors(path, Row)
    assert path.read_bytes() == b'{"id":"a","finish":"error"}\n'


def test_a_new_file_and_a_replaced_one_are_in_their_directory_after_a_power_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, real = tmp_path / "j", os.fsync
    synced: list[tuple[int, bool]] = []

    def fsync(fd: int) -> None:
        synced.append((os.fstat(fd).st_ino, path.exists()))
        real(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    directory = os.stat(tmp_path).st_ino
    with open_journal(path):
        assert (directory, True) in synced
    path.unlink()
    synced.clear()
    write_atomic(path, b"x")
    assert synced[-1] == (directory, True)


def test_rows_are_on_the_disk_within_a_second_also_when_nothing_follows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    real = os.fsync
    monkeypatch.setattr(journal_module, "SYNC_SECONDS", 0.02)
    with open_journal(tmp_path / "j") as journal:
        monkeypatch.setattr(os, "fsync", lambda fd: (synced.append(fd), real(fd)))
        journal.append(Row("a"))
        deadline = time.monotonic() + 5
        while not synced and time.monotonic() < deadline:
            time.sleep(0.01)
        assert synced
        time.sleep(0.1)
        assert len(synced) == 1  # nothing new, nothing to do


def test_closing_syncs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    with open_journal(tmp_path / "j") as journal:
        journal.append(Row("a"))
        monkeypatch.setattr(os, "fsync", synced.append)
    assert synced


def fails(code: int) -> object:
    def call(*_: object, **__: object) -> int:
        raise OSError(code, os.strerror(code))

    return call


def test_a_full_disk_is_one_sentence_and_the_earlier_rows_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "j"
    real, calls = os.write, 0

    def write(fd: int, data: bytes) -> int:  # a part fits, the rest does not
        nonlocal calls
        calls += 1
        if calls == 1:
            return real(fd, data[:7])
        raise OSError(errno.ENOSPC, "No space left on device")

    with open_journal(path) as journal:
        journal.append(Row("a"))
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", write)
            with pytest.raises(SetupError, match=r"cannot write .*j: the disk is full"):
                journal.append(Row("b", "lost"))
        assert calls == 2
        journal.append(Row("b", "again"))
    assert [row.text for row in read_rows(path, Row)] == ["", "again"]


def test_an_interrupt_during_a_write_drops_the_row_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write

    def write(fd: int, data: bytes) -> int:
        real(fd, data)
        raise KeyboardInterrupt

    with open_journal(tmp_path / "j") as journal:
        journal.append(Row("a"))
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", write)
            with pytest.raises(KeyboardInterrupt):
                journal.append(Row("b"))
        assert "a" in journal.done
        assert len(journal.done) == 1
    assert ids(tmp_path / "j") == ["a"]


def test_no_row_is_glued_to_one_that_could_not_be_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "j"
    real = os.write
    journal = open_journal(path)
    journal.__enter__()
    journal.append(Row("a"))
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda fd, data: real(fd, data[:4]) if len(data) > 12 else fails(errno.EIO)())
        patch.setattr(os, "ftruncate", fails(errno.EIO))
        with pytest.raises(SetupError):
            journal.append(Row("b", "torn"))
    with pytest.raises(SetupError):
        journal.append(Row("c"))
    with pytest.raises(SetupError):
        journal.__exit__(None, None, None)
    with open_journal(path) as journal:
        assert "a" in journal.done
        assert len(journal.done) == 1


def test_a_failing_sync_is_not_silent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = open_journal(tmp_path / "j")
    journal.__enter__()
    journal.append(Row("a"))
    monkeypatch.setattr(os, "fsync", fails(errno.EDQUOT))
    with pytest.raises(SetupError, match="disk quota"):
        journal.__exit__(None, None, None)


@pytest.mark.parametrize(
    ("code", "words"),
    [(errno.EROFS, "read-only"), (errno.EACCES, "permission denied"), (errno.EMFILE, "ulimit -n")],
)
def test_a_journal_that_cannot_be_opened_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, words: str
) -> None:
    (tmp_path / "j").write_bytes(b'{"id":"a"}\n')
    real = os.open

    def refuse(path: object, *rest: int, **options: int) -> int:
        if str(path).endswith("/j"):
            raise OSError(code, os.strerror(code))
        return real(path, *rest, **options)  # type: ignore[call-overload, no-any-return]

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(SetupError, match=words), open_journal(tmp_path / "j"):
        pass
    assert os.listdir(tmp_path) == ["j"]
    assert ids(tmp_path / "j") == ["a"]


def test_no_file_handles_left_is_one_sentence(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = max(int(name) for name in os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 64
    hogs: list[int] = []

    def take_all() -> None:
        while True:
            hogs.append(os.open(os.devnull, os.O_RDONLY))

    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 8, hard))
    try:
        with pytest.raises(OSError, match="open files"):
            take_all()
        with pytest.raises(SetupError, match="ulimit -n"), open_journal(tmp_path / "j"):
            pass
    finally:
        for hog in hogs:
            os.close(hog)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_directory_in_place_of_the_file_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "j").mkdir()
    with pytest.raises(SetupError, match="it is a directory"), open_journal(tmp_path / "j"):
        pass


# lock


def test_a_second_process_is_refused_with_the_pid_of_the_first(tmp_path: Path) -> None:
    path = tmp_path / "j"
    process = holder_of(path)
    try:
        expected = f"process {process.pid} on {socket.gethostname()}"
        with pytest.raises(ResumeError, match=expected), open_journal(path):
            pass
        with pytest.raises(ResumeError, match=expected), locked(path, break_lock=True):
            pass  # a live holder on this host is never broken
    finally:
        process.kill()
        process.wait()


def test_one_process_cannot_open_a_journal_twice(tmp_path: Path) -> None:
    with open_journal(tmp_path / "j"), pytest.raises(ResumeError, match=str(os.getpid())), open_journal(tmp_path / "j"):
        pass


def test_a_dead_holder_is_taken_over_and_the_lock_goes_at_the_end(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "j"
    process = holder_of(path)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert json.loads((tmp_path / "j.lock").read_bytes())["pid"] == process.pid
    with open_journal(path) as journal:
        journal.append(Row("a"))
        mine = json.loads((tmp_path / "j.lock").read_bytes())
        assert (mine["host"], mine["pid"]) == (socket.gethostname(), os.getpid())
        assert set(mine) == {"host", "pid", "started"}
    assert os.listdir(tmp_path) == ["j"]
    assert f"process {process.pid}" in caplog.text


def test_another_hosts_lock_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "j"
    (tmp_path / "j.lock").write_text('{"host": "elsewhere", "pid": 7, "started": "2025-03-01T12:00:00+00:00"}')
    with pytest.raises(ResumeError, match=r"process 7 on elsewhere .*--break_lock"), open_journal(path):
        pass
    assert os.listdir(tmp_path) == ["j.lock"]


def test_a_damaged_lock_file_does_not_stop_anyone(tmp_path: Path) -> None:
    (tmp_path / "j.lock").write_bytes(b'{"host": "\xff')
    with open_journal(tmp_path / "j"):
        pass


def test_a_run_directory_has_one_writer_and_stays_clean(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "a"
    with locked(run):  # before and after the directory exists it is the same lock
        run.mkdir(parents=True)
        with pytest.raises(ResumeError), locked(run):
            pass
    assert os.listdir(run) == []
    assert os.listdir(run.parent) == ["a"]


KILLED = """
import sys
import msgspec
sys.path.insert(0, sys.argv[2])
from test_journal import Row, open_journal
from pathlib import Path
with open_journal(Path(sys.argv[1])) as journal:
    print("open", flush=True)
    for number in range(200):
        if str(number) not in journal.done:
            journal.append(Row(str(number), "ü" * 20_000))
"""


def test_killed_at_random_and_resumed_every_row_is_there_exactly_once(tmp_path: Path) -> None:
    path = tmp_path / "j"
    for round_ in range(6):
        process = subprocess.Popen(
            [sys.executable, "-c", KILLED, str(path), str(Path(__file__).parent)], stdout=subprocess.PIPE
        )
        assert process.stdout
        process.stdout.readline()
        time.sleep(0.001 * round_)
        process.kill()
        process.wait()
    subprocess.run([sys.executable, "-c", KILLED, str(path), str(Path(__file__).parent)], check=True)
    assert sorted(ids(path), key=int) == [str(number) for number in range(200)]


def test_what_a_process_killed_in_a_replacement_left_goes_with_the_next_one(tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    for process in (gone.pid, os.getppid()):
        (tmp_path / f".rows.jsonl.{process}.tmp").write_bytes(b"half")
    (tmp_path / f".rows.jsonl.x.{gone.pid}.tmp").write_bytes(b"of another file")
    write_rows(tmp_path / "rows.jsonl", [Row("a")])
    left = {f".rows.jsonl.{os.getppid()}.tmp", f".rows.jsonl.x.{gone.pid}.tmp", "rows.jsonl"}
    assert set(os.listdir(tmp_path)) == left
