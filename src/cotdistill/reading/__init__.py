"""Reading: what a text says its answer is, and the arithmetic it claims. Pure; text of a model is never evaluated."""
