"""The engine for OpenAI-compatible servers against a bare httpx loop: the same server, requests and number in flight.

    python -m benchmarks.http [--requests 10000] [--in_flight 64] [--latency_ms 200] [--growth 1000 10000 100000]
    python -m benchmarks.http --table benchmarks/results/http.json      prints the table of docs/performance.md

The server is a process of its own and answers every request after the same time. The clients take turns, each in a new
process. "bare" and "bare_apart" post and decode, no more, the first with one httpx client for all, the second with one
for each request in flight; the faster of them is what counts. "ours" is stage 1 with prompts, retries, an adapted
limit, answers read and every trace written to a journal. A watchdog in our event loop sleeps 5 ms at a time and
measures how much later it wakes; other work on the machine makes it later too. Growth is ours alone on a server that
answers after 2 ms; linear means that the processor time of a row does not grow with the rows.
"""

import argparse
import asyncio
import json
import math
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import AsyncExitStack, contextmanager
from itertools import pairwise
from multiprocessing import Pipe, Process, get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import httpx
import msgspec
from benchmarks.journal import questions, reasoning

from cotdistill.asking.collecting import collect
from cotdistill.asking.drawing import Drawing, Step
from cotdistill.engines import Sampling
from cotdistill.engines.openai_server import OpenAIServerEngine
from cotdistill.engines.server import Server
from cotdistill.machine import origin
from cotdistill.prompt import SYSTEM_PROMPT, messages_for
from cotdistill.trace import Trace

RESULTS = Path(__file__).parent / "results" / "http.json"
TICK = 0.005
"""Seconds that the watchdog sleeps."""
QUICK = 0.002
"""Seconds after which the server of the growth answers."""


class Responder(asyncio.Protocol):
    """Just enough of HTTP/1.1: a request with a length, an answer after ``latency`` seconds."""

    def __init__(self, latency: float) -> None:
        self._latency = latency
        self._got = b""
        message = {"role": "assistant", "content": reasoning(12, 3)}
        usage = {"prompt_tokens": 120, "completion_tokens": 100}
        answer = {"model": "m", "choices": [{"message": message, "finish_reason": "stop"}], "usage": usage}
        self._answer = _reply("200 OK", json.dumps(answer).encode())

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._got += data
        head, end, body = self._got.partition(b"\r\n\r\n")
        length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
        if not end or len(body) < int(length or 0):
            return
        self._got = b""
        if head.startswith(b"GET"):
            self._transport.write(_reply("404 Not Found", b"{}"))  # type: ignore[attr-defined]
        else:
            asyncio.get_running_loop().call_later(self._latency, self._send)

    def _send(self) -> None:
        if not self._transport.is_closing():
            self._transport.write(self._answer)  # type: ignore[attr-defined]


def _reply(status: str, body: bytes) -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


@contextmanager
def server(latency: float) -> Iterator[str]:
    """The address of a server in a process of its own."""
    here, there = Pipe()
    process = Process(target=_serve, args=(there, latency), daemon=True)
    process.start()
    try:
        yield f"http://127.0.0.1:{here.recv()}/v1"
    finally:
        process.terminate()
        process.join()


def _serve(pipe: Connection, latency: float) -> None:
    async def run() -> None:
        listening = await asyncio.get_running_loop().create_server(lambda: Responder(latency), "127.0.0.1", 0)
        pipe.send(listening.sockets[0].getsockname()[1])
        await listening.serve_forever()

    asyncio.run(run())


class Measured(msgspec.Struct, frozen=True):
    """What one client took. ``memory_mb`` is what its process held after a fifth of the rows and after all;
    ``longest_block_ms`` is how much later than it wished the watchdog woke, and ``longest_hold_ms`` the processor time
    that its thread took meanwhile; None without one."""

    rows: int
    seconds: float
    cpu_seconds: float
    memory_mb: tuple[float, float]
    longest_block_ms: float | None = None
    longest_hold_ms: float | None = None

    @property
    def rate(self) -> float:
        return self.rows / self.seconds


