"""Manifest: what made the files of a run, and which stages are done.

    {"schema": 1, "versions": {"python": "3.11.7", "torch": "2.13.0"},
     "stages": {"generate": {"settings": {"sampling": {"temperature": 0.2}}, "files": ["2_traces.jsonl"],
                             "started": "2025-03-01T12:00:00+00:00", "finished": "2025-03-01T12:08:30+00:00",
                             "facts": {"rows": 100, "seconds": 504.1}}}}

A stage is keyed by its settings (the hashes of its inputs are settings too): the same settings go on, other
settings are refused. The caller holds the lock of the run; secrets never belong into settings or notes.
"""

import importlib.metadata
import logging
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from cotdistill import __version__
from cotdistill.disk import cannot, write_atomic
from cotdistill.errors import DataError, ResumeError
from cotdistill.identity import sha256_of

log = logging.getLogger(__name__)

SCHEMA = 1
_LIBRARIES = (
    "torch", "transformers", "peft", "accelerate", "safetensors", "bitsandbytes", "xllamacpp", "gguf", "vllm",
    "msgspec", "scipy", "datasets", "reasoning-gym",
)  # fmt: skip

HARMLESS: Mapping[str, str] = {
    "batch_size@generate": "each prompt is completed on its own; a batch only fills the machine better",
    "batch_size@evaluate": "as for generate; in training the batch is part of the optimisation and counts",
    "threads": "how many cores work, not on what",
    "device_map": "where the layers lie",
    "gpu_layers": "where the layers lie",
    "concurrency": "how many requests are in flight at once",
    "timeout": "how long to wait for a server; a row that timed out is asked again",
    "retries": "how often to ask again",
    "limit@generate": "more questions or fewer: rows already made stay as they are",
    "limit@evaluate": "as for generate",
    "path": "files and models are known by their hash, wherever they lie",
    "input_file": "as path",
    "output_file": "as path",
    "output_dir": "as path",
    "title": "a heading of the report",
    "quiet": "what is shown on the terminal",
    "overwrite": "how this run began",
    "break_lock": "how this run began",
}
"""Settings that never force a stage to be made again, each with the reason. A name stands for the last part of
a dotted key; ``name@stage`` counts in that stage only. Everything that is not listed here counts."""


class Stage(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True):
    """One stage as recorded; ``finished`` is None while it is owed. Times are UTC."""

    settings: dict[str, object]
    files: list[str]
    started: str
    finished: str | None = None
    facts: dict[str, object] = {}


class Manifest:
    """The record beside a run's files. It is written when a stage begins and after its files are complete.

    Raises ``DataError`` where the file on disk cannot be read, ``ResumeError`` where files were made with other
    settings.
    """

    def __init__(self, path: Path, notes: dict[str, object], stages: dict[str, Stage]) -> None:
        self.path = path
        self._notes = notes
        self._stages = stages

    @classmethod
    def open(cls, path: str | Path) -> "Manifest":
        """The manifest at ``path``; an empty one, not yet on disk, where there is none."""
        path = Path(path)
        try:
            notes: dict[str, object] = msgspec.json.decode(path.read_bytes(), type=dict[str, object])
            schema = notes.pop("schema", None)
            stages = msgspec.convert(notes.pop("stages", {}), dict[str, Stage])
        except FileNotFoundError:
            return cls(path, {}, {})
        except OSError as error:
            raise cannot("read", path, error) from error
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise DataError(f"{path}: not a manifest ({error}); remove it and start anew") from error
        if schema != SCHEMA:
            raise DataError(f"{path}: schema {schema!r}, this version reads {SCHEMA}; choose another run name")
        return cls(path, notes, stages)

    def claim(self, stage: str, settings: Mapping[str, object], *, overwrite: bool, files: list[Path]) -> None:
        """Begin a stage or go on with it; ``files`` are what it writes (a file or a directory each).

        The same settings go on; ``overwrite`` forgets the stage and deletes its files. Raises ``ResumeError``
        for other settings, naming them, and for files that nothing on record explains.
        """
        plain = self._plain(settings)
        if overwrite:
            self._forget(stage, files)
        known = self._stages.get(stage)
        if known is None:
            if made := next((file for file in files if _holds_something(file)), None):
                problem = f"{made} exists and {self.path} does not say how it was made"
                raise ResumeError(f"{problem}; choose another output or run name, or start anew with --overwrite")
            known = self._stages[stage] = Stage(plain, [], _now())
        elif not known.finished and not any(map(_holds_something, files)):
            known.settings = plain  # nothing was made with the old ones
        elif changed := _changes(stage, known.settings, plain):
            ways = "go back to the old settings, choose another output or run name, or start anew with --overwrite"
            what = f"{files[0] if files else self.path} was made with other settings"
            raise ResumeError(f"{what} ({'; '.join(changed)}): {ways}")
        elif known.finished and (lost := next((file for file in files if not file.exists()), None)):
            log.warning("%s is gone; the stage %s will be done again", lost, stage)
            known.finished = None
        known.files = [os.path.relpath(file, self.path.parent) for file in files]
        self._write()

    def _forget(self, stage: str, files: list[Path]) -> None:
        known = self._stages.pop(stage, None)
        for directory in files if known is None else []:
            if directory.is_dir() and _holds_something(directory) and not _ours(directory):
                raise ResumeError(f"{directory} is not ours to overwrite; remove it yourself or choose another output")
        if known:
            self._write()  # first: a kill in between must not leave a finished stage without its files
        for file in files:
            try:
                if file.is_dir() and not file.is_symlink():
                    shutil.rmtree(file)
                else:
                    file.unlink(missing_ok=True)
            except OSError as error:
                raise cannot("delete", file, error) from error

    def finish(self, stage: str, **facts: object) -> None:
        """Mark a claimed stage done, after its files are on the disk; ``facts`` are rows, seconds, tokens, ..."""
        known = self._stages[stage]
        known.finished = _now()
        known.facts = self._plain(facts)
        self._write()

    def done(self, stage: str) -> bool:
        """Whether the stage was finished."""
        return stage in self._stages and self._stages[stage].finished is not None

    def facts(self, stage: str) -> dict[str, object]:
        """What ``finish`` recorded; empty for a stage that is not done."""
        return dict(self._stages[stage].facts) if self.done(stage) else {}

    def note(self, **top_level: object) -> None:
        """Record what is true of the whole run: versions, seeds, hashes, the resolved recipe."""
        if reserved := top_level.keys() & {"schema", "stages"}:
            raise ValueError(f"reserved in a manifest: {reserved}")
        self._notes.update(self._plain(top_level))
        self._write()

    def _plain(self, values: Mapping[str, object]) -> dict[str, object]:
        """The values as they will be read back: tuples become lists, paths text."""
        try:
            line = msgspec.json.encode(values, enc_hook=os.fspath)
        except UnicodeEncodeError as error:
            raise DataError(f"{self.path}: a value cannot be written as UTF-8 ({error}); change it") from error
        return msgspec.json.decode(line, type=dict[str, object])

    def _write(self) -> None:
        content = msgspec.json.encode({"schema": SCHEMA, **self._notes, "stages": self._stages})
        write_atomic(self.path, msgspec.json.format(content, indent=2) + b"\n")


