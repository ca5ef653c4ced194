"""Conversion: a GGUF file becomes a Hugging Face directory that can be trained.

    {"file": "SmolLM2-135M-Instruct.Q4_1.gguf", "sha256": "b179c952...", "architecture": "llama",
     "quantisation": "Q4_1", "dtype": "float32"}            (the directory's cotdistill_source.json)

The weights are the dequantised ones, the numbers llama.cpp multiplies with, not the model's original ones.
The tokenizer is the file's own, with one difference for Qwen2: like the original tokenizer, and unlike
llama.cpp, it brings text to Unicode NFC first. Not covered: files split into several GGUFs, adapters,
vision towers. ``python -m benchmarks.conversion`` measures the agreement with llama.cpp.
"""

import contextlib
import io
import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import msgspec

from cotdistill.errors import SetupError
from cotdistill.identity import sha256_of
from cotdistill.model_files.gguf_header import Header, only_gguf, read_header
from cotdistill.storage.disk import explained, require_space
from cotdistill.storage.lock import one_at_a_time

log = logging.getLogger(__name__)

SOURCE_FILE = "cotdistill_source.json"
UNFINISHED = ".unfinished"
MODEL_FILES = ("config.json", "*.safetensors", "pytorch_model*.bin", "*.gguf")
COMPARED_SPLITS = ("qwen2", "smollm")


class Source(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where a converted directory came from."""

    file: str
    sha256: str
    architecture: str
    quantisation: str
    dtype: Literal["float32"] = "float32"


def to_hugging_face(gguf: Path, to: Path) -> None:
    """Write the model of ``gguf`` (a file, or a directory with exactly one) into the directory ``to``.

    Leaves ``config.json``, ``generation_config.json``, ``model.safetensors``, the tokenizer, its chat
    template and ``cotdistill_source.json``. Everything is written aside first and ``config.json`` arrives
    last, so a directory with a ``config.json`` is whole. A conversion of the same file is kept as it is; any
    other model in ``to`` is refused. One process works at a time on a directory, the others wait for it.

    Raises ``SetupError`` for a file that is no readable GGUF and for a full or unwritable disk.
    """
    gguf = only_gguf(gguf)
    header = read_header(gguf)
    source = Source(gguf.name, sha256_of(gguf), header.architecture, header.quantisation)
    if not is_converted(to, source.sha256):
        with one_at_a_time(to / f"{UNFINISHED}.lock", f"converting {gguf.name}"):
            if not is_converted(to, source.sha256):  # another process may have made it while we waited
                refuse_other_model(to, source.sha256)
                _convert(gguf, header, source, to)
            return
    log.info("%s already holds the converted %s: nothing to do", to, gguf.name)


def _convert(gguf: Path, header: Header, source: Source, to: Path) -> None:
    unfinished = to / UNFINISHED
    log.info("converting %s (%s) to %s", gguf.name, header.quantisation, source.dtype)
    try:
        with explained("write to", to):
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir(parents=True)
            require_space(to, header.parameters * 4)
        tokenizer = load_tokenizer(gguf, header)
        model = load_weights(gguf, header)
        with explained("write to", to):
            context = getattr(model.config, "max_position_embeddings", tokenizer.model_max_length)
            tokenizer.model_max_length = context
            tokenizer.save_pretrained(unfinished)
            model.save_pretrained(unfinished)
            (unfinished / SOURCE_FILE).write_bytes(msgspec.json.format(msgspec.json.encode(source)) + b"\n")
            _publish(unfinished, to)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def is_converted(directory: Path, sha256: str) -> bool:
    """True if ``directory`` is a finished conversion of the GGUF with that hash."""
    source = _read_source(directory)
    whole = (directory / "config.json").is_file()
    return whole and source is not None and source.sha256 == sha256


def refuse_other_model(directory: Path, sha256: str, *, besides: str = "") -> None:
    """Raise ``SetupError`` if the directory holds a model, except for the file named ``besides`` and what an
    interrupted conversion of the GGUF with this hash left there."""
    held = [file.name for pattern in MODEL_FILES for file in sorted(directory.glob(pattern))]
    source = _read_source(directory)
    interrupted = source is not None and source.sha256 == sha256 and "config.json" not in held
    ours = (besides, "model.safetensors") if interrupted else (besides,)
    others = [name for name in held if name not in ours]
    if others:
        raise SetupError(
            f"{directory} already holds a model ({others[0]}); choose an empty directory or remove that one"
        )


def load_tokenizer(gguf: Path, header: Header) -> Any:
    """The file's tokenizer, with its chat template, and special ids checked against the metadata."""
    from tokenizers import pre_tokenizers
    from transformers import AutoTokenizer

    with _reading(gguf):
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name, local_files_only=True)
    if header.split == "smollm":
        # transformers has no rule for this name and falls back to GPT-2's, under which "\n\n5" is three
        # tokens; SmolLM was trained with each digit cut off first, which leaves "\n\n" whole.
        digits = pre_tokenizers.Digits(individual_digits=True)
        gpt2 = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, gpt2])
    if header.split not in COMPARED_SPLITS:
        log.warning("%s splits words by %r, a rule not compared with llama.cpp", gguf.name, header.split)
    tokenizer.chat_template = header.chat_template
    for name, stated in (("bos", header.bos_id), ("eos", header.eos_id), ("pad", header.pad_id)):
        read = getattr(tokenizer, f"{name}_token_id")
        if stated is not None and read != stated:
            raise SetupError(f"{gguf} gives {name} the id {stated}, the tokenizer made from it {read}")
    return tokenizer


