"""ChatTemplate: messages to token ids, such that text can never turn into control tokens.

The model's own chat template is rendered with a placeholder where each message's content belongs, so that it
cannot cut anything out of a content. The text that comes out is encoded as a whole, as the model knows it; unless
a content would turn into control tokens there. Then contents and template are encoded apart, the contents as
ordinary text: ``<|im_end|>`` in a question stays ten harmless characters. The prompt a model is asked with is by
construction an exact prefix of the sequence it was trained on.
"""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from cotdistill.engines import Message
from cotdistill.errors import SetupError
from cotdistill.shown import cause_of
from cotdistill.thinking import CLOSE, OPEN, apart
from cotdistill.wording import CLOSED, bare, fixed, template_hash

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

_SLOT = re.compile("\ue000(\\d+)\ue001")


def read_tokenizer(directory: Path, *, trust_remote_code: bool = False) -> Any:
    """The transformers tokenizer in a directory. Raises ``SetupError`` where there is none that loads."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(directory, local_files_only=True, trust_remote_code=trust_remote_code)
    except Exception as error:  # a damaged file fails in any of the library's own ways
        why = cause_of(error)
        raise SetupError(f"cannot load the tokenizer in {directory}: {why}; get the model again") from error


class ChatTemplate:
    """A tokenizer's chat template, made safe. ``end_of_turn`` is the id that closes an answer; ``fixed`` is the
    template as it is rendered, without and with ``thinking``, of which one is the student's.

    ``tokenizer`` is a transformers tokenizer; ``stops`` are the ids at which the model's own files end an answer.
    Raises ``SetupError`` where the template cannot be used: it drops a message, or neither it nor the tokenizer names a
    token that ends an answer.
    """

    def __init__(self, tokenizer: Any, *, thinking: bool = False, stops: Iterable[int] = ()) -> None:
        self.tokenizer, self.thinking = tokenizer, thinking
        self.plain = tokenizer.chat_template is None
        self.source: str = PLAIN if self.plain else bare(_default_template(tokenizer))
        if "<|channel|>" in self.source:
            raise SetupError("gpt-oss writes in channels, which are not read here: ask it on a server (--base_url)")
        self._add_bos = self.plain and adds_bos(tokenizer)
        self._control = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
        self._stops = self._control & set(stops)  # an older tokenizer's ids may be letters
        self._added = _added_text(tokenizer)
        self._anchor = self._encoded("\n")
        self._anchored = self._encoded("\nx") != self._anchor + self._encoded("x")
        self.fixed = {thinking: fixed(self.source, thinking) for thinking in (False, True)}
        self.system_as_user = not self._accepts_system()
        if self.opens_thinking(False):
            self.fixed[False] += CLOSED
        self.end_of_turn = self._find_end_of_turn()
        self._lead = self._find_lead()

    @property
    def exported(self) -> str:
        """The template that goes with a student, whoever renders it."""
        return self.fixed[self.thinking]

    def prompt_ids(self, messages: Sequence[Message], *, thinking: bool | None = None) -> list[int]:
        """Ids of the messages plus the opening of the answer. ``thinking``: the model may think first; by default, as
        the student is trained."""
        messages = self._merge_system(messages)
        thinking = self.thinking if thinking is None else thinking
        pieces = self._pieces(messages, generation_prompt=True, thinking=thinking)
        texts = [messages[piece].content.strip() if isinstance(piece, int) else piece for piece in pieces]
        whole = self._template_ids("".join(texts), first=True)
        cut: list[int] = []
        for at, (piece, text) in enumerate(zip(pieces, texts, strict=True)):
            cut += self.content_ids(text) if isinstance(piece, int) else self._template_ids(text, first=not at)
        return whole if self._controls(whole) == self._controls(cut) else cut

    def opens_thinking(self, thinking: bool) -> bool:
        """Whether a prompt ends inside a thought, so that the answer begins in it."""
        text = self._text([Message("user", "u")], generation_prompt=True, thinking=thinking)
        return text.rstrip().endswith(OPEN)

    def answer_ids(self, text: str) -> list[int]:
        """Ids of an answer and the end-of-turn token: what a student is trained to write. The tags of a thought are
        the tokenizer's own where it has some."""
        return [*self.content_ids(self._lead + self.written(text), written=True), self.end_of_turn]

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
        """Ids of ordinary text. Control tokens written out in it stay ordinary text; in what a model has ``written``
        the tags of a thought are the exception."""
        ids: list[int] = []
        start = 0
        for match in self._added.finditer(text) if self._added else ():
            if not (written and match[0] in (OPEN, CLOSE)):
                ids += self._text_ids(text[start : match.start() + 1])
                start = match.start() + 1
        return ids + self._text_ids(text[start:])

    def _text_ids(self, text: str) -> list[int]:
        return self._inside(text, split_special_tokens=True)

    def _template_ids(self, text: str, *, first: bool) -> list[int]:
        return self._encoded(text) if first else self._inside(text)

    def _inside(self, text: str, **how: bool) -> list[int]:
        """The ids of a text in the midst of others. Some tokenizers put a blank before every text, and would not put
        one there: behind another text it is left out."""
        if not self._anchored:
            return self._encoded(text, **how)
        ids = self._encoded(f"\n{text}", **how)
        return ids[len(self._anchor) :] if ids[: len(self._anchor)] == self._anchor else self._encoded(text, **how)

    def _encoded(self, text: str, **how: bool) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False, **how).input_ids) if text else []

    def _controls(self, ids: Sequence[int]) -> list[int]:
        return [token for token in ids if token in self._control]

    @property
    def stop_ids(self) -> list[int]:
        """Ids at which generation ends: the end of turn, the tokenizer's own end of sequence, and what the model's
        files say besides (``stops``)."""
        return sorted(({self.end_of_turn, self.tokenizer.eos_token_id} - {None}) | self._stops)

    @property
    def hash(self) -> str:
        """16 hex digits: the template an adapter was trained with is the one it must be asked with."""
        return template_hash(self.source)

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

    def _pieces(
        self, messages: Sequence[Message], generation_prompt: bool, thinking: bool = False
    ) -> list[str | int]:
        """The rendered template: its own text and, for each content, the message's index."""
        pieces = _SLOT.split(self._text(messages, generation_prompt, thinking))
        if sorted(map(int, pieces[1::2])) != list(range(len(messages))):  # some put the system text into a user turn
            raise SetupError("the chat template drops or repeats a message; give the model another template")
        return [int(piece) if at % 2 else piece for at, piece in enumerate(pieces)]

    def _accepts_system(self) -> bool:
        try:
            self._pieces([Message("system", "s"), Message("user", "u")], generation_prompt=True)
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
        tail = str(self._pieces(turns, generation_prompt=False)[-1])
        special = set(self.tokenizer.all_special_ids)
        special |= {i for i, token in self.tokenizer.added_tokens_decoder.items() if token.special}
        for token in self._template_ids(tail, first=False):
            if token in special:
                return token
        if self.tokenizer.eos_token_id is None:
            raise SetupError("neither the chat template nor the tokenizer names a token that ends an answer")
        return int(self.tokenizer.eos_token_id)

    def _find_lead(self) -> str:
        """The blank that some templates (Llama 2, Mistral) write before an answer, and leave to the model when they ask
        for one."""
        turns = [Message("user", "u"), Message("assistant", "a")]
        before = str(self._pieces(turns, generation_prompt=False)[-3])
        asked = self._text(turns[:1], generation_prompt=True, thinking=self.thinking)
        return " " if before.endswith(" ") and not asked.endswith(" ") else ""


def adds_bos(tokenizer: Any) -> bool:
    """Whether the tokenizer puts its BOS before a text by itself."""
    bos = tokenizer.bos_token_id
    return bos is not None and list(tokenizer("x").input_ids[:1]) == [bos]


def _default_template(tokenizer: Any) -> str:
    """The tokenizer's one template, or the default of several (others are for tools)."""
    try:
        return str(tokenizer.get_chat_template())
    except ValueError as error:
        raise SetupError("the tokenizer has several chat templates and none is the default") from error


def _added_text(tokenizer: Any) -> re.Pattern[str] | None:
    """The added tokens that look like control tokens and are not marked as such, which every text may hold."""
    names = [str(token) for token in tokenizer.added_tokens_decoder.values() if not token.special]
    marks = [name for name in names if len(name) > 2 and name[0] in "<[" and name[-1] in ">]"]
    return re.compile("|".join(map(re.escape, sorted(marks, key=len, reverse=True)))) if marks else None
