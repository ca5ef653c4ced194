"""Doubt: words and signs beside an answer that make it something else.

    "It is not B"   "B is wrong"      denied
    "minus 3", "five hundred", "5π"   altered: the number goes on in words or signs that are not read
    "3 * 5", "√5", "1,5", "5!"        altered: the number is part of a calculation or of a longer number
    "the day after March 5"           moved

What is denied, altered or moved is never read for what it seems to be. All text here is plain text; each question
looks at some 120 characters around the answer.
"""

import re
import unicodedata

_REACH = 120
_NOT = re.compile(r"(?<![\w-])(?:not|never|cannot|neither|nor|no longer)(?!\w)|n't(?!\w)", re.IGNORECASE)
_CLAUSE = re.compile(
    r"[;:\n!?]|\.\s|(?<!\w)(?:but|so|thus|therefore|hence|then|because|since|which|where)(?!\w)"
    r"|,\s(?=(?:it|he|she|they|we|i|you|there|this|that|the)\s)",
    re.IGNORECASE,
)
# "those who did not vote are 40" denies nothing, "I do not think it is 40" does.
_VERB = re.compile(r"(?<!\w)(?:is|are|was|were|equals|gives|makes|leaves|totals|remain|remains)(?!\w)|=", re.IGNORECASE)
_OPINION = re.compile(r"\s(?:a |the |at all )?(?:think|believe|sure|certain|true|right|correct|case|clear|say|mean)"
                      r"(?!\w)|[\s0-9+*/=().-]*$", re.IGNORECASE)  # fmt: skip
_EXCEPT = re.compile(
    r"(?<!\w)(?:(?:any\w*|all|every\w*|nothing|none)(?:\s\w+){0,2}\s(?:but|except)(?: for)?"
    r"|except(?: for)?|other than|rather than|instead of|unlike|excluding"
    r"|(?:wrong|incorrect|false)(?:\s\w+){0,2}\s(?:is|was|would be|to \w+))\s\W{0,3}$",
    re.IGNORECASE,
)
_REJECTED = re.compile(
    r"[^\w\s,;:.!?]{0,4}\s?(?:\(?(?:wrong|incorrect)(?!\w)|(?:[a-z]+\s){0,4}?(?:"
    r"(?:(?:is|was|are|were|can|could|would|must|does)(?:n't|\snot)|cannot)\s?(?:$|[.,;!)]|(?:be |the |an? |my |our )*"
    r"(?:right|correct|true|answer|solution|valid|possible|work|fit|final|option|result|it)(?![\w-]))"
    r"|(?:is|was|be|seems|looks)\s(?:also |clearly |simply |just )?(?:wrong|incorrect|false|impossible|mistaken)"
    r"(?!\w)))",
    re.IGNORECASE,
)


_DENIAL = re.compile(r"n(?:o[tr]|'t|ever|either|o longer)|but|except|than|instead|unlike|excluding|wrong|incorrect|"
                     r"false|impossible|mistaken", re.IGNORECASE)  # fmt: skip


def denied(text: str, start: int, end: int) -> bool:
    """Whether the words around ``text[start:end]`` say that it is not the answer."""
    head = text[max(0, start - _REACH) : start] if start else ""
    if head and _DENIAL.search(head):  # most texts have none of its words
        clause = _CLAUSE.split(head)[-1]
        for match in _NOT.finditer(clause):
            between = clause[match.end() :]
            if not _VERB.search(between) or _OPINION.match(between):
                return True
        if _EXCEPT.search(head):
            return True
    tail = text[end : end + _REACH]
    return tail != "" and _DENIAL.search(tail) is not None and _REJECTED.match(tail) is not None


_NOT_EQUATION = re.compile(r"(?:(?<!\w)not|n't|never|cannot be)\s(?:[a-z]\s)?[\s0-9+*/().$-]*$", re.IGNORECASE)


def unequal(text: str, equals: int) -> bool:
    """Whether the equation around the equals sign there is denied: "it is not 3 + 2 = 5"."""
    return _NOT_EQUATION.search(text[max(0, equals - _REACH) : equals]) is not None


_UNITS_OF_TIME = r"(?:seconds?|minutes?|hours?|days?|weeks?|months?|years?|quarter|half|[0-9]+)"
_MOVED_BEFORE = re.compile(rf"(?<!\w)(?:after|before|past|prior to|following|preceding|until|till|{_UNITS_OF_TIME}\s"
                           r"(?:to|from|of))\s(?:the\s)?\W{0,3}$", re.IGNORECASE)  # fmt: skip
_MOVED_AFTER = re.compile(r"\s?(?:plus|minus|\+|-\s?[0-9])", re.IGNORECASE)


def moved(text: str, start: int, end: int) -> bool:
    """Whether a date or time at ``text[start:end]`` is only where a count of days or minutes starts."""
    return bool(_MOVED_BEFORE.search(text[max(0, start - _REACH) : start]) or _MOVED_AFTER.match(text, end))


# --- numbers

_SMALL = (r"(?:one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|thirteen|fourteen|fifteen|sixteen|"
          r"seventeen|eighteen|nineteen|twenty|thirty|forty|fifty|sixty|seventy|eighty|ninety)")  # fmt: skip
_LARGE = r"(?:hundred|thousand|lakh|crore|[a-z]{1,9}illi(?:on|ard))s?"
_PART = (r"(?:hal(?:f|ves)|thirds?|quarters?|fourths?|fifths?|sixths?|sevenths?|eighths?|ninths?|"
         r"tenths?|hundredths?|thousandths?|[a-z]{1,9}illionths?)")  # fmt: skip
