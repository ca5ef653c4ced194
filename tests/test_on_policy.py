"""On policy: the student's own text is what is scored, it follows the student, and the loss is the paper's."""

from functools import partial

import pytest
import torch

from conftest import make_examples, make_model, on_cpu
from cotdistill.example import asked_with
from cotdistill.learning.loss import AnswerLoss
from cotdistill.learning.on_policy import OnPolicy
from cotdistill.learning.teacher_scores import LoadedTeacher, Scores, shared_ids
from cotdistill.settings.objective import OnPolicySettings
from test_loss import WAYS, adapted, gradients
from test_objectives import naive_jsd, pooled
from test_terms import row_logits, run, whole_loss
from test_training import LINEAR, interrupt_at

LETTER = 65


class Likes:
    """A teacher that wants one token, whatever stands before it."""

    readable = range(1 << 20)

    def score(self, rows):
        lengths = [len(row.input_ids) - row.prompt_length for row in rows]
        return [Scores(torch.full((n, 1), LETTER).int(), torch.full((n, 1), -0.01).half()) for n in lengths]


def settings(**changes):
    return OnPolicySettings(**{"max_new_tokens": 12, "student_share": 1.0, **changes})


def ids_of(rows):
    return [row.input_ids for row in rows]


def real_teacher(directory, rows):
    model = on_cpu(directory)
    return LoadedTeacher(model, shared_ids(model.tokenizer, model.tokenizer), 4, rows)


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("teacher"), seed=7)


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_the_loss_is_the_mean_jsd_over_all_tokens_of_traces_and_samples(tiny, other, way):
    model, module = adapted(tiny)
    traces = make_examples(model, 5)
    loss = AnswerLoss(module, model.template.pad_id, **way)
    with loss:
        terms = OnPolicy(
            loss, module, model=model, teacher=real_teacher(other, traces),
            settings=settings(student_share=0.5, beta=0.3), max_length=300, seed=1,
        )  # fmt: skip
        rows = terms.rows(traces, 5)
        found = whole_loss(terms, module, rows)
        found.backward()
        counts = terms.counts(rows)
    assert any(gradient.any() for gradient in gradients(module).values())
    teacher = on_cpu(other).module
    nats = []
    for row in rows:
        with torch.no_grad():
            ours, theirs = row_logits(module, row)[0], row_logits(teacher, row)[0]
        for one, two in zip(ours.tolist(), theirs, strict=True):
            ids = two.topk(4).indices.tolist()
            nats.append(naive_jsd(pooled(two.tolist(), ids), pooled(one, ids), 0.3))
    assert sum(counts) == len(nats)
    assert found.item() == pytest.approx(sum(nats) / len(nats), rel=1e-3)
    kept = [row for row, trace in zip(rows, traces, strict=True) if row is trace]
    assert 0 < len(kept) < len(rows)
    for row, trace in zip(rows, traces, strict=True):
        assert row.input_ids[: row.prompt_length] == trace.input_ids[: trace.prompt_length]


def test_the_teacher_reads_its_own_prompt_and_the_same_answers(tiny):
    model, module = adapted(tiny)
    traces = make_examples(model, 4)
    read = []

    class Reads(Likes):
        def score(self, rows):
            read.extend(rows)
            return super().score(rows)

    examples = [7, 8, 9]
    terms = OnPolicy(
        AnswerLoss(module, model.template.pad_id, packed=True, chunked=True), module, model=model, teacher=Reads(),
        settings=settings(student_share=0.5), max_length=300, seed=1,
        shown=lambda row: asked_with([*examples, *row.input_ids[: row.prompt_length]], row),
    )  # fmt: skip
    rows = terms.rows(traces, 5)
    assert 0 < sum(row is not trace for row, trace in zip(rows, traces, strict=True)) < 4
    assert ids_of(read) == [[*examples, *ids] for ids in ids_of(rows)]
    assert [row.prompt_length for row in read] == [3 + row.prompt_length for row in rows]


