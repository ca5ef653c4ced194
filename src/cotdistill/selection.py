"""Selection: which of a question's sound traces teach.

    "15% is 0.15, and 0.15 * 240 = 36."  "15% is 0.15; and 0.15 * 240 = 36"   the second is a duplicate
    "10% is 24, 5% is 12, 24 + 12 = 36."                                      teaches another way

Two traces are compared by their shingles, the runs of three words or numbers in them, and are as far apart as
the Jaccard distance of those sets. Of near-duplicates the first stays; of the rest at most K stay, spread by
farthest-first traversal (Gonzalez 1985, doi:10.1016/0304-3975(85)90224-5).
"""

import re
from collections import Counter
from collections.abc import Sequence

import msgspec

from cotdistill.trace import Trace
from cotdistill.verdict import TEACHES, Verdict, taught_text

# From here on two texts say the same: one word may differ in thirty, two in sixty.
NEAR = 0.8
_TOKEN = re.compile(r"\d+(?:[.,:/]\d+)*|[^\W\d_]+")

Shingles = frozenset[tuple[str, ...]]


def drop_duplicates(judged: Sequence[tuple[Trace, Verdict]]) -> list[Verdict]:
    """The verdicts of one question's traces, those that teach nearly the same text as an earlier one being
    ``duplicate``. Exact: candidates come from an index that misses no pair of ``NEAR`` or above."""
    teaching = [(at, taught_text(*judged[at])) for at in _teaching(judged)]
    if len(teaching) < 2:
        return [verdict for _, verdict in judged]
    sets = [shingles(text) for _, text in teaching]
    frequency = Counter(shingle for found in sets for shingle in found)
    texts: dict[str, str] = {}  # text -> id of the first trace with it
    index: dict[tuple[str, ...], list[int]] = {}  # shingle -> kept traces with it among their rarest
    verdicts = [verdict for _, verdict in judged]
    for place, ((at, text), found) in enumerate(zip(teaching, sets, strict=True)):
        # Sets that share NEAR of their members share one of their rarest (Bayardo et al. 2007, WWW).
        rarest = sorted(found, key=lambda shingle: (frequency[shingle], shingle))
        rarest = rarest[: len(rarest) - int(NEAR * len(rarest)) + 1]
        first = texts.setdefault(text.strip(), verdicts[at].trace_id)
        near = (other for other in dict.fromkeys(other for shingle in rarest for other in index.get(shingle, ()))
                if similarity(sets[other], found) >= NEAR)  # fmt: skip
        if first != verdicts[at].trace_id:
            verdicts[at] = _as_duplicate(verdicts[at], f"the same text as {first}")
        elif (other := next(near, None)) is not None:
            earlier = verdicts[teaching[other][0]].trace_id
            verdicts[at] = _as_duplicate(verdicts[at], f"nearly the same text as {earlier}")
        else:
            for shingle in rarest:
                index.setdefault(shingle, []).append(place)
    return verdicts


def keep_different(judged: Sequence[tuple[Trace, Verdict]], at_most: int) -> list[Verdict]:
    """The verdicts of one question's traces, at most ``at_most`` of them still teaching, the others
    ``not_selected``. The first stays, then always the one farthest from all that stay; the earlier at a tie."""
    teaching = _teaching(judged)
    sets = {at: shingles(taught_text(*judged[at])) for at in teaching}
    stay = set(teaching[:1])
    distance = {at: 1 - similarity(sets[at], sets[first]) for first in stay for at in teaching[1:]}
    while distance and len(stay) < at_most:
        farthest = max(distance, key=lambda at: (distance[at], -at))
        stay.add(farthest)
        del distance[farthest]
        distance = {at: min(d, 1 - similarity(sets[at], sets[farthest])) for at, d in distance.items()}
    reason = f"{at_most} others of this question differ more"
    return [
        msgspec.structs.replace(verdict, status="not_selected", reason=reason) if at in distance else verdict
        for at, (_, verdict) in enumerate(judged)
    ]


def shingles(text: str) -> Shingles:
    """The runs of three words or numbers in a text, in lower case; all of it where it is shorter."""
    tokens = _TOKEN.findall(text.lower())
    if len(tokens) < 3:
        return frozenset([tuple(tokens)] if tokens else [])
    return frozenset(zip(tokens, tokens[1:], tokens[2:], strict=False))


def similarity(a: Shingles, b: Shingles) -> float:
    """The Jaccard index of two sets, 0..1; 0 if one is empty, since nothing is known of it."""
    shared = len(a & b)
    return shared / (len(a) + len(b) - shared) if shared else 0.0


def _teaching(judged: Sequence[tuple[Trace, Verdict]]) -> list[int]:
    return [at for at, (_, verdict) in enumerate(judged) if verdict.status in TEACHES]


def _as_duplicate(verdict: Verdict, reason: str) -> Verdict:
    return msgspec.structs.replace(verdict, status="duplicate", reason=reason)
