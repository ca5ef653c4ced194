"""Order: sorted within a step, rows of one length are computed together and no step trains anything else."""

import pytest

from cotdistill.learning.order import Order

LENGTHS = [17 * i % 101 + 20 for i in range(45)]


def orders(**kwargs):
    order = Order(45, 3, **kwargs)
    for epoch in range(2):
        order.set_epoch(epoch)
        yield list(order)


def padding(order: list[int], batch: int = 4) -> int:
    groups = [[LENGTHS[row] for row in order[i : i + batch] if row < 45] for i in range(0, len(order), batch)]
    return sum(max(group) * len(group) - sum(group) for group in groups)


@pytest.mark.parametrize("together", [1, 8])
def test_sorting_by_length_keeps_the_rows_of_every_step_and_saves_most_of_the_padding(together):
    sort = {"lengths": LENGTHS, "window": 16}
    for shuffled, sorted_ in zip(orders(together=together), orders(together=together, **sort), strict=True):
        assert len(shuffled) == len(sorted_)
        for start in range(0, len(shuffled), 16):
            step = sorted_[start : start + 16]
            assert sorted(step) == sorted(shuffled[start : start + 16])
            lengths = [LENGTHS[row] for row in step if row < 45]
            assert lengths == sorted(lengths)
        assert padding(sorted_) < 0.4 * padding(shuffled)


def test_the_order_is_the_same_for_any_number_of_processes_and_another_in_every_epoch():
    alone = list(orders(together=1, lengths=LENGTHS, window=16))
    assert alone[0] != alone[1]
    for together in (2, 8, 16):
        for mine, shared in zip(alone, orders(together=together, lengths=LENGTHS, window=16), strict=True):
            assert shared[:45] == mine
            assert min(shared[45:], default=45) == 45


def test_another_seed_is_another_order_and_the_same_one_the_same():
    assert list(Order(45, 3, 1)) == list(Order(45, 3, 1))
    assert list(Order(45, 3, 1)) != list(Order(45, 4, 1))
