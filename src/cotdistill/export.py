"""Export: the student as a model of its own, as a directory, as a file for llama.cpp and Ollama, or both."""

import logging
from pathlib import Path

from cotdistill.errors import SetupError
from cotdistill.model_files.gguf_file import check_writable, write_gguf
from cotdistill.model_files.merged import Merged, merge, refuse_existing, save_merged
from cotdistill.model_files.modelfile import modelfile
from cotdistill.model_files.quantisation import Quant
from cotdistill.storage.disk import write_atomic
from cotdistill.template import adds_bos

log = logging.getLogger(__name__)


def export_model(base: Path, adapter: Path, *, merged: Path | None, gguf: Path | None, quant: Quant, four_bit: bool,
                 dequantize: bool, trust_remote_code: bool, overwrite: bool) -> list[str]:  # fmt: skip
    """Write the directory ``merged``, the file ``gguf`` (with a Modelfile beside it) or both; returns what to tell the
    user, a line for each. Nothing that can be known beforehand is found out after the work."""
    if merged:
        refuse_existing(merged, "directory", overwrite=overwrite)
    for file in (gguf, gguf.with_suffix(".Modelfile")) if gguf else ():
        refuse_existing(file, "file", overwrite=overwrite)
    whole = merge(base, adapter, four_bit=four_bit, dequantize=dequantize, trust_remote_code=trust_remote_code)
    if gguf:
        check_writable(whole.model, quant)
    if not whole.card:
        log.warning("%s has no cotdistill.json: the export carries no system prompt", adapter)
    lines = []
    if merged:
        save_merged(whole, merged, overwrite=overwrite)
        lines.append(
            f"{merged}: merged; logits differ from base and adapter by at most {whole.moved:.2g}, "
            f"from the base by {whole.effect:.2g}"
        )
    if gguf:
        same = write_gguf(whole.model, gguf, quant=quant, card=whole.card)
        answer = "the merged model's answer" if same else "another answer than the merged model"
        size = gguf.stat().st_size / 1e6
        lines.append(f"{gguf}: {quant}, {size:.0f} MB; llama.cpp gives {answer} to the check question")
        lines.append(_write_modelfile(whole, gguf))
    return lines


def _write_modelfile(whole: Merged, gguf: Path) -> str:
    model, path = whole.model, gguf.with_suffix(".Modelfile")
    try:
        text = modelfile(
            gguf.name, model.template, whole.card, context=model.context_length, adds_bos=adds_bos(model.tokenizer)
        )  # fmt: skip
    except SetupError as error:
        return f"no Modelfile for Ollama: {error}"
    write_atomic(path, text.encode())
    return f"{path}: ollama create {gguf.stem} -f {path}"
