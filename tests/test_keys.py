"""What Keys promises: it answers as a set of strings does, in a tenth of the memory."""

from hypothesis import given
from hypothesis import strategies as st

from cotdistill.storage.keys import Keys

ACTIONS = st.lists(st.tuples(st.sampled_from(["add", "discard"]), st.text(max_size=2) | st.just("\ud800")), max_size=60)


@given(ACTIONS)
def test_keys_answer_as_a_set_does_and_number_in_the_order_of_arrival(actions: list[tuple[str, str]]) -> None:
    keys, model, numbers = Keys(), set[str](), dict[str, int]()
    for action, key in actions:
        if action == "add":
            assert keys.add(key) == numbers.setdefault(key, len(numbers))
            model.add(key)
        else:
            keys.discard(key)
            model.discard(key)
        assert len(keys) == len(model)
        for known in numbers:
            assert (known in keys) == (known in model)
            assert keys.find(known) == (numbers[known] if known in model else None)


def test_what_was_never_added_is_not_there_at_any_size() -> None:
    keys = Keys(f"q{number}#0" for number in range(20_000))
    assert all(f"q{number}#0" in keys and f"q{number}#1" not in keys for number in range(20_000))
    assert 3 not in keys
