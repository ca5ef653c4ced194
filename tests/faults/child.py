"""Child: one ``cotdistill run`` in a process of its own, forked off this one so that torch is imported only once.

The command is the real one, from the parsing of its words to its exit code. Around it stand three windows: it says
on a pipe which stage it begins, it takes the slow teacher, and it notes what every training step is fed.
"""

import contextlib
import json
import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable
from functools import cache
from pathlib import Path

from material import slow_teacher

from cotdistill import cli, pipeline

STAGES = ("generate", "verify", "train", "evaluate")


class Child:
    """A run that is going on. ``stage`` is the last one it said it began; ``began`` when (monotonic seconds)."""

    def __init__(self, recipe: Path, run: Path, at_stage: Callable[[str], None] = lambda stage: None,
                 name: str = "") -> None:  # fmt: skip
        self.stage = "start"
        self.began = {"start": time.monotonic()}
        home = run.parent.parent  # what is written about a run stays off its disk
        self.log = home / "logs" / f"{name or run.name}.log"
        self._heard, tell = os.pipe()
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self._heard)
            _work(recipe, run, self.log, tell, at_stage)
        os.close(tell)
        self._code: int | None = None

    def reaches(self, stage: str) -> bool:
        """Wait until it begins the stage. Where it ends first, or has nothing to do there, it is killed: the stages
        after this one are for other blows."""
        later = set(STAGES[STAGES.index(stage) + 1 :])
        while stage not in self.began:
            if later & self.began.keys() or not self._listen(None):
                self.signal(signal.SIGKILL)
                self.wait()
                return False
        return True

    def look(self) -> bool:
        """Whether it still runs; brings ``stage`` up to date."""
        while self._listen(0.0):
            pass
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None

    def signal(self, number: int) -> None:
        if self._code is None:
            os.kill(self.pid, number)

    def wait(self, seconds: float = 120.0) -> int:
        """Its exit code, or the signal that ended it, negative. One that does not end in time is killed, and
        that is an error of the suite's."""
        deadline = time.monotonic() + seconds
        while self._code is None:
            if time.monotonic() > deadline:
                os.kill(self.pid, signal.SIGKILL)
                os.waitpid(self.pid, 0)
                raise AssertionError(f"process {self.pid} did not end within {seconds} s; see {self.log}")
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self._code = os.waitstatus_to_exitcode(status)
            else:
                self._listen(0.002)
        while self._listen(0.0):
            pass
        os.close(self._heard)
        self._heard = -1
        return self._code

    def said(self) -> list[str]:
        """The lines of its log: all of stderr, and stdout."""
        return self.log.read_text().splitlines()

    def _listen(self, seconds: float | None) -> bool:
        """Take in what it says; False once nothing more can come, or nothing came in time."""
        if not select.select([self._heard], [], [], seconds)[0]:
            return seconds is None
        words = os.read(self._heard, 4096).decode().split()
        for word in words:
            self.stage = word
            self.began.setdefault(word, time.monotonic())
        if not words and seconds:
            time.sleep(seconds)
        return bool(words)


def _work(recipe: Path, run: Path, log: Path, tell: int, at_stage: Callable[[str], None]) -> None:
    try:
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        for standard in (1, 2):
            os.dup2(out, standard)
        os.close(out)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        _open_windows(notes_of(run), tell, at_stage)
        sys.argv = ["cotdistill", "run", str(recipe), "--runs", str(run.parent), "--name", run.name]
        cli.main()
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(99)  # main never returns


def notes_of(run: Path) -> Path:
    """Where the processes of a run note what its training steps are fed."""
    return run.parent.parent / "steps" / f"{run.name}.jsonl"


def _open_windows(steps: Path, tell: int, at_stage: Callable[[str], None]) -> None:
    from cotdistill.learning.trainer import AnswerTrainer

    def told(stage: str, function: Callable[..., object]) -> Callable[..., object]:
        def call(*args: object, **kwargs: object) -> object:
            os.write(tell, f"{stage}\n".encode())
            at_stage(stage)
            return function(*args, **kwargs)

        return call

    for stage in ("generate", "verify", "evaluate"):
        setattr(pipeline, f"run_{stage}", told(stage, getattr(pipeline, f"run_{stage}")))
    pipeline.engine_for = slow_teacher
    train = AnswerTrainer.training_step
    notes = os.open(steps, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    begin_training = cache(told("train", lambda: None))  # with the first step, not while the model is loaded

    def noted(self, model, inputs, *args):
        begin_training()
        rows = [row.trace_id for row in inputs["rows"]]
        note = {"process": os.getpid(), "step": self.state.global_step, "rows": rows}
        with contextlib.suppress(OSError):  # where no file may grow, this one may not either
            os.write(notes, json.dumps(note).encode() + b"\n")
        return train(self, model, inputs, *args)

    AnswerTrainer.training_step = noted
