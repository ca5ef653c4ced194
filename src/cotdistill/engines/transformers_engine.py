"""Run a Hugging Face model in this process, in batches that grow and shrink.

Prompts are sorted by length within a window and padded on the left. What all of them begin with is computed once.
Rows leave the batch soon after they end, are yielded, and the next prompts take their places. On a CUDA GPU the same
work goes to transformers' own continuous batching (``paged.py``).
"""

import random
import time
from collections.abc import Iterable, Iterator, Sequence
from importlib.metadata import version
from itertools import groupby
from typing import Any

import torch

from cotdistill.engines import Completion, Finish, Request, Sampling, paged
from cotdistill.engines.draw import Draw
from cotdistill.engines.growing_batch import SEGMENT, GrowingBatch, Row, is_plain, roomy
from cotdistill.engines.room import Room
from cotdistill.engines.shared_prefix import SharedPrefix, holds, share
from cotdistill.identity import model_hash
from cotdistill.model import Model

OPENING_BATCHES = 64
"""Requests are sorted by length within windows of this many batches: little padding, steady output."""
REFILL = 4
"""Rows join when this part of the batch is free: one by one they would cost more than they bring."""


class TransformersEngine:
    """Greedy answers do not depend on the batch they were computed in, in fp32; a sample depends on its own
    seed, except on a CUDA GPU (``paged``).

    ``batch_size`` is the most rows at a time; long prompts and answers make it fewer, so that they fit the memory.
    """

    def __init__(self, model: Model, *, module: Any = None, batch_size: int = 16) -> None:
        self._model = model
        self._module = module if module is not None else model.module
        four_bit = getattr(model.module, "is_loaded_in_4bit", False)
        self._number_format = str(self._module.dtype).removeprefix("torch.")
        self._dtype = self._number_format + (", 4-bit" if four_bit else "")
        self._batch_size = batch_size
        self._stops = set(model.template.stop_ids)
        self._shares: bool | None = None  # whether the model takes shared prefixes; None: not tried

    def describe(self) -> dict[str, str]:
        return {
            "engine": f"transformers {version('transformers')}",
            "model": self._model.directory.name,
            "hash": model_hash(self._model.directory),
            "dtype": self._dtype,
        }

    def complete(self, requests: Iterable[Request], sampling: Sampling) -> Iterator[Completion]:
        encoded: list[tuple[Request, list[int]]] = []
        for request in requests:
            encoded.append((request, self._model.template.prompt_ids(request.messages, thinking=sampling.thinking)))
            if len(encoded) == self._batch_size * OPENING_BATCHES:
                yield from self._window(encoded, sampling)
                encoded = []
        yield from self._window(encoded, sampling)

    def close(self) -> None:
        self._module = self._model.module = None

    @torch.inference_mode()
    def continued(self, prompts: Sequence[list[int]], sampling: Sampling) -> list[list[int]]:
        """The new ids of each prompt, computed together, up to and with the one that ends an answer. Samples are drawn
        with seeds that come from torch's random numbers."""
        seeds = torch.randint(1 << 62, (len(prompts),)).tolist()
        rows = [self._row(prompt, sampling, seed) for prompt, seed in zip(prompts, seeds, strict=True)]
        for _ in self._written(rows, sampling, Room(len(rows), None), None):
            pass
        return [row.written for row in rows]

    def _window(self, encoded: list[tuple[Request, list[int]]], sampling: Sampling) -> Iterator[Completion]:
        room = self._model.context_length - sampling.max_new_tokens
        for request, ids in encoded:
            if len(ids) > room:
                message = (
                    f"the prompt has {len(ids)} tokens; with {sampling.max_new_tokens} new ones it exceeds "
                    f"the context of {self._model.context_length}"
                )
                yield Completion.failed(request, message, prompt_tokens=len(ids))
        # Equal prompts, samples of one question, lie beside each other and are computed once.
        fits = sorted((pair for pair in encoded if len(pair[1]) <= room), key=lambda pair: (len(pair[1]), pair[1]))
        if fits:
            yield from self._answers(fits, sampling)

    def _answers(self, fits: Sequence[tuple[Request, list[int]]], sampling: Sampling) -> Iterator[Completion]:
        start = time.monotonic()
        rows = [self._row(prompt, sampling, sampling.seed_of(request)) for request, prompt in fits]
        requests = {id(row): request for row, (request, _) in zip(rows, fits, strict=True)}
        answered = self._paged(rows, sampling) if paged.is_for(self._module) else None
        if answered is None:
            prefix = self._prefix([row.prompt for row in rows])
            answered = self._written(rows, sampling, Room.of(self._module, self._batch_size), prefix)
        while (ended := next(answered, None)) is not None:
            seconds = (time.monotonic() - start) / len(ended)
            for row in ended:
                yield self._completion(requests[id(row)], row, seconds)
            start = time.monotonic()

    def _row(self, prompt: list[int], sampling: Sampling, seed: int) -> Row:
        drawn = sampling.do_sample and sampling.temperature > 0
        return Row(prompt, sampling.max_new_tokens, random.Random(seed) if drawn else None)

    def _paged(self, rows: Sequence[Row], sampling: Sampling) -> Iterator[list[Row]] | None:
        stops, pad_id = self._model.template.stop_ids, self._model.template.pad_id
        manager = paged.start(self._module, sampling, stops=stops, pad_id=pad_id, rows=self._batch_size)
        return paged.written(manager, rows) if manager else None

    @torch.inference_mode()
    def _prefix(self, prompts: list[list[int]]) -> SharedPrefix | None:
        if self._shares is False:
            return None
        prefix = share(prompts, self._generate, self._device)
        if prefix is None:
            return None
        if self._shares is None:
            fill = self._model.template.pad_id
            self._shares = holds(prefix, prompts[0], self._generate, fill, self._device, self._number_format)
        return prefix if self._shares else None

    def _written(
        self, rows: Sequence[Row], sampling: Sampling, room: Room, prefix: SharedPrefix | None
    ) -> Iterator[list[Row]]:
        """Write every row, and yield those that have ended, as they end. ``rows`` are in the order of their length."""
        todo = list(rows)[::-1]
        batch: GrowingBatch | None = None
        while todo or batch:
            free = room.free(batch, todo)
            if not batch:
                batch = self._opened([todo.pop() for _ in range(free)], prefix)
            elif free and is_plain(batch.cache) and free * REFILL >= min(len(todo), free + len(batch.rows)):
                self._join(batch, self._opened([todo.pop() for _ in range(free)], prefix))
            ended = self._segment(batch, sampling)
            if not batch.rows:
                batch = None
            if ended:
                yield ended

    @torch.inference_mode()
    def _join(self, batch: GrowingBatch, new: GrowingBatch) -> None:
        batch.join(new, self._model.template.pad_id)

    @torch.inference_mode()
    def _opened(self, rows: list[Row], prefix: SharedPrefix | None) -> GrowingBatch:
        """A batch of these rows, whose prompts are computed but for their last token; equal ones once."""
        shared = prefix.ids if prefix else []
        different = [list(same) for _, same in groupby(rows, key=lambda row: row.prompt)]
        prompts = [same[0].prompt for same in different]
        longest = max(map(len, prompts))
        ids = torch.full((len(prompts), longest), self._model.template.pad_id)
        mask = torch.zeros_like(ids)
        for at, prompt in enumerate(prompts):
            rest = prompt[len(shared) :]
            for values, filled in ((ids, rest), (mask, [1] * len(rest))):
                values[at, longest - len(rest) :] = torch.tensor(filled)
            ids[at, : len(shared)], mask[at, : len(shared)] = torch.tensor(shared), 1
        ids, mask = ids.to(self._device), mask.to(self._device)
        cache = prefix.cache(len(prompts)) if prefix else None
        if longest - 1 > len(shared):
            cache = self._generate(ids[:, :-1], mask[:, :-1], cache).cache
        batch = GrowingBatch([same[0] for same in different], ids, mask, cache)
        if len(rows) > len(different):
            batch.select([at for at, same in enumerate(different) for _ in same])
            batch.rows = rows
        return batch

    @torch.inference_mode()
    def _segment(self, batch: GrowingBatch, sampling: Sampling) -> list[Row]:
        """Write at most ``SEGMENT`` tokens to each row of ``batch``; the rows that have ended leave it."""
        length = min(SEGMENT, max(row.limit - len(row.written) for row in batch.rows))
        rngs = [row.rng for row in batch.rows if row.rng is not None]
        draw = Draw(rngs, sampling.temperature, sampling.top_p) if rngs else None
        output = self._generate(batch.ids, batch.mask, roomy(batch.cache), length=length, draw=draw)
        new = output.sequences[:, batch.width :]
        batch.ids, batch.cache = output.sequences, output.cache
        batch.mask = torch.cat([batch.mask, torch.ones_like(new)], dim=1)
        for row, tokens in zip(batch.rows, new.tolist(), strict=True):
            end = next((at for at, token in enumerate(tokens, 1) if token in self._stops), len(tokens))
            row.written += tokens[: min(end, row.limit - len(row.written))]
        going = [at for at, row in enumerate(batch.rows) if not self._ended(row)]
        ended = [row for row in batch.rows if self._ended(row)]
        if ended:
            batch.select(going)
        return ended

    def _ended(self, row: Row) -> bool:
        return len(row.written) == row.limit or row.written[-1] in self._stops

    def _generate(
        self, ids: torch.Tensor, mask: torch.Tensor, cache: Any = None, *, length: int = 1, draw: Draw | None = None,
        logits: bool = False,
    ) -> Any:  # fmt: skip
        """transformers' output, ``length`` columns longer. The configuration is built from nothing, so that the
        model's own sampling defaults cannot leak in."""
        from transformers import GenerationConfig, LogitsProcessorList

        config = GenerationConfig(
            max_new_tokens=length, do_sample=False, eos_token_id=self._model.template.stop_ids,
            pad_token_id=self._model.template.pad_id, return_dict_in_generate=True, output_logits=logits,
        )  # fmt: skip
        return self._module.generate(
            input_ids=ids, attention_mask=mask, cache=cache, generation_config=config,
            logits_processor=LogitsProcessorList([draw] if draw else []),
        )  # fmt: skip

    @property
    def _device(self) -> torch.device:
        return torch.device(self._module.get_input_embeddings().weight.device)

    def _completion(self, request: Request, row: Row, seconds: float) -> Completion:
        if row.error:
            return Completion.failed(request, row.error, prompt_tokens=len(row.prompt), seconds=seconds)
        stopped = row.written[-1] in self._stops
        answer = row.written[:-1] if stopped else row.written
        text, thinking = self._model.template.read(row.prompt, answer)
        finish: Finish = "stop" if stopped else "length"
        return Completion(
            request.key, text, finish, len(row.prompt), len(row.written), seconds, thinking=thinking
        )
