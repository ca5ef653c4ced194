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

SAMPLE = (Message("system", "S"), Message("user", "U"), Message("assistant", "A"), Message("user", "V"))


class Turns(msgspec.Struct, frozen=True):
    """A turn is ``before`` with the role in it, the content, ``after``. ``start`` opens the conversation, ``preamble``
    the system turn (Llama 3.1 writes dates there) and ``opening`` the answer (an empty thought, or the tag of one)."""

    before: str
    after: str
    start: str = ""
    preamble: str = ""
    opening: str = ""

    def rendered(self, messages: tuple[Message, ...]) -> str:
        """The conversation and the opening of the answer, as ``go`` makes Ollama write it."""
        text = self.start
        for message in messages:
            preamble = self.preamble if message.role == "system" else ""
            text += self.before.format(role=message.role) + preamble + message.content + self.after
        return text + self.before.format(role="assistant") + self.opening

    def go(self, *, start: bool) -> str:
        """The Go template; without ``start`` where the tokenizer puts it there by itself."""
        turn = self.before.format(role="{{ .Role }}")
        preamble = f'{{{{ if eq .Role "system" }}}}{self.preamble}{{{{ end }}}}' if self.preamble else ""
        return (
            (self.start if start else "")
            + f"{{{{ range .Messages }}}}{turn}{preamble}{{{{ .Content }}}}{self.after}{{{{ end }}}}"
            + self.before.format(role="assistant")
            + self.opening
        )


FAMILIES = (
    Turns("<|im_start|>{role}\n", "<|im_end|>\n"),
    Turns("<|start_header_id|>{role}<|end_header_id|>\n\n", "<|eot_id|>"),
)


def turns_of(template: ChatTemplate) -> Turns:
    """The family of a chat template. Raises ``SetupError`` if it renders the sample otherwise than each of them."""
    conversation = [msgspec.to_builtins(message) for message in SAMPLE]
    try:
        text = template.tokenizer.apply_chat_template(
            conversation, chat_template=template.exported, add_generation_prompt=True, tokenize=False
        )
    except Exception as error:  # jinja2's own: a template may refuse a system turn
        raise SetupError(f"the chat template cannot be said as an Ollama template: {error}") from error
    for family in FAMILIES:
        start, found, rest = text.partition(family.before.format(role="system"))
        preamble = rest.partition("S" + family.after)[0]
        opening = rest.rpartition(family.before.format(role="assistant"))[2]
        turns = msgspec.structs.replace(family, start=start, preamble=preamble, opening=opening)
        if found and turns.rendered(SAMPLE) == text and "{{" not in start + preamble + opening:
            return turns
    raise SetupError("Ollama's template is written for ChatML and Llama 3 turns, and this model's are others")


def modelfile(gguf: str, template: ChatTemplate, card: AdapterCard | None, *, context: int, adds_bos: bool) -> str:
    """The text of a Modelfile for the GGUF file named ``gguf`` beside it; ``context`` is the most the model attends
    to. Raises ``SetupError`` where the chat template or the prompt cannot be said in one."""
    lines = [f"FROM ./{gguf}", f'TEMPLATE """{turns_of(template).go(start=not adds_bos)}"""']
    if card and card.system_prompt:
        if '"""' in card.system_prompt:
            raise SetupError('the system prompt holds """, which a Modelfile cannot say')
        lines.append(f'SYSTEM """{card.system_prompt.strip()}"""')  # as it is trained with
    stops = [template.tokenizer.convert_ids_to_tokens(token) for token in template.stop_ids]
    lines += [f"PARAMETER stop {json.dumps(stop, ensure_ascii=False)}" for stop in stops]
    # Greedy, and without Ollama's penalty on repeated words: arithmetic repeats numbers.
    lines += ["PARAMETER temperature 0", "PARAMETER repeat_penalty 1", f"PARAMETER num_ctx {min(context, CONTEXT)}"]
    return "\n".join(lines) + "\n"
