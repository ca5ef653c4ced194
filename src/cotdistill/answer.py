"""Answer: what a text says its answer is.

    find_answer("15% of 240 is 36.\\nFinal Answer: 36 apples.")
        -> Answer(text="36 apples.", kind="number", value=Quantity(36, "apple"), status="found", source="marker")

The strict reading takes what stands behind the last complete marker and nothing else; the lenient one
(``fallback=True``) goes on to the last number, choice, yes or no, or the quoted, bold or last word, and says
which it took. Everything is pure, linear in the text, and evaluates nothing. Only the last 32,768 characters
before a run-on are read. Not covered here: symbolic answers, which are ``too_complex``.
"""

import re
from collections.abc import Iterator
from functools import lru_cache

import msgspec

from cotdistill import kinds
from cotdistill.kinds import MAX_ANSWER, MAX_LIST, Value, kind_of, same_value
from cotdistill.moment import dates_in, times_in
from cotdistill.plain import plain
from cotdistill.quantity import NUMBER, Status, quantity_at

__all__ = ["MARKERS", "STOPS", "Answer", "find_answer", "gold_part", "kind_of", "read_answer", "same_answer"]

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
STOPS = ("\nQuestion:", "\nQ:")
MAX_TEXT = 32_768
MAX_TRIED = 50  # markers looked at, from the last
MAX_SENTENCE = 60  # a longer text behind a soft marker, with several numbers, is reasoning and not an answer
# Behind these, prose is as likely as an answer ("A: Let us think"), so what cannot be read there does not count.
_SOFT = frozenset(m for m in MARKERS if m not in ("Final Answer:", "\\boxed{}"))


class Answer(msgspec.Struct, frozen=True):
    """``text`` is as written ("" if none), ``value`` its normalised meaning (None if none).

    ``source`` says where it stood: "marker", "bare" (the whole text), "last_number", "last_choice",
    "last_yes_no", "last_date", "last_time", "last_list", "quoted", "bold", "last_word", or "" if nowhere."""

    text: str
    kind: str
    value: "Value | None" = None
    status: Status = "no_answer"
    source: str = ""
    flags: tuple[str, ...] = ()


def find_answer(
    text: str,
    kind: str = "auto",
    *,
    markers: tuple[str, ...] = MARKERS,
    stops: tuple[str, ...] = STOPS,
    fallback: bool = False,
    choices: tuple[str, ...] | None = None,
) -> Answer:
    """The answer that a model's ``text`` gives. Text from the first of ``stops`` on is not its answer but a
    run-on, and thinking between ``<think>`` tags is not either. Raises ValueError for an unknown kind."""
    said, flags = spoken(text, stops)
    window = said[-MAX_TEXT:]
    patience = 8  # soft markers that led to prose
    for marked, soft in _marked(window, tuple(markers)):
        if soft and (len(marked) > MAX_LIST or not patience):
            continue
        asked = _infer(marked[: MAX_ANSWER + 1]) if kind == "auto" else kind
        limit = MAX_LIST if asked == "list" else MAX_ANSWER
        status, value = kinds.read(marked, asked, choices)
        prose = len(marked) > limit or (status == "ambiguous" and len(marked) > MAX_SENTENCE)
        if soft and (status == "no_answer" or prose):
            patience -= 1
            continue
        return Answer(marked[:limit] if status != "no_answer" else "", asked, value, status, "marker", flags)
    asked = kind
    if kind == "auto":
        asked = "number" if re.search("[0-9]", window) else "text"
    if fallback and window and not window.isspace():
        return _fallback(window, asked, choices, flags)
    return Answer("", asked, flags=flags)


def read_answer(text: str, kind: str = "auto", choices: tuple[str, ...] | None = None) -> Answer:
    """An answer on its own, such as a gold."""
    kind = kind_of(text, choices) if kind == "auto" else kind
    status, value = kinds.read(text, kind, choices)
    return Answer(text.strip(), kind, value, status, "bare" if value is not None else "")


