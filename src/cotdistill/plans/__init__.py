"""Plans: whether a recipe can show a gain, and what it costs, before it is spent."""
