"""Disk: files replaced whole or not at all, and the operating system's errors as sentences."""

import contextlib
import errno
import os
from collections.abc import Iterable
from pathlib import Path

from cotdistill.errors import SetupError

_PERMISSION = "permission denied; make the directory and the file writable or choose another path"
_NO_DIRECTORY = "a part of the path is a file, not a directory; choose another path"
_REASONS = {
    errno.ENOSPC: "the disk is full; free some space and run the same command again",
    errno.EDQUOT: "your disk quota is used up; free some space and run the same command again",
    errno.EROFS: "it is on a read-only file system; choose another path",
    errno.EACCES: _PERMISSION,
    errno.EPERM: _PERMISSION,
    errno.EMFILE: "too many files are open; raise the limit with `ulimit -n` and run the same command again",
    errno.ENFILE: "too many files are open on this machine; close some and run the same command again",
    errno.EISDIR: "it is a directory; name a file",
    errno.ENOTDIR: _NO_DIRECTORY,
    errno.EEXIST: _NO_DIRECTORY,
}


def cannot(doing: str, path: Path, error: OSError) -> SetupError:
    """An operating-system error in one sentence: ``cannot write 2_traces.jsonl: the disk is full; ...``."""
    reason = _REASONS.get(error.errno or 0, f"{error.strerror or error}; check the path and run it again")
    return SetupError(f"cannot {doing} {path}: {reason}")


def write_atomic(path: str | Path, data: bytes) -> None:
    """Replace ``path`` by ``data``: a reader, or a crash, finds the old file or the new one."""
    replace(Path(path), [data])


def replace(path: Path, chunks: Iterable[bytes]) -> None:
    target = Path(os.path.realpath(path))  # a link stays a link
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            for chunk in chunks:
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
        sync_directory(target.parent)
    except OSError as error:
        raise cannot("write", path, error) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def sync_directory(directory: Path) -> None:
    with contextlib.suppress(OSError):  # not every file system can; the file itself is already safe
        handle = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
