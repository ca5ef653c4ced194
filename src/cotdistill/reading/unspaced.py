"""Unspaced: numbers that touch the letters of Chinese, Japanese or Korean.

    "一共是17个"  17        "不是17", "负17", "百分之17", "17个半"  in doubt

Only what is said right beside the number is looked at, in these few words; numerals of these scripts are not read.
"""

import re

UNSPACED = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7a3"  # kana, Han, Hangul
_REACH = 40
_CLAUSE = re.compile(r"[。，、,！!？?；;：:\n]")
# "不是17" and "17ではない" deny it, "超过17" is more than 17
_DOUBT = re.compile("[不没沒非无無未勿错錯误誤否]|ない|ません|아니|않|"
                    "超过|超過|[大小高低多少][于於]|より|以上|以下")  # fmt: skip
# "负17" is -17, "百分之17" is 17%, "第17" the 17th
_ALTERED_BEFORE = re.compile("(?:[负負减減加乘除第之零〇一二三四五六七八九十百千万萬亿億兆半]|マイナス)$")
_ALTERED_AFTER = re.compile("[多几幾余餘割成]|.?半|[点點][0-9]|分[之の]")  # "17多", "2个半", "3割", "3点5"


def unsure_unspaced(text: str, start: int, end: int) -> bool:
    """Whether words in one of these scripts deny or alter the number at ``text[start:end]``."""
    if text.isascii():
        return False
    head = _CLAUSE.split(text[max(0, start - _REACH) : start])[-1].rstrip()
    tail = _CLAUSE.split(text[end : end + _REACH], maxsplit=1)[0].lstrip()
    if _DOUBT.search(head) or _DOUBT.search(tail):
        return True
    return _ALTERED_BEFORE.search(head) is not None or _ALTERED_AFTER.match(tail) is not None
