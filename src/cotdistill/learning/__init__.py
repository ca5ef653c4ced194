"""Learning: what lies below ``training.py`` and beside it: layouts, losses, objectives and the choice between them."""
