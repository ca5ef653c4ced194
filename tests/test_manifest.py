"""What the manifest promises: a resume never mixes settings, and a finished stage has its files."""

import hashlib
import json
import os
import time
from pathlib import Path

import msgspec
import pytest

from cotdistill.errors import DataError, ResumeError
from cotdistill.machine import origin
from cotdistill.storage import manifest as manifest_module
from cotdistill.storage.manifest import Manifest, file_hash, input_of, record_of

SETTINGS = {"model": "a", "sampling": {"temperature": 0.2, "stop": ("\n",)}, "batch_size": 8, "path": Path("x")}


def begun(tmp_path: Path, stage: str = "generate") -> tuple[Path, Path]:
    """A manifest whose stage has begun and written a row."""
    path, file = tmp_path / "manifest.json", tmp_path / "2_traces.jsonl"
    Manifest.open(path).claim(stage, SETTINGS, overwrite=False, files=[file])
    file.write_text("{}\n")
    return path, file


def changed(**settings: object) -> dict[str, object]:
    return {**SETTINGS, **settings}


def test_the_same_settings_go_on_also_after_reading_back(tmp_path: Path) -> None:
    path, file = begun(tmp_path)
    manifest = Manifest.open(path)
    manifest.claim("generate", SETTINGS, overwrite=False, files=[file])
    assert not manifest.done("generate")
    assert file.exists()


def test_other_settings_are_refused_with_the_changed_keys_and_the_three_ways_on(tmp_path: Path) -> None:
    path, file = begun(tmp_path)
    before = path.read_bytes()
    other = changed(model="b", sampling={"temperature": 0.7, "top_p": 0.9})
    with pytest.raises(ResumeError) as refused:
        Manifest.open(path).claim("generate", other, overwrite=False, files=[file])
    message = str(refused.value)
    for words in (
        "2_traces.jsonl was made with other settings",
        "model: 'a' -> 'b'",
        "sampling.temperature: 0.2 -> 0.7",
        "sampling.stop: ['\\n'] -> not set",
        "sampling.top_p: not set -> 0.9",
        "go back to the old settings, choose another output or run name, or start anew with --overwrite",
    ):
        assert words in message
    assert "batch_size" not in message
    assert "\n" not in message
    assert path.read_bytes() == before
    assert file.exists()


def test_harmless_settings_do_not_count(tmp_path: Path) -> None:
    path, file = begun(tmp_path)
    other = changed(batch_size=1)
    Manifest.open(path).claim("generate", other, overwrite=False, files=[file])


def test_overwrite_forgets_the_stage_and_deletes_its_files(tmp_path: Path) -> None:
    path, file = begun(tmp_path)
    adapter = tmp_path / "5_adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text("old")
    manifest = Manifest.open(path)
    manifest.finish("generate", rows=1)
    manifest.claim("generate", changed(model="b"), overwrite=True, files=[file])
    manifest.claim("train", {}, overwrite=True, files=[adapter], holds="directory")
    assert not file.exists()
    assert not adapter.exists()
    assert not Manifest.open(path).done("generate")
    assert json.loads(path.read_bytes())["stages"]["generate"]["settings"]["model"] == "b"


def test_a_stop_while_overwriting_never_leaves_a_finished_stage_without_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, file = begun(tmp_path)
    Manifest.open(path).finish("generate")
    monkeypatch.setattr(Path, "unlink", interrupted)
    with pytest.raises(KeyboardInterrupt):
        Manifest.open(path).claim("generate", SETTINGS, overwrite=True, files=[file])
    assert not Manifest.open(path).done("generate")


