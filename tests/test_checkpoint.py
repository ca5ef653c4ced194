"""Checkpoints: an interrupted training goes on with the very steps it owes, from nothing but its own whole states."""

import logging
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from conftest import teach, weights
from cotdistill.learning.checkpoint import RECORD, newest, run_id, seal
from cotdistill.learning.trainer import AnswerTrainer

LONG = {
    "rows": 7, "batch_size": 2, "gradient_accumulation_steps": 2, "num_epochs": 3, "learning_rate": 1e-3,
    "lora": {"dropout": 0.2},
}  # fmt: skip
"""Two steps an epoch, the second with a shorter batch; six in all."""


@pytest.fixture
def seen(monkeypatch) -> dict[int, list[str]]:
    """The trace ids of every optimizer step, as they are trained; a step done again stands there once."""
    steps: dict[int, list[str]] = {}
    train, begun = AnswerTrainer.training_step, []

    def watched(self, model, inputs, *args):
        step = self.state.global_step
        if begun != [id(self), step]:
            begun[:] = [id(self), step]
            steps[step] = []
        steps[step] += [row.trace_id for row in inputs["rows"]]
        return train(self, model, inputs, *args)

    monkeypatch.setattr(AnswerTrainer, "training_step", watched)
    return steps


def stop_at(step):
    def show(progress):
        if progress.step == step:
            raise KeyboardInterrupt

    return show


@pytest.mark.parametrize("stops", [(2,), (3,), (4,), (2, 4), (4, 4, 6)], ids=str)
def test_a_resumed_training_sees_the_ids_of_every_step_that_an_uninterrupted_one_does(tiny, tmp_path, seen, stops):
    expected = teach(tiny, tmp_path / "whole", **LONG)
    steps = dict(seen)
    assert sorted(steps) == [*range(6)]
    assert sorted(steps[2] + steps[3]) == sorted(steps[0] + steps[1]) == [f"q{i}#0" for i in range(7)]
    assert steps[0] != steps[2]
    for stop in stops:
        seen.clear()
        with pytest.raises(KeyboardInterrupt):
            teach(tiny, tmp_path / "cut", show=stop_at(stop), **LONG)
        assert seen == {step: steps[step] for step in seen}
    seen.clear()
    result = teach(tiny, tmp_path / "cut", **LONG)
    assert seen == {step: steps[step] for step in range(stops[-1] - 1, 6)}
    assert result.losses == [(step, pytest.approx(loss, abs=1e-5)) for step, loss in expected.losses]
    one, other = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    assert one.keys() == other.keys()
    assert all(torch.allclose(one[name], other[name], atol=1e-6) for name in one)


@pytest.fixture(scope="module")
def stopped(tiny, tmp_path_factory) -> Path:
    """What a training stopped in its fifth step leaves: whole checkpoints of steps 3 and 4."""
    output = tmp_path_factory.mktemp("stopped")
    torch.set_num_threads(1)
    with pytest.raises(KeyboardInterrupt):
        teach(tiny, output, show=stop_at(5), **LONG)
    return output


@pytest.fixture
def copied(stopped, tmp_path) -> Path:
    """A copy to be damaged, and nothing else in its directory."""
    shutil.copytree(stopped, tmp_path / "out")
    return tmp_path / "out" / "checkpoints"


def run_of(directory: Path) -> str:
    import msgspec

    return msgspec.json.decode((directory / RECORD).read_bytes())["run"]


def unseal(path: Path) -> None:
    record = path.parent / RECORD
    record.write_text(record.read_text().replace(path.name, "checkpoint-99"))


def cut(path: Path) -> None:
    os.truncate(path / "optimizer.pt", (path / "optimizer.pt").stat().st_size - 1)


