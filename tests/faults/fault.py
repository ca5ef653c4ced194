"""Fault: one blow to a run, and what must be true right after it.

Each function starts the run, deals the blow and returns what it was, or None where the run was quicker than the
blow. It raises ``AssertionError`` where the run did not end as promised.
"""

import datetime
import json
import os
import random
import re
import resource
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from child import STAGES, Child

SOON = 5.0
"""Seconds in which Ctrl-C and SIGTERM must have ended a run."""


class Field:
    """Where blows fall: the run, how to start it, how long a stage takes undisturbed, and chance."""

    def __init__(self, recipe: Path, run: Path, spans: dict[str, float], chance: random.Random) -> None:
        self.recipe = recipe
        self.run = run
        self.spans = spans
        self.chance = chance

    def start(self, at_stage: Callable[[str], None] = lambda stage: None) -> Child:
        return Child(self.recipe, self.run, at_stage)

    def moment(self, stage: str) -> None:
        """Let some of the stage pass."""
        time.sleep(self.chance.uniform(0.0, self.spans[stage]))


def sigkill(field: Field, stage: str) -> str | None:
    """SIGKILL at a random moment of a stage."""
    child = field.start()
    if not child.reaches(stage):
        return None
    field.moment(stage)
    child.signal(signal.SIGKILL)
    return f"SIGKILL in {stage}" if child.wait() == -signal.SIGKILL and child.stage == stage else None


def sigkill_in_resume(field: Field, stage: str) -> str | None:
    """SIGKILL while a run that was stopped before is being taken up: files read and mended, locks taken over."""
    if not (field.run / "manifest.json").exists():
        return None
    child = field.start()
    time.sleep(field.chance.uniform(0.0, field.spans["start"]))
    child.signal(signal.SIGKILL)
    return "SIGKILL in a resume" if child.wait() == -signal.SIGKILL and child.stage == "start" else None


def sigkill_in_save(field: Field, stage: str) -> str | None:
    """SIGKILL between the first file of a checkpoint and its entry in the record of whole ones."""
    checkpoints = field.run / "5_adapter" / "checkpoints"
    child = field.start()
    if not child.reaches("train"):
        return None
    skip = field.chance.randrange(3)
    known = set(_names(checkpoints))
    while skip >= 0 and child.look() and child.stage == "train":
        new = set(_names(checkpoints)) - known - {"complete.json"}
        known |= new
        skip -= bool([name for name in new if name.startswith("checkpoint-")])
        if skip >= 0:
            time.sleep(0.001)
    time.sleep(field.chance.uniform(0.0, 0.03))
    child.signal(signal.SIGKILL)
    if child.wait() != -signal.SIGKILL:
        return None
    try:
        whole = json.loads((checkpoints / "complete.json").read_bytes())["checkpoints"]
    except FileNotFoundError:
        whole = {}
    torn = [name for name in _names(checkpoints) if name.startswith("checkpoint-") and name not in whole]
    return "SIGKILL in a checkpoint save" if torn else None


def ctrl_c(field: Field, stage: str) -> str | None:
    return _asked_to_stop(field, stage, [signal.SIGINT], "Ctrl-C")


def ctrl_c_twice(field: Field, stage: str) -> str | None:
    return _asked_to_stop(field, stage, [signal.SIGINT] * 2, "Ctrl-C twice")


def sigterm(field: Field, stage: str) -> str | None:
    return _asked_to_stop(field, stage, [signal.SIGTERM], "SIGTERM")


def sigterm_twice(field: Field, stage: str) -> str | None:
    return _asked_to_stop(field, stage, [signal.SIGTERM] * 2, "SIGTERM twice")


def clock_back(field: Field, stage: str) -> str | None:
    """The clock jumps back by an hour when the stage begins, and again with every look at it."""

    def turn_back(reached: str) -> None:
        if reached == stage:
            _turn_the_clock_back()

    return _asked_to_stop(field, stage, [signal.SIGTERM], "clock going back", turn_back)


def no_handles(field: Field, stage: str) -> str | None:
    """A few file handles are left when the stage begins."""
    left = field.chance.randrange(3)

    def take(reached: str) -> None:
        if reached == stage:
            used = {int(name) for name in os.listdir("/proc/self/fd")}
            free = [number for number in range(1024) if number not in used]
            resource.setrlimit(resource.RLIMIT_NOFILE, (free[left], free[left]))

    return _refused(field, stage, take, r"[Tt]oo many (files are open|open files)", "no file handles left")