_ALTERED_BEFORE = re.compile(
    rf"(?<![\w-])(?:(?:minus|negative|plus|times|point|half|twice|double|triple|thrice|{_PART}|square|cube|root|squared|"
    rf"sqrt|log|ln|sin|cos|tan|factorial|power|{_LARGE})(?:\sof)?|(?:{_LARGE})\sand|than(?:\sor equal to)?|under|over|"
    r"above|below|beyond|exceeds?|(?:divided|multiplied)\sby)(?:\s(?:the|a|about))?[\s-][\"'(\[$€£¥₹*`]{0,3}$",
    re.IGNORECASE,
)
_ALTERED_AFTER = re.compile(
    rf"[\s-]{{0,2}}(?:and\s(?:(?:an?|one|two|three)[\s-])?)?(?:{_LARGE}|{_PART}|{_SMALL}|point\s(?:{_SMALL}|zero|[0-9])"
    rf"|squared|cubed|factorial|dozens?|grand|bn|mn|mio|mrd|pi|permille|per\s(?:mille|thousand|hundred|million)|plus|minus"
    rf"|modulo|mod|choose|divided|multiplied|times\s(?:{_SMALL}|[0-9])|to\sthe\s(?:power|second|[a-z]+rd|[a-z]+th)|over|under|above|below|or\s(?:more|less|fewer))"
    r"(?!-?[a-z]|\sgrade)|\s?(?:[‰‱十百万萬億亿兆]|千(?![米克]))|\s?(?![Ωμ])[\u0370-\u03ff](?![^\W\d_])|_",
    re.IGNORECASE,
)  # fmt: skip
_PART_AFTER = re.compile(rf"\s(?:and|plus)\s(?:(?:an?|one|two|three)[\s-])?{_PART}(?![a-z])"
                         r"|\s(?:below|under)\s", re.IGNORECASE)  # fmt: skip
_LETTER_SCALE = re.compile(r"\s?[MBTG](?![A-Za-z])")  # 5M, but 5m is metres and $5m is not
_MONEY_SCALE = re.compile(r"\s?(?:[mbt]|mil)(?![a-z])", re.IGNORECASE)


_COINS = re.compile(r"(?<=[0-9]{2})\squarters(?!\sof)(?![a-z])", re.IGNORECASE)  # "12 quarters", not "3 quarters"


def altered(text: str, start: int, digits_end: int, end: int, *, money: bool = False) -> bool:
    """Whether the number at ``text[start:digits_end]`` goes on in what is not read. It ends there with its scale
    ("5 thousand"), and at ``end`` with its unit."""
    if digits_end < len(text) and (
        (_ALTERED_AFTER.match(text, digits_end) and not _COINS.match(text, digits_end))
        or _LETTER_SCALE.match(text, digits_end)
        or (money and _MONEY_SCALE.match(text, digits_end))
        or _PART_AFTER.match(text, end)
        or _operates_after(text, end)
    ):
        return True
    return start > 0 and (
        _ALTERED_BEFORE.search(text[max(0, start - 40) : start]) is not None
        or _operates_before(text[max(0, start - _REACH) : start])
    )


_CALL = re.compile(r"(?:\w\(|\\[a-z]{1,20}\s?\{?)$", re.IGNORECASE)  # f(5, \sqrt{5
_ARROW = re.compile(r"(?:[=-]|[a-z]{2}|</?[a-z][a-z0-9]{0,20})>$", re.IGNORECASE)  # =>, "RESULT>", <b>
_LETTER = re.compile(r"\s?[a-z](?![a-z])", re.IGNORECASE)
_EMPHASIS_BEFORE = re.compile(r"(?<![\w)*])\*{1,3}$")
# "**Total:** 36"
_BOLD_BEFORE = re.compile(r"(?<!\w)(?:\*\*(?=\S)[^*\n]{0,60}[^*\s\d]\*\*|__(?=\S)[^_\n]{0,60}[^_\s\d]__)[ \t]+$")
_EMPHASIS_AFTER = re.compile(r"\*{1,3}(?![\w(*])")


def _operates_before(head: str) -> bool:
    head = _BOLD_BEFORE.sub("", _EMPHASIS_BEFORE.sub("", head))
    bare = head.rstrip(" \t")
    sign, touching = bare[-1:], bare == head
    if sign == "-":  # a dash, a bullet or an arrow's end where no number stands before it
        return touching or any(c.isdigit() for c in bare.rpartition("\n")[2])
    if sign == ">":
        return _ARROW.search(bare) is None
    if sign in (":", ",", "."):
        return touching and bare[-2:-1].isdigit()
    return (sign != "" and sign in "+/^*<_") or strange(sign) or _CALL.search(bare) is not None


def _operates_after(text: str, end: int) -> bool:
    if _EMPHASIS_AFTER.match(text, end):
        return False
    if text[end : end + 1] in ("!", "(") and text[end - 1 : end].isdigit():
        return True
    tail = text[end : end + 12].lstrip(" \t")
    if tail[:1] == "=":
        return _LETTER.match(tail, 1) is None  # "20 = A" says 20
    if tail[:1] == "-":
        return _LETTER.match(tail, 1) is not None
    return (tail != "" and tail[0] in "+/^*") or strange(tail[:1])


def strange(char: str) -> bool:
    """Whether this is a sign of mathematics that no rule here reads."""
    return char != "" and char not in "+<>=~|≈∼≃≅→⇒⟹∴∵∎" and unicodedata.category(char) == "Sm"
