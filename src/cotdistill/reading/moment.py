"""Dates and times of day as people write them, in ISO spelling.

    "March 5th, 2024", "5 Mar 2024", "03/05/2024", "2024-03-05" -> "2024-03-05"
    "March 5" -> "--03-05"     "3:05 PM", "15:05", "3.05 p.m." -> "15:05:00"

``a/b/year`` is month/day unless that cannot be. A time without AM or PM is read on the 24-hour clock, so
``3:05`` is not ``3:05 PM``. Not covered: time zones, two-digit years, spans of time (those are quantities).
"""

import datetime
import re

from cotdistill.reading.plain import plain

_MONTHS = ("january", "february", "march", "april", "may", "june", "july", "august", "september", "october",
           "november", "december")  # fmt: skip
_MONTH = "(" + "|".join(f"{m[:3]}(?:{m[3:]})?" if m != "may" else "may" for m in _MONTHS) + r"|sept)\.?(?![a-z])"
_DAY = r"([0-3]?[0-9])(?:st|nd|rd|th)?(?![0-9:a-z])"
_YEAR = r"([12][0-9]{3})(?![0-9])"
_START = r"(?<![0-9a-z/.-])"
_FORMS = [  # (pattern, the order of its groups)
    (re.compile(rf"{_START}{_YEAR}[-/.]([01]?[0-9])[-/.]([0-3]?[0-9])(?![0-9/-])", re.I), "ymd"),
    (re.compile(rf"{_START}([0-3]?[0-9])[-/]([0-3]?[0-9])[-/]{_YEAR}(?![/-])", re.I), "mdy"),
    (re.compile(rf"{_START}([0-3]?[0-9])\.([01]?[0-9])\.{_YEAR}", re.I), "dmy"),
    (re.compile(rf"{_START}{_MONTH} {{0,2}}{_DAY}(?:,? {{0,2}}{_YEAR})?", re.I), "mdy"),
    (re.compile(rf"{_START}{_DAY} {{0,2}}(?:of )?{_MONTH}(?:,? {{0,2}}{_YEAR})?", re.I), "dmy"),
    (re.compile(rf"{_START}{_MONTH},? {{0,2}}{_YEAR}", re.I), "my"),
]
_TIME = re.compile(
    r"(?<![0-9a-z:.-])(?:([0-2]?[0-9])[:.]([0-5][0-9])(?::([0-5][0-9]))? {0,3}([ap]\.?m)?(?![0-9a-z:%])|"
    r"([01]?[0-9]) {0,3}(?:([ap]\.?m)(?![a-z])|o'clock ?([ap]\.?m)?)|(noon|midnight)(?![a-z]))",
    re.IGNORECASE,
)
_CLOCK = re.compile(r"[:ap]|noon|midnight|clock", re.IGNORECASE)


def dates_in(text: str) -> list[tuple[str, int, int]]:
    """Every date in plain text, as (ISO date, start, end), in the order of the text."""
    found: list[tuple[str, int, int]] = []
    for pattern, order in _FORMS:
        for match in pattern.finditer(text):
            date = _iso(dict(zip(order, match.groups(), strict=False)))
            if date and not any(start < match.end() and match.start() < end for _, start, end in found[-20:]):
                found.append((date, *match.span()))
    return sorted(found, key=lambda item: item[1])


def _iso(part: dict[str, str | None]) -> str | None:
    month, day, year = part.get("m") or "", int(part.get("d") or 1), part.get("y")
    number = int(month) if month.isdecimal() else [m[:3] for m in _MONTHS].index(month[:3].lower()) + 1
    if month.isdecimal() and number > 12 >= day:
        number, day = day, number  # 25/12/2024
    try:
        full = datetime.date(int(year or 2000), number, day).isoformat()
    except ValueError:
        return None
    return full[:7] if "d" not in part else full if year else f"-{full[4:]}"


def times_in(text: str) -> list[tuple[str, int, int]]:
    """Every time of day in plain text, as (HH:MM:SS, start, end)."""
    found = []
    for match in _TIME.finditer(text):
        hour, minute, second, half, bare, bare_half, clock_half, word = match.groups()
        if not _CLOCK.search(match[0]):
            continue  # 3.05 is a number
        half = (half or bare_half or clock_half or "").lower()
        hours = {"noon": 12, "midnight": 0}[word.lower()] if word else int(hour or bare)
        if half and not 1 <= hours <= 12:
            continue
        if half:
            hours = hours % 12 + (12 if half.startswith("p") else 0)
        if hours < 24:
            found.append((f"{hours:02}:{int(minute or 0):02}:{int(second or 0):02}", *match.span()))
    return found


def is_date(text: str) -> bool:
    """Whether ``text`` is a date and nothing else, but for a weekday."""
    return _is_only(text, dates_in(plain(text)))


def is_time(text: str) -> bool:
    """Whether ``text`` is a time of day and nothing else."""
    return _is_only(text, times_in(plain(text)))


_WEEKDAY = re.compile(r"(?:(?:mon|tues|wednes|thurs|fri|satur|sun)day|at|on|the|it is)", re.IGNORECASE)


def _is_only(text: str, found: list[tuple[str, int, int]]) -> bool:
    if len(found) != 1:
        return False
    text, (_, start, end) = plain(text), found[0]
    return not _WEEKDAY.sub("", text[:start] + text[end:]).strip(" ,.")
