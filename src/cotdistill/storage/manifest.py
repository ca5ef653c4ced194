"""Manifest: what made the files of a run, and which stages are done.

    {"schema": 1, "versions": {"python": "3.11.7", "torch": "2.13.0"}, "git_revision": null,
     "machine": {"cpu": "AMD EPYC 7763", "cores": 8, "memory_gib": 62.8, "gpus": []},
     "inputs": {"questions.train": {"name": "raw_questions.jsonl", "sha256": "9f0c..."}},
     "seeds": {"train": 42}, "recipe": {"name": "quickstart"},
     "stages": {"generate": {"settings": {"sampling": {"temperature": 0.2}}, "files": ["2_traces.jsonl"],
                             "started": "2025-03-01T12:00:00+00:00", "finished": "2025-03-01T12:08:30+00:00",
                             "facts": {"rows": 100, "seconds": 504.1}, "planned": 100, "seconds": 504.1}}}

A stage is keyed by its settings (the hashes of its inputs are settings too): the same settings go on, other
settings are refused. ``versions``, ``git_revision`` and ``machine`` are those of the process that worked last;
``earlier`` lists those of processes before it that differ. The caller holds the lock of the run; secrets never
belong into settings or notes.
"""

import logging
import os
import shutil
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import msgspec

from cotdistill.errors import DataError, ResumeError, UsageError
from cotdistill.identity import sha256_of
from cotdistill.machine import origin
from cotdistill.storage.disk import cannot, write_atomic
from cotdistill.storage.fingerprint import WAYS_ON, changes
from cotdistill.storage.ours import Holds, gone, holds_something, refuse_foreign, refuse_other_kind

log = logging.getLogger(__name__)

SCHEMA = 1


class Stage(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True):
    """One stage as recorded; ``finished`` is None while it is owed. Times are UTC.

    ``planned`` rows are to be there in the end, None for a stage that is not counted in rows. ``engine`` is what
    runs the model and its number format (``transformers, float32``), known once a model is open. ``seconds`` were
    spent by processes that have ended, ``began`` is when the one that has not (or was killed) took up the work.
    """

    settings: dict[str, object]
    files: list[str]
    started: str
    finished: str | None = None
    facts: dict[str, object] = {}
    planned: int | None = None
    engine: str = ""
    seconds: float = 0.0
    began: Annotated[datetime, msgspec.Meta(tz=True)] | None = None

    def spent(self, directory: Path) -> float:
        """Seconds of work so far, those of a process without an end up to its last change of the files."""
        if not self.began:
            return self.seconds
        changes = [_last_change(directory / file) for file in self.files]
        return self.seconds + max(0.0, max(changes, default=0.0) - self.began.timestamp())


