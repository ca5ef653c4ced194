"""Completion cache: answers that runs on one machine share, so that the same request is not computed twice.

    cache = CompletionCache(Path("~/.cache/cotdistill/traces.sqlite"))
    cache.put(key, completion); cache.get(key) -> completion, or None

One SQLite file in WAL mode, which several processes may use at once; the answers used last stay when it grows beyond
``max_bytes``. A cache only saves work: an entry that is damaged is no entry, and where the file cannot be used a log
line says so and everything is computed. Not covered: a directory that several machines share.
"""

import logging
import sqlite3
import time
from hashlib import blake2b
from pathlib import Path
from typing import Any

import msgspec

from cotdistill.download import cache_directory
from cotdistill.engines import Completion

log = logging.getLogger(__name__)

MAX_BYTES = 1 << 30
PATIENCE = 5.0  # seconds to wait for another process that is writing
CHECKSUM = 16  # bytes before each entry
_TABLE = """
CREATE TABLE IF NOT EXISTS answers (key BLOB UNIQUE NOT NULL, used REAL NOT NULL, size INTEGER NOT NULL, value BLOB);
CREATE INDEX IF NOT EXISTS by_use ON answers (used, size);
"""
# Deletes what was used longest ago, up to so many bytes.
_TRIM = """
DELETE FROM answers WHERE rowid IN (
  SELECT rowid FROM (SELECT rowid, size, sum(size) OVER (ORDER BY used, rowid) AS upto FROM answers)
  WHERE upto - size < ?)
"""


def default_path() -> Path:
    return cache_directory() / "traces.sqlite"


class CompletionCache:
    """Keys are bytes that name a request in full; ``max_bytes`` is kept to within a twentieth."""

    def __init__(self, path: Path, *, max_bytes: int = MAX_BYTES) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._added = max_bytes  # so that the first entry looks how large the others are
        self._database: sqlite3.Connection | None = None
        self._read = msgspec.json.Decoder(Completion).decode
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._database = sqlite3.connect(path, timeout=PATIENCE, isolation_level=None, check_same_thread=False)
            self._database.text_factory = bytes  # only damage makes text of an entry
            self._use_wal()
            self._database.execute("PRAGMA synchronous = NORMAL")
            self._database.executescript(_TABLE)
        except (sqlite3.Error, OSError) as error:
            self._give_up(error)

    def get(self, key: bytes) -> Completion | None:
        """The answer under a key; it counts as used now."""
        rows = self._do("SELECT value FROM answers WHERE key = ?", key)
        value = rows[0][0] if rows else b""
        if not isinstance(value, bytes) or value[:CHECKSUM] != _checksum(value[CHECKSUM:]):
            return None
        try:
            found = self._read(value[CHECKSUM:])
        except (msgspec.MsgspecError, ValueError):
            return None
        self._do("UPDATE answers SET used = ? WHERE key = ?", time.time(), key)
        return found

    def put(self, key: bytes, completion: Completion) -> None:
        try:
            row = msgspec.json.encode(completion)
        except UnicodeEncodeError:  # half a character, which no row can hold
            return
        value = _checksum(row) + row
        self._do("INSERT OR REPLACE INTO answers VALUES (?, ?, ?, ?)", key, time.time(), len(value) + len(key), value)
        self._added += len(value) + len(key)
        if self._added > self._max_bytes // 20:
            self._added = 0
            total = self._do("SELECT sum(size) FROM answers")
            if total and (over := (total[0][0] or 0) - self._max_bytes) > 0:
                self._do(_TRIM, over)

    def close(self) -> None:
        if self._database is not None:
            self._database.close()
            self._database = None

    def _use_wal(self) -> None:
        """For this one change SQLite does not wait by itself where several open a new file at the same moment."""
        assert self._database is not None
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                self._database.execute("PRAGMA journal_mode = WAL")
                return
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                    raise
                time.sleep(0.01)

    def _do(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        if self._database is None:
            return []
        try:
            return self._database.execute(statement, values).fetchall()
        except sqlite3.Error as error:
            self._give_up(error)
            return []

    def _give_up(self, error: Exception) -> None:
        log.warning("going on without the trace cache %s (%s); if this stays so, remove the file", self._path, error)
        self.close()


def _checksum(row: bytes) -> bytes:
    return blake2b(row, digest_size=CHECKSUM).digest()
