"""Ray: workers may die, none of what was asked is lost or doubled, and the texts are those of the inner engine."""

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from conftest import teach
from cotdistill.cli import app
from cotdistill.engines import Message, Request, Sampling
from cotdistill.engines.batches import ATTEMPTS, Batches
from cotdistill.engines.cluster import Share, connect, share
from cotdistill.engines.ray_engine import RayEngine
from cotdistill.engines.scripted import ScriptedEngine
from cotdistill.errors import SetupError
from cotdistill.journal import read_rows
from cotdistill.prediction import Prediction, predict
from cotdistill.question import Question

# Ray reads these once, when it is imported.
for name, value in {"MODE": "token", "TOKEN": secrets.token_hex(32)}.items():
    os.environ.setdefault(f"RAY_AUTH_{name}", value)
ray = pytest.importorskip("ray")
SRC = str(Path(__file__).resolve().parent.parent / "src")


def requests(count):
    return [Request(f"q{i}", (Message("user", f"n{i}"),)) for i in range(count)]


def all_of(batches):
    found = []
    while batch := batches.next():
        found.append(batch)
    return found


def test_batches_hold_every_request_once_and_the_last_ones_are_shared_out():
    batches = all_of(Batches(requests(50), size=16, least=2, workers=2))
    assert [len(batch) for batch in batches] == [16, 16, 9, 5, 2, 2]
    assert [request.key for batch in batches for request in batch] == [f"q{i}" for i in range(50)]


def test_requests_are_read_no_further_ahead_than_one_batch_a_worker():
    read = []
    batches = Batches((read.append(r) or r for r in requests(100)), size=4, least=2, workers=3)
    batches.next()
    assert len(read) == 12


def test_what_a_dead_worker_left_is_asked_again_and_only_what_kills_every_worker_fails():
    batches = Batches(requests(64), size=64, least=1, workers=1)
    done, failed = [], []
    while batch := batches.next():
        assert len(done) + len(failed) + len(batch) <= 64
        if any(request.key == "q7" for request in batch):
            failed += batches.lost(batch, "its process ended")
        else:
            done += batch
    assert [completion.key for completion in failed] == ["q4", "q5", "q6", "q7"]
    assert {completion.finish for completion in failed} == {"error"}
    assert "its process ended" in failed[0].error
    assert len({request.key for request in done}) == len(done) == 60


def test_a_cluster_is_divided_among_its_workers():
    gpu, cpu, head = {"CPU": 32.0, "GPU": 4.0}, {"CPU": 16.0}, {"CPU": 0.0}
    assert share([head, gpu, gpu]) == Share(8, 1, 1)
    assert share([gpu, gpu], 2) == Share(2, 1, 4)
    assert share([gpu, gpu], 1) == Share(1, 1, 4)  # a worker is on one node
    assert share([gpu, {"CPU": 8.0, "GPU": 2.0}], 2) == Share(2, 1, 2)  # three each would leave one without a node
    assert share([gpu], 9) == Share(9, 1, 1)  # more than there are now wait for more nodes
    assert share([head, cpu, cpu]) == Share(2, 16, 0)
    assert share([cpu, cpu], 3) == Share(3, 8, 0)
    with pytest.raises(SetupError, match="ray status"):
        share([head])


def test_without_ray_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(SetupError, match="pip install ray"):
        connect()


@pytest.mark.parametrize(
    ("address", "said"), [("127.0.0.1:1", "127.0.0.1:1"), ("ray://127.0.0.1:10001", "RAY_ADDRESS=HOST:6379")]
)
def test_a_cluster_that_cannot_be_reached_is_named_at_once(address, said, monkeypatch):
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(SetupError, match=said):
        connect()


@pytest.fixture(scope="module")
def cluster():
    """A Ray of two CPUs that this process has joined, with a token and ports of its own."""
    directory = tempfile.mkdtemp(prefix="ray", dir="/tmp")  # the paths of sockets must be short
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(5)]
    port, *others = [str(one.getsockname()[1]) for one in sockets]
    for one in sockets:
        one.close()
    own = {"RAY_ADDRESS": f"127.0.0.1:{port}", "PYTHONPATH": SRC, "OMP_NUM_THREADS": "1",
           "RAY_USAGE_STATS_ENABLED": "0"}  # fmt: skip
    # With fixed ports nothing waits for the agents of the dashboard, which start slowly on a busy machine.
    names = ["dashboard-agent-listen-port", "dashboard-agent-grpc-port", "runtime-env-agent-port", "metrics-export-port"]
    command = [
        sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--node-ip-address=127.0.0.1",
        f"--port={port}", "--num-cpus=2", "--include-dashboard=false", "--object-store-memory=80000000",
        f"--temp-dir={directory}", *(f"--{name}={value}" for name, value in zip(names, others, strict=True)),
    ]  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        for name, value in own.items():
            patch.setenv(name, value)
        with open(f"{directory}/log", "w") as log:
            head = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            deadline = time.monotonic() + 120
            while "Ray runtime started" not in Path(log.name).read_text():
                assert head.poll() is None, Path(log.name).read_text()
                assert time.monotonic() < deadline, Path(log.name).read_text()
                time.sleep(0.2)
            yield own["RAY_ADDRESS"]
        finally:
            ray.shutdown()
            head.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                head.wait(20)
            head.kill()
            shutil.rmtree(directory, ignore_errors=True)


