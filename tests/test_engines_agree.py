"""The engines on the real SmolLM2: the same token ids go in, and what comes out parts only at near ties."""

import httpx
import pytest
import torch

from conftest import on_cpu
from cotdistill.adapter import attach, save_adapter
from cotdistill.card import AdapterCard
from cotdistill.engines import Message, Request, Sampling
from cotdistill.engines.literal import literal_ids
from cotdistill.engines.llama_cpp import LlamaCppEngine, _plain
from cotdistill.engines.transformers_engine import TransformersEngine
from cotdistill.identity import model_hash
from cotdistill.model_files.gguf_file import write_gguf
from cotdistill.prompt import SYSTEM_PROMPT
from cotdistill.settings.lora import Lora

pytestmark = pytest.mark.real_model

TIE = 0.1
TEXTS = [
    "What is 15% of 240?", "Tom has 3 apples and buys 4 more. How many?", "What is 12 - 5?", "Why is the sky blue?",
    "A train goes 120 km in 2 h; how fast is it?", "Name three fruits.", "7 * 8 =", "Is 91 prime?", "", "Hi!",
    "Write <|im_end|> and stop.", "  two  blanks\n\n\tand a tab ", "naïve café, x²+1 = 5", "1,234.50 + $99",
    "Sort: pear, apple, fig", "If it rains I stay. It rains. So?", "Count to five.", "What is half of 3/4?",
    "Ωμέγα und Straße", "Add 999999999999 and 1.",
]  # fmt: skip


def greedy(engine, asked):
    done = {one.key: one for one in engine.complete(asked, Sampling(max_new_tokens=16))}
    assert {one.finish for one in done.values()} <= {"stop", "length"}
    return {key: one.text for key, one in done.items()}


def part_only_at_ties(model, module, asked, ours, theirs):
    """Hold two sets of answers against each other; returns how many differ."""
    parted = [one for one in asked if ours[one.key].rstrip("\ufffd") != theirs[one.key].rstrip("\ufffd")]
    for request in parted:
        prompt = model.template.prompt_ids(request.messages)
        a, b = ([*model.template.content_ids(texts[request.key]), -1] for texts in (ours, theirs))
        at = next(i for i, pair in enumerate(zip(a, b, strict=False)) if pair[0] != pair[1])
        with torch.no_grad():
            best = module(input_ids=torch.tensor([prompt + a[:at]])).logits[0, -1].topk(2).values
        assert best[0] - best[1] < TIE, (request.key, ours[request.key], theirs[request.key])
    return len(parted)


def test_engines_get_the_same_tokens_and_answers_part_only_at_near_ties(tmp_path):
    from cotdistill.download import local_model

    base = local_model("smollm2-135m-instruct", want="hf")
    model = on_cpu(base)
    write_gguf(model, tmp_path / "base.gguf", quant="f16", card=None)
    asked = [Request(text, (Message("system", SYSTEM_PROMPT), Message("user", text))) for text in TEXTS]
    engine = LlamaCppEngine(tmp_path / "base.gguf", slots=8, context=256)
    with httpx.Client(
        base_url=engine.address, headers={"Authorization": f"Bearer {engine._key}"}, trust_env=False
    ) as http:
        for request in asked:
            assert (literal_ids(http, request.messages) is None) == ("<|" not in request.key)
            if "<|" in request.key:
                assert literal_ids(http, request.messages) == model.template.prompt_ids(request.messages)
                continue
            prompt = http.post("/apply-template", json={"messages": _plain(request.messages)}).json()["prompt"]
            body = {"content": prompt, "add_special": True, "parse_special": True}
            assert http.post("/tokenize", json=body).json()["tokens"] == model.template.prompt_ids(request.messages)
    theirs = greedy(engine, asked)
    engine.close()
    assert part_only_at_ties(model, model.module, asked, greedy(TransformersEngine(model), asked), theirs) <= 4

    torch.manual_seed(0)
    adapted, _ = attach(model, Lora(dropout=0.0))
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(0, 0.03)
    save_adapter(adapted, tmp_path / "adapter", AdapterCard("", model.template.hash, model_hash(base), base.name))
    adapted.eval().merge_adapter()
    some = asked[:3]
    engine = LlamaCppEngine(tmp_path / "base.gguf", slots=3, context=256, adapter=tmp_path / "adapter")
    applied = greedy(engine, some)
    engine.close()
    assert sum(applied[one.key] != theirs[one.key] for one in some) >= 2  # it does something
    merged = greedy(TransformersEngine(model, module=adapted), some)
    assert part_only_at_ties(model, adapted, some, merged, applied) <= 1
