"""Generated questions: checkable, as many as wanted, and provably apart from each other.

    {"name": "chain_sum", "size": 100, "config": {"min_terms": 3, "max_terms": 5}}

reasoning-gym makes them. It seeds item ``i`` of a data set with ``seed + i``, so two neighbouring seeds give
nearly the same questions. Here item ``i`` of a set has the seed ``set_seed * STRIDE + i``: two sets share an item
seed only if their seeds are equal. That alone proves nothing about their content (small tasks repeat
themselves), so training sets are drawn last, against the held-out ones, and ``prove_disjoint`` looks again.
"""

import difflib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import msgspec

from cotdistill.bounds import Count
from cotdistill.errors import DataError, SetupError
from cotdistill.overlap import words
from cotdistill.question import Question, content_id
from cotdistill.reading.plain import plain
from cotdistill.shown import first_of

STRIDE = 1_000_000
DRAWS_PER_QUESTION = 50
"""How many items are looked at for each one wanted before a task counts as used up."""
_UNREPEATABLE = frozenset(
    {"intermediate_integration", "isomorphic_strings", "knight_swap", "polynomial_multiplication", "ransom_note",
     "word_ladder"}
)  # fmt: skip
"""Tasks that walk over Python sets of strings: the same seed gives other questions in another process (0.1.25)."""
_KINDS = dict.fromkeys(
    ("spell_backward", "letter_jumble", "caesar_cipher", "sentence_reordering", "string_insertion",
     "string_manipulation", "palindrome_generation", "needle_haystack"), "text"
)  # fmt: skip
"""Where the form of a gold may mislead: "on" backward is a word, not the answer no."""


