"""Merged: an adapter merged into its base, a model that needs neither of them.

    merged/  config.json  generation_config.json  model.safetensors  tokenizer.json  chat_template.jinja
             cotdistill.json

Merging is arithmetic that can go wrong without an error: on tied embeddings, on 4-bit weights, in short floating-point
formats. So the logits of the merged model are held against those of base and adapter, and once more after they were
read back from the disk. The files are complete before the directory gets its name.
"""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import msgspec
import torch

from cotdistill.adapter import load_adapter
from cotdistill.card import ADAPTER_WEIGHTS, CARD, AdapterCard, read_card
from cotdistill.errors import ResumeError, SetupError
from cotdistill.hardware import Placement
from cotdistill.model import Model, check_directory, load_model
from cotdistill.prompt import SYSTEM_PROMPT, messages_for
from cotdistill.question import Question
from cotdistill.storage.disk import explained, require_space
from cotdistill.storage.ours import refuse_other_kind

QUESTIONS = ("What is 15% of 240?", "If a train travels 120 km in 2 hours, what is its average speed?", "Why?")
"""What both models are asked; how far their logits may be apart is ``TOLERANCE``."""

_WAY = "name another, or replace it with --overwrite"

TOLERANCE = {"float32": 1e-4, "float16": 1e-2, "bfloat16": 5e-2}
"""How far a logit may move, as a share of the largest one. Sums in other order and the format's digits do that."""


class Merged(msgspec.Struct, frozen=True):
    """A merged ``model`` with its card (None for an adapter from elsewhere) and ``logits`` after the check prompts.

    ``moved`` is the largest difference of a logit from base and adapter, ``effect`` from the base alone.
    """

    model: Model
    card: AdapterCard | None
    logits: list[torch.Tensor]
    moved: float
    effect: float
    trust_remote_code: bool = False


def merge(base: Path, adapter: Path, *, four_bit: bool = False, dequantize: bool = False,
          trust_remote_code: bool = False) -> Merged:  # fmt: skip
    """Merge ``adapter`` into ``base`` on the CPU, in the base's own number format.

    An adapter trained on a 4-bit base (by its card, or ``four_bit``) learned to correct the 4-bit weights; it is
    refused unless ``dequantize``, which rounds the base to 4 bits as training did and merges into the result.
    Raises ``SetupError`` also for an adapter of embeddings that are tied, and where merging changes the logits.
    """
    check_directory(base, trust_remote_code)
    config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    card = read_card(adapter)
    packed = "quantization_config" in config
    rounded = packed or four_bit or (card is not None and card.four_bit)
    if rounded and not dequantize:
        raise SetupError(
            f"the adapter in {adapter} belongs to a 4-bit base; merged into full weights it would answer otherwise: "
            "pass --dequantize to merge into the dequantised 4-bit weights, or keep base and adapter apart"
        )
    own = config.get("dtype") or config.get("torch_dtype")
    dtype = own if own in TOLERANCE and not dequantize else "float32"
    placement = Placement("cpu", dtype, dequantize and not packed, None)
    model = load_model(
        base, placement, trust_remote_code=trust_remote_code, thinking=bool(card and card.thinking)
    )
    if dequantize:  # before it computes anything: on a CPU that repacks the weights, and they unpack to others then
        model.module = model.module.dequantize(dtype=torch.float32)
    _refuse_tied(model, adapter)
    system = card.system_prompt if card else SYSTEM_PROMPT
    before = _logits(model, system)
    embeddings = model.module.get_input_embeddings().weight.detach().clone()
    tied = bool(model.module.config.tie_word_embeddings)
    adapted = load_adapter(model, adapter)
    expected = _logits(model, system, adapted)
    try:
        model.module = adapted.merge_and_unload(safe_merge=True)
    except ValueError as error:
        raise SetupError(f"the adapter in {adapter} cannot be merged: {error}; train it again") from error
    if tied and not torch.equal(model.module.get_input_embeddings().weight, embeddings):
        raise SetupError(f"merging {adapter} changed the tied embeddings, which it does not target; nothing is written")
    after = _logits(model, system)
    problem = f"merging {adapter} in {dtype} changes what the model computes"
    moved = _distance(after, expected, TOLERANCE[dtype], problem)
    return Merged(model, card, after, moved, _largest_difference(expected, before), trust_remote_code)


