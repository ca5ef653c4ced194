"""Does a converted directory compute what llama.cpp computes from the GGUF?

    python -m benchmarks.conversion GGUF DIRECTORY [--questions data/raw_questions.jsonl] [--tokens 16]

llama.cpp completes each chat prompt greedily; the Hugging Face model then reads prompt and completion and
must prefer, at every position, the token llama.cpp chose. The two round differently (llama.cpp multiplies
with 8-bit activations), so a disagreement counts as a tie where the Hugging Face model holds the two
tokens nearly equal. Prompts are compared as token ids too, with texts that are awkward to split.
"""

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import msgspec

FALLBACK = ("What is 15% of 240?", "Solve for x: 2x + 5 = 13", "A train travels 120 km in 2 hours. Its speed?")
AWKWARD = (
    "1.\n\n2. Two\n\n\n3", "x  = 12345 + 0.5", "\t\ttabs\r\n\r\n7", "don't I'LL", "½ ² ٣ ３", "naïve café 東京 🙂🙂",
    "  5 apples   ", "$1,000.50 (10%)", "a_b__c == 'd'", "<tool_call>{}</tool_call>", "<|im_end|>\n\n1", "",
)  # fmt: skip
TIE = 0.1
"""Nats between the Hugging Face model's first choice and llama.cpp's, below which neither is wrong."""


class Agreement(msgspec.Struct, frozen=True):
    """Counts of next-token choices; ``first_*`` only those that directly follow a prompt. ``gaps`` are, for
    each disagreement, the nats by which the Hugging Face model prefers its own choice."""

    prompts: int
    first_same: int
    choices: int
    same: int
    gaps: tuple[float, ...]
    texts: int
    texts_split_alike: int

    @property
    def share(self) -> float:
        """The share of choices that are the same token."""
        return self.same / self.choices

    @property
    def share_up_to_ties(self) -> float:
        """The same, counting near ties as agreement."""
        return (self.same + sum(gap < TIE for gap in self.gaps)) / self.choices


def agreement(gguf: Path, directory: Path, prompts: list[str], tokens: int = 1) -> Agreement:
    """Compare ``tokens`` greedy choices after each question in ``prompts``, asked through the chat template."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True)
    texts = [
        tokenizer.apply_chat_template([{"role": "user", "content": prompt}], tokenize=False,
                                      add_generation_prompt=True) for prompt in prompts
    ]  # fmt: skip
    chosen, split = _llama_cpp(gguf, texts, [*texts, *AWKWARD], tokens)
    model = AutoModelForCausalLM.from_pretrained(directory, local_files_only=True, dtype=torch.float32).eval()
    first_same = same = choices = 0
    gaps = []
    for text, picks in zip(texts, chosen, strict=True):
        prompt = tokenizer(text, add_special_tokens=False).input_ids
        with torch.inference_mode():
            ids = torch.tensor([prompt + picks[:-1]])
            scores = model(ids).logits[0, len(prompt) - 1 :].log_softmax(-1)
        for position, pick in enumerate(picks):
            best = int(scores[position].argmax())
            choices += 1
            same += best == pick
            first_same += best == pick and position == 0
            if best != pick:
                gaps.append(round(float(scores[position, best] - scores[position, pick]), 4))
    alike = sum(
        tokenizer(text, add_special_tokens=False).input_ids == ids
        for text, ids in zip([*texts, *AWKWARD], split, strict=True)
    )
    return Agreement(len(prompts), first_same, choices, same, tuple(gaps), len(split), alike)


def _llama_cpp(gguf: Path, texts: list[str], to_split: list[str], tokens: int) -> tuple[Any, list[list[int]]]:
    """llama.cpp's greedy token ids after each text, and the token ids of each text in ``to_split``."""
    import httpx
    import xllamacpp

    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(gguf)
    parameters.n_ctx = 4096
    parameters.n_parallel = 1
    parameters.cpuparams.n_threads = os.cpu_count() or 1
    parameters.verbosity = 0
    server = xllamacpp.Server(parameters)
    chosen = []
    for text in texts:
        request = {"prompt": text, "n_predict": tokens, "temperature": 0.0, "n_probs": 1}
        answer = server.handle_completions(request)
        steps = answer["choices"][0]["logprobs"]["content"]
        chosen.append([step["id"] for step in steps])
    address = server.listening_address
    split = [httpx.post(f"{address}/tokenize", json={"content": text, "parse_special": True}).json()["tokens"]
             for text in to_split]  # fmt: skip
    return chosen, split


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("gguf", type=Path)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--questions", type=Path, default=Path("data/raw_questions.jsonl"))
    parser.add_argument("--tokens", type=int, default=16)
    arguments = parser.parse_args()
    prompts = list(FALLBACK)
    if arguments.questions.is_file():
        lines = arguments.questions.read_text(encoding="utf-8").split("\n")
        prompts = [json.loads(line)["question"] for line in lines if line.strip()]
    started = time.perf_counter()
    result = agreement(arguments.gguf, arguments.directory, prompts, arguments.tokens)
    print(f"prompts and awkward texts split alike  {result.texts_split_alike}/{result.texts}")
    print(f"first token after the prompt           {result.first_same}/{result.prompts}")
    print(f"all choices                            {result.same}/{result.choices} = {result.share:.4f}")
    print(f"all choices, ties below {TIE} nats       {result.share_up_to_ties:.4f}")
    print(f"gaps at disagreements, nats            {sorted(result.gaps, reverse=True)}")
    print(f"seconds                                {time.perf_counter() - started:.0f}")


if __name__ == "__main__":
    main()
