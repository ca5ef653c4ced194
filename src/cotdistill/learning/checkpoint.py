"""Checkpoint: the state of an unfinished training, and which one may be gone on from.

    5_adapter/checkpoints/
      checkpoint-20/  checkpoint-30/     what the Trainer writes: adapter, optimizer, schedule, random states
      complete.json                      {"run": "9f0c...", "checkpoints": {"checkpoint-30": {"optimizer.pt": "ab..."}}}

``complete.json`` is written after everything else, whole or not at all. A checkpoint that is not in it was cut off
while it was written or was put there by somebody else; one whose files have other hashes, or other names, than it
says was damaged. Neither is opened: the optimizer's state is a pickle.

Not covered: somebody who can write into the run's directory can forge ``complete.json`` too. Then what remains is
that the Trainer reads with ``torch.load(weights_only=True)`` only, which runs no code.
"""

import hashlib
import logging
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
from accelerate import PartialState
from transformers import TrainerCallback

from cotdistill.identity import sha256_of
from cotdistill.storage.disk import write_atomic

log = logging.getLogger(__name__)

RECORD = "complete.json"
EVERY = 0.05
"""The part of a training's steps after which it is saved: what a kill costs at most."""
KEPT = 2
"""How many checkpoints stay. The Trainer would choose by time of change, which a clock set back turns around."""


class Record(msgspec.Struct, frozen=True):
    """``checkpoints`` maps the name of each whole checkpoint to the SHA-256 of each of its files."""

    run: str = ""
    checkpoints: dict[str, dict[str, str]] = {}


class Seal(TrainerCallback):
    """Enters every checkpoint of this run into ``complete.json`` once all processes have written their part."""

    def __init__(self, run: str) -> None:
        self._run = run

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        PartialState().wait_for_everyone()
        if state.is_world_process_zero:
            seal(Path(args.output_dir) / f"checkpoint-{state.global_step}", self._run)


def run_id(*parts: Iterable[object]) -> str:
    """SHA-256 of everything that decides how a training goes: each part an iterable of plain values or structs."""
    found = hashlib.sha256()
    for part in parts:
        for value in part:
            found.update(msgspec.json.encode(value) + b"\n")
        found.update(b"\n")
    return found.hexdigest()


def seal(checkpoint: Path, run: str) -> None:
    """Record that all files of this checkpoint are there; only then may an older one go."""
    directory = checkpoint.parent
    known = _read(directory)
    before = known.checkpoints if known.run == run else {}
    last = sorted({*before, checkpoint.name}, key=_step)[-KEPT:]
    hashes = {**before, checkpoint.name: _hashes(checkpoint)}
    write_atomic(directory / RECORD, msgspec.json.encode(Record(run, {name: hashes[name] for name in last})))
    for name in hashes.keys() - set(last):
        shutil.rmtree(directory / name, ignore_errors=True)


def newest(directory: Path, run: str) -> Path | None:
    """The newest whole checkpoint in ``directory`` that this run wrote, None where there is none.

    Those that are not whole or not this run's are removed, with a log line each: a later save would be mixed with
    what they hold, or would count them among the few that are kept.
    """
    record = _read(directory)
    whole: list[Path] = []
    for path in sorted(directory.glob("checkpoint-*"), key=_step, reverse=True):
        if problem := _problem(path, record, run):
            log.warning("%s %s; it is not used", path, problem)
            if path.is_symlink() or path.is_file():
                path.unlink(missing_ok=True)
            else:
                shutil.rmtree(path, ignore_errors=True)
        else:
            whole.append(path)
    return whole[0] if whole else None


def _problem(path: Path, record: Record, run: str) -> str:
    sealed = record.checkpoints.get(path.name) if record.run == run else None
    if sealed is None:
        return "was cut off while it was written, or is not of this run"
    try:
        return "" if not path.is_symlink() and _hashes(path) == sealed else "was changed after it was written"
    except OSError as error:
        return f"cannot be read ({error.strerror or error})"


def _hashes(checkpoint: Path) -> dict[str, str]:
    files = sorted(path for path in checkpoint.rglob("*") if not path.is_dir())
    return {path.relative_to(checkpoint).as_posix(): sha256_of(path) for path in files}


def _step(path: Path | str) -> int:
    number = str(path).rpartition("-")[2]
    return int(number) if number.isdecimal() else -1


def _read(directory: Path) -> Record:
    try:
        return msgspec.json.decode((directory / RECORD).read_bytes(), type=Record)
    except (OSError, msgspec.MsgspecError, ValueError, RecursionError):
        return Record()  # nothing is known to be whole