def bare(url: str, rows: int, in_flight: int) -> Measured:
    """``in_flight`` workers that post the same bodies and decode what comes, over one pool of connections."""
    return _bare(url, rows, in_flight, clients=1)


def bare_apart(url: str, rows: int, in_flight: int) -> Measured:
    """The same with a client for each worker: httpx's pool looks at all of its connections for each request."""
    return _bare(url, rows, in_flight, clients=in_flight)


def _bare(url: str, rows: int, in_flight: int, *, clients: int) -> Measured:
    memory = [0.0, 0.0]

    async def run() -> float:
        todo = iter(questions(rows, 1))
        done = 0
        limits = httpx.Limits(max_connections=in_flight, max_keepalive_connections=in_flight)
        encryption = httpx.create_ssl_context()

        async def work(client: httpx.AsyncClient) -> None:
            nonlocal done
            for question in todo:
                messages = [{"role": m.role, "content": m.content} for m in messages_for(question, SYSTEM_PROMPT)]
                body = {"model": "m", "messages": messages, "max_tokens": 512, "temperature": 0.0, "stream": False}
                reply = await client.post(f"{url}/chat/completions", json=body)
                reply.raise_for_status()
                assert reply.json()["choices"][0]["message"]["content"]
                done += 1
                if done == rows // 5:
                    memory[0] = memory_mb()

        async with AsyncExitStack() as stack:
            opened = [
                await stack.enter_async_context(
                    httpx.AsyncClient(limits=limits, timeout=60, trust_env=False, verify=encryption)
                )
                for _ in range(clients)
            ]
            start = time.perf_counter()
            await asyncio.gather(*(work(opened[number % clients]) for number in range(in_flight)))
            memory[1] = memory_mb()
            return time.perf_counter() - start

    cpu = time.process_time()
    seconds = asyncio.run(run())
    return Measured(rows, seconds, time.process_time() - cpu, (memory[0], memory[1]))


