"""The rules of the ladder: who takes whose place, who is dropped, who becomes the student."""

import pytest

from cotdistill.errors import UsageError
from cotdistill.learning.ladder import best_of, closest, refuse_alone, short_of, survivors, trial, z


def marks(right: int, n: int = 12, first: int = 0) -> list[bool]:
    """``right`` right answers of ``n``, from the ``first`` question on."""
    return [first <= i < first + right for i in range(n)]


def test_z_counts_only_the_answers_that_changed():
    assert z(marks(4), marks(4)) == 0
    assert z(marks(0), marks(4)) == 2
    assert z(marks(4), marks(0)) == -2
    assert z(marks(3), marks(4, first=2)) == pytest.approx(1 / 5**0.5)


def test_nothing_takes_the_place_of_the_base_without_a_clear_lead():
    assert best_of(marks(3), {"sft": marks(4)}) == "base"  # one gained: z is 1, no more
    assert best_of(marks(3), {"sft": marks(5)}) == "sft"
    assert best_of(marks(3), {"sft": marks(6, first=3)}) == "base"  # six gained, three lost


def test_ties_go_to_the_cheaper_rung_and_a_clear_lead_to_the_better():
    assert best_of(marks(0), {"sft": marks(5), "step_by_step": marks(6)}) == "sft"
    assert best_of(marks(0), {"sft": marks(5), "step_by_step": marks(7)}) == "step_by_step"


def test_a_rung_clearly_behind_the_best_so_far_is_dropped_and_told_why():
    kept, dropped = survivors(marks(0), {"sft": marks(2), "step_by_step": marks(6), "on_policy": marks(5)})
    assert kept == ["step_by_step", "on_policy"]
    assert dropped == {"sft": "behind step_by_step after its short training: 0 gained, 4 lost"}


def test_what_the_base_beats_is_not_trained_in_full():
    kept, dropped = survivors(marks(8), {"sft": marks(5), "step_by_step": marks(7)})
    assert kept == ["step_by_step"]
    assert dropped["sft"].startswith("behind base")


def test_at_most_two_are_trained_in_full_and_the_dearest_of_equals_is_left_out():
    kept, dropped = survivors(marks(3), {"sft": marks(3), "step_by_step": marks(4), "on_policy": marks(3)})
    assert kept == ["sft", "step_by_step"]
    assert "2 are trained in full" in dropped["on_policy"]


def test_a_short_training_is_a_third_and_never_less_than_an_epoch():
    assert [short_of(epochs) for epochs in (9, 3, 2, 1, 0.5)] == [3, 1, 1, 1, 0.5]


def test_a_trial_counts_gains_and_losses_against_the_base():
    found = trial(marks(3), marks(4, first=2), epochs=1, tokens=10, seconds=2.0)
    assert (found.right, found.n, found.gained, found.lost) == (4, 12, 3, 2)
    assert found.p_value == 1.0


def test_the_closest_rung_is_the_cheapest_of_those_with_most_right():
    assert closest({"sft": marks(3), "step_by_step": marks(4), "on_policy": marks(4)}) == "step_by_step"


def test_a_single_training_cannot_be_auto():
    refuse_alone("sft")
    with pytest.raises(UsageError, match="cotdistill run"):
        refuse_alone("auto")