class Task(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``size`` questions of one reasoning-gym data set; ``config`` holds its own settings (never seed or size)."""

    name: str
    size: Count
    config: dict[str, object] = {}


def generate(tasks: Sequence[Task], seed: int, *, exclude: Iterable[Question] = ()) -> list[Question]:
    """``size`` different questions per task, the same ones for the same arguments.

    None has the words or the operands of a question in ``exclude``. Raises ``SetupError`` for a task that
    reasoning-gym does not have, settings it refuses, answers that are not text, and a task that has too few
    questions left.
    """
    if seed < 0:
        raise SetupError(f"the seed is {seed}; choose 0 or more")
    seen, taken = set[tuple[str, ...]](), set[tuple[str, ...]]()
    for question in exclude:
        seen.add(words(question))
        taken.add(operands(question.text))
    taken.discard(())  # no operands say nothing; then the words decide alone
    questions: list[Question] = []
    for task in tasks:
        wanted = len(questions) + task.size
        for question in _items(task, seed):
            if len(questions) == wanted:
                break
            if (bare := words(question)) not in seen and operands(question.text) not in taken:
                seen.add(bare)
                questions.append(question)
        if len(questions) < wanted:
            found, draws = task.size - (wanted - len(questions)), task.size * DRAWS_PER_QUESTION
            problem = f"{task.name} gave {found} of {task.size} new questions in {draws} draws"
            why = "the others repeat each other or the words or operands of excluded questions"
            raise SetupError(f"{problem} ({why}); ask for fewer or widen its config")
    return questions


def _items(task: Task, seed: int) -> Iterator[Question]:
    import reasoning_gym

    if task.size < 1:
        raise SetupError(f"task {task.name}: size is {task.size}; it must be at least 1")
    if reserved := task.config.keys() & {"seed", "size"}:
        raise SetupError(f"task {task.name}: config may not hold {' or '.join(sorted(reserved))}; remove it there")
    if task.name in _UNREPEATABLE:
        raise SetupError(f"task {task.name} gives other questions in every process; choose another")
    draws = task.size * DRAWS_PER_QUESTION
    settings: dict[str, Any] = {"seed": seed * STRIDE, "size": draws, **task.config}
    try:
        items = reasoning_gym.create_dataset(task.name, **settings)
    except (ValueError, TypeError, AssertionError) as error:
        known = sorted(reasoning_gym.factory.DATASETS)
        if task.name in known:
            raise SetupError(f"task {task.name}: config is refused ({error}); correct it") from error
        near = ", ".join(difflib.get_close_matches(task.name, known)) or f"{known[0]} ... {known[-1]}"
        raise SetupError(f"reasoning-gym has no task {task.name!r}; near: {near}") from error
    for index in range(draws):
        item = items[index]
        text, answer = item["question"].strip(), item["answer"]
        if not isinstance(answer, str) or not answer.strip():
            raise SetupError(f"task {task.name} has no single right answer in words or numbers; choose another")
        yield Question(f"{task.name}-{content_id(text)}", text, answer.strip(), _KINDS.get(task.name), task.name)


# What a question is about

# Words that open a sentence without being a name. Leaving one out costs little: it then counts as a name, and
# only the same numbers in another wording would be missed.
_OPENERS = frozenset(
    "A After All An And Answer Are As Assume At Based Because Before Between But By Calculate Complete "  # noqa: SIM905
    "Compute Consider Convert Count Create Decrypt Did Do Does During Each Evaluate Every Express Final "
    "Find Following For From Give Given Greatest Group Has Have He Her Here Hint His How However I "
    "Identify If In Is It Its Least Let Make Multiply My No None Not Note Now Of On Once One Only Or "
    "Our Output Partition Perform Please Provide Question Reply Respond Restore Result Return Reverse "
    "Round She Show Simplify Simulate Since So Solve Some Sort Spell State Subtract Suppose Take Tell "
    "That The Their Then There Therefore These They This To Transform Use Using Was We Were What When "
    "Where Which While Who Whose Why Will With Work Write Yes You Your".split()
)
_OPERAND = re.compile(
    r"0[xX][0-9a-fA-F]+|[0-9]+(?:,[0-9]{3}(?![0-9]))*(?:\.[0-9]+)?|(?<![^\W_])[^\W\d_]+(?:-[^\W\d_]+)*"
)
_LIST_NUMBER = re.compile(r"^[ \t#*-]*[0-9]{1,2}[.)][ \t]", re.MULTILINE)


def operands(text: str) -> tuple[str, ...]:
    """The numbers (without sign) and capitalised names of a question, sorted, each as often as it occurs.

    "What is 6 + 0 - 1 + 8?" -> ("0", "1", "6", "8"): reordering, other signs and another wording around them
    give the same tuple. Number words ("three") and uncapitalised names are not seen, and the numbers of a list
    ("1. All humans are chefs") are not operands.
    """
    found = []
    for token in _OPERAND.findall(plain(_LIST_NUMBER.sub("", text))):
        if token[0].isdigit():
            found.append(_number(token))
        elif token[0].isupper() and not token.isupper() and token not in _OPENERS:
            found.append(token)
    return tuple(sorted(found))


def _number(token: str) -> str:
    if token[:2] in ("0x", "0X"):
        return token.lower()
    whole, _, decimals = token.replace(",", "").partition(".")
    decimals = decimals.rstrip("0")
    return (whole.lstrip("0") or "0") + (f".{decimals}" if decimals else "")


class Disjointness(msgspec.Struct, frozen=True):
    """What was compared and found apart; ``without_operands`` held-out questions were compared by words alone."""

    train: int
    held_out: int
    without_operands: int
    shared_texts: int = 0
    shared_operands: int = 0


def prove_disjoint(train: Iterable[Question], held_out: Iterable[Question]) -> Disjointness:
    """Look at both sets again, however they were made. Raises ``DataError`` where a held-out question has the
    words or the operands of a training question."""
    texts, tuples, trained = set[tuple[str, ...]](), set[tuple[str, ...]](), 0
    for question in train:
        texts.add(words(question))
        tuples.add(operands(question.text))
        trained += 1
    tuples.discard(())
    same: list[str] = []
    tested, bare = 0, 0
    for question in held_out:
        tested += 1
        key = operands(question.text)
        bare += not key
        if words(question) in texts or key in tuples:
            same.append(question.id)
    if same:
        what = f"{len(same)} held-out questions share their words or operands with training questions"
        raise DataError(f"{what} ({first_of(same)}); generate the training set with the held-out set excluded")
    return Disjointness(trained, tested, bare)


def chance_rate(questions: Iterable[Question]) -> float:
    """The accuracy (0..1) of always giving the most common gold; 0 where no question has one."""
    golds = Counter(question.gold.strip().casefold() for question in questions if question.gold is not None)
    return max(golds.values()) / golds.total() if golds else 0.0