def save_merged(merged: Merged, directory: Path, *, overwrite: bool = False) -> None:
    """Write the model, tokenizer, chat template and card, read them back, compare the logits, rename.

    Raises ``ResumeError`` where ``directory`` holds something (``overwrite`` replaces a model of ours), and
    ``SetupError`` where what is read back computes anything else.
    """
    from transformers import GenerationConfig

    model = merged.model
    with replaced(directory, overwrite=overwrite) as unfinished:
        require_space(unfinished, sum(p.numel() * p.element_size() for p in model.module.parameters()))
        # The end of turn alone: what the student was taught to stop with, whatever the base's files say.
        model.module.generation_config = GenerationConfig(
            eos_token_id=model.template.end_of_turn, pad_token_id=model.template.pad_id,
            bos_token_id=model.tokenizer.bos_token_id, do_sample=False,
        )  # fmt: skip
        model.module.save_pretrained(unfinished)
        _say_mode(model)
        model.tokenizer.save_pretrained(unfinished)
        if merged.card:
            (unfinished / CARD).write_bytes(msgspec.json.format(msgspec.json.encode(merged.card)))
        mode = (unfinished / "config.json").stat().st_mode  # safetensors writes for the owner's eyes only
        for file in unfinished.iterdir():
            file.chmod(mode)
        dtype = str(model.module.dtype).removeprefix("torch.")
        placement = Placement("cpu", dtype, False, None)
        read = load_model(
            unfinished, placement, trust_remote_code=merged.trust_remote_code, thinking=model.template.thinking
        )
        system = merged.card.system_prompt if merged.card else SYSTEM_PROMPT
        if read.template.exported != model.template.exported or read.template.end_of_turn != model.template.end_of_turn:
            raise SetupError(f"the chat template written to {directory} is not read back as it was; nothing is kept")
        _distance(_logits(read, system), merged.logits, 1e-6, f"the model written to {directory} is not the merged one")


def _say_mode(model: Model) -> None:
    """Have the tokenizer render prompts as they were in training: with one day, and thinking or not."""
    template, tokenizer = model.template, model.tokenizer
    if template.exported == template.source or template.plain:
        return
    said = tokenizer.chat_template
    tokenizer.chat_template = {**said, "default": template.exported} if isinstance(said, dict) else template.exported


@contextmanager
def replaced(target: Path, *, overwrite: bool) -> Iterator[Path]:
    """An empty directory that takes the place of ``target`` at the end, or leaves nothing if the block fails."""
    target = target.resolve()
    unfinished, old = (target.with_name(f".{target.name}.{word}") for word in ("unfinished", "old"))
    if old.exists() and not target.exists():  # a kill came between the two renames
        with explained("write", target):
            os.replace(old, target)
    refuse_existing(target, "directory", overwrite=overwrite)
    try:
        with explained("write", target):
            for leftover in (unfinished, old):
                shutil.rmtree(leftover, ignore_errors=True)
            unfinished.mkdir(parents=True)
            yield unfinished
            if target.exists():
                os.replace(target, old)
            try:
                os.replace(unfinished, target)
            except BaseException:
                if old.exists():
                    os.replace(old, target)
                raise
            shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def refuse_existing(target: Path, holds: Literal["file", "directory"], *, overwrite: bool) -> None:
    """Raise ``ResumeError`` where ``target`` exists, unless it may be overwritten: a file by a file, or a model of ours
    by a model."""
    refuse_other_kind(target, holds)
    if target.is_dir() and any(target.iterdir()):
        if overwrite and (target / CARD).is_file() and (target / "config.json").is_file():
            return
        way = "it is not ours to overwrite; remove it yourself or name another" if overwrite else _WAY
        raise ResumeError(f"{target} already holds something: {way}")
    if target.is_file() and not overwrite:
        raise ResumeError(f"{target} already exists: {_WAY}")


def _refuse_tied(model: Model, adapter: Path) -> None:
    """With tied embeddings input and output are one matrix: an adapter of one would change the other."""
    from safetensors import SafetensorError, safe_open

    module = model.module
    if not module.config.tie_word_embeddings or not (adapter / ADAPTER_WEIGHTS).is_file():
        return
    both = (module.get_input_embeddings(), module.get_output_embeddings())
    names = [name.rsplit(".", 1)[-1] for name, layer in module.named_modules() if layer in both]
    try:
        with safe_open(adapter / ADAPTER_WEIGHTS, "pt") as file:
            keys = list(file.keys())
    except SafetensorError:
        return  # load_adapter says what is wrong with it
    if hit := next((name for name in names for key in keys if f".{name}." in f".{key}."), None):
        raise SetupError(
            f"the adapter in {adapter} adapts {hit}, which {model.directory} ties to another layer: merging would "
            "change both; keep base and adapter apart, or train without it"
        )


@torch.inference_mode()
def _logits(model: Model, system: str, module: Any = None) -> list[torch.Tensor]:
    """Logits (tokens, vocabulary) in fp32 after every token of each check prompt."""
    found = []
    for text in QUESTIONS:
        ids = torch.tensor([model.template.prompt_ids(messages_for(Question("check", text), system))])
        found.append((module or model.module)(input_ids=ids, use_cache=False).logits[0].float())
    return found


def _distance(found: list[torch.Tensor], expected: list[torch.Tensor], tolerance: float, problem: str) -> float:
    """The largest difference; raises ``SetupError`` where it exceeds the share ``tolerance`` of the largest logit."""
    largest = max(float(logits.abs().max()) for logits in expected)
    moved = _largest_difference(found, expected)
    if not moved <= tolerance * largest:
        raise SetupError(f"{problem}: a logit moved by {moved:.2g} of {largest:.2g}; nothing is written")
    return moved


def _largest_difference(some: list[torch.Tensor], others: list[torch.Tensor]) -> float:
    return max(float((a - b).abs().max()) for a, b in zip(some, others, strict=True))