def interrupted(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def test_files_that_nothing_on_record_explains_are_not_touched(tmp_path: Path) -> None:
    path, file = tmp_path / "manifest.json", tmp_path / "2_traces.jsonl"
    file.write_text("mine\n")
    with pytest.raises(ResumeError, match=r"2_traces.jsonl exists and .* --overwrite"):
        Manifest.open(path).claim("generate", SETTINGS, overwrite=False, files=[file])
    assert file.read_text() == "mine\n"
    assert not path.exists()


def test_done_and_facts_survive_and_stages_are_apart(tmp_path: Path) -> None:
    path, _ = begun(tmp_path)
    manifest = Manifest.open(path)
    manifest.finish("generate", rows=100, seconds=1.5)
    manifest.claim("verify", {}, overwrite=False, files=[tmp_path / "3_verdicts.jsonl"])
    manifest = Manifest.open(path)
    assert manifest.done("generate")
    assert manifest.facts("generate") == {"rows": 100, "seconds": 1.5}
    assert not manifest.done("verify")
    assert manifest.facts("verify") == {}
    assert not manifest.done("never heard of")


def test_a_finished_stage_whose_file_is_gone_is_owed_again(tmp_path: Path) -> None:
    path, file = begun(tmp_path)
    Manifest.open(path).finish("generate")
    file.unlink()
    manifest = Manifest.open(path)
    manifest.claim("generate", SETTINGS, overwrite=False, files=[file])
    assert not manifest.done("generate")


def test_notes_are_kept_beside_the_stages(tmp_path: Path) -> None:
    path, _ = begun(tmp_path)
    Manifest.open(path).note(versions={"python": "3"}, seed=11)
    Manifest.open(path).note(seed=12)
    content = json.loads(path.read_bytes())
    assert (content["versions"], content["seed"], content["schema"]) == ({"python": "3"}, 12, 1)
    assert "generate" in content["stages"]
    with pytest.raises(ValueError, match="stages"):
        Manifest.open(path).note(stages={})


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"schema": 99}', b'{"schema": 1, "stages": {"a": {}}}', b"\xff",
     b'{"schema": 1, "stages": {"a": {"settings": {}, "files": [], "started": "", "began": "today"}}}']
)
def test_a_damaged_manifest_is_one_sentence(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "manifest.json"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"manifest\.json: "):
        Manifest.open(path)


def test_text_that_utf8_cannot_hold_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="UTF-8"):
        Manifest.open(tmp_path / "m.json").claim("generate", {"prompt": "\ud800"}, overwrite=False, files=[])


def test_file_hash_is_sha256(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"abc")
    assert file_hash(tmp_path / "f") == hashlib.sha256(b"abc").hexdigest()
    with pytest.raises(DataError, match="nothere"):
        file_hash(tmp_path / "nothere")


def test_settings_that_made_nothing_bind_nobody(tmp_path):
    files = [tmp_path / "adapter"]
    Manifest.open(tmp_path / "m.json").claim("train", {"lora": {"r": 8}}, overwrite=False, files=files, holds="directory")
    (tmp_path / "adapter/checkpoints").mkdir(parents=True)
    Manifest.open(tmp_path / "m.json").claim("train", {"lora": {"r": 16}}, overwrite=False, files=files, holds="directory")
    (tmp_path / "adapter/checkpoints/state").write_text("x")
    with pytest.raises(ResumeError, match="16 -> 8"):
        Manifest.open(tmp_path / "m.json").claim("train", {"lora": {"r": 8}}, overwrite=False, files=files, holds="directory")


def test_overwrite_never_deletes_a_directory_that_nobody_here_made(tmp_path):
    theirs = tmp_path / "photos"
    theirs.mkdir()
    (theirs / "a.jpg").write_text("x")
    with pytest.raises(ResumeError, match="not ours"):
        Manifest.open(tmp_path / "m.json").claim("train", {}, overwrite=True, files=[theirs], holds="directory")
    assert (theirs / "a.jpg").exists()


def test_seconds_add_up_over_processes_and_a_killed_one_counts_up_to_its_last_row(tmp_path):
    path, file = begun(tmp_path)
    first = Manifest.open(path)
    began = time.time()
    first.begin("generate", planned=3, engine="scripted")
    os.utime(file, (began + 40, began + 40))  # the last row before the kill
    second = Manifest.open(path)
    assert second.stages["generate"].spent(tmp_path) == pytest.approx(40, abs=0.5)
    second.claim("generate", SETTINGS, overwrite=False, files=[file])
    os.utime(file, (began + 900, began + 900))  # mending the file is not work
    second.begin("generate", planned=3, engine="scripted")
    second.finish("generate", rows=3, seconds=123)
    done = Manifest.open(path)
    assert done.facts("generate")["seconds"] == pytest.approx(40, abs=1)
    assert done.stages["generate"].spent(tmp_path) == done.facts("generate")["seconds"]
    assert done.stages["generate"].planned == 3


def test_a_clock_that_went_back_takes_no_seconds_away(tmp_path):
    path, file = begun(tmp_path)
    Manifest.open(path).begin("generate")
    os.utime(file, (1, 1))
    assert Manifest.open(path).stages["generate"].spent(tmp_path) == 0


