"""Plain text: one spelling for characters and LaTeX that mean the same.

    "−$9{,}500"  -> "-$9,500"        "1\\frac{1}{2} cups" -> "1 1/2 cups"
    "５０\\%"     -> "50%"            "12 × 4 ÷ 3"         -> "12 * 4 / 3"

Only spelling changes here: no word is dropped and nothing is evaluated. Time is linear in the text.
"""

import re
import unicodedata

_DASHES = dict.fromkeys("\u2010\u2011\u2012\u2013\u2212\ufe58\ufe63\uff0d\u2796\u207b\u208b", "-")
_INVISIBLE = [0xAD, *range(0x200B, 0x2010), *range(0x202A, 0x202F), *range(0x2060, 0x206A), 0xFEFF]
_HIDDEN = dict.fromkeys(map(chr, _INVISIBLE), "")
_SUPERSCRIPT = re.compile("([⁺⁻]?)([⁰¹²³⁴⁵⁶⁷⁸⁹ⁿ]+)")
_LOWERED = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹ⁿ⁺⁻", "0123456789n+-")
_VULGAR = {c: " " + unicodedata.normalize("NFKC", c).replace("\u2044", "/") for c in "¼½¾⅐⅑⅒⅓⅔⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞"}
_OTHER = {"×": "*", "✕": "*", "✖": "*", "⋅": "*", "·": "*", "∙": "*", "÷": "/", "∕": "/", "\u2044": "/",
          "‘": "'", "’": "'", "“": '"', "”": '"', "«": '"', "»": '"', "º": "°"}  # fmt: skip
_LOOKALIKES = str.maketrans({**_DASHES, **_HIDDEN, **_VULGAR, **_OTHER})
# Spaces that typographers put between groups of three digits, and the Swiss apostrophe.
_GROUP_GAP = re.compile(r"(?<=[0-9])[\u00a0\u202f\u2009'’](?=[0-9]{3}(?:[^0-9]|$))")
_RUPEES = re.compile(r"(?<!\w)Rs\.?\s?(?=[0-9])")  # "Rs. 540", as many questions of AQuA have it
_FOREIGN_DIGIT = re.compile(r"(?![0-9])\d")

_FRACTION = re.compile(r"(?P<mixed>(?<=[0-9])\s?)?\\[dtc]?frac\s?"
                       r"(?:\{([^{}]{1,80})\}\s?\{([^{}]{1,80})\}|([0-9])([0-9]))")  # fmt: skip
_WRAPPED = re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf|mathit|mbox|operatorname|boxed|fbox)\s?"
                      r"\{([^{}]{0,400})\}")  # fmt: skip
_UNIT_POWER = re.compile(r"(?<=[A-Za-z])\s?\^\s?(?:\{([23])\}|([23]))(?![0-9A-Za-z(])")  # of "36\text{ cm}^{2}"
_MATH = re.compile(r"\$(?=[^\s$])([^$\n]{1,300})(?<!\s)\$(?![0-9])")
_GROUP = re.compile(r"\^\{([^{}]{1,20})\}")
_LATEX_COMMA = re.compile(r"\{,\}|(?<=[0-9]),\\!(?=[0-9])|(?<=[0-9])\\[,!;](?=[0-9])")
_COMMANDS = [
    (re.compile(r"\^\s?\{?\s?\\circ\s?\}?|\\degree(?![a-z])"), "°"),
    (re.compile(r"\\(?:times|cdot|ast)(?![a-z])"), "*"),
    (re.compile(r"\\div(?![a-z])"), "/"),
    (re.compile(r"\\pm(?![a-z])"), "±"),
    (re.compile(r"\\approx(?![a-z])"), "≈"),
    (re.compile(r"\\(?:left|right|big|Big|displaystyle|quad|qquad|text|rm|bf)(?![a-z])|\\[()\[\],;:! ]|\\\\"), " "),
    (re.compile(r"\\([%{}#&_])"), r"\1"),
]  # fmt: skip


def plain(text: str) -> str:
    """``text`` in ASCII digits, ``-``, ``*``, ``/``, ``a/b`` fractions and ``^`` powers, without LaTeX wrapping
    and invisible characters. Letters of other scripts stay as they are."""
    if not text.isascii():
        text = _SUPERSCRIPT.sub(lambda m: "^" + m[0].translate(_LOWERED), _GROUP_GAP.sub("", text))
        text = text.translate(_LOOKALIKES)
        text = unicodedata.normalize("NFKC", text)
        text = _FOREIGN_DIGIT.sub(lambda m: str(unicodedata.decimal(m[0], m[0])), text)
    elif "'" in text:
        text = _GROUP_GAP.sub("", text)
    if "\\" in text or "{," in text:
        text = _without_latex(text)
    if "US$" in text:
        text = text.replace("US$", "$")
    if "Rs" in text:
        text = _RUPEES.sub("₹", text)
    return _MATH.sub(r"\1", text) if text.count("$") > 1 else text


def _without_latex(text: str) -> str:
    text = text.replace("\\$", "＄")  # an escaped dollar is money, a bare one opens a formula
    text = _MATH.sub(r"\1", text)  # before \text{...} leaves a space at the closing dollar
    text = _LATEX_COMMA.sub(",", text)  # before the braces around it
    for _ in range(2):  # \boxed{\text{...}}
        text = _WRAPPED.sub(r" \1 ", text)
    if "^" in text:
        text = _UNIT_POWER.sub(r"^\1\2", text)
    if "frac" in text:
        text = _FRACTION.sub(_write_fraction, text)
    for pattern, replacement in _COMMANDS:
        text = pattern.sub(replacement, text)
    return _MATH.sub(r"\1", _GROUP.sub(r"^(\1)", text)).replace("＄", "$")


def _write_fraction(match: re.Match[str]) -> str:
    top, bottom = [group.strip() for group in match.groups()[1:] if group is not None]
    if top.removeprefix("-").isdecimal() and bottom.isdecimal():
        return f"{'' if match['mixed'] is None else ' '}{top}/{bottom}"
    return f"({top})/({bottom})"
