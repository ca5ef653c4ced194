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
from cotdistill.thinking import CLOSE, EMPTY, OPEN, apart

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

SWITCHES = ("enable_thinking", "thinking")
"""By which variables templates are told whether the model thinks first (Qwen3, SmolLM3, GLM; DeepSeek, Granite)."""

_CLOSED = f"{{% if add_generation_prompt %}}{{{{ {EMPTY!r} }}}}{{% endif %}}"
"""Behind a template that opens a thought whatever it is told: what closes it again."""

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
    """A tokenizer's chat template, made safe. ``end_of_turn`` is the id that closes an answer; ``fixed`` is the
    template as it is rendered, without and with ``thinking``, of which one is the student's.

    ``tokenizer`` is a transformers tokenizer. Raises ``SetupError`` where the template cannot be used:
    it drops a message, or neither it nor the tokenizer names a token that ends an answer.
    """

    def __init__(self, tokenizer: Any, *, thinking: bool = False) -> None:
        self.tokenizer, self.thinking = tokenizer, thinking
        self.plain = tokenizer.chat_template is None
        self.source: str = PLAIN if self.plain else bare(_default_template(tokenizer))
        if "<|channel|>" in self.source:
            raise SetupError("gpt-oss writes in channels, which are not read here: take a server of its, --base_url")
        bos = tokenizer.bos_token_id
        self._add_bos = self.plain and bos is not None and tokenizer("x").input_ids[:1] == [bos]
        self._added = _added_text(tokenizer)
        self._anchor: list[int] = list(tokenizer("\n", add_special_tokens=False).input_ids)
        self._anchored = False
        self._anchored = self._text_ids("x") != self._behind_anchor("x")
        self.fixed = {thinking: _fixed(self.source, thinking) for thinking in (False, True)}
        self.system_as_user = not self._accepts_system()
        if self.opens_thinking(False):
            self.fixed[False] += _CLOSED
        self.end_of_turn = self._find_end_of_turn()
        self.also_stops: frozenset[int] = frozenset()

    @property
    def exported(self) -> str:
        """The template that goes with a student, whoever renders it."""
        return self.fixed[self.thinking]

    def prompt_ids(self, messages: Sequence[Message], *, thinking: bool | None = None) -> list[int]:
        """Ids of the messages plus the opening of the answer. ``thinking``: the model may think first; by default, as
        the student is trained."""
        messages = self._merge_system(messages)
        thinking = self.thinking if thinking is None else thinking
        ids: list[int] = []
        for part in self._render(messages, generation_prompt=True, thinking=thinking):
            ids += part if isinstance(part, list) else self.content_ids(messages[part].content.strip())
        return ids

    def opens_thinking(self, thinking: bool) -> bool:
        """Whether a prompt ends inside a thought, so that the answer begins in it."""
        text = self._text([Message("user", "u")], generation_prompt=True, thinking=thinking)
        return text.rstrip().endswith(OPEN)

    def answer_ids(self, text: str) -> list[int]:
        """Ids of an answer and the end-of-turn token: what a student is trained to write. The tags of a thought are
        the tokenizer's own where it has some."""
        return [*self.content_ids(self.written(text), written=True), self.end_of_turn]

    def written(self, text: str) -> str:
        """An answer as it is written after a prompt, which may have opened its thought."""
        begun = text.lstrip()
        opened = begun.startswith(OPEN) and self.opens_thinking(self.thinking)
        return begun.removeprefix(OPEN).lstrip() if opened else text

    def read(self, prompt: Sequence[int], ids: Sequence[int]) -> tuple[str, str | None]:
        """What the ids behind a prompt say: the answer byte for byte, and the thought before it."""
        text, before = (self.tokenizer.decode(one, skip_special_tokens=False, clean_up_tokenization_spaces=False)
                        for one in (ids, prompt[-8:]))  # fmt: skip
        return apart(text, opened=before.rstrip().endswith(OPEN))

    def content_ids(self, text: str, *, written: bool = False) -> list[int]:
        """Ids of ordinary text; control tokens written out in it stay ordinary text, in what a model has ``written``
        all but the tags of a thought."""
        ids: list[int] = []
        start = 0
        for match in self._added.finditer(text) if self._added else ():
            if not (written and match[0] in (OPEN, CLOSE)):
                ids += self._text_ids(text[start : match.start() + 1])
                start = match.start() + 1
        return ids + self._text_ids(text[start:])

    def _text_ids(self, text: str) -> list[int]:
        if self._anchored:
            return self._behind_anchor(text)
        return list(self.tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids)

    def _behind_anchor(self, text: str) -> list[int]:
        """For tokenizers that put a blank before every text, and not before one in the midst of a prompt."""
        ids = list(self.tokenizer(f"\n{text}", add_special_tokens=False, split_special_tokens=True).input_ids)
        return ids[len(self._anchor) :] if text else []

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

    def _text(self, messages: Sequence[Message], generation_prompt: bool, thinking: bool) -> str:
        """The rendered template, with a mark for each content."""
        slots = [{"role": m.role, "content": f"\ue000{i}\ue001"} for i, m in enumerate(messages)]
        try:
            text: str = self.tokenizer.apply_chat_template(
                slots, chat_template=self.fixed[thinking], add_generation_prompt=generation_prompt, tokenize=False,
                add_bos=self._add_bos,
            )  # fmt: skip
        except Exception as error:  # jinja2's own, and whatever a template raises
            raise SetupError(f"the chat template cannot be used: {error}") from error
        return text

    def _render(
        self, messages: Sequence[Message], generation_prompt: bool, thinking: bool = False
    ) -> list[list[int] | int]:
        """The rendered template as ids of its own text and, for each content, the message's index."""
        text = self._text(messages, generation_prompt, thinking)
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


def bare(template: str) -> str:
    """A template without what ``fixed`` adds to it, nor the line's end behind it, which jinja2 drops."""
    template = template.removesuffix(_CLOSED).removesuffix("\n")
    for line in (*(_switch(name, on) for name in SWITCHES for on in (False, True)), DATED, TODAY):
        template = template.removeprefix(line)
    return template


def _fixed(source: str, thinking: bool) -> str:
    """The template with what it asks for besides messages said in it, whoever renders it: the day, and whether the
    model thinks first."""
    day = (DATED if "date_string" in source else "") + (TODAY if "strftime_now" in source else "")
    switches = [name for name in SWITCHES if re.search(rf"(?<![\w.'\"]){name}(?![\w'\"])", source)]
    return "".join(_switch(name, thinking) for name in switches) + day + source


def _switch(name: str, on: bool) -> str:
    return f"{{%- set {name} = {str(on).lower()} %}}"


def _added_text(tokenizer: Any) -> re.Pattern[str] | None:
    """The added tokens that look like control tokens and are not marked as such, which every text may hold."""
    names = [str(token) for token in tokenizer.added_tokens_decoder.values() if not token.special]
    marks = [name for name in names if len(name) > 2 and name[0] in "<[" and name[-1] in ">]"]
    return re.compile("|".join(map(re.escape, sorted(marks, key=len, reverse=True)))) if marks else None
