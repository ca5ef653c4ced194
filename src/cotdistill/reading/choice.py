"""Choice: one of several options, named by its letter or written out.

    "(B) 40 km"    "B, because C is too small"    "The best option is B."    ->  B
    "(A) or (B)"   "(A) is possible but (B) is more likely"                  ->  ambiguous

The letter A is also a word, so it is read only where no article can stand: "(A)", "A - bank", "A because ...".
"""

import re
from collections.abc import Sequence

from cotdistill.reading.doubt import denied
from cotdistill.reading.plain import plain
from cotdistill.reading.quantity import LEADS_WITH_NUMBER, read_number
from cotdistill.reading.short_text import normal_text
from cotdistill.reading.value import Reading, one, one_of, same_value

_CALLED = re.compile(r"^(?:option|choice|answer|letter)\s", re.IGNORECASE)
_LABEL = re.compile(r"[(\[]?([A-Za-z])(?:[)\]][.:]?|[.:](?=\s|$)|$)")  # "(B) 40 km", "b. 40 km"
# "A, bank", "A - bank", "A (bank)", "A because ...", "A is correct", "A'."; no article is followed by these, nor is I.
_LETTER = re.compile(r"([A-HJ-Z])[*_\"'$]{0,3}(?=\s?\.?$|,\s|\s?\(|\s?—|\s-\s|\s(?:because|since)\s"
                     r"|\sis\s(?:the\s)?(?:correct|right|best)(?!\w))")  # fmt: skip
_A = (r"A(?=\s?(?:,|/|or\s|and\s)\s?\(?[B-Z](?!\w)"  # "A or B"
      r"|[*_]{0,2}\sis\s(?:the\s)?(?:correct|right|best)(?!\w))")  # fmt: skip
# "so the best option is A.", "I choose A", "it must be A because ...": the word before it names an answer
_NAMED_A = (r"(?:(?<!\w)(?:is|be|choose|chose|select|pick)|:)[ ][\"'*_$]{0,3}(A)"
            r"(?=[\"'*_$]{0,3}(?:[.,;!?)]|\s?$|\s?\n|\s[-(]|\s(?:because|since)\s))")  # fmt: skip
LETTERS = re.compile(r"[(\[]([A-Za-z])[)\]]|(?<![\w'’])([A-Z])\)|"
                     r"(?<![\w'’])(?:option|choice|answer|letter) ([A-Za-z])(?![\w'])|"
                     rf"(?<![\w'’.])([B-HJ-Z]|{_A})(?![\w'’]|\.\w)|{_NAMED_A}",
                     re.IGNORECASE)  # fmt: skip
# A second letter behind a label: "(A) or B", "(A) and (C) are both correct", "A) bank, B) library".
_SECOND = re.compile(r"^(?:or|and|,|/|&)\s?\(?([A-HJ-Z])(?!\w)|(?<!\w)(?<!than )[(\[]([A-HJ-Za-hj-z])[)\]]"
                     r"|(?<![\w'’(])([A-HJ-Z])\)")  # fmt: skip
_SENTENCE_END = re.compile(r"[.;!?]\s|\n")
_REASON = re.compile(r"(?<!\w)(?:because|since)\s[^.;!?\n]*", re.IGNORECASE)  # "because A and B are too small"
_OPTION_PREFIX = re.compile(r"^(?:\(?[A-Za-z][).:]\s+|[A-Za-z]\)(?=\S))")  # "(B) 40 km", and AQuA's "B)21.5"


def letters_in(text: str, count: int) -> list[tuple[str, int, int]]:
    """Choice letters named in plain text, of the first ``count`` of the alphabet: (letter, start, end)."""
    found = []
    for match in LETTERS.finditer(text):
        group = match.lastindex or 0
        letter = match[group]
        if group >= 4 and letter.islower():
            continue
        if ord(letter.upper()) - ord("A") < count:
            found.append((letter.upper(), *match.span(group if group == 5 else 0)))
    return found


def read_choice(text: str, choices: Sequence[str] | None) -> Reading:
    """The option that plain text names."""
    text = _CALLED.sub("", text.strip(" *_`\"'<>"))
    options = (choices or ())[:26]
    count = len(options) or 10
    same = _options_of(text, options)
    if not same and (first := _LABEL.match(text) or _LETTER.match(text)) and ord(first[1].upper()) - 65 < count:
        return _read_lettered(text, first, count, options)
    if same:
        prefix = _OPTION_PREFIX.match(text)  # "a) 40 km/h" where that is option B
        other = prefix and prefix[0].strip("(). :").upper() not in same and not _written_in(text, options)
        return ("ambiguous", None) if other else one(same)
    if inside := _options_inside(text, options):
        places = [text.lower().find(_bare_option(options[ord(letter) - 65]).lower()) for letter in inside]
        if any(denied(text, place if place >= 0 else len(text), len(text)) for place in places):
            return "ambiguous", None
        return one(inside)
    return one_of(text, letters_in(text, count))


def _read_lettered(text: str, first: re.Match[str], count: int, options: Sequence[str]) -> Reading:
    """What a text says that begins with a letter: that one, unless its text is another option's or others follow."""
    letter, rest = first[1].upper(), text[first.end() :].strip()
    named = _options_of(rest, options) if rest else set()
    if letter in named:
        return "found", letter  # "(C) It is not possible to determine" denies nothing where that is option C
    if named or denied(text, *first.span()):
        return "ambiguous", None
    rest = _REASON.sub("", rest)
    if first.re is _LETTER or len(rest) < 12:
        others = letters_in(rest, count)
    else:
        spans = [(m[m.lastindex or 0].upper(), *m.span()) for m in _SECOND.finditer(_SENTENCE_END.split(rest)[0])]
        others = [span for span in spans if ord(span[0]) - 65 < count]
    return one({letter} | {other for other, start, end in others if not denied(rest, start, end)})


def _options_of(text: str, options: Sequence[str]) -> set[str]:
    """The letters of the options that ``text`` writes out, and nothing else."""
    return {chr(65 + i) for i, option in enumerate(options) if _same_option(text, option)}


def _written_in(text: str, options: Sequence[str]) -> bool:
    return text.casefold() in (option.strip().casefold() for option in options)


def _bare_option(option: str) -> str:
    return _OPTION_PREFIX.sub("", option.strip(), count=1)


def _same_option(text: str, option: str) -> bool:
    option = _bare_option(option)
    wanted = normal_text(option)
    if wanted and normal_text(text) == wanted:
        return True
    if not LEADS_WITH_NUMBER.match(text) or not LEADS_WITH_NUMBER.match(plain(option)):
        return False
    (_, a), (_, b) = read_number(text), read_number(option)
    return a is not None and b is not None and same_value(a, b)


def _options_inside(text: str, options: Sequence[str]) -> set[str]:
    padded = f" {normal_text(text)} " if options else ""
    wanted = {chr(65 + i): normal_text(_bare_option(c)) for i, c in enumerate(options)}
    inside = {letter: option for letter, option in wanted.items() if option and f" {option} " in padded}
    return {a for a, x in inside.items() if not any(x != y and f" {x} " in f" {y} " for y in inside.values())}
