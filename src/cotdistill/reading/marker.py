"""Marker: where a text says that its answer follows.

    "... so 36.\\n**Final Answer:** 36 apples"  ->  "36 apples"

A marker is written as in ``MARKERS`` but in any case, with any spacing and Markdown emphasis; it is complete if
something stands behind it, on its line or below, and ``\\boxed{}`` if its brace is closed. The last complete one
wins. ``####`` before a numbered step is a heading and no marker, and ``A:`` beside a line that begins ``B:`` is an
option.
"""

import re
from collections.abc import Iterator
from functools import lru_cache

import msgspec

from cotdistill.reading.remark import opens_reasoning

MAX_MARKED = 4000  # characters behind a marker
MARKERS = (
    "Final Answer:",
    "The final answer is",
    "Therefore, the answer (arabic numerals) is",
    "The correct answer is",
    "The answer is",
    "Answer:",
    "A:",
    "####",
    "\\boxed{}",
)
MAX_TRIED = 50  # markers looked at, from the last
# Behind these, prose is as likely as an answer ("A: Let us think"), so what cannot be read there does not count.
_SOFT = frozenset(m for m in MARKERS if m not in ("Final Answer:", "\\boxed{}"))


def spoken(text: str) -> tuple[str, tuple[str, ...]]:
    """``text`` without thinking and without a run-on, and the flags that say so."""
    if "</think>" in text:
        text = text.rpartition("</think>")[2]
    elif "<think>" in text:
        text = text.partition("<think>")[0]  # never closed: nothing behind it was meant as an answer
    end = run_on(text)
    return (text, ()) if end is None else (text[:end], ("run_on",))


def run_on(text: str, start: int = 0) -> int | None:
    """Where a text goes on with another turn, None if it does not. A line that begins with the name of one and a
    colon, such as "\\nQuestion:", is found in any case, indented, emphasised and numbered, too: "\\n**Question 2:**".
    Behind an answer it needs no colon if it is numbered and alone on its line, and a task behind a blank line, such as
    "\\n\\nProblem:", is found only there: a text may tell its own problem first."""
    stop = _NEXT_TURN.search(text, start)
    end = stop.start() if stop else len(text)
    if (weak := _BEHIND_ANSWER.search(text, start, end)) and (answered := _ANSWERED.search(text, start, end)):
        weak = _BEHIND_ANSWER.search(text, answered.end(), end)
        end = weak.start() if weak else end
    return end if end < len(text) else None


# All that stops a text begins with a new line, which makes the search quick.
_LINE = r"\n[ \t>*_#]{0,8}"
_TURN = rf"{_LINE}(?i:Question|Q|User|Human)"
_COLON = r"(?:[ ]?[0-9]{1,3})?[ ]?[*_]{0,3}[ ]?[:：]"
_NEXT_TURN = re.compile(rf"{_TURN}{_COLON}|\n### Instruction:")
_BEHIND_ANSWER = re.compile(
    rf"{_TURN}[ ]?[0-9]{{1,3}}[ ]?[*_]{{0,3}}[ \t]*$|\n[ \t]*{_LINE}(?i:Problem|Exercise){_COLON}", re.MULTILINE
)
_ANSWERED = re.compile(r"answer[\s*_]{0,4}(?:is(?!\w)|:)|####|\\boxed", re.IGNORECASE)


@lru_cache(maxsize=64)
def _pattern(markers: tuple[str, ...]) -> re.Pattern[str]:
    soft = [_spelling(m) for m in markers if m in _SOFT and not m.startswith("#")]
    hard = [_spelling(m) for m in markers if m not in _SOFT and not m.startswith("\\boxed")]
    hashes = [re.escape(m) + "(?!#)" for m in markers if m in _SOFT and m.startswith("#")]
    named = {"hard": hard, "soft": soft, "hash": [rf"(?<!\S)(?:{h})" for h in hashes]}
    groups = [f"(?P<{name}>{'|'.join(forms)})" for name, forms in named.items() if forms]
    return re.compile("|".join(groups) or r"(?!)", re.IGNORECASE | re.MULTILINE)


