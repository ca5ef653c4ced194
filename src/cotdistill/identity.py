"""Identity: which file, model or value is this, wherever it lies."""

import hashlib
from pathlib import Path

import msgspec

from cotdistill.errors import SetupError

SAMPLES = 16
CHUNK = 1 << 20


def sha256_of(path: Path) -> str:
    """The file's SHA-256 in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(value: object) -> str:
    """16 hex digits for plain data or a struct: equal values have equal digests."""
    return hashlib.sha256(msgspec.json.encode(value)).hexdigest()[:16]


def model_hash(path: Path) -> str:
    """16 hex digits for a GGUF file or a Hugging Face directory.

    SHA-256 over the config and, for each weights file, its size and 16 evenly spaced MiB of it: another model,
    quantisation or fine-tune has another hash, and a model of many GB is recognised in a moment. Not a proof
    of integrity; downloads from the catalogue are checked in full. Raises ``SetupError`` where nothing is there.
    """
    if path.is_file():
        files, found = [path], hashlib.sha256()
    elif (path / "config.json").is_file():
        found = hashlib.sha256((path / "config.json").read_bytes())
        patterns = ("*.safetensors", "pytorch_model*.bin")
        files = sorted(file for pattern in patterns for file in path.glob(pattern))
    else:
        raise SetupError(f"{path} is neither a GGUF file nor a directory with a config.json")
    for file in files:
        size = file.stat().st_size
        found.update(f"{size}\n".encode())
        with file.open("rb") as content:
            for i in range(SAMPLES):
                content.seek(max(0, size - CHUNK) * i // (SAMPLES - 1))
                found.update(content.read(CHUNK))
    return found.hexdigest()[:16]
