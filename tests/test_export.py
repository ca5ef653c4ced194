"""Exports compute what base and adapter compute, and an export that would not is not written."""

import errno
import json
import os
import shutil
from pathlib import Path

import pytest
import torch

from conftest import make_examples, make_tokenizer, on_cpu, teach
from cotdistill import pipeline
from cotdistill.adapter import attach, load_adapter, save_adapter
from cotdistill.card import CARD, AdapterCard, read_card
from cotdistill.commands.evaluate import evaluate
from cotdistill.commands.export import export
from cotdistill.engines import Message, Request, Sampling
from cotdistill.engines.opening import open_engine
from cotdistill.errors import DataError, ResumeError, SetupError, UsageError
from cotdistill.exported import evaluate_export
from cotdistill.hardware import place
from cotdistill.identity import model_hash
from cotdistill.model import load_model
from cotdistill.model_files import merged as merging
from cotdistill.model_files.merged import merge, save_merged
from cotdistill.settings.lora import Lora
from cotdistill.storage.manifest import Manifest
from test_gguf_file import make_student
from test_pipeline import recipe

IDS = torch.tensor([[5, 6, 7, 8, 9]])


@pytest.fixture(scope="module")
def student(tmp_path_factory):
    """A tiny base and a trained adapter of it, ``(base, adapter)``; tests must not write into them."""
    root = tmp_path_factory.mktemp("student")
    torch.set_num_threads(1)
    make_student(root / "base")
    teach(root / "base", root / "adapter", num_epochs=2, learning_rate=1e-2)
    return root / "base", root / "adapter"


@pytest.fixture
def adapter(student, tmp_path):
    """A copy of the adapter to change."""
    return Path(shutil.copytree(student[1], tmp_path / "adapter", ignore=shutil.ignore_patterns("checkpoints")))


def logits(module):
    with torch.no_grad():
        return module(input_ids=IDS).logits


def expected(base, adapter):
    return logits(load_adapter(on_cpu(base), adapter))


def put(adapter, **changes):
    """Change the adapter's card."""
    card = json.loads((adapter / "cotdistill.json").read_text())
    (adapter / "cotdistill.json").write_text(json.dumps(card | changes))


# Merging


@pytest.mark.parametrize("lora", [{}, {"use_dora": True}, {"use_rslora": True}, {"use_dora": True, "use_rslora": True}])
def test_a_merged_directory_computes_what_base_and_adapter_do(student, tmp_path, lora):
    base, output = student[0], student[1]
    if lora:
        output = tmp_path / "adapter"
        teach(base, output, learning_rate=1e-2, lora=lora)
    before = logits(on_cpu(base).module)
    whole = merge(base, output)
    save_merged(whole, tmp_path / "merged")
    read = on_cpu(tmp_path / "merged")
    assert (logits(read.module) - expected(base, output)).abs().max() < 1e-5
    assert whole.moved < 1e-4 < whole.effect
    assert (logits(read.module) - before).abs().max() > 1e-3  # the adapter does something


def test_a_merged_directory_keeps_template_card_tied_embeddings_and_ends_with_the_turn(student, tmp_path):
    base, adapter = student
    save_merged(merge(base, adapter), tmp_path / "merged")
    model, read = on_cpu(base), on_cpu(tmp_path / "merged")
    assert torch.equal(read.module.get_input_embeddings().weight, model.module.get_input_embeddings().weight)
    assert read.module.get_output_embeddings().weight is read.module.get_input_embeddings().weight
    assert read.template.hash == model.template.hash
    assert read_card(tmp_path / "merged") == read_card(adapter)
    generation = json.loads((tmp_path / "merged/generation_config.json").read_text())
    assert generation["eos_token_id"] == model.template.end_of_turn
    assert generation["do_sample"] is False


def test_a_base_in_a_short_format_stays_in_it(student, tmp_path):
    base = tmp_path / "short"
    module = on_cpu(student[0])
    module.module.to(torch.bfloat16).save_pretrained(base)
    module.tokenizer.save_pretrained(base)
    short = load_model(base, place(load_in_4bit=False))
    teach(base, tmp_path / "adapter", model=short, learning_rate=1e-1)
    save_merged(merge(base, tmp_path / "adapter"), tmp_path / "merged")
    assert json.loads((tmp_path / "merged/config.json").read_text())["dtype"] == "bfloat16"