def link(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to(path.with_name("elsewhere"))


DAMAGE = {
    "never sealed": (unseal, "cut off while it was written"),
    "a file cut": (cut, "changed after"),
    "a file gone": (lambda path: (path / "scheduler.pt").unlink(), "changed after"),
    "a file too many": (lambda path: (path / "pytorch_model.bin").write_bytes(b"x"), "changed after"),
    "a link": (link, "changed after"),
    "not a directory": (lambda path: (shutil.rmtree(path), path.write_bytes(b"")), "changed after"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_the_newest_whole_checkpoint_is_taken_and_a_torn_one_goes_with_one_log_line(copied, caplog, name):
    damage, said = DAMAGE[name]
    run = run_of(copied)
    assert newest(copied, run) == copied / "checkpoint-4"
    assert not caplog.records
    damage(copied / "checkpoint-4")
    assert newest(copied, run) == copied / "checkpoint-3"
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert said in caplog.text
    assert "checkpoint-4" in caplog.text
    assert not os.path.lexists(copied / "checkpoint-4")


def test_without_a_record_or_for_another_run_no_checkpoint_is_taken(copied, tmp_path):
    shutil.copytree(copied, tmp_path / "other")
    assert newest(copied, "another run") is None
    (tmp_path / "other" / RECORD).write_bytes(b'{"run": ')
    assert newest(tmp_path / "other", run_of(copied)) is None
    assert newest(tmp_path / "nothing", "x") is None


def test_a_training_does_not_go_on_from_the_checkpoint_of_a_training_with_other_settings(tiny, copied, seen):
    teach(tiny, copied.parent, **{**LONG, "learning_rate": 1e-4})
    assert sorted(seen) == [*range(6)]


def test_a_run_is_known_by_its_settings_and_every_id_of_its_examples():
    one = run_id(["base", {"lr": 1}], [[1, 2], [3]])
    assert one == run_id(["base", {"lr": 1}], iter([[1, 2], [3]]))
    others = [run_id(["base", {"lr": 2}], [[1, 2], [3]]), run_id(["base", {"lr": 1}], [[1], [2, 3]]), run_id([], [])]
    assert len({one, *others}) == 4


class Evil:
    """Unpickled by ``pickle.load``, it makes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


@pytest.mark.parametrize("file", ["optimizer.pt", "scheduler.pt", "rng_state.pth"])
@pytest.mark.parametrize("forged", [False, True], ids=["slipped in", "with a forged record"])
def test_a_pickle_slipped_into_a_checkpoint_never_runs(tiny, copied, tmp_path, seen, file, forged):
    bomb, marker = copied / "checkpoint-4" / file, tmp_path / "ran"
    torch.save({"state": Evil(marker)}, bomb)
    with pytest.raises(pickle.UnpicklingError):
        torch.load(bomb, weights_only=True)
    if forged:  # what is left then is how the Trainer reads
        seal(bomb.parent, run_of(copied))
        with pytest.raises(pickle.UnpicklingError, match=r"[Ww]eights.only"):
            teach(tiny, copied.parent, **LONG)
    else:
        teach(tiny, copied.parent, **LONG)
        assert sorted(seen) == [3, 4, 5]  # from checkpoint 3
    assert not marker.exists()
    torch.load(bomb, weights_only=False) if forged else None
    assert marker.exists() == forged  # the bomb is one


def test_a_save_over_a_torn_checkpoint_holds_nothing_of_it(tiny, copied):
    (copied / "checkpoint-5").mkdir()
    (copied / "checkpoint-5" / "pytorch_model.bin").write_bytes(b"not ours")
    teach(tiny, copied.parent, **LONG)
    assert (copied / "checkpoint-5").is_dir()
    assert not (copied / "checkpoint-5" / "pytorch_model.bin").exists()


def test_the_two_newest_by_step_are_kept_when_the_clock_was_set_back(tiny, copied, seen):
    for path in copied.iterdir():
        os.utime(path, (4e9, 4e9))
    teach(tiny, copied.parent, **LONG)
    assert sorted(seen) == [4, 5]
    assert sorted(path.name for path in copied.iterdir()) == ["checkpoint-5", "checkpoint-6", RECORD]


SQUEEZED = """
import resource, sys
from pathlib import Path
from conftest import make_model, teach
from cotdistill.errors import SetupError

make_model(Path("tiny"))
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2)
try:
    teach(Path("tiny"), Path("out"))
except SetupError as error:
    print(error)
"""


@pytest.mark.parametrize(("room", "said"), [(3_000, "a file may not grow further"), (40_000, "the disk takes no more")])
def test_a_disk_that_takes_no_more_during_a_save_is_one_sentence(tmp_path, room, said):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", SQUEEZED, str(room)], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert said in done.stdout, done.stderr
    assert done.stdout.count("\n") == 1
