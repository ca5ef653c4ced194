"""Item: arithmetic as it stands in prose, as numbers, operators and the words between them.

    "He pays $12 x 4 weeks = $48"  ->  break(He pays) 12 * 4(weeks) = 48

Numbers are exact, with their written decimals, percent sign and units. ``expression`` evaluates them.
"""

import re
from fractions import Fraction
from typing import Literal, TypeAlias

import msgspec

from cotdistill.reading.units import KNOWN, LENGTHS, words_of

Exact: TypeAlias = int | Fraction  # whole numbers stay int, which is many times faster

_TOKEN = re.compile(
    r"""(?P<time>(?:[01]?[0-9]|2[0-3]):[0-5][0-9](?::[0-5][0-9])?(?![0-9]))
      | (?P<word>[0-9]+(?:st|nd|rd|th)(?![a-z])|[^\W\d_]+(?:['-][^\W\d_]+)*|°)
      | (?P<number>[0-9]{1,3}(?:[ ][0-9]{3}){1,9}+(?![0-9])
          | [0-9]{1,3}(?:,[0-9]{3}){1,9}+(?![0-9])(?:\.[0-9]++)?
          | [0-9]++(?:\.[0-9]++)? | \.[0-9]++)
      | (?P<relation>[<>=!:~]=|=>|->|[≈<>~≤≥≠±])
      | (?P<equals>=)
      | (?P<operator>\*\*|[-+*/^])
      | (?P<bracket>[()\[\]])
      | (?P<currency>[$€£¥₹])
      | (?P<percent>%)
      | (?P<line>\n)
      | (?P<mark>[^\s\d])""",
    re.VERBOSE | re.IGNORECASE,
)
MAX_TOKENS = 4000
MAX_DIGITS = 30
MAX_WORDS = 8
_OPERATOR_WORDS = {"x": "*", "times": "*", "plus": "+", "minus": "-"}
_CONNECTIVES = words_of("and or because so then but if when while since where therefore thus")
_BY = {"divided": "/", "multiplied": "*"}
_SQUARED = frozenset(word for word, unit in KNOWN.items() if unit in LENGTHS | {"second"}) | words_of("in unit units")
_DETERMINERS = words_of("the his her their its those these all my your that")


class Item(msgspec.Struct, frozen=True):
    """A number, an operator (``sign``), a bracket, an equals sign, or a break: words, a mark, or a line's end.

    ``words`` stand behind a number or bracket (its unit) or make up the break. ``vague`` numbers may mean
    something else: a letter sticks to them (``2x``), they are too long, or ``%`` is a remainder."""

    kind: Literal["number", "operator", "(", ")", "=", "break"]
    start: int
    end: int
    sign: str = ""
    value: Exact = 0
    decimals: int = 0
    percent: bool = False
    currency: str = ""
    words: tuple[str, ...] = ()
    vague: bool = False


def items_of(text: str) -> list[Item]:
    """The items of plain text, at most ``MAX_TOKENS`` tokens of it."""
    tokens = []
    for match in _TOKEN.finditer(text):
        tokens.append(match)
        if len(tokens) >= MAX_TOKENS:
            break
    return _Reader(tokens).items()


