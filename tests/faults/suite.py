"""Faults: runs as real processes on real files, disturbed at random moments, taken up again, and counted at the end.

    python tests/faults/suite.py           the full form: at least 100 faults (make faults)
    python tests/faults/suite.py --short   a few of each kind that needs no mount (a part of make test)

The full form mounts a small tmpfs, for a disk that is full or read-only: it needs root, or a system on which
``unshare --map-root-user --mount`` gives it to everyone. What is counted is read from the files with ``json`` alone.
It fails unless every row planned is there, once, and every disturbed run ends as an undisturbed one.
"""

import argparse
import contextlib
import importlib
import os
import pkgutil
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parent.parent / "src")]

import fault  # noqa: E402
import ledger  # noqa: E402
from child import STAGES, Child  # noqa: E402
from fault import Field  # noqa: E402
from material import lay_out, planned  # noqa: E402

Blow = Callable[[Field, str], str | None]

FULL: dict[Blow, dict[str, int]] = {
    fault.sigkill: {"generate": 22, "verify": 7, "train": 12, "evaluate": 10},
    fault.sigkill_in_resume: {"generate": 5, "train": 4, "evaluate": 3},
    fault.sigkill_in_save: {"train": 9},
    fault.ctrl_c: {"generate": 2, "verify": 1, "train": 2, "evaluate": 2},
    fault.ctrl_c_twice: {"generate": 2, "train": 1, "evaluate": 1},
    fault.sigterm: {"generate": 1, "verify": 1, "train": 1, "evaluate": 1},
    fault.sigterm_twice: {"generate": 1, "train": 1, "evaluate": 1},
    fault.clock_back: {"generate": 1, "train": 2, "evaluate": 1},
    fault.no_handles: {"generate": 3, "train": 2, "evaluate": 2},
    fault.file_too_large: {"generate": 2, "train": 1},
    fault.twins: {"generate": 2, "train": 2, "evaluate": 1},
}
"""How many blows of each kind in each stage."""

ON_A_SMALL_DISK: dict[Blow, dict[str, int]] = {
    fault.disk_full: {"generate": 2, "verify": 1, "train": 2, "evaluate": 2},
    fault.read_only: {"generate": 1, "evaluate": 1},
}

SHORT: dict[Blow, dict[str, int]] = {
    fault.sigkill: {"generate": 3, "verify": 1, "train": 2, "evaluate": 1},
    fault.sigkill_in_resume: {"train": 1},
    fault.sigkill_in_save: {"train": 1},
    fault.ctrl_c: {"generate": 1},
    fault.ctrl_c_twice: {"train": 1},
    fault.sigterm: {"evaluate": 1},
    fault.clock_back: {"train": 1},
    fault.no_handles: {"generate": 1},
    fault.file_too_large: {"generate": 1},
    fault.twins: {"generate": 1},
}

BLOWS_A_RUN = 18
ATTEMPTS = 12
"""How often a blow that came too late is tried again."""


class Suite:
    """Deals blows to one run after another. ``dealt`` counts them by kind and stage; ``wrong`` says what broke."""

    def __init__(self, home: Path, seed: int) -> None:
        self.home = home
        self.recipe = lay_out(home)
        self.plan = planned(home)
        self.chance = random.Random(seed)
        self.dealt: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.runs = 0
        self.planned = self.lost = self.doubled = 0
        self.reference = home / "runs" / "undisturbed"
        for directory in ("runs", "logs", "steps"):
            (home / directory).mkdir()
        self.spans = self._undisturbed()

    def _undisturbed(self) -> dict[str, float]:
        """The run that all others are held against; returns how long each of its stages took, in seconds."""
        child = Child(self.recipe, self.reference)
        if child.wait() != 0:
            raise SystemExit(f"the undisturbed run failed: {child.said()[-1:]}, see {child.log}")
        times = [*child.began.values(), time.monotonic()]
        spans = {name: times[i + 1] - times[i] for i, name in enumerate(child.began)}
        print("undisturbed: " + ", ".join(f"{name} {span:.2f} s" for name, span in spans.items()), flush=True)
        self._count(self.reference)
        # A blow late in a stage ends it for the blows to come, so most fall early.
        return {**spans, "generate": spans["generate"] / 8, "train": spans["train"] / 8, "evaluate": spans["evaluate"] / 4}

    def deal(self, blows: dict[Blow, dict[str, int]], runs: Path) -> None:
        """Every blow of a plan, on as many runs as they take."""
        owed = [(blow, stage, ATTEMPTS) for blow, by_stage in blows.items() for stage, n in by_stage.items() for _ in range(n)]
        self.chance.shuffle(owed)
        while owed:
            now, owed = owed[:BLOWS_A_RUN], owed[BLOWS_A_RUN:]
            now.sort(key=lambda each: STAGES.index(each[1]))
            self.runs += 1
            run = runs / f"run{self.runs}"
            late = [(blow, stage, left - 1) for blow, stage, left in now if not self._deal(blow, stage, run)]
            owed += [each for each in late if each[2]]
            self._finish(run)

    def _deal(self, blow: Blow, stage: str, run: Path) -> bool:
        before = ledger.rows_of(run, finished=False)
        try:
            name = blow(Field(self.recipe, run, self.spans, self.chance), stage)
            after = ledger.rows_of(run, finished=False)
        except (AssertionError, ValueError) as error:
            self.wrong.append(f"{run.name}, {blow.__name__}: {error}")
            self._keep_log()
            return True
        if gone := ledger.gone(before, after):
            self.wrong.append(f"{run.name}: {name} lost {len(gone)} rows, first {gone[0]}")
        if name:
            self.dealt[name] += 1
        return name is not None

    def _finish(self, run: Path) -> None:
        child = Child(self.recipe, run)
        code = child.wait()
        if code != 0:
            self.wrong.append(f"{run.name} could not be finished (exit code {code}): {child.said()[-1:]}")
            self._keep_log()
        self._count(run)

    def _count(self, run: Path) -> None:
        try:
            rows = ledger.rows_of(run, finished=True)
            self.planned += sum(map(len, self.plan.values()))
            self.lost += ledger.lost(rows, self.plan)
            self.doubled += ledger.doubled(rows, self.plan)
            self.wrong += ledger.differing(run, self.reference)
        except (OSError, ValueError, KeyError) as error:
            self.wrong.append(f"{run.name} cannot be counted: {type(error).__name__} {error}")
        left = [path.name for path in run.rglob("*") if path.name.endswith((".lock", ".held", ".tmp"))]
        if left:
            self.wrong.append(f"{run.name} holds what should be gone: {', '.join(left)}")

    def _keep_log(self) -> None:
        """The next process of the run writes over its log; what the errors speak of is kept under their number."""
        shutil.copytree(self.home / "logs", self.home / f"logs of error {len(self.wrong)}", dirs_exist_ok=True)


