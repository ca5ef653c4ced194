"""Reading: what a text says its answer is, and the arithmetic it claims. Pure, but for math-verify in child processes;
text of a model is never evaluated here.
"""