class _Reader:
    """Walks over the tokens once; ``at`` is the next one."""

    def __init__(self, tokens: list[re.Match[str]]) -> None:
        self.tokens, self.at = tokens, 0
        self.kinds = [token.lastgroup or "" for token in tokens] + [""] * 4  # what is looked at ahead, behind the end
        self.found: list[Item] = []

    def kind(self, ahead: int = 0) -> str:
        return self.kinds[self.at + ahead]

    def word(self, ahead: int = 0) -> str:
        return self.tokens[self.at + ahead][0].lower() if self.kind(ahead) == "word" else ""

    def glued(self, ahead: int = 0) -> bool:
        """Whether the token touches the one before it."""
        at = self.at + ahead
        return 0 < at < len(self.tokens) and self.tokens[at].start() == self.tokens[at - 1].end()

    def starts_number(self, ahead: int) -> bool:
        if self.kind(ahead) == "currency":
            ahead += 1
        at = self.at + ahead
        return self.kind(ahead) == "number" or (at < len(self.tokens) and self.tokens[at][0] in ("(", "["))

    def operand_before(self) -> bool:
        return bool(self.found) and self.found[-1].kind in ("number", ")")

    def items(self) -> list[Item]:
        while self.at < len(self.tokens):
            token, kind = self.tokens[self.at], self.kind()
            if kind == "number" or (kind == "currency" and self.kind(1) == "number"):
                self.number()
            elif kind == "operator":
                self.add("operator", sign={"**": "^"}.get(token[0], token[0]))
            elif kind == "bracket" and token[0] in "([":
                if self.operand_before() and not self.found[-1].words:
                    glued = self.glued()
                    self.found.append(Item("operator" if glued else "break", token.start(), token.start(), sign="*"))
                elif self.operand_before():
                    self.found.append(Item("break", token.start(), token.start(), sign="("))
                self.add("(")
            elif kind == "bracket":
                self.add(")")
                self.units()
            elif kind == "equals":
                self.add("=")
            elif kind == "word":
                self.words()
            elif kind == "line":
                self.add("break", sign="line")
            else:
                self.add("break", sign="time" if kind == "time" else token[0])
        return self.found

    def add(self, kind: Literal["operator", "(", ")", "=", "break"], sign: str = "", width: int = 1) -> None:
        start, end = self.tokens[self.at].start(), self.tokens[self.at + width - 1].end()
        self.found.append(Item(kind, start, end, sign=sign))
        self.at += width

    def number(self) -> None:
        if self.operand_before():  # "3 apples 4 + 5": the expression starts anew
            last = self.found[-1]
            self.found.append(Item("break", last.end, last.end, sign="words" if last.words else " ", words=last.words))
        start, currency = self.tokens[self.at].start(), ""
        stuck = self.glued() and self.kind(-1) == "word" and not (self.found and self.found[-1].kind == "operator")
        if self.kind() == "currency":
            currency = self.tokens[self.at][0]
            self.at += 1
        written = self.tokens[self.at][0]
        digits = written.replace(",", "").replace(" ", "")
        # "18 000" may be two numbers, "0130" a time
        vague = stuck or len(digits) > MAX_DIGITS or " " in written or re.match("0[0-9]", written) is not None
        decimals = len(digits.partition(".")[2])
        value: Exact = 0
        if len(digits) <= MAX_DIGITS:
            value = Fraction(digits) if decimals else int(digits)
        self.at += 1
        if not decimals and (mixed := self.mixed_part()) is not None:
            value, decimals = value + mixed, -1
        percent = self.kind() == "percent"
        if percent:
            self.at += 1
            vague = vague or self.starts_number(0)  # a remainder
        elif self.word() in ("percent", "pct"):
            percent = True
            self.at += 1
        letter = self.glued() and len(self.word()) == 1 and self.word() != "°" and not self.is_operator_word()
        letter = letter or (digits == "0" and self.glued() and self.word() == "x")  # 0x10
        vague = vague or letter
        end = self.tokens[self.at - 1].end()
        self.found.append(Item("number", start, end, "", value, decimals, percent, currency, (), vague))
        self.units()

    def mixed_part(self) -> Fraction | None:
        """The 1/2 of 3 1/2."""
        tokens = self.tokens[self.at : self.at + 3]
        if len(tokens) < 3 or [t.lastgroup for t in tokens] != ["number", "operator", "number"] or tokens[1][0] != "/":
            return None
        over, under = tokens[0][0], tokens[2][0]
        tight = tokens[0].end() == tokens[1].start() and tokens[1].end() == tokens[2].start()
        if not tight or not (over.isdigit() and under.isdigit()) or not 0 < int(over[:9]) < int(under[:9]):
            return None
        self.at += 3
        return Fraction(int(over[:9]), int(under[:9]))

    def is_operator_word(self) -> bool:
        word = self.word()
        if word in _BY:
            return self.word(1) == "by" and self.starts_number(2)
        return word in _OPERATOR_WORDS and self.starts_number(1)

    def units(self) -> None:
        """Words behind an operand, and "of" or "times" where they stand for an operator."""
        words: list[str] = []
        while len(words) <= MAX_WORDS:
            slash = self.kind() == "operator" and self.tokens[self.at][0] in "/-" and self.kind(1) == "word"
            if slash and (self.tokens[self.at][0] == "/" or (self.glued() and self.glued(1))):
                words += [self.tokens[self.at][0], self.word(1)]
                self.at += 2
                self.power(words)
            elif self.word() == "of" and not words and self.is_share(self.found[-1]):
                skip = 2 if self.word(1) in _DETERMINERS else 1
                if self.starts_number(skip):
                    self.add("operator", "of", skip)
                    return
                words.append("of")
                self.at += 1
            elif self.kind() == "word" and not self.is_operator_word() and self.word() not in _CONNECTIVES:
                words.append(self.word())
                self.at += 1
                self.power(words)
            elif self.kind() == "currency" and not self.starts_number(0):
                words.append(self.tokens[self.at][0])  # "20$"
                self.at += 1
            else:
                break
        if words:
            self.found[-1] = msgspec.structs.replace(self.found[-1], words=tuple(words))
        if len(words) > MAX_WORDS:
            end = self.found[-1].end
            self.found.append(Item("break", end, end, sign="words", words=tuple(words)))
        elif self.is_operator_word():
            word = self.word()
            self.add("operator", _BY.get(word) or _OPERATOR_WORDS[word], 2 if word in _BY else 1)

    def power(self, words: list[str]) -> None:
        """The ^2 of "20 m^2" belongs to the unit."""
        if words[-1] in _SQUARED and self.kind(1) == "number" and self.tokens[self.at][0] == "^":
            exponent = self.tokens[self.at + 1][0]
            if exponent in ("2", "3"):
                words[-1] += f"^{exponent}"
                self.at += 2

    def is_share(self, item: Item) -> bool:
        """Whether "of" behind this operand multiplies: 15% of, 3/4 of, 0.5 of."""
        before = self.found[-2] if len(self.found) > 1 else None
        return item.percent or item.kind == ")" or 0 < item.value < 1 or (before is not None and before.sign == "/")

    def words(self) -> None:
        start, words = self.tokens[self.at].start(), []
        while self.kind() == "word":
            words.append(self.word())
            self.at += 1
        self.found.append(Item("break", start, self.tokens[self.at - 1].end(), sign="words", words=tuple(words)))