def load_weights(gguf: Path, header: Header) -> Any:
    """The dequantised model in float32, free of its GGUF origin, so that transformers agrees to save it."""
    import torch
    import transformers

    transformers.logging.disable_progress_bar()
    options: dict[str, Any] = {"dtype": torch.float32, "output_loading_info": True, "local_files_only": True}
    if hasattr(transformers, "GgufConfig"):  # some versions keep the blocks packed unless told otherwise
        options["quantization_config"] = transformers.GgufConfig(dequantize=True)
    with _reading(gguf):
        loaded, report = transformers.AutoModelForCausalLM.from_pretrained(
            gguf.parent, gguf_file=gguf.name, **options
        )
    config, state = loaded.config, loaded.state_dict()
    absent = set(report["missing_keys"]) - ({"lm_head.weight"} if config.tie_word_embeddings else set())
    if absent:  # transformers would fill these with random numbers and a warning
        raise SetupError(f"{gguf} lacks weights that a {header.architecture} model needs: {min(absent)}")
    _refuse_what_is_lost(gguf, header, config, state)
    config.tie_word_embeddings = has_equal_embeddings(loaded)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    config.name_or_path = ""
    config.dtype = torch.float32
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    model.load_state_dict(state, assign=True)
    model.tie_weights()
    for name in ("bos", "eos", "pad"):
        setattr(model.generation_config, f"{name}_token_id", getattr(header, f"{name}_id"))
    return model


def _refuse_what_is_lost(gguf: Path, header: Header, config: Any, state: dict[str, Any]) -> None:
    """transformers leaves out, without a word, tensors and settings of a file that it has no place for."""
    from cotdistill.model import head_size

    read = {tensor.data_ptr(): tensor.numel() for tensor in state.values()}
    rope = getattr(config, "rope_parameters", None) or {}
    turned = int(head_size(config) * rope.get("partial_rotary_factor", 1.0))
    base = float(rope.get("rope_theta") or header.rope_base or 0.0)
    lost = [
        (sum(read.values()) < header.parameters, "some of its weights"),
        (header.rope_scaling not in (None, "none") and rope.get("rope_type", "default") == "default",
         f"that its rotary embeddings are scaled ({header.rope_scaling})"),
        (header.rope_dimensions not in (None, turned), "how much of a head its rotary embeddings turn"),
        (header.rope_base is not None and abs(base - header.rope_base) > 1e-3 * base, "how fast they turn"),
    ]  # fmt: skip
    for is_lost, what in lost:
        if is_lost:
            raise SetupError(
                f"{gguf} cannot be converted: transformers does not read {what}; take the model's Hugging Face "
                "directory, or run the file on llama.cpp as it is"
            )


def has_equal_embeddings(model: Any) -> bool:
    """True if the output head holds the same numbers as the input embeddings: only then may they be one.

    A GGUF may carry both, quantised differently; tying those would replace one by the other.
    """
    import torch

    head, embeddings = model.get_output_embeddings(), model.get_input_embeddings()
    return head is not None and torch.equal(head.weight, embeddings.weight)


@contextlib.contextmanager
def _reading(gguf: Path) -> Iterator[None]:
    """What transformers raises on a GGUF it cannot use is one sentence to the user; its own progress bars,
    which it draws even into a log file, are dropped."""
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    except (OSError, ValueError, KeyError, IndexError, NotImplementedError, RuntimeError) as error:
        first = str(error).strip().split("\n")[0]
        raise SetupError(f"transformers cannot read {gguf}: {first}; choose another model or file") from error


def _read_source(directory: Path) -> Source | None:
    try:
        return msgspec.json.decode((directory / SOURCE_FILE).read_bytes(), type=Source)
    except (OSError, msgspec.DecodeError):
        return None


def _publish(unfinished: Path, to: Path) -> None:
    """Move the finished files up: the note of origin first (it marks the rest as ours), config.json last."""
    order = {SOURCE_FILE: 0, "config.json": 2}
    mode = (unfinished / "config.json").stat().st_mode  # safetensors writes for the owner's eyes only
    for file in sorted(unfinished.iterdir(), key=lambda file: (order.get(file.name, 1), file.name)):
        file.chmod(mode)
        os.replace(file, to / file.name)
