"""Layout: padded or packed, the same rows; what rows share is computed once, what predicts an answer never."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from conftest import make_examples, on_cpu
from cotdistill.example import IGNORE, Example
from cotdistill.learning.layout import pack, pad, split

ids = st.lists(st.integers(0, 3), min_size=1, max_size=12)
examples = st.lists(
    st.tuples(ids, ids).map(lambda parts: Example("", "", parts[0] + parts[1], len(parts[0]))), min_size=1, max_size=6
)


def test_masks_come_from_lengths_so_the_end_of_turn_is_trained_when_it_is_also_the_pad():
    batch = pad([Example("a", "a", [1, 2, 9], 1), Example("b", "b", [1, 9], 1)], pad_id=9)
    assert batch.ids.tolist() == [[1, 2, 9], [1, 9, 9]]
    assert batch.mask.tolist() == [[1, 1, 1], [1, 1, 0]]
    assert batch.targets.tolist() == [[2, 9, IGNORE], [9, IGNORE, IGNORE]]


def test_the_end_of_turn_of_every_row_is_trained_in_both_layouts(tiny):
    model = on_cpu(tiny)
    assert model.template.pad_id == model.template.end_of_turn
    rows = make_examples(model, 5)
    assert (pad(rows, model.template.pad_id).targets == model.template.end_of_turn).sum(dim=1).tolist() == [1] * 5
    assert (pack(rows).targets == model.template.end_of_turn).sum().item() == 5


def test_a_system_prompt_is_computed_once_and_the_traces_of_a_question_share_all_but_its_last_token():
    rows = [
        Example("a", "q", [7, 7, 1, 2, 3, 4], 4),
        Example("b", "q", [7, 7, 1, 2, 3, 5], 4),
        Example("c", "r", [7, 7, 8, 9, 6], 4),
    ]
    batch = pack(rows)
    assert batch.ids.tolist() == [[7, 7, 1, 2, 3, 4, 2, 3, 5, 8, 9, 6]]
    assert batch.positions.tolist() == [[0, 1, 2, 3, 4, 5, 3, 4, 5, 2, 3, 4]]
    assert [row.whole for row in batch.rows] == [((0, 6),), ((0, 3), (6, 9)), ((0, 2), (9, 12))]


@given(examples)
def test_every_row_can_be_read_back_from_a_packed_line_with_its_positions_and_targets(rows):
    batch = pack(rows)
    found = []
    for row in batch.rows:
        places = torch.cat([torch.arange(*place) for place in row.whole])
        own = torch.arange(*row.own)
        assert batch.positions[0, places].tolist() == [*range(len(places))]
        found.append((batch.ids[0, places].tolist(), batch.targets[0, own][batch.targets[0, own] != IGNORE].tolist()))
    wanted = [(row.input_ids, [label for label in row.labels[1:] if label != IGNORE]) for row in rows]
    assert sorted(found) == sorted(wanted)


@given(examples, st.integers(1, 30))
def test_groups_hold_every_row_once_and_no_more_tokens_than_asked_unless_one_row_has_them(rows, most):
    groups = split(rows, most)
    assert sorted(row.input_ids for group in groups for row in group) == sorted(row.input_ids for row in rows)
    assert all(len(group) == 1 or pack(group).ids.shape[1] <= most for group in groups)


def test_what_rows_share_takes_no_room_of_a_line_twice():
    rows = [Example("", "", [7, 7, 7, 1 + i, 9], 4) for i in range(3)]
    assert len(split(rows, 9)) == 1  # 5 + 2 + 2
    assert len(split(rows, 8)) == 2


@pytest.mark.parametrize("most", [1, 10_000])
def test_nothing_is_no_group(most):
    assert split([], most) == []
