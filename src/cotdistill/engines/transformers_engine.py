"""Run a Hugging Face model in this process, in left-padded batches."""

import time
from collections.abc import Iterable, Iterator
from importlib.metadata import version
from typing import Any

import torch

from cotdistill.engines import Completion, Finish, Request, Sampling
from cotdistill.identity import model_hash
from cotdistill.model import Model

OPENING_BATCHES = 64
"""Requests are sorted by length within windows of this many batches: little padding, steady output."""
SEGMENT = 64
"""Tokens between two looks at which answers have ended."""


class TransformersEngine:
    """Greedy answers do not depend on the batch they were computed in, in fp32."""

    def __init__(self, model: Model, *, module: Any = None, name: str = "", batch_size: int = 16) -> None:
        self._model = model
        self._module = module if module is not None else model.module
        self._name = name or model.directory.name
        four_bit = getattr(model.module, "is_loaded_in_4bit", False)
        self._dtype = str(self._module.dtype).removeprefix("torch.") + (", 4-bit" if four_bit else "")
        self._batch_size = batch_size

    def describe(self) -> dict[str, str]:
        return {
            "engine": f"transformers {version('transformers')}",
            "model": self._name,
            "hash": model_hash(self._model.directory),
            "dtype": self._dtype,
        }

    def complete(self, requests: Iterable[Request], sampling: Sampling) -> Iterator[Completion]:
        encoded: list[tuple[Request, list[int]]] = []
        for request in requests:
            encoded.append((request, self._model.template.prompt_ids(request.messages)))
            if len(encoded) == self._batch_size * OPENING_BATCHES:
                yield from self._window(encoded, sampling)
                encoded = []
        yield from self._window(encoded, sampling)

    def close(self) -> None:
        self._module = self._model.module = None

    def _window(self, encoded: list[tuple[Request, list[int]]], sampling: Sampling) -> Iterator[Completion]:
        room = self._model.context_length - sampling.max_new_tokens
        fits = sorted((pair for pair in encoded if len(pair[1]) <= room), key=lambda pair: len(pair[1]))
        for request, ids in encoded:
            if len(ids) > room:
                message = (
                    f"the prompt has {len(ids)} tokens; with {sampling.max_new_tokens} new ones it exceeds "
                    f"the context of {self._model.context_length}"
                )
                yield Completion(request.key, "", "error", len(ids), 0, 0.0, message)
        for start in range(0, len(fits), self._batch_size):
            yield from self._batch(fits[start : start + self._batch_size], sampling)

    def _batch(self, batch: list[tuple[Request, list[int]]], sampling: Sampling) -> list[Completion]:
        start = time.monotonic()
        if sampling.do_sample:
            torch.manual_seed(hash((sampling.seed, *(request.seed for request, _ in batch))) % (1 << 62))
        output = self.continued([prompt for _, prompt in batch], sampling)
        seconds = (time.monotonic() - start) / len(batch)
        return [
            self._completion(request, len(prompt), row, sampling, seconds)
            for (request, prompt), row in zip(batch, output, strict=True)
        ]

    @torch.inference_mode()
    def continued(self, prompts: list[list[int]], sampling: Sampling) -> list[list[int]]:
        """The new ids of each prompt, computed together; after the first that ends an answer there may be more."""
        longest = max(map(len, prompts))
        device = self._module.get_input_embeddings().weight.device
        ids = torch.full((len(prompts), longest), self._model.template.pad_id)
        mask = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            ids[row, longest - len(prompt) :] = torch.tensor(prompt)
            mask[row, longest - len(prompt) :] = 1
        return self._generate(ids.to(device), mask.to(device), sampling)

    def _generate(self, ids: torch.Tensor, mask: torch.Tensor, sampling: Sampling) -> list[list[int]]:
        """The new ids of each row of ``ids`` (rows, prompt). Every ``SEGMENT`` tokens the rows that have ended
        leave the batch, or one rambling answer would make all the others be computed to its end."""
        stops = torch.tensor(self._model.template.stop_ids, device=ids.device)
        answers: list[list[int]] = [[] for _ in ids]
        alive, cache, left = list(range(len(ids))), None, sampling.max_new_tokens
        while alive and left > 0:
            length = min(SEGMENT, left)
            output = self._module.generate(
                input_ids=ids, attention_mask=mask, past_key_values=cache, return_dict_in_generate=True,
                generation_config=self._generation_config(sampling, length),
            )  # fmt: skip
            new = output.sequences[:, ids.shape[1] :]
            for row, tokens in zip(alive, new.tolist(), strict=True):
                answers[row] += tokens
            left -= length
            going = (~torch.isin(new, stops).any(dim=1)).nonzero().flatten()
            alive = [alive[i] for i in going.tolist()]
            cache = output.past_key_values
            cache.batch_select_indices(going)
            ids = output.sequences[going]
            mask = torch.cat([mask, torch.ones_like(new)], dim=1)[going]
        return answers

    def _completion(
        self, request: Request, prompt_tokens: int, row: list[int], sampling: Sampling, seconds: float
    ) -> Completion:
        stops = set(self._model.template.stop_ids)
        end = next((i for i, token in enumerate(row) if token in stops), None)
        answer = row if end is None else row[:end]
        text = self._model.tokenizer.decode(
            answer, skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
        finish: Finish = "length" if end is None else "stop"
        spent = min(len(answer) + (end is not None), sampling.max_new_tokens)
        return Completion(request.key, text, finish, prompt_tokens, spent, seconds)

    def _generation_config(self, sampling: Sampling, length: int) -> Any:
        """Built from nothing, so that the model's own sampling defaults cannot leak in."""
        from transformers import GenerationConfig

        chosen: dict[str, Any] = {"do_sample": False}
        if sampling.do_sample:
            chosen = {
                "do_sample": True, "temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": 0,
            }  # fmt: skip
        return GenerationConfig(
            max_new_tokens=length,
            eos_token_id=self._model.template.stop_ids,
            pad_token_id=self._model.template.pad_id,
            **chosen,
        )
