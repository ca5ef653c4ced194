"""Disk: files replaced whole or not at all, and the operating system's errors as sentences."""

import contextlib
import errno
import glob
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from cotdistill.errors import SetupError

_PERMISSION = "permission denied; make the directory and the file writable or choose another path"
_NO_DIRECTORY = "a part of the path is a file, not a directory; choose another path"
_REASONS = {
    errno.ENOSPC: "the disk is full; free some space and run the same command again",
    errno.EDQUOT: "your disk quota is used up; free some space and run the same command again",
    errno.EIO: "the disk reports a failure; choose another one",
    errno.EFBIG: "a file may not grow further; raise the limit with `ulimit -f` and run the same command again",
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


@contextlib.contextmanager
def explained(doing: str, path: Path) -> Iterator[None]:
    """The disk's errors below a library, which each puts in its own words, as the same sentence."""
    try:
        yield
    except OSError as error:
        if error.errno not in _REASONS:
            raise
        raise cannot(doing, path, error) from error
    except Exception as error:
        code = re.search(r"\((?:os error )?(\d+)\)$", str(error))  # safetensors ends with the first, torch without
        if code and int(code[1]) in _REASONS:
            raise cannot(doing, path, OSError(int(code[1]), os.strerror(int(code[1])))) from error
        if "inline_container" in str(error) and "Reader" not in str(error):  # torch.save says no more than this
            full = "the disk takes no more; free some space and run the same command again"
            raise SetupError(f"cannot {doing} {path}: {full}") from error
        raise


def require_space(directory: Path, needed: int) -> None:
    """Raise ``SetupError`` before any work if the disk of an existing directory has less than ``needed``."""
    free = shutil.disk_usage(directory).free
    if free < needed:
        raise SetupError(
            f"{directory} needs {needed / 1e9:.2f} GB, its disk has {free / 1e9:.2f} GB free; make room first"
        )


def write_atomic(path: str | Path, data: bytes) -> None:
    """Replace ``path`` by ``data``: a reader, or a crash, finds the old file or the new one."""
    replace(Path(path), [data])


def replace(path: Path, chunks: Iterable[bytes]) -> None:
    target = Path(os.path.realpath(path))  # a link stays a link
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _clear(target)
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


def _clear(target: Path) -> None:
    """Remove what processes that were killed while they replaced this file have left of it."""
    for left in target.parent.glob(f".{glob.escape(target.name)}.*.tmp"):
        process = left.name.removeprefix(f".{target.name}.").removesuffix(".tmp")
        if process.isdecimal() and not runs(int(process)):
            left.unlink(missing_ok=True)


def runs(process: int) -> bool:
    """Whether a process of this host is there, as far as can be told without touching it."""
    if os.name != "posix":
        return True  # there, to ask is to kill
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):  # another user's
        return True
    return True


def sync_directory(directory: Path) -> None:
    with contextlib.suppress(OSError):  # not every file system can; the file itself is already safe
        handle = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
