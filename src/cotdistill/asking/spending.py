"""Spending: what the answers of one or two teachers have cost, and whether one more request stays below a cap.

    spending = Spending([server], max_tokens=1_000_000)
    spending.begin("q1a2#0", 0, messages, sampling)        -> True, and the most it can cost is held back
    spending.end("q1a2#0"); spending.add(0, 180, 24)       what it did cost counts from now on

What a request can cost at most is taken to be its ``max_new_tokens`` and one token for each byte of its prompt, plus
``TEMPLATE`` for what the chat template adds: no byte-level tokenizer makes more. So a cap is not passed; near it
requests go out one by one. Not covered: answers that a server wrote, and bills, but that never arrived.
"""

from collections.abc import Sequence

from cotdistill.engines import Message, Sampling
from cotdistill.engines.server import Server

TEMPLATE = 256


class Spending:
    """Tokens and money of each teacher; ``servers`` have the prices, None stands for a model that runs here."""

    def __init__(
        self,
        servers: Sequence[Server | None] = (None,),
        *,
        max_cost: float | None = None,
        max_tokens: int | None = None,
    ) -> None:
        self._servers = servers
        self._max_cost, self._max_tokens = max_cost, max_tokens
        self._spent = [[0, 0] for _ in servers]
        self._held: dict[str, tuple[int, int, int]] = {}
        self._holding = [[0, 0] for _ in servers]

    def add(self, teacher: int, prompt_tokens: int, completion_tokens: int) -> None:
        """What an answer has cost."""
        self._spent[teacher][0] += prompt_tokens
        self._spent[teacher][1] += completion_tokens

    def begin(self, key: str, teacher: int, messages: Sequence[Message], sampling: Sampling) -> bool:
        """Whether a request can be paid even if it and all in flight cost the most they can; if so, holds that back.
        """
        if self._max_cost is None and self._max_tokens is None:
            return True
        prompt = sum(len(message.content.encode("utf-8", "surrogatepass")) for message in messages) + TEMPLATE
        self._hold(teacher, prompt, sampling.max_new_tokens)
        both = zip(self._spent, self._holding, strict=True)
        if self._passed([[spent[0] + held[0], spent[1] + held[1]] for spent, held in both]):
            self._hold(teacher, -prompt, -sampling.max_new_tokens)
            return False
        self._held[key] = (teacher, prompt, sampling.max_new_tokens)
        return True

    def end(self, key: str) -> None:
        """Let go of what was held back for a request."""
        if (held := self._held.pop(key, None)) is not None:
            teacher, prompt, completion = held
            self._hold(teacher, -prompt, -completion)

    @property
    def tokens(self) -> int:
        """Tokens of prompts and answers so far."""
        return sum(map(sum, self._spent))

    @property
    def money(self) -> float | None:
        """What they cost, in the currency of the prices; None where there are none."""
        return self._money(self._spent)

    def caps(self) -> str:
        """The caps beside what is spent, in words: ``max_tokens_total is 9000, spent are 8712``."""
        said = []
        if self._max_cost is not None:
            said.append(f"max_cost is {self._max_cost:g}, spent are {self.money or 0:g}")
        if self._max_tokens is not None:
            said.append(f"max_tokens_total is {self._max_tokens}, spent are {self.tokens}")
        return "; ".join(said)

    def _hold(self, teacher: int, prompt: int, completion: int) -> None:
        self._holding[teacher][0] += prompt
        self._holding[teacher][1] += completion

    def _passed(self, tokens: list[list[int]]) -> bool:
        if self._max_tokens is not None and sum(map(sum, tokens)) > self._max_tokens:
            return True
        return self._max_cost is not None and (self._money(tokens) or 0) > self._max_cost

    def _money(self, tokens: list[list[int]]) -> float | None:
        priced = zip(self._servers, tokens, strict=True)
        sums = [money for server, (p, c) in priced if server and (money := server.money(p, c)) is not None]
        return round(sum(sums), 6) if sums else None
