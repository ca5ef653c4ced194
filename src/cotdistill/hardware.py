"""Hardware: where a model runs and in which number format, decided in one place and said aloud."""

import gc
import importlib.util
import os
from typing import Any, Literal

import msgspec
import torch

from cotdistill.errors import SetupError
from cotdistill.learning.ranks import here

Device = Literal["cuda", "mps", "cpu"]
SPREAD = ("auto", "balanced", "balanced_low_0", "sequential")
"""How accelerate spreads a model over several GPUs."""


class Placement(msgspec.Struct, frozen=True):
    """``dtype`` is torch's name; ``four_bit`` means NF4 by bitsandbytes, computing in ``dtype``."""

    device: Device
    dtype: str
    four_bit: bool
    device_map: str | None

    def sentence(self) -> str:
        """What the user is told before the model loads."""
        return f"{self.device}, {self.precision()}"

    def precision(self) -> str:
        """What the model computes with: ``float32, not 4-bit``."""
        return f"4-bit NF4, computing in {self.dtype}" if self.four_bit else f"{self.dtype}, not 4-bit"

    def load_options(self) -> dict[str, Any]:
        """Keyword arguments for ``from_pretrained``."""
        options: dict[str, Any] = {"dtype": getattr(torch, self.dtype)}
        if self.device == "cuda":  # without a map, this process's own GPU
            options["device_map"] = self.device_map or {"": torch.cuda.current_device()}
        elif torch.cuda.is_available():  # else what is 4-bit goes to the GPU by itself
            options["device_map"] = self.device
        if self.four_bit:
            from transformers import BitsAndBytesConfig

            options["quantization_config"] = BitsAndBytesConfig(
                load_in_4bit=True,
                bnb_4bit_quant_type="nf4",
                bnb_4bit_use_double_quant=True,
                bnb_4bit_compute_dtype=getattr(torch, self.dtype),
            )
        return options

    def kernels(self) -> dict[str, Any]:
        """Keyword arguments for the Trainer: Liger's kernels (Hsu et al. 2024) for norms, rotary positions and gated
        blocks on a CUDA GPU, where the package is there. The loss stays ours: it never holds all logits at once either.
        """
        from transformers.utils import is_liger_kernel_available

        if self.device != "cuda" or not is_liger_kernel_available():
            return {}
        return {
            "use_liger_kernel": True,
            "liger_kernel_config": {"cross_entropy": False, "fused_linear_cross_entropy": False},
        }


def place(load_in_4bit: bool | None = None, device_map: str | None = "auto") -> Placement:
    """Choose device and format.

    4-bit is the default on a CUDA GPU with bitsandbytes and off elsewhere; ``load_in_4bit`` overrides.
    bf16 where the GPU computes in it, fp32 on a CPU (bf16 is emulated there, and slower than fp32).
    ``device_map`` "auto" spreads a model over the GPUs of one process; a launcher's ranks each take theirs. Under
    FSDP the model is loaded into main memory, from which each rank takes its shards, and is not 4-bit.

    Raises ``SetupError`` for a device that is not here, and for 4-bit where it cannot be.
    """
    _check_map(device_map)
    have_bitsandbytes = importlib.util.find_spec("bitsandbytes") is not None
    if load_in_4bit and not have_bitsandbytes:
        raise SetupError("4-bit loading needs bitsandbytes: pip install bitsandbytes, or pass --no_4bit")
    sharded = is_sharded()
    if sharded and load_in_4bit:
        raise SetupError("FSDP does not shard 4-bit weights here: pass --no_4bit, or launch with the DDP config")
    if torch.cuda.is_available() and device_map != "cpu":
        dtype = "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"
        four_bit = have_bitsandbytes and not sharded if load_in_4bit is None else load_in_4bit
        if here().size > 1:
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
            device_map = "cpu" if sharded else None
        return Placement("cuda", dtype, four_bit, device_map)
    # Apple's GPUs have no backend that exchanges gradients.
    apple = torch.backends.mps.is_available() and here().size == 1 and device_map != "cpu"
    device: Device = "mps" if apple else "cpu"
    return Placement(device, "float32", bool(load_in_4bit), device_map)


def _check_map(device_map: str | None) -> None:
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    devices = ["cpu", *(["mps"] if torch.backends.mps.is_available() else []), *(["cuda"] if gpus else [])]
    known = [*SPREAD, *devices, *(f"cuda:{number}" for number in range(gpus))]
    if device_map not in (None, *known):
        raise SetupError(f"--device_map {device_map} is none of {', '.join(known)}, which are possible on this machine")


def give_back_gpus() -> None:
    """Free the GPU memory of models that are gone, before another one is loaded. Wrapped models are reference cycles,
    which only the garbage collector finds; and torch keeps freed memory, which another process, such as vLLM's, lacks.
    """
    if torch.cuda.is_available():
        gc.collect()
        torch.cuda.empty_cache()


def is_sharded() -> bool:
    """True under accelerate's FSDP, where each process holds a part of every weight."""
    return os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"
