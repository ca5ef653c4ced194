"""A test double for an OpenAI-compatible server: a real HTTP server on loopback that misbehaves on request.

    with ServerDouble([fails(429, **{"Retry-After": "1"}), answers("42")]) as server:
        ...
        assert server.most_in_flight <= 4

The script gives what happens to the first, second, ... question, and is followed by answers that repeat the question.
"""

import json
import threading
import time
from collections.abc import Callable, Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Behaviour = Callable[["Handler", dict[str, Any]], None]


class ServerDouble:
    """``models`` is the list it gives, None for none, each with its ``context`` if there is one; ``by_body`` may choose
    a behaviour by what is asked."""

    def __init__(
        self,
        script: Iterable[Behaviour] = (),
        *,
        models: list[str] | None = None,
        context: int | None = None,
        key: str | None = None,
        by_body: Callable[[dict[str, Any]], Behaviour | None] = lambda body: None,
    ) -> None:
        self.script = iter(script)
        self.models, self.key, self.by_body = models, key, by_body
        self.length = {"max_model_len": context} if context else {}
        self.bodies: list[dict[str, Any]] = []
        self.times: list[float] = []
        self.in_flight = self.most_in_flight = 0
        self.ending = threading.Event()
        self.lock = threading.Lock()
        double = self

        class Bound(Handler):
            server_double = double

        class Quiet(ThreadingHTTPServer):
            def handle_error(self, request, client_address):  # clients hang up on purpose
                pass

        self.http = Quiet(("127.0.0.1", 0), Bound)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"

    def __enter__(self) -> "ServerDouble":
        self.thread = threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01}, name="double")
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ending.set()
        self.http.shutdown()
        self.http.server_close()
        self.thread.join()

    def asked(self) -> list[str]:
        """The questions that came, in order."""
        return [body["messages"][-1]["content"] for body in self.bodies]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_double: ServerDouble
    in_flight = False

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        double = self.server_double
        if double.key and self.headers.get("Authorization") != f"Bearer {double.key}":
            return self.reply(401, {"error": {"message": f"wrong key: {self.headers.get('Authorization')}"}})
        if self.path != "/v1/models" or double.models is None:
            return self.reply(404, {"error": "no such path"})
        self.reply(200, {"object": "list", "data": [{"id": name, **double.length} for name in double.models]})

    def do_POST(self) -> None:
        double = self.server_double
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with double.lock:
            double.in_flight += 1
            double.most_in_flight = max(double.most_in_flight, double.in_flight)
            double.bodies.append(body)
            double.times.append(time.monotonic())
            behaviour = double.by_body(body) or next(double.script, None) or echoes()
        self.in_flight = True
        try:
            behaviour(self, body)
        finally:
            self.leave()

    def leave(self) -> None:
        """The request is no longer in flight."""
        with self.server_double.lock:
            self.server_double.in_flight -= self.in_flight
            self.in_flight = False

    def reply(self, status: int, data: object, headers: dict[str, str] | None = None, *, slowly: float = 0) -> None:
        body = data if isinstance(data, bytes) else json.dumps(data).encode()
        if not slowly:
            self.leave()  # before the client can have read the answer and sent the next question
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        for byte in body if slowly else ():
            self.wfile.write(bytes([byte]))
            if self.server_double.ending.wait(slowly):
                return
        if not slowly:
            self.wfile.write(body)


def completion(text: str | None, *, model: str = "m", finish: str | None = "stop", **message: str) -> dict[str, Any]:
    choice = {"index": 0, "message": {"role": "assistant", "content": text, **message}, "finish_reason": finish}
    return {"model": model, "choices": [choice], "usage": {"prompt_tokens": 7, "completion_tokens": 3}}


def answers(
    text: str | None, *, after: float = 0, model: str = "m", finish: str | None = "stop", **message: str
) -> Behaviour:
    def behave(handler: Handler, body: dict[str, Any]) -> None:
        handler.server_double.ending.wait(after)
        handler.reply(200, completion(text, model=model, finish=finish, **message))

    return behave


def echoes(after: float = 0) -> Behaviour:
    return lambda handler, body: answers(body["messages"][-1]["content"], after=after)(handler, body)


def fails(status: int, message: str = "no", /, **headers: str) -> Behaviour:
    return lambda handler, body: handler.reply(status, {"error": {"message": message}}, headers)


def says(body: bytes, **headers: str) -> Behaviour:
    """Any body at all, with status 200."""
    return lambda handler, _: handler.reply(200, body, headers)


def drops(handler: Handler, body: dict[str, Any]) -> None:
    """Half of the body, then nothing."""
    whole = json.dumps(completion("42")).encode()
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(whole)))
    handler.end_headers()
    handler.wfile.write(whole[: len(whole) // 2])
    handler.close_connection = True


def hangs(handler: Handler, body: dict[str, Any]) -> None:
    handler.server_double.ending.wait(30)


def drips(handler: Handler, body: dict[str, Any]) -> None:
    """A right answer, a byte every 50 ms: never silent for long, and never done in time."""
    handler.reply(200, completion("42"), slowly=0.05)