def _ours(directory: Path) -> bool:
    return any((directory / name).exists() for name in ("adapter_config.json", "cotdistill.json", "checkpoints"))


def _holds_something(file: Path) -> bool:
    if file.is_dir():
        return any(path.is_file() for path in file.rglob("*"))
    return file.exists() and file.stat().st_size > 0


def _changes(stage: str, old: Mapping[str, object], new: Mapping[str, object]) -> list[str]:
    """``["sampling.temperature: 0.2 -> 0.7"]`` for every setting that counts and differs."""
    before, after = dict(_flat(old)), dict(_flat(new))
    keys = [*before, *(key for key in after if key not in before)]
    missing = object()
    return [
        f"{key}: {_shown(before, key)} -> {_shown(after, key)}"
        for key in keys
        if before.get(key, missing) != after.get(key, missing) and not is_harmless(stage, key)
    ]


def _flat(settings: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    for key, value in settings.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _shown(settings: Mapping[str, object], key: str) -> str:
    if key not in settings:
        return "not set"
    text = ascii(settings[key])
    return text if len(text) <= 80 else f"{text[:77]}..."


def is_harmless(stage: str, key: str) -> bool:
    """Whether a change of this dotted setting leaves what the stage made valid. ``evaluate/base`` is a part of
    the stage ``evaluate``."""
    name = key.rpartition(".")[2]
    kind = re.split(r"\W", stage, maxsplit=1)[0]
    return name in HARMLESS or f"{name}@{kind}" in HARMLESS


def file_hash(path: str | Path) -> str:
    """SHA-256 of a file's bytes, in hex. Raises ``DataError`` where it cannot be read."""
    try:
        return sha256_of(Path(path))
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}; check the path") from error


def versions(libraries: Iterable[str] = _LIBRARIES) -> dict[str, str]:
    """Python, platform, cotdistill and the libraries that are installed; nothing is imported for it."""
    found = {"python": platform.python_version(), "platform": platform.platform(), "cotdistill": __version__}
    for name in libraries:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def git_revision() -> str | None:
    """The commit of the checkout this code runs from, ``-dirty`` where files differ; None outside a checkout."""
    here = Path(__file__)
    git = ["git", "-C", str(here.parent)]
    try:
        # An installed copy inside somebody else's repository must not report that repository's commit.
        subprocess.run([*git, "ls-files", "--error-unmatch", here.name], check=True, capture_output=True, timeout=5)
        described = subprocess.run(
            [*git, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            check=True, capture_output=True, text=True, timeout=5,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return described.stdout.strip() or None


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
