"""Parameter count: how many numbers a model's weights hold, read from the headers of its files.

    parameter_count(Path("cache/smollm2-135m-instruct")) -> 134515008
"""

import math
from pathlib import Path

from cotdistill.errors import SetupError


def parameter_count(model: Path) -> int:
    """Of a GGUF file or a Hugging Face directory with safetensors. Raises ``SetupError`` where they cannot be read."""
    from gguf import GGUFReader
    from safetensors import SafetensorError, safe_open

    try:
        if model.is_file():
            return sum(int(tensor.n_elements) for tensor in GGUFReader(model).tensors)
        count = 0
        for path in model.glob("*.safetensors"):
            with safe_open(path, framework="numpy") as file:
                count += sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
    except (OSError, ValueError, KeyError, IndexError, SafetensorError) as error:
        raise SetupError(f"cannot read the weights in {model} ({error}); get them again") from error
    return count
