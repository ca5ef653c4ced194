"""Vote: what most samples of a question say, where nobody knows the right answer.

    36, 36 apples, 35, 36   ->  three agree (vote_share 0.75), one disagrees (0.25)

Self-consistency (Wang et al. 2022, arXiv:2203.11171), counted for caution: the majority is more than half of
the votes, so a tie has none; identical texts are one vote, or a teacher that repeats itself would outvote
everyone; and fewer than three votes decide nothing. Agreement is no proof: a teacher can be wrong the same
way every time.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import combinations

import msgspec

from cotdistill.answer import Answer, kind_of, read_answer, same_answer
from cotdistill.grade import gold_of
from cotdistill.question import Question
from cotdistill.reading.quantity import Quantity
from cotdistill.reading.value import Value
from cotdistill.trace import Trace
from cotdistill.verdict import Verdict

MIN_VOTES = 3


def vote(question: Question, judged: Sequence[tuple[Trace, Verdict]]) -> list[Verdict]:
    """The verdicts of one question's traces after a vote, in order.

    Every trace with a readable answer votes, one with a ``bad_step`` too. A trace outside the majority
    ``disagrees``; an ``unchecked`` one inside it ``agrees``; the others keep their status. ``vote_share`` is the
    share (0..1) of all votes that give the same answer as the trace. A question with gold is not voted on.
    """
    verdicts = [verdict for _, verdict in judged]
    if question.gold is not None:
        return verdicts
    voters = [at for at, verdict in enumerate(verdicts) if verdict.status in ("unchecked", "bad_step")]
    texts = {" ".join(judged[at][0].reasoning.split()): verdicts[at].answer for at in voters}
    votes = Counter(texts.values())
    total = votes.total()
    if total < MIN_VOTES:
        reason = f"a majority needs {MIN_VOTES} different traces with an answer; here are {total}"
        unsettled = {at: msgspec.structs.replace(verdicts[at], reason=reason) for at in voters
                     if verdicts[at].status == "unchecked"}  # fmt: skip
        return [unsettled.get(at, verdict) for at, verdict in enumerate(verdicts)]
    support = _support(question, votes)
    majority = _majority(support, votes)
    winner = max(majority, key=lambda text: (votes[text], text), default="")
    for at in voters:
        verdict = verdicts[at]
        share = round(sum(votes[other] for other in support[verdict.answer]) / total, 4)
        if verdict.answer in majority:
            status = "agrees" if verdict.status == "unchecked" else verdict.status
            verdicts[at] = msgspec.structs.replace(verdict, status=status, vote_share=share)
        else:
            reason = f"more than half of {total} votes say {winner}" if majority else f"no majority in {total} votes"
            verdicts[at] = msgspec.structs.replace(verdict, status="disagrees", vote_share=share, reason=reason)
    return verdicts


def _support(question: Question, votes: Counter[str]) -> dict[str, set[str]]:
    """For each answer as written, the answers that say the same; only those that could be are compared."""
    _, declared = gold_of(question)
    own = {text: kind_of(text) if declared == "auto" else declared for text in votes}
    support = {text: {text} for text in votes}
    for kind in set(own.values()):
        alike: defaultdict[object, list[tuple[str, Answer]]] = defaultdict(list)
        for text in votes:
            answer = read_answer(text, kind, question.choices)
            if answer.value is not None:
                alike[_rough(answer.value)].append((text, answer))
        for group in alike.values():
            for (a, one), (b, other) in combinations(group, 2):
                if kind in (own[a], own[b]) and same_answer(one, other):
                    support[a].add(b)
                    support[b].add(a)
    return support


def _rough(value: Value) -> object:
    """What equal values have in common."""
    if isinstance(value, Quantity):
        return value.number
    return len(value) if isinstance(value, tuple | frozenset) else value


def _majority(support: dict[str, set[str]], votes: Counter[str]) -> set[str]:
    """The answers, as written, that more than half of the votes share; empty where there is no such half.

    Agreement is not always transitive (60 is 60 km/h and is 60 mph). So a half is made of answers that all agree
    with each other, and where two such halves are equally large only what is in both of them counts.
    """

    def weight(group: set[str]) -> int:
        return sum(votes[text] for text in group)

    halves = [group for group in support.values() if all(group <= support[text] for text in group)]
    most = max(map(weight, halves), default=0)
    shared = set.intersection(*(group for group in halves if weight(group) == most)) if halves else set()
    return shared if 2 * weight(shared) > votes.total() else set()
