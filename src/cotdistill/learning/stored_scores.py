"""Stored scores: a teacher's scores of traces, made once, kept in a file and used by whatever student reads the same.

    2_scores.safetensors    {"ids": (tokens, k) int32, "log_probs": (tokens, k) float16}, likeliest first
    its metadata's "index"  {"schema": 2, "teacher": "9c2e..., float32, not 4-bit", "k": 32,
                             "rows": {"4f02...": [0, 41], "91c7...": [41, 97]}}

``rows`` says where each row's tokens lie, by the hash of the ids that the teacher read and of where the answer begins:
another run finds them, another prompt does not. The file is replaced whole: a kill leaves the scores that were there.
Several processes score a share each; the first one writes.
"""

import contextlib
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import torch

from cotdistill.errors import DataError
from cotdistill.example import Example
from cotdistill.identity import digest
from cotdistill.learning.ranks import here
from cotdistill.learning.teacher_scores import Scorer, Scores, ScoresOf, together
from cotdistill.storage.disk import explained, write_atomic
from cotdistill.storage.lock import one_at_a_time

log = logging.getLogger(__name__)

SCHEMA = 2
SAVE_EVERY = 256
"""Rows, in each process, between two writes: what a kill costs at most."""


class Index(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the metadata say of the tensors."""

    schema: int
    teacher: str
    k: int
    rows: dict[str, tuple[int, int]]


def row_hash(row: Example) -> str:
    """16 hex digits for the ids of a row and where its answer begins."""
    return digest([row.input_ids, row.prompt_length])


def stored_scores(
    path: Path, rows: Sequence[Example], teacher: str, k: int, open_teacher: Callable[[int], Scorer],
    show: Callable[[int], None] = lambda rows: None,
) -> ScoresOf:  # fmt: skip
    """The scores of ``rows`` from ``path`` (``.safetensors``). For rows that are not there the teacher is opened, with
    the number of tokens to tell apart, and its scores are added to the file. ``teacher`` names the model and its number
    format. ``show`` is called with how many more rows have scores.

    Where another training is adding to the file, waits for it and takes what it made.

    Raises ``DataError`` where the file is of another teacher, has fewer than ``k`` tokens or is damaged.
    """
    ranks, hashes = here(), {row_hash(row): row for row in rows}
    with contextlib.ExitStack() as held:
        with ranks.together():
            index, _ = _read(path, teacher, k)
            if ranks.first and hashes.keys() - index.rows.keys():
                guard = path.with_name(f"{path.name}.lock")
                held.enter_context(one_at_a_time(guard, f"adding to {path.name}"))
        with ranks.together():  # what another training added while the first process waited
            index, stored = _read(path, teacher, k)
        owed = [row for hashed, row in hashes.items() if hashed not in index.rows]
        ranks.check_same(digest([row_hash(row) for row in owed]))
        show(len(rows) - len(owed))
        opened: Scorer | None = None
        if owed:
            log.info("%s: the teacher scores %d traces, %d are there", path, len(owed), len(hashes) - len(owed))
        for start in range(0, len(owed), SAVE_EVERY * ranks.size):
            part = owed[start : start + SAVE_EVERY * ranks.size]
            with ranks.together():
                opened = opened or open_teacher(index.k)
                mine = _scored(opened, part[ranks.rank :: ranks.size], show)
            show(len(part) - len(mine))
            shares = ranks.all_gather(mine)
            scored = [shares[place % ranks.size][place // ranks.size] for place in range(len(part))]
            with ranks.together():
                index, stored = _write(path, index, stored, part, scored, keep=ranks.first)
    ids, log_probs = stored

    def of(row: Example) -> Scores:
        start, stop = index.rows[row_hash(row)]
        return Scores(ids[start:stop, :k], log_probs[start:stop, :k])

    return of


def _scored(teacher: Scorer, rows: Sequence[Example], show: Callable[[int], None]) -> list[Scores]:
    scored: list[Scores] = []
    for start in range(0, len(rows), teacher.at_once):
        some = rows[start : start + teacher.at_once]
        scored += teacher.score(some)
        show(len(some))
    return scored


def _read(path: Path, teacher: str, k: int) -> tuple[Index, Scores]:
    from safetensors import SafetensorError, safe_open

    if not path.exists():
        empty = Scores(torch.empty(0, k, dtype=torch.int32), torch.empty(0, k, dtype=torch.float16))
        return Index(SCHEMA, teacher, k, {}), empty
    anew = f"remove {path} to have the traces scored anew"
    try:
        with safe_open(path, framework="pt") as file:
            index = msgspec.json.decode((file.metadata() or {}).get("index", ""), type=Index)
            stored = Scores(file.get_tensor("ids"), file.get_tensor("log_probs"))
    except (OSError, msgspec.MsgspecError, SafetensorError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: the scores cannot be read ({error}); {anew}") from error
    places = max((stop for _, stop in index.rows.values()), default=0)
    whole = index.schema == SCHEMA and stored.ids.shape == stored.log_probs.shape and len(stored.ids) == places
    if not whole or stored.ids.shape[1] > index.k:
        raise DataError(f"{path}: the scores are not those that their index was written for; {anew}")
    if index.teacher != teacher:
        raise DataError(f"{path} holds the scores of another teacher ({index.teacher}, not {teacher}); {anew}")
    if index.k < k:
        raise DataError(f"{path} holds {index.k} tokens at each place, not {k}; {anew}")
    return index, stored


def _write(
    path: Path, index: Index, stored: Scores, rows: Sequence[Example], scored: Sequence[Scores], *, keep: bool
) -> tuple[Index, Scores]:
    """The file with these rows added; in memory alone where another process is to ``keep`` it."""
    from safetensors.torch import save

    at, places = len(stored.ids), dict(index.rows)
    for row, one in zip(rows, scored, strict=True):
        places[row_hash(row)] = (at, at + len(one.ids))
        at += len(one.ids)
    now = together([*([stored] if index.rows else []), *scored])
    index = msgspec.structs.replace(index, rows=places)
    if keep:
        with explained("write", path):
            tensors = {"ids": now.ids.contiguous(), "log_probs": now.log_probs.contiguous()}
            write_atomic(path, save(tensors, {"index": msgspec.json.encode(index).decode()}))
    return index, now