def test_a_merge_that_changes_what_is_computed_is_refused(student, monkeypatch):
    from peft import PeftModel

    def forgetful(self, **_):
        return self.unload()  # the base without what was learned

    monkeypatch.setattr(PeftModel, "merge_and_unload", forgetful, raising=False)
    with pytest.raises(SetupError, match=r"changes what the model computes: a logit moved by"):
        merge(*student)


def test_a_merge_that_changes_tied_embeddings_is_refused(student, monkeypatch):
    from peft import PeftModel

    whole = PeftModel.__getattr__

    def meddle(self, name):
        if name == "merge_and_unload":
            self.get_input_embeddings().weight.data[0] += 1
        return whole(self, name)

    monkeypatch.setattr(PeftModel, "__getattr__", meddle)
    with pytest.raises(SetupError, match="changed the tied embeddings"):
        merge(*student)


@pytest.mark.parametrize("layer", ["lm_head", "embed_tokens"])
def test_an_adapter_of_tied_embeddings_is_refused(student, tmp_path, layer):
    from peft import LoraConfig, get_peft_model

    adapted = get_peft_model(on_cpu(student[0]).module, LoraConfig(target_modules=["q_proj", layer]))
    adapted.save_pretrained(tmp_path / "foreign", save_embedding_layers=False)
    with pytest.raises(SetupError, match=f"adapts {layer}, which .* ties to another layer"):
        merge(student[0], tmp_path / "foreign")


def test_an_adapter_trained_in_4_bit_is_merged_only_into_the_dequantised_weights(tmp_path):
    pytest.importorskip("bitsandbytes")
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    tokenizer = make_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=128, intermediate_size=256, num_hidden_layers=1, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=512, tie_word_embeddings=True, initializer_range=0.2,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    model = load_model(tmp_path / "base", place(load_in_4bit=True))
    teach(tmp_path / "base", tmp_path / "adapter", model=model, examples=make_examples(model, 2), learning_rate=1e-2)
    assert read_card(tmp_path / "adapter").four_bit
    with pytest.raises(SetupError, match=r"belongs to a 4-bit base; .* pass --dequantize"):
        merge(tmp_path / "base", tmp_path / "adapter")
    save_merged(merge(tmp_path / "base", tmp_path / "adapter", dequantize=True), tmp_path / "merged")
    trained = logits(model.module.eval())
    near = (logits(on_cpu(tmp_path / "merged").module) - trained).abs().max()
    assert near < 0.02 * trained.abs().max()  # bitsandbytes multiplies in bf16 on some CPUs
    assert "quantization_config" not in json.loads((tmp_path / "merged/config.json").read_text())
    put(tmp_path / "adapter", four_bit=False)  # what full weights would have made of it
    full = merge(tmp_path / "base", tmp_path / "adapter").model.module
    assert (logits(full) - trained).abs().max() > 5 * near


def test_a_run_in_4_bit_is_refused_whatever_its_card_says(student):
    with pytest.raises(SetupError, match="4-bit base"):
        merge(*student, four_bit=True)


# Writing


def test_what_is_there_is_not_overwritten_unless_asked_and_ours(student, tmp_path):
    whole = merge(*student)
    save_merged(whole, tmp_path / "merged")
    before = (tmp_path / "merged/config.json").stat().st_mtime_ns
    with pytest.raises(ResumeError, match="already holds something: name another, or replace it with --overwrite"):
        save_merged(whole, tmp_path / "merged")
    save_merged(whole, tmp_path / "merged", overwrite=True)
    assert (tmp_path / "merged/config.json").stat().st_mtime_ns > before
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs/thesis.tex").touch()
    with pytest.raises(ResumeError, match="not ours to overwrite"):
        save_merged(whole, tmp_path / "theirs", overwrite=True)
    assert (tmp_path / "theirs/thesis.tex").exists()
    (tmp_path / "thesis.pdf").write_text("years of work")
    with pytest.raises(ResumeError, match=r"thesis\.pdf is a file, and a directory is to be written there"):
        save_merged(whole, tmp_path / "thesis.pdf", overwrite=True)
    assert (tmp_path / "thesis.pdf").read_text() == "years of work"
    (tmp_path / "thesis.pdf").unlink()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["merged", "theirs"]


def test_a_directory_that_reads_back_otherwise_is_not_kept_and_the_old_one_is(student, tmp_path, monkeypatch):
    whole = merge(*student)
    save_merged(whole, tmp_path / "merged")
    monkeypatch.setattr(merging, "_logits", lambda *_: [row + 1 for row in whole.logits])
    with pytest.raises(SetupError, match="is not the merged one"):
        save_merged(whole, tmp_path / "merged", overwrite=True)
    assert on_cpu(tmp_path / "merged")
    assert [path.name for path in tmp_path.iterdir()] == ["merged"]