def _spelling(marker: str) -> str:
    """A marker as people write it: any spacing and emphasis between its words and around its colon."""
    words, colon = (marker[:-1], True) if marker.endswith(":") else (marker, False)
    pattern = r"[ \t*_]{1,4}".join(map(re.escape, words.split()))
    start = r"^[ \t>*_#]{0,8}" if len(words) == 1 else r"(?<![^\W_])"
    if not colon:
        return start + pattern + (r"(?![^\W_])[*_]{0,3}:?" if words[-1:].isalnum() else "")
    heading = rf"|^[ \t#*_]{{0,8}}{pattern}[ \t*_]{{0,8}}$" if len(words.split()) > 1 else ""
    return rf"{start}{pattern}[ \t*_]{{0,4}}[:：][*_]{{0,3}}{heading}"


@lru_cache(maxsize=64)
def _needles(markers: tuple[str, ...]) -> frozenset[str]:
    return frozenset(max(m.lower().rstrip(":").split() or [m], key=len) + ":" * (len(m) == 2) for m in markers)


def _first_line(text: str, markers: tuple[str, ...]) -> int:
    """Where the first line starts that a marker can stand in, -1 if none: most traces have theirs at the end."""
    lower = text.lower()
    if len(lower) != len(text):
        return 0
    places = [place for place in map(lower.find, _needles(markers)) if place >= 0]
    return text.rfind("\n", 0, min(places)) + 1 if places else -1


_SENTENCE_END = re.compile(r"(?<=[^\s.])\.\s+(?=[A-Z])")
_HEADING = re.compile(r"\s?[0-9]{1,3}[.):]\s|\s?(?:step|part)\s", re.IGNORECASE)
_BOX_OR_BRACE = re.compile(r"\\boxed\s?\{|\\[{}]|[{}]")
_ONLY_MARKUP = re.compile(r"(?:[\s*_`$()#>~-]|\\[\[\]()])*")
_OPTION_LINE = re.compile(r"\s{0,8}[>*_#-]{0,8}[ \t]?[B-J][ \t*_]{0,4}[:：]")
_ANNOUNCED = re.compile(r"(?<!\w)to (?:find|get|calculate|compute|determine|reach) (?:the|our|my|an)?\s?(?:final )?$",
                        re.IGNORECASE)  # fmt: skip


class Marked(msgspec.Struct, frozen=True):
    """``text`` is what stands behind a marker; its ``first`` sentence ends at ``end``. Behind a ``soft`` marker it may
    be prose; if it ``opens`` the reasoning, its number is not the answer."""

    text: str
    first: str
    end: int
    soft: bool
    opens: bool = False


def marked_in(text: str, markers: tuple[str, ...]) -> Iterator[Marked]:
    """What stands behind each complete marker, last first."""
    found: list[tuple[int, int, str]] = []  # (start, end, what) of a marker, or of the inside of a box
    if (begin := _first_line(text, markers)) >= 0:
        found = [(m.start(), m.end(), m.lastgroup or "") for m in _pattern(markers).finditer(text, begin)]
    starts = [start for start, _, _ in found[1:]] + [len(text)]
    spans = [(start, end, until, what) for (start, end, what), until in zip(found, starts, strict=False)]
    if "\\boxed{}" in markers and "\\boxed" in text:
        spans = sorted(spans + [(*box, "box") for box in _boxes(text)])
    for start, end, until, what in spans[: -MAX_TRIED - 1 : -1]:
        if what == "box":
            if marked := cleaned(text[end:until]):
                yield Marked(marked, marked, until, soft=False)
            continue
        lines, line_end = _behind(text, end, until)
        marked = ", ".join(lines)
        if not marked or _UNCLOSED_BOX.search(marked) or _PLACEHOLDER.fullmatch(marked):
            continue
        if what == "hash" and _HEADING.match(marked):
            continue  # a Markdown heading
        name, opens = text[start:end].strip(" \t>*_#:：\n").lower(), False
        if name == "a" and _among_options(text, start, line_end):
            continue
        first = _SENTENCE_END.split(marked, maxsplit=1)[0]
        if what == "soft" and name.endswith("is"):
            marked = first
        elif what == "soft":
            announced = _ANNOUNCED.search(text, max(0, start - 40), start) is not None
            opens = opens_reasoning(lines[0], text[line_end:until], announced=announced)
        sentence = _SENTENCE_END.search(text, end, line_end)  # the next one may take it back
        yield Marked(marked, first, sentence.start() if sentence else line_end, what in ("soft", "hash"), opens)


def _among_options(text: str, start: int, end: int) -> bool:
    """Whether the line before or behind begins "B:", so that "A: 12" is an option and no answer."""
    line_before = text[max(0, start - 300) : start].rstrip().rpartition("\n")[2]
    return bool(_OPTION_LINE.match(text, end) or _OPTION_LINE.match(line_before))


