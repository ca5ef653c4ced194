"""What ``--overwrite`` never takes away: whatever the tool did not write."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from cotdistill.cli import app
from cotdistill.errors import CotdistillError, ResumeError
from cotdistill.journal import write_rows
from cotdistill.prediction import Prediction
from cotdistill.storage.manifest import Manifest
from cotdistill.trace import Trace

TRACE = Trace("q#0", "q", "What is 1 + 1?", "Final Answer: 2")
QUESTIONS = '{"id": "q", "question": "What is 1 + 1?", "answer": "2"}\n'


def claim(path: Path, holds, *, overwrite: bool = True) -> None:
    Manifest.open(path.parent / "m.json").claim("stage", {}, overwrite=overwrite, files=[path], holds=holds)


@pytest.mark.parametrize("overwrite", [True, False])
@pytest.mark.parametrize("known", [True, False])
def test_a_file_is_never_replaced_by_a_directory_nor_a_directory_by_a_file(tmp_path, known, overwrite):
    path = tmp_path / "thesis"
    if known:  # a stage of that name wrote there once
        claim(path, "directory")
    path.write_text("years of work")
    with pytest.raises(ResumeError, match="thesis is a file, and a directory is to be written there: move it away"):
        claim(path, "directory", overwrite=overwrite)
    assert path.read_text() == "years of work"
    path.unlink()
    path.mkdir()
    with pytest.raises(ResumeError, match="thesis is a directory, and a file is to be written there"):
        claim(path, Trace, overwrite=overwrite)
    assert path.is_dir()


@pytest.mark.parametrize("overwrite", [True, False])
@pytest.mark.parametrize("content", [b"my notes", b"my notes\n", QUESTIONS.encode(), b"\x89PNG\r\n", b"[]\n", b"{}\n"])
def test_a_file_of_other_rows_without_a_record_is_not_ours_to_overwrite(tmp_path, content, overwrite):
    path = tmp_path / "notes.jsonl"
    path.write_bytes(content)
    with pytest.raises(ResumeError, match=r"notes\.jsonl holds something else and is not ours to overwrite"):
        claim(path, Trace, overwrite=overwrite)
    assert path.read_bytes() == content


def test_rows_of_ours_that_have_lost_their_record_may_be_overwritten(tmp_path):
    path = tmp_path / "cot.jsonl"
    write_rows(path, [TRACE])
    with path.open("ab") as file:
        file.write(b'{"id": "q#1", "quest')  # torn
    with pytest.raises(ResumeError, match="not ours"):
        claim(path, Prediction)
    with pytest.raises(ResumeError, match="start anew with --overwrite"):
        claim(path, Trace, overwrite=False)
    claim(path, Trace)
    assert not path.exists()


@pytest.mark.parametrize("theirs", ["out.jsonl", "out.verdicts.jsonl"])
def test_generate_takes_away_neither_foreign_traces_nor_foreign_verdicts(tiny, tmp_path, theirs, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("q.jsonl").write_text(QUESTIONS)
    write_rows("out.verdicts.jsonl", [])
    Path(theirs).write_text("my notes\n")
    before = {path: path.read_bytes() for path in Path().glob("out*")}
    words = ["--teacher_model", str(tiny), "--input_file", "q.jsonl", "--output_file", "out.jsonl", "--overwrite"]
    done = CliRunner().invoke(app, ["generate", *words])
    assert isinstance(done.exception, CotdistillError)
    assert f"{theirs} holds something else" in str(done.exception)
    assert {path: path.read_bytes() for path in Path().glob("out*")} == before
