"""cotdistill: chain-of-thought distillation, from questions to a verdict on the student.

    Question -> Trace -> Verdict -> Example -> Adapter -> Prediction -> Report
"""

__version__ = "0.1.0"
