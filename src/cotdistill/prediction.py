"""Prediction: what a model answered to a question it was not taught.

    {"question_id": "q7", "sample": 0, "question": "...", "gold": "36", "response": "...",
     "finish": "stop", "answer": "36", "status": "marker", "correct": true, "status_strict": "marker",
     "correct_strict": true, "prompt_tokens": 60, "completion_tokens": 24, "seconds": 0.4}
"""

import msgspec

from cotdistill.engines import Finish


class Prediction(msgspec.Struct, frozen=True):
    """One answer, read twice: lenient (marker, else last number, choice or word) and strict (marker only).

    ``status`` says how the answer was found: ``marker``, a named fallback, ``no_answer``, ``truncated``,
    ``ambiguous``, ``too_complex`` or ``error``. ``correct`` is None only where the question has no gold.
    """

    question_id: str
    sample: int
    question: str
    gold: str | None
    response: str
    finish: Finish
    answer: str
    status: str
    correct: bool | None
    status_strict: str
    correct_strict: bool | None
    prompt_tokens: int
    completion_tokens: int
    seconds: float
    error: str | None = None
