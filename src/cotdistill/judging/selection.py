"""Selection: which of a question's sound traces teach.

    "15% is 0.15, and 0.15 * 240 = 36."  "15% is 0.15; and 0.15 * 240 = 36"   the second is a duplicate
    "10% is 24, 5% is 12, 24 + 12 = 36."                                      teaches another way

Two traces are compared by their shingles, the runs of three words or numbers in them, and are as far apart as
the Jaccard distance of those sets. Of near-duplicates the first stays; of the rest at most K stay:

    different   spread by farthest-first traversal (Gonzalez 1985, doi:10.1016/0304-3975(85)90224-5)
    short       of the fewest words
    few_steps   of the fewest steps (``step_count``), and of those the shortest
    likely      of the fewest nats a token under the student (Zhang et al. 2025, arXiv:2502.04194)

With a ``short_share`` each is done among the shorter half of a question's traces and among the longer half apart, so
that over a whole file this share of what stays is from the shorter ones (Li et al. 2025, arXiv:2502.12143: small
students learn best from short traces with some long ones among them).
"""

import re
from collections import Counter
from collections.abc import Callable, Sequence

import msgspec

from cotdistill.identity import digest
from cotdistill.reading.step_count import step_count
from cotdistill.settings.verify import Prefer
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


def keep(
    judged: Sequence[tuple[Trace, Verdict]],
    at_most: int,
    prefer: Prefer = "different",
    *,
    short_share: float | None = None,
    nats: Callable[[str], float] = lambda text: float("inf"),
) -> list[Verdict]:
    """The verdicts of one question's traces, at most ``at_most`` of them still teaching, the others
    ``not_selected``; the earlier stays at a tie. ``nats`` says how many a token a text has under the student."""
    texts = {at: taught_text(*judged[at]) for at in _teaching(judged)}
    verdicts = [verdict for _, verdict in judged]
    if len(texts) <= at_most:
        return verdicts
    if short_share is None:
        stay = _preferred(texts, at_most, prefer, nats)
        reason = f"{at_most} others of this question {_REASONS[prefer]}"
    else:
        by_length = sorted(texts, key=lambda at: _length(texts[at]))
        half = (len(texts) + 1) // 2
        shorter, longer = ({at: texts[at] for at in sorted(part)} for part in (by_length[:half], by_length[half:]))
        wanted = _of_the_shorter(judged[0][0].question_id, at_most, short_share)
        taken = min(max(wanted, at_most - len(longer)), len(shorter))
        stay = _preferred(shorter, taken, prefer, nats) | _preferred(longer, at_most - taken, prefer, nats)
        reason = f"{taken} others of the shorter half and {at_most - taken} of the longer were taken"
    for at in texts.keys() - stay:
        verdicts[at] = msgspec.structs.replace(verdicts[at], status="not_selected", reason=reason)
    return verdicts


_REASONS: dict[Prefer, str] = {
    "different": "differ more", "short": "are shorter", "few_steps": "take fewer steps or are shorter",
    "likely": "are likelier to the student",
}  # fmt: skip


def _preferred(texts: dict[int, str], at_most: int, prefer: Prefer, nats: Callable[[str], float]) -> set[int]:
    """The places of at most so many texts."""
    match prefer:
        case "different":
            return _most_different(texts, at_most)
        case "short":
            order = sorted(texts, key=lambda at: _length(texts[at]))
        case "few_steps":
            order = sorted(texts, key=lambda at: (step_count(texts[at]), _length(texts[at])))
        case "likely":
            order = sorted(texts, key=lambda at: nats(texts[at]))
    return set(order[:at_most])


def _most_different(texts: dict[int, str], at_most: int) -> set[int]:
    """The first, then always the one farthest from all that are taken."""
    sets = {at: shingles(text) for at, text in texts.items()}
    taken = set(list(texts)[: min(1, at_most)])
    distance = {at: 1 - similarity(sets[at], sets[first]) for first in taken for at in texts if at not in taken}
    while distance and len(taken) < at_most:
        farthest = max(distance, key=lambda at: (distance[at], -at))
        taken.add(farthest)
        del distance[farthest]
        distance = {at: min(d, 1 - similarity(sets[at], sets[farthest])) for at, d in distance.items()}
    return taken


def _length(text: str) -> tuple[int, int]:
    """Words, and characters where words are equal or nothing stands between them."""
    return len(text.split()), len(text)


def _of_the_shorter(question_id: str, at_most: int, share: float) -> int:
    """How many of ``at_most`` come from the shorter half. The fraction is rounded up with its own probability, drawn
    from the id's hash: so the share is right over a file, and no question depends on the others."""
    return int(at_most * share + int(digest(question_id), 16) / 16**16)


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
