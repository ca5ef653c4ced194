"""Journal: rows on disk that survive a kill, a full disk and a second process.

One JSON object a line, UTF-8, ended by one ``\\n`` and split at nothing else (U+2028 and its like are text):

    {"id": "q1a2#0", "question_id": "q1a2", "question": "What is 15% of 240?", "reasoning": "...", ...}

What is promised: after a SIGKILL at most the row being written is missing; after a power cut at most the rows
of the last second. Not covered: a disk that reports a write as safe and loses it.
"""

import contextlib
import logging
import math
import os
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from pathlib import Path
from typing import Generic, Self, TypeVar

import msgspec

from cotdistill.errors import DataError, SetupError
from cotdistill.storage.disk import cannot, replace, sync_directory
from cotdistill.storage.keys import Keys
from cotdistill.storage.lock import locked

T = TypeVar("T", bound=msgspec.Struct)
log = logging.getLogger(__name__)

SYNC_SECONDS = 1.0


def encode_row(row: object) -> bytes:
    """One row as a line, line break included.

    Raises ``DataError`` for what JSON or UTF-8 cannot hold (NaN, infinity, a lone surrogate): no row is
    written that could not be read back.
    """
    problem = "" if _finite(row) else "NaN and infinity are not JSON"
    try:
        line = msgspec.json.encode(row) + b"\n"
    except (UnicodeEncodeError, TypeError) as error:
        problem = str(error)
    if problem:
        raise DataError(f"a row cannot be written as UTF-8 JSON ({problem}): {ascii(row)[:120]}")
    return line


def _finite(value: object) -> bool:
    if isinstance(value, float):  # msgspec would silently write null
        return math.isfinite(value)
    if isinstance(value, msgspec.Struct):
        return all(_finite(getattr(value, field)) for field in value.__struct_fields__)
    if isinstance(value, dict):
        return all(map(_finite, value.values()))
    return all(map(_finite, value)) if isinstance(value, list | tuple) else True


class _Reader(Generic[T]):
    """Decodes the lines of one of our own files; a key that ``type_`` does not know is refused."""

    def __init__(self, path: Path, type_: type[T]) -> None:
        self._path = path
        self._row = msgspec.json.Decoder(type_)
        self._keys = msgspec.json.Decoder(dict[str, msgspec.Raw])
        self._known = frozenset(type_.__struct_encode_fields__)

    def read(self, line: bytes, number: int) -> T:
        try:
            row = self._row.decode(line)
            unknown = self._keys.decode(line).keys() - self._known
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            problem = f"not a whole row ({error}); repair or remove the line"
            raise DataError(f"{self._path}:{number}: {problem}") from error
        if unknown:
            names = ", ".join(map(ascii, sorted(unknown)))
            raise DataError(f"{self._path}:{number}: unknown key {names}; remove it from the row")
        return row


def read_rows(path: str | Path, type_: type[T]) -> Iterator[T]:
    """The rows of one of our own files, one at a time; blank lines are skipped.

    Raises ``DataError``, with file and line, where the file is missing or a line is not a whole ``type_``.
    """
    path = Path(path)
    reader = _Reader(path, type_)
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield reader.read(line, number)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}; check the path") from error


class Rows(Generic[T]):
    """The rows of a file that may not be there: not in memory, but read anew by every loop over them."""

    def __init__(self, path: Path, type_: type[T]) -> None:
        self._path, self._type = path, type_

    def __iter__(self) -> Iterator[T]:
        return read_rows(self._path, self._type) if self._path.exists() else iter(())


def write_rows(path: str | Path, rows: Iterable[object]) -> None:
    """Replace ``path`` by these rows, all or nothing."""
    replace(Path(path), map(encode_row, rows))


def whole_rows(path: str | Path, type_: type[T]) -> Iterator[T]:
    """The rows of a journal that somebody may be writing: none where there is no file yet, and without a last line
    that is not whole. Raises ``DataError`` as ``read_rows`` does."""
    path = Path(path)
    try:
        for _, row in _whole(path, type_):
            yield row
    except FileNotFoundError:
        return
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}; check the path") from error


def _whole(path: Path, type_: type[T]) -> Generator[tuple[int, T], None, tuple[int, bool]]:
    """Every whole row with its line number; returns where the last one ends and whether its line break is there."""
    reader, end, line = _Reader(path, type_), 0, b"\n"
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                try:
                    row = reader.read(line, number)
                except DataError:
                    if line.endswith(b"\n"):
                        raise
                    break  # only the last line can lack its line break: it is torn
                yield number, row
            end += len(line)
    return end, line.endswith(b"\n")