def same_answer(a: Answer | str, b: Answer | str, *, tolerance: float | None = None) -> bool:
    """Whether both give the same answer; False unless both have a value. Reflexive and symmetric.

    A plain string is read as an answer of the other side's kind, two strings as of either one's kind.
    ``tolerance`` is the largest absolute difference between numbers, none by default."""
    if isinstance(a, str) and isinstance(b, str):
        return any(same_answer(_reread(a, k), _reread(b, k), tolerance=tolerance) for k in {kind_of(a), kind_of(b)})
    if isinstance(a, str):
        assert isinstance(b, Answer)
        return same_answer(b, a, tolerance=tolerance)
    other = _reread(b, a.kind) if isinstance(b, str) else b
    if a.value is None or other.value is None or a.kind != other.kind:
        return False
    return same_value(a.value, other.value, tolerance or 0)


def gold_part(answer: str) -> str:
    """The gold of a data set's answer: what follows the last ``####`` (GSM8K), else the text, stripped."""
    return answer.rpartition("####")[2].strip()


@lru_cache(maxsize=4096)
def _reread(text: str, kind: str) -> Answer:
    return read_answer(text, kind)


def spoken(text: str, stops: tuple[str, ...] = STOPS) -> tuple[str, tuple[str, ...]]:
    """``text`` without thinking and without a run-on, and the flags that say so."""
    if "</think>" in text:
        text = text.rpartition("</think>")[2]
    elif "<think>" in text:
        text = text.partition("<think>")[0]  # never closed: nothing behind it was meant as an answer
    ends = [end for end in map(text.find, stops) if end >= 0]
    return (text[: min(ends)], ("run_on",)) if ends else (text, ())


def _infer(marked: str) -> str:
    """The kind of marked text without a gold: a list only where its form leaves no doubt."""
    kind = kind_of(marked)
    if kind == "list" and marked.strip()[:1] not in "[({":
        status, value = kinds.read(marked, "list")
        clear = status == "found" and isinstance(value, tuple | frozenset) and len(value) > 1 and ", " in marked
        clear = clear and isinstance(value, tuple | frozenset) and not any(isinstance(v, str) for v in value)
        kind = "list" if clear else "text"
    return "number" if kind == "text" and NUMBER.search(plain(marked)) else kind


# --- markers


@lru_cache(maxsize=64)
def _pattern(markers: tuple[str, ...]) -> re.Pattern[str]:
    soft = [_spelling(m) for m in markers if m in _SOFT and not m.startswith("#")]
    hard = [_spelling(m) for m in markers if m not in _SOFT and not m.startswith("\\boxed")]
    hashes = [re.escape(m) + "(?!#)" for m in markers if m in _SOFT and m.startswith("#")]
    groups = [f"(?P<{name}>{'|'.join(forms)})" for name, forms in
              (("hard", hard), ("soft", soft), ("hash", [rf"(?<![^\s])(?:{h})" for h in hashes])) if forms]  # fmt: skip
    return re.compile("|".join(groups) or r"(?!)", re.IGNORECASE | re.MULTILINE)


def _spelling(marker: str) -> str:
    """A marker as people write it: any spacing and emphasis between its words and around its colon."""
    words, colon = (marker[:-1], True) if marker.endswith(":") else (marker, False)
    pattern = r"[\s*_]{1,4}".join(map(re.escape, words.split()))
    start = r"^[ \t>*_#]{0,8}" if len(words) == 1 else r"(?<![^\W_])"
    if not colon:
        return start + pattern + (r"(?![^\W_])[*_]{0,3}:?" if words[-1:].isalnum() else "")
    heading = rf"|^[ \t#*_]{{0,8}}{pattern}[ \t*_]{{0,8}}$" if len(words.split()) > 1 else ""
    return rf"{start}{pattern}[ \t*_]{{0,4}}[:：][*_]{{0,3}}{heading}"


_SENTENCE_END = re.compile(r"(?<=[^\s.])\.\s+(?=[A-Z])")
_HEADING = re.compile(r"\s?[0-9]{1,3}[.):]\s|\s?(?:step|part)\s", re.IGNORECASE)
_BOX_OR_BRACE = re.compile(r"\\boxed\s?\{|\\[{}]|[{}]")
_ONLY_MARKUP = re.compile(r"[\s*_`$\\\[\]()#>~-]*")