def file_too_large(field: Field, stage: str) -> str | None:
    """No file may grow any more when the stage begins: what a quota or a full disk is to a process, without root."""
    traces = field.run / "2_traces.jsonl"
    size = traces.stat().st_size if traces.exists() else 0
    most = max(size, 4000) + field.chance.randrange(2000)  # more than the log, less than an adapter

    def limit(reached: str) -> None:
        if reached == stage:
            resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))

    return _refused(field, stage, limit, r"a file may not grow further|the disk takes no more", "no room (file size limit)")


def disk_full(field: Field, stage: str) -> str | None:
    """The disk, a small tmpfs of its own, is full but for a few KB when the stage begins."""
    ballast = field.run.with_name("ballast")
    left = field.chance.randrange(24_000)

    def fill(reached: str) -> None:
        if reached == stage:
            room = os.statvfs(ballast.parent)
            free = room.f_bavail * room.f_frsize - left
            with ballast.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, max(free, 1))

    try:
        return _refused(field, stage, fill, r"the disk is full|the disk takes no more", "disk full (tmpfs)")
    finally:
        ballast.unlink(missing_ok=True)


def read_only(field: Field, stage: str) -> str | None:
    """The disk, a small tmpfs of its own, is mounted read-only."""
    disk = field.run.parent
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    try:
        return _refused(field, "", lambda stage: None, "read-only file system", "read-only disk")
    finally:
        subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)


def twins(field: Field, stage: str) -> str | None:
    """A second process starts on the same run; then the first is killed while it holds the locks."""
    first = field.start()
    if not first.reaches(stage):
        return None
    second = Child(field.recipe, field.run, name="second")
    code = second.wait()
    running = first.look()
    first.signal(signal.SIGKILL)
    if first.wait() != -signal.SIGKILL or not running:
        return None
    _check_said(second, code, 1, rf"process {first.pid} on ")
    return "two processes on one run"


def _asked_to_stop(field: Field, stage: str, signals: list[int], name: str,
                   at_stage: Callable[[str], None] = lambda stage: None) -> str | None:  # fmt: skip
    child = field.start(at_stage)
    if not child.reaches(stage):
        return None
    field.moment(stage)
    start = time.monotonic()
    for number in signals:
        child.signal(number)
        time.sleep(field.chance.choice([0.0, 0.001, 0.02]))
    code = child.wait()
    seconds = time.monotonic() - start
    if code == 0:
        return None
    _check_said(child, code, 130, "interrupted; the same command goes on")
    assert seconds <= SOON, f"{name} in {child.stage}: it took {seconds:.1f} s to end; see {child.log}"
    return f"{name} in {child.stage}"


def _refused(field: Field, stage: str, at_stage: Callable[[str], None], said: str, name: str) -> str | None:
    """The run must end by itself with exit code 1 and one sentence."""
    child = field.start(at_stage)
    later = STAGES[STAGES.index(stage) + 1 :] if stage else ()
    while child.look() and child.stage not in later:
        time.sleep(0.002)
    if child.stage in later:
        child.signal(signal.SIGKILL)
    code = child.wait()
    if code in (0, -signal.SIGKILL):
        return None  # there was room for what this stage still had to do
    _check_said(child, code, 1, said)
    return f"{name} in {child.stage}"


def _check_said(child: Child, code: int, expected: int, pattern: str) -> None:
    lines = child.said()
    where = f"exit code {code} in {child.stage}; see {child.log}"
    assert code == expected, f"expected {expected}, {where}"
    assert not any("Traceback" in line for line in lines), f"a traceback, {where}"
    assert re.search(pattern, lines[-1] if lines else ""), f"the last line does not say {pattern!r}, {where}"
    assert sum(line.startswith("error: ") for line in lines) == (expected == 1), f"not one sentence, {where}"


def _names(directory: Path) -> list[str]:
    try:
        return os.listdir(directory)
    except FileNotFoundError:
        return []


def _turn_the_clock_back() -> None:
    from cotdistill.storage import lock, manifest

    real, jumps = time.time, [0]

    def back() -> float:
        jumps[0] += 1
        return real() - 3600 * jumps[0]

    class Clock(datetime.datetime):
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> datetime.datetime:
            return datetime.datetime.fromtimestamp(back(), tz)

    time.time = back
    lock.datetime = manifest.datetime = Clock