def test_an_answer_ends_before_an_id_that_the_teacher_cannot_read(tiny):
    model, module = adapted(tiny)
    traces = make_examples(model, 4)
    terms = OnPolicy(
        AnswerLoss(module, model.template.pad_id, packed=True, chunked=True), module, model=model, teacher=Likes(),
        settings=settings(), max_length=300, seed=1,
    )  # fmt: skip
    free = terms.rows(traces, 3)
    strange = {row.input_ids[row.prompt_length + 2] for row in free}
    terms._teacher = Likes()
    terms._teacher.readable = set(range(1 << 20)) - strange
    cut = terms.rows(traces, 3)
    for row, whole in zip(cut, free, strict=True):
        assert not strange & set(row.input_ids[row.prompt_length :])
        assert whole.input_ids[: len(row.input_ids)] == row.input_ids
        assert len(row.input_ids) - row.prompt_length <= 2


def test_what_is_sampled_depends_on_seed_and_step_and_leaves_the_other_random_numbers_alone(tiny, other):
    model, module = adapted(tiny)
    traces = make_examples(model, 3)
    loss = AnswerLoss(module, model.template.pad_id, packed=True, chunked=True)
    with loss:
        make = partial(OnPolicy, loss, module, model=model, teacher=Likes(), settings=settings(), max_length=300)
        before = torch.get_rng_state()
        first = ids_of(make(seed=1).rows(traces, 4))
        assert torch.equal(torch.get_rng_state(), before)
        assert ids_of(make(seed=1).rows(traces, 4)) == first
        assert ids_of(make(seed=1).rows(traces, 5)) != first
        assert ids_of(make(seed=2).rows(traces, 4)) != first
        assert module.get_base_model().config._attn_implementation == "cotdistill_packed"
        no_longer = make(seed=1)
        no_longer._max_length = len(max((r.input_ids[: r.prompt_length] for r in traces), key=len)) + 3
        assert all(len(r.input_ids) <= no_longer._max_length for r in no_longer.rows(traces, 4))


def test_the_text_that_is_sampled_follows_the_updated_student(tiny, tmp_path):
    model = on_cpu(tiny)
    model.module.get_input_embeddings().weight.data.mul_(20)  # so that a random head can be sure of a token
    rows = make_examples(model, 4)
    written = []

    class Watched(OnPolicy):
        def rows(self, rows, step):
            now = super().rows(rows, step)
            answers = [i for row in now for i in row.input_ids[row.prompt_length :]]
            written.append(answers.count(LETTER) / len(answers))
            return now

    objective = partial(
        Watched, model=model, teacher=Likes(), settings=settings(beta=0.0), max_length=300, seed=1
    )
    result = run(
        tiny, tmp_path, objective, rows, model=model, batch_size=4, num_epochs=40, learning_rate=1e-2,
        lora={"r": 16, "alpha": 32, "targets": LINEAR},
    )  # fmt: skip
    assert written[0] < 0.2
    assert written[39] > 0.8
    assert result.losses[-1][1] < result.losses[0][1] / 3
    assert set(result.terms) == {"samples"}


def test_an_interrupted_training_goes_on_with_the_same_samples(tiny, other, tmp_path):
    def objective(loss, module):
        return OnPolicy(
            loss, module, model=model, teacher=real_teacher(other, rows), settings=settings(student_share=0.5),
            max_length=300, seed=3,
        )  # fmt: skip

    long = {"batch_size": 2, "num_epochs": 2, "learning_rate": 1e-2, "lora": {"dropout": 0.2}}
    model = on_cpu(tiny)
    rows = make_examples(model, 6)
    whole = run(tiny, tmp_path / "whole", objective, rows, model=model, **long)
    model = on_cpu(tiny)
    with pytest.raises(KeyboardInterrupt):
        run(tiny, tmp_path / "cut", objective, rows, model=model, show=interrupt_at(4), **long)
    model = on_cpu(tiny)
    again = run(tiny, tmp_path / "cut", objective, rows, model=model, **long)
    assert again.losses == [(step, pytest.approx(loss, abs=1e-5)) for step, loss in whole.losses]
    assert set(whole.terms) == {"traces", "samples"}
