"""Parameter count: how many numbers a model's weights hold, read from the headers of its files.

    parameter_count(Path("cache/smollm2-135m-instruct")) -> 134515008
"""

import math
from pathlib import Path

from cotdistill.errors import SetupError
from cotdistill.model_files.gguf_header import open_gguf


def parameter_count(model: Path) -> int:
    """Of a GGUF file or a Hugging Face directory. Raises ``SetupError`` where they cannot be read."""
    from safetensors import SafetensorError, safe_open

    if model.is_file():
        return sum(int(tensor.n_elements) for tensor in open_gguf(model).tensors)
    try:
        count = 0
        files = sorted(model.glob("*.safetensors"))
        if not files:
            return _of_pickles(model)
        for path in files:
            with safe_open(path, framework="numpy") as file:
                count += sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
    except (OSError, ValueError, KeyError, IndexError, SafetensorError) as error:
        raise SetupError(f"cannot read the weights in {model} ({error}); get them again") from error
    return count


def _of_pickles(model: Path) -> int:
    import pickle

    import torch

    count = 0
    for path in model.glob("pytorch_model*.bin"):
        try:
            weights = torch.load(path, map_location="meta", weights_only=True)
        except (pickle.UnpicklingError, RuntimeError) as error:
            raise ValueError(str(error).splitlines()[0]) from error
        count += sum(tensor.numel() for tensor in weights.values())
    if not count:
        raise ValueError("there are none")
    return count
