'''Modelfile: how Ollama puts questions to an exported GGUF: the student's own chat turns, prompt and stop tokens.

    FROM ./student.gguf
    TEMPLATE """{{ range .Messages }}<|im_start|>{{ .Role }}
    {{ .Content }}<|im_end|>
    {{ end }}<|im_start|>assistant
    """
    SYSTEM """Solve the problem step by step ..."""

Ollama's templates are Go's, not the model's Jinja. Two families of turns are known here, ChatML and Llama 3; a chat
template belongs to one if it renders a sample conversation to exactly the same text. Others get no Modelfile.
'''

import json

import msgspec

from cotdistill.card import AdapterCard
from cotdistill.engines import Message
from cotdistill.errors import SetupError
from cotdistill.template import ChatTemplate

CONTEXT = 4096
"""Most tokens of prompt and answer together; Ollama's own default differs between versions and machines."""

SYSTEM = "§"
"""The sample's system prompt: found again in what is rendered, because no template writes it of itself."""

SAMPLE = (Message("system", SYSTEM), Message("user", "U"), Message("assistant", "A"), Message("user", "V"))


class Turns(msgspec.Struct, frozen=True):
    """A turn is ``before`` with the role in it, the content, ``after``. ``start`` opens the conversation; in the system
    turn stand ``preamble`` before the content and ``closing`` after it (Llama 3.1 writes dates there); ``opening`` is
    what an answer stands behind (an empty thought, or the tag of one)."""

    before: str
    after: str
    start: str = ""
    preamble: str = ""
    closing: str = ""
    opening: str = ""

    def rendered(self, messages: tuple[Message, ...]) -> str:
        """The conversation and the opening of the answer, as ``go`` makes Ollama write it."""
        text = self.start
        for message in messages:
            system = message.role == "system"
            content = f"{self.preamble}{message.content}{self.closing}" if system else message.content
            text += self.before.format(role=message.role) + content + self.after
        return text + self.before.format(role="assistant") + self.opening

    def go(self, *, start: bool) -> str:
        """The Go template; without ``start`` where the tokenizer puts it there by itself."""
        turn = self.before.format(role="{{ .Role }}")
        around = (self.preamble, self.closing)
        first, last = (f'{{{{ if eq .Role "system" }}}}{text}{{{{ end }}}}' if text else "" for text in around)
        return (
            (self.start if start else "")
            + f"{{{{ range .Messages }}}}{turn}{first}{{{{ .Content }}}}{last}{self.after}{{{{ end }}}}"
            + self.before.format(role="assistant")
            + self.opening
        )


FAMILIES = (
    Turns("<|im_start|>{role}\n", "<|im_end|>\n"),
    Turns("<|start_header_id|>{role}<|end_header_id|>\n\n", "<|eot_id|>"),
)


def turns_of(template: ChatTemplate) -> Turns:
    """The family of a chat template. Raises ``SetupError`` if it renders the sample otherwise than each of them."""
    text = _rendered(template, SAMPLE)
    for family in FAMILIES:
        start, found, rest = text.partition(family.before.format(role="system"))
        turn = rest.partition(family.after + family.before.format(role="user"))[0]
        preamble, _, closing = turn.partition(SYSTEM)
        opening = rest.rpartition(family.before.format(role="assistant"))[2]
        turns = msgspec.structs.replace(family, start=start, preamble=preamble, closing=closing, opening=opening)
        unclear = any(mark in start + preamble + closing + opening for mark in ("{{", SYSTEM))
        if found and turns.rendered(SAMPLE) == text and not unclear:
            return turns
    raise SetupError("Ollama's template is written for ChatML and Llama 3 turns, and this model's are others")


def _rendered(template: ChatTemplate, messages: tuple[Message, ...]) -> str:
    conversation = [msgspec.to_builtins(message) for message in messages]
    try:
        text = template.tokenizer.apply_chat_template(
            conversation, chat_template=template.exported, add_generation_prompt=True, tokenize=False
        )
    except Exception as error:  # jinja2's own: a template may refuse a system turn
        raise SetupError(f"the chat template cannot be said as an Ollama template: {error}") from error
    return str(text)


def modelfile(gguf: str, template: ChatTemplate, card: AdapterCard | None, *, context: int, adds_bos: bool) -> str:
    """The text of a Modelfile for the GGUF file named ``gguf`` beside it; ``context`` is the most the model attends
    to. Raises ``SetupError`` where the chat template or the prompt cannot be said in one."""
    turns = turns_of(template)
    lines = [f"FROM ./{gguf}", f'TEMPLATE """{turns.go(start=not adds_bos)}"""']
    if not (card and card.system_prompt):
        if turns.rendered(SAMPLE[1:]) != _rendered(template, SAMPLE[1:]):
            raise SetupError("where there is no system prompt the chat template writes one, and Ollama's would not")
    else:
        if '"""' in card.system_prompt:
            raise SetupError('the system prompt holds """, which a Modelfile cannot say')
        lines.append(f'SYSTEM """{card.system_prompt.strip()}"""')  # as it is trained with
    stops = [template.tokenizer.convert_ids_to_tokens(token) for token in template.stop_ids]
    lines += [f"PARAMETER stop {json.dumps(stop, ensure_ascii=False)}" for stop in stops]
    # Greedy, and without Ollama's penalty on repeated words: arithmetic repeats numbers.
    lines += ["PARAMETER temperature 0", "PARAMETER repeat_penalty 1", f"PARAMETER num_ctx {min(context, CONTEXT)}"]
    return "\n".join(lines) + "\n"
