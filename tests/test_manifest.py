"""What the manifest promises: a resume never mixes settings, and a finished stage has its files."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from cotdistill import manifest as manifest_module
from cotdistill.errors import DataError, ResumeError
from cotdistill.manifest import HARMLESS, Manifest, file_hash, git_revision, is_harmless, versions

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
    other = changed(batch_size=1, path="elsewhere", threads=4)
    Manifest.open(path).claim("generate", other, overwrite=False, files=[file])


def test_every_harmless_setting_has_a_reason_and_the_others_count() -> None:
    assert all(HARMLESS.values())
    assert is_harmless("evaluate/base", "engine.batch_size")
    assert is_harmless("report", "report.title")
    for stage, key in [
        ("train", "batch_size"), ("questions", "limit"), ("generate", "sampling.temperature"), ("generate", "seed"),
        ("generate", "model"), ("generate", "sampling.max_new_tokens"), ("generate", "system_prompt"),
        ("generate", "title.model"), ("train", "learning_rate"), ("generate", "few_shot_hash"),
    ]:  # fmt: skip
        assert not is_harmless(stage, key), (stage, key)


def test_overwrite_forgets_the_stage_and_deletes_its_files(tmp_path: Path) -> None:
    path, file = begun(tmp_path)
    adapter = tmp_path / "5_adapter"
    adapter.mkdir()
    (adapter / "weights").write_text("old")
    manifest = Manifest.open(path)
    manifest.finish("generate", rows=1)
    manifest.claim("generate", changed(model="b"), overwrite=True, files=[file, adapter])
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
    "content", [b"", b"{", b"[]", b'{"schema": 99}', b'{"schema": 1, "stages": {"a": {}}}', b"\xff"]
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


def test_versions_are_found_without_importing_anything() -> None:
    code = "import sys; from cotdistill.manifest import versions; print(versions()['python'], 'torch' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.split() == [sys.version.split()[0], "False"]
    found = versions(["msgspec", "no-such-library"])
    assert set(found) == {"python", "platform", "cotdistill", "msgspec"}


def test_the_revision_is_this_checkouts_or_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def git(*arguments: str) -> str:
        who = ["-c", "user.name=t", "-c", "user.email=t@t"]
        command = ["git", "-C", str(tmp_path), *who, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    source = tmp_path / "manifest.py"
    source.write_text("")
    monkeypatch.setattr(manifest_module, "__file__", str(source))
    assert git_revision() is None
    git("init")
    git("commit", "--allow-empty", "-m", "someone else's")
    assert git_revision() is None
    git("add", ".")
    git("commit", "-m", "ours")
    assert git_revision() == git("rev-parse", "HEAD")
    source.write_text("# changed")
    assert git_revision() == git("rev-parse", "HEAD") + "-dirty"


def test_without_git_there_is_no_revision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    assert git_revision() is None


def test_settings_that_made_nothing_bind_nobody(tmp_path):
    files = [tmp_path / "adapter"]
    Manifest.open(tmp_path / "m.json").claim("train", {"lora": {"r": 8}}, overwrite=False, files=files)
    (tmp_path / "adapter/checkpoints").mkdir(parents=True)
    Manifest.open(tmp_path / "m.json").claim("train", {"lora": {"r": 16}}, overwrite=False, files=files)
    (tmp_path / "adapter/checkpoints/state").write_text("x")
    with pytest.raises(ResumeError, match="16 -> 8"):
        Manifest.open(tmp_path / "m.json").claim("train", {"lora": {"r": 8}}, overwrite=False, files=files)


def test_overwrite_never_deletes_a_directory_that_nobody_here_made(tmp_path):
    theirs = tmp_path / "photos"
    theirs.mkdir()
    (theirs / "a.jpg").write_text("x")
    with pytest.raises(ResumeError, match="not ours"):
        Manifest.open(tmp_path / "m.json").claim("train", {}, overwrite=True, files=[theirs])
    assert (theirs / "a.jpg").exists()
