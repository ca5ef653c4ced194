"""Identity: which model is this, wherever it lies."""

import hashlib
from pathlib import Path

from cotdistill.errors import SetupError

SAMPLES = 16
CHUNK = 1 << 20


def model_hash(path: Path) -> str:
    """16 hex digits for a GGUF file or a Hugging Face directory.

    SHA-256 over the config and, for each weights file, its size and 16 evenly spaced MiB of it: another model,
    quantisation or fine-tune has another hash, and a model of many GB is recognised in a moment. Not a proof
    of integrity; downloads from the catalogue are checked in full. Raises ``SetupError`` where nothing is there.
    """
    if path.is_file():
        files, digest = [path], hashlib.sha256()
    elif (path / "config.json").is_file():
        digest = hashlib.sha256((path / "config.json").read_bytes())
        patterns = ("*.safetensors", "pytorch_model*.bin")
        files = sorted(file for pattern in patterns for file in path.glob(pattern))
    else:
        raise SetupError(f"{path} is neither a GGUF file nor a directory with a config.json")
    for file in files:
        size = file.stat().st_size
        digest.update(f"{size}\n".encode())
        with file.open("rb") as content:
            for i in range(SAMPLES):
                content.seek(max(0, size - CHUNK) * i // (SAMPLES - 1))
                digest.update(content.read(CHUNK))
    return digest.hexdigest()[:16]