@pytest.mark.parametrize("stop", [OSError(errno.ENOSPC, "full"), KeyboardInterrupt()])
def test_an_old_model_is_back_where_the_new_one_cannot_take_its_place(tmp_path, monkeypatch, stop):
    model, rename = model_of_ours(tmp_path / "merged"), os.replace

    def stopped(one, other):
        if one.name.endswith(".unfinished"):
            raise stop
        rename(one, other)

    monkeypatch.setattr(merging.os, "replace", stopped)
    with pytest.raises((SetupError, KeyboardInterrupt)), merging.replaced(model, overwrite=True) as unfinished:
        (unfinished / "config.json").write_text("new")
    assert (model / "config.json").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["merged"]


def test_an_old_model_that_a_kill_left_aside_is_put_back_and_not_overwritten_unasked(tmp_path):
    model_of_ours(tmp_path / ".merged.old")
    with pytest.raises(ResumeError, match="already holds something"), merging.replaced(tmp_path / "merged", overwrite=False):
        pass
    assert (tmp_path / "merged/config.json").read_text() == "old"


def model_of_ours(directory):
    directory.mkdir()
    (directory / "config.json").write_text("old")
    (directory / CARD).touch()
    return directory


def test_an_adapter_from_elsewhere_is_exported_without_a_prompt(student, adapter, tmp_path, caplog):
    (adapter / "cotdistill.json").unlink()
    export(merged=tmp_path / "merged", base_model=str(student[0]), lora_model=adapter)
    assert read_card(tmp_path / "merged") is None
    assert "carries no system prompt" in caplog.text


# The command


def test_one_command_writes_directory_file_and_modelfile(student, tmp_path, capsys):
    base, adapter = student
    files = {"merged": tmp_path / "merged", "gguf": tmp_path / "s.gguf"}
    export(base_model=str(base), lora_model=adapter, quant="f16", **files)
    told = capsys.readouterr().out
    assert "llama.cpp gives the merged model's answer to the check question" in told
    assert f"ollama create s -f {tmp_path / 's.Modelfile'}" in told
    assert (tmp_path / "s.Modelfile").read_text().startswith("FROM ./s.gguf\n")
    assert read_card(tmp_path / "s.gguf") == read_card(tmp_path / "merged") == read_card(adapter)
    with pytest.raises(ResumeError, match="already exists"):
        export(base_model=str(base), lora_model=adapter, gguf=tmp_path / "s.gguf")
    (tmp_path / "t.Modelfile").write_text("mine")
    with pytest.raises(ResumeError, match=r"t\.Modelfile already exists"):
        export(base_model=str(base), lora_model=adapter, gguf=tmp_path / "t.gguf")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "say what to write"),
        ({"merged": Path("m")}, "name the run directory"),
        ({"gguf": Path("m.bin")}, r"must be named \*.gguf"),
        ({"merged": Path("m"), "base_model": "b", "lora_model": Path("l"), "evaluate": True}, "needs a run directory"),
        ({"merged": Path("m"), "base_model": "b", "run": Path("r")}, "not both"),
    ],
)
def test_contradictions_are_said_before_any_work(options, message):
    with pytest.raises(UsageError, match=message):
        export(**options)


@pytest.mark.parametrize("kind", ["merged", "gguf"])
def test_an_export_is_evaluated_like_any_model_with_the_prompt_it_was_trained_with(student, tmp_path, kind, capsys):
    base, adapter = student
    artifact = tmp_path / ("s.gguf" if kind == "gguf" else "merged")
    export(base_model=str(base), lora_model=adapter, **{kind: artifact})
    (tmp_path / "test.jsonl").write_text('{"question": "What is 1 + 1?", "answer": "2"}\n')
    evaluate(
        base_model=str(artifact), test_file=tmp_path / "test.jsonl", output_file=tmp_path / "p.jsonl",
        max_new_tokens=4, batch_size=1, quiet=True,
    )  # fmt: skip
    settings = json.loads((tmp_path / "p.manifest.json").read_text())["stages"]["evaluate/base"]
    assert settings["settings"]["system_prompt"] == "Add."
    assert ("llama.cpp" if kind == "gguf" else "transformers") in settings["facts"]["engine"]["engine"]


