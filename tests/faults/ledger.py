"""Ledger: what is on the disk, read with nothing of ours: bytes, line breaks, ``json``."""

import json
from collections import Counter
from pathlib import Path

from child import notes_of
from material import FILES

Rows = dict[str, list[dict[str, object]]]


def rows_of(run: Path, *, finished: bool) -> Rows:
    """The rows of every file; while a run is unfinished, an unfinished last line is none. Raises ``ValueError``
    for any other line that is not one whole object."""
    rows: Rows = {}
    for file in FILES:
        path = run / file
        lines = path.read_bytes().split(b"\n") if path.exists() else []
        torn = lines.pop() if lines else b""
        if finished and torn:
            raise ValueError(f"{path}: the last line has no end")
        rows[file] = [json.loads(line) for line in lines]
    return rows


def ids_of(rows: Rows) -> dict[str, Counter[object]]:
    """How often each id is there, by file."""
    return {file: Counter(row[key] for row in rows[file]) for file, (key, _) in FILES.items()}


def lost(rows: Rows, plan: dict[str, list[str]]) -> int:
    found = ids_of(rows)
    return sum((Counter(ids) - found[file]).total() for file, ids in plan.items())


def doubled(rows: Rows, plan: dict[str, list[str]]) -> int:
    """Rows more than planned: an id there twice, or one that nobody asked for."""
    found = ids_of(rows)
    return sum((found[file] - Counter(ids)).total() for file, ids in plan.items())


def gone(before: Rows, after: Rows) -> list[str]:
    """Rows that were there before a fault and are not after it."""
    then, now = ids_of(before), ids_of(after)
    return [f"{file}: {row}" for file in FILES for row in (then[file] - now[file]).elements()]


def differing(run: Path, reference: Path) -> list[str]:
    """In what a run that was disturbed ended differently from one that was not. The time a row took may differ."""
    found = []
    for file, (key, _) in FILES.items():
        one, other = ({row[key]: {**row, "seconds": 0} for row in rows_of(where, finished=True)[file]}
                      for where in (run, reference))  # fmt: skip
        changed = [str(name) for name in other if one.get(name) != other[name]]
        if changed:
            found.append(f"{run / file}: {len(changed)} rows are others, first {changed[0]}")
    one, other = (json.loads((where / "7_report.json").read_bytes())["models"] for where in (run, reference))
    for name in other:
        if (one[name]["correct"], one[name]["n"]) != (other[name]["correct"], other[name]["n"]):
            found.append(f"{run}: the report counts {name} differently")
    return found + _other_steps(run, reference) + _other_weights(run, reference)


def _other_steps(run: Path, reference: Path) -> list[str]:
    """The rows fed in each training step, in order, in each process that trained."""
    expected = {step: rows for (_, step), rows in _steps(reference).items()}
    found: list[str] = []
    whole = set()
    for (process, step), rows in _steps(run).items():
        if rows != expected[step][: len(rows)]:
            found.append(f"{run}: process {process} was fed other rows in step {step}")
        elif rows == expected[step]:
            whole.add(step)
    return found + [f"{run}: step {step} was never done whole" for step in sorted(expected.keys() - whole)]


def _steps(run: Path) -> dict[tuple[int, int], list[str]]:
    steps: dict[tuple[int, int], list[str]] = {}
    for line in notes_of(run).read_bytes().split(b"\n")[:-1]:
        note = json.loads(line)
        steps.setdefault((note["process"], note["step"]), []).extend(note["rows"])
    return steps


def _other_weights(run: Path, reference: Path) -> list[str]:
    from safetensors.torch import load_file

    one, other = (load_file(where / "5_adapter" / "adapter_model.safetensors") for where in (run, reference))
    if one.keys() != other.keys():
        return [f"{run}: the adapter has other weights"]
    apart = max((one[name] - other[name]).abs().max().item() for name in other)
    return [f"{run}: the adapter is {apart:.2g} away"] if apart > 1e-5 else []
