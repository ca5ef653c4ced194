"""Run a Hugging Face model in this process with vLLM: paged keys and values, prompts joining and leaving at every
token, what they begin with computed once.

Written for vLLM 0.17 to 0.33 and tested against a stand-in with its signatures; it has not run on a GPU. Prompts go in
and answers come out as token ids, so that template and tokenizer are the same as in every other engine.
"""

import json
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from cotdistill.card import ADAPTER_CONFIG, read_card
from cotdistill.engines import Completion, Finish, Request, Sampling
from cotdistill.engines.clock import Clock
from cotdistill.errors import SetupError
from cotdistill.hardware import give_back_gpus
from cotdistill.identity import model_hash
from cotdistill.shown import cause_of
from cotdistill.template import ChatTemplate, read_tokenizer

log = logging.getLogger(__name__)

RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM can be told of the largest rank of an adapter."""
TOGETHER = 256
"""Requests that are decoded together, where memory for their keys and values allows: vLLM takes it page by page."""
AHEAD = 2
"""Requests that are given to vLLM, as a multiple of those that it computes together: it must never wait for one."""


class VLLMEngine:
    """The model on all GPUs that this process sees. ``TOGETHER`` requests, or ``batch_size`` if that is more, are
    decoded together. ``adapter`` is applied as it is, without merging."""

    def __init__(
        self, directory: Path, *, adapter: Path | None = None, batch_size: int = TOGETHER,
        load_in_4bit: bool | None = None, trust_remote_code: bool = False,
    ) -> None:  # fmt: skip
        os.environ.setdefault("VLLM_LOGGING_STREAM", "ext://sys.stderr")  # stdout is for results
        try:
            from vllm import EngineArgs, LLMEngine
            from vllm.lora.request import LoRARequest
        except ImportError as error:
            raise SetupError(
                'this engine needs vLLM, which is not installed: pip install vllm (Linux, CUDA GPU), '
                "or take --engine transformers"
            ) from error
        self._directory = directory
        self._together = max(batch_size, TOGETHER)
        self._tokenizer: Any = read_tokenizer(directory, trust_remote_code=trust_remote_code)
        self._template = ChatTemplate(self._tokenizer)
        self._four_bit = bool(load_in_4bit)
        options: dict[str, Any] = {"quantization": "bitsandbytes"} if load_in_4bit else {}
        if (gpus := _gpus_for(directory, trust_remote_code)) > 1:
            options |= {"tensor_parallel_size": gpus, "distributed_executor_backend": "mp"}
        if adapter:
            options |= {"enable_lora": True, "max_loras": 1, "max_lora_rank": self._rank(adapter)}
        self._adapter = LoRARequest("student", 1, str(adapter.resolve())) if adapter else None
        arguments = EngineArgs(
            model=str(directory), tokenizer=str(directory), trust_remote_code=trust_remote_code,
            max_num_seqs=self._together, enable_prefix_caching=True, generation_config="vllm",
            max_model_len=-1,  # the model's own, or as much of it as memory allows
            **options,
        )  # fmt: skip
        give_back_gpus()
        try:
            self._engine: Any = LLMEngine.from_engine_args(arguments)
        except Exception as error:  # no GPU, no memory, a model it does not know: whatever vLLM says of it
            why = cause_of(error)
            cure = "pip install vllm-bnb-plugin, or " if "nknown quantization" in why else ""
            raise SetupError(f"vLLM cannot run {directory}: {why}; {cure}take --engine transformers") from error
        numbers = getattr(getattr(self._engine, "model_config", None), "dtype", "auto")
        self._dtype = str(numbers).removeprefix("torch.") + (", 4-bit" if self._four_bit else "")

    def describe(self) -> dict[str, str]:
        try:
            of = version("vllm")
        except PackageNotFoundError:
            of = "unknown"
        return {
            "engine": f"vllm {of}",
            "model": self._directory.name,
            "hash": model_hash(self._directory),
            "dtype": self._dtype,
        }

    def complete(self, requests: Iterable[Request], sampling: Sampling) -> Iterator[Completion]:
        """Leaving the iterator early takes what is in flight out of vLLM."""
        todo = iter(requests)
        flying: dict[str, tuple[Request, list[int]]] = {}
        clock = Clock()
        more = True
        try:
            while more or flying:
                while more and len(flying) < AHEAD * self._together:
                    if (request := next(todo, None)) is None:
                        more = False
                        break
                    prompt = self._template.prompt_ids(request.messages, thinking=sampling.thinking)
                    if (reason := self._add(request, prompt, sampling)) is not None:
                        yield clock.stamp(Completion.failed(request, f"vLLM: {reason}", prompt_tokens=len(prompt)))
                    else:
                        flying[request.key] = request, prompt
                for output in self._step() if flying else ():
                    if output.finished and output.request_id in flying:
                        request, prompt = flying.pop(output.request_id)
                        yield clock.stamp(self._completion(request, prompt, output.outputs[0]))
        finally:
            if flying:
                self._engine.abort_request(list(flying))

    def close(self) -> None:
        core = getattr(self._engine, "engine_core", None)
        if core is not None:
            core.shutdown()
        self._engine = None

    def _add(self, request: Request, prompt: list[int], sampling: Sampling) -> str | None:
        """Give a request to vLLM; the reason, where it refuses it."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        drawn = sampling.do_sample and sampling.temperature > 0
        params = SamplingParams(
            max_tokens=sampling.max_new_tokens, temperature=sampling.temperature if drawn else 0.0,
            top_p=sampling.top_p if drawn else 1.0, seed=sampling.seed_of(request) if drawn else None,
            stop_token_ids=self._template.stop_ids, detokenize=False, output_kind=RequestOutputKind.FINAL_ONLY,
        )  # fmt: skip
        try:
            self._engine.add_request(
                request.key, {"prompt_token_ids": prompt}, params, lora_request=self._adapter
            )
        except Exception as error:  # longer than the model's context; vLLM has changed its classes for that
            if type(error).__name__ == "EngineDeadError":
                raise self._dead(error) from error
            return str(error).strip() or type(error).__name__
        return None

    def _step(self) -> list[Any]:
        try:
            return list(self._engine.step())
        except Exception as error:  # its own process died; nothing that is asked now would be answered
            raise self._dead(error) from error

    def _dead(self, error: Exception) -> SetupError:
        why = cause_of(error)
        return SetupError(f"vLLM ended in the midst of its work ({why}); run the command again to go on")

    def _completion(self, request: Request, prompt: Sequence[int], output: Any) -> Completion:
        ids = list(output.token_ids)
        if output.finish_reason not in ("stop", "length"):
            reason = f"vLLM: the request ended with {output.finish_reason!r}"
            return Completion.failed(request, reason, prompt_tokens=len(prompt), completion_tokens=len(ids))
        # The id that stopped it, which may be one that only the model's generation_config.json names.
        answer = ids[:-1] if output.finish_reason == "stop" else ids
        text, thinking = self._template.read(prompt, answer)
        finish: Finish = "stop" if output.finish_reason == "stop" else "length"
        return Completion(request.key, text, finish, len(prompt), len(ids), 0.0, thinking=thinking)

    def _rank(self, adapter: Path) -> int:
        """The rank that vLLM must hold room for. Raises ``SetupError`` for an adapter that is not this model's, or that
        vLLM does not run."""
        if (card := read_card(adapter)) and card.base_hash != model_hash(self._directory):
            raise SetupError(f"the adapter in {adapter} was trained on {card.base_name}, not on {self._directory.name}")
        if card and card.template_hash != self._template.hash:
            raise SetupError(f"the adapter in {adapter} was trained with another chat template than it has now")
        if card and card.four_bit and not self._four_bit:
            log.warning("%s was trained on the 4-bit weights: --load_in_4bit asks it on those", adapter)
        try:
            config = json.loads((adapter / ADAPTER_CONFIG).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise SetupError(f"{adapter} is not an adapter: its {ADAPTER_CONFIG} cannot be read") from error
        if config.get("use_dora"):
            raise SetupError(f"vLLM runs no DoRA adapter such as {adapter}; take --engine transformers")
        ranks = [config["r"], *config.get("rank_pattern", {}).values()]
        return next((rank for rank in RANKS if rank >= max(ranks)), max(ranks))


def _gpus_for(directory: Path, trust_remote_code: bool) -> int:
    """As many of the GPUs that this process sees as the model can be divided among."""
    import torch
    from transformers import AutoConfig

    gpus = torch.cuda.device_count()
    if gpus < 2:
        return 1
    try:
        config: Any = AutoConfig.from_pretrained(
            directory, local_files_only=True, trust_remote_code=trust_remote_code
        ).get_text_config()
        heads = int(config.num_attention_heads)
        pairs = int(getattr(config, "num_key_value_heads", None) or heads)
        width = int(getattr(config, "intermediate_size", None) or heads)
    except Exception as error:  # a model that vLLM may know and transformers does not
        log.info("one GPU, since the heads of %s are not known (%s)", directory, type(error).__name__)
        return 1
    return max(n for n in range(1, gpus + 1) if heads % n == 0 and width % n == 0 and 0 in (pairs % n, n % pairs))
