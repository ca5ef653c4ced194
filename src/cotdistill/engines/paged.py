"""Paged: transformers' continuous batching writes the rows, for models on a CUDA GPU.

It keeps keys and values in pages, computes a prefix that prompts share once (whole pages of it), lets rows join and
leave at every token and replays CUDA graphs. Written for transformers 5.24. Tested on a CPU, where its answers are
those of ``GrowingBatch``; it has not run on a GPU. Samples are drawn from one stream of random numbers, so they depend
on what runs beside them.
"""

import importlib.util
import logging
from collections.abc import Iterator, Sequence
from typing import Any

from cotdistill.engines import Sampling
from cotdistill.engines.growing_batch import Row

log = logging.getLogger(__name__)

PATIENCE = 10.0
"""Seconds that its thread has to end."""
TICK = 1.0
"""Seconds between two looks at whether that thread still runs."""


def is_for(module: Any) -> bool:
    """Whether the model is one of those that are given to it: whole on one CUDA GPU, and not 4-bit."""
    devices = set((getattr(module, "hf_device_map", None) or {"": module.device}).values())
    four_bit = getattr(module, "is_loaded_in_4bit", False)
    return module.device.type == "cuda" and len(devices) == 1 and not four_bit


def start(module: Any, sampling: Sampling, *, stops: Sequence[int], pad_id: int, rows: int, **options: Any) -> Any:
    """transformers' manager, running, for at most ``rows`` rows at a time; None, said in the log, where the model or
    the library cannot do it. ``options`` are those of its ``ContinuousBatchingConfig``."""
    attention = module.config._attn_implementation
    may_switch = importlib.util.find_spec("kernels") is None  # which fetches code for attention from the hub
    try:
        from transformers import ContinuousBatchingConfig, GenerationConfig

        chosen: dict[str, Any] = {"do_sample": False}
        if sampling.do_sample and sampling.temperature > 0:
            chosen = {"do_sample": True, "temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": 0}
        manager = module.init_continuous_batching(
            GenerationConfig(
                max_new_tokens=sampling.max_new_tokens, eos_token_id=list(stops), pad_token_id=pad_id, **chosen
            ),
            ContinuousBatchingConfig(
                max_requests_per_batch=rows, seed=sampling.seed, auto_switch_to_flash=may_switch, **options
            ),
        )
        manager.warmup()
        manager.start()
    except Exception as error:  # whatever a model, a driver or another version of the library has against it
        if module.config._attn_implementation != attention:
            module.set_attn_implementation(attention)
        log.info("no continuous batching (%s: %s): in plain batches", type(error).__name__, str(error).strip()[:200])
        return None
    return manager


def written(manager: Any, rows: Sequence[Row]) -> Iterator[list[Row]]:
    """Write every row, and yield each when it has ended; one that failed has an ``error``. Ends the manager."""
    waiting = {str(number): row for number, row in enumerate(rows)}
    try:
        for key, row in waiting.items():
            manager.add_request(row.prompt, request_id=key, max_new_tokens=row.limit)
        while waiting:
            output = manager.get_result(timeout=TICK)
            if output is not None and output.is_finished() and output.request_id in waiting:
                row = waiting.pop(output.request_id)
                row.written, row.error = list(output.generated_tokens), output.error
                yield [row]
            elif output is None and not manager.is_running():
                why = manager.background_thread_status.fatal_error or "its thread ended"
                for row in waiting.values():
                    row.error = f"continuous batching stopped: {why}"
                yield list(waiting.values())
                return
    finally:
        manager.stop(block=True, timeout=PATIENCE, hard_stop=bool(waiting))
        manager.destroy()
