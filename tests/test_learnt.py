"""An adapter says which questions it has seen, and does not say what they were."""

import json

from cotdistill.commands.train import train
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


def test_questions_whose_examples_were_too_long_are_not_listed_and_those_for_validation_are(tiny, tmp_path):
    asked = [Question(f"q{i}", f"What is {i} + 7?") for i in range(6)]
    reasons = [f"So {i + 7}.\nFinal Answer: {i + 7}" for i in range(6)]
    reasons[2] = "".join(f"The word is {'abcdefghij'[i % 10] * (i % 7 + 1)}, line {i}.\n" for i in range(60)) + reasons[2]
    traces = [{"question": one.text, "reasoning": text} for one, text in zip(asked, reasons, strict=True)]
    (tmp_path / "cot.jsonl").write_text("".join(json.dumps(row) + "\n" for row in traces))
    train(str(tiny), tmp_path / "cot.jsonl", tmp_path / "out", num_epochs=1, validation=0.2, quiet=True)
    facts = json.loads((tmp_path / "out.manifest.json").read_text())["stages"]["train"]["facts"]
    assert (facts["examples"], facts["too_long"], len(facts["validation"])) == (4, 1, 1)
    assert learnt(tmp_path / "out", asked) == ["q0", "q1", "q3", "q4", "q5"]