def test_the_report_of_a_run_gets_a_row_for_the_export_and_what_it_cost(student, tmp_path, capsys):
    options = {"generate": {"sampling": {"max_new_tokens": 8}}, "verify": {"steps": False}}
    plain = recipe(student[0], evaluate={"max_new_tokens": 8, "batch_size": 2, "teacher": False}, **options)
    with pytest.MonkeyPatch.context() as patch:
        from cotdistill.engines.scripted import ScriptedEngine
        from test_pipeline import solve

        patch.setattr(pipeline, "engine_for", lambda *_: ScriptedEngine(solve))
        pipeline.run(plain, runs=tmp_path, quiet=True)
    run = tmp_path / "tiny"
    known = (run / "recipe.yaml").read_text()
    assert f"teacher: {student[0]}\n" in known
    (run / "recipe.yaml").write_text(known.replace(f"teacher: {student[0]}\n", "teacher: gone\n"))
    export(run, gguf=tmp_path / "s.gguf", quant="f16", evaluate=True, quiet=True)  # the teacher is not needed
    (run / "recipe.yaml").write_text(known)
    assert "The export answers 0 of 5 right where the student answers 0: 0 lost, 0 gained" in capsys.readouterr().out
    report = json.loads((run / "7_report.json").read_text())
    assert list(report["models"]) == ["base", "student", "export"]
    assert report["details"]["export"]["file"] == "s.gguf"
    assert len((run / "6_predictions/export.jsonl").read_text().splitlines()) == 5
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Manifest, "finish", lambda *_, **__: pytest.fail("a finished stage keeps its time"))
        evaluate_export(run, tmp_path / "s.gguf", quiet=True)
    again = pipeline.run(plain, runs=tmp_path, quiet=True)  # and it stays there
    assert "export" in again.models


@pytest.mark.parametrize("engine", ["llama_cpp", "ray:llama_cpp"])
def test_an_engine_that_would_run_none_of_the_models_is_refused(student, tmp_path, engine):
    (tmp_path / "test.jsonl").write_text('{"question": "What is 1 + 1?", "answer": "2"}\n')
    with pytest.raises(UsageError, match="name a GGUF file, or leave --engine out"):
        evaluate(str(student[0]), tmp_path / "test.jsonl", tmp_path / "out.jsonl", engine=engine)


def test_a_run_that_is_not_finished_has_no_export_to_evaluate(student, tmp_path):
    from cotdistill.recipe import dump_recipe

    (tmp_path / "recipe.yaml").write_text(dump_recipe(recipe(student[0])))
    with pytest.raises(DataError, match="not finished"):
        evaluate_export(tmp_path, tmp_path / "s.gguf")


TIE = 0.1


@pytest.mark.real_model
def test_llama_cpp_gives_the_merged_smollm2s_own_answers(tmp_path):
    from cotdistill.download import local_model
    from cotdistill.prompt import SYSTEM_PROMPT

    base = local_model("smollm2-135m-instruct", want="hf")
    model = on_cpu(base)
    adapted, _ = attach(model, Lora(dropout=0.0))
    torch.manual_seed(0)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(0, 0.01)
    card = AdapterCard(SYSTEM_PROMPT, model.template.hash, model_hash(base), base.name)
    save_adapter(adapted, tmp_path / "adapter", card)
    del model, adapted
    files = {"merged": tmp_path / "merged", "gguf": tmp_path / "s.gguf"}
    export(base_model=str(base), lora_model=tmp_path / "adapter", quant="f16", **files)
    system = Message("system", SYSTEM_PROMPT)
    asked = ("What is 15% of 240?", "Tom has 3 apples and buys 4 more. How many?", "What is 12 - 5?")
    requests = [Request(text, (system, Message("user", text))) for text in asked]
    engine = open_engine(str(files["gguf"]), batch_size=3)
    answers = {one.key: one.text for one in engine.complete(requests, Sampling(max_new_tokens=32))}
    engine.close()
    merged = on_cpu(files["merged"])
    for request in requests:
        prompt = merged.template.prompt_ids(request.messages)
        written = merged.tokenizer(answers[request.key], add_special_tokens=False).input_ids
        assert len(written) >= 5
        with torch.no_grad():
            logits = merged.module(input_ids=torch.tensor([prompt + written])).logits[0, len(prompt) - 1 : -1]
        behind = logits.max(dim=1).values - logits.gather(1, torch.tensor(written)[:, None])[:, 0]
        assert behind.max() < TIE  # rounding to 16 bits decides between tokens that the model holds nearly equal
