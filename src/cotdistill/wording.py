"""Wording: the day, and whether the model thinks first, written into the chat template itself.

    {%- set enable_thinking = false %}{%- set date_string = '01 Jan 2025' %}{{ bos_token }}{% for message in ...

Templates write the day into prompts and ask whether the model shall think first. Those who serve a student elsewhere
answer that otherwise than training did; so the answer goes with the template.
"""

import hashlib
import re

from cotdistill.thinking import EMPTY

DATE = "01 Jan 2025"
"""For templates that write the day into the system turn (Llama 3): prompts must not change overnight."""

DATED = f"{{%- set date_string = '{DATE}' %}}"
"""What makes such a template of a GGUF file write that day, whoever renders it."""

TODAY = f"{{% macro strftime_now(format) %}}{DATE}{{% endmacro %}}\n"
"""The same for templates that ask the clock; jinja2 takes the line's end with the block's."""

SWITCHES = ("enable_thinking", "thinking")
"""By which variables templates are told whether the model thinks first (Qwen3, SmolLM3, GLM; DeepSeek, Granite)."""

CLOSED = f"{{% if add_generation_prompt %}}{{{{ {EMPTY!r} }}}}{{% endif %}}"
"""Closes the thought again that a template opens whatever it is told; put behind that template."""


def bare(template: str) -> str:
    """A template without what ``fixed`` adds to it, nor the line's end behind it, which jinja2 drops."""
    template = template.removesuffix(CLOSED).removesuffix("\n")
    for line in (*(_switch(name, on) for name in SWITCHES for on in (False, True)), DATED, TODAY):
        template = template.removeprefix(line)
    return template


def template_hash(source: str) -> str:
    """16 hex digits for a template as ``bare`` leaves it."""
    return hashlib.sha256(source.encode()).hexdigest()[:16]


def fixed(source: str, thinking: bool) -> str:
    """The template with the day, and whether the model thinks first, written into it where it asks for them. So it says
    the same whoever renders it."""
    day = (DATED if "date_string" in source else "") + (TODAY if "strftime_now" in source else "")
    switches = [name for name in SWITCHES if re.search(rf"(?<![\w.'\"]){name}(?![\w'\"])", source)]
    return "".join(_switch(name, thinking) for name in switches) + day + source


def _switch(name: str, on: bool) -> str:
    return f"{{%- set {name} = {str(on).lower()} %}}"
