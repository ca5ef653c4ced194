"""Teacher scores: how likely the teacher finds what might stand at each answer token, by its likeliest tokens.

    2_scores.safetensors    {"ids": (tokens, k) int32, "log_probs": (tokens, k) float16}, likeliest first
    2_scores.json           {"schema": 1, "teacher": "9c2e...", "k": 32, "sha256": "77ab...",
                             "rows": {"4f02...": [0, 41], "91c7...": [41, 97]}}

``rows`` says where each row's tokens lie, by the hash of its ids and of where its answer begins: whatever student
reads the same ids, in whatever run, finds them. The log-probabilities are natural ones over the teacher's whole
vocabulary, so those of ``k`` tokens sum to less than one. Ids that mean another token to the student, or none, are
not among them. The index is written last and holds the hash of the other file: one without the other is not read.
"""

import logging
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import msgspec
import torch

from cotdistill.engines.shared_beginning import SharedBeginning, share
from cotdistill.errors import DataError, TrainingError
from cotdistill.example import Example, after, answer_tokens
from cotdistill.identity import digest, sha256_of
from cotdistill.learning.layout import ordered
from cotdistill.learning.loss import AnswerLoss, choose
from cotdistill.learning.relation import tokens_of
from cotdistill.model import Model
from cotdistill.storage.disk import explained, write_atomic

log = logging.getLogger(__name__)

SCHEMA = 1
AT_ONCE = 8
"""Rows computed together."""
SAVE_EVERY = 256
"""Rows between two writes: what a kill costs at most."""


class Scores(NamedTuple):
    """``ids`` (n, k) and their ``log_probs`` (n, k) at n answer tokens, likeliest first."""

    ids: torch.Tensor
    log_probs: torch.Tensor


ScoresOf = Callable[[Example], Scores]


def together(scores: Sequence[Scores]) -> Scores:
    """The scores of several rows as of one, in their order."""
    return Scores(torch.cat([one.ids for one in scores]), torch.cat([one.log_probs for one in scores]))


class Scorer(Protocol):
    """Who says how likely each token of a row is. ``at_once`` rows are a good measure for it."""

    @property
    def at_once(self) -> int: ...

    def score(self, rows: Sequence[Example]) -> list[Scores]: ...


class Teacher:
    """A model that says what it would have written in the place of a student. ``shared`` are the ids that mean the
    same to both; no others are among its answers. ``examples`` are some of the rows to come; what their prompts begin
    with, the system prompt and worked examples, it reads once."""

    at_once = AT_ONCE

    def __init__(self, model: Model, shared: Iterable[int], k: int, examples: Sequence[Example]) -> None:
        self._module = model.module.requires_grad_(False)
        self._context = model.context_length
        self._readable = frozenset(shared)
        self._k = min(k, len(self._readable))
        self._loss: AnswerLoss = choose(
            self._module, examples, model.template.pad_id, pack=self._module.device.type == "cpu"
        )
        self._beginning, self._going_on = self._begun(examples, model.template.pad_id)
        self._barred = torch.ones(model.module.get_output_embeddings().weight.shape[0], dtype=torch.bool)
        self._barred[sorted(self._readable)] = False
        self._barred = self._barred.to(self._loss.device)

    @torch.no_grad()
    def score(self, rows: Sequence[Example]) -> list[Scores]:
        """Scores of each row, in their order. Raises ``TrainingError`` for a row that it cannot read."""
        for row in rows:
            if not self._readable.issuperset(row.input_ids):
                raise TrainingError(f"{row.trace_id}: it holds a token that the teacher does not know")
            if len(row.input_ids) > self._context:
                raise TrainingError(
                    f"{row.trace_id} has {len(row.input_ids)} tokens, the teacher's context {self._context}; "
                    "lower --max_length"
                )
        begun = self._beginning
        if begun and all(begun.begins(row.input_ids[: row.prompt_length]) for row in rows):
            return self._scores(self._going_on, [after(row, len(begun.ids)) for row in rows])
        return self._scores(self._loss, rows)

    @torch.no_grad()
    def _begun(self, examples: Sequence[Example], pad_id: int) -> tuple[SharedBeginning | None, AnswerLoss]:
        """What all prompts begin with, and the loss of what comes after; none where the model's cache is no plain one
        or its answers are others from there on."""

        def read(ids: torch.Tensor, mask: torch.Tensor) -> Any:
            return self._module(input_ids=ids, attention_mask=mask, use_cache=True, logits_to_keep=1)

        prompts = [row.input_ids[: row.prompt_length] for row in examples]
        beginning = share(prompts, read, self._loss.device)
        if beginning is None:
            return None, self._loss
        try:
            return beginning, choose(
                self._module, examples, pad_id, pack=self._loss.packed, beginning=beginning
            )
        except TrainingError:
            log.info("the teacher reads what prompts begin with for each row")
            return None, self._loss

    def _scores(self, loss: AnswerLoss, rows: Sequence[Example]) -> list[Scores]:
        found: dict[int, Scores] = {}
        places = {id(row): i for i, row in enumerate(rows)}
        lain = ordered(rows)
        with loss:
            for start in range(0, len(lain), AT_ONCE):
                for group in loss.groups(lain[start : start + AT_ONCE]):
                    lengths = [answer_tokens(row) for row in group]
                    ids, log_probs = self._likeliest(loss, group)
                    parts = zip(torch.split(ids, lengths), torch.split(log_probs, lengths), strict=True)
                    found |= {places[id(row)]: Scores(*part) for row, part in zip(group, parts, strict=True)}
        return [found[places[id(row)]] for row in rows]

    def _likeliest(self, loss: AnswerLoss, rows: list[Example]) -> Scores:
        kept: list[Scores] = []

        def keep(logits: torch.Tensor, targets: torch.Tensor, here: slice) -> torch.Tensor:
            likeliest = logits.log_softmax(dim=1).masked_fill_(self._barred, -torch.inf).topk(self._k, dim=1)
            kept.append(Scores(likeliest.indices.int().cpu(), likeliest.values.half().cpu()))
            return logits.new_zeros(len(logits), 1)

        loss.each(self._module, rows, keep, 1)
        return together(kept)