def _marked(text: str, markers: tuple[str, ...]) -> "Iterator[tuple[str, bool]]":
    """What stands behind each complete marker, last first, and whether the marker is a soft one."""
    found: list[tuple[int, int, str]] = []  # (start, end, what) of a marker, or of the inside of a box
    if "answer" in text or "Answer" in text or "#" in text or "A" in text or markers != MARKERS:
        found = [(m.start(), m.end(), m.lastgroup or "") for m in _pattern(markers).finditer(text)]
    starts = [start for start, _, _ in found[1:]] + [len(text)]
    spans = [(start, end, until, what) for (start, end, what), until in zip(found, starts, strict=False)]
    if "\\boxed{}" in markers and "\\boxed" in text:
        spans = sorted(spans + [(*box, "box") for box in _boxes(text)])
    for start, end, until, what in spans[: -MAX_TRIED - 1 : -1]:
        marked = _clean(text[end:until]) if what == "box" else _behind(text, end, until)
        if not marked or (what != "box" and _UNCLOSED_BOX.search(marked)) or marked[:4].lower() == "not ":
            continue
        if what == "hash" and _HEADING.match(marked):
            continue  # a Markdown heading
        if what == "soft" and text[start:end].rstrip("*_: \t")[-2:].lower() == "is":
            marked = _SENTENCE_END.split(marked, maxsplit=1)[0]
        yield marked, what in ("soft", "hash")


_UNCLOSED_BOX = re.compile(r"\\boxed\s?\{(?:[^{}]|\{[^{}]{0,200}\}){0,400}$")


def _behind(text: str, position: int, until: int) -> str:
    """The rest of the line, or the next line that holds more than markup, before the next marker."""
    for _ in range(8):
        end = text.find("\n", position, until)
        line = text[position : min(end if end >= 0 else until, position + MAX_LIST + 1)]
        if not _ONLY_MARKUP.fullmatch(line[:200]) or len(line) > 200:
            return _clean(line)
        if end < 0:
            return ""
        position = end + 1
    return ""


def _clean(line: str) -> str:
    line = line.strip().lstrip(":").strip()
    if line.startswith("**") and line.count("**") == 2:
        line = line.replace("**", "")
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


# --- the lenient reading


def _fallback(text: str, kind: str, choices: tuple[str, ...] | None, flags: tuple[str, ...]) -> Answer:
    bare = _clean(text.strip())
    if "\n" not in bare and len(bare) <= 80 and (kind == "list" or not _PROSE.search(bare)):
        status, value = kinds.read(bare, kind, choices)
        if status == "found":
            return Answer(bare, kind, value, status, "bare", flags)
    written, source = _last(plain(text), kind, choices)
    if not written:
        return Answer("", kind, flags=flags)
    status, value = kinds.read(written, kind, choices)
    return Answer(written if status != "no_answer" else "", kind, value, status, source if value is not None else "", flags)


_PROSE = re.compile(r"(?:\S+\s+){4}|\b(?:is|are|was|were|gives|get|so|it|i|this|that)\b", re.IGNORECASE)


def _last(text: str, kind: str, choices: tuple[str, ...] | None) -> tuple[str, str]:
    """The last thing in plain text that could be an answer of ``kind``, and the name of that reading."""
    if kind == "number":
        return _last_number(text), "last_number"
    if kind == "choice":
        named = kinds.letters_in(text, len(choices) if choices else 10)
        return (named[-1][0] if named else _last_line(text)), "last_choice"
    if kind == "boolean":
        return next((m[0] for m in reversed(list(kinds.BOOLEAN.finditer(text)))), ""), "last_yes_no"
    if kind in ("date", "time"):
        moments = dates_in(text) if kind == "date" else times_in(text)
        return (text[moments[-1][1] : moments[-1][2]] if moments else ""), f"last_{kind}"
    if kind == "list":
        brackets = re.findall(r"[\[{][^\[\]{}]{1,2000}[\]}]", text)
        return (brackets[-1] if brackets else _last_line(text)), "last_list"
    for spans, source in ((kinds.quoted_in(text), "quoted"), (kinds.bold_in(text), "bold")):
        if spans:
            return spans[-1], source
    words = re.findall(r"[\w'-]{1,200}", text)
    return (words[-1] if words else ""), "last_word"


def _last_number(text: str) -> str:
    last = None
    for last in NUMBER.finditer(text):
        pass
    if last is None:
        return ""
    start = last.start() if last["sign"] != "+" else last.start() + 1
    quantity, end = quantity_at(text, last)
    if quantity is not None and last["sign"] == "-" and not last["inner"] and quantity.number > 0:
        start += 1  # a dash between two numbers
    return text[start:end].strip() if end - start <= MAX_ANSWER else ""


def _last_line(text: str) -> str:
    return text.rstrip().rpartition("\n")[2].strip()
