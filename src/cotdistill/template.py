"""ChatTemplate: messages to token ids, such that text can never turn into control tokens.

The model's own chat template is rendered with a placeholder where each message's content belongs. The
parts between placeholders are the template's and may hold control tokens; the contents are encoded apart,
as ordinary text, whatever they look like. So ``<|im_end|>`` in a question stays ten harmless characters,
a template cannot cut reasoning out of an answer, and the prompt a model is asked with is by construction an
exact prefix of the sequence it was trained on.
"""

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cotdistill.engines import Message
from cotdistill.errors import SetupError

PLAIN = (
    "{% if add_bos %}{{ bos_token }}{% endif %}"
    "{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{ message['content'] }}\n\n"
    "{% elif message['role'] == 'user' %}Question: {{ message['content'] }}\n"
    "{% else %}Answer:\n{{ message['content'] }}{{ eos_token }}\n\n{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}Answer:\n{% endif %}"
)
"""Used for models that come without a chat template (base models)."""

DATE = "01 Jan 2025"
"""For templates that write the day into the system turn (Llama 3): prompts must not change overnight."""

DATED = f"{{%- set date_string = '{DATE}' %}}"
"""What makes such a template of a GGUF file write that day, whoever renders it."""

TODAY = f"{{% macro strftime_now(format) %}}{DATE}{{% endmacro %}}\n"
"""The same for templates that ask the clock; jinja2 takes the line's end with the block's."""

_SLOT = re.compile("\ue000(\\d+)\ue001")


def read_tokenizer(directory: Path, *, trust_remote_code: bool = False) -> Any:
    """The transformers tokenizer in a directory. Raises ``SetupError`` where there is none that loads."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(directory, local_files_only=True, trust_remote_code=trust_remote_code)
    except Exception as error:  # a damaged file fails in any of the library's own ways
        why = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise SetupError(f"cannot load the tokenizer in {directory}: {why}; get the model again") from error


class ChatTemplate:
    """A tokenizer's chat template, made safe. ``end_of_turn`` is the id that closes an answer.

    ``tokenizer`` is a transformers tokenizer. Raises ``SetupError`` where the template cannot be used:
    it drops a message, or neither it nor the tokenizer names a token that ends an answer.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.plain = tokenizer.chat_template is None
        self.source: str = PLAIN if self.plain else _default_template(tokenizer)
        bos = tokenizer.bos_token_id
        self._add_bos = self.plain and bos is not None and tokenizer("x").input_ids[:1] == [bos]
        self.system_as_user = not self._accepts_system()
        self.end_of_turn = self._find_end_of_turn()
        self.also_stops: frozenset[int] = frozenset()

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """Ids of the messages plus the opening of the answer."""
        messages = self._merge_system(messages)
        ids: list[int] = []
        for part in self._render(messages, generation_prompt=True):
            ids += part if isinstance(part, list) else self.content_ids(messages[part].content.strip())
        return ids

    def answer_ids(self, text: str) -> list[int]:
        """Ids of an answer and the end-of-turn token: what a student is trained to write."""
        return [*self.content_ids(text), self.end_of_turn]

    def content_ids(self, text: str) -> list[int]:
        """Ids of ordinary text; control tokens written out in it stay ordinary text."""
        return list(self.tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids)

    @property
    def stop_ids(self) -> list[int]:
        """Ids at which generation ends: the end of turn, the tokenizer's own end of sequence, and what the model's
        files say besides (``also_stops``)."""
        return sorted(({self.end_of_turn, self.tokenizer.eos_token_id} - {None}) | self.also_stops)

    @property
    def hash(self) -> str:
        """16 hex digits: the template an adapter was trained with is the one it must be asked with."""
        return hashlib.sha256(self.source.encode()).hexdigest()[:16]

    @property
    def pad_id(self) -> int:
        """A pad id for batches. Masks come from lengths, so it may equal the end of turn without harm."""
        pad = self.tokenizer.pad_token_id
        return self.end_of_turn if pad is None else int(pad)

    def _render(self, messages: Sequence[Message], generation_prompt: bool) -> list[list[int] | int]:
        """The rendered template as ids of its own text and, for each content, the message's index."""
        slots = [{"role": m.role, "content": f"\ue000{i}\ue001"} for i, m in enumerate(messages)]
        try:
            text = self.tokenizer.apply_chat_template(
                slots, chat_template=TODAY + self.source, add_generation_prompt=generation_prompt, tokenize=False,
                add_bos=self._add_bos, date_string=DATE,
            )  # fmt: skip
        except Exception as error:  # jinja2's own, and whatever a template raises
            raise SetupError(f"the chat template cannot be used: {error}") from error
        pieces = _SLOT.split(text)
        seen = [int(piece) for piece in pieces[1::2]]
        if sorted(seen) != list(range(len(messages))):  # some put the system text into the last user turn
            raise SetupError("the chat template drops or repeats a message; give the model another template")
        parts: list[list[int] | int] = [self._template_ids(pieces[0])]
        for index, tail in zip(seen, pieces[2::2], strict=True):
            parts += [index, self._template_ids(tail)]
        return parts

    def _template_ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False).input_ids) if text else []

    def _accepts_system(self) -> bool:
        try:
            self._render([Message("system", "s"), Message("user", "u")], generation_prompt=True)
        except SetupError:  # templates refuse a system turn (jinja2's raise_exception) or leave it out
            return False
        return True

    def _merge_system(self, messages: Sequence[Message]) -> Sequence[Message]:
        if not (self.system_as_user and messages and messages[0].role == "system"):
            return messages
        first, user, *rest = messages
        return [Message("user", f"{first.content}\n\n{user.content}"), *rest]

    def _find_end_of_turn(self) -> int:
        turns = [Message("user", "u"), Message("assistant", "a")]
        tail = self._render(turns, generation_prompt=False)[-1]
        special = set(self.tokenizer.all_special_ids)
        added = {i for i, token in self.tokenizer.added_tokens_decoder.items() if token.special}
        for token in tail if isinstance(tail, list) else []:
            if token in special | added:
                return int(token)
        if self.tokenizer.eos_token_id is None:
            raise SetupError("neither the chat template nor the tokenizer names a token that ends an answer")
        return int(self.tokenizer.eos_token_id)


def _default_template(tokenizer: Any) -> str:
    """The tokenizer's one template, or the default of several (others are for tools)."""
    try:
        return str(tokenizer.get_chat_template())
    except ValueError as error:
        raise SetupError("the tokenizer has several chat templates and none is the default") from error