def ours(url: str, rows: int, in_flight: int) -> Measured:
    """Stage 1 on the engine, into a journal."""
    asked = questions(rows, 1)
    engine = OpenAIServerEngine("m", Server(url, concurrency=in_flight))
    lateness, held = [0.0], [0.0]
    memory = [0.0, 0.0]
    done = 0

    async def watch() -> None:
        while True:
            before, spent = time.perf_counter(), time.thread_time()
            await asyncio.sleep(TICK)
            lateness.append(time.perf_counter() - before - TICK)
            held.append(time.thread_time() - spent)

    def show(trace: Trace) -> None:
        nonlocal done
        assert trace.finish == "stop", trace.error
        done += 1
        if done == 1 and engine._background:
            engine._background.submit(watch())
        if done in (rows // 5, rows):
            memory[done == rows] = memory_mb()

    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "traces.jsonl"
        start, cpu = time.perf_counter(), time.process_time()
        drawing = Drawing(asked, [Step("", 0, 1, Sampling())], lambda one, _: messages_for(one, SYSTEM_PROMPT))
        collect(drawing, asked, path, names=[""], open_teacher=lambda _: engine, show=show)
        seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
        assert done == rows == path.read_bytes().count(b"\n")
    return Measured(rows, seconds, cpu, (memory[0], memory[1]), 1000 * max(lateness), 1000 * max(held))


def memory_mb() -> float:
    """What this process holds now, on Linux."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmRSS"))


def in_child(client: Any, url: str, rows: int, in_flight: int) -> Measured:
    """A client in a new process."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        measured: Measured = pool.submit(client, url, rows, in_flight).result()
    print(
        f"{client.__name__}, {rows:,} rows: {measured.rate:.0f} rows/s, {1e6 * measured.cpu_seconds / rows:.0f} us of "
        f"CPU a row, {measured.memory_mb[0]:.0f} and {measured.memory_mb[1]:.0f} MB"
        + (f", longest block {measured.longest_block_ms:.0f} ms" if measured.longest_block_ms else "")
        + (f" ({measured.longest_hold_ms:.0f} ms of it ours)" if measured.longest_hold_ms else ""),
        flush=True,
    )
    return measured


def compare(url: str, rows: int, in_flight: int, rounds: int) -> dict[str, Any]:
    """The clients in turn, in the other order in every second round."""
    found: dict[str, list[Measured]] = {"bare": [], "ours": [], "bare_apart": []}
    for number in range(rounds):
        for client in (bare, ours, bare_apart)[:: 1 if number % 2 == 0 else -1]:
            found[client.__name__].append(in_child(client, url, rows, in_flight))
    rates = {name: rounds * rows / sum(one.seconds for one in all_) for name, all_ in found.items()}
    return {
        "share_of_bare_rate": round(rates["ours"] / max(rates["bare"], rates["bare_apart"]), 4),
        "rows_per_second": {name: round(rate, 1) for name, rate in rates.items()},
        "longest_block_ms": round(max(one.longest_block_ms or 0 for one in found["ours"]), 1),
        "longest_hold_ms": round(max(one.longest_hold_ms or 0 for one in found["ours"]), 1),
        "memory_mb": {name: [round(one, 1) for one in all_[-1].memory_mb] for name, all_ in found.items()},
        "cpu_us_per_row": {
            name: round(1e6 * sum(one.cpu_seconds for one in all_) / rounds / rows) for name, all_ in found.items()
        },
    }


def grow(url: str, sizes: list[int], in_flight: int) -> list[dict[str, Any]]:
    """Ours with more and more rows; ``power`` is p where the processor time goes as rows ** p from one to the next."""
    all_ = [in_child(ours, url, rows, in_flight) for rows in sizes]
    powers = [
        round(math.log(b.cpu_seconds / a.cpu_seconds) / math.log(b.rows / a.rows), 3) for a, b in pairwise(all_)
    ]
    return [
        {"rows": one.rows, "seconds": round(one.seconds, 1), "cpu_us_per_row": round(1e6 * one.cpu_seconds / one.rows),
         "memory_mb": round(one.memory_mb[1], 1), "power": power}
        for one, power in zip(all_, [None, *powers], strict=True)
    ]  # fmt: skip


def table(found: dict[str, Any]) -> str:
    """What was found, in Markdown."""
    lines = ["| client | rows/s | us of CPU a row | MB after a fifth | MB after all |", "|---|--:|--:|--:|--:|"]
    for name in ("bare", "bare_apart", "ours"):
        early, late = found["memory_mb"][name]
        lines.append(
            f"| {name} | {found['rows_per_second'][name]:.0f} | {found['cpu_us_per_row'][name]} "
            f"| {early:.0f} | {late:.0f} |"
        )
    longest, own = found["longest_block_ms"], found["longest_hold_ms"]
    lines += [
        "",
        f"Ours is at {100 * found['share_of_bare_rate']:.1f} % of the faster bare loop's rate; its event loop was "
        f"never held up for longer than {longest:.0f} ms, at most {own:.0f} ms of it its own work.",
    ]
    if found["growth"]:
        lines += ["", "| rows | seconds | us of CPU a row | MB |", "|--:|--:|--:|--:|"]
    for one in found["growth"]:
        lines.append(f"| {one['rows']:,} | {one['seconds']} | {one['cpu_us_per_row']} | {one['memory_mb']:.0f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--in_flight", type=int, default=64)
    parser.add_argument("--latency_ms", type=float, default=200)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--growth", type=int, nargs="*", default=[1000, 10_000, 100_000])
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--table", type=Path, help="print what such a file holds, and stop")
    options = parser.parse_args()
    if options.table:
        print(table(json.loads(options.table.read_text())))
        return
    with server(options.latency_ms / 1000) as url:
        found = compare(url, options.requests, options.in_flight, options.rounds)
    with server(QUICK) as url:
        growth = grow(url, options.growth, options.in_flight) if options.growth else []
    shape = {key: getattr(options, key) for key in ("requests", "in_flight", "latency_ms", "rounds")}
    here = msgspec.to_builtins(origin())
    options.output.write_text(json.dumps({**found, "growth": growth, **shape, **here}, indent=1) + "\n")
    print(f"\n{table(json.loads(options.output.read_text()))}\n\n{options.output}")


if __name__ == "__main__":
    main()