def shared_ids(student: Any, teacher: Any) -> list[int]:
    """The ids that stand for the same token in two transformers tokenizers."""
    ours, theirs = tokens_of(student), tokens_of(teacher)
    return sorted(index for _, index in (ours.text | ours.added).items() & (theirs.text | theirs.added).items())


class Index(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``2_scores.json``."""

    schema: int
    teacher: str
    k: int
    sha256: str
    rows: dict[str, tuple[int, int]]


def row_hash(row: Example) -> str:
    """16 hex digits for the ids of a row and where its answer begins."""
    return digest([row.input_ids, row.prompt_length])


def stored_scores(
    path: Path, rows: Sequence[Example], teacher: str, k: int, open_teacher: Callable[[int], Scorer],
    show: Callable[[int], None] = lambda rows: None,
) -> ScoresOf:  # fmt: skip
    """The scores of ``rows`` by the model that goes by ``teacher``, from ``path`` (``.safetensors``) and, for rows that
    are not there, from the teacher, who is opened only then, for so many tokens; they are added to the file. ``show``
    is told of how many more rows there are scores.

    Raises ``DataError`` where the file is of another teacher, has fewer than ``k`` tokens or is damaged.
    """
    index, stored = _read(path, teacher, k)
    hashes = {row_hash(row): row for row in rows}
    owed = [row for hashed, row in hashes.items() if hashed not in index.rows]
    show(len(rows) - len(owed))
    if owed:
        log.info("%s: the teacher scores %d traces, %d are there", path, len(owed), len(hashes) - len(owed))
        opened = open_teacher(index.k)
        for start in range(0, len(owed), SAVE_EVERY):
            part = owed[start : start + SAVE_EVERY]
            scored: list[Scores] = []
            for first in range(0, len(part), opened.at_once):
                some = part[first : first + opened.at_once]
                scored += opened.score(some)
                show(len(some))
            index, stored = _write(path, index, stored, part, scored)
    ids, log_probs = stored

    def of(row: Example) -> Scores:
        start, stop = index.rows[row_hash(row)]
        return Scores(ids[start:stop, :k], log_probs[start:stop, :k])

    return of


def _read(path: Path, teacher: str, k: int) -> tuple[Index, Scores]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.with_suffix(".json").exists():
        empty = Scores(torch.empty(0, k, dtype=torch.int32), torch.empty(0, k, dtype=torch.float16))
        return Index(SCHEMA, teacher, k, "", {}), empty
    anew = f"remove {path} and {path.with_suffix('.json').name} to have the traces scored anew"
    try:
        index = msgspec.json.decode(path.with_suffix(".json").read_bytes(), type=Index)
        found = load_file(path)
        stored = Scores(found["ids"], found["log_probs"])
        whole = index.schema == SCHEMA and sha256_of(path) == index.sha256
    except (OSError, msgspec.MsgspecError, SafetensorError, KeyError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: the scores cannot be read ({error}); {anew}") from error
    if not whole or stored.ids.shape != stored.log_probs.shape or stored.ids.shape[1] > index.k:
        raise DataError(f"{path}: the scores are not those that their index was written for; {anew}")
    if index.teacher != teacher:
        raise DataError(f"{path} holds the scores of another teacher ({index.teacher}, not {teacher}); {anew}")
    if index.k < k:
        raise DataError(f"{path} holds {index.k} tokens at each place, not {k}; {anew}")
    return index, stored


def _write(
    path: Path, index: Index, stored: Scores, rows: Sequence[Example], scored: Sequence[Scores]
) -> tuple[Index, Scores]:
    """The file with these rows added."""
    from safetensors.torch import save

    at, places = len(stored.ids), dict(index.rows)
    for row, one in zip(rows, scored, strict=True):
        places[row_hash(row)] = (at, at + len(one.ids))
        at += len(one.ids)
    now = together([*([stored] if index.rows else []), *scored])
    with explained("write", path):
        path.with_suffix(".json").unlink(missing_ok=True)
        write_atomic(path, save({"ids": now.ids.contiguous(), "log_probs": now.log_probs.contiguous()}))
        index = msgspec.structs.replace(index, sha256=sha256_of(path), rows=places)
        write_atomic(path.with_suffix(".json"), msgspec.json.encode(index))
    return index, now
