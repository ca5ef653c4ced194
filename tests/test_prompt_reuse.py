"""llama.cpp itself, on a tiny model: what prompts share is computed once, and so is the prompt of N samples."""

import pytest

from conftest import on_cpu
from cotdistill.engines import Message, Request, Sampling
from cotdistill.engines.llama_cpp import LlamaCppEngine
from cotdistill.model_files.gguf_file import write_gguf
from test_gguf_file import CARD, make_student


@pytest.fixture(scope="module")
def gguf(tmp_path_factory):
    root = tmp_path_factory.mktemp("reuse")
    write_gguf(on_cpu(make_student(root / "model")), root / "m.gguf", quant="f16", card=CARD)
    return root / "m.gguf"


class Counting:
    """llama.cpp's server, counting the tokens of prompts that it computes."""

    def __init__(self, server):
        self.server, self.listening_address, self.computed, self.prompts = server, server.listening_address, 0, 0

    def handle_chat_completions(self, body):
        answer = self.server.handle_chat_completions(body)
        self.computed += answer["timings"]["prompt_n"]
        self.prompts += answer["usage"]["prompt_tokens"]
        return answer


def test_samples_of_one_question_compute_its_prompt_once(gguf):
    engine = LlamaCppEngine(gguf, slots=2, context=256)
    engine._server = counting = Counting(engine._server)
    system = Message("system", "Add the numbers up, slowly. " * 2)
    asked = [
        Request(f"{q}#{i}", (system, Message("user", f"{q} " * 20)), seed=i) for q in ("ab", "cd", "ef") for i in range(4)
    ]
    done = list(engine.complete(asked, Sampling(max_new_tokens=4, do_sample=True, temperature=1.0)))
    assert sorted(one.key for one in done) == sorted(one.key for one in asked)
    engine._server = counting.server
    engine.close()
    question = 20 * 3 + 20  # the tokens of a question and of what the template puts around it
    assert counting.prompts > 12 * question
    # The system prompt once, each question once, ends again; and on a busy machine two questions once more.
    assert counting.computed < 90 + 5 * question + 12 * 4
