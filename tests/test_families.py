"""Students of other families than Llama and Qwen2: what they do otherwise is not lost on the way."""

import pytest
import torch
import transformers

from conftest import CHATML, make_examples, make_tokenizer, on_cpu
from cotdistill.adapter import attach, load_adapter
from cotdistill.engines import Message, Request, Sampling
from cotdistill.engines.transformers_engine import TransformersEngine
from cotdistill.errors import SetupError
from cotdistill.example import build_examples
from cotdistill.hardware import Placement
from cotdistill.learning.loss import AnswerLoss, choose
from cotdistill.question import Question
from cotdistill.settings.lora import Lora
from cotdistill.settings.train import TrainSettings
from cotdistill.template import ChatTemplate
from cotdistill.training import train
from cotdistill.wording import DATE

TOKENIZER = make_tokenizer()
COMMON = {
    "vocab_size": len(TOKENIZER), "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512, "initializer_range": 0.2,
    "bos_token_id": TOKENIZER.bos_token_id, "eos_token_id": TOKENIZER.eos_token_id, "pad_token_id": None,
}  # fmt: skip
MAMBA = {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_n_groups": 1, "mamba_d_state": 8, "mamba_chunk_size": 16}


def gemma_3():
    text = transformers.Gemma3TextConfig(**COMMON, head_dim=8, query_pre_attn_scalar=8)
    eyes = transformers.SiglipVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4, image_size=32, patch_size=8
    )
    return transformers.Gemma3Config(
        text_config=text, vision_config=eyes, mm_tokens_per_image=4, image_token_index=5, boi_token_index=6,
        eoi_token_index=7,
    )  # fmt: skip


FAMILIES = {
    "bloom": lambda: transformers.BloomConfig(
        vocab_size=len(TOKENIZER), hidden_size=32, n_layer=2, n_head=4, initializer_range=0.2
    ),
    "bamba": lambda: transformers.BambaConfig(**COMMON, **MAMBA, attn_layer_indices=[1]),
    "deepseek_v3": lambda: transformers.DeepseekV3Config(
        **{**COMMON, "num_key_value_heads": 4}, n_routed_experts=4, n_group=2, topk_group=1, num_experts_per_tok=2,
        moe_intermediate_size=16, first_k_dense_replace=1, q_lora_rank=16, kv_lora_rank=16, qk_rope_head_dim=8,
        qk_nope_head_dim=8, v_head_dim=8, n_shared_experts=1,
    ),
    "gemma_3": gemma_3,
    "llama_4": lambda: transformers.Llama4TextConfig(
        **COMMON, head_dim=8, num_local_experts=2, num_experts_per_tok=1, intermediate_size_mlp=64,
        interleave_moe_layer_step=2, no_rope_layers=[1, 0],
    ),
}  # fmt: skip


def made(directory, family, **tokens):
    torch.manual_seed(0)
    module = transformers.AutoModelForCausalLM.from_config(FAMILIES[family]())
    for name, value in tokens.items():
        setattr(module.generation_config, name, value)
    module.save_pretrained(directory)
    TOKENIZER.save_pretrained(directory)
    return directory


@pytest.mark.parametrize("family", ["bloom", "bamba"])
def test_rows_are_not_laid_in_a_line_where_each_would_see_the_one_before(tmp_path, family):
    model = on_cpu(made(tmp_path, family))
    texts = [("What is 1 + 1?", "1 + 1 = 2. " * 8), ("What is 1 + 2?", "3")]  # the long one is first, and right
    pairs = [(f"{i}#0", Question(str(i), q), a) for i, (q, a) in enumerate(texts)]
    rows = build_examples(model.template, pairs, system="", max_length=512).kept
    module, _ = attach(model, Lora(dropout=0.0))
    assert not choose(module, rows, model.template.pad_id, pack=True).packed


def test_a_state_leaves_the_batch_with_its_row(tmp_path):
    model = on_cpu(made(tmp_path, "bamba"))
    asked = [Request(str(i), (Message("user", f"What is {i} + {i}?{' Think.' * (i % 4)}"),)) for i in range(8)]
    found = [
        {one.key: one.text for one in TransformersEngine(model, batch_size=size).complete(asked, Sampling(40))}
        for size in (1, 4)
    ]
    assert found[0] == found[1]
    assert len({len(text) for text in found[0].values()}) > 1  # they end at different times


@pytest.mark.parametrize(
    ("family", "targets"),
    [("gemma_3", "q_proj, k_proj, v_proj, o_proj, up_proj, down_proj"), ("deepseek_v3", "kv_a_proj_with_mqa"),
     ("llama_4", "q_proj")],
)  # fmt: skip
def test_two_steps_train_what_text_passes_and_reload(tmp_path, family, targets):
    model = on_cpu(made(tmp_path / "base", family))
    rows = make_examples(model, 4)
    settings = TrainSettings(num_epochs=1, batch_size=2, gradient_accumulation_steps=1)
    placement = Placement("cpu", "float32", False, None)
    result = train(model, rows, settings, tmp_path / "out", system_prompt="", placement=placement)
    assert result.steps == 2
    assert targets in result.targets
    again = on_cpu(tmp_path / "base")
    assert again.context_length == 512
    adapted = load_adapter(again, tmp_path / "out")
    assert not any("vision" in name for name, _ in adapted.named_parameters() if "lora_" in name)
    with AnswerLoss(adapted, again.template.pad_id, packed=False, chunked=False) as loss:
        assert torch.isfinite(loss(adapted, rows))


def test_a_layer_that_cannot_be_adapted_is_one_sentence(tmp_path):
    model = on_cpu(made(tmp_path, "deepseek_v3"))
    with pytest.raises(SetupError, match="name other layers with --target_modules"):
        attach(model, Lora(targets=("up_proj", "down_proj", "gate_proj")))


def test_all_ids_that_end_an_answer_by_the_models_own_files_do(tmp_path):
    started = TOKENIZER.convert_tokens_to_ids("<|im_start|>")
    model = on_cpu(made(tmp_path, "llama_4", eos_token_id=[started, 70, 99_999]))  # 70 is a letter, the last one nothing
    assert set(model.template.stop_ids) == {started, model.template.end_of_turn, model.tokenizer.eos_token_id}
    assert model.template.answer_ids("x")[-1] == model.template.end_of_turn


def test_a_template_that_asks_the_clock_is_told_the_day_of_training():
    tokenizer = make_tokenizer()
    tokenizer.chat_template = "\n  {# the day #}{{ strftime_now('%d %b %Y') }}\n" + CHATML
    template = ChatTemplate(tokenizer)
    assert tokenizer.decode(template.prompt_ids([Message("user", "2 + 2?")])).startswith(f"\n{DATE}\n")
    assert template.source == tokenizer.chat_template
