"""Units: what stands behind a number, in one spelling.

    "60 kilometres per hour" -> "km/hour"     "5 m²" -> "m^2"     "36 red apples left" -> "red apple"

Measures are known by name and by abbreviation; any other noun is its own unit, in the singular.
"""

import re


def words_of(text: str) -> frozenset[str]:
    """A set of words, written as one string."""
    return frozenset(text.split())


_SPELLINGS = {
    "km": "kilometer kilometers kilometre kilometres kms 千米 公里", "m": "meter meters metre metres",
    "cm": "centimeter centimeters centimetre centimetres cms", "mm": "millimeter millimeters millimetre millimetres",
    "mile": "mi miles", "foot": "ft feet", "inch": "inches", "yard": "yd yds yards",
    "hour": "h hr hrs hours", "minute": "min mins minutes", "second": "s sec secs seconds",
    "day": "days", "week": "wk wks weeks", "month": "months", "year": "yr yrs years",
    "kg": "kilogram kilograms kgs kilo kilos 千克 公斤", "g": "gram grams", "mg": "milligram milligrams",
    "pound": "lb lbs pounds £ gbp", "ounce": "oz ounces", "ton": "tons tonne tonnes",
    "l": "liter liters litre litres", "ml": "milliliter milliliters millilitre millilitres",
    "gallon": "gal gallons", "dollar": "$ usd dollars buck bucks", "cent": "¢ cents",
    "euro": "€ eur euros", "yen": "¥ jpy", "rupee": "₹ inr rs rupees", "degree": "° degrees deg",
    "celsius": "c", "fahrenheit": "f", "mile/hour": "mph", "km/hour": "kph kmh kmph", "mile/gallon": "mpg",
    "cm^3": "cc ccm", "kb": "kilobyte kilobytes", "mb": "megabyte megabytes", "gb": "gigabyte gigabytes",
    "tb": "terabyte terabytes",
}  # fmt: skip
KNOWN = {word: unit for unit, words in _SPELLINGS.items() for word in (*words.split(), unit)}
_SCALES = frozenset({"c", "f", "celsius", "fahrenheit"})  # only after "degree"
LENGTHS = frozenset({"km", "m", "cm", "mm", "mile", "foot", "inch", "yard"})
_STOP = words_of(
    "in of on at to for from by with and or is are was were be been has have had left remaining total altogether "
    "a an per each every more less the that which who because since so than after before when if will would can as "
    "then remain remains now today still combined again only overall they he she it there respectively approximately"
)
_WORD = re.compile(r"[ ]{0,3}-?(°|[$€£¥₹¢]|[^\W\d_]{1,40}(?:-[^\W\d_]{1,40})?)(?:\^([23])|([23])(?![0-9]))?")
_INCHES = re.compile(r"[ ]?in\.?\s*$")  # elsewhere "in" is a preposition
_PER = re.compile(r"[ ]{0,3}(/|per(?![a-z])|an?(?![a-z]))[ ]{0,3}", re.IGNORECASE)
_IRREGULAR = {"people": "person", "children": "child", "men": "man", "women": "woman", "mice": "mouse",
              "geese": "goose"}  # fmt: skip
_POWER = {"square": "2", "sq": "2", "cubic": "3", "cu": "3"}
_SILENT = ("se", "xe", "che", "she", "ze", "oe")  # "boxes" may be of a box or a boxe
# How many of the second make one of the first: "2 hours 30 minutes" is 2.5 hours.
PARTS = {("hour", "minute"): 60, ("minute", "second"): 60, ("day", "hour"): 24, ("week", "day"): 7,
         ("year", "month"): 12, ("foot", "inch"): 12, ("pound", "ounce"): 16, ("dollar", "cent"): 100,
         ("kg", "g"): 1000, ("km", "m"): 1000, ("m", "cm"): 100, ("l", "ml"): 1000}  # fmt: skip


def singular(word: str) -> str:
    """A crude English stem, in which the singular and the plural of a noun meet: "horse" and "horses" are "hors"."""
    word = _IRREGULAR.get(word, word)
    if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")):
        word = word[:-1]
    if len(word) > 2 and word.endswith("ie"):
        return word[:-2] + "y"
    return word[:-1] if len(word) > 2 and word.endswith(_SILENT) else word


def unit_after(text: str, position: int, currency: str = "") -> tuple[str, int]:
    """The unit written at ``position`` of ``text`` ("" if none) and where it ends.

    ``currency`` is the sign that stood before the number. At most eight words are looked at."""
    top, position = (KNOWN[currency], position) if currency else _noun(text, position)
    per = _PER.match(text, position) if top else None
    if per is None:
        return top, position
    bottom, end = _noun(text, per.end())
    if not bottom or (per[1] in ("a", "an") and bottom not in KNOWN):
        return top, position
    return f"{top}/{bottom}", end


def _noun(text: str, position: int) -> tuple[str, int]:
    if _INCHES.match(text, position):
        return "inch", len(text)
    words: list[str] = []
    power = ""
    while len(words) < 3:
        match = _WORD.match(text, position)
        word = match[1].casefold() if match else ""
        if match is None or word in _STOP or (word in _SCALES and words != ["degree"]):
            break
        unit = KNOWN.get(word)
        if words and (unit or words[0] in KNOWN) and word not in _SCALES:
            break  # "5 miles north", "8 boxes kg": a measure stands alone
        position = match.end()
        if word in _POWER:
            power = _POWER[word]
            continue
        if word == "us" and not words:
            continue  # "5 US dollars"
        power = match[2] or match[3] or power
        words.append((unit or singular(word)) + (f"^{power}" if power else ""))
        power = ""
    return " ".join(words), position


def units_clash(a: str, b: str) -> bool:
    """Whether two stated units differ. An unstated unit clashes with nothing; "red apple" goes with "apple"."""
    if not a or not b or a == b:
        return False
    if "/" in a + b or a.split("^")[0] in KNOWN or b.split("^")[0] in KNOWN:
        return True
    return not _ends_alike(a.split(), b.split()) and not _ends_alike(b.split(), a.split())


def _ends_alike(short: list[str], long: list[str]) -> bool:
    return len(short) < len(long) and (long[-len(short) :] == short or long[: len(short)] == short)
