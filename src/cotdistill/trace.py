"""Trace: what the teacher wrote for one question.

    {"id": "q1a2#0", "question_id": "q1a2", "question": "What is 15% of 240?",
     "reasoning": "15% of 240 is 0.15 * 240 = 36.\\nFinal Answer: 36", "final_answer": "36",
     "finish": "stop", "model": "qwen2.5-coder-1.5b-instruct", "sample": 0,
     "prompt_tokens": 180, "completion_tokens": 24, "prompt_hash": "9f..."}
"""

import msgspec

from cotdistill.engines import Finish


class Trace(msgspec.Struct, frozen=True, omit_defaults=True):
    """One completion of the teacher. ``reasoning`` is byte for byte what it wrote, final line included."""

    id: str
    question_id: str
    question: str
    reasoning: str
    final_answer: str = ""
    finish: Finish | None = None
    model: str = ""
    sample: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    thinking: str | None = None
    hinted: bool = False
    prompt_hash: str = ""
    error: str | None = None