class Manifest:
    """The record beside a run's files. It is written when a stage begins and after its files are complete.

    Raises ``DataError`` where the file on disk cannot be read, ``ResumeError`` where files were made with other
    settings.
    """

    def __init__(self, path: Path, notes: dict[str, object], stages: dict[str, Stage]) -> None:
        self.path = path
        self._notes = notes
        self._stages = stages
        self._prepared: dict[str, object] = {}
        self._clocks: dict[str, float] = {}

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

    def claim(
        self, stage: str, settings: Mapping[str, object], *, overwrite: bool, files: list[Path], holds: Holds = "file"
    ) -> None:
        """Begin a stage or go on with it; ``files`` are what it writes, each of which ``holds`` the same.

        The same settings go on; ``overwrite`` forgets the stage and deletes its files. Raises ``ResumeError``
        for other settings, naming them, for files that nothing on record explains, and for what is not ours.
        """
        plain = self._plain(settings)
        for file in files:
            (refuse_other_kind if stage in self._stages else refuse_foreign)(file, holds)
        if overwrite:
            self._forget(stage, files)
        known = self._stages.get(stage)
        if known is None:
            if made := next((file for file in files if holds_something(file)), None):
                problem = f"{made} exists and {self.path} does not say how it was made"
                raise ResumeError(f"{problem}; choose another output or run name, or start anew with --overwrite")
            known = self._stages[stage] = Stage(plain, [], _now())
        elif not known.finished and not any(map(holds_something, files)):
            known.settings = plain  # nothing was made with the old ones
            known.engine = ""
        elif changed := changes(stage, known.settings, plain):
            raise self._other_settings(files, changed)
        elif known.finished and (lost := next(filter(None, map(gone, files)), None)):
            log.warning("%s is gone; the stage %s will be done again", lost, stage)
            known.finished = None
        known.files = [os.path.relpath(file, self.path.parent) for file in files]
        known.seconds, known.began = round(known.spent(self.path.parent), 1), None
        self._write()

    def prepare(self, **top_level: object) -> None:
        """What ``note`` is to record when work begins; a command that is refused leaves no trace."""
        self._prepared = self._plain(top_level)

    def begin(self, stage: str, *, planned: int | None = None, engine: str = "") -> None:
        """Take up the work of a claimed stage: it is owed until ``finish``, and its time runs.

        ``planned`` and ``engine`` are as in ``Stage``. Raises ``ResumeError`` where a part of it was made by another
        engine or in another number format: the same model writes other text then.
        """
        known = self._stages[stage]
        files = [self.path.parent / file for file in known.files]
        if known.engine and known.engine != engine and any(map(holds_something, files)):
            raise self._other_settings(files, [f"engine: {known.engine} -> {engine}"])
        known.planned, known.engine = planned, engine
        known.finished, known.began = None, datetime.now(UTC)
        self._clocks[stage] = time.monotonic()
        now = self._plain(msgspec.structs.asdict(origin()))
        before = {key: self._notes[key] for key in now if key in self._notes}
        if before and before != now:
            earlier = self._notes.setdefault("earlier", [])
            if isinstance(earlier, list) and before not in earlier:
                earlier.append(before)
        self._notes.update({**now, **self._prepared})
        self._write()

    def _other_settings(self, files: list[Path], changed: list[str]) -> ResumeError:
        made = f"{files[0] if files else self.path} was made with other settings"
        return ResumeError(f"{made} ({'; '.join(changed)}): {WAYS_ON.format(what='settings')}")

    def _forget(self, stage: str, files: list[Path]) -> None:
        if self._stages.pop(stage, None):
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
        """Mark a claimed stage done, after its files are on the disk; ``facts`` are rows, tokens, ...

        The fact ``seconds`` is what all processes that worked on the stage took, from ``begin`` on.
        """
        known = self._stages[stage]
        known.finished, known.began = _now(), None
        known.facts = self._plain(facts)
        if (since := self._clocks.pop(stage, None)) is not None:
            known.seconds = round(known.seconds + time.monotonic() - since, 1)
            known.facts["seconds"] = known.seconds
        self._write()

    @property
    def stages(self) -> Mapping[str, Stage]:
        """What is on record, by name, in the order of its beginning."""
        return self._stages

    def output(self, stage: str) -> Path | None:
        """The first file a stage writes, whatever the record says inside the manifest's directory; None for none."""
        if stage not in self._stages or not self._stages[stage].files:
            return None
        file = os.path.normpath(self._stages[stage].files[0])
        outside = os.path.isabs(file) or file.startswith("..")
        return self.path.parent / (Path(file).name if outside else file)

    def done(self, stage: str) -> bool:
        """Whether the stage was finished."""
        return stage in self._stages and self._stages[stage].finished is not None

    def lost(self, stage: str) -> Path | None:
        """What is gone of the files of a finished stage, which is therefore owed again; None for nothing."""
        files = [self.path.parent / file for file in self._stages[stage].files] if self.done(stage) else []
        return next(filter(None, map(gone, files)), None)

    def facts(self, stage: str) -> dict[str, object]:
        """What ``finish`` recorded; empty for a stage that is not done."""
        return dict(self._stages[stage].facts) if self.done(stage) else {}

    def note(self, **top_level: object) -> None:
        """Record what is true of the whole run: seeds, hashes of inputs, the resolved recipe."""
        if reserved := top_level.keys() & {"schema", "stages"}:
            raise ValueError(f"reserved in a manifest: {reserved}")
        self._notes.update(self._plain(top_level))
        self._write()

    def noted(self, name: str) -> object:
        """What ``note`` recorded under ``name``; None where nothing is."""
        return self._notes.get(name)

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


def file_hash(path: str | Path) -> str:
    """SHA-256 of a file's bytes, in hex. Raises ``DataError`` where it cannot be read."""
    try:
        return sha256_of(Path(path))
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}; check the path") from error


def input_of(path: str | Path) -> dict[str, str]:
    """What a manifest says of a file that was read: its name and hash, or where on the hub it is. The directory is
    left out: it means nothing on another machine."""
    if str(path).startswith("hub:"):
        return {"name": str(path)}
    return {"name": Path(path).name, "sha256": file_hash(path)}


def beside(path: Path, suffix: str) -> Path:
    """A file next to another: ``data/cot_dataset.jsonl`` -> ``data/cot_dataset.verdicts.jsonl``.

    Raises ``UsageError`` for a path without a name.
    """
    if not path.name:  # an empty argument, such as a shell variable that is not set
        raise UsageError(f"'{path}' names no file; name one")
    return path.with_name(f"{path.stem}.{suffix}")


def record_of(path: Path) -> Path:
    """Where the manifest of a run directory or of a command's output (a file, an adapter) lies."""
    inside = path / "manifest.json"
    if inside.is_file():
        return inside
    if path.is_dir():  # also where it is "."
        return path.resolve().with_name(f"{path.resolve().name}.manifest.json")
    return beside(path, "manifest.json")


def _last_change(file: Path) -> float:
    """When a file, or anything in a directory, was last changed, in seconds of the epoch; 0.0 for nothing."""
    try:
        inside = [path.stat().st_mtime for path in file.rglob("*")] if file.is_dir() else []
        return max([file.stat().st_mtime, *inside])
    except OSError:  # not there, or just replaced by the process that works on it
        return 0.0


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
