"""Several processes train the adapter of one, speak with one voice, and end together. Here over gloo on the CPU."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from conftest import make_model, weights
from cotdistill.cli import app
from cotdistill.errors import SetupError, UsageError
from cotdistill.example import IGNORE
from cotdistill.hardware import place
from cotdistill.learning.order import Order, blank
from cotdistill.learning.ranks import Ranks, here
from cotdistill.pipeline import run
from cotdistill.recipe import load_recipe

REPO = Path(__file__).resolve().parent.parent
RECIPES = REPO / "recipes/distributed"
SETTINGS = {"num_epochs": 6, "batch_size": 4, "gradient_accumulation_steps": 2, "learning_rate": 1e-3, "lora_dropout": 0}
STEPS = 12
"""6 epochs of 13 rows, 8 in a step: the second step of an epoch holds 5 rows, of different lengths."""

# Writes down what each process creates, and is slow enough to be killed in the middle.
WATCHED = """
import os, sys, time
def note(event, values):
    if event == "open" and (values[2] or 0) & (os.O_WRONLY | os.O_RDWR) or event in ("os.mkdir", "os.rename"):
        if ("results" in str(values[0]) or "scores" in str(values[0])) and "checkpoints" not in str(values[0]):
            os.write(log, f"{os.environ['RANK']} {values[0]}\\n".encode())
