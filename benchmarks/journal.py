"""How many traces a second are appended, read again by a resume, judged and handed to training, and in how much memory.

    python -m benchmarks.journal [--rows 10000 100000 1000000] [--samples 8] [--output FILE.json]

The traces are synthetic, 8 of a question and some 400 characters of sound arithmetic each, in a temporary directory.
Every step is a process of its own, and its peak memory is that of the whole process:
  append   the rows, one write each, on the disk within a second;
  resume   what the same command does after a stop: count what is owed, open the journal, compare the questions,
           ask for the one row that is missing;
  verify   judge every trace against its gold and write the verdicts, steps and duplicates included;
  pairs    join traces and verdicts into what training gets, without keeping it.
Linear means that rows a second do not fall as the file grows. They are rows a second of processor time, which other
work on the machine does not change; the time on the clock stands beside it.
"""

import argparse
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import msgspec

from cotdistill.asking import drawing
from cotdistill.asking.ask import Account, row_id
from cotdistill.asking.collecting import collect
from cotdistill.engines import Sampling
from cotdistill.engines.scripted import ScriptedEngine
from cotdistill.journal import Journal, read_rows
from cotdistill.judging.pairs import teaching_pairs
from cotdistill.machine import peak_memory
from cotdistill.prompt import messages_for
from cotdistill.question import Question
from cotdistill.settings.verify import Verify
from cotdistill.stages.verify import run_verify
from cotdistill.trace import Trace
from cotdistill.verdict import Verdict

Step = Callable[[Path, int, int], None]


def questions(rows: int, samples: int) -> list[Question]:
    """Enough questions for ``rows`` traces."""
    return [
        Question(f"q{number:07}", f"Ann has {number} red pens and buys {number + 7} more in a shop. How many has she?",
                 str(2 * number + 7))
        for number in range(-(-rows // samples))
    ]  # fmt: skip


def reasoning(number: int, sample: int) -> str:
    """A sound trace in words of its own: no two samples of a question are near-duplicates."""
    ways = ("first", "calmly", "slowly", "again", "counting", "briefly", "adding", "surely", "finally", "now", "then")
    talk = " ".join(ways[sample * step % 11] + ways[(sample + step) % 11] for step in range(1, 21))
    total = 2 * number + 7
    return (f"Let us {talk} go. She starts with {number} pens and the shop gives her {number + 7} more. "
            f"So {number} + {number + 7} = {total}, and {total} - {number} = {number + 7} as it should be.\n"
            f"Final Answer: {total}")  # fmt: skip


def traces(rows: int, samples: int) -> Iterator[Trace]:
    made = 0
    for number, question in enumerate(questions(rows, samples)):
        for sample in range(min(samples, rows - made)):
            made += 1
            total = str(2 * number + 7)
            yield Trace(row_id(question.id, sample), question.id, question.text, reasoning(number, sample), total,
                        "stop", "scripted", sample, 120, 100, prompt_hash="0123456789abcdef")  # fmt: skip


def append(directory: Path, rows: int, samples: int) -> None:
    """All rows but the last."""
    with Journal(directory / "traces.jsonl", Trace, key=lambda trace: trace.id) as journal:
        for number, trace in enumerate(traces(rows, samples), 1):
            if number < rows:
                journal.append(trace)


def resume(directory: Path, rows: int, samples: int) -> None:
    path, asked = directory / "traces.jsonl", questions(rows, samples)
    engine = ScriptedEngine(lambda question: reasoning(len(asked) - 1, samples - 1))
    owed = Account(path, Trace).owed(row_id(q.id, s) for q in asked for s in range(samples))
    drawn = drawing.Drawing(asked, [drawing.Step("", 0, samples, Sampling())], lambda one, _: messages_for(one, ""))
    collect(drawn, asked, path, names=[""], open_teacher=lambda _: engine)
    if not owed == len(engine.requests) == 1:
        raise SystemExit(f"one row was owed, {owed} were counted and {len(engine.requests)} asked")


def verify(directory: Path, rows: int, samples: int) -> None:
    tally = run_verify(questions(rows, samples), directory / "traces.jsonl", directory / "verdicts.jsonl", Verify())
    if tally.teach != rows:
        raise SystemExit(f"{rows} traces are sound, the verdicts are {dict(tally.counts)}")


def pairs(directory: Path, rows: int, samples: int) -> None:
    stored = read_rows(directory / "traces.jsonl", Trace), read_rows(directory / "verdicts.jsonl", Verdict)
    if (count := sum(1 for _ in teaching_pairs(questions(rows, samples), *stored))) != rows:
        raise SystemExit(f"{rows} traces may teach, {count} came")


STEPS: tuple[Step, ...] = (append, resume, verify, pairs)


class Cost(msgspec.Struct, frozen=True):
    """What a step took in its process."""

    step: str
    rows: int
    cpu_seconds: float
    seconds: float
    peak_mb: float

    @property
    def rate(self) -> float:
        """Rows a second of processor time."""
        return self.rows / self.cpu_seconds


def measured(step: Step, directory: Path, rows: int, samples: int) -> Cost:
    """Do a step here; the peak is that of the whole process so far."""
    clock, cpu = time.perf_counter(), time.process_time()
    step(directory, rows, samples)
    cpu, clock = time.process_time() - cpu, time.perf_counter() - clock
    return Cost(step.__name__, rows, round(cpu, 3), round(clock, 3), round(peak_memory() / 2**20, 1))


def in_child(step: Step, directory: Path, rows: int, samples: int) -> Cost:
    """``measured`` in a new process."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(measured, step, directory, rows, samples).result()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--samples", type=int, default=8, help="traces a question")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "journal.json")
    options = parser.parse_args()
    costs = []
    print("| step | rows | rows/s | seconds of CPU | on the clock | peak MB |\n|---|---|---|---|---|---|")
    for rows in options.rows:
        with tempfile.TemporaryDirectory() as directory:
            for step in STEPS:
                cost = in_child(step, Path(directory), rows, options.samples)
                print(f"| {cost.step} | {rows:,} | {cost.rate:,.0f} | {cost.cpu_seconds:.1f} | {cost.seconds:.1f} "
                      f"| {cost.peak_mb:.0f} |", flush=True)  # fmt: skip
                costs.append(cost)
            size = (Path(directory) / "traces.jsonl").stat().st_size
    machine = f"{platform.system()} {platform.machine()}"
    here = {"python": platform.python_version(), "machine": machine, "cpus": os.cpu_count()}
    shape = {"samples": options.samples, "bytes_a_row": round(size / rows)}
    found = {**here, **shape, "steps": msgspec.to_builtins(costs)}
    options.output.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