def scripted(pids: Path, *, seconds: float = 0.02, times: int = 2):
    """Opens an engine that says everything ``times`` times and notes its process for every question; the question
    "poison" ends the process, and later ones an engine whose process lives on, as vLLM's does."""

    def open_inner() -> ScriptedEngine:
        class Stammering(ScriptedEngine):
            def complete(self, requests, sampling):
                for completion in super().complete(requests, sampling):
                    if completion.error:
                        raise SetupError(completion.error)
                    yield from [completion] * times

        def answer(text: str) -> str:
            with pids.open("a") as file:
                file.write(f"{os.getpid()}\n")
            if text == "poison" and pids.with_name("poisoned").exists():
                raise ValueError("its own process ended")
            if text == "poison":
                pids.with_name("poisoned").touch()
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(seconds)
            return f"{text} makes {len(text)}\nFinal Answer: {len(text)}"

        return Stammering(answer)

    return open_inner


def test_a_worker_killed_on_the_way_costs_no_row_and_doubles_none(cluster, tmp_path):
    questions = [Question(f"q{i}", f"What is {i}?", "11") for i in range(150)]
    pids, wanted, found = tmp_path / "pids", tmp_path / "wanted.jsonl", tmp_path / "found.jsonl"
    predict(scripted(tmp_path / "here", seconds=0, times=1)(), questions, wanted, system="Count.", sampling=Sampling())
    engine = RayEngine(scripted(pids), batch_size=2, workers=2)
    came = []

    def show(row: Prediction) -> None:
        came.append(row.id)
        if len(came) == 20:
            os.kill(int(pids.read_text().split()[0]), signal.SIGKILL)

    predict(engine, questions, found, system="Count.", sampling=Sampling(), show=show)
    texts = {row.id: row.response for row in read_rows(wanted, Prediction)}
    assert len(texts) == len(came) == 150
    assert {row.id: row.response for row in read_rows(found, Prediction)} == texts
    assert len(found.read_text().splitlines()) == 150
    assert engine.describe()["engine"] == "scripted"

    # The same engine again: what ends every worker is an error row in the end, and its neighbours are answered.
    asked = [*requests(8), Request("p", (Message("user", "poison"),))]
    done = list(engine.complete(asked, Sampling()))
    engine.close()
    assert sorted(c.key for c in done) == sorted(r.key for r in asked)
    assert [c.key for c in done if c.finish == "error"] == ["p"]
    assert f"{ATTEMPTS} workers ended" in next(c.error for c in done if c.key == "p")
    assert len(set(pids.read_text().split())) > 2


def test_a_model_that_no_worker_can_open_is_said_once(cluster):
    def open_inner():
        from cotdistill.errors import SetupError

        raise SetupError("no such file: model.gguf")

    connect()
    with pytest.raises(SetupError, match=r"^no such file: model.gguf$"):
        RayEngine(open_inner, workers=1)


def test_evaluating_an_adapter_on_ray_gives_the_answers_it_gives_here(cluster, tiny, tmp_path):
    teach(tiny, tmp_path / "adapter", learning_rate=0.1)
    test = tmp_path / "test.jsonl"
    test.write_text("".join(f'{{"question": "What is {i} + {i}?", "answer": "{2 * i}"}}\n' for i in range(5)))
    responses = []
    for engine in (["--engine", "transformers"], ["--engine", "ray:transformers", "--workers", "1"]):
        output = tmp_path / engine[1] / "predictions.jsonl"
        output.parent.mkdir()
        words = ["--base_model", tiny, "--lora_model", tmp_path / "adapter", "--test_file", test]
        app(
            ["evaluate", *map(str, words), "--output_file", str(output), "--max_new_tokens", "12", "--quiet", *engine],
            standalone_mode=False,
        )
        responses.append({row.id: (row.response, row.finish) for row in read_rows(output, Prediction)})
    assert len(responses[0]) == 5
    assert responses[1] == responses[0]


INTERRUPTED = """
import sys
from pathlib import Path
from cotdistill.engines import Message, Request, Sampling
from cotdistill.engines.ray_engine import RayEngine
from cotdistill.interrupt import stop_in_time
import test_ray_engine
stop_in_time()
engine = RayEngine(test_ray_engine.scripted(Path(sys.argv[1]), seconds=0.2), batch_size=1, workers=2)
for completion in engine.complete(test_ray_engine.requests(10_000), Sampling()):
    print(completion.key, flush=True)
"""


def test_an_interrupt_ends_within_seconds_and_leaves_no_worker(cluster, tmp_path):
    pids = tmp_path / "pids"
    environment = {**os.environ, "PYTHONPATH": f"{SRC}:{Path(__file__).parent}"}
    driver = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, str(pids)], env=environment, stdout=subprocess.PIPE, text=True
    )
    assert driver.stdout is not None
    assert driver.stdout.readline().startswith("q")
    driver.send_signal(signal.SIGINT)
    start = time.monotonic()
    driver.communicate(timeout=30)
    assert time.monotonic() - start < 6
    workers = set(map(int, pids.read_text().split()))
    while any(Path(f"/proc/{pid}").exists() for pid in workers):
        assert time.monotonic() - start < 20
        time.sleep(0.2)