if "RANK" in os.environ:
    log = os.open(os.environ["WRITES"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    sys.addaudithook(note)
"""

# accelerate shards on GPUs only: told that there are some, its FSDP runs on the CPU as well.
SHARDED = """
import sys, torch
from accelerate import DistributedType, PartialState
torch.distributed.init_process_group("gloo")
PartialState._prepare_backend = lambda *_, **__: ("gloo", DistributedType.MULTI_GPU)
torch.Tensor.pin_memory = lambda tensor: tensor
sys.path.insert(0, "scripts")
import helpers
helpers.run("train")
"""


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def farthest(one: Path, other: Path) -> float:
    """The largest difference between two adapters' weights."""
    first, second = weights(one), weights(other)
    assert first.keys() == second.keys()
    return max((first[name] - second[name]).abs().max().item() for name in first)


def command(output: str, script: str = "scripts/train_cot_lora.py", **changed: object) -> list[str]:
    settings = {**SETTINGS, **changed, "student_model": "models/student", "cot_dataset": "data/cot.jsonl"}
    flags = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
    return [script, *flags, "--output_dir", f"results/{output}"]


def launcher(port: int, *more: str) -> list[str]:
    return [sys.executable, "-m", "torch.distributed.run", "--master_port", str(port), *more]


def start(project: Path, words: list[str], **variables: str) -> subprocess.Popen[str]:
    environment = {
        **os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(project / "watched"),
        "WRITES": str(project / "writes"), **variables,
    }  # fmt: skip
    return subprocess.Popen(
        words, cwd=project, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        start_new_session=True,
    )  # fmt: skip


def train_here(project: Path, output: str, **changed: object) -> Path:
    """What ``command`` trains, in this process."""
    from cotdistill.commands.train import train

    settings = {**SETTINGS, **changed}
    train(str(project / "models/student"), project / "data/cot.jsonl", project / f"results/{output}", **settings)
    return project / f"results/{output}"


def finish(job: subprocess.Popen[str], seconds: float = 120) -> tuple[int, str, str]:
    try:
        out, err = job.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(job.pid, signal.SIGKILL)
        pytest.fail(f"still running after {seconds} s: {job.communicate()}")
    return job.returncode, out, err


def launch(project: Path, words: list[str]) -> tuple[int, str, str]:
    return finish(start(project, [*launcher(free_port(), "--nproc_per_node", "2"), *words]))


def process_of(rank: int, project: Path) -> int | None:
    """The process id of one rank of the job that runs in ``project``."""
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            environment = (entry / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if f"RANK={rank}".encode() in environment and f"WRITES={project / 'writes'}".encode() in environment:
            return int(entry.name)
    return None


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("project")
    shutil.copytree(REPO / "scripts", root / "scripts", ignore=shutil.ignore_patterns("__pycache__"))
    for name, target in (("src", REPO / "src"), ("recipes", REPO / "recipes")):
        (root / name).symlink_to(target)
    for name in ("data", "watched"):
        (root / name).mkdir()
    texts = [(f"What is {i} + 7?{' Think.' * (i % 4)}", f"{i} + 7 = {i + 7}.\n" * (1 + i % 3)) for i in range(13)]
    rows = [{"question": question, "reasoning": f"{text}Final Answer: 0"} for question, text in texts]
    (root / "data/cot.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (root / "watched/sitecustomize.py").write_text(WATCHED)
    (root / "sharded.py").write_text(SHARDED)
    make_model(root / "models/student")
    return root


@pytest.fixture(scope="module")
def alone(project: Path) -> Path:
    """The adapter that one process trains."""
    return train_here(project, "alone")


# What the ranks are


@pytest.mark.parametrize(
    ("size", "batch", "accumulation", "each"),
    [(1, 4, 4, (4, 4)), (2, 4, 4, (4, 2)), (8, 4, 4, (2, 1)), (16, 4, 4, (1, 1)), (3, 4, 6, (4, 2)), (4, 6, 2, (3, 1))],
)
def test_all_processes_together_make_the_step_of_one(size, batch, accumulation, each):
    assert Ranks(0, size).per_process_batch(batch, accumulation) == each


@pytest.mark.parametrize("size", [3, 32])
def test_a_step_that_does_not_divide_is_refused_with_one_that_does(size):
    with pytest.raises(UsageError, match=f"{size} processes.*as {18 if size == 3 else 32} rows would"):
        Ranks(0, size).per_process_batch(4, 4)


def test_the_rank_comes_from_the_launcher_and_nonsense_is_refused(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert here() == Ranks(0, 1)
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert here() == Ranks(1, 2)
    monkeypatch.setenv("RANK", "2")
    with pytest.raises(SetupError, match="RANK=2 and WORLD_SIZE=2"):
        here()


def test_a_model_is_not_placed_by_a_launcher_that_makes_no_sense(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: True)
    assert place().device == "mps"
    monkeypatch.setenv("WORLD_SIZE", "two")
    with pytest.raises(SetupError, match="WORLD_SIZE=two"):
        place()


def test_a_whole_run_is_not_launched(monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="a whole run is the work of one process"):
        run(load_recipe(REPO / "recipes/quickstart.yaml"))


@pytest.mark.parametrize(
    "words",
    [
        ["generate", "--teacher_model", "t", "--input_file", "q.jsonl", "--output_file", "o.jsonl"],
        ["evaluate", "--base_model", "m", "--test_file", "q.jsonl", "--output_file", "o.jsonl"],
        ["export", "runs/x", "--merged", "m"],
    ],
    ids=lambda words: words[0],
)
def test_other_commands_are_not_launched_either(monkeypatch, words):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    shown = CliRunner().invoke(app, words)
    assert isinstance(shown.exception, UsageError)
    assert "is the work of one process" in str(shown.exception)


def test_every_row_is_in_every_epoch_once_and_the_last_step_is_filled_up_with_blank_ones():
    order = Order(13, seed=1, together=8)
    order.set_epoch(1)
    rows = list(order)
    assert sorted(rows[:13]) == list(range(13))
    assert rows[13:] == [13, 14, 15]
    assert list(Order(13, seed=1, together=1)) != rows[:13]  # another epoch
    assert set(blank(5).labels) == {IGNORE}


# Two processes


@pytest.fixture(scope="module")
def interrupted(project: Path) -> tuple[tuple[int, str, str], float, tuple[int, str, str]]:
    """A job of two, rank 1 of which is killed; the seconds it then took to end; the same command once more."""
    words = command("two")
    job = start(project, [*launcher(free_port(), "--nproc_per_node", "2"), *words])
    saved = project / "results/two/checkpoints/complete.json"
    while not (saved.exists() and "checkpoint-3" in saved.read_text()):  # in the middle of the second epoch
        assert job.poll() is None, job.communicate()
        time.sleep(0.02)
    os.kill(process_of(1, project), signal.SIGKILL)
    killed = time.monotonic()
    first = finish(job)
    seconds = time.monotonic() - killed
    assert saved.exists()
    return first, seconds, launch(project, words)


def test_a_killed_process_ends_the_job_with_an_error_and_the_same_command_goes_on(interrupted, project):
    (code, _, err), seconds, (again, out, more) = interrupted
    assert code != 0
    assert seconds < 40
    assert "goes on from" in err
    assert process_of(0, project) is None
    assert again == 0, more
    assert f"13 examples, {STEPS} steps" in out
    assert "going on from step" in more
    facts = json.loads((project / "results/two.manifest.json").read_text())["stages"]["train"]["facts"]
    assert [step for step, _ in facts["losses"]] == list(range(1, STEPS + 1))
    assert facts["processes"] == 2


def test_two_processes_train_the_adapter_of_one(interrupted, alone, project):
    assert farthest(alone, project / "results/two") < 1e-4
    assert max(value.abs().max() for name, value in weights(alone).items() if "lora_B" in name) > 1e-3


def test_only_the_first_process_writes_and_speaks(interrupted, project):
    _, _, (_, out, err) = interrupted
    assert out.count("traces teach") == out.count("13 examples, ") == err.count("student on cpu") == 1
    writers = {line[0] for line in (project / "writes").read_text().splitlines()}
    assert writers == {"0"}
    left = {path.name for path in (project / "results/two").iterdir()} | {p.name for p in (project / "results").glob("two.*")}
    assert left == {"adapter_config.json", "adapter_model.safetensors", "cotdistill.json", "generation_config.json",
                    "loss.svg", "trained_on.txt", "two.manifest.json"}  # fmt: skip


def test_what_the_first_process_refuses_ends_all_with_one_sentence(interrupted, project):
    before = weights(project / "results/two")
    start_time = time.monotonic()
    code, out, err = launch(project, command("two", learning_rate=5e-4))
    assert code != 0
    assert time.monotonic() - start_time < 60
    assert [line for line in err.splitlines() if line.startswith(("error:", "interrupted"))] == [
        next(line for line in err.splitlines() if "train.learning_rate: 0.001 -> 0.0005" in line)
    ]
    assert out.count("traces teach") == 1
    assert before.keys() == weights(project / "results/two").keys()


def test_shards_of_two_processes_are_saved_as_the_adapter_of_one(project, alone):
    words = ["--config_file", "recipes/distributed/fsdp2_offload.yaml", "--main_process_port", str(free_port())]
    job = start(
        project,
        [sys.executable, "-m", "accelerate.commands.launch", *words, *command("shards", script="sharded.py")],
        ACCELERATE_TORCH_DEVICE="cpu",
    )
    code, _, err = finish(job)
    assert code == 0, err
    assert "returned a view tensor" not in err
    assert farthest(alone, project / "results/shards") < 1e-4


def test_all_processes_stop_early_and_keep_the_best_adapter_as_one_does(project):
    early = {"learning_rate": 0.03, "lr_scheduler": "constant", "validation": 0.25, "patience": 1}
    train_here(project, "best1", **early)
    code, _, err = launch(project, command("best2", **early))
    assert code == 0, err
    words = ["--config_file", "recipes/distributed/fsdp2_offload.yaml", "--main_process_port", str(free_port())]
    job = start(
        project,
        [sys.executable, "-m", "accelerate.commands.launch", *words, *command("best3", "sharded.py", **early)],
        ACCELERATE_TORCH_DEVICE="cpu",
    )
    code, _, err = finish(job)
    assert code == 0, err
    one, two, shards = (
        json.loads((project / f"results/best{n}.manifest.json").read_text())["stages"]["train"]["facts"]
        for n in (1, 2, 3)
    )
    assert one["steps"] < STEPS
    assert one["best_step"] == one["steps"] - 2
    for other, name in ((two, "best2"), (shards, "best3")):
        assert (other["steps"], other["best_step"]) == (one["steps"], one["best_step"])
        assert [nats for _, nats in other["validation"]] == pytest.approx([nats for _, nats in one["validation"]], abs=1e-4)
        assert farthest(project / "results/best1", project / f"results/{name}") < 1e-4


# Two nodes


@pytest.fixture
def network():
    """Two network namespaces joined by a cable: names and interfaces."""
    if shutil.which("ip") is None or os.geteuid() != 0:
        pytest.skip("network namespaces need root and iproute2")
    name = f"cot{os.getpid()}"
    steps = [f"netns add {name}a", f"netns add {name}b", f"link add {name}a type veth peer name {name}b"]
    for side, number in (("a", 1), ("b", 2)):
        steps += [
            f"link set {name}{side} netns {name}{side}",
            f"-n {name}{side} addr add 10.77.0.{number}/24 dev {name}{side}",
            f"-n {name}{side} link set lo up",
            f"-n {name}{side} link set {name}{side} up",
        ]
    try:
        for step in steps:
            done = subprocess.run(["ip", *step.split()], capture_output=True, text=True)
            if done.returncode:
                pytest.skip(f"this root may not make network namespaces: {done.stderr.strip()}")
        yield [f"{name}a", f"{name}b"]
    finally:
        for side in "ab":
            subprocess.run(["ip", "netns", "del", f"{name}{side}"], capture_output=True)


def test_two_nodes_that_share_a_file_system_train_the_adapter_of_one(network, project, alone):
    jobs = [
        start(
            project,
            [
                *("ip", "netns", "exec", name),
                *launcher(29400, "--nnodes", "2", "--node_rank", str(rank), "--master_addr", "10.77.0.1"),
                *command("nodes"),
            ],
            GLOO_SOCKET_IFNAME=name,
        )
        for rank, name in enumerate(network)
    ]
    outcomes = [finish(job) for job in jobs]
    assert [code for code, _, _ in outcomes] == [0, 0], outcomes
    assert "13 examples" in outcomes[0][1]
    assert outcomes[1][1] == ""
    assert farthest(alone, project / "results/nodes") < 1e-4


# The shipped configs


@pytest.mark.parametrize("recipe", sorted(path.name for path in RECIPES.glob("*.yaml")))
def test_every_shipped_config_is_understood_by_accelerate_and_its_documentation_names_it(recipe):
    from accelerate.commands.config.config_args import load_config_from_file

    config = load_config_from_file(str(RECIPES / recipe))
    assert config.num_processes >= 2
    assert config.mixed_precision == "no"
    if "fsdp" in recipe:
        assert config.fsdp_config["fsdp_version"] == 2
        assert config.fsdp_config["fsdp_offload_params"] is ("offload" in recipe)
    assert recipe in (REPO / "docs/distributed.md").read_text()
