r"""Remark: what stands at a marker or behind it without being the answer.

    "A: Each box has 12 apples.\nSo he has 12 * 3 = 36 apples."         the marker opens the reasoning
    "#### 36\n\nCheck: the answer is divisible by 4."                   a remark on an answer given before
    "The answer is 19.\n\nWait, let me recheck. 9 * 2 = 18."            the answer is taken back

Each question looks at no more than 4,000 characters. Not covered: what only a reader of the argument would see, such
as two answers of which the first is called an estimate.
"""

import re

_REACH = 4000
_DIGITS = re.compile(r"[0-9]+(?:[.,/:][0-9]+)*")  # a date or a time is one number
_CONCLUDES = re.compile(r"=|(?<!\w)(?:so|thus|therefore|hence|total)(?!\w)", re.IGNORECASE)
_EXPLAINS = re.compile(r"\W*(?:explanation|explained|check|verification|reason(?:ing)?|because|proof|note|here)(?!\w)",
                       re.IGNORECASE)  # fmt: skip
_LEADING_NUMBER = re.compile(r"\W*[0-9]")
_REMARK = re.compile(r"(?:also |indeed |thus |therefore )?(?:divisible by|a (?:multiple|factor) of|(?:in )?between|"
                     r"(?:greater|less|more|fewer|larger|smaller|higher|lower) than|consistent with|correct|"
                     r"in (?:lower|upper)\s?case)(?!\w)", re.IGNORECASE)  # fmt: skip
_TAKEN_BACK = re.compile(
    r"(?:^|[.!?\n$}\])])[\s*_>\"'(]{0,8}(?:(?:but|oh|hmm|no|however),?\s)?(?:"
    r"wait(?:\s(?:a (?:minute|moment|second)|no))?\s?[,.!…:—-]|actually(?!\w)|oops(?!\w)|correction\s?[:,]"
    r"|(?:sorry, )?i (?:have )?made an? (?:mistake|error)"
    r"|(?:that|this|the answer|my answer)(?:'s|’s| is| was) (?:wrong|incorrect|not (?:right|correct)))",
    re.IGNORECASE,
)


def opens_reasoning(line: str, below: str, *, announced: bool = False) -> bool:
    """Whether the line behind "Answer:" only begins a calculation, which the lines ``below`` carry on to another
    number. ``announced``: the marker is part of "to find the answer:"."""
    below = below[:_REACH]
    sentence = len(line.split()) > 3 and ("=" in line or not _LEADING_NUMBER.match(line))
    if not (announced or sentence) or _EXPLAINS.match(below) or not _CONCLUDES.search(below):
        return False
    return _numbers(below)[-1:] != [] and not _ends_alike(line, below)


def is_remark(marked: str) -> bool:
    """Whether "the answer is ..." says something about an answer instead of naming one: "divisible by 4"."""
    return _REMARK.match(marked) is not None and not _CONCLUDES.search(marked)  # "between 3 and 5, so 4" names one


def taken_back(marked: str, after: str) -> bool:
    """Whether the text ``after`` an answer takes it back and does not come to its number again."""
    return _TAKEN_BACK.search(after[:_REACH]) is not None and not _ends_alike(marked, after[-_REACH:])


def _ends_alike(line: str, below: str) -> bool:
    """Whether the last number below is one of the line's."""
    return _numbers(below)[-1:] != [] and _numbers(below)[-1] in _numbers(line)


def _numbers(text: str) -> list[str]:
    return [number.replace(",", "") for number in _DIGITS.findall(text)]