def _mended(path: Path, type_: type[T]) -> Iterator[tuple[int, T]]:
    """Every row with its line number; after the last one the end of the file is mended, never before."""
    end, closed = yield from _whole(path, type_)
    if end < path.stat().st_size:
        log.warning("%s: an earlier stop cut off the last line; it will be done again", path)
        os.truncate(path, end)
    elif not closed:
        with path.open("ab") as file:
            file.write(b"\n")


def forget_errors(path: str | Path, type_: type[T]) -> None:
    """Take the rows with ``finish == "error"`` out of a journal that is not open, to be asked again."""
    path = Path(path)
    if not path.exists():
        return
    with locked(path):
        try:
            failed = sum(_failed(row) for _, row in _mended(path, type_))
        except OSError as error:
            raise cannot("read", path, error) from error
        if failed:
            log.warning("%s: %d failed rows will be done again", path, failed)
            write_rows(path, (row for row in read_rows(path, type_) if not _failed(row)))


def _failed(row: msgspec.Struct) -> bool:
    return getattr(row, "finish", None) == "error"


class Journal(Generic[T]):
    """An append-only file of rows with one writer, each row under its own key.

        with Journal("2_traces.jsonl", Trace, key=lambda trace: trace.id) as journal:
            if "q1a2#0" not in journal.done:
                journal.append(trace)

    Opening takes the lock, reads every row once (what stays in memory is some 30 bytes for each) and repairs the
    end: an unfinished last line is cut off with a log line, a last line that lacks only its line break gets it.
    ``each`` is given every row that is read; what it raises stops the opening. Only one thread may append.

    Raises ``DataError`` with file and line, and leaves the file as it was, for a bad line before the last, a
    key that is there twice, or a row that cannot be written; ``ResumeError`` for a second writer;
    ``SetupError`` where the disk, the permissions or the file handles fail. A failed append leaves the
    earlier rows intact.
    """

    def __init__(
        self,
        path: str | Path,
        type_: type[T],
        *,
        key: Callable[[T], str],
        each: Callable[[T], object] = lambda row: None,
    ) -> None:
        self.path = Path(path)
        self.done = Keys()
        self._type = type_
        self._key = key
        self._each = each
        self._fd = -1
        self._unsynced = False
        self._failure: SetupError | None = None
        self._closing = threading.Event()
        self._syncer = threading.Thread(target=self._sync_every_second, daemon=True)
        self._on_exit = contextlib.ExitStack()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            stack.enter_context(locked(self.path))
            try:
                if self.path.exists():
                    self._read_keys()
                self._fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
            except OSError as error:
                raise cannot("write", self.path, error) from error
            stack.callback(self._close)
            sync_directory(self.path.parent)
            self._syncer.start()
            self._on_exit = stack.pop_all()
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self._on_exit.close()
        if self._failure and error is None:
            raise self._failure

    def append(self, row: T) -> None:
        """Write one row, whole or not at all, with one write; within ``SYNC_SECONDS`` it is on the disk."""
        if self._failure:
            raise self._failure
        key, line = self._key(row), encode_row(row)
        if key in self.done:
            raise DataError(f"{self.path}: a second row with the key {key!r}; each is written once")
        try:
            size = os.fstat(self._fd).st_size
        except OSError as error:
            raise cannot("write", self.path, error) from error
        try:
            written = os.write(self._fd, line)
            while written < len(line):  # a nearly full disk takes a part; the next write says what is wrong
                written += os.write(self._fd, line[written:])
            self.done.add(key)
            self._unsynced = True
        except BaseException as error:  # an interrupt too: a row is written whole or dropped whole
            self.done.discard(key)
            self._cut(size)
            if isinstance(error, OSError):
                raise cannot("write", self.path, error) from error
            raise

    def _cut(self, size: int) -> None:
        try:
            os.ftruncate(self._fd, size)
        except OSError as error:  # no later row may be glued to the unfinished one; opening again repairs it
            self._failure = cannot("write", self.path, error)

    def _read_keys(self) -> None:
        for number, row in _mended(self.path, self._type):
            key = self._key(row)
            if key in self.done:
                raise DataError(f"{self.path}:{number}: a second row with the key {key!r}; remove one")
            self._each(row)
            self.done.add(key)

    def _sync_every_second(self) -> None:
        while not self._closing.wait(SYNC_SECONDS):
            self._sync()

    def _sync(self) -> None:
        if self._unsynced:
            self._unsynced = False
            try:
                os.fsync(self._fd)
            except OSError as error:
                self._failure = cannot("write", self.path, error)

    def _close(self) -> None:
        self._closing.set()
        if self._syncer.ident:
            self._syncer.join()
        self._sync()
        os.close(self._fd)
        self._fd = -1