_BLANK = (r"(?:(?:insert|put|write|the|a|your|my|final|numerical|numeric|correct|chosen)\s){{{},4}}"
          r"(?:answer|number|result|value|letter)(?: here)?")  # fmt: skip
# "Final Answer: [your answer here]", copied from the prompt
_PLACEHOLDER = re.compile(rf"\[{_BLANK.format(0)}\]|{_BLANK.format(1)}|(?:answer|number) here", re.IGNORECASE)
_UNCLOSED_BOX = re.compile(r"\\boxed\s?\{(?:[^{}]|\{[^{}]{0,200}\}){0,400}$")


def _behind(text: str, position: int, until: int) -> tuple[list[str], int]:
    """The rest of the line, or what stands below it before the next marker: the next line that holds more than
    markup, or the items of a list. Also where the first line of it ends."""
    for below in range(8):
        newline = text.find("\n", position, until)
        end = newline if newline >= 0 else until
        line = text[position : min(end, position + MAX_MARKED + 1)]
        if not _ONLY_MARKUP.fullmatch(line[:200]) or len(line) > 200:
            return (_items(text, position, until) if below else []) or [cleaned(line)], end
        if newline < 0:
            break
        position = newline + 1
    return [""], position


# "- 36 apples", but a lone "- 36" may be a minus; "> 36" is a quotation in Markdown, "1. 36 apples" the first of a list
_ITEM = re.compile(r"[ \t]*(?:[*•>]|-(?=[ \t]+\S+[ \t]+\S)|1[.)](?=[ \t]+\S+[ \t]+\S))[ \t]+(\S.*)")
_NEXT_ITEM = re.compile(r"[ \t]*(?:[-*•>]|[0-9]{1,2}[.)])[ \t]+(\S.*)")


def _items(text: str, position: int, until: int) -> list[str]:
    """The items of a list that begins there, without their bullets."""
    found: list[str] = []
    first = _NEXT_ITEM.match(text, position, min(until, position + MAX_MARKED))
    second = first and _NEXT_ITEM.match(text, first.end() + 1, min(until, first.end() + MAX_MARKED))
    item = first if second else _ITEM.match(text, position, min(until, position + MAX_MARKED))
    while item and len(found) < 50:
        found.append(cleaned(item[1]))
        item = _NEXT_ITEM.match(text, item.end() + 1, min(until, item.end() + MAX_MARKED))
    return found


# "36</answer>", "36<|eot_id|>", and the ends of Gemma's and DeepSeek's turns
_TAG_BEHIND = re.compile(r"(?:</[a-z]{1,20}>|<[|｜][a-z_▁]{1,20}[|｜]>|<(?:end_of_turn|eos)>)$", re.IGNORECASE)
# "they form **yajo**", "we get `yajo`": what stands in it is the answer
_EMPHASIS_AT_END = re.compile(r"^[^*`]*\s(?:\*\*[^*`]+\*\*|`[^*`]+`)$")
_TAG_BEFORE = re.compile(r"<(?:b|strong|i|em|u|answer)>", re.IGNORECASE)


def cleaned(line: str) -> str:
    """A line without the emphasis, backticks, tags or angle brackets around it."""
    line = line.strip()
    for _ in range(4):
        if not line.endswith(">") or not (tag := _TAG_BEHIND.search(line[-24:])):
            break
        line = _TAG_BEFORE.sub("", line[: -len(tag[0])].strip(), count=1).strip()
    line = line.lstrip(":").strip()
    if line.startswith("**") and line.count("**") == 2:
        line = line.replace("**", "")
    if not _EMPHASIS_AT_END.search(line):
        line = line.strip(" \t\r*`").strip()
    return line[1:-1].strip() if line[:1] == "<" and line[-1:] == ">" else line


def _boxes(text: str) -> list[tuple[int, int, int]]:
    """Every closed ``\\boxed{...}``, its braces balanced: (start, where the content starts, where it ends)."""
    found: list[tuple[int, int, int]] = []
    open_braces: list[tuple[int, int]] = []  # (start, start of the content or -1 for a plain brace)
    for match in _BOX_OR_BRACE.finditer(text):
        if len(match[0]) == 2:
            continue  # an escaped brace belongs to the answer
        if match[0] == "{":
            open_braces.append((match.start(), -1))
        elif match[0] != "}":
            open_braces.append((match.start(), match.end()))
        elif open_braces:
            start, inside = open_braces.pop()
            if inside >= 0:
                found.append((start, inside, match.start()))
    return found
