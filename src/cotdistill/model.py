"""Model: a Hugging Face directory, loaded with the checks that make its numbers trustworthy."""

import json
import logging
import pickle
import re
from pathlib import Path
from typing import Any

import torch

from cotdistill.errors import SetupError
from cotdistill.hardware import Placement, give_back_gpus
from cotdistill.model_files.whole import check_files
from cotdistill.shown import cause_of
from cotdistill.template import ChatTemplate

log = logging.getLogger(__name__)

WEIGHTS = ("*.safetensors", "pytorch_model*.bin", "model.safetensors.index.json")


class Model:
    """``module`` (a transformers causal LM in eval mode), its ``tokenizer`` and its ``template``."""

    def __init__(self, directory: Path, module: Any, tokenizer: Any, *, thinking: bool = False) -> None:
        self.directory = directory
        self.module = module
        self.tokenizer = tokenizer
        self.template = ChatTemplate(tokenizer, thinking=thinking, stops=_stops(module.generation_config))

    @property
    def context_length(self) -> int:
        """The most tokens the model can attend to."""
        return context_of(self.module.config)


def load_model(
    directory: Path, placement: Placement, *, trust_remote_code: bool = False, thinking: bool = False
) -> Model:
    """Load a local directory. Weights are read from safetensors, else from ``pytorch_model.bin`` with
    ``weights_only``; nothing is fetched and no code in the directory runs unless ``trust_remote_code``.
    ``thinking``: the student is one that thinks first.

    Raises ``SetupError`` for anything that is not such a directory.
    """
    check_directory(directory, trust_remote_code)
    give_back_gpus()
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig
    from transformers import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    common = {"local_files_only": True, "trust_remote_code": trust_remote_code}
    try:
        tokenizer = AutoTokenizer.from_pretrained(directory, **common)
        module, loaded = AutoModelForCausalLM.from_pretrained(
            directory, **common, **placement.load_options(), output_loading_info=True, ignore_mismatched_sizes=True
        )
    except pickle.UnpicklingError as error:
        raise SetupError(
            f"pytorch_model.bin in {directory} is damaged or holds more than weights, and such files can run code: "
            "use a model with safetensors"
        ) from error
    except Exception as error:  # a damaged file fails in any of the libraries' own ways
        why = cause_of(error)
        raise SetupError(f"cannot load the model in {directory}: {why}") from error
    # transformers fills what is missing with random numbers and goes on.
    absent = set(loaded["missing_keys"]) & {name for name, _ in module.named_parameters()}
    absent |= {name for name, *_ in loaded["mismatched_keys"]}
    if absent:
        raise SetupError(
            f"the weights in {directory} do not fit its config.json: "
            f"{len(absent)} missing or misshapen, first {min(absent)}; get the model again"
        )
    if placement.device == "mps" and not placement.four_bit:  # CUDA has a map; under FSDP it names main memory
        module = module.to(placement.device)
    template_vocabulary = len(tokenizer)
    rows = module.get_input_embeddings().weight.shape[0]
    if template_vocabulary > rows:
        raise SetupError(
            f"the tokenizer in {directory} has {template_vocabulary} tokens, the model {rows} rows: "
            "they do not belong together"
        )
    model = Model(directory, module.eval(), tokenizer, thinking=thinking)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(model.template.pad_id)
    module.config.pad_token_id = model.template.pad_id
    # generate() fills what it is not told from here: a model's own penalties would bend every answer.
    module.generation_config = GenerationConfig(
        eos_token_id=model.template.stop_ids, pad_token_id=model.template.pad_id
    )
    if model.template.plain:
        log.info("%s has no chat template: using the plain Question/Answer one", directory)
    return model


def _stops(config: Any) -> list[int]:
    """Ids at which the model's own files end an answer."""
    ids = getattr(config, "eos_token_id", None)
    return [] if ids is None else [ids] if isinstance(ids, int) else list(ids)


def read_config(directory: Path, *, trust_remote_code: bool = False) -> Any:
    """The configuration of a model, without its weights. Raises ``SetupError`` where it cannot be read."""
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(directory, local_files_only=True, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, TypeError, KeyError) as error:
        why = cause_of(error)
        raise SetupError(f"cannot read the configuration in {directory}: {why}; get the model again") from error


def context_of(config: Any) -> int:
    """The most tokens a model can attend to; a multimodal model says it of its text."""
    return int(getattr(config.get_text_config(), "max_position_embeddings", 0) or 1 << 20)


def head_size(config: Any) -> int:
    """Numbers in a head of attention, from a model's text config."""
    heads = getattr(config, "num_attention_heads", None) or 1
    return int(getattr(config, "head_dim", None) or config.hidden_size // heads)


def check_directory(directory: Path, trust_remote_code: bool) -> None:
    """Refuse what is not a loadable Hugging Face directory, saying what it is and what to do."""
    if directory.is_file() and directory.suffix == ".gguf":
        raise SetupError(f"{directory} is a GGUF file; {_conversion_hint(directory)}")
    if not directory.is_dir():
        raise SetupError(f"no model directory at {directory}; put one there or run: cotdistill models pull")
    if not (directory / "config.json").is_file():
        if any(directory.glob("*.gguf")):
            raise SetupError(f"{directory} holds a GGUF file; {_conversion_hint(directory)}")
        raise SetupError(f"{directory} has no config.json: it is not a Hugging Face model directory")
    if not any(any(directory.glob(pattern)) for pattern in WEIGHTS):
        raise SetupError(f"{directory} has a config.json but no weights (*.safetensors or pytorch_model.bin)")
    try:
        config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise SetupError(f"{directory}/config.json cannot be read: {error}") from error
    if not isinstance(config, dict):
        raise SetupError(f"{directory}/config.json is not a model's config; get the model again")
    check_files(directory, own_code=trust_remote_code)
    if "auto_map" in config and not trust_remote_code:
        from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

        if config.get("model_type") not in CONFIG_MAPPING_NAMES:
            raise SetupError(
                f"the model in {directory} ships its own code (model type {config.get('model_type')!r}); "
                "read that code, then pass --trust_remote_code"
            )


def _conversion_hint(path: Path) -> str:
    return (
        "this step needs a Hugging Face directory: cotdistill models convert "
        f"{path} --to {(path.parent if path.is_file() else path)}-hf"
    )


OTHER_MODALITIES = r"(.*\.)?(vision_tower|vision_model|visual|audio_tower|multi_modal_projector)(\..*)?"
"""Names of layers that text never passes."""
ROUTERS = frozenset({"router", "gate", "shared_expert_gate"})


def linear_names(module: Any) -> list[str]:
    """The distinct last names of the linear layers inside the blocks that text passes: LoRA targets. Neither the output
    head is one, nor what chooses among experts."""
    head = module.get_output_embeddings()
    names = {
        name.rsplit(".", 1)[-1]
        for name, layer in module.named_modules()
        if layer is not head and (isinstance(layer, torch.nn.Linear) or type(layer).__name__ == "Conv1D")
        and not re.fullmatch(OTHER_MODALITIES, name)
    }  # fmt: skip
    return sorted(names - ROUTERS)
