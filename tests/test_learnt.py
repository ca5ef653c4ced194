"""An adapter says which questions it has seen, and does not say what they were."""

from cotdistill.learnt import LEARNT, learnt, write_learnt
from cotdistill.question import Question

SEEN = Question("q1", "Tom has 3 apples, and buys 4. How many has he now?")


def test_a_question_it_was_trained_on_is_known_in_another_spelling(tmp_path):
    write_learnt(tmp_path, [SEEN, Question("q2", "What is 2 + 2?")])
    asked = [
        Question("t1", "tom has 3 apples and buys 4.  How many has he now?"),
        Question("t2", "Tom has 3 apples, and buys 5. How many has he now?"),
        Question("t3", "What is 2 - 2?"),
        Question("t4", "What is 2 + 2?", choices=["3", "4"]),  # a trace written by hand seldom has the choices
    ]
    assert learnt(tmp_path, asked) == ["t1", "t4"]


def test_the_file_holds_a_hash_for_each_question_and_no_word_of_them(tmp_path):
    write_learnt(tmp_path, [SEEN, SEEN])
    assert len((tmp_path / LEARNT).read_text().split()) == 1
    assert "apples" not in (tmp_path / LEARNT).read_text()


def test_an_adapter_from_elsewhere_is_taken_to_know_nothing(tmp_path):
    assert learnt(tmp_path, [SEEN]) == []