def test_work_that_is_taken_up_again_is_owed_until_it_is_finished(tmp_path):
    path, _ = begun(tmp_path)
    manifest = Manifest.open(path)
    manifest.finish("generate", rows=1)
    manifest.begin("generate", planned=2)
    assert not Manifest.open(path).done("generate")


def test_rows_of_another_engine_or_number_format_are_not_mixed(tmp_path):
    path, file = begun(tmp_path)
    Manifest.open(path).begin("generate", engine="transformers, bfloat16")
    with pytest.raises(ResumeError, match=r"engine: transformers, bfloat16 -> transformers, float32\).*--overwrite"):
        Manifest.open(path).begin("generate", engine="transformers, float32")
    file.unlink()  # nothing was made with it
    manifest = Manifest.open(path)
    manifest.claim("generate", SETTINGS, overwrite=False, files=[file])
    manifest.begin("generate", engine="transformers, float32")


def test_the_manifest_says_who_works_now_and_who_did_before(tmp_path, monkeypatch):
    path, _ = begun(tmp_path)
    Manifest.open(path).begin("generate")
    before = origin()
    monkeypatch.setattr(manifest_module, "origin", lambda: msgspec.structs.replace(before, git_revision="another"))
    for _ in range(2):
        Manifest.open(path).begin("generate")
    written = json.loads(path.read_bytes())
    assert written["versions"]["python"]
    assert written["machine"]["cores"] >= 1
    assert written["git_revision"] == "another"
    assert [one["git_revision"] for one in written["earlier"]] == [before.git_revision]


def test_what_is_prepared_is_noted_when_work_begins(tmp_path):
    path, file = begun(tmp_path)
    manifest = Manifest.open(path)
    manifest.prepare(inputs={"input_file": "new"})
    manifest.claim("generate", SETTINGS, overwrite=False, files=[file])
    assert "inputs" not in json.loads(path.read_bytes())  # the stage may still refuse what is in the file
    manifest.begin("generate")
    assert json.loads(path.read_bytes())["inputs"] == {"input_file": "new"}


def test_an_input_is_known_by_name_and_hash_and_never_by_its_directory(tmp_path):
    (tmp_path / "q.jsonl").write_bytes(b"abc")
    assert input_of(tmp_path / "q.jsonl") == {"name": "q.jsonl", "sha256": hashlib.sha256(b"abc").hexdigest()}
    assert input_of("hub:a:train") == {"name": "hub:a:train"}


def test_a_record_lies_in_a_run_directory_and_beside_anything_else(tmp_path, monkeypatch):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/manifest.json").write_text("{}")
    (tmp_path / "lora.v2").mkdir()
    assert record_of(tmp_path / "run") == tmp_path / "run/manifest.json"
    assert record_of(tmp_path / "lora.v2") == tmp_path / "lora.v2.manifest.json"
    assert record_of(tmp_path / "cot.jsonl") == tmp_path / "cot.manifest.json"
    (tmp_path / "linked.jsonl").symlink_to(tmp_path / "elsewhere/cot.jsonl")
    assert record_of(tmp_path / "linked.jsonl") == tmp_path / "linked.manifest.json"
    monkeypatch.chdir(tmp_path / "lora.v2")
    assert record_of(Path(".")) == tmp_path / "lora.v2.manifest.json"


@pytest.mark.parametrize("file", ["../../secret.jsonl", "/etc/secret.jsonl"])
def test_a_forged_record_leads_to_no_file_outside_its_directory(tmp_path, file):
    stage = {"settings": {}, "files": [file], "started": ""}
    (tmp_path / "m.json").write_text(json.dumps({"schema": 1, "stages": {"evaluate/base": stage}}))
    assert Manifest.open(tmp_path / "m.json").output("evaluate/base") == tmp_path / "secret.jsonl"


@pytest.mark.parametrize("file", ["adapter_model.safetensors", "adapter_config.json"])
def test_a_finished_training_without_its_weights_is_owed_again(tmp_path, file):
    path, adapter = tmp_path / "m.json", tmp_path / "adapter"
    Manifest.open(path).claim("train", {}, overwrite=False, files=[adapter], holds="directory")
    adapter.mkdir()
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        (adapter / name).write_text("x")
    Manifest.open(path).finish("train")
    assert Manifest.open(path).lost("train") is None
    (adapter / file).unlink()
    assert Manifest.open(path).lost("train") == adapter / file
    manifest = Manifest.open(path)
    manifest.claim("train", {}, overwrite=False, files=[adapter], holds="directory")
    assert not manifest.done("train")
