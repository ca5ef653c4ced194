"""An engine that answers from a script: the test double for everything that asks a model.

    ScriptedEngine(lambda question: "0.15 * 240 = 36.\\nFinal Answer: 36")
"""

from collections.abc import Callable, Iterable, Iterator

from cotdistill.engines import Completion, Finish, Request, Sampling


class ScriptedEngine:
    """``answer`` maps the text of the last user turn to what the model writes, or raises to fail that row.

    One token is one word; an answer of more than ``max_new_tokens`` words is cut, as a model's would be.
    ``requests`` keeps what was asked.
    """

    def __init__(self, answer: Callable[[str], str]) -> None:
        self._answer = answer
        self.requests: list[Request] = []
        self.closed = False

    def describe(self) -> dict[str, str]:
        return {"engine": "scripted", "model": "scripted", "hash": "", "dtype": ""}

    def complete(self, requests: Iterable[Request], sampling: Sampling) -> Iterator[Completion]:
        for request in requests:
            self.requests.append(request)
            prompt_tokens = sum(len(message.content.split()) for message in request.messages)
            try:
                words = self._answer(request.messages[-1].content).split(" ")
            except Exception as error:
                yield Completion.failed(request, str(error), prompt_tokens=prompt_tokens)
                continue
            kept = words[: sampling.max_new_tokens]
            finish: Finish = "stop" if len(kept) == len(words) else "length"
            yield Completion(request.key, " ".join(kept), finish, prompt_tokens, len(kept), 0.001)

    def close(self) -> None:
        self.closed = True
