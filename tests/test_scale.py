"""A million traces are opened, resumed and judged in the memory of a few thousand, and none takes longer than the last.

These are the steps of ``benchmarks.journal`` at sizes at which holding the rows, or reading them again for each, shows.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

from cotdistill.judging.files import with_verdicts
from cotdistill.verdict import Verdict

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.journal import append, in_child, pairs, resume, traces, verify

BYTES_A_ROW = 250  # 1,000,000 rows beside the program's own 40 MB stay under 300 MB


def test_memory_and_time_grow_no_faster_than_the_rows(tmp_path: Path) -> None:
    peaks: dict[str, list[float]] = {}
    rates: dict[str, list[float]] = {}
    for rows in (3_000, 30_000):
        folder = tmp_path / str(rows)
        folder.mkdir()
        for step in (append, resume):
            cost = in_child(step, folder, rows, 8)
            peaks.setdefault(cost.step, []).append(cost.peak_mb)
            rates.setdefault(cost.step, []).append(cost.rate)
    for name, (small, large) in peaks.items():
        assert (large - small) * 2**20 / 27_000 < BYTES_A_ROW, name
    for name, (small, large) in rates.items():
        assert large > small / 4, f"{name}: {small:.0f} rows/s, then {large:.0f}"  # quadratic would be a tenth


def test_verdicts_and_training_pairs_of_more_traces_take_no_more_memory(tmp_path: Path) -> None:
    peaks = []
    for rows in (250, 4_000):
        folder = tmp_path / str(rows)
        folder.mkdir()
        append(folder, rows + 1, 8)  # leaves out the last
        peaks.append([in_child(step, folder, rows, 8).peak_mb for step in (verify, pairs)])
    for small, large in zip(*peaks, strict=True):
        assert (large - small) * 2**20 / 3_750 < BYTES_A_ROW


def test_a_verdict_is_read_when_its_trace_is_there_and_found_in_any_order() -> None:
    made = list(traces(20, 4))
    judged = [Verdict(trace.id, "correct") for trace in made]
    read = 0

    def counted() -> Iterator[Verdict]:
        nonlocal read
        for read, verdict in enumerate(judged, 1):  # noqa: B007
            yield verdict

    for number, (trace, verdict) in enumerate(with_verdicts(made, counted()), 1):
        assert verdict is not None
        assert (verdict.trace_id, read) == (trace.id, number)
    assert [verdict for _, verdict in with_verdicts(made, reversed(judged))] == judged
    assert [verdict for _, verdict in with_verdicts(made[:3], judged[1:2])] == [None, judged[1], None]