def mounted(where: Path) -> bool:
    """Whether a small disk of its own could be put there."""
    where.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(where)], capture_output=True)
    return done.returncode == 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", type=Path, help="Where the runs stay; by default they go when all is well.")
    asked = parser.parse_args()
    if not asked.short and os.geteuid() != 0 and shutil.which("unshare"):
        os.execvp("unshare", ["unshare", "--map-root-user", "--mount", sys.executable, *sys.argv])
    start = time.monotonic()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts what it puts aside with Ctrl-C turned off
    _import_once()
    home = asked.keep or Path(tempfile.mkdtemp(prefix="cotdistill-faults-"))
    home.mkdir(parents=True, exist_ok=True)
    suite = Suite(home, asked.seed)
    suite.deal(SHORT if asked.short else FULL, suite.reference.parent)
    if not asked.short:
        disk = home / "disk"
        if mounted(disk):
            try:
                suite.deal(ON_A_SMALL_DISK, disk)
            finally:
                subprocess.run(["umount", "--lazy", str(disk)], check=False)
        else:
            suite.wrong.append("no tmpfs could be mounted: full and read-only disks were not tried; run as root")
    kills = sum(count for name, count in suite.dealt.items() if name.startswith("SIGKILL in"))
    saves = suite.dealt["SIGKILL in a checkpoint save"]
    random_kills = sum(suite.dealt[f"SIGKILL in {stage}"] for stage in STAGES)
    for name, count in sorted(suite.dealt.items()):
        print(f"{count:4}  {name}")
    print(f"{kills} SIGKILLs: {random_kills} at random moments of the four stages, {saves} in checkpoint saves")
    if not asked.short and (
        suite.dealt.total() < 100 or random_kills < 40 or suite.dealt["SIGKILL in generate"] < 20 or saves < 5
    ):
        suite.wrong.append("too few faults: at least 100, 40 random SIGKILLs (20 in generate), 5 in checkpoint saves are owed")
    for problem in suite.wrong:
        print(f"WRONG: {problem}")
    print(f"{time.monotonic() - start:.0f} s, seed {asked.seed}" + (f", files in {home}" if suite.wrong else ""))
    print(f"faults injected: {suite.dealt.total()}")
    print(f"rows planned: {suite.planned}")
    print(f"rows lost: {suite.lost}")
    print(f"rows doubled: {suite.doubled}", flush=True)
    bad = bool(suite.wrong or suite.lost or suite.doubled)
    if not bad and not asked.keep:
        shutil.rmtree(home)
    return int(bad)


def _import_once() -> None:
    """What a run needs, imported before the first fork and not once more in every process."""
    import peft  # noqa: F401
    import torch
    import transformers.trainer  # noqa: F401

    import cotdistill

    torch.set_num_threads(1)
    for module in pkgutil.walk_packages(cotdistill.__path__, "cotdistill."):
        with contextlib.suppress(ModuleNotFoundError):  # an optional library
            importlib.import_module(module.name)


if __name__ == "__main__":
    sys.exit(main())
