"""Learning: layouts, losses and objectives, below ``training.py``."""
