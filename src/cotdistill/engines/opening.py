"""Choose the engine that can run a model, and open it."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import cast, get_args

from cotdistill.download import local_model
from cotdistill.engines import ON_RAY, Engine, EngineName
from cotdistill.engines.server import Server
from cotdistill.errors import SetupError, UsageError
from cotdistill.model_files.gguf_header import only_gguf

log = logging.getLogger(__name__)

ENGINES: tuple[str, ...] = get_args(EngineName)


def engine_name(written: str) -> EngineName:
    """The engine meant by ``llama.cpp`` or ``llama-cpp``. Raises ``UsageError`` listing the names there are."""
    name = written.replace("-", "_").replace(".", "_")
    if name not in ENGINES:
        raise UsageError(f"unknown engine {written!r}; there are {', '.join(ENGINES)}")
    return cast(EngineName, name)


def takes_gguf(engine: EngineName) -> bool:
    """Whether an engine runs the GGUF file of a catalogue model, and not the directory converted from it."""
    return engine.removeprefix(ON_RAY) not in ("transformers", "vllm")


def student_engine(engine: EngineName) -> EngineName:
    """What runs the base and the student, whose adapter only transformers loads, beside a teacher on ``engine``."""
    return "ray:transformers" if engine.startswith(ON_RAY) else "transformers"


def open_engine(
    model: str,
    *,
    engine: EngineName = "auto",
    adapter: Path | None = None,
    batch_size: int = 8,
    context: int = 2048,
    longest: int = 0,
    load_in_4bit: bool | None = None,
    device_map: str | None = "auto",
    trust_remote_code: bool = False,
    server: Server | None = None,
    workers: int | None = None,
) -> Engine:
    """Open a model: a catalogue name, a Hugging Face directory, a GGUF file or a directory that holds one.

    ``auto`` takes llama.cpp for GGUF and for catalogue names, transformers otherwise. ``context`` is the most
    tokens of prompt and answer together that llama.cpp keeps for each of its ``batch_size`` slots, ``longest`` how many
    of them an answer may have; file and memory may have less (see ``slots``). With a ``server``, ``model`` is the name
    it knows the model by. ``workers`` are those of a Ray cluster; None is as many as it has GPUs, or else nodes.
    """
    if server:
        from cotdistill.engines.openai_server import OpenAIServerEngine

        log.info("%s on %s, %d at a time each", model, ", ".join(server.urls), server.concurrency)
        return OpenAIServerEngine(model, server)
    if engine.startswith(ON_RAY):
        from cotdistill.engines.ray_engine import RayEngine

        inner = partial(
            open_engine, str(Path(model).resolve()) if Path(model).exists() else model,
            engine=cast(EngineName, engine.removeprefix(ON_RAY)), adapter=adapter and adapter.resolve(),
            batch_size=batch_size, context=context, longest=longest, load_in_4bit=load_in_4bit, device_map=device_map,
            trust_remote_code=trust_remote_code,
        )  # fmt: skip
        return RayEngine(inner, batch_size=batch_size, workers=workers)
    gguf = find_gguf(model)
    if engine == "auto":
        engine = "transformers" if gguf is None and (adapter or Path(model).exists()) else "llama_cpp"
    if engine == "llama_cpp":
        from cotdistill.engines.llama_cpp import LlamaCppEngine
        from cotdistill.engines.slots import fit

        path = gguf or local_model(model, want="gguf")
        if path.is_dir():
            raise SetupError(f"{path} holds no GGUF file, which llama.cpp needs; use --engine transformers")
        slots, context = fit(path, batch_size, context, longest)
        log.info("%s on llama.cpp, %d at a time", path.name, slots)
        return LlamaCppEngine(path, slots=slots, context=context, adapter=adapter)
    if engine == "vllm":
        from cotdistill.engines.vllm_engine import VLLMEngine

        if gguf:
            raise SetupError(f"{gguf} is a GGUF file, which vLLM does not run; take --engine llama_cpp")
        log.info("%s on vLLM", Path(model).name)
        return VLLMEngine(
            local_model(model, want="hf"), adapter=adapter, batch_size=batch_size, load_in_4bit=load_in_4bit,
            trust_remote_code=trust_remote_code,
        )  # fmt: skip

    import torch

    from cotdistill.adapter import load_adapter
    from cotdistill.engines.transformers_engine import TransformersEngine
    from cotdistill.hardware import place
    from cotdistill.model import load_model

    placement = place(load_in_4bit, device_map)
    log.info("%s on %s", Path(model).name, placement.sentence())
    loaded = load_model(local_model(model, want="hf"), placement, trust_remote_code=trust_remote_code)
    module = load_adapter(loaded, adapter) if adapter else None
    if module is not None and module.dtype == torch.float32 and not getattr(loaded.module, "is_loaded_in_4bit", False):
        module.merge_adapter()  # in memory only; in fp32 the same answers, in half the time
    return TransformersEngine(loaded, module=module, batch_size=batch_size)


@contextmanager
def opened_late(open_it: Callable[[], Engine]) -> Iterator[Callable[[], Engine]]:
    """Open an engine when it is first needed, once, and close it at the end if it was."""
    once = cache(open_it)
    try:
        yield once
    finally:
        if once.cache_info().currsize:
            once().close()


def find_gguf(model: str) -> Path | None:
    """The GGUF file meant by a path: the file itself, or the only one in a directory without a config.

    Raises ``SetupError`` where a directory holds several.
    """
    path = Path(model)
    if path.is_file() and path.suffix == ".gguf":
        return path
    if not path.is_dir() or (path / "config.json").is_file():
        return None
    return only_gguf(path) if any(path.glob("*.gguf")) else None
